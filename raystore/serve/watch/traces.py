"""Spans of requests for OpenTelemetry, sent to an OTLP/HTTP endpoint in the background. Knows no HTTP server and no Ray.

They are made when a request has been answered, from its times, so tracing is off its path; making them costs some 0.1 ms of a sampled
request. A caller's `traceparent` (W3C Trace Context) puts a request into the caller's trace, and decides whether it is sampled.
Attributes are names and numbers; none holds content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raystore import __version__
from raystore.errors import ExtraNotInstalled
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.finished import Finished

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NS = 1_000_000_000


class Traces:
    """Where finished requests are told to become spans. Safe in many threads; a full queue drops spans, nothing waits."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("raystore", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def tell(self, request: Finished) -> None:
        """A server span of the request, and one of each of its stages within it."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        carrier = {"traceparent": request.traceparent} if request.traceparent else {}
        started = int(request.started_at * _NS)
        span = self._tracer.start_span(
            f"{request.known_method} {request.route}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=_attributes(request),
            start_time=started,
        )
        if span.is_recording():
            inside = set_span_in_context(span)
            for stage in request.stages:
                begin = started + int(stage.start_s * _NS)
                self._tracer.start_span(stage.name, context=inside, start_time=begin).end(begin + int(stage.seconds * _NS))
            if request.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end(started + int(request.seconds * _NS))

    def close(self) -> None:
        """Send what waits and end, within a few seconds."""
        self._provider.shutdown()


def span_exporter() -> Any:
    """OpenTelemetry's class that sends spans. ExtraNotInstalled: its package is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ExtraNotInstalled(what="traces", package="opentelemetry-exporter-otlp-proto-http", extra="otel") from None
    return OTLPSpanExporter


def open_traces(watch: Watch) -> Traces | None:
    """Traces to the endpoint of the deployment file; None where it names none.

    Credentials for the endpoint come from OpenTelemetry's own OTEL_EXPORTER_OTLP_HEADERS.

    Raises:
        ExtraNotInstalled: the exporter's package is missing.
    """
    if watch.traces is None:
        return None
    exporter = span_exporter()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(watch.trace_sample)),
        resource=Resource.create({"service.name": "raystore", "service.version": __version__}),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter(_signal(watch.traces), timeout=5)))
    return Traces(provider)


def _attributes(request: Finished) -> dict[str, Any]:
    """Named as OpenTelemetry's semantic conventions for HTTP servers name them, where those do."""
    named = {
        "http.request.method": request.known_method,
        "http.route": request.route,
        "http.response.status_code": request.status,
        "error.type": request.error,
        "raystore.request_id": request.request_id,
        "raystore.deployment": request.deployment or None,
        "raystore.items": request.items,
    }
    return {name: value for name, value in named.items() if value is not None}


def _signal(endpoint: str) -> str:
    """The address of an endpoint's traces: OTLP's own path where the endpoint has none."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + "/v1/traces"
