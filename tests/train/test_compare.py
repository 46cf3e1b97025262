from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score

from raystore.errors import InvalidArguments
from raystore.train.compare.compare import Comparison, compare, mcnemar
from raystore.train.compare.heads import compare_heads
from raystore.train.heads import Head, HeadRecord
from raystore.train.report.report import Baselines, measure
from raystore.train.source import ArraySource, Examples

CLASSES = ["a", "b", "<c>"]
BASELINES = Baselines(majority=0.5, knn10=0.7, knn10_train_rows=6, knn10_rows=4)


def flipped(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < share, rng.integers(3, size=len(labels)), labels)


def made(n: int = 400, **more: object) -> Comparison:
    labels = np.random.default_rng(0).integers(3, size=n)
    ids = [f"row {i}" for i in range(n)]
    return compare("a@1", "b@2", labels, flipped(labels, 0.4, 1), flipped(labels, 0.1, 2), CLASSES, ids=ids, **more)  # type: ignore[arg-type]


def test_scores_of_both_and_the_rows_that_changed_sides_are_those_of_a_plain_count() -> None:
    labels = np.random.default_rng(0).integers(3, size=400)
    a, b = flipped(labels, 0.4, 1), flipped(labels, 0.1, 2)
    c = made()
    d = c.differences["accuracy"]
    assert (d.a, d.b) == pytest.approx((accuracy_score(labels, a), accuracy_score(labels, b)))
    d = c.differences["macro_f1"]
    assert (d.a, d.b) == pytest.approx(tuple(f1_score(labels, x, average="macro") for x in (a, b)))
    gained = np.flatnonzero((b == labels) & (a != labels))
    assert c.gained.count == len(gained)
    assert c.gained.ids == tuple(f"row {i}" for i in gained[:100])
    assert c.lost.count == ((a == labels) & (b != labels)).sum()
    assert c.otherwise == ((a != labels) & (b != labels) & (a != b)).sum()
    assert c.mcnemar is not None
    assert (c.mcnemar.only_a, c.mcnemar.only_b) == (c.lost.count, c.gained.count)
    assert sum(x.gained for x in c.per_class) == c.gained.count
    assert sum(x.lost for x in c.per_class) == c.lost.count
    assert [x.f1_b for x in c.per_class] == pytest.approx(f1_score(labels, b, average=None).tolist())
    assert c.better == "b@2"


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from(["classes", "labels", "number"]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_head_gains_nothing_over_itself_and_swapping_turns_all_round(n: int, seed: int, task: str, grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    if task == "classes":
        labels, a, b = rng.integers(3, size=(3, n))
    elif task == "labels":
        labels, a, b = (rng.random((3, n, 3)) < 0.4).astype(np.float32)
    else:
        labels, a, b = rng.normal(size=(3, n))
    facts = {"task": task, "entities": rng.integers(5, size=n) if grouped else None, "draws": 200}
    same = compare("x", "x", labels, a, a, CLASSES, **facts)  # type: ignore[arg-type]
    assert all((d.value, d.low, d.high, d.p) == (0, 0, 0, 1) for d in same.differences.values())
    assert (same.gained.count, same.lost.count, same.otherwise, same.better) == (0, 0, 0, None)
    there = compare("x", "y", labels, a, b, CLASSES, **facts)  # type: ignore[arg-type]
    back = compare("y", "x", labels, b, a, CLASSES, **facts)  # type: ignore[arg-type]
    for name, d in there.differences.items():
        other = back.differences[name]
        assert (d.value, d.low, d.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
        assert d.low <= d.value <= d.high
        assert d.p == pytest.approx(other.p, abs=0.02)  # a sum of numbers may round to the other side of 0
    assert (there.gained, there.lost, there.better) == (back.lost, back.gained, back.better)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemar_is_the_binomial_test_of_few_and_close_to_it_for_many(a: int, b: int) -> None:
    found = mcnemar(a, b)
    exact = binomtest(a, a + b).pvalue if a + b else 1.0
    assert found.exact == (a + b < 25)
    assert found.p == pytest.approx(exact, abs=1e-9 if found.exact else 0.03)
    assert mcnemar(b, a).p == found.p


def test_mcnemar_of_many_is_the_corrected_chi_square_of_the_paper() -> None:
    found = mcnemar(10, 30)
    assert found.statistic == (20 - 1) ** 2 / 40
    assert found.p == pytest.approx(0.002663, abs=1e-5)


def test_of_a_hundred_pairs_of_equal_heads_few_are_called_different() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        labels = np.zeros(200, np.int64)
        a, b = (rng.random((2, 200)) < 0.2).astype(np.int64)
        alarms += compare("a", "b", labels, a, b, CLASSES, draws=500).better is not None
    assert alarms <= 11


def test_rows_of_one_entity_count_as_one() -> None:
    rng = np.random.default_rng(3)
    labels, entities = np.zeros(400, np.int64), np.repeat(np.arange(20), 20)
    a, b = (np.repeat((rng.random(20) < share).astype(np.int64), 20) for share in (0.5, 0.4))
    loose, grouped = (compare("a", "b", labels, a, b, CLASSES, entities=e) for e in (None, entities))
    widths = [c.headline.high - c.headline.low for c in (loose, grouped)]
    assert widths[1] > 3 * widths[0]
    assert "The test takes rows as independent; here 20 entities have several, so trust the intervals." in " ".join(
        str(grouped).split()
    )
    assert (grouped.repeated, loose.repeated) == (20, 0)


@pytest.mark.parametrize(("entities", "said"), [([0, 0, 1, 2, 3], "1 entity has"), ([0, 0, 1, 1, 2], "2 entities have")])
def test_only_the_entities_with_more_than_one_row_are_said_to_have_several(entities: list[int], said: str) -> None:
    labels = np.zeros(5, np.int64)
    c = compare("a", "b", labels, labels, labels, CLASSES, entities=np.array(entities))
    assert f"here {said} several, so trust the intervals." in " ".join(str(c).split())


def test_numbers_are_compared_by_their_errors() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    a, b = truth + rng.normal(0, 1, 500), truth + rng.normal(0, 0.5, 500)
    c = compare("a", "b", truth, a, b, [], task="number")
    assert c.differences["mae"].value == pytest.approx(mean_absolute_error(truth, b) - mean_absolute_error(truth, a))
    assert c.differences["r2"].value == pytest.approx(r2_score(truth, b) - r2_score(truth, a))
    assert c.better == "b"
    assert c.mcnemar is None
    nearest = int(np.argmax(np.abs(a - truth) - np.abs(b - truth)))
    assert c.gained.ids[0] == str(nearest)
    assert "nearer in b: " in str(c)


def test_it_reads_as_a_verdict_with_both_scores() -> None:
    text = str(made(snapshot="s@3"))
    for part in (
        "a@1 and b@2, on 400 rows of test of s@3",
        "b@2 is better: accuracy",
        "McNemar",
        "Classes that changed",
        "<c>",
    ):
        assert part in text
    same = compare("a", "b", np.array([0, 1]), np.array([0, 0]), np.array([1, 1]), CLASSES)
    assert "Which is better cannot be told from these 2 rows: accuracy 50.0% in b against 50.0% in a" in str(same)


def test_html_is_well_formed_and_escapes_and_json_holds_everything() -> None:
    c = made()
    html = c.to_html()
    ElementTree.fromstring(html[html.index("<body>") : html.index("</body>") + 7])
    ElementTree.fromstring(c._repr_html_())
    assert "<c>" not in html + c._repr_html_()
    assert Comparison.model_validate(json.loads(json.dumps(c.to_dict()))) == c


def head(name: str, weights: np.ndarray, classes: list[str], snapshot: str = "s") -> Head:
    record = HeadRecord(
        name=name,
        kind="linear",
        dim=2,
        classes=tuple(classes),
        fingerprint="f" * 64,
        encoder="m@1",
        snapshot={"name": snapshot, "number": 1, "hash": "h"},
        temperature=1.0,
    )
    report = measure(
        name, "test", np.array([0]), np.eye(2, dtype=np.float32)[:1], classes,
        n={"test": 4}, temperature=1.0, baselines=BASELINES, seconds=0.0,
    )  # fmt: skip
    arrays = {"W": weights.astype(np.float32), "b": np.zeros(2, np.float32)}
    return Head(record=record, arrays=arrays, report=report, number=1)


def source(labels: list[int]) -> ArraySource:
    rows = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    return ArraySource({"test": Examples(rows, np.array(labels), np.ones(4, np.float32))})


def test_two_heads_are_asked_about_the_same_rows_whatever_the_order_of_their_classes() -> None:
    a, b = head("a", np.eye(2), ["x", "y"]), head("b", np.eye(2), ["y", "x"])
    c = compare_heads(a, b, source([0, 0, 1, 1]), source([1, 1, 0, 0]))
    assert (c.a, c.b, c.snapshot) == ("a@1", "b@1", "s@1")
    assert (c.headline.a, c.headline.b) == (1.0, 0.0)
    assert c.lost.ids == ("test-0", "test-1", "test-2", "test-3")


def test_heads_on_other_rows_are_refused() -> None:
    a, b = head("a", np.eye(2), ["x", "y"]), head("b", np.eye(2), ["x", "y"], "t")
    with pytest.raises(InvalidArguments) as caught:
        compare_heads(a, b, source([0, 0, 1, 1]), source([0, 1, 1, 1]))
    assert str(caught.value) == (
        "compare: the heads' test rows or labels differ ('a@1' s@1, 'b@1' t@1); name the snapshot to compare both on: on=."
    )
    with pytest.raises(InvalidArguments, match=r"compare: the val split has no rows\."):
        compare_heads(a, b, source([0, 0, 1, 1]), source([0, 0, 1, 1]), split="val")


def test_on_another_snapshot_both_are_asked_about_its_rows_less_those_one_of_them_has_seen() -> None:
    a, b = head("a", np.eye(2), ["x", "y"]), head("b", np.eye(2), ["x", "y"], "t")
    rows = source([1, 1, 2, 2])  # of the classes w, x, y: one that neither head knows
    c = compare_heads(a, b, rows, rows, classes=["w", "x", "y"], snapshot="u@3", seen={"test-1", "elsewhere"})
    assert (c.snapshot, c.rows, c.headline.a) == ("u@3", 3, 1.0)
    with pytest.raises(InvalidArguments, match=r"compare: all 4 rows of test are rows that a head was fitted on\."):
        compare_heads(a, b, rows, rows, classes=["w", "x", "y"], seen={f"test-{i}" for i in range(4)})
