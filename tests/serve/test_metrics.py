"""Metrics: declared once, counted in each process, merged so that totals never fall, written as Prometheus reads them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from raystore import __version__
from raystore.serve.watch import table
from raystore.serve.watch.finished import Finished, Stage, tell_metrics
from raystore.serve.watch.history import History
from raystore.serve.watch.merger import _GONE, Merger
from raystore.serve.watch.merging import Series, exposition, merge, series_of
from raystore.serve.watch.metrics import Metrics, Snapshot, Value, count_batch
from raystore.serve.watch.status import Serving, quantile, status
from raystore.serve.watch.table import TABLE, Counter, Histogram, Metric

ROUTE = "/v1/predict/{deployment}"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def read(metrics: Metrics) -> Series:
    return series_of(json.loads(json.dumps(metrics.snapshot())))


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels, as Prometheus's own parser reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def snapshot(id_: str, n: int, **series: dict[tuple[str, ...], Value]) -> Snapshot:
    rows: dict[str, Any] = {name: [(list(labels), value) for labels, value in own.items()] for name, own in series.items()}
    return Snapshot(id=id_, n=n, series=rows)


# --- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", TABLE, ids=lambda m: m.name)
def test_a_metric_is_named_as_prometheus_names_metrics(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    assert not re.search(r"_(ms|milliseconds|mb|kb|percent)(_|$)", metric.name)
    assert metric.help.endswith(".")
    if isinstance(metric, Histogram):
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_every_metric_that_is_declared_is_in_the_table_once() -> None:
    declared = [value for value in vars(table).values() if isinstance(value, Metric)]
    assert list(TABLE) == declared
    assert len({metric.name for metric in TABLE}) == len(TABLE)


# --- one process --------------------------------------------------------------------------------------------------------


def test_what_is_counted_observed_and_set_is_in_the_snapshot() -> None:
    metrics = Metrics("ingress")
    metrics.count(table.LOGGED, "tickets")
    metrics.count(table.LOGGED, "tickets", by=3)
    metrics.set(table.QUEUE_DEPTH, 7, "recording")
    metrics.set(table.IN_FLIGHT, 1)
    metrics.observe(table.BATCH_ITEMS, 3, "minilm")
    metrics.observe(table.BATCH_ITEMS, 5000, "minilm")
    found = read(metrics)
    assert found["logged_total"] == {("tickets",): 4}
    assert found["queue_depth"] == {("recording",): 7}
    assert found["in_flight"] == {(): 1}
    assert found["batch_items"] == {("minilm",): [5003, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]}
    assert found["processes"] == {("ingress",): 1}
    assert found["build_info"] == {(__version__,): 1}
    assert isinstance(found["resident_memory_bytes"]["ingress",], float)


def test_a_batch_is_counted_by_its_encoder() -> None:
    metrics = Metrics("encoder")
    count_batch(metrics, "minilm", 3, 48, 0.02)
    found = read(metrics)
    assert [found[name]["minilm",][0] for name in ("batch_items", "batch_tokens", "batch_seconds")] == [3, 48, 0.02]  # type: ignore[index]


def test_a_count_of_nothing_is_there_from_then_on() -> None:
    metrics = Metrics("ingress")
    metrics.count(table.LOG_DROPPED, "tickets", "full", by=0)
    assert read(metrics)["log_dropped_total"] == {("tickets", "full"): 0}


def test_a_deployment_that_changed_leaves_none_of_its_old_gauges() -> None:
    metrics = Metrics("ingress")
    metrics.set(table.DEPLOYMENT_INFO, 1, "triage", "1", "refunds@1", "minilm")
    metrics.set(table.DEPLOYMENT_INFO, 1, "other", "4", "spam@2", "minilm")
    metrics.forget(table.DEPLOYMENT_INFO, "triage")
    metrics.set(table.DEPLOYMENT_INFO, 1, "triage", "2", "refunds@2", "minilm")
    assert set(read(metrics)["deployment_info"]) == {
        ("triage", "2", "refunds@2", "minilm"),
        ("other", "4", "spam@2", "minilm"),
    }


def test_counts_from_many_threads_are_all_kept() -> None:
    metrics = Metrics("ingress")

    def work(i: int) -> None:
        for j in range(500):
            metrics.count(table.PREDICTIONS, "triage", "refunds@1", f"label-{(i + j) % 7}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(v for v in read(metrics)["predictions_total"].values() if isinstance(v, float)) == 4000


def test_label_values_beyond_what_a_metric_holds_are_counted_as_other() -> None:
    metrics = Metrics("ingress")
    for i in range(table.LOG_DROPPED.most + 50):
        metrics.count(table.LOG_DROPPED, f"collection-{i}", "full")
    metrics.count(table.LOG_DROPPED, "collection-0", "full")
    found = read(metrics)["log_dropped_total"]
    assert len(found) == table.LOG_DROPPED.most + 1
    assert found["other", "other"] == 50
    assert found["collection-0", "full"] == 2


def test_a_wrong_number_of_labels_is_a_mistake_at_once() -> None:
    with pytest.raises(ValueError, match="Incorrect label count"):
        Metrics("ingress").count(table.REQUESTS, ROUTE)


def test_a_finished_request_is_counted_by_route_stage_and_error() -> None:
    metrics = Metrics("ingress")
    stages = [Stage("rules", 0.0, 0.001), Stage("encode", 0.001, 0.004), Stage("rules", 0.005, 0.001)]
    told = {"request_id": "r", "method": "POST", "route": ROUTE, "started_at": 0.0, "deployment": "triage"}
    tell = tell_metrics(metrics)
    tell(Finished(**told, status=200, seconds=0.006, stages=stages))
    tell(Finished(**told, status=503, seconds=0.001, error="Overloaded"))
    found = read(metrics)
    assert found["requests_total"] == {(ROUTE, "triage", "200"): 1, (ROUTE, "triage", "503"): 1}
    assert found["errors_total"] == {(ROUTE, "Overloaded"): 1}
    seconds, stage = found["request_seconds"][ROUTE, "triage"], found["stage_seconds"]["triage", "rules"]
    assert isinstance(seconds, list)
    assert isinstance(stage, list)
    assert (round(seconds[0], 6), seconds[-1]) == (0.007, 2)
    assert (round(stage[0], 6), stage[-1]) == (0.002, 1)  # of a stage that ran twice the sum, once


def test_how_long_a_stream_is_open_is_no_latency() -> None:
    metrics = Metrics("ingress")
    told = {"request_id": "r", "method": "POST", "started_at": 0.0, "deployment": "triage", "status": 200, "seconds": 600.0}
    for route in (f"{ROUTE}/stream", "/raystore.v1.Orchestrator/PredictStream"):
        tell_metrics(metrics)(Finished(**told, route=route))
    found = read(metrics)
    assert sum(found["requests_total"].values()) == 2
    assert "request_seconds" not in found


# --- many processes -----------------------------------------------------------------------------------------------------

_WHOLE = st.integers(0, 1000).map(float)  # sums of whole numbers are exact, so equality is
_LABEL = st.sampled_from(["a", 'quo"te', "back\\slash", "new\nline", "Ünïcode", ""])


def _values(metric: Metric) -> st.SearchStrategy[Value]:
    if isinstance(metric, Histogram):
        n = len(metric.buckets) + 1
        return st.lists(_WHOLE, min_size=n + 1, max_size=n + 1).map(
            lambda v: [v[0], *(sum(v[1 : i + 1]) for i in range(1, n + 1))]
        )
    return _WHOLE


@st.composite
def _series(draw: st.DrawFn) -> Series:
    chosen = draw(st.lists(st.sampled_from(TABLE), unique=True, max_size=6))
    return {
        m.name: draw(st.dictionaries(st.tuples(*[_LABEL] * len(m.labels)), _values(m), min_size=1, max_size=3))
        for m in chosen
    }


@settings(deadline=None)
@given(st.lists(_series(), max_size=4), st.randoms())
def test_merging_gives_the_same_in_any_order_and_any_grouping(parts: list[Series], random: Any) -> None:
    whole = merge(parts)
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert merge(shuffled) == whole
    for cut in range(len(parts) + 1):
        assert merge([merge(parts[:cut]), merge(parts[cut:])]) == whole


@settings(deadline=None)
@given(_series())
def test_the_exposition_parses_back_to_what_was_written(series: Series) -> None:
    found = parsed(exposition(series))
    expected: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for metric in TABLE:
        for labels, value in series.get(metric.name, {}).items():
            named = list(zip(metric.labels, labels, strict=True))
            if isinstance(value, list):
                assert isinstance(metric, Histogram)
                for bound, count in zip([*metric.buckets, float("inf")], value[1:], strict=True):
                    le = "+Inf" if bound == float("inf") else str(float(bound))
                    expected.setdefault(metric.full_name + "_bucket", {})[tuple(sorted([*named, ("le", le)]))] = count
                expected.setdefault(metric.full_name + "_sum", {})[tuple(sorted(named))] = value[0]
                expected.setdefault(metric.full_name + "_count", {})[tuple(sorted(named))] = value[-1]
            else:
                expected.setdefault(metric.full_name, {})[tuple(sorted(named))] = value
    assert found == expected


def test_the_exposition_says_help_and_type_of_every_metric() -> None:
    text = exposition({})
    for metric in TABLE:
        kind = "histogram" if isinstance(metric, Histogram) else "counter" if isinstance(metric, Counter) else "gauge"
        assert f"# HELP {metric.full_name} {metric.help}\n# TYPE {metric.full_name} {kind}\n" in text


def test_gauges_of_several_processes_become_one_by_the_way_of_each() -> None:
    def of(depth: float, cosine: float, psi: float) -> Series:
        return {
            "queue_depth": {("log",): depth},
            "golden_cosine": {("minilm",): cosine},
            "drift_psi": {("triage", "labels"): psi},
        }

    merged = merge([of(3, 1.0, 0.05), of(4, 0.98, 0.3)])
    assert merged == of(7, 0.98, 0.3)


def test_a_process_of_another_version_adds_nothing_that_is_unknown_here() -> None:
    odd = snapshot(
        "a",
        1,
        logged_total={("tickets",): 2.0, ("a", "b"): 3.0},
        unheard_of_total={(): 1.0},
        batch_items={("m",): [1.0, 2.0]},
    )
    assert series_of(odd) == {"logged_total": {("tickets",): 2.0}, "batch_items": {}}


def test_a_process_that_ended_keeps_its_counts_and_loses_its_gauges() -> None:
    merger = Merger()
    merger.put("one", snapshot("a", 1, logged_total={("t",): 5.0}, queue_depth={("log",): 9.0}))
    merger.put("two", snapshot("b", 1, logged_total={("t",): 2.0}, queue_depth={("log",): 1.0}))
    merger.end("one", snapshot("a", 2, logged_total={("t",): 6.0}, queue_depth={("log",): 8.0}))
    assert merger.told().series == {"logged_total": {("t",): 8.0}, "queue_depth": {("log",): 1.0}}


def test_a_process_under_the_name_of_an_earlier_one_adds_to_it() -> None:
    merger = Merger()
    merger.put("one", snapshot("a", 9, logged_total={("t",): 5.0}))
    merger.put("one", snapshot("b", 1, logged_total={("t",): 1.0}))
    assert merger.told().series == {"logged_total": {("t",): 6.0}}


def test_a_snapshot_that_comes_late_changes_nothing() -> None:
    merger = Merger()
    merger.put("one", snapshot("a", 2, logged_total={("t",): 5.0}))
    merger.put("one", snapshot("a", 1, logged_total={("t",): 4.0}))
    assert merger.told().series == {"logged_total": {("t",): 5.0}}


def test_who_is_silent_has_ended_until_it_sends_again() -> None:
    clock = Clock()
    merger = Merger(silent_s=60, clock=clock)
    merger.put("one", snapshot("a", 1, logged_total={("t",): 5.0}, in_flight={(): 3.0}))
    clock.now += 61
    assert merger.told().series == {"logged_total": {("t",): 5.0}}
    merger.put("one", snapshot("a", 2, logged_total={("t",): 6.0}, in_flight={(): 2.0}))
    assert merger.told().series == {"logged_total": {("t",): 6.0}, "in_flight": {(): 2.0}}


# What can befall processes: another one begins under a name, one counts and sends, one ends, a minute passes, an old snapshot arrives.
_EVENTS = st.lists(
    st.tuples(st.sampled_from(["begin", "send", "end", "wait", "late"]), st.integers(0, 3), st.integers(0, 5)), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(_EVENTS)
def test_totals_never_fall_and_nothing_that_was_sent_is_lost(events: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    merger = Merger(silent_s=60, clock=clock)
    processes: dict[int, tuple[str, int, float]] = {}  # by source: id, n, count
    sent: dict[str, float] = {}
    old: list[tuple[int, Snapshot]] = []
    before = 0.0
    for i, (what, source, by) in enumerate(events):
        if what == "begin" or source not in processes:
            processes[source] = (f"p{i}", 0, 0.0)
        id_, n, count = processes[source]
        if what == "send":
            processes[source] = (id_, n + 1, count + by)
            told = snapshot(id_, n + 1, logged_total={("t",): count + by}, in_flight={(): 1.0})
            old.append((source, told))
            merger.put(f"s{source}", told)
            sent[id_] = count + by
        elif what == "end":
            processes[source] = (id_, n + 1, count + by)
            merger.end(f"s{source}", snapshot(id_, n + 1, logged_total={("t",): count + by}, in_flight={(): 1.0}))
            sent[id_] = count + by
        elif what == "wait":
            clock.now += 61
        elif what == "late" and old:
            place, told = old[by % len(old)]
            if processes[place][0] == told["id"]:
                merger.put(f"s{place}", told)
        total = sum(v for v in merger.told().series.get("logged_total", {}).values() if isinstance(v, float))
        assert total >= before
        assert total == sum(sent.values())
        before = total


def test_memory_is_bounded_however_many_processes_come_and_go() -> None:
    merger = Merger()
    for i in range(3 * _GONE):
        merger.put("one", snapshot(f"p{i}", 1, logged_total={(f"collection-{j + 20 * i}",): 1.0 for j in range(20)}))
        merger.put("one", snapshot(f"p{i}", 2, logged_total={(f"collection-{j + 20 * i}",): 2.0 for j in range(20)}))
    merged = merger.told().series["logged_total"]
    assert sum(v for v in merged.values() if isinstance(v, float)) == 2 * 20 * 3 * _GONE
    assert len(merged) <= table.LOGGED.most + 1 + 20 * (_GONE + 1)
    assert merged["other",] > 0  # type: ignore[operator]
    merger.put(
        "one", snapshot("p0", 3, logged_total={("again",): 100.0})
    )  # ended so long ago that its counts are in the sum
    assert ("again",) not in merger.told().series["logged_total"]


# --- the status ---------------------------------------------------------------------------------------------------------


def _observed(*, ok: int, bad: int = 0, refused: int = 0, seconds: Iterable[float] = ()) -> Metrics:
    metrics = Metrics("ingress")
    for n, code in ((ok, "200"), (bad, "500"), (refused, "503")):
        metrics.count(table.REQUESTS, ROUTE, "triage", code, by=n)
    for s in seconds:
        metrics.observe(table.REQUEST_SECONDS, s, ROUTE, "triage")
    return metrics


def test_the_status_says_what_answers_and_how_it_is_doing() -> None:
    clock = Clock()
    merger = Merger(clock=clock)
    metrics = _observed(ok=1000, seconds=[9.0] * 10)
    merger.put("one", metrics.snapshot())
    clock.now += 240
    merger.put("one", metrics.snapshot())
    metrics.count(table.REQUESTS, ROUTE, "triage", "200", by=95)
    metrics.count(table.REQUESTS, ROUTE, "triage", "500", by=4)
    metrics.count(table.REQUESTS, ROUTE, "triage", "503", by=1)
    for s in [0.004] * 98 + [0.4, 0.4]:
        metrics.observe(table.REQUEST_SECONDS, s, ROUTE, "triage")
    metrics.count(table.REQUESTS, "/v1/sql", "", "200", by=50)
    metrics.set(table.QUEUE_DEPTH, 12, "recording")
    metrics.set(table.QUEUE_LIMIT, 1000, "recording")
    metrics.set(table.ENCODER_LOADED, 1, "minilm@5f3c")
    metrics.set(table.GOLDEN_COSINE, 0.99999, "minilm@5f3c")
    metrics.set(table.GOLDEN_CHECKED, 1700000000, "minilm@5f3c")
    metrics.set(table.DRIFT_PSI, 0.3, "triage", "labels")
    metrics.set(table.DRIFT_MEAN_SHIFT, 1.5, "triage")
    metrics.set(table.DRIFT_AUC, 0.6, "triage")
    metrics.set(table.DRIFT_MEASURED, 1700000000, "triage")
    metrics.set(table.REVIEW_OPEN, 3, "triage")
    metrics.count(table.LOG_DROPPED, "tickets", "full", by=2)
    metrics.count(table.SHADOW_DROPPED, "triage", "full", by=5)
    metrics.count(table.RECORDING_DROPPED, "triage", "full", by=7)
    metrics.count(table.REVIEW_LEFT_OUT, "triage", by=4)
    clock.now += 60
    merger.put("one", metrics.snapshot())
    serving = Serving(name="triage", number=7, head="refunds@3", encoder="minilm@5f3c", shadows=["refunds@4"])
    found = status(merger.told(), [serving]).model_dump()
    assert found == {
        "version": __version__,
        "up_s": 300.0,
        "processes": {"ingress": 1},
        "in_flight": 0,
        "deployments": [
            {
                "name": "triage",
                "number": 7,
                "head": "refunds@3",
                "encoder": "minilm@5f3c",
                "shadows": ["refunds@4"],
                "canary": None,
                "recent": {
                    "1m": {
                        "seconds": 60.0,
                        "requests": 100,
                        "per_s": 1.667,
                        "error_rate": 0.04,
                        "refused_rate": 0.01,
                        "p50_ms": 4.02,
                        "p99_ms": 350.0,
                    },
                    "5m": {
                        "seconds": 300.0,
                        "requests": 1100,
                        "per_s": 3.667,
                        "error_rate": 0.003636,
                        "refused_rate": 0.000909,
                        "p50_ms": 4.122,
                        "p99_ms": 9450.0,
                    },
                },
                "drift": {"psi": {"labels": 0.3}, "mean_shift": 1.5, "auc": 0.6, "measured_at": 1700000000},
                "review_open": 3,
            }
        ],
        "queues": {"recording": {"depth": 12, "limit": 1000}},
        "encoders": {"minilm@5f3c": {"processes": 1, "golden_cosine": 0.99999, "golden_checked_at": 1700000000}},
        "dropped": {
            "log": {"tickets": {"full": 2}},
            "shadow": {"triage": {"full": 5}},
            "recording": {"triage": {"full": 7}},
            "review": {"triage": 4},
        },
    }


def test_a_deployment_nobody_asked_yet_has_no_latency() -> None:
    serving = Serving(name="triage", number=1, head="refunds@1", encoder="minilm")
    found = status(Merger().told(), [serving]).deployments[0]
    assert (found.recent["1m"].requests, found.recent["1m"].p50_ms, found.drift, found.review_open) == (0, None, None, None)


def asked(id_: str, n: int, times: float) -> Snapshot:
    """A process that answered so many requests since it began."""
    return snapshot(id_, n, requests_total={(ROUTE, "triage", "200"): times})


def of_late(merger: Merger) -> dict[str, tuple[float, int]]:
    """Of each window the seconds it covers and its requests."""
    recent = status(merger.told(), [Serving(name="triage", number=1, head="h@1", encoder="e")]).deployments[0].recent
    return {name: (each.seconds, each.requests) for name, each in recent.items()}


def test_a_window_holds_what_was_asked_in_it_whatever_was_asked_before() -> None:
    clock = Clock()
    merger = Merger(clock=clock)
    for second in range(0, 400, 2):  # three a second
        merger.put("one", asked("a", second // 2 + 1, 3.0 * second))
        clock.now += 2
    assert of_late(merger) == {"1m": (64.0, 186), "5m": (304.0, 906)}  # the last two seconds' are not told yet


def test_a_process_that_was_there_before_brings_into_a_window_what_it_is_asked_from_then_on() -> None:
    clock = Clock()
    merger = Merger(clock=clock)  # begun anew, as after its process was killed
    merger.put("old", asked("a", 700, 50_000.0))
    clock.now += 2
    merger.put("new", asked("b", 1, 4.0))
    merger.put("old", asked("a", 701, 50_003.0))
    assert of_late(merger) == {"1m": (2.0, 7), "5m": (2.0, 7)}


def test_a_process_that_ends_or_is_replaced_takes_nothing_out_of_a_window_and_adds_nothing() -> None:
    clock = Clock()
    merger = Merger(clock=clock)
    merger.put("one", asked("a", 1, 10.0))
    clock.now += 20
    merger.put("one", asked("b", 1, 2.0))
    merger.end("one", asked("b", 2, 5.0))
    merger.put("one", asked("a", 2, 11.0))  # it had been silent, and is heard again
    clock.now += 10
    assert of_late(merger) == {"1m": (30.0, 16), "5m": (30.0, 16)}


def test_the_history_keeps_five_minutes() -> None:
    clock = Clock()
    history = History(clock)
    for second in range(2000):
        clock.now += 1
        history.add(read(_observed(ok=second)), read(_observed(ok=second + 1)) if clock.now % 100 == 0 else {})
    assert len(history._parts) <= 300 / 5 + 2
    assert {name: window.rises["requests_total"][ROUTE, "triage", "200"] for name, window in history.windows().items()} == {
        "1m": 1.0,
        "5m": 3.0,
    }


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, [0, 0, 0, 0], None),
        (0.5, [10, 10, 10, 10], 0.5),  # all in the first bucket: half of it
        (0.5, [0, 10, 10, 10], 1.5),
        (0.9, [0, 0, 0, 10], 4),  # above every bound: the last one
        (1.0, [5, 10, 10, 10], 2),
    ],
)
def test_a_quantile_is_that_of_prometheus(q: float, counts: list[float], expected: float | None) -> None:
    assert quantile(q, (1, 2, 4), counts) == expected
