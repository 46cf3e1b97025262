"""The paired shadow report: counted on exactly the requests that both heads saw, with labels where they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raystore
from raystore.data.collection import CollectionTable
from raystore.data.drift.psi import psi, psi_by_chance
from raystore.data.log import RowLog
from raystore.errors import CollectionNotFound, ColumnNotFound, HeadNotFound, InvalidArguments, TableNotFound
from raystore.serve.kept.predictions import PredictionRow, Predictions, write_labels
from raystore.serve.shadow.ask import report_deployment
from raystore.serve.shadow.labels import is_place, live_labels
from raystore.serve.shadow.measures import pairs_needed
from raystore.serve.shadow.metrics import METRICS
from raystore.serve.shadow.pairs import make_pairs
from raystore.serve.shadow.report import ShadowReport, shadow_report, shadow_reports
from raystore.train.compare.compare import mcnemar
from tests.data.toy import ToyEncoder
from tests.serve.kept_rows import minute, said


def table_of(*rows: Sequence[PredictionRow]) -> pa.Table:
    """The rows as `Predictions.read` gives them, without a store."""
    flat = [row for part in rows for row in part]
    return pa.table(
        {
            "request": pa.array([r.request for r in flat], pa.string()),
            "subject": pa.array([r.subject for r in flat], pa.string()),
            "time": pa.array([r.time for r in flat], pa.timestamp("us", "UTC")),
            "role": pa.array([r.role for r in flat], pa.string()),
            "head": pa.array([r.head for r in flat], pa.string()),
            "label": pa.array([r.label for r in flat], pa.string()),
            "labels": pa.array([None if r.labels is None else write_labels(r.labels) for r in flat], pa.string()),
            "value": pa.array([r.value for r in flat], pa.float64()),
            "confidence": pa.array([r.confidence for r in flat], pa.float64()),
            "abstained": pa.array([r.abstained for r in flat], pa.bool_()),
            "latency_ms": pa.array([r.latency_ms for r in flat], pa.float64()),
        }
    )


def labels_of(labels: Sequence[Any], start: int = 0) -> pa.Table:
    return pa.table({"id": [f"r{i}" for i in range(start, start + len(labels))], "label": labels})


def report_of(
    live: Sequence[Any], shadow: Sequence[Any], labels: Sequence[Any] | None = None, **facts: Any
) -> ShadowReport:
    rows = table_of(said("refunds@2", live, **facts), said("refunds@3", shadow, role="shadow", **facts))
    [report] = shadow_reports("triage", rows, labels=None if labels is None else labels_of(labels))
    return report


LIVE = ["card", "card", "card", "card", "money", "money", "other", "other"]
SHADOW = ["card", "card", "money", "other", "money", "card", "other", "other"]
TRUTH = ["card", "card", "money", "card", "money", "money", "other", "other"]


def test_flips_are_counted_of_what_the_live_head_says() -> None:
    report = report_of(LIVE, SHADOW)
    assert [(f.live, f.shadow, f.count, f.share) for f in report.flips] == [
        ("card", "money", 1, 0.25), ("card", "other", 1, 0.25), ("money", "card", 1, 0.5),
    ]  # fmt: skip
    assert (report.n_flips, report.n_paired, report.n_live, report.coverage) == (3, 8, 8, 1.0)
    assert report.agreement is not None
    assert report.agreement.value == 5 / 8
    assert [(c.label, c.live, c.shadow, c.both, c.left, c.came) for c in report.per_class] == [
        ("card", 4, 3, 2, 2, 1), ("money", 2, 2, 1, 1, 1), ("other", 2, 3, 2, 0, 1),
    ]  # fmt: skip
    assert (report.since, report.until, report.hours) == (minute(0), minute(7), 7 / 60)


def test_with_labels_the_gain_is_the_paired_comparison_of_the_two_heads() -> None:
    report = report_of(LIVE, SHADOW, TRUTH)
    compared = report.comparison
    assert compared is not None
    gain = compared.differences["accuracy"]
    assert (gain.a, gain.b, gain.value) == (7 / 8, 6 / 8, -1 / 8)
    assert compared.mcnemar == mcnemar(2, 1)
    assert (compared.gained.ids, compared.lost.ids) == (("r2",), ("r3", "r5"))
    assert (report.n_labelled, report.discordance, report.discordance_is_bound) == (8, 3 / 8, False)


def test_only_pairs_with_a_label_are_held_against_it_and_a_null_is_none() -> None:
    report = report_of(LIVE, SHADOW, [None, "card", "money", None])
    assert report.comparison is not None
    assert (report.n_paired, report.n_labelled, report.comparison.rows) == (8, 2, 2)
    nothing = report_of(LIVE, SHADOW, [None])
    assert (nothing.n_labelled, nothing.comparison) == (0, None)
    assert nothing.discordance == 3 / 8
    assert nothing.discordance_is_bound


def test_a_label_that_no_head_knows_is_right_for_neither() -> None:
    report = report_of(["card", "card"], ["card", "money"], ["lost", "money"])
    assert report.comparison is not None
    assert (report.comparison.differences["accuracy"].a, report.comparison.differences["accuracy"].b) == (0.0, 0.5)


def test_coverage_begins_with_the_first_pair_and_tells_a_shadow_that_went_silent() -> None:
    rows = table_of(said("refunds@2", ["card"] * 10), said("refunds@3", ["card"] * 4, role="shadow", start=2))
    [report] = shadow_reports("triage", rows)
    assert (report.n_paired, report.n_live, report.coverage) == (4, 8, 0.5)


def test_heads_are_paired_by_request_whatever_part_they_had() -> None:
    rows = table_of(
        said("refunds@2", ["card"] * 4),
        said("refunds@2", ["card"] * 2, role="shadow", start=4),
        said("refunds@3", ["card"] * 2, role="canary", start=4),
        said("refunds@4", ["money"] * 6, role="shadow"),
    )
    canary, shadow = shadow_reports("triage", rows)
    assert (canary.live, canary.shadow, canary.n_paired) == ("refunds@2", "refunds@3", 2)
    assert (shadow.live, shadow.shadow, shadow.n_paired) == ("refunds@2", "refunds@4", 6)


def test_after_a_promotion_the_head_that_answers_now_is_the_live_one() -> None:
    rows = table_of(
        said("refunds@2", ["card"] * 3), said("refunds@3", ["card"] * 3, role="shadow"),
        said("refunds@3", ["card"] * 3, start=3), said("refunds@2", ["money"] * 3, role="shadow", start=3),
    )  # fmt: skip
    [report] = shadow_reports("triage", rows)
    assert (report.live, report.shadow, report.n_paired) == ("refunds@3", "refunds@2", 6)
    [before] = shadow_reports("triage", rows, live="refunds@2")
    assert (before.live, before.shadow) == ("refunds@2", "refunds@3")


def test_without_another_head_there_is_no_report_and_an_unknown_head_is_named() -> None:
    rows = table_of(said("refunds@2", ["card"]))
    assert shadow_reports("triage", rows) == shadow_reports("triage", rows.slice(0, 0)) == []
    with pytest.raises(HeadNotFound) as error:
        shadow_reports("triage", rows, heads=["refunds@9"])
    assert str(error.value) == "no head 'refunds@9' in the predictions of deployment 'triage'. It has: 'refunds@2'."


def test_heads_that_never_met_make_a_report_of_nothing() -> None:
    rows = table_of(said("refunds@2", ["card"] * 2), said("refunds@3", ["card"], role="shadow", start=5))
    [report] = shadow_reports("triage", rows, labels=labels_of(["card"]))
    assert (report.n_paired, report.agreement, report.comparison, report.drift_live) == (0, None, None, None)
    assert report.text() == "refunds@3 in the shadow of refunds@2\nDeployment triage: no request was seen by both.\n"
    assert "no request was seen by both" in report.to_html()


def test_heads_that_predict_different_things_are_no_pair() -> None:
    rows = table_of(said("refunds@2", ["card"]), said("prices@1", [1.5], role="shadow"))
    with pytest.raises(InvalidArguments) as error:
        shadow_reports("triage", rows)
    assert str(error.value) == "shadow report: head 'refunds@2' predicts classes, head 'prices@1' predicts number."


@pytest.mark.parametrize(
    ("answers", "labels", "problem"),
    [
        (["card"], [1.5], "the labels are double, expected text, integers or booleans: head 'refunds@2' predicts classes"),
        ([("card",)], ["card"], "the labels are string, expected a list of text a row, as list(label) gives: "
         "head 'refunds@2' predicts labels"),
        ([1.5], ["card"], "the labels are string, expected numbers: head 'refunds@2' predicts number"),
    ],
)  # fmt: skip
def test_labels_of_another_kind_are_refused(answers: list[Any], labels: list[Any], problem: str) -> None:
    with pytest.raises(InvalidArguments) as error:
        report_of(answers, answers, labels)
    assert str(error.value) == f"shadow report: {problem}."


def test_abstentions_and_confidence_stand_beside_each_other() -> None:
    live = [*said("a@1", ["x", "x"], abstained=True, confidence=0.4), *said("a@1", ["x", "y"], start=2, confidence=0.8)]
    shadow = [
        *said("a@2", ["y"], role="shadow", abstained=True, confidence=0.5),
        *said("a@2", ["x", "x", "y"], role="shadow", start=1, confidence=0.9),
    ]
    [report] = shadow_reports("triage", table_of(live, shadow))
    a = report.abstained
    assert a is not None
    assert (a.live, a.shadow, a.only_live, a.only_shadow, a.both) == (0.5, 0.25, 1, 0, 1)
    assert report.agreement is not None
    assert report.agreement_answered is not None
    assert (report.agreement.value, report.agreement_answered.value) == (0.75, 1.0)
    assert report.confidence_shift is not None
    assert report.confidence_shift.value == pytest.approx(0.2)
    assert report.confidence_shift.low < 0.2 < report.confidence_shift.high


def test_subjects_are_drawn_whole_so_alike_requests_make_an_interval_wider() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.random(40) < 0.9, 25)
    live, shadow = ["card"] * 1_000, ["card" if s else "money" for s in same]
    alone = report_of(live, shadow)
    of_subjects = report_of(live, shadow, subjects=[f"c{i // 25}" for i in range(1_000)])
    assert (alone.entities, of_subjects.entities) == (1_000, 40)
    widths = [r.agreement.high - r.agreement.low for r in (alone, of_subjects) if r.agreement]
    assert widths[1] > 3 * widths[0]


def test_a_request_without_a_subject_is_its_own() -> None:
    rows = table_of(
        *(
            said(h, ["x"] * 5, subjects=["c1", None, "c1", None, "c2"], role=r)
            for h, r in (("a@1", "live"), ("a@2", "shadow"))
        )
    )
    assert shadow_reports("triage", rows)[0].entities == 4


def test_agreement_of_all_pairs_is_not_certain() -> None:
    report = report_of(["card"] * 30, ["card"] * 30)
    assert report.agreement is not None
    assert (report.agreement.value, report.agreement.high, report.flips) == (1.0, 1.0, ())
    assert report.agreement.low == pytest.approx(0.025 ** (1 / 30))
    assert report.worst_class == 1.0
    assert all(each.pairs is None for each in report.needed)


def test_latency_is_of_the_answers_that_say_it() -> None:
    rows = table_of(
        [row for i in range(100) for row in said("a@1", ["x"], start=i, latency_ms=float(i))],
        [row for i in range(100) for row in said("a@2", ["x"], start=i, role="shadow", latency_ms=None)],
    )
    [report] = shadow_reports("triage", rows)
    assert report.latency_shadow is None
    assert report.latency_live is not None
    assert (report.latency_live.n, report.latency_live.p50, report.latency_live.p99) == (100, 49.5, pytest.approx(98.01))


def test_drift_is_of_the_last_half_against_the_first_and_beside_it_what_chance_gives() -> None:
    rng = np.random.default_rng(1)
    steady = [f"c{i}" for i in rng.integers(5, size=400)]
    moved = [*steady[:200], *("c0" for _ in range(200))]
    report = report_of(steady, moved)
    assert report.drift_live is not None
    assert report.drift_shadow is not None
    assert report.drift_live.psi < report.drift_live.chance
    assert report.drift_shadow.psi > 10 * report.drift_shadow.chance
    assert (report.drift_live.first, report.drift_live.last) == (200, 200)


def test_sets_of_labels_are_compared_as_sets() -> None:
    live = [("card", "fraud"), ("card",), (), ("money",)]
    shadow = [("fraud", "card"), ("money",), (), ("money", "card")]
    report = report_of(live, shadow, [["card", "fraud"], ["card"], [], ["money", "card"]])
    assert report.agreement is not None
    assert report.agreement.value == 0.5
    assert [(c.label, c.left, c.came) for c in report.per_class] == [("card", 1, 1), ("fraud", 0, 0), ("money", 0, 1)]
    assert report.comparison is not None
    assert report.comparison.differences["subset_accuracy"].value == 0.0
    assert "micro_f1_gain" in {name for name, value in report.metrics().items() if value is not None}


def test_numbers_are_compared_by_how_far_they_lie_apart() -> None:
    report = report_of([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5], [1.5, 2.5, 3.0, 4.0])
    assert report.agreement is None
    assert report.difference is not None
    assert report.absolute_difference is not None
    assert (report.difference.value, report.difference.low, report.absolute_difference.value) == (0.5, 0.5, 0.5)
    assert report.correlation == pytest.approx(1.0)
    assert (report.flips, report.per_class, report.needed) == ((), (), ())
    figures = report.metrics()
    assert (figures["mae.live"], figures["mae.shadow"], figures["mae_gain"]) == (0.25, 0.25, 0.0)


def test_of_an_error_a_gain_is_what_it_falls_by() -> None:
    figures = report_of([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]).metrics()
    assert figures["mae_gain"] == pytest.approx(2.0)
    assert figures["mae_gain.low"] is not None
    assert figures["mae_gain.high"] is not None
    assert figures["mae_gain.low"] <= 2.0 <= figures["mae_gain.high"]


# --- laws --------------------------------------------------------------------------------------------------------------

_ANSWERS = st.lists(st.tuples(*[st.sampled_from("abc")] * 3, st.booleans(), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(answers=_ANSWERS)
def test_swapping_the_heads_turns_the_report_round(answers: list[tuple[str, str, str, bool, bool]]) -> None:
    first = [row for i, (a, _, _, off, _) in enumerate(answers) for row in said("h@1", [a], start=i, abstained=off)]
    second = [
        row
        for i, (_, b, _, _, off) in enumerate(answers)
        for row in said("h@2", [b], start=i, abstained=off, role="shadow")
    ]
    labels = labels_of([truth for _, _, truth, _, _ in answers])
    rows = table_of(first, second)
    one = shadow_report("triage", make_pairs(rows, "h@1", "h@2"), labels)
    two = shadow_report("triage", make_pairs(rows, "h@2", "h@1"), labels)
    assert one.agreement == two.agreement
    assert {(f.live, f.shadow, f.count) for f in one.flips} == {(f.shadow, f.live, f.count) for f in two.flips}
    assert [(c.left, c.came) for c in one.per_class] == [(c.came, c.left) for c in two.per_class]
    assert one.comparison is not None
    assert two.comparison is not None
    assert one.comparison.differences["accuracy"].value == -two.comparison.differences["accuracy"].value
    assert one.discordance == two.discordance
    assert one.abstained is not None
    assert two.abstained is not None
    assert (one.abstained.only_live, one.abstained.both) == (two.abstained.only_shadow, two.abstained.both)


@settings(max_examples=40, deadline=None)
@given(answers=_ANSWERS, seed=st.integers(0, 99))
def test_a_report_does_not_hang_on_the_order_of_its_rows(
    answers: list[tuple[str, str, str, bool, bool]], seed: int
) -> None:
    rows = table_of(said("h@1", [a for a, *_ in answers]), said("h@2", [b for _, b, *_ in answers], role="shadow"))
    labels = labels_of([truth for _, _, truth, *_ in answers])
    rng = np.random.default_rng(seed)
    shuffled = rows.take(rng.permutation(len(rows)))
    assert shadow_reports("d", shuffled, labels=labels.take(rng.permutation(len(labels)))) == shadow_reports(
        "d", rows, labels=labels
    )


@settings(max_examples=40, deadline=None)
@given(answers=_ANSWERS, labelled=st.booleans())
def test_a_report_survives_json_and_has_every_figure_of_the_gate(
    answers: list[tuple[str, str, str, bool, bool]], labelled: bool
) -> None:
    report = report_of(
        [a for a, *_ in answers], [b for _, b, *_ in answers], [t for _, _, t, *_ in answers] if labelled else None
    )
    assert ShadowReport.model_validate_json(report.model_dump_json()) == report
    assert list(report.metrics()) == list(METRICS)
    for name, value in report.metrics().items():
        assert (value is not None) or report.missing(name)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
def test_the_stability_index_is_symmetric_never_negative_and_zero_of_the_same(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert psi(a, a) == psi(a, 3 * a * 0) == 0.0
    assert psi_by_chance(a, b) >= 0


def test_two_samples_of_one_distribution_stay_below_chance_19_times_of_20() -> None:
    rng = np.random.default_rng(3)
    draws = [[np.bincount(rng.integers(6, size=n), minlength=6) for n in (300, 500)] for _ in range(600)]
    below = np.mean([psi(a, b) < psi_by_chance(a, b) for a, b in draws])
    assert 0.92 < below < 0.98


def test_the_number_of_labels_is_that_of_mcnemars_test() -> None:
    # (1.96 sqrt(.2) + .8416 sqrt(.2 - .01))^2 / .01
    assert pairs_needed(0.1, 0.2) == 155
    assert pairs_needed(0.05, 0.04) is None
    assert pairs_needed(0.0, 0.5) is None
    rng = np.random.default_rng(4)
    told = 0
    for _ in range(400):
        only_b, only_a = np.bincount(rng.choice(3, p=[0.15, 0.05, 0.8], size=155), minlength=3)[:2]
        told += abs(int(only_b) - int(only_a)) / max(int(only_a + only_b), 1) ** 0.5 > 1.96
    assert 0.74 < told / 400 < 0.86


@given(st.floats(0.001, 0.5), st.floats(0.001, 1), st.floats(0.001, 1))
def test_more_discordance_asks_for_more_labels(gain: float, one: float, other: float) -> None:
    low, high = sorted([one, other])
    few, many = pairs_needed(gain, low), pairs_needed(gain, high)
    assert few is None or (many is not None and few <= many)


# --- labels ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> raystore.Store:
    store = raystore.open(tmp_path_factory.mktemp("shadows") / "a store")
    kept = Predictions.open_or_create(store.catalog, "triage")
    kept.append([*said("refunds@2", LIVE), *said("refunds@3", SHADOW, role="shadow")])
    day = ["2026-11-02", "2026-11-03", "2026-11-01"]
    store.register_table(
        "outcomes",
        [
            {"ticket": "r0", "outcome": "card", "at": day[0]}, {"ticket": "r2", "outcome": "wrong", "at": day[0]},
            {"ticket": "r2", "outcome": "money", "at": day[1]}, {"ticket": "r2", "outcome": "older", "at": day[2]},
            {"ticket": "r3", "outcome": "card", "at": day[0]}, {"ticket": "r3", "outcome": None, "at": day[1]},
        ],
        id="ticket", time="at",
    )  # fmt: skip
    store.register_table("keyless", [{"ticket": "r0", "outcome": "card"}])
    logged = CollectionTable.create(store.layout, "tickets", {ToyEncoder.fingerprint: 3}, {"outcome": "string"})
    RowLog(logged, ToyEncoder(), b"k" * 32).log(
        [{"id": f"r{i}", "text": "e", "outcome": label} for i, label in enumerate(TRUTH)]
    )
    return store


def found(store: raystore.Store, labels: str | pa.Table) -> dict[str, Any]:
    rows = live_labels(store.catalog, labels, lambda query: store.sql(query).to_arrow())
    return dict(zip(rows.column("id").to_pylist(), rows.column("label").to_pylist(), strict=True))


def test_labels_of_a_table_are_the_latest_of_each_id(store: raystore.Store) -> None:
    assert found(store, "outcomes.outcome") == {"r0": "card", "r2": "money", "r3": None}
    [report] = report_deployment(store.catalog, "triage", labels="outcomes.outcome")
    assert (report.n_labelled, report.n_paired) == (2, 8)
    [later] = report_deployment(
        store.catalog, "triage", since=minute(2), until=minute(7), live="refunds@3", heads=["refunds@2"]
    )
    assert (later.live, later.n_paired, later.since, later.until) == ("refunds@3", 5, minute(2), minute(6))
    with pytest.raises(CollectionNotFound, match="no collection 'predictions_nothing'"):
        report_deployment(store.catalog, "nothing")


def test_labels_come_from_a_kept_column_or_a_query_as_well(store: raystore.Store) -> None:
    assert found(store, "tickets.outcome") == {f"r{i}": label for i, label in enumerate(TRUTH)}
    query = "SELECT ticket AS id, arg_max(outcome, at) AS label FROM outcomes WHERE outcome IS NOT NULL GROUP BY ticket"
    assert found(store, query) == {"r0": "card", "r2": "money", "r3": "card"}
    assert found(store, pa.table({"id": [1], "label": ["a"], "more": [0]})) == {"1": "a"}


def test_labels_that_cannot_be_are_refused_by_name(store: raystore.Store) -> None:
    with pytest.raises(TableNotFound, match="no table 'nothing'"):
        found(store, "nothing.label")
    with pytest.raises(ColumnNotFound, match=r"no column 'label' in table 'outcomes'. It has: 'ticket', 'outcome', 'at'."):
        found(store, "outcomes.label")
    said_of = {
        "keyless.outcome": "table 'keyless' has no id key, by which its labels would join predictions: register it with id=",
        "SELECT ticket AS id, outcome AS label FROM outcomes": "3 rows repeat an id; make one row each, as with arg_max(label, time) "
        "and GROUP BY id",
        "SELECT ticket, outcome AS label FROM outcomes": "they need one column 'id' each; there are: ticket, label",
    }
    for labels, problem in said_of.items():
        with pytest.raises(InvalidArguments) as error:
            found(store, labels)
        assert str(error.value) == f"labels of a shadow report: {problem}."
    with pytest.raises(InvalidArguments, match=r"labels is no 'table\.column', and no query is run here"):
        live_labels(store.catalog, "SELECT 1")
    assert [is_place(text) for text in ("a.b", "a", "a.b.c", "SELECT a.b", "a.b; x")] == [True, False, False, False, False]


# --- how it is shown ----------------------------------------------------------------------------------------------------


def test_the_text_says_what_was_seen_what_flipped_and_what_the_labels_say() -> None:
    assert (
        report_of(LIVE, SHADOW, TRUTH[:4]).text()
        == """\
refunds@3 in the shadow of refunds@2
Deployment triage: 8 of 8 requests were seen by both (100.0%), 2026-11-01 12:00 to 2026-11-01 12:07
UTC.
They give the same label to 62.5% (25.0% to 87.5%).

                            refunds@2             refunds@3
abstains                         0.0%                  0.0%
mean confidence                 0.900                 0.900
head's ms, p50                   0.50                  0.50
head's ms, p95                   0.50                  0.50
head's ms, p99                   0.50                  0.50
drift (PSI)      2.768 (chance 2.996)  0.186 (chance 2.996)

Flips
live   shadow  requests  of live's label
card   money          1            25.0%
card   other          1            25.0%
money  card           1            50.0%

4 pairs have a label (50.0%).
Which is better cannot be told from these 4 rows: accuracy 75.0% in refunds@3 against 75.0% in
refunds@2, +0.0 points (95% interval -75.0 to +75.0 points).
1 rows are right in refunds@3 alone, 1 in refunds@2 alone (McNemar, exact: p = 1.000).

Classes that changed
class  gained  lost  labelled
card        0     1         3
money       1     0         1

One head alone is right on 50.0% of the labelled pairs. Labels that tell a gain, of different
subjects (McNemar, two-sided 5%, 80% power):

gain          labels  still needed
+0.5 points  156,976       156,972
+1.0 points   39,243        39,239
+2.0 points    9,809         9,805
+5.0 points    1,568         1,564"""
    )


def test_text_and_page_show_every_task_and_escape_what_they_show() -> None:
    named = report_of(["<i>", "x"], ["x", "x"], ["x", "x"])
    assert "<i>" not in named.to_html()
    assert "&lt;i&gt;" in named.to_html()
    assert "Gains and losses by class" in named.to_html()
    assert "&lt;i&gt;" in named._repr_html_()
    assert "[b]" in report_of(["[b]"], ["x"]).text()
    numbers = report_of([1.0, 2.0], [1.5, 2.0])
    assert "Their numbers lie 0.25 (-0.24 to 0.74) apart on average" in numbers.text()
    assert "No pair has a label yet, so which head is better is not known." in numbers.to_html()
    sets = report_of([("a", "b")], [("a",)], [["a"]])
    assert "Labels given otherwise" in sets.text()
    assert "Labels given otherwise" in sets.to_html()


def test_labels_that_are_one_word_are_answered_with_how_labels_are_named(store: raystore.Store) -> None:
    for labels in ("outcomes", "a.b.c"):
        with pytest.raises(InvalidArguments) as refused:
            live_labels(store.catalog, labels, lambda query: store.sql(query).to_arrow())
        assert str(refused.value) == (
            "labels of a shadow report: expected 'table.column', or a SELECT that gives id and label."
        )
