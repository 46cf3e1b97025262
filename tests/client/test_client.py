"""Both clients against a service on a real socket: what they send, what they make of answers, what their errors hold."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest

from raystore.client import AsyncClient, Client, StreamedLine
from raystore.errors import (
    InvalidArguments,
    RaystoreError,
    ServiceBusy,
    ServiceDenied,
    ServiceError,
    ServiceRefused,
    ServiceUnreachable,
)
from raystore.serve.wire.common import REQUEST_ID
from raystore.serve.wire.predict import Prediction
from raystore.vectors import mark
from tests.client.service import FINGERPRINT, LOGGED, PREDICTED, PREDICTION, Sent, Service, failure, success

CANARY = "CANARY-7f3a-uncanny"
PNG = b"\x89PNG\r\n\x1a\n" + CANARY.encode()
Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, service: Service) -> Ask:
    """Calls a method of a client by name; the generator of a stream becomes a list."""

    def call(method: str, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        options = {"url": service.url, **(client or {})}
        if request.param == "sync":
            with Client(**options) as blocking:
                found = getattr(blocking, method)(*args, **kwargs)
                return list(found) if isinstance(found, Iterator) else found

        async def run() -> Any:
            async with AsyncClient(**options) as client:
                found = getattr(client, method)(*args, **kwargs)
                return [line async for line in found] if hasattr(found, "__aiter__") else await found

        return asyncio.run(run())

    return call


def test_one_text_is_predicted_with_what_is_known_of_it(ask: Ask, service: Service) -> None:
    service.answers = [success(PREDICTED)]
    time = datetime(2026, 11, 21, 12, tzinfo=UTC)
    answer = ask("predict", "triage", "the card", subject="c-9", time=time, columns={"product": "card"}, top=2, evidence=1)
    (sent,) = service.sent
    assert (sent.method, sent.path, sent.headers["content-type"]) == ("POST", "/v1/predict/triage", "application/json")
    assert sent.json == {
        "text": "the card", "subject": "c-9", "time": "2026-11-21T12:00:00+00:00", "columns": {"product": "card"},
        "top": 2, "evidence": 1,
    }  # fmt: skip
    (prediction,) = answer.predictions
    assert isinstance(prediction, Prediction)
    assert (prediction.label, answer.lineage.head, answer.fingerprint) == ("card", "refunds@2", FINGERPRINT)


def test_an_image_is_sent_as_a_data_url_of_its_own_format(ask: Ask, service: Service) -> None:
    service.answers = [success(PREDICTED)]
    for data, kind in ((PNG, "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"RIFF1234WEBPVP8 ", "webp"), (b"GIF89a", "gif")):
        ask("predict", "triage", data)
        assert service.sent[-1].json == {"text": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}


def test_a_vector_carries_its_fingerprint_with_it(ask: Ask, service: Service) -> None:
    service.answers = [success(PREDICTED)]
    vectors = mark(np.array([[0.6, 0.8], [1, 0]], np.float32), FINGERPRINT)
    ask("predict", "triage", vectors[0])
    assert service.sent[-1].json == {"vector": vectors[0].tolist(), "fingerprint": FINGERPRINT}
    ask("predict", "triage", items=[vectors[0], {"vector": vectors[1], "id": "b"}])
    assert service.sent[-1].json == {
        "items": [{"vector": vectors[0].tolist()}, {"vector": [1.0, 0.0], "id": "b"}],
        "fingerprint": FINGERPRINT,
    }
    ask("predict", "triage", [0.6, 0.8], fingerprint="a" * 64)
    assert service.sent[-1].json == {"vector": [0.6, 0.8], "fingerprint": "a" * 64}


def test_rows_are_logged_with_images_vectors_and_kept_columns(ask: Ask, service: Service) -> None:
    service.answers = [success(LOGGED)]
    vector = mark(np.array([[0.6, 0.8]], np.float32), FINGERPRINT)[0]
    rows = [{"id": "a", "text": "x", "n": np.int64(3)}, {"id": "b", "image": PNG}, {"id": "c", "vector": vector}]
    assert ask("log", "tickets", rows).version == 7
    assert service.sent[-1].path == "/v1/collections/tickets/log"
    assert service.sent[-1].json == {
        "rows": [
            {"id": "a", "text": "x", "n": 3},
            {"id": "b", "image": "data:image/png;base64," + base64.b64encode(PNG).decode()},
            {"id": "c", "vector": vector.tolist()},
        ]
    }
    assert rows[1]["image"] == PNG  # the caller's rows stay as they are


def test_a_search_names_its_fields_as_the_wire_does(ask: Ask, service: Service) -> None:
    found = {
        "hits": [{"id": "t-1", "score": 0.87, "columns": {"product": "card"}}], "cursor": None, "truncated": False,
        "coverage": 1.0, "missing": [], "exact": True, "metric": "cosine", "version": 7, "index_version": None,
        "fingerprint": FINGERPRINT, "request_id": "r-1", "timings_ms": {}, "a field of a newer service": 1,
    }  # fmt: skip
    service.answers = [success(found)]
    answer = ask("search", "tickets", "the card", k=3, where="product = 'card'")
    assert service.sent[-1].json == {"text": "the card", "k": 3, "where": "product = 'card'"}
    assert (answer.hits[0].id, answer.hits[0].columns) == ("t-1", {"product": "card"})


def test_embeddings_come_back_as_numbers_in_the_order_of_the_items(ask: Ask, service: Service) -> None:
    def packed(*numbers: float) -> str:
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()

    body = {
        "data": [{"index": 1, "embedding": packed(1, 0)}, {"index": 0, "embedding": packed(0.5, -0.5)}],
        "model": "minilm@5f3c", "fingerprint": FINGERPRINT, "usage": {"total_tokens": 9}, "request_id": "r",
    }  # fmt: skip
    service.answers = [success(body)]
    found = ask("embeddings", "minilm", ["a", PNG])
    assert (found.vectors, found.model, found.tokens) == ([[0.5, -0.5], [1.0, 0.0]], "minilm@5f3c", 9)
    assert service.sent[-1].json["encoding_format"] == "base64"
    assert service.sent[-1].json["input"][1].startswith("data:image/png;base64,")


def test_status_and_shadow_are_what_the_service_says(ask: Ask, service: Service) -> None:
    service.answers = [success({"a": 1})]
    assert (ask("status"), ask("shadow", "tri age/x")) == ({"a": 1}, {"a": 1})
    assert [(sent.method, sent.path) for sent in service.sent] == [
        ("GET", "/v1/status"),
        ("GET", "/v1/shadow/tri%20age%2Fx"),
    ]


def test_a_shadow_report_is_asked_for_with_labels_and_from_a_time_on(ask: Ask, service: Service) -> None:
    service.answers = [success({"reports": []})]
    since = datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert ask("shadow", "triage", labels="outcomes.outcome", since=since) == {"reports": []}
    ask("shadow", "triage", since="2026-11-01")
    assert [(sent.path, sent.query) for sent in service.sent] == [
        ("/v1/shadow/triage", {"labels": "outcomes.outcome", "since": "2026-11-01T12:00:00+00:00"}),
        ("/v1/shadow/triage", {"since": "2026-11-01"}),
    ]


def test_what_is_no_time_or_no_table_of_labels_is_not_sent_and_not_quoted(ask: Ask, service: Service) -> None:
    with pytest.raises(InvalidArguments) as caught:
        ask("shadow", "triage", labels=[CANARY], since=3)
    assert str(caught.value) == (
        "shadow: labels= is list, expected a text: 'table.column'; since= is int, expected a time, or a text in ISO 8601."
    )
    assert service.sent == []


def test_a_key_travels_as_a_bearer_and_is_shown_nowhere(ask: Ask, service: Service) -> None:
    service.answers = [failure(401, "KeyRequired")]
    with pytest.raises(ServiceDenied) as caught:
        ask("predict", "triage", "x", client={"key": "rs_secret"})
    assert service.sent[-1].headers["authorization"] == "Bearer rs_secret"
    assert "secret" not in repr(caught.value)
    assert repr(Client(service.url, key="rs_secret")) == f"Client('{service.url}')"


def test_a_repetition_is_the_same_request_again(ask: Ask, service: Service) -> None:
    service.answers = [
        failure(503, "NotReady"),
        failure(429, "TooManyRequests", headers={"retry-after": "0"}),
        success(PREDICTED),
    ]
    assert ask("predict", "triage", "x", request_id="mine-1").request_id == "r-1"
    assert [sent.headers["x-request-id"] for sent in service.sent] == ["mine-1"] * 3
    assert len({sent.body for sent in service.sent}) == 1
    left = [int(sent.headers["x-raystore-deadline-ms"]) for sent in service.sent]
    assert 30_000 >= left[0] >= left[1] >= left[2] > 0


def test_refusals_carry_the_facts_of_the_service(ask: Ask, service: Service) -> None:
    service.answers = [failure(404, "DeploymentNotFound", existing=["triage"])]
    with pytest.raises(ServiceRefused) as caught:
        ask("predict", "nobody", "x")
    error = caught.value
    assert (error.status_code, error.type, error.details, error.request_id) == (
        404, "DeploymentNotFound", {"existing": ["triage"]}, "r-1",
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(error)).facts == error.facts


# What each meets on its way, and what the caller gets; everything carries the canary.
ROADS: dict[str, tuple[Callable[[Service], Any], type[RaystoreError]]] = {
    "nobody listens": (lambda s: f"http://127.0.0.1:{free_port()}", ServiceUnreachable),
    "a silent service": (lambda s: s.url, ServiceUnreachable),
    "a refusal": (lambda s: s.url, ServiceRefused),
    "a busy service": (lambda s: s.url, ServiceBusy),
    "an unreadable answer": (lambda s: s.url, ServiceError),
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("road", ROADS)
def test_no_error_holds_what_was_sent(road: str, ask: Ask, service: Service) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3)

    service.answers = {
        "a silent service": [lambda sent: silent],
        "a refusal": [failure(422, "InvalidRequest", problems=[])],
        "a busy service": [failure(503, "NotReady")],
        "an unreadable answer": [lambda sent: success({"echo": sent.body.decode()})],
    }.get(road, [success({})])  # type: ignore[assignment]
    to, kind = ROADS[road]
    rows = [{"id": "a", "text": CANARY, "image": PNG}]
    for method, args in (
        ("predict", ("triage", CANARY)),
        ("log", ("tickets", rows)),
        ("predict_stream", ("triage", [CANARY])),
    ):
        with pytest.raises(kind) as caught:
            ask(method, *args, client={"url": to(service), "timeout_s": 0.5, "retries": 1})
        error = caught.value
        seen: list[BaseException] = []
        while error is not None:  # whatever hangs on it: nothing of httpx, which holds the request
            seen.append(error)
            error = error.__cause__ or error.__context__
        assert [type(each).__module__ for each in seen] == ["raystore.errors"]
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.facts)
        lines = [line for line in told.splitlines() if "tests/client" not in line]
        assert CANARY not in "".join(lines)
        assert CANARY.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"item": b"no image " + CANARY.encode()},
         "ask a service: the item is no image file (PNG, JPEG, GIF, WebP, BMP or TIFF by its first bytes)."),
        ({}, "predict: expected one item (a text, image bytes or a vector), or items=."),
        ({"item": "x", "items": ["x"]}, "predict: expected one item (a text, image bytes or a vector), or items=."),
        ({"item": "x", "columns": {"a": {CANARY}}}, "predict: JSON has no word for a value of type set."),
        ({"item": "x", "columns": {"a": float("nan")}},
         "predict: JSON has no word for a number that is not finite, or a structure that holds itself."),
        ({"item": [CANARY]}, "ask a service: the item is no list of numbers, text or image bytes."),
        ({"item": 3}, "ask a service: the item is no list of numbers, text or image bytes."),
        ({"items": ["x", {"image": b"GIF"}]},
         "ask a service: the image of item 1 is no image file (PNG, JPEG, GIF, WebP, BMP or TIFF by its first bytes)."),
        ({"item": "x", "request_id": "a\nb"}, "ask a service: request_id= is 1 to 64 letters, digits, '.', '_' or '-'."),
        ({"item": "x", "deadline_s": 0}, "ask a service: the deadline is more than 0 and at most 86,400 seconds."),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_before_and_not_quoted(
    bad: dict[str, Any], problem: str, ask: Ask, service: Service
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        ask("predict", "triage", **bad)
    assert str(caught.value) == problem
    assert caught.value.__context__ is None
    assert service.sent == []


@pytest.mark.parametrize(
    ("url", "key", "problem"),
    [
        (
            "127.0.0.1:8000",
            None,
            "the address begins with http:// or https:// and names a host, like http://127.0.0.1:8000",
        ),
        ("http://rs_secret:@host", None, "a key is given as key=, not within the address"),
        ("http://host", "a\nb", "key= is no key"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, key: str | None, problem: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArguments) as caught:
            kind(url, key=key)
        assert str(caught.value) == f"Client: {problem}."


def streamed(sent: Sent) -> Any:
    lines = [json.loads(line) for line in sent.body.splitlines()]
    told: list[dict[str, Any]] = []
    for i, line in enumerate(lines):
        if line.get("text") == "bad":
            told.append({"line": i, "error": {"type": "ItemsUnusable", "message": "no.", "request_id": "r"}})
        else:
            told.append({"line": i, "prediction": PREDICTION | {"id": line.get("id", "none")}})
    told.append({"done": len(lines), "request_id": "r"})
    return httpx_response("".join(json.dumps(line) + "\n" for line in told))


def httpx_response(body: str) -> Any:
    from starlette.responses import Response

    return Response(body, media_type="application/x-ndjson")


def test_a_stream_of_any_length_is_sent_in_windows_and_answered_in_order(ask: Ask, service: Service) -> None:
    service.answers = [streamed]
    items = ({"text": "bad" if i == 4 else "good", "id": f"i-{i}"} for i in range(7))
    lines: list[StreamedLine] = ask(
        "predict_stream", "triage", items, window=3, top=2, request_id="s", fingerprint="a" * 64
    )
    assert [line.line for line in lines] == list(range(7))
    assert [line.prediction.id if line.prediction else None for line in lines] == [
        "i-0", "i-1", "i-2", "i-3", None, "i-5", "i-6",
    ]  # fmt: skip
    assert lines[4].error is not None
    assert lines[4].error.type == "ItemsUnusable"
    assert [len(sent.body.splitlines()) for sent in service.sent] == [3, 3, 1]
    assert [sent.headers["x-request-id"] for sent in service.sent] == ["s-0", "s-1", "s-2"]
    assert service.sent[0].query == {"top": "2", "fingerprint": "a" * 64}
    assert service.sent[0].headers["content-type"] == "application/x-ndjson"


def test_a_stream_under_the_longest_request_id_that_a_service_takes_has_ids_for_its_windows(
    ask: Ask, service: Service
) -> None:
    for name in ("a" * 64, "b" * 64, "b" * 63):
        for _ in range(2):  # a repetition is known by the same ids
            service.answers = [streamed]
            assert len(ask("predict_stream", "triage", ["x", "y"], window=1, request_id=name)) == 2
    sent = [each.headers["x-request-id"] for each in service.sent]
    assert all(REQUEST_ID.fullmatch(id_) for id_ in sent)
    assert [sent[i : i + 2] for i in range(0, 12, 4)] == [sent[i : i + 2] for i in range(2, 12, 4)]
    assert len(set(sent)) == 6


@pytest.mark.parametrize(
    "body",
    [
        '{"line": 0, "prediction": {}}\n{"done": 1}\n',
        '{"done": 1}\n',
        "",
        '{"line": 1, "prediction": {}}\n{"done": 1}\n',
        "x\n",
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(body: str, ask: Ask, service: Service) -> None:
    service.answers = [httpx_response(body)]
    with pytest.raises(ServiceError) as caught:
        ask("predict_stream", "triage", ["x"])
    assert caught.value.type == "UnreadableAnswer"


def test_a_stream_takes_items_only_as_they_are_needed(service: Service) -> None:
    service.answers = [streamed]
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "good"

    with Client(service.url) as client:
        lines = client.predict_stream("triage", endless(), window=2)
        assert [next(lines).line for _ in range(3)] == [0, 1, 2]
    assert taken == 4


def test_the_environment_changes_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    service.answers = [success({"a": 1})]
    with Client(service.url) as client:
        assert client.status() == {"a": 1}


def test_a_redirect_is_not_followed(ask: Ask, service: Service) -> None:
    from starlette.responses import RedirectResponse

    service.answers = [RedirectResponse(f"{service.url}/elsewhere", 307)]
    with pytest.raises(ServiceError) as caught:
        ask("predict", "triage", "x")
    assert (caught.value.status_code, len(service.sent)) == (307, 1)


def test_importing_the_client_is_light() -> None:
    heavy = "{'ray', 'torch', 'transformers', 'fastapi', 'starlette', 'lance', 'pyarrow', 'pandas', 'duckdb', 'openvino'}"
    code = f"import raystore.client, sys; print(sorted({heavy} & {{m.partition('.')[0] for m in sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_httpx_errors_would_have_held_the_content(service: Service) -> None:
    """Why none is chained: this is what hangs on one."""
    with pytest.raises(httpx.ConnectError) as caught:
        httpx.post(f"http://127.0.0.1:{free_port()}", content=CANARY.encode(), trust_env=False)
    assert CANARY.encode() in caught.value.request.content
