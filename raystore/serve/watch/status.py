"""What GET /v1/status says: what answers, how it is doing, what was lost. From the merged metrics; knows no HTTP and no Ray.

Rates and quantiles are of the last minute and the last five (`history.py`). Which alerts are true is
Prometheus's to say: their rules look back for hours, for which nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import BaseModel

from raystore import __version__
from raystore.serve.watch import table
from raystore.serve.watch.history import Window
from raystore.serve.watch.merger import Told
from raystore.serve.watch.merging import Series
from raystore.serve.watch.metrics import Value
from raystore.serve.watch.table import Metric

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

    seconds: float  # what the window covers: some more than its name says, less right after the start
    requests: int
    per_s: float
    error_rate: float  # share answered with 500 or more, but 503; 504 is among them
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
    """Since the start, by why: rows that were not logged, by collection; requests that no shadow saw, and predictions that were neither
    kept nor shown to shadows, by deployment. Of each deployment with a review queue, the items that found it full."""

    log: dict[str, dict[str, int]]
    shadow: dict[str, dict[str, int]]
    recording: dict[str, dict[str, int]]
    review: dict[str, int]


class StatusAnswer(BaseModel):
    version: str
    up_s: float
    processes: dict[str, int]
    in_flight: int
    deployments: list[DeploymentStatus]
    queues: dict[str, QueueStatus]
    encoders: dict[str, EncoderStatus]
    dropped: Lost


def status(told: Told, deployments: Sequence[Serving]) -> StatusAnswer:
    """The answer, from what all processes told."""
    series = told.series
    return StatusAnswer(
        version=__version__,
        up_s=round(told.up_s, 1),
        processes={labels[0]: int(value) for labels, value in _numbers(series, table.PROCESSES).items()},
        in_flight=int(sum(_numbers(series, table.IN_FLIGHT).values())),
        deployments=[_deployment(told, each) for each in deployments],
        queues=_queues(series),
        encoders=_encoders(series),
        dropped=Lost(
            log=_by_reason(series, table.LOG_DROPPED),
            shadow=_by_reason(series, table.SHADOW_DROPPED),
            recording=_by_reason(series, table.RECORDING_DROPPED),
            review={name: int(n) for (name,), n in sorted(_numbers(series, table.REVIEW_LEFT_OUT).items())},
        ),
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


def _deployment(told: Told, serving: Serving) -> DeploymentStatus:
    name, series = serving.name, told.series
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
        recent={each: _recent(window, name) for each, window in told.windows.items()},
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


def _recent(window: Window, deployment: str) -> Recent:
    counts: dict[str, float] = {}
    for labels, value in _of(window.rises, table.REQUESTS, deployment):
        counts[labels[2]] = counts.get(labels[2], 0) + value[0]
    buckets = [0.0] * (len(table.REQUEST_SECONDS.buckets) + 1)
    for _, value in _of(window.rises, table.REQUEST_SECONDS, deployment):
        buckets = [a + b for a, b in zip(buckets, value[1:], strict=True)]
    n = sum(counts.values())
    return Recent(
        seconds=round(window.seconds, 1),
        requests=int(n),
        per_s=round(n / max(window.seconds, 1e-9), 3),
        error_rate=_share(counts, n, lambda status: status >= "500" and status not in _REFUSED),
        refused_rate=_share(counts, n, lambda status: status in _REFUSED),
        p50_ms=_ms(quantile(0.5, table.REQUEST_SECONDS.buckets, buckets)),
        p99_ms=_ms(quantile(0.99, table.REQUEST_SECONDS.buckets, buckets)),
    )


def _of(series: Series, metric: Metric, deployment: str) -> Iterator[tuple[tuple[str, ...], list[float]]]:
    """The series of a deployment, with their labels."""
    place = metric.labels.index("deployment")
    for labels, value in series.get(metric.name, {}).items():
        if labels[place] == deployment:
            yield labels, _listed(value)


def _listed(value: Value) -> list[float]:
    return value if isinstance(value, list) else [value]


def _share(counts: Mapping[str, float], total: float, of: Callable[[str], bool]) -> float:
    return round(sum(n for status, n in counts.items() if of(status)) / total, 6) if total else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)
