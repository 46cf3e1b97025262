"""Tuning a small collection, and checking the index over it, with real shards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from raystore.errors import IndexNotFound, InvalidArguments, PassportMismatch, StoreUnusable
from raystore.index.build.run import build_index
from raystore.index.kinds import TABLE
from raystore.index.tune.check import IndexCheck, check
from raystore.index.tune.run import _orderly, tune
from raystore.index.tune.sample import draw
from raystore.index.tune.table import Tuning, read_tunings
from raystore.vectors import mark
from tests.index.conftest import DIM, FINGERPRINT, OTHER, World, clustered, unit
from tests.index.test_tune_choose import trial as sweep

Tune = Callable[..., Tuning]
KINDS = ("ivf", "ivf_sq8")


@pytest.fixture
def tuned(world: World, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """`tuned(...)` over 600 rows, each pace measured no longer than it must."""
    monkeypatch.setattr("raystore.index.tune.run._SECONDS", 0.0)
    return lambda **asked: tune(world.table, world.layout, "tickets", FINGERPRINT, **{"kinds": KINDS, **asked})


def checked(world: World, monkeypatch: pytest.MonkeyPatch, **asked: object) -> IndexCheck:
    monkeypatch.setattr("raystore.index.tune.check._SECONDS", 0.0)
    searcher = world.searcher()
    found = check(searcher, world.table, world.layout, "tickets", FINGERPRINT, **asked)
    searcher.close()
    return found


def test_every_kind_is_measured_against_exact_search_on_rows_that_are_left_out_of_it(tuned: Tune) -> None:
    said: list[tuple[int, int]] = []
    report = tuned(progress=lambda done, total: said.append((done, total)))
    assert (report.collection_rows, report.rows, report.queries, report.held_out) == (600, 540, 60, True)
    assert [row["kind"] for row in report.shown] == ["exact", *KINDS]
    exact, *others = report.trials
    assert (exact.kind, exact.recall, exact.recall_low, exact.probes, exact.nlist) == ("exact", 1.0, 1.0, None, None)
    assert {each.kind for each in others} == set(KINDS)
    for each in report.trials:
        assert 0 <= each.recall_low <= each.recall <= each.recall_high <= 1
        assert 0 < each.p50_ms <= each.p95_ms
        assert each.disk_bytes >= 4 * DIM
    for kind in KINDS:  # more probes find more, and all lists find everything that the codes can tell
        ladder = [(each.probes, each.recall) for each in others if each.kind == kind]
        assert ladder == sorted(ladder)
        assert ladder[-1][1] > 0.95
    assert said[0] == (0, 4)
    assert said[-1] == (4, 4)


def test_a_setting_is_never_slower_than_one_that_does_more() -> None:
    slow, fast = (
        sweep(probes=probes, p50_ms=ms, p95_ms=2 * ms, queries_per_s=1_000 / ms) for probes, ms in ((8, 90.0), (16, 0.5))
    )
    assert _orderly([slow, fast]) == [
        slow.model_copy(update={"p50_ms": 0.5, "p95_ms": 1.0, "queries_per_s": 2_000.0}),
        fast,
    ]
    assert _orderly([]) == []


def test_what_was_found_is_kept_under_the_next_number(tuned: Tune, world: World) -> None:
    first, second = tuned(kinds=["ivf"]), tuned(kinds=[])
    assert (first.number, second.number) == (1, 2)
    assert read_tunings(world.layout) == [second]
    assert read_tunings(world.layout, "tickets") == [second]
    assert json.loads((world.layout.tunings("tickets") / "1.json").read_text())["trials"][0]["kind"] == "exact"
    assert list(world.layout.tmp.iterdir()) == []
    (world.layout.tunings("tickets") / "2.json").write_text("{}")
    with pytest.raises(StoreUnusable) as refused:
        read_tunings(world.layout)
    assert str(refused.value).endswith(
        "tuning 2 of collection 'tickets' cannot be read. Remove the file and measure again: raystore index tune tickets."
    )


def test_the_choice_keeps_the_budget_and_says_why(tuned: Tune) -> None:
    report = tuned(recall=0.9, memory_bytes=10)  # exact alone keeps nothing in memory
    assert report.choice is not None
    assert (report.choice.kind, report.unmet) == ("exact", None)
    assert report.explanation.startswith(f"exact: {TABLE['exact'].says}. Recall 1.000 (1.000 to 1.000), ")
    assert report.facts["choice"]["kind"] == "exact"
    assert str(report).startswith(
        "Tuning of tickets: 540 of 600 rows of 16 numbers, 60 queries held out of them, recall at 10, "
    )
    assert report.explanation in str(report)
    assert "<table>" in report._repr_html_()


def test_a_budget_that_cannot_be_met_chooses_nothing_and_says_the_nearest(tuned: Tune) -> None:
    report = tuned(recall=0.9, memory_bytes=10**9, p95_ms=1e-6)
    assert report.choice is None
    assert report.unmet is not None
    assert report.unmet.startswith("Nothing measured keeps recall 0.9, 1.0 GB of memory, 1e-06 ms at p95. Nearest is ")
    assert re.search(r" It would do to ask for [\d.]+ ms at p95 \(\w+.*\)\.$", report.unmet)


def test_given_queries_are_asked_and_a_stranger_s_are_refused(tuned: Tune) -> None:
    report = tuned(kinds=["ivf"], queries=mark(clustered(20, 3), FINGERPRINT))
    assert (report.rows, report.queries, report.held_out) == (600, 20, False)
    with pytest.raises(PassportMismatch):
        tuned(queries=mark(clustered(20, 3), OTHER))


def test_a_kind_that_the_rows_are_too_few_for_is_left_out(tuned: Tune) -> None:
    report = tuned(kinds=["ivf_pq"], sample_rows=150)  # 256 codes need as many rows
    assert [each.kind for each in report.trials] == ["exact"]


def test_a_drawn_sample_tells_of_the_whole_and_a_smaller_one_how_it_grows(
    tuned: Tune, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.index.tune.run._GROWS_FROM", 100)
    report = tuned(kinds=["ivf"], recall=0.8, sample_rows=400, queries=clustered(50, 3), p95_ms=1e6)
    assert (report.rows, report.collection_rows) == (400, 600)
    assert {each.rows for each in report.foretold} == {600}
    assert len(report.foretold) == sum(each.rows == 400 for each in report.trials)
    if report.choice is not None and report.choice.kind == "ivf":
        assert {(each.kind, each.rows) for each in report.trials if each.rows == 100} == {("exact", 100), ("ivf", 100)}
    assert report.explanation.endswith(" These are foretold for 600 rows from what was measured at 400.")


def test_bad_arguments_are_named_together(tuned: Tune, empty_world: World) -> None:
    with pytest.raises(InvalidArguments) as refused:
        tuned(recall=1.5, memory_bytes=0, p95_ms=float("nan"), k=0, kinds=["flat"], metric="dot", sample_rows=3)
    assert str(refused.value) == (
        "tune of collection 'tickets': recall is 1.5, expected more than 0 and at most 1; memory_bytes is 0, expected more than 0, or "
        "None; p95_ms is nan, expected more than 0, or None; k is 0, expected a number from 1; kinds has 'flat', expected some of "
        "'exact', 'ivf', 'ivf_fp16', 'ivf_sq8', 'ivf_pq', 'ivf_pqfs', 'ivf_rabitq', 'hnsw', 'disk'; metric is 'dot', expected "
        "'cosine', 'ip', 'l2'; sample_rows is 3, expected a number from 100."
    )


def test_a_collection_with_too_few_rows_is_refused(empty_world: World) -> None:
    with pytest.raises(InvalidArguments) as refused:
        tune(empty_world.table, empty_world.layout, "tickets", FINGERPRINT)
    assert str(refused.value) == (
        "tune of collection 'tickets': collection 'tickets' has 0 vectors of this encoder, expected at least 100 to measure on."
    )


def test_the_same_rows_are_drawn_each_time_and_none_twice(world: World) -> None:
    sample, queries, rows = draw(world.table, FINGERPRINT, 200, 50)
    again, _, _ = draw(world.table, FINGERPRINT, 200, 50)
    assert (len(sample.vectors), len(queries), rows) == (200, 25, 600)
    assert (sample.vectors == again.vectors).all()


def test_an_index_that_finds_everything_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2)
    found = checked(world, monkeypatch, sample=40)
    assert (found.verdict, found.recall, found.recall_low, found.coverage, found.missing) == ("holds", 1.0, 1.0, 1.0, ())
    assert (found.rows, found.tail, found.gone, found.number, found.advice) == (600, 0, 0, 1, "")
    assert "verdict   holds: asked for recall 0.95" in str(found)


def test_rows_beside_the_index_and_rows_erased_from_it_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT, kind="ivf")
    world.add(clustered(30, 5))
    for id_ in world.ids[:4]:
        world.delete(id_)
    found = checked(world, monkeypatch, sample=40)
    assert (found.rows, found.tail, found.gone) == (626, 30, 4)
    assert found.recall > 0.9
    assert "596 in the index, 30 beside it, 4 erased since it was written" in str(found)


def test_probes_that_find_too_little_are_below(empty_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world, rng = empty_world, np.random.default_rng(0)
    world.add(unit(rng.normal(size=(600, DIM))))  # in no clusters: each list holds a little of every answer
    asked = unit(rng.normal(size=(150, DIM)))
    build_index(world.table, world.layout, "tickets", FINGERPRINT, kind="ivf", target_recall=0.3)
    assert checked(world, monkeypatch, queries=asked).verdict == "holds"
    path = world.layout.indexes("tickets", FINGERPRINT) / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "target_recall": 0.99}))
    found = checked(world, monkeypatch, queries=asked)
    assert (found.verdict, found.target_recall) == ("below", 0.99)
    assert found.recall_low <= found.recall <= found.recall_high < 0.99
    assert found.advice == (
        "Choose its probes anew: raystore index build tickets --kind ivf --recall 0.99; or see what other kinds reach: "
        "raystore index tune tickets."
    )


def test_without_an_index_there_is_nothing_to_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IndexNotFound):
        checked(world, monkeypatch)
    with pytest.raises(InvalidArguments) as refused:
        checked(world, monkeypatch, k=0, sample=0)
    assert str(refused.value) == (
        "check of the index over collection 'tickets': k is 0, expected a number from 1; sample is 0, expected a number from 1."
    )


def test_a_query_row_is_taken_from_its_own_answer_whether_it_was_found_or_not() -> None:
    from raystore.index.tune.check import _without

    rows = np.array([[7, 1, 2], [4, 5, 6]])
    scores = np.array([[1.0, 0.9, 0.8], [0.7, 0.6, 0.5]], dtype=np.float32)
    assert _without(rows, scores, np.array([7, 9])).tolist() == np.array([[0.9, 0.8], [0.7, 0.6]], np.float32).tolist()
