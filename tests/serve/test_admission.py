"""How much a replica takes at once: who sends slowly, and open streams, leave places for the rest. Over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from raystore.errors import BodyTooSlow, Overloaded
from raystore.serve.door.admission import Admission
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec, Limits
from tests.serve.conftest import Served
from tests.serve.serving import Held, Serving, running

TEXT = "the card never arrived"
PREDICT, STREAM = "/v1/predict/slow", "/v1/predict/slow/stream"
JSON, NDJSON = "application/json", "application/x-ndjson"


@pytest.fixture(scope="module")
def serving(served: Served) -> Serving:
    return Serving(served.rooms)


@contextmanager
def listening(serving: Serving, **limits: Any) -> Iterator[int]:
    """The port of a service of these limits."""
    service = serving.serve({"slow": {"head": "refunds@2"}})
    spec = AppSpec(limits=Limits(**limits))
    with running(make_app(lambda: service.orchestrator, spec)) as url:
        yield int(url.rpartition(":")[2])


class Sender:
    """A connection that sends a request piece by piece."""

    def __init__(self, port: int, path: str, kind: str, *headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.answer = self.socket.makefile("rb")
        lines = [
            f"POST {path} HTTP/1.1",
            "host: localhost",
            f"content-type: {kind}",
            *headers,
            "transfer-encoding: chunked",
            "",
            "",
        ]
        self.socket.sendall("\r\n".join(lines).encode())

    def send(self, piece: bytes) -> None:
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.answer.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self.answer.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers

    def body(self, headers: dict[str, str]) -> Any:
        return json.loads(self.answer.read(int(headers["content-length"])))

    def lines(self) -> list[Any]:
        """Those of the next chunk of a stream's answer; none at its end."""
        size = int(self.answer.readline(), 16)
        found = [json.loads(line) for line in self.answer.read(size).splitlines()]
        self.answer.readline()
        return found

    def close(self) -> None:
        self.answer.close()
        self.socket.close()


@contextmanager
def sender(port: int, path: str, kind: str, *headers: str) -> Iterator[Sender]:
    one = Sender(port, path, kind, *headers)
    try:
        yield one
    finally:
        one.close()


def predicted(port: int) -> tuple[int, Any]:
    """Status and label, or the error's type, of a whole request."""
    with sender(port, PREDICT, JSON) as one:
        one.send(json.dumps({"text": TEXT}).encode())
        one.end()
        status, headers = one.head()
        body = one.body(headers)
        return status, body["error"]["type"] if "error" in body else body["predictions"][0]["label"]


def line_of(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def test_bodies_that_come_slowly_leave_places_for_requests_that_come_whole(serving: Serving) -> None:
    with listening(serving, max_requests=6, max_sending=6) as port, ExitStack() as stack:
        slow = [stack.enter_context(sender(port, PREDICT, JSON)) for _ in range(5)]
        for one in slow:
            one.send(b'{"text": ')
        assert predicted(port) == (200, "card")
        for one in slow:
            one.send(b'"return the money"}')
            one.end()
            status, headers = one.head()
            assert (status, one.body(headers)["predictions"][0]["label"]) == (200, "money")


def test_a_body_that_is_not_whole_in_time_is_answered_408(serving: Serving) -> None:
    with listening(serving, deadline_s=0.3) as port, sender(port, PREDICT, JSON, "x-request-id: slow-1") as one:
        one.send(b'{"text": ')
        status, headers = one.head()
        assert (status, headers["connection"]) == (408, "close")
        assert one.body(headers) == {
            "error": {
                "type": "BodyTooSlow",
                "message": "the body of this request did not come whole within 0.3 s, and is waited for no longer.",
                "request_id": "slow-1",
            }
        }
        assert one.answer.read() == b""


def test_a_request_that_gives_itself_less_time_is_waited_for_no_longer(serving: Serving) -> None:
    with listening(serving) as port, sender(port, PREDICT, JSON, "x-raystore-deadline-ms: 200") as one:
        one.send(b'{"text": ')
        status, headers = one.head()
        assert (status, one.body(headers)["error"]["message"].split(",")[0]) == (
            408,
            "the body of this request did not come whole within 0.2 s",
        )


def test_where_too_many_send_slowly_the_oldest_goes_and_who_sends_at_once_is_answered(serving: Serving) -> None:
    with listening(serving, max_sending=2) as port, ExitStack() as stack:
        first = stack.enter_context(sender(port, PREDICT, JSON))
        first.send(b'{"text": ')
        for _ in range(2):
            stack.enter_context(sender(port, PREDICT, JSON)).send(b"{")
        status, headers = first.head()
        assert (status, headers["retry-after"], first.body(headers)["error"]["message"]) == (
            503,
            "1",
            "2 requests are still being sent here, and no more are taken. Try again in a moment.",
        )
        assert predicted(port) == (200, "card")
        assert predicted(port) == (200, "card")


def test_more_streams_than_are_taken_are_refused_at_once_and_requests_are_not(serving: Serving) -> None:
    with listening(serving, max_streams=1) as port, sender(port, STREAM, NDJSON) as one:
        one.send(line_of(TEXT))
        assert one.head()[0] == 200
        assert one.lines()[0]["prediction"]["label"] == "card"
        with sender(port, STREAM, NDJSON) as other:
            status, headers = other.head()
            assert (status, other.body(headers)["error"]["message"]) == (
                503,
                "1 streams are open here, and no more are taken. Try again in a moment.",
            )
        assert predicted(port) == (200, "card")
        one.end()
        assert one.lines()[0]["done"] == 1
        assert one.lines() == []
        with sender(port, STREAM, NDJSON) as other:
            other.end()
            assert other.head()[0] == 200


def test_open_streams_leave_places_for_requests(serving: Serving) -> None:
    with listening(serving, max_requests=4, max_streams=3) as port, ExitStack() as stack:
        open_ = [stack.enter_context(sender(port, STREAM, NDJSON)) for _ in range(3)]
        assert [one.head()[0] for one in open_] == [200] * 3
        for one in open_:
            one.send(line_of(TEXT))
            assert one.lines()[0]["prediction"]["label"] == "card"
        assert predicted(port) == (200, "card")


def test_a_stream_that_begins_while_all_places_are_taken_is_refused(serving: Serving, served: Served) -> None:
    held = Held(serving.rooms.load_encoder(served.fingerprint, 1))
    service = serving.serve({"slow": {"head": "refunds@2"}}, away=lambda _: held)
    app = make_app(lambda: service.orchestrator, AppSpec(limits=Limits(max_requests=1)))
    with running(app) as url, ThreadPoolExecutor(1) as threads:
        port = int(url.rpartition(":")[2])
        first = threads.submit(predicted, port)
        assert held.begun.wait(60)
        with sender(port, STREAM, NDJSON) as late:
            assert late.head()[0] == 503
        held.go.set()
        assert first.result(60) == (200, "card")


def test_a_stream_that_sends_no_line_is_ended_with_a_line_that_says_so(serving: Serving) -> None:
    with listening(serving, stream_idle_s=0.5) as port, sender(port, STREAM, NDJSON, "x-request-id: idle-1") as one:
        one.send(line_of(TEXT) + b'{"text": "not a whole')
        assert one.head()[0] == 200
        assert one.lines()[0]["prediction"]["label"] == "card"
        [last] = one.lines()
        assert (last["done"], last["failed"], last["lineage"]["head"], last["request_id"]) == (1, 0, "refunds@2", "idle-1")
        assert last["error"] == {
            "type": "BodyTooSlow",
            "message": "the next line of this stream did not come whole within 0.5 s, and is waited for no longer.",
            "request_id": "idle-1",
        }
        assert one.lines() == []


def test_a_stream_whose_answers_nobody_reads_loses_its_place(serving: Serving) -> None:
    with listening(serving, max_streams=1, stream_idle_s=0.5) as port, sender(port, STREAM, NDJSON) as one:
        assert one.head()[0] == 200
        one.socket.settimeout(2)
        with pytest.raises(OSError, match=r"timed out|reset|Broken pipe"):
            _flood(one)
        for _ in range(100):
            with sender(port, STREAM, NDJSON) as other:
                other.end()
                status = other.head()[0]
            if status == 200:
                break
            time.sleep(0.2)
        assert status == 200


def _flood(one: Sender) -> None:
    for _ in range(10_000):
        one.send(b"no JSON\n" * 1_000)


# The counts alone.


def test_limits_that_change_keep_the_counts() -> None:
    told: list[int] = []
    admission = Admission(Limits(max_requests=2), told.append)
    admission.enter()
    admission.enter()
    admission.limits = Limits(max_requests=3)
    admission.enter()
    with pytest.raises(Overloaded) as full:
        admission.enter()
    assert str(full.value) == "3 requests are under way here, and no more are taken. Try again in a moment."
    admission.limits = Limits(max_requests=1)
    for _ in range(2):
        admission.leave()
        with pytest.raises(Overloaded):
            admission.enter()
    admission.leave()
    admission.enter()
    assert told == [1, 2, 3, 2, 1, 0, 1]


def test_what_comes_in_time_leaves_nothing_behind_and_what_raises_does_neither() -> None:
    async def run() -> None:
        admission = Admission(Limits(max_sending=1))
        for _ in range(3):
            async with admission.coming(60):
                await asyncio.sleep(0)
            with pytest.raises(ValueError, match="mine"):
                async with admission.coming(60):
                    raise ValueError("mine")
        with pytest.raises(BodyTooSlow):
            async with admission.coming(0):
                await asyncio.sleep(60)
        async with admission.coming(60):
            await asyncio.sleep(0)

    asyncio.run(run())
