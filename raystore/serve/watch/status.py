"""What GET /v1/status says: what answers, how it is doing, what was lost. From the merged metrics; knows no HTTP and no Ray.

Rates and quantiles are of the last minute and the last five, from a short history of the counters. Which alerts are true is
Prometheus's to say: their rules look back up to 30 minutes, for which nothing is kept here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel

from raystore import __version__
from raystore.serve.watch import table
from raystore.serve.watch.merging import Series
from raystore.serve.watch.metrics import Value
from raystore.serve.watch.table import Metric

WINDOWS_S = {"1m": 60.0, "5m": 300.0}
_EVERY_S = 5.0
_REFUSED = ("429", "503")


class Canary(BaseModel):
    head: str
    percent: float


class Serving(BaseModel):
    """What answers under a deployment's name, as whoever deployed it knows."""

    name: str
    number: int
    head: str
    encoder: str
    shadows: list[str] = []
    canary: Canary | None = None


class Recent(BaseModel):
    """Requests of a window. Quantiles lie within a bucket of the histogram, as Prometheus estimates them."""

    seconds: float  # what the window covers; less than its name says right after the start
    requests: int
    per_s: float
    error_rate: float  # share answered with 500 or more, but 503
    refused_rate: float  # share answered with 429 or 503: more than is taken
    p50_ms: float | None
    p99_ms: float | None


class Drifting(BaseModel):
    psi: dict[str, float]
    mean_shift: float
    auc: float
    measured_at: float


class DeploymentStatus(Serving):
    recent: dict[str, Recent]
    drift: Drifting | None
    review_open: int | None


class QueueStatus(BaseModel):
    depth: int
    limit: int | None


class EncoderStatus(BaseModel):
    processes: int
    golden_cosine: float | None
    golden_checked_at: float | None


class Lost(BaseModel):
    """Since the start: rows that were not logged and requests that no shadow saw, by why."""

    log: dict[str, dict[str, int]]
    shadow: dict[str, dict[str, int]]


class StatusAnswer(BaseModel):
    version: str
    up_s: float
    processes: dict[str, int]
    in_flight: int
    deployments: list[DeploymentStatus]
    queues: dict[str, QueueStatus]
    encoders: dict[str, EncoderStatus]
    dropped: Lost


class History:
    """The request counters of the last five minutes, every few seconds. Safe in many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._kept: deque[tuple[float, Series]] = deque([(self._started, {})])
        self._lock = threading.Lock()

    @property
    def up_s(self) -> float:
        return self._clock() - self._started

    def add(self, series: Series) -> None:
        """Keep what windows need of the merged metrics; more often than every 5 s changes nothing."""
        now = self._clock()
        with self._lock:
            if now - self._kept[-1][0] < _EVERY_S:
                return
            self._kept.append((now, {m.name: series.get(m.name, {}) for m in (table.REQUESTS, table.REQUEST_SECONDS)}))
            while len(self._kept) > 1 and self._kept[1][0] <= now - max(WINDOWS_S.values()):
                self._kept.popleft()

    def recent(self, series: Series, deployment: str) -> dict[str, Recent]:
        """The windows of a deployment up to now, whose merged metrics are `series`."""
        return {name: self._window(series, deployment, seconds) for name, seconds in WINDOWS_S.items()}

    def _window(self, series: Series, deployment: str, seconds: float) -> Recent:
        now = self._clock()
        with self._lock:
            at, before = max((e for e in self._kept if e[0] <= now - seconds), default=self._kept[0], key=lambda e: e[0])
        counts: dict[str, float] = {}
        for labels, value in _rises(table.REQUESTS, before, series, deployment).items():
            counts[labels[2]] = counts.get(labels[2], 0) + value[0]
        buckets = [0.0] * (len(table.REQUEST_SECONDS.buckets) + 1)
        for value in _rises(table.REQUEST_SECONDS, before, series, deployment).values():
            buckets = [a + b for a, b in zip(buckets, value[1:], strict=True)]
        n = sum(counts.values())
        return Recent(
            seconds=round(now - at, 1),
            requests=int(n),
            per_s=round(n / max(now - at, 1e-9), 3),
            error_rate=_share(counts, n, lambda status: status >= "500" and status not in _REFUSED),
            refused_rate=_share(counts, n, lambda status: status in _REFUSED),
            p50_ms=_ms(quantile(0.5, table.REQUEST_SECONDS.buckets, buckets)),
            p99_ms=_ms(quantile(0.99, table.REQUEST_SECONDS.buckets, buckets)),
        )


def status(series: Series, deployments: Sequence[Serving], history: History) -> StatusAnswer:
    """The answer, from the merged metrics as they are now."""
    return StatusAnswer(
        version=__version__,
        up_s=round(history.up_s, 1),
        processes={labels[0]: int(value) for labels, value in _numbers(series, table.PROCESSES).items()},
        in_flight=int(sum(_numbers(series, table.IN_FLIGHT).values())),
        deployments=[_deployment(series, each, history) for each in deployments],
        queues=_queues(series),
        encoders=_encoders(series),
        dropped=Lost(log=_by_reason(series, table.LOG_DROPPED), shadow=_by_reason(series, table.SHADOW_DROPPED)),
    )


def quantile(q: float, bounds: Sequence[float], cumulative: Sequence[float]) -> float | None:
    """The q-quantile of a histogram, linear within its bucket; above the last bound that bound, of nothing None.

    Source: histogram_quantile of Prometheus.
    """
    total = cumulative[-1]
    if total <= 0:
        return None
    below, low = 0.0, 0.0
    for bound, upto in zip(bounds, cumulative, strict=False):
        if upto >= q * total:
            return low + (bound - low) * (q * total - below) / (upto - below) if upto > below else bound
        below, low = upto, bound
    return bounds[-1]


def _deployment(series: Series, serving: Serving, history: History) -> DeploymentStatus:
    name = serving.name
    psi = {labels[1]: value for labels, value in _numbers(series, table.DRIFT_PSI).items() if labels[0] == name}
    drift = None
    if psi:
        shift, auc, when = (
            _numbers(series, metric).get((name,), 0.0)
            for metric in (table.DRIFT_MEAN_SHIFT, table.DRIFT_AUC, table.DRIFT_MEASURED)
        )
        drift = Drifting(psi=psi, mean_shift=shift, auc=auc, measured_at=when)
    waiting = _numbers(series, table.REVIEW_OPEN).get((name,))
    return DeploymentStatus(
        **serving.model_dump(),
        recent=history.recent(series, name),
        drift=drift,
        review_open=None if waiting is None else int(waiting),
    )


def _queues(series: Series) -> dict[str, QueueStatus]:
    limits = _numbers(series, table.QUEUE_LIMIT)
    depths = _numbers(series, table.QUEUE_DEPTH)
    return {
        labels[0]: QueueStatus(depth=int(depth), limit=int(limits[labels]) if labels in limits else None)
        for labels, depth in sorted(depths.items())
    }


def _encoders(series: Series) -> dict[str, EncoderStatus]:
    loaded = _numbers(series, table.ENCODER_LOADED)
    cosines, checked = _numbers(series, table.GOLDEN_COSINE), _numbers(series, table.GOLDEN_CHECKED)
    return {
        labels[0]: EncoderStatus(
            processes=int(processes), golden_cosine=cosines.get(labels), golden_checked_at=checked.get(labels)
        )
        for labels, processes in sorted(loaded.items())
    }


def _by_reason(series: Series, metric: Metric) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (of, reason), value in sorted(_numbers(series, metric).items()):
        found.setdefault(of, {})[reason] = int(value)
    return found


def _numbers(series: Series, metric: Metric) -> dict[tuple[str, ...], float]:
    return {labels: value for labels, value in series.get(metric.name, {}).items() if not isinstance(value, list)}


def _rises(metric: Metric, before: Series, now: Series, deployment: str) -> Mapping[tuple[str, ...], list[float]]:
    """How much the series of a deployment rose; what fell began anew."""
    place = metric.labels.index("deployment")
    found: dict[tuple[str, ...], list[float]] = {}
    for labels, value in now.get(metric.name, {}).items():
        if labels[place] != deployment:
            continue
        new, old = _listed(value), _listed(before.get(metric.name, {}).get(labels, 0.0))
        old = old if len(old) == len(new) and old[-1] <= new[-1] else [0.0] * len(new)
        found[labels] = [a - b for a, b in zip(new, old, strict=True)]
    return found


def _listed(value: Value) -> list[float]:
    return value if isinstance(value, list) else [value]


def _share(counts: Mapping[str, float], total: float, of: Callable[[str], bool]) -> float:
    return round(sum(n for status, n in counts.items() if of(status)) / total, 6) if total else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)
