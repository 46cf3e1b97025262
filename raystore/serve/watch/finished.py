"""What is known of a request when it has been answered, and the one place that tells metrics, log and traces about it.

Names, numbers and times, never content: what is not a field here cannot get into a log line or a span. Costs some 10 us, and 25 us more
with JSON lines. Knows no HTTP and no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raystore.serve.watch import table
from raystore.serve.watch.metrics import Metrics

# What else a client writes there is its own, so it is not repeated.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_STREAMS = ("/stream", "/PredictStream")


class Stage(NamedTuple):
    """A part of a request: "rules", "queue", "encode", "head", "evidence", "log", "search". One name may come twice, as rules do,
    before and after."""

    name: str
    start_s: float  # since the request began
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A request that was answered."""

    request_id: str
    method: str
    route: str  # the template, '/v1/predict/{deployment}'; "unmatched" where there is none. Never the path itself.
    status: int
    started_at: float  # seconds since 1970
    seconds: float
    deployment: str = ""  # one that exists: what a client made up is no label
    stages: Sequence[Stage] = ()
    items: int = 0
    key: str | None = None  # the key's name, or `token:` and its holder's
    error: str | None = None  # the error's type
    traceparent: str | None = None  # the W3C header, as it came

    @property
    def is_stream(self) -> bool:
        return self.route.endswith(_STREAMS)

    @property
    def known_method(self) -> str:
        return self.method if self.method in _METHODS else "_OTHER"

    def by_stage(self) -> dict[str, float]:
        """Seconds of each stage, of one that ran twice the sum."""
        found: dict[str, float] = {}
        for name, _, seconds in self.stages:
            found[name] = found.get(name, 0.0) + seconds
        return found


Teller = Callable[[Finished], None]


def tell_metrics(metrics: Metrics) -> Teller:
    """Counts requests, errors, latencies and stages; what an orchestrator alone knows it counts itself."""

    def tell(request: Finished) -> None:
        metrics.count(table.REQUESTS, request.route, request.deployment, str(request.status))
        if not request.is_stream:  # how long one is open says its client
            metrics.observe(table.REQUEST_SECONDS, request.seconds, request.route, request.deployment)
        if request.error is not None:
            metrics.count(table.ERRORS, request.route, request.error)
        for name, seconds in request.by_stage().items():
            metrics.observe(table.STAGE_SECONDS, seconds, request.deployment, name)

    return tell
