"""Many processes' metrics as one, and the text that Prometheus reads. Knows no HTTP and no Ray.

Merging the snapshots of 8 processes of 100 series each and writing them costs a few ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import core
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from raystore.serve.watch.metrics import OTHER, Snapshot, Value
from raystore.serve.watch.table import BY_NAME, TABLE, Counter, Gauge, Histogram, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# By metric name and label values.
Series = dict[str, dict[tuple[str, ...], Value]]


def series_of(snapshot: Snapshot) -> Series:
    """What a snapshot holds of the metrics known here; a process of another version may send others."""
    found: Series = {}
    for name, rows in snapshot["series"].items():
        metric = BY_NAME.get(name)
        if metric is not None:
            found[name] = {tuple(labels): value for labels, value in rows if _fits(metric, labels, value)}
    return found


def merge(parts: Iterable[Series]) -> Series:
    """Counters and histograms added up, gauges by the way of each. Any order and any grouping give the same, sums to rounding."""
    merged: Series = {}
    for part in parts:
        for name, rows in part.items():
            into = merged.setdefault(name, {})
            for labels, value in rows.items():
                into[labels] = _joined(BY_NAME[name], into[labels], value) if labels in into else value
    return merged


def exposition(series: Series) -> str:
    """Prometheus's text format, version 0.0.4: every metric of the table with its help and type, and the series there are."""
    return generate_latest(_Families(series)).decode("utf-8")


class _Families(Collector):
    def __init__(self, series: Series) -> None:
        self._series = series

    def collect(self) -> Iterator[core.Metric]:
        for metric in TABLE:
            yield _family(metric, self._series.get(metric.name, {}))


def _family(metric: Metric, rows: Mapping[tuple[str, ...], Value]) -> core.Metric:
    histogram = core.HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    counter = core.CounterMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    gauge = core.GaugeMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for labels, value in sorted(rows.items()):
        if isinstance(metric, Histogram) and isinstance(value, list):
            bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
            histogram.add_metric(labels, list(zip(bounds, value[1:], strict=True)), sum_value=value[0])
        elif not isinstance(value, list):
            (counter if isinstance(metric, Counter) else gauge).add_metric(labels, value)
    return histogram if isinstance(metric, Histogram) else counter if isinstance(metric, Counter) else gauge


def _fits(metric: Metric, labels: list[str], value: Value) -> bool:
    numbers = len(value) if isinstance(value, list) else 0
    return len(labels) == len(metric.labels) and numbers == (
        len(metric.buckets) + 2 if isinstance(metric, Histogram) else 0
    )


def _joined(metric: Metric, one: Value, other: Value) -> Value:
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    if isinstance(one, list) or isinstance(other, list):  # series_of lets none through
        return one
    if isinstance(metric, Gauge) and metric.over != "sum":
        return min(one, other) if metric.over == "min" else max(one, other)
    return one + other


def counts_of(series: Series) -> Series:
    """What stays of a process that ended: its gauges do not."""
    return {name: rows for name, rows in series.items() if not isinstance(BY_NAME[name], Gauge)}


def bounded(series: Series) -> Series:
    """As many series of a metric as one process may have; the others are added up as "other"."""
    for name, rows in series.items():
        metric = BY_NAME[name]
        spare = list(rows)[metric.most :]
        other = (OTHER,) * len(metric.labels)
        for labels in spare:
            if labels != other:
                value = rows.pop(labels)
                rows[other] = _joined(metric, rows[other], value) if other in rows else value
    return series
