"""The gRPC face of a replica, over real sockets, beside the HTTP face of the same orchestrator."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from raystore.access import ApiKeys, Rates, Sizes, Verb
from raystore.errors import AddressInUse, BodyTooLarge, InvalidArguments
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.door.admission import Admission
from raystore.serve.door.auth import BELIEVED_S, Door
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.door.rates import Buckets
from raystore.serve.grpc import health
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.health import asked_service
from raystore.serve.grpc.messages import log_rows, parse, predict_request
from raystore.serve.grpc.raystore_pb2_grpc import OrchestratorStub
from raystore.serve.grpc.server import make_grpc_server
from raystore.serve.grpc.stream import _together
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec, Limits
from raystore.serve.watch.finished import Finished
from raystore.serve.wire.log import LogAnswer, LogRow
from raystore.serve.wire.predict import (
    LabelsPrediction,
    Lineage,
    NumberPrediction,
    PredictAnswer,
    Prediction,
    PredictItem,
    PredictOptions,
)
from tests.pictures import PICTURES
from tests.serve.certificates import made, self_signed, shown_serial
from tests.serve.conftest import Served, recorded
from tests.serve.serving import Held
from tests.serve.test_stream import UNFORESEEN, Poisoned

CANARY = "CANARY-7f3a-uncanny"
LIMITS = Limits(max_body_bytes=65_536, max_items=8, max_chars=1_000)
PROTO = Path(pb.__file__).with_name("raystore.proto")


@contextmanager
def serving(
    provider: Callable[[], Orchestrator | None], spec: AppSpec, door: Door | None = None, **more: Any
) -> Iterator[str]:
    """The server in an event loop of its own; its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = more.setdefault("port", free_port())

    async def start() -> grpc.aio.Server:
        admission = more.pop("admission", None) or Admission(spec.limits)
        server = make_grpc_server(provider, spec, door or Door(None), admission, threads=ThreadPoolExecutor(4), **more)
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield f"{spec.host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(1), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def stub_of(address: str) -> Iterator[OrchestratorStub]:
    with grpc.insecure_channel(address) as channel:
        yield OrchestratorStub(channel)


def told(error: grpc.RpcError) -> dict[str, Any]:
    """The JSON in the trailing metadata."""
    metadata = dict(error.trailing_metadata())
    found: dict[str, Any] = json.loads(metadata["raystore-error-bin"])
    return found


@pytest.fixture(scope="module")
def orchestrator(served: Served) -> Orchestrator:
    rooms = served.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    records = {
        "triage": recorded(rooms, "triage", "refunds@2"),
        "keeping": recorded(rooms, "keeping", "refunds@1", log="kept"),
    }
    orchestrator.update(rooms.live(records))
    return orchestrator


@pytest.fixture(scope="module")
def finished() -> list[Finished]:
    return []


@pytest.fixture(scope="module")
def stub(orchestrator: Orchestrator, finished: list[Finished]) -> Iterator[OrchestratorStub]:
    with (
        serving(lambda: orchestrator, AppSpec(limits=LIMITS), tellers=[finished.append]) as address,
        stub_of(address) as stub,
    ):
        yield stub


@pytest.fixture(scope="module")
def http(orchestrator: Orchestrator) -> Iterator[TestClient]:
    with TestClient(make_app(lambda: orchestrator, AppSpec(limits=LIMITS)), base_url="http://127.0.0.1:8000") as client:
        yield client


def text(value: str, **more: Any) -> pb.PredictItem:
    return pb.PredictItem(text=value, **more)


def test_a_prediction_is_the_one_http_gives(stub: OrchestratorStub, http: TestClient) -> None:
    items = [{"text": "the card never arrived", "id": "a"}, {"text": "return the money"}]
    by_http = http.post("/v1/predict/triage", json={"items": items, "top": 2}, headers={"x-request-id": "same"}).json()
    sent = pb.PredictRequest(
        deployment="triage", top=2, items=[text("the card never arrived", id="a"), text("return the money")]
    )
    answer = stub.Predict(sent, metadata=[("x-request-id", "same")])
    assert [p.label for p in answer.predictions] == ["card", "money"]
    for mine, theirs in zip(answer.predictions, by_http["predictions"], strict=True):
        assert (mine.id, mine.by, mine.label, mine.abstained, list(mine.rules)) == (
            theirs["id"], theirs["by"], theirs["label"], theirs["abstained"], theirs["rules"],
        )  # fmt: skip
        assert mine.confidence == pytest.approx(theirs["confidence"], abs=1e-5)
        assert [p.label for p in mine.probabilities] == [p["label"] for p in theirs["probabilities"]]
        assert not mine.HasField("value")
        assert not mine.HasField("labels")
    assert (answer.lineage.head, answer.lineage.snapshot.hash) == ("refunds@2", "ab" * 32)
    assert not answer.lineage.HasField("voters")
    assert (answer.fingerprint, answer.request_id) == (by_http["fingerprint"], "same")
    assert set(answer.timings_ms) == set(by_http["timings_ms"])
    assert not answer.HasField("logged")


def test_a_vector_is_predicted_with_its_fingerprint(stub: OrchestratorStub, served: Served) -> None:
    vector = served.rooms.encoders.get("tiny").encode(["return the money"])[0]
    item = pb.PredictItem(vector=pb.Vector(values=vector))
    answer = stub.Predict(pb.PredictRequest(deployment="triage", items=[item], fingerprint=served.fingerprint))
    assert answer.predictions[0].label == "money"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(pb.PredictRequest(deployment="triage", items=[item], fingerprint="0" * 64))
    assert (caught.value.code(), told(caught.value)["type"]) == (grpc.StatusCode.FAILED_PRECONDITION, "PassportMismatch")


def test_an_image_is_sent_as_its_bytes(house: Served) -> None:
    rooms = house.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    orchestrator.update(rooms.live({"looks": recorded(rooms, "looks", "colours")}))
    with serving(lambda: orchestrator, AppSpec()) as address, stub_of(address) as stub:
        items = [pb.PredictItem(image=picture) for picture in PICTURES[::3]]
        answer = stub.Predict(pb.PredictRequest(deployment="looks", items=items))
        assert len(answer.predictions) == len(items)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(pb.PredictRequest(deployment="looks", items=[*items, pb.PredictItem(image=CANARY.encode())]))
        assert told(caught.value)["problems"][0]["field"] == f"request.items[{len(items)}].image"
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(pb.PredictRequest(deployment="looks", items=[text("a card")]))
        assert told(caught.value)["problems"] == [
            {"field": "request.items[0]", "reason": "is a text, and this encoder takes images"}
        ]


def test_log_keeps_rows_with_every_kind_of_kept_value(stub: OrchestratorStub, served: Served) -> None:
    from raystore.data.collection import CollectionTable

    time = Timestamp()
    time.FromDatetime(datetime(2026, 11, 21, 12, tzinfo=UTC))
    vector = served.rooms.encoders.get("tiny").encode(["hello world"])[0]
    rows = [
        pb.LogRow(id="grpc-1", text="the card", subject="c-9", time=time, columns={"product": pb.Kept(text="card")}),
        pb.LogRow(id="grpc-2", vector=pb.Vector(values=vector), columns={"product": pb.Kept()}),
    ]
    sent = pb.LogRequest(collection="tickets", rows=rows, fingerprint=served.fingerprint)
    answer = stub.Log(sent)
    assert (answer.added, answer.known, answer.fingerprint) == (2, 0, served.fingerprint)
    again = stub.Log(sent)
    assert (again.added, again.known) == (0, 2)
    kept = CollectionTable.open(served.rooms.layout, "tickets").vectors_of(["grpc-2"], served.fingerprint)
    np.testing.assert_allclose(kept[0], vector, atol=1e-6)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Log(pb.LogRequest(collection="tickets", rows=[pb.LogRow(id="grpc-1", text=CANARY)]))
    assert (caught.value.code(), told(caught.value)["ids"]) == (grpc.StatusCode.ALREADY_EXISTS, ["grpc-1"])


def test_a_prediction_that_is_logged_says_its_rows(stub: OrchestratorStub) -> None:
    answer = stub.Predict(pb.PredictRequest(deployment="keeping", items=[text("the card", id="grpc-kept")]))
    assert list(answer.logged.values) == ["grpc-kept"]


# Each holds the canary where it must not come back from.
BAD: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "no such deployment": (pb.PredictRequest(deployment="nobody", items=[text(CANARY)]), grpc.StatusCode.NOT_FOUND,
                           "no deployment of that name here. There are: 'keeping', 'triage'."),
    "no item": (pb.PredictRequest(deployment="triage"), grpc.StatusCode.INVALID_ARGUMENT,
                "1 field of this request is wrong: request.items: list should have at least 1 item after validation, not 0."),
    "nothing in an item": (pb.PredictRequest(deployment="triage", items=[pb.PredictItem(subject=CANARY)]),
                           grpc.StatusCode.INVALID_ARGUMENT,
                           "1 field of this request is wrong: request.items[0]: expected exactly one of text and vector."),
    "empty": (pb.PredictRequest(deployment="triage", items=[text(CANARY), text("  ")]), grpc.StatusCode.INVALID_ARGUMENT,
              "1 field of this request is wrong: request.items[1].text: is empty."),
    "too long": (pb.PredictRequest(deployment="triage", items=[text(CANARY * 100)]), grpc.StatusCode.INVALID_ARGUMENT,
                 "request.items[0].text has 1900 characters, over the limit of 1000."),
    "too many": (pb.PredictRequest(deployment="triage", items=[text(CANARY)] * 9), grpc.StatusCode.INVALID_ARGUMENT,
                 "request.items has 9 items, over the limit of 8."),
    "a vector of nobody": (pb.PredictRequest(deployment="triage", items=[pb.PredictItem(vector=pb.Vector(values=[1.0]))]),
                           grpc.StatusCode.INVALID_ARGUMENT,
                           "1 field of this request is wrong: request: expected fingerprint with vector, so that it is clear which "
                           "encoder made it."),
    "a bad fingerprint": (pb.PredictRequest(deployment="triage", items=[text(CANARY)], fingerprint=CANARY),
                          grpc.StatusCode.INVALID_ARGUMENT,
                          "1 field of this request is wrong: request.fingerprint: string should match pattern '^[0-9a-f]{64}$'."),
    "a long column": (pb.PredictRequest(deployment="triage", items=[text("a", columns={CANARY * 20: pb.Kept(integer=1)})]),
                      grpc.StatusCode.INVALID_ARGUMENT,
                      "1 field of this request is wrong: request.items[0].columns.?.?: string should have at most 200 characters."),
    "an image as text": (pb.PredictRequest(deployment="triage", items=[text(f"data:image/png;base64,{CANARY}")]),
                         grpc.StatusCode.INVALID_ARGUMENT,
                         "1 field of this request is wrong: request.items[0].text: is an image: send its bytes as image."),
    "no time": (pb.PredictRequest(deployment="triage", items=[text(CANARY, time=Timestamp(seconds=2**60))]),
                grpc.StatusCode.INVALID_ARGUMENT, "1 field of this request is wrong: time: is not a time of this calendar."),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_said_and_not_echoed(name: str, stub: OrchestratorStub, caplog: pytest.LogCaptureFixture) -> None:
    sent, code, sentence = BAD[name]
    with caplog.at_level(logging.DEBUG), pytest.raises(grpc.RpcError) as caught:
        stub.Predict(sent)
    error = caught.value
    assert (error.code(), error.details()) == (code, sentence)
    assert set(told(error)) >= {"type", "message", "request_id"}
    said = f"{error.details()}{error.trailing_metadata()}{error.initial_metadata()}{caplog.text}"
    assert CANARY not in said


def test_a_row_with_content_among_its_columns_is_refused(stub: OrchestratorStub) -> None:
    row = pb.LogRow(id="a", text="x", columns={"vector": pb.Kept(text=CANARY)})
    with pytest.raises(grpc.RpcError) as caught:
        stub.Log(pb.LogRequest(collection="tickets", rows=[row]))
    assert caught.value.details() == (
        "1 field of this request is wrong: request.rows[0].columns: hold one of id, image, subject, tenant, text, time, vector, "
        "which are no columns."
    )


def test_bytes_that_are_no_message_are_refused(stub: OrchestratorStub, orchestrator: Orchestrator) -> None:
    with serving(lambda: orchestrator, AppSpec()) as address, grpc.insecure_channel(address) as channel:
        raw = channel.unary_unary("/raystore.v1.Orchestrator/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\xff\xff" + CANARY.encode())
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "1 field of this request is wrong: request: is no raystore.v1.PredictRequest.",
    )


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5)


def kept(value: Any) -> pb.Kept:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "text"}
    return pb.Kept(**({kinds[type(value)]: value} if value is not None else {}))


@st.composite
def given_items(draw: st.DrawFn) -> pb.PredictItem:
    content = draw(
        st.one_of(
            st.just({}),
            st.builds(lambda text: {"text": text}, st.text(max_size=9)),
            st.builds(lambda image: {"image": image}, st.binary(max_size=9)),
            st.builds(lambda values: {"vector": pb.Vector(values=values)}, st.lists(st.floats(width=32), max_size=3)),
        )
    )
    known = draw(st.fixed_dictionaries({}, optional={name: st.text(max_size=3) for name in ("id", "subject", "tenant")}))
    times = st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1))
    timed = draw(st.fixed_dictionaries({}, optional={"time": times}))
    columns = draw(st.dictionaries(st.text(max_size=3), SCALARS.map(kept), max_size=2))
    return pb.PredictItem(**content, **known, **timed, columns=columns)


@given(
    items=st.lists(given_items(), max_size=3),
    fingerprint=st.none() | st.just("a" * 64) | st.text(max_size=3),
    top=st.none() | st.integers(0, 2**32 - 1),
)
def test_whatever_a_message_holds_is_read_or_refused(
    items: list[pb.PredictItem], fingerprint: str | None, top: int | None
) -> None:
    sent = pb.PredictRequest(deployment="triage", items=items, fingerprint=fingerprint, top=top)
    try:
        options, asked, _ = predict_request(parse(pb.PredictRequest, sent.SerializeToString()), "r", LIMITS)
    except (InvalidRequestError, BodyTooLarge):
        return
    assert [each.vector is None for each in asked] == [each.WhichOneof("content") != "vector" for each in items]
    assert options.top == (5 if top is None else top)


@given(data=st.binary(max_size=200))
def test_whatever_bytes_come_are_read_or_refused(data: bytes) -> None:
    with suppress(InvalidRequestError, BodyTooLarge):
        predict_request(parse(pb.PredictRequest, data), "r", LIMITS)
    with suppress(InvalidRequestError, BodyTooLarge):
        log_rows(parse(pb.LogRequest, data), LIMITS)


def test_a_message_over_the_limit_is_not_read(stub: OrchestratorStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(pb.PredictRequest(deployment="triage", items=[text("x" * 70_000)]))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def options(**more: Any) -> pb.StreamRequest:
    return pb.StreamRequest(options=pb.StreamOptions(**{"deployment": "triage", **more}))


def item(value: str, **more: Any) -> pb.StreamRequest:
    return pb.StreamRequest(item=text(value, **more))


def test_a_stream_is_answered_line_by_line_in_order(stub: OrchestratorStub) -> None:
    sent = [
        options(top=1),
        item("the card"),
        item("  "),
        item("return the money", id="mine"),
        item("card " * 300),
        item("red and blue"),
    ]
    *lines, last = stub.PredictStream(iter(sent), metadata=[("x-request-id", "s-1")])
    assert [line.line.line for line in lines] == [0, 1, 2, 3, 4]
    assert [line.line.WhichOneof("said") for line in lines] == ["prediction", "error", "prediction", "error", "prediction"]
    assert [line.line.prediction.id for line in lines[::2]] == ["s-1-0", "mine", "s-1-4"]
    assert [len(line.line.prediction.probabilities) for line in lines[::2]] == [1, 1, 1]
    assert lines[1].line.error.message == "1 field of this request is wrong: item.text: is empty."
    assert json.loads(lines[3].line.error.json)["type"] == "BodyTooLarge"
    assert (last.done.done, last.done.failed, last.done.lineage.head, last.done.request_id) == (5, 2, "refunds@2", "s-1")


def test_a_stream_is_answered_while_it_is_sent(stub: OrchestratorStub) -> None:
    more: queue.Queue[pb.StreamRequest | None] = queue.Queue()
    more.put(options())
    answers = stub.PredictStream(iter(more.get, None))
    for i in range(3):
        more.put(item("the card"))
        assert next(answers).line.line == i
    more.put(None)
    assert next(answers).done.done == 3


def test_a_stream_of_more_than_fits_into_memory_keeps_its_order(stub: OrchestratorStub) -> None:
    sent = (options() if i == 0 else item(f"card {i}", id=f"i-{i}") for i in range(501))
    *lines, last = stub.PredictStream(sent)
    assert [line.line.prediction.id for line in lines] == [f"i-{i}" for i in range(1, 501)]
    assert (last.done.done, last.done.failed) == (500, 0)


def test_an_unforeseen_failure_of_an_item_is_told_in_its_line_by_its_type_and_spoils_no_other(
    served: Served, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    rooms = served.rooms
    encoder = Poisoned(rooms.load_encoder(served.fingerprint, 1))
    poisoned = rooms.orchestrator(AppSpec(), threads=1, away=lambda _: encoder)
    poisoned.update(rooms.live({"triage": recorded(rooms, "triage", "refunds@2")}))
    sent = [options(), item("the card"), item(f"poison {CANARY}"), item("  "), item("red and blue")]
    with serving(lambda: poisoned, AppSpec()) as address, stub_of(address) as stub, caplog.at_level(logging.DEBUG):
        *lines, last = stub.PredictStream(iter(sent), metadata=[("x-request-id", "s-2")])
    assert [line.line.WhichOneof("said") for line in lines] == ["prediction", "error", "error", "prediction"]
    told = lines[1].line.error
    assert (told.type, told.message, told.request_id) == ("RuntimeError", UNFORESEEN, "s-2")
    assert json.loads(told.json) == {"type": told.type, "message": told.message, "request_id": "s-2"}
    assert lines[2].line.error.type == "InvalidRequest"
    assert (last.done.done, last.done.failed, last.done.lineage.head) == (4, 2, "refunds@2")
    assert "request s-2 failed with RuntimeError" in caplog.text
    assert CANARY not in f"{lines}{last}{caplog.text}{capfd.readouterr()}"


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ([], "1 field of this request is wrong: options: expected in the first message, and items in those behind it."),
        (
            [item(CANARY)],
            "1 field of this request is wrong: options: expected in the first message, and items in those behind it.",
        ),
        ([options(deployment="nobody")], "no deployment of that name here. There are: 'keeping', 'triage'."),
        ([options(top=0)], "1 field of this request is wrong: options.top: input should be greater than or equal to 1."),
    ],
)
def test_a_stream_that_begins_wrong_is_refused_whole(sent: list[Any], sentence: str, stub: OrchestratorStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.PredictStream(iter(sent)))
    assert caught.value.details() == sentence


def test_each_call_is_told_on_with_names_and_numbers(stub: OrchestratorStub, finished: list[Finished]) -> None:
    finished.clear()
    stub.Predict(
        pb.PredictRequest(deployment="triage", items=[text(CANARY), text("b")]), metadata=[("x-request-id", "told")]
    )
    with pytest.raises(grpc.RpcError):
        stub.Predict(pb.PredictRequest(deployment=CANARY, items=[text(CANARY)]))
    good, bad = finished
    assert (good.request_id, good.route, good.status, good.deployment, good.items, good.error) == (
        "told", "/raystore.v1.Orchestrator/Predict", 200, "triage", 2, None,
    )  # fmt: skip
    assert (bad.status, bad.deployment, bad.error) == (404, "", "DeploymentNotFound")
    assert CANARY not in repr(finished)


def test_an_unforeseen_failure_shows_and_logs_its_type_alone(caplog: pytest.LogCaptureFixture) -> None:
    def provider() -> Orchestrator | None:
        raise RuntimeError(CANARY)

    with (
        serving(provider, AppSpec()) as address,
        stub_of(address) as stub,
        caplog.at_level(logging.DEBUG),
        pytest.raises(grpc.RpcError) as caught,
    ):
        stub.Predict(pb.PredictRequest(deployment="triage", items=[text(CANARY)]))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert (
        caught.value.details()
        == "the request could not be answered: RuntimeError. Nothing is known of the cause to a caller."
    )
    assert "failed with RuntimeError" in caplog.text
    assert CANARY not in caplog.text


def test_a_key_is_demanded_with_the_verb_of_the_method(orchestrator: Orchestrator, served: Served, tmp_path: Path) -> None:
    rooms = served.rooms
    keys = ApiKeys(rooms.layout, rooms.store_key)
    reader, writer = (
        keys.create("grpc_reader", frozenset({Verb.PREDICT})),
        keys.create("grpc_writer", frozenset({Verb.LOG})),
    )
    predict = pb.PredictRequest(deployment="triage", items=[text("a card")])
    with serving(lambda: orchestrator, AppSpec(), Door(keys)) as address, stub_of(address) as stub:

        def code(call: Any, sent: Any, key: str | None) -> Any:
            try:
                found = call(sent, metadata=[("authorization", f"Bearer {key}")] if key else None)
                _ = list(found) if call is stub.PredictStream else found
            except grpc.RpcError as error:
                return error.code(), told(error)["type"]
            return "answered"

        assert code(stub.Predict, predict, None) == (grpc.StatusCode.UNAUTHENTICATED, "KeyRequired")
        assert code(stub.Predict, predict, "rs.nonsense") == (grpc.StatusCode.UNAUTHENTICATED, "KeyRequired")
        assert code(stub.Predict, predict, writer) == (grpc.StatusCode.PERMISSION_DENIED, "NotAllowed")
        assert code(stub.PredictStream, iter([options()]), writer) == (grpc.StatusCode.PERMISSION_DENIED, "NotAllowed")
        assert code(stub.Log, pb.LogRequest(collection="tickets"), reader) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "NotAllowed",
        )
        assert code(stub.Predict, predict, reader) == "answered"
        denied = (grpc.StatusCode.PERMISSION_DENIED, "NotAllowed")  # evidence names rows, as a search does
        assert code(stub.Predict, pb.PredictRequest(deployment="triage", items=[text("a")], evidence=1), reader) == denied
        assert code(stub.PredictStream, iter([options(evidence=1)]), reader) == denied
        assert code(stub.PredictStream, iter([options()]), reader) == "answered"


def check_health(address: str, service: str = "") -> bytes:
    request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    with grpc.insecure_channel(address) as channel:
        found: bytes = channel.unary_unary("/grpc.health.v1.Health/Check")(request)
        return found


def test_health_is_the_standard_service_and_follows_readiness(orchestrator: Orchestrator) -> None:
    ready: list[Orchestrator | None] = [None]
    with serving(lambda: ready[0], AppSpec()) as address, grpc.insecure_channel(address) as channel:
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert (check_health(address), next(watched)) == (b"\x08\x02", b"\x08\x02")
        with stub_of(address) as stub, pytest.raises(grpc.RpcError) as caught:
            stub.Predict(pb.PredictRequest(deployment="triage", items=[text("a")]))
        assert (caught.value.code(), told(caught.value)["type"]) == (grpc.StatusCode.UNAVAILABLE, "NotReady")
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        ready[0] = orchestrator
        assert next(watched) == b"\x08\x01"
        assert check_health(address, "raystore.v1.Orchestrator") == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            check_health(address, "somebody.Else")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        watched.cancel()


def test_few_may_watch_at_once_and_all_are_told_of_a_change(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_WATCHING", 2)
    ready: list[Orchestrator | None] = [None]
    with serving(lambda: ready[0], AppSpec()) as address, grpc.insecure_channel(address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        two = [watch(b""), watch(b"")]
        assert [next(each) for each in two] == [b"\x08\x02", b"\x08\x02"]
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(b""))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "2 calls watch already. Ask Check instead, or try again later."
        ready[0] = orchestrator
        assert [next(each) for each in two] == [b"\x08\x01", b"\x08\x01"]
        two[0].cancel()
        for _ in range(600):  # the server hears of it in a moment
            third = watch(b"")
            try:
                assert next(third) == b"\x08\x01"
                break
            except grpc.RpcError:
                time.sleep(0.05)
        else:
            pytest.fail("a place that was given back was not found")
        for each in (two[1], third):
            each.cancel()


@pytest.mark.parametrize(
    ("request_bytes", "service"),
    [
        (b"", ""),
        (b"\x0a\x01a", "a"),
        (b"\x0a\x02a", None),
        (b"\x12\x01a", None),
        (b"\x0a", None),
        (b"\x0a\x80\x01" + b"a" * 128, None),
    ],
)
def test_a_health_request_names_a_service_or_none(request_bytes: bytes, service: str | None) -> None:
    assert asked_service(request_bytes) == service


def test_a_deadline_that_is_over_ends_the_call(orchestrator: Orchestrator, served: Served) -> None:
    with serving(lambda: orchestrator, AppSpec()) as address, stub_of(address) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(pb.PredictRequest(deployment="triage", items=[text("a card")]), timeout=1e-6)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_http_and_grpc_share_the_places_of_a_replica(served: Served) -> None:
    rooms = served.rooms
    held = Held(rooms.load_encoder(served.fingerprint, 1))
    slow = rooms.orchestrator(AppSpec(), threads=1, away=lambda _: held)
    slow.update(rooms.live({"triage": recorded(rooms, "triage", "refunds@2")}))
    spec = AppSpec(limits=Limits(max_requests=1))
    admission = Admission(spec.limits)
    sent = pb.PredictRequest(deployment="triage", items=[text("a card")])
    app = make_app(lambda: slow, spec, admission=admission)
    with (
        serving(lambda: slow, spec, admission=admission) as address,
        stub_of(address) as stub,
        TestClient(app, base_url="http://127.0.0.1:8000") as http,
    ):
        under_way = stub.Predict.future(sent)
        assert held.begun.wait(60)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(sent)
        assert (caught.value.code(), told(caught.value)["type"]) == (grpc.StatusCode.UNAVAILABLE, "Overloaded")
        over = http.post("/v1/predict/triage", json={"text": "a card"})
        assert (over.status_code, over.json()["error"]["type"]) == (503, "Overloaded")
        held.go.set()
        assert under_way.result(60).predictions[0].label == "card"
        assert http.post("/v1/predict/triage", json={"text": "a card"}).status_code == 200
        assert stub.Predict(sent).predictions[0].label == "card"


def test_a_call_whose_message_does_not_come_is_ended_and_leaves_places(orchestrator: Orchestrator) -> None:
    spec = AppSpec(limits=Limits(max_requests=2, deadline_s=0.5))
    never: queue.Queue[bytes | None] = queue.Queue()
    with (
        serving(lambda: orchestrator, spec) as address,
        stub_of(address) as stub,
        grpc.insecure_channel(address) as channel,
    ):
        slow = channel.stream_unary("/raystore.v1.Orchestrator/Predict").future(iter(never.get, None))
        sent = pb.PredictRequest(deployment="triage", items=[text("a card")])
        assert stub.Predict(sent).predictions[0].label == "card"
        with pytest.raises(grpc.RpcError) as caught:
            slow.result(60)
        never.put(None)
    assert (caught.value.code(), told(caught.value)["type"]) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BodyTooSlow")


class Feed:
    """A stream's messages, put one by one."""

    def __init__(self, stub: OrchestratorStub, **more: Any) -> None:
        self._sent: queue.Queue[pb.StreamRequest | None] = queue.Queue()
        self.answers = stub.PredictStream(iter(self._sent.get, None), **more)
        self.put(options())

    def put(self, sent: pb.StreamRequest | None) -> None:
        self._sent.put(sent)

    def ended(self) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            list(self.answers)
        self.put(None)
        return caught.value


def test_a_key_with_sizes_of_its_own_is_held_to_them(orchestrator: Orchestrator, served: Served) -> None:
    keys = ApiKeys(served.rooms.layout, served.rooms.store_key)
    key = keys.create("grpc_small", sizes=Sizes(max_body_bytes=1_024, max_items=1))
    metadata = [("authorization", f"Bearer {key}")]
    with serving(lambda: orchestrator, AppSpec(), Door(keys)) as address, stub_of(address) as stub:
        for sent, problem in (
            ([text("a")] * 2, "request.items has 2 items, over the limit of 1."),
            ([text("a" * 2_000)], "the message has 2014 bytes, over the limit of 1024."),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(pb.PredictRequest(deployment="triage", items=sent), metadata=metadata)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, problem)
        asked = pb.PredictRequest(deployment="triage", items=[text("a card")])
        assert stub.Predict(asked, metadata=metadata).predictions[0].label == "card"


def test_a_revoked_key_ends_its_open_streams(orchestrator: Orchestrator, served: Served) -> None:
    keys = ApiKeys(served.rooms.layout, served.rooms.store_key)
    now = [100.0]
    door = Door(keys, clock=lambda: now[0])
    key = keys.create("grpc_feed", [Verb.PREDICT])
    with serving(lambda: orchestrator, AppSpec(), door) as address, stub_of(address) as stub:
        feed = Feed(stub, metadata=[("authorization", f"Bearer {key}")])
        for i in range(2):
            feed.put(item("the card"))
            assert next(feed.answers).line.line == i
        keys.revoke("grpc_feed")
        now[0] += BELIEVED_S
        feed.put(item(CANARY))
        error = feed.ended()
    assert (error.code(), told(error)["type"]) == (grpc.StatusCode.UNAUTHENTICATED, "KeyRequired")


def test_a_stream_over_its_rate_is_ended_with_how_long_to_wait(orchestrator: Orchestrator) -> None:
    door = Door(None, rates=Buckets(Rates(requests_per_s=0.001, burst=1)))
    with serving(lambda: orchestrator, AppSpec(), door) as address, stub_of(address) as stub:
        feed = Feed(stub)
        for i in range(64):
            feed.put(item("the card"))
            assert next(feed.answers).line.line == i
        feed.put(item("the card"))
        error = feed.ended()
    assert (error.code(), told(error)["type"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RateExceeded")
    wait_ms = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
    assert wait_ms >= 1000 * int(told(error)["retry_after_s"])


def test_a_stream_that_sends_nothing_is_ended(orchestrator: Orchestrator) -> None:
    spec = AppSpec(limits=Limits(stream_idle_s=0.5))
    with serving(lambda: orchestrator, spec) as address, stub_of(address) as stub:
        feed = Feed(stub)
        feed.put(item("the card"))
        assert next(feed.answers).line.line == 0
        error = feed.ended()
    assert (error.code(), error.details()) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "the next line of this stream did not come whole within 0.5 s, and is waited for no longer.",
    )


def test_more_streams_than_are_taken_are_turned_away(orchestrator: Orchestrator) -> None:
    with serving(lambda: orchestrator, AppSpec(limits=Limits(max_streams=1))) as address, stub_of(address) as stub:
        feed = Feed(stub)
        feed.put(item("the card"))
        assert next(feed.answers).line.line == 0
        error = Feed(stub).ended()
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "1 streams are open here, and no more are taken. Try again in a moment.",
        )
        feed.put(None)
        assert next(feed.answers).done.done == 1


def test_a_stream_whose_answers_nobody_reads_loses_its_place(orchestrator: Orchestrator) -> None:
    spec = AppSpec(limits=Limits(max_streams=1, stream_idle_s=0.5))
    enough = threading.Event()

    def endless() -> Iterator[pb.StreamRequest]:
        yield options()
        while not enough.is_set():
            yield item(" ")

    little = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096)]  # of what nobody reads is taken
    with (
        serving(lambda: orchestrator, spec) as address,
        grpc.insecure_channel(address, options=little) as channel,
        stub_of(address) as other,
    ):
        unread = OrchestratorStub(channel).PredictStream(endless())
        assert next(unread).line.line == 0
        for _ in range(100):
            try:
                [last] = other.PredictStream(iter([options()]))
                break
            except grpc.RpcError as error:
                assert told(error)["type"] == "Overloaded"  # noqa: PT017 - until the other has lost its place
                time.sleep(0.2)
        enough.set()
        unread.cancel()
    assert last.done.done == 0


def test_a_call_under_way_is_answered_while_the_server_stops(orchestrator: Orchestrator) -> None:
    hold: queue.Queue[pb.StreamRequest | None] = queue.Queue()
    with ExitStack() as stack:
        server = stack.enter_context(ExitStack())
        address = server.enter_context(serving(lambda: orchestrator, AppSpec()))
        stub = stack.enter_context(stub_of(address))
        hold.put(options())
        hold.put(item("the card"))
        answers = stub.PredictStream(iter(hold.get, None))
        assert next(answers).line.line == 0
        stopping = threading.Thread(target=server.close)
        stopping.start()
        hold.put(item("return the money"))
        hold.put(None)
        assert [next(answers).WhichOneof("what"), next(answers).WhichOneof("what")] == ["line", "done"]
        stopping.join(20)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(pb.PredictRequest(deployment="triage", items=[text("a card")]), timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_two_replicas_share_a_port_and_nobody_else_takes_it(orchestrator: Orchestrator) -> None:
    port = free_port()
    with (
        serving(lambda: orchestrator, AppSpec(), port=port) as address,
        serving(lambda: orchestrator, AppSpec(), port=port),
    ):
        assert check_health(address) == b"\x08\x01"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(AddressInUse) as caught, serving(lambda: orchestrator, AppSpec(), port=taken):
            pass
    assert (
        str(caught.value)
        == f"127.0.0.1:{taken} is in use. Stop what listens there, or choose another port (port=, --port)."
    )


def test_over_tls_with_the_files_of_the_spec(orchestrator: Orchestrator, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    spec = AppSpec.model_validate({"tls": {"certificate": str(certificate), "key": str(key)}})
    trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
    named = (("grpc.ssl_target_name_override", "localhost"),)
    with serving(lambda: orchestrator, spec) as address, grpc.secure_channel(address, trusted, named) as channel:
        answer = OrchestratorStub(channel).Predict(pb.PredictRequest(deployment="triage", items=[text("a card")]))
        assert answer.predictions[0].label == "card"
        with stub_of(address) as plain, pytest.raises(grpc.RpcError):
            plain.Predict(pb.PredictRequest(deployment="triage", items=[text("a card")]))
    missing = AppSpec.model_validate({"tls": {"certificate": str(certificate), "key": str(tmp_path / "gone.pem")}})
    with pytest.raises(InvalidArguments) as caught, serving(lambda: orchestrator, missing):
        pass
    assert str(caught.value) == (
        f"serve over TLS: the file '{tmp_path / 'gone.pem'}' cannot be read (No such file or directory)."
    )


def test_a_renewed_certificate_is_shown_to_new_connections_and_those_before_go_on(
    orchestrator: Orchestrator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = self_signed(tmp_path)
    spec = AppSpec.model_validate({"tls": {"certificate": str(certificate), "key": str(key)}})
    named = (("grpc.ssl_target_name_override", "localhost"),)
    asked = pb.PredictRequest(deployment="triage", items=[text("a card")])

    with ExitStack() as stack:
        address = stack.enter_context(serving(lambda: orchestrator, spec))
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        before = OrchestratorStub(stack.enter_context(grpc.secure_channel(address, trusted, named)))
        hold: queue.Queue[pb.StreamRequest | None] = queue.Queue()
        hold.put(options())
        hold.put(item("the card"))
        answers = before.PredictStream(iter(hold.get, None))
        assert next(answers).line.line == 0

        port = int(address.rpartition(":")[2])
        renewed = made(2)
        certificate.write_bytes(renewed[0])  # its key comes later
        assert [shown_serial(port) for _ in range(3)] == [1, 1, 1]
        key.write_bytes(renewed[1])
        assert shown_serial(port) == 2
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        after = OrchestratorStub(stack.enter_context(grpc.secure_channel(address, trusted, named)))
        assert after.Predict(asked).predictions[0].label == "card"

        key.unlink()
        assert shown_serial(port) == 2
        hold.put(item("return the money"))
        hold.put(None)
        assert [next(answers).WhichOneof("what"), next(answers).WhichOneof("what")] == ["line", "done"]
        assert before.Predict(asked).predictions[0].label == "card"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"serve over TLS: '{certificate}' and '{key}' are no certificate and its key (key values mismatch). "
        "The certificate from before stays",
        f"serve over TLS: the file '{key}' cannot be read (No such file or directory). The certificate from before stays",
    ]


def test_the_generated_code_is_of_this_proto_file() -> None:
    """Every message, field, number and method of the file is in the descriptor, and the other way round."""
    assert described() == written(PROTO.read_text(encoding="utf-8"))


def test_the_generated_code_is_what_protoc_makes(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed; the descriptor is compared in any case")
    root = PROTO.parents[3]
    relative = str(PROTO.relative_to(root))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), f"--python_out={tmp_path}", relative]
    subprocess.run(command, check=True)
    made = (tmp_path / relative).with_name("raystore_pb2.py").read_text(encoding="utf-8")

    def serialized(code: str) -> bytes:
        calls = [
            n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) and "AddSerializedFile" in ast.unparse(n.func)
        ]
        return bytes(ast.literal_eval(calls[0].args[0]))

    assert serialized(made) == serialized(Path(pb.__file__).read_text(encoding="utf-8"))


def described() -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()

    def add(message: Any) -> None:
        for field in message.fields:
            kind = field.message_type or field.enum_type
            entry = kind is not None and kind.GetOptions().map_entry
            if entry:
                key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
                name = f"map<{scalar(key)},{scalar(value)}>"
            else:
                name = scalar(field)
            optional = field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"
            label = "optional" if optional else "repeated" if field.is_repeated and not entry else ""
            found.add((message.name, label, name, field.name, str(field.number)))
        for nested in message.nested_types:
            if not nested.GetOptions().map_entry:
                add(nested)

    for message in pb.DESCRIPTOR.message_types_by_name.values():
        add(message)
    for method in pb.DESCRIPTOR.services_by_name["Orchestrator"].methods:
        ways = (
            f"{'stream ' * method.client_streaming}{method.input_type.name}",
            f"{'stream ' * method.server_streaming}{method.output_type.name}",
        )
        found.add(("rpc", method.name, *ways))
    return found


def scalar(field: Any) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    return next(
        n.removeprefix("TYPE_").lower()
        for n, v in vars(FieldDescriptor).items()
        if n.startswith("TYPE_") and v == field.type
    )


def written(proto: str) -> set[tuple[str, ...]]:
    """As `described`, by a reading of the file's lines: one declaration a line, as it is written."""
    found: set[tuple[str, ...]] = set()
    stack: list[str] = []
    for line in proto.splitlines():
        code = line.split("//")[0].strip()
        if match := re.fullmatch(r"(message|oneof|service) (\w+) \{", code):
            stack.append(match[2] if match[1] == "message" else "")
        elif code == "}":
            stack.pop()
        elif match := re.fullmatch(r"(?:(optional|repeated) )?([\w.]+|map<[^>]+>) (\w+) = (\d+);", code):
            message = next(name for name in reversed(stack) if name)
            kind = match[2] if match[2].startswith("map") else match[2].rpartition(".")[2]
            found.add((message, match[1] or "", kind.replace(" ", ""), match[3], match[4]))
        elif match := re.fullmatch(r"rpc (\w+)\((.+)\) returns \((.+)\);", code):
            found.add(("rpc", match[1], match[2], match[3]))
    return found


def test_messages_of_a_stream_wait_by_bytes_and_not_by_number_alone() -> None:
    came: list[bytes] = []

    async def sent() -> AsyncIterator[bytes]:
        for size in (400, 400, 400, 2_000, 1, 1):
            came.append(b"x" * size)
            yield came[-1]

    async def run() -> list[list[int]]:
        groups: list[list[int]] = []
        async for group in _together(sent(), most=1_000):
            groups.append([len(message) for message in group])
            await asyncio.sleep(0.01)  # what may come meanwhile does
            waiting = came[sum(map(len, groups)) :]
            assert sum(map(len, waiting[:-1])) <= 1_000 or len(waiting) <= 2, "beside the one that waits for room"
        return groups

    assert asyncio.run(run()) == [[400, 400], [400], [2_000], [1, 1]]


def test_the_messages_have_the_fields_of_http() -> None:
    def fields(message: Any) -> set[str]:
        return set(message.DESCRIPTOR.fields_by_name)

    assert fields(pb.PredictItem) - {"image"} == set(PredictItem.model_fields)  # over HTTP an image is a text
    assert fields(pb.LogRow) - {"columns"} == set(LogRow.model_fields)  # over HTTP columns are further fields
    assert fields(pb.PredictRequest) == {"deployment", "items", *PredictOptions.model_fields}
    assert fields(pb.StreamOptions) == {"deployment", *PredictOptions.model_fields}
    kinds = (Prediction, LabelsPrediction, NumberPrediction)
    assert fields(pb.Prediction) == set().union(*(kind.model_fields for kind in kinds))
    assert fields(pb.PredictAnswer) == set(PredictAnswer.model_fields)
    assert fields(pb.Lineage) == set(Lineage.model_fields)
    assert fields(pb.LogAnswer) == set(LogAnswer.model_fields)
