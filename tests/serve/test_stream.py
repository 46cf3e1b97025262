"""POST /v1/predict/{deployment}/stream: a line of JSON each way for each item, as the lines come."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from raystore.access import ApiKeys, Rates, Verb
from raystore.client.stream import read_lines
from raystore.encoders.items import Encoded, Item
from raystore.errors import ServiceDenied
from raystore.serve.door.auth import BELIEVED_S, Door
from raystore.serve.door.rates import Buckets
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec, Limits
from raystore.serve.watch import table
from raystore.serve.watch.finished import Finished
from raystore.serve.wire.predict import StreamLine
from tests.pictures import PICTURES, data_url
from tests.serve.conftest import Served
from tests.serve.serving import CANARY, LOOPBACK, Held, Service, Serving, running
from tests.serve.test_admission import sender

TEXT = "the card never arrived"
URL = "/v1/predict/s-all/stream"
NDJSON = {"content-type": "application/x-ndjson"}
LIMITS = {"max_body_bytes": 2_000, "max_chars": 1_000, "max_items": 4}


@pytest.fixture(scope="module")
def service(served: Served) -> Iterator[Service]:
    service = Serving(served.rooms).serve({"s-all": {"head": "refunds@2"}}, limits=LIMITS)
    with service.client:
        yield service


def lines_of(service: Service, body: bytes | Sequence[bytes], query: str = "", id_: str = "req-1") -> list[dict[str, Any]]:
    """The lines of the answer, each as the documented model has it."""
    content = body if isinstance(body, bytes) else iter(body)
    answer = service.client.post(URL + query, content=content, headers={**NDJSON, "x-request-id": id_})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert CANARY not in answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [StreamLine.model_validate(line).model_dump(mode="json", exclude_unset=True) for line in lines] == lines
    return lines


def said(lines: Sequence[dict[str, Any]]) -> list[Any]:
    """By line its label, or the error's message; last the counts."""
    found: list[Any] = []
    for line in lines[:-1]:
        of = line["prediction"]["label"] if "prediction" in line else line["error"]["message"]
        found.append((line["line"], of))
    return [*found, (lines[-1]["done"], lines[-1]["failed"])]


def body_of(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def test_each_line_is_answered_in_order_and_the_last_line_counts(service: Service, served: Served) -> None:
    items = [
        {"text": "return the money"},
        {"id": "mine", "text": TEXT, "columns": {"product": "card"}},
        {"text": "red and blue"},
    ]
    lines = lines_of(service, body_of(*items))
    assert said(lines) == [(0, "money"), (1, "card"), (2, "colour"), (3, 0)]
    assert [line["prediction"]["id"] for line in lines[:-1]] == ["req-1-0", "mine", "req-1-2"]
    assert lines[-1]["lineage"]["head"] == "refunds@2"
    assert lines[-1]["request_id"] == "req-1"
    alone = service.ask("s-all", items[1])["predictions"][0]
    assert lines[1]["prediction"]["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)
    assert (service.finished[-2].items, service.finished[-2].deployment, service.finished[-2].status) == (3, "s-all", 200)


def test_more_items_and_bytes_than_one_request_may_hold_are_answered(service: Service) -> None:
    body = body_of(*({"text": f"{TEXT} {i}"} for i in range(300)))
    assert len(body) > LIMITS["max_body_bytes"]
    lines = lines_of(service, body)
    assert [line["line"] for line in lines[:-1]] == list(range(300))
    assert (lines[-1]["done"], lines[-1]["failed"]) == (300, 0)


def test_vectors_options_and_images_are_read_as_elsewhere(service: Service, served: Served) -> None:
    vector = served.rooms.encoders.get("tiny").encode(["return the money"])[0].tolist()
    lines = lines_of(service, body_of({"vector": vector}, {"text": TEXT}), f"?fingerprint={served.fingerprint}&top=1")
    assert said(lines) == [(0, "money"), (1, "card"), (2, 0)]
    assert [len(line["prediction"]["probabilities"]) for line in lines[:-1]] == [1, 1]
    unmarked = lines_of(service, body_of({"vector": vector}))
    assert said(unmarked)[0][1] == (
        "1 field of this request is wrong: query.fingerprint: expected with vector, so that it is clear which encoder made it."
    )
    other = lines_of(service, body_of({"vector": vector}, {"text": TEXT}), f"?fingerprint={'0' * 64}")
    assert [line.get("error", {}).get("type") for line in other[:-1]] == ["PassportMismatch", None]
    bad = service.client.post(f"{URL}?top=0", content=b"", headers=NDJSON)
    assert (bad.status_code, bad.json()["error"]["problems"][0]["field"]) == (422, "query.top")


WRONG = {
    b'{"text": "' + CANARY.encode() + b'"': "1 field of this request is wrong: line: is no JSON.",
    b'["' + CANARY.encode() + b'"]': "1 field of this request is wrong: line: input should be an object.",
    b'{"text": 3, "top": 1}': (
        "2 fields of this request are wrong: line.text: input should be a valid string; line: has a field that is not known here: "
        "known are id, text, vector, subject, tenant, time, columns."
    ),
    b'{"id": "a"}': "1 field of this request is wrong: line: expected exactly one of text and vector.",
    b'{"text": "  "}': "1 field of this request is wrong: line.text: is empty.",
    b'{"text": "data:image/' + CANARY.encode() + b'"}': (
        "1 field of this request is wrong: line.text: is no data URL in base64: send an image as data:image/png;base64,...."
    ),
    b'{"text": "' + b"x" * 1_001 + b'"}': "line.text has 1001 characters, over the limit of 1000.",
    b'{"text": "' + b"x" * 3_000 + b'"}': "the line has 3012 bytes, over the limit of 2000.",
    b"\xff\xfe": "1 field of this request is wrong: line: is no JSON.",
}


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_a_bad_line_says_what_is_wrong_with_it_and_spoils_no_other(service: Service, wrong: bytes) -> None:
    good = json.dumps({"text": TEXT}).encode()
    kind = "BodyTooLarge" if "over the limit" in WRONG[wrong] else "InvalidRequest"
    counted = table.ERRORS, "/v1/predict/{deployment}/stream", kind
    before = service.count(*counted)
    lines = lines_of(service, b"\n".join([good, wrong, good]))
    assert said(lines) == [(0, "card"), (1, WRONG[wrong]), (2, "card"), (3, 1)]
    assert lines[1]["error"]["type"] == kind
    assert service.count(*counted) == before + 1, "the answer is 200, and its metrics tell of the line"
    assert lines[1]["error"]["request_id"] == "req-1"


def test_an_item_that_cannot_be_encoded_spoils_no_other(service: Service) -> None:
    picture = data_url(PICTURES[0])
    assert len(picture) < LIMITS["max_body_bytes"]
    lines = lines_of(service, body_of({"text": TEXT}, {"text": picture}, {"text": "red and blue"}))
    message = "1 field of this request is wrong: line.text: is an image, and this encoder takes texts."
    assert said(lines) == [(0, "card"), (1, message), (2, "colour"), (3, 1)]


def test_empty_lines_are_passed_over_and_the_last_needs_no_end(service: Service) -> None:
    body = b"\n  \r\n" + body_of({"text": TEXT}).strip() + b"\r\n\n" + body_of({"text": "red and blue"}).rstrip(b"\n")
    assert said(lines_of(service, body)) == [(2, "card"), (4, "colour"), (5, 0)]
    assert said(lines_of(service, b"")) == [(0, 0)]
    assert lines_of(service, b"")[-1]["lineage"] is None


MIXED = (
    b"\n" + body_of({"text": TEXT}, {"text": "x" * 1_500}, {"id": "b", "text": "return the money"})
    + b'{"text": 1}\n' + b"y" * 2_500 + b"\n\n" + json.dumps({"text": "red and blue"}).encode()
)  # fmt: skip
EXPECTED = [
    (1, "card"),
    (2, "line.text has 1500 characters, over the limit of 1000."),
    (3, "money"),
    (4, "1 field of this request is wrong: line.text: input should be a valid string."),
    (5, "the line has 2500 bytes, over the limit of 2000."),
    (7, "colour"),
    (8, 3),
]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(MIXED)), max_size=12))
def test_wherever_the_body_is_cut_into_chunks_the_answer_is_the_same(service: Service, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(MIXED)]
    chunks = [MIXED[a:b] for a, b in pairwise(places)]
    assert said(lines_of(service, chunks)) == EXPECTED


def test_a_wrong_deployment_or_content_type_is_an_answer_of_its_own(service: Service) -> None:
    missing = service.client.post("/v1/predict/nobody/stream", content=body_of({"text": CANARY}), headers=NDJSON)
    assert (missing.status_code, missing.json()["error"]["existing"]) == (404, ["s-all"])
    kind = service.client.post(URL, content=b"{}", headers={"content-type": "application/json"})
    assert kind.status_code == 422
    assert kind.json()["error"]["message"] == (
        "1 field of this request is wrong: body: expected application/x-ndjson as content-type."
    )


def test_rules_refuse_single_lines(served: Served) -> None:
    rules = {"before": [{"name": "blocked", "when": "subject = 'c-0'", "refuse": "this customer is blocked"}]}
    service = Serving(served.rooms).serve({"s-all": {"head": "refunds@2", "rules": rules}})
    lines = lines_of(service, body_of({"text": TEXT}, {"text": TEXT, "subject": "c-0"}, {"text": "red and blue"}))
    refusal = "rule 'blocked' refuses this request: this customer is blocked."
    assert said(lines) == [(0, "card"), (1, refusal), (2, "colour"), (3, 1)]


class Poisoned(Held):
    """A real encoder that fails over some texts as nobody foresaw, and quotes them."""

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        if any("poison" in str(item) for item in items):
            raise RuntimeError(f"cannot encode {items}")
        return self._inner.encode_each(items)


UNFORESEEN = "the request could not be answered: RuntimeError. Nothing is known of the cause to a caller."


@pytest.fixture(scope="module")
def poisoned(served: Served) -> Service:
    encoder = Poisoned(served.rooms.load_encoder(served.fingerprint, 1))
    return Serving(served.rooms).serve({"s-all": {"head": "refunds@2"}}, away=lambda _: encoder)


def test_an_unforeseen_failure_is_told_in_its_line_by_its_type_and_spoils_no_other(
    poisoned: Service, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    counted = table.ERRORS, "/v1/predict/{deployment}/stream", "RuntimeError"
    texts = [TEXT, f"poison {CANARY}", "return the money", " ", f"{CANARY} poison", "red and blue"]
    with caplog.at_level(logging.DEBUG):
        lines = lines_of(poisoned, body_of(*({"text": text} for text in texts)), id_="poisoned")
    empty = "1 field of this request is wrong: line.text: is empty."
    assert said(lines) == [
        (0, "card"), (1, UNFORESEEN), (2, "money"), (3, empty), (4, UNFORESEEN), (5, "colour"), (6, 3),
    ]  # fmt: skip
    assert lines[1]["error"] == {"type": "RuntimeError", "message": UNFORESEEN, "request_id": "poisoned"}
    assert poisoned.count(*counted) == 2
    assert [r.getMessage() for r in caplog.records if r.name == "raystore.serve" and r.levelno == logging.ERROR] == [
        "request poisoned failed with RuntimeError"
    ]
    assert CANARY not in caplog.text + "".join(capfd.readouterr())


def test_a_stream_goes_on_after_a_group_of_which_nothing_could_be_answered(poisoned: Service) -> None:
    bad, good = body_of(*[{"text": f"poison {CANARY}"}] * 3), body_of({"text": TEXT})
    assert said(lines_of(poisoned, [bad, good])) == [*((i, UNFORESEEN) for i in range(3)), (3, "card"), (4, 3)]
    lines = lines_of(poisoned, bad)
    assert (said(lines)[-1], lines[-1]["lineage"]) == ((3, 3), None)


class Failing(Door):
    """Lets in, and fails as nobody foresaw when it is asked again for the second group."""

    asked = 0

    async def let_in(self, *asked: Any, **more: Any) -> Any:
        self.asked += 1
        if self.asked == 3:
            raise RuntimeError(f"not let in: {CANARY}")
        return await super().let_in(*asked, **more)


def test_an_unforeseen_failure_that_ends_a_stream_is_told_in_its_last_line(
    service: Service, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    finished: list[Finished] = []
    app = make_app(lambda: service.orchestrator, AppSpec(), Failing(None), tellers=[finished.append])
    body = body_of(*[{"text": TEXT}] * 65)
    with TestClient(app, base_url=LOOPBACK) as client, caplog.at_level(logging.DEBUG):
        answer = client.post(URL, content=body, headers={**NDJSON, "x-request-id": "ended"})
    *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["line"] for line in lines] == list(range(64))
    assert (last["done"], last["failed"]) == (64, 0)
    assert last["error"] == {"type": "RuntimeError", "message": UNFORESEEN, "request_id": "ended"}
    assert (finished[-1].status, finished[-1].error) == (200, "RuntimeError")
    assert "request ended failed with RuntimeError" in caplog.text
    assert CANARY not in answer.text + caplog.text + "".join(capfd.readouterr())


# --- over a socket ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listening(service: Service) -> Iterator[tuple[int, Buckets]]:
    """The application in a real uvicorn, its port, and what counts the bytes."""
    buckets = Buckets(AppSpec.model_validate({"rates": {}}).rates)
    spec = AppSpec.model_validate({"limits": LIMITS})
    app = make_app(lambda: service.orchestrator, spec, Door(None, rates=_Counting(buckets)))
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield bound.getsockname()[1], buckets
    server.should_exit = True
    thread.join(30)


class _Counting(Buckets):
    """Buckets that remember how many bytes they were told of."""

    bytes = 0

    def __init__(self, inner: Buckets) -> None:
        self.__dict__.update(inner.__dict__)

    def debit(self, principal: Any, n_bytes: int) -> None:
        type(self).bytes += n_bytes
        super().debit(principal, n_bytes)


def test_lines_are_answered_before_the_body_has_ended(listening: tuple[int, Buckets]) -> None:
    port, _ = listening
    head = f"POST {URL} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = connection.makefile("rb")
        for i, (text, label) in enumerate([(TEXT, "card"), ("return the money", "money"), ("red and blue", "colour")]):
            line = body_of({"text": text})
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            if i == 0:
                assert answer.readline().split()[1] == b"200"
                while answer.readline().strip():
                    pass
            size = int(answer.readline(), 16)  # the next is not sent before this one is answered
            told = json.loads(answer.read(size))
            answer.readline()
            assert (told["line"], told["prediction"]["label"]) == (i, label)
        connection.sendall(b"0\r\n\r\n")
        done = json.loads(answer.read(int(answer.readline(), 16)))
    assert (done["done"], done["failed"]) == (3, 0)


def test_the_bytes_of_a_stream_count_as_those_of_any_body(listening: tuple[int, Buckets]) -> None:
    import httpx

    port, _ = listening
    before = _Counting.bytes
    body = body_of(*({"text": f"{TEXT} {i}"} for i in range(100)))
    with httpx.Client(base_url=LOOPBACK.replace("8000", str(port)), timeout=60, trust_env=False) as client:
        answer = client.post(URL, content=body, headers=NDJSON)
    assert len(answer.text.splitlines()) == 101
    assert _Counting.bytes - before == len(body)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_revoked_key_ends_its_open_streams(service: Service, served: Served) -> None:
    keys, clock = ApiKeys(served.rooms.layout, served.rooms.store_key), Clock()
    key = keys.create("http_feed", [Verb.PREDICT])
    app = make_app(lambda: service.orchestrator, AppSpec(), Door(keys, clock=clock))
    with (
        running(app) as url,
        sender(int(url.rpartition(":")[2]), URL, NDJSON["content-type"], f"authorization: Bearer {key}") as one,
    ):
        assert one.head()[0] == 200
        for i in range(2):
            one.send(body_of({"text": TEXT}))
            assert one.lines()[0]["line"] == i
        keys.revoke("http_feed")
        clock.now += BELIEVED_S
        one.send(body_of({"text": CANARY}))
        [last] = one.lines()
        assert StreamLine.model_validate(last).model_dump(mode="json", exclude_unset=True) == last
        assert (last["done"], last["failed"], last["error"]["type"]) == (2, 0, "KeyRequired")
        assert one.lines() == []
    with pytest.raises(ServiceDenied, match="a key is required: the one that was sent is not valid here"):
        read_lines(json.dumps(last).encode(), 0, 3)


def test_each_block_of_lines_is_a_request_of_its_own_to_the_rates(service: Service) -> None:
    buckets = Buckets(Rates(requests_per_s=0.001, burst=2))
    app = make_app(lambda: service.orchestrator, AppSpec(), Door(None, rates=buckets))
    with running(app) as url, sender(int(url.rpartition(":")[2]), URL, NDJSON["content-type"]) as one:
        assert one.head()[0] == 200
        for i in range(128):
            one.send(body_of({"text": TEXT}))
            assert one.lines()[0]["line"] == i
        one.send(body_of({"text": TEXT}))
        [last] = one.lines()
        assert (last["done"], last["error"]["type"], last["error"]["limit"]) == (128, "RateExceeded", 0.001)
        assert last["error"]["retry_after_s"] > 900


def test_a_stream_over_its_rate_waits_where_that_is_not_for_long(service: Service) -> None:
    buckets = Buckets(Rates(requests_per_s=20, burst=1))
    app = make_app(lambda: service.orchestrator, AppSpec(), Door(None, rates=buckets))
    with TestClient(app, base_url=LOOPBACK) as client:
        answer = client.post(URL, content=body_of(*({"text": TEXT} for _ in range(200))), headers=NDJSON)
    done = json.loads(answer.text.splitlines()[-1])
    assert (done["done"], done["failed"], "error" in done) == (200, 0, False)


def test_lines_of_many_bytes_are_requests_by_their_bytes(service: Service) -> None:
    buckets = Buckets(Rates(requests_per_s=0.001, burst=3))
    spec = AppSpec(limits=Limits(max_body_bytes=2_000))
    app = make_app(lambda: service.orchestrator, spec, Door(None, rates=buckets))
    with running(app) as url, sender(int(url.rpartition(":")[2]), URL, NDJSON["content-type"]) as one:
        assert one.head()[0] == 200
        for i in range(4):
            one.send(body_of({"text": "x" * 1_400}))
            assert one.lines()[0]["line"] == i  # 5,644 bytes: three requests
        one.send(body_of({"text": "x" * 1_400}))
        assert (one.lines()[0]["error"]["type"]) == "RateExceeded"


def test_an_open_stream_follows_a_change_of_what_is_deployed(served: Served) -> None:
    serving = Serving(served.rooms)
    one, two = serving.serve({"s-all": {"head": "refunds@2"}}), serving.serve({"s-all": {"head": "refunds@1"}})
    present = [one.orchestrator]
    app = make_app(lambda: present[0], AppSpec())
    with running(app) as url, sender(int(url.rpartition(":")[2]), URL, NDJSON["content-type"]) as stream:
        assert stream.head()[0] == 200
        stream.send(body_of({"text": TEXT}))
        assert stream.lines()[0]["prediction"]["by"] == "refunds@2"
        present[0] = two.orchestrator
        stream.send(body_of({"text": TEXT}))
        assert stream.lines()[0]["prediction"]["by"] == "refunds@1"


def test_a_sender_that_leaves_in_the_middle_leaves_nothing_behind(listening: tuple[int, Buckets], service: Service) -> None:
    port, _ = listening
    head = f"POST {URL} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    line = body_of({"text": TEXT})
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(line), line))
            assert connection.recv(1)
    assert said(lines_of(service, line)) == [(0, "card"), (1, 0)]
