"""Every metric, declared once: name, labels, help, buckets, and how the processes' values become one. Knows no library.

Names follow Prometheus: base units, `_total` for counters, `_seconds` and `_bytes`. Labels hold names of the store (deployments,
heads, rules, classes), route templates and status codes, never a value of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# At the low end what OpenVINO takes for a text, at the high end the longest deadline that is usual.
_REQUEST_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_STAGE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: it is a key on the hot path
class Metric:
    """`name` without the prefix; `most`: label sets of a process, beyond which every label is "other"."""

    name: str
    labels: tuple[str, ...]
    help: str
    most: int = 1_000

    @property
    def full_name(self) -> str:
        return f"raystore_{self.name}"


@dataclass(frozen=True, eq=False)
class Counter(Metric):
    """Only rises; processes are added up."""


@dataclass(frozen=True, eq=False)
class Gauge(Metric):
    """As it is now; `over` says how several processes' values become one."""

    over: Literal["sum", "min", "max"] = "sum"


@dataclass(frozen=True, eq=False)
class Histogram(Metric):
    """Observations by bucket; processes are added up."""

    buckets: tuple[float, ...] = _REQUEST_S
    most: int = 300  # each is as many series as it has buckets


REQUESTS = Counter(
    "requests_total", ("route", "deployment", "status"), "Requests answered, by route, deployment and HTTP status."
)
ERRORS = Counter("errors_total", ("route", "type"), "Requests that ended in an error, by the error's type.")
REQUEST_SECONDS = Histogram(
    "request_seconds", ("route", "deployment"), "From the first byte read of a request to its answer."
)
STAGE_SECONDS = Histogram(
    "stage_seconds",
    ("deployment", "stage"),
    "Parts of a request: rules, queue (waiting for a batch), encode, head, evidence, log, search.",
    buckets=_STAGE_S,
)
IN_FLIGHT = Gauge("in_flight", (), "Requests that are under way or wait.")
IN_FLIGHT_LIMIT = Gauge("in_flight_limit", (), "Requests that may be under way or wait; beyond, 503.")
QUEUE_DEPTH = Gauge("queue_depth", ("queue",), "What waits, by queue.")
QUEUE_LIMIT = Gauge("queue_limit", ("queue",), "What may wait, by queue; beyond, it is dropped or refused.")
BATCH_ITEMS = Histogram("batch_items", ("encoder",), "Items an encoder took at once.", buckets=_ITEMS)
BATCH_TOKENS = Histogram("batch_tokens", ("encoder",), "Tokens an encoder took at once, padding included.", buckets=_TOKENS)
BATCH_SECONDS = Histogram("batch_seconds", ("encoder",), "What an encoder took for a batch.", buckets=_STAGE_S)

PREDICTIONS = Counter(
    "predictions_total", ("deployment", "head", "label"), "Predictions by label, after the rules.", most=5_000
)
ABSTENTIONS = Counter(
    "abstentions_total",
    ("deployment", "why"),
    "Predictions that abstained, by why; their label is a guess, and raystore_predictions_total counts it too.",
)
RULES_FIRED = Counter(
    "rules_fired_total", ("deployment", "rule"), "Rules that fired, those that refuse and those in shadow too."
)
HOOKS_FAILED = Counter("hooks_failed_total", ("deployment", "rule"), "Hooks that raised, or returned what they cannot.")
REVIEW_OPEN = Gauge("review_open", ("deployment",), "Items of the review queue that wait for a label.", over="max")
REVIEW_LEFT_OUT = Counter(
    "review_left_out_total", ("deployment",), "Items that were marked for review and found the queue full."
)

SHADOW_PREDICTIONS = Counter("shadow_predictions_total", ("deployment", "head"), "Predictions of a shadow head.")
SHADOW_DISAGREEMENTS = Counter(
    "shadow_disagreements_total",
    ("deployment", "head"),
    "Predictions of a shadow head that differ from those of the head that answered, before rules.",
)
SHADOW_SECONDS = Histogram(
    "shadow_seconds", ("deployment", "head"), "What a shadow head took for a request.", buckets=_STAGE_S
)
SHADOW_DROPPED = Counter("shadow_dropped_total", ("deployment", "reason"), "Requests that no shadow saw, by why.")
RECORDING_DROPPED = Counter(
    "recording_dropped_total", ("deployment", "reason"), "Predictions that were neither kept nor shown to shadows, by why."
)

LOGGED = Counter("logged_total", ("collection",), "Rows appended to a collection.")
LOG_DROPPED = Counter("log_dropped_total", ("collection", "reason"), "Rows that were to be appended and were not, by why.")

GOLDEN_COSINE = Gauge(
    "golden_cosine", ("encoder",), "Lowest cosine of the golden inputs to what they encoded to when registered.", over="min"
)
GOLDEN_TOLERANCE = Gauge("golden_tolerance", ("encoder",), "The cosine below which an encoder has moved.", over="max")
GOLDEN_CHECKED = Gauge(
    "golden_checked_timestamp_seconds", ("encoder",), "When an encoder last encoded its golden inputs.", over="min"
)
DRIFT_PSI = Gauge(
    "drift_psi",
    ("deployment", "of"),
    "Population stability index of labels, scores and embedding against the head's snapshot.",
    over="max",
)
DRIFT_MEAN_SHIFT = Gauge(
    "drift_mean_shift", ("deployment",), "Distance of the mean vectors; 1 is what chance gives.", over="max"
)
DRIFT_AUC = Gauge(
    "drift_auc",
    ("deployment",),
    "How well a classifier tells the newest vectors from the snapshot's; 0.5 is not at all.",
    over="max",
)
DRIFT_MEASURED = Gauge("drift_measured_timestamp_seconds", ("deployment",), "When drift was last measured.", over="max")

DEPLOYMENT_INFO = Gauge(
    "deployment_info", ("deployment", "number", "head", "encoder"), "1 for what answers now.", over="max"
)
DEPLOYMENT_FAILED = Gauge(
    "deployment_failed",
    ("deployment", "number"),
    "1 for the newest of a deployment while a replica cannot take it up.",
    over="max",
)
ENCODER_LOADED = Gauge("encoder_loaded", ("encoder",), "Processes that have the encoder in memory.")
BUILD_INFO = Gauge("build_info", ("version",), "1 for each version of raystore that runs.", over="max")
PROCESSES = Gauge("processes", ("process",), "Processes, by what they do.")
RESIDENT_MEMORY = Gauge("resident_memory_bytes", ("process",), "Resident memory of the processes.")
CPU_SECONDS = Counter("cpu_seconds_total", ("process",), "Processor time of the processes, user and system.")

TABLE: tuple[Metric, ...] = (
    REQUESTS, ERRORS, REQUEST_SECONDS, STAGE_SECONDS, IN_FLIGHT, IN_FLIGHT_LIMIT, QUEUE_DEPTH, QUEUE_LIMIT, BATCH_ITEMS, BATCH_TOKENS,
    BATCH_SECONDS, PREDICTIONS, ABSTENTIONS, RULES_FIRED, HOOKS_FAILED, REVIEW_OPEN, REVIEW_LEFT_OUT,
    SHADOW_PREDICTIONS, SHADOW_DISAGREEMENTS, SHADOW_SECONDS, SHADOW_DROPPED, RECORDING_DROPPED, LOGGED, LOG_DROPPED,
    GOLDEN_COSINE, GOLDEN_TOLERANCE, GOLDEN_CHECKED, DRIFT_PSI, DRIFT_MEAN_SHIFT, DRIFT_AUC, DRIFT_MEASURED,
    DEPLOYMENT_INFO, DEPLOYMENT_FAILED, ENCODER_LOADED, BUILD_INFO, PROCESSES, RESIDENT_MEMORY, CPU_SECONDS,
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in TABLE}
