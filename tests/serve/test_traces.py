"""Spans of requests, sent to a real endpoint and decoded there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from raystore import __version__
from raystore.errors import ExtraNotInstalled
from raystore.serve.run.watching import Watching
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.finished import Finished, Stage
from raystore.serve.watch.metrics import Metrics
from raystore.serve.watch.traces import open_traces
from tests.serve.conftest import Served

ROUTE = "/v1/predict/{deployment}"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, INTERNAL, ERROR = 2, 1, 2  # of the protocol's enumerations


class Collector:
    """An OTLP/HTTP endpoint: keeps what it is sent, decoded."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.paths.append(self.path)
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Any]:
        found = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for one in found
            for resource in one.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(ExportTraceServiceRequest.FromString(self.bodies[0]).resource_spans[0].resource)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def finished(**changes: Any) -> Finished:
    stages = [
        Stage("rules", 0.0, 0.001),
        Stage("encode", 0.001, 0.004),
        Stage("head", 0.005, 0.0005),
        Stage("log", 0.0055, 0.002),
    ]
    given: dict[str, Any] = {
        "request_id": "9c1e",
        "method": "POST",
        "route": ROUTE,
        "status": 200,
        "started_at": 1700000000.0,
        "seconds": 0.008,
        "deployment": "triage",
        "stages": stages,
        "items": 2,
        "key": "shop",
    }
    return Finished(**{**given, **changes})


def sent(collector: Collector, *requests: Finished, path: str = "", sample: float = 1.0) -> list[Any]:
    traces = open_traces(Watch(traces=collector.address + path, trace_sample=sample))
    assert traces is not None
    for request in requests:
        traces.tell(request)
    traces.close()
    return collector.spans


def test_a_request_is_a_server_span_with_its_stages_inside(collector: Collector) -> None:
    spans = {span.name: span for span in sent(collector, finished())}
    assert set(spans) == {f"POST {ROUTE}", "rules", "encode", "head", "log"}
    server = spans[f"POST {ROUTE}"]
    assert server.kind == SERVER
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "raystore.request_id": "9c1e",
        "raystore.deployment": "triage",
        "raystore.items": 2,
    }
    assert (server.start_time_unix_nano, server.end_time_unix_nano) == (1700000000_000000000, 1700000000_008000000)
    encode = spans["encode"]
    assert (encode.kind, encode.parent_span_id, encode.trace_id) == (INTERNAL, server.span_id, server.trace_id)
    assert (encode.start_time_unix_nano, encode.end_time_unix_nano) == (1700000000_001000000, 1700000000_005000000)
    assert attributes(encode) == {}
    assert collector.resource["service.name"] == "raystore"
    assert collector.resource["service.version"] == __version__
    assert collector.paths == ["/v1/traces"]


def test_a_request_joins_the_trace_of_its_caller(collector: Collector) -> None:
    server = sent(collector, finished(stages=(), traceparent=f"00-{TRACE}-{PARENT}-01"))[0]
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)


@pytest.mark.parametrize(
    "bad", ["", "canary-zebra", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}", "00-" + "g" * 32]
)
def test_a_header_that_is_no_trace_context_begins_a_trace_and_is_not_repeated(collector: Collector, bad: str) -> None:
    server = sent(collector, finished(stages=(), traceparent=bad))[0]
    assert server.parent_span_id == b""
    assert b"zebra" not in b"".join(collector.bodies)


def test_a_caller_that_does_not_sample_is_not_sampled(collector: Collector) -> None:
    assert sent(collector, finished(traceparent=f"00-{TRACE}-{PARENT}-00")) == []


def test_a_share_of_the_traces_is_sampled(collector: Collector) -> None:
    spans = sent(collector, *(finished(stages=()) for _ in range(400)), sample=0.25)
    assert 50 < len(spans) < 150


def test_an_error_is_marked_with_its_type(collector: Collector) -> None:
    server = sent(collector, finished(stages=(), status=500, error="RuntimeError"))[0]
    assert server.status.code == ERROR
    assert server.status.message == ""
    assert attributes(server)["error.type"] == "RuntimeError"
    assert list(server.events) == []


def test_a_method_that_a_client_made_up_is_not_repeated(collector: Collector) -> None:
    server = sent(collector, finished(stages=(), method="ZEBRA"))[0]
    assert server.name == f"_OTHER {ROUTE}"
    assert b"ZEBRA" not in b"".join(collector.bodies)


def test_an_endpoint_with_a_path_is_taken_as_it_is(collector: Collector) -> None:
    sent(collector, finished(), path="/otlp/traces")
    assert collector.paths == ["/otlp/traces"]


def test_without_an_endpoint_there_are_no_traces() -> None:
    assert open_traces(Watch()) is None


def test_without_the_exporter_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ExtraNotInstalled) as caught:
        open_traces(Watch(traces="http://127.0.0.1:4318"))
    assert str(caught.value) == (
        "traces need opentelemetry-exporter-otlp-proto-http. Install it: pip install 'raystore[otel]'"
    )


def test_a_replica_that_ends_sends_the_spans_that_wait(collector: Collector, served: Served) -> None:
    watching = Watching(served.rooms.layout, Metrics("ingress"), None, {}, {})
    [tell] = watching.watch(Watch(traces=collector.address), tuple, dict)
    tell(finished())
    watching.close()
    assert [span.name for span in collector.spans if span.kind == SERVER] == [f"POST {ROUTE}"]
