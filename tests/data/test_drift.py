from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import raystore.data.drift.drift as drifting
from raystore.data.drift.drift import Drawn, Sample, class_balance, draw, drift, embedding_drift, measure, rbf_kernel
from raystore.data.drift.report import p_said
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix
from tests.data.minilm import encode


def unit(rows: np.ndarray) -> Matrix:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cloud(n: int, seed: int, shift: float = 0.0, d: int = 12) -> Matrix:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    rows[:, 0] += shift
    return unit(rows)


def named(vectors: Matrix, name: str, labels: list[str] | None = None) -> Sample:
    return Sample(vectors, labels, name)


# --- the tests themselves -----------------------------------------------------------------------------------------------


def test_a_shift_of_the_vectors_is_an_alarm_and_none_is_none() -> None:
    report = drift(named(cloud(300, 1), "before"), named(cloud(250, 2, shift=0.8), "after"))
    assert report.alarm
    assert (report.embedding.auc_p_value, report.embedding.mmd_p_value) == (1 / 201, 1 / 201)
    assert report.embedding.p_value == 2 / 201
    assert report.embedding.auc > 0.6
    assert report.embedding.sizes == (300, 250)
    assert (report.balance, report.classes) == (None, [])
    assert not drift(named(cloud(300, 1), "before"), named(cloud(250, 2), "after")).alarm


def test_a_difference_that_no_line_shows_is_found_by_mmd() -> None:
    """Two clouds against one of the same mean: the classifier is blind to it."""
    rng = np.random.default_rng(3)
    two = rng.normal(size=(300, 6)) * 0.3
    two[:, 0] += np.where(np.arange(300) % 2, 3, -3)
    one = rng.normal(size=(300, 6)) * 0.3
    one[:, 1] += np.where(np.arange(300) % 2, 3, -3)
    found = embedding_drift(unit(two), unit(one), np.random.default_rng(0), 200)
    assert found.mmd_p_value == 1 / 201
    assert found.auc < 0.65
    assert found.p_value < 0.01


def test_false_alarms_are_as_rare_as_said() -> None:
    """The p-values of samples of one distribution are uniform: 60 pairs."""
    values = []
    for seed in range(60):
        rows = cloud(120, 1_000 + seed, d=5)
        values.append(embedding_drift(rows[:60], rows[60:], np.random.default_rng(seed), 200))
    for p_values in ([v.auc_p_value for v in values], [v.mmd_p_value for v in values]):
        assert kstest(p_values, "uniform").pvalue > 0.01
    assert sum(v.p_value < 0.01 for v in values) <= 3


def test_the_discrepancy_is_that_of_the_paper() -> None:
    """Gretton et al. (2012), equation 3, by its double sums."""
    x, y = cloud(7, 1), cloud(9, 2, shift=1)
    kernel, width = rbf_kernel(np.concatenate([x, y]))
    k = lambda u, v: float(np.exp(-np.sum((u.astype(float) - v) ** 2) / (2 * width**2)))  # noqa: E731
    within = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (7 * 6)
    within += sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (9 * 8)
    between = sum(k(a, b) for a in x for b in y) / (7 * 9)
    real = (np.arange(16) < 7)[None]
    found = drifting._mean_discrepancies(kernel, real)[0]
    assert found == pytest.approx(within - 2 * between, abs=1e-5)
    distances = [np.linalg.norm(a - b) for i, a in enumerate([*x, *y]) for j, b in enumerate([*x, *y]) if i != j]
    assert width == pytest.approx(np.median(distances), rel=1e-4)


def test_the_classifier_is_a_logistic_regression() -> None:
    """The many that are fitted together give scikit-learn's area, with its folds."""
    rows = np.concatenate([cloud(150, 1), cloud(120, 2, shift=0.5)])
    truth = np.arange(270) < 150
    found = drifting.classifier_areas(rows, truth[None], np.random.default_rng(5))[0]
    folds = np.random.default_rng(5).permutation(270) % 5
    above = pairs = 0.0
    for fold in range(5):
        own, held = folds != fold, folds == fold
        model = LogisticRegression(C=1.0, tol=1e-8).fit(rows[own] - rows.mean(axis=0), truth[own])
        n_pairs = truth[held].sum() * (~truth[held]).sum()
        above += roc_auc_score(truth[held], model.decision_function(rows[held] - rows.mean(axis=0))) * n_pairs
        pairs += n_pairs
    assert found == pytest.approx(above / pairs, abs=2e-3)


def test_the_same_seed_gives_the_same_report() -> None:
    a, b = named(cloud(60, 1), "a", ["x"] * 60), named(cloud(60, 2), "b", ["x"] * 60)
    assert drift(a, b, seed=4, sample=30).to_dict() == drift(a, b, seed=4, sample=30).to_dict()
    assert drift(a, b, seed=4, sample=30).embedding != drift(a, b, seed=5, sample=30).embedding


# --- class balance and classes ------------------------------------------------------------------------------------------


def labels(**counts: int) -> list[str]:
    return [label for label, n in counts.items() for _ in range(n)]


def test_shares_are_named_by_the_size_of_their_change() -> None:
    found = class_balance(labels(a=50, b=30, c=20), labels(a=20, b=36, c=20, d=4))
    assert [(c.label, round(c.change, 3)) for c in found.changes] == [("a", -0.25), ("b", 0.15), ("c", 0.05), ("d", 0.05)]
    assert (found.changes[0].share_a, found.changes[0].share_b) == (0.5, 0.25)
    assert found.sizes == (100, 80)
    assert found.p_value < 0.01
    assert class_balance(labels(a=50, b=30), labels(a=45, b=33)).p_value > 0.3
    assert class_balance(labels(a=50), labels(a=5)).p_value == 1.0


def test_the_p_value_of_the_balance_holds_its_level() -> None:
    """Also where most classes are rare."""
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, *[0.02] * 10])
    names = [f"c{i}" for i in range(12)]
    p_values = [
        class_balance(rng.choice(names, 150, p=shares).tolist(), rng.choice(names, 200, p=shares).tolist()).p_value
        for _ in range(300)
    ]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09


def test_rows_without_a_label_are_counted_apart_and_rows_with_several_count_for_each() -> None:
    found = class_balance([["a", "b"], ["a"], [], None], [["a"], ["b", "b"], ["b"], ["b"]])
    assert found.unlabelled == (1, 0)
    assert [(c.label, c.rows_a, c.size_a, c.rows_b, c.size_b) for c in found.changes] == [
        ("a", 2, 3, 1, 4),
        ("b", 1, 3, 3, 4),
    ]
    assert 0 < found.p_value <= 1


def test_the_class_that_moved_is_named_and_no_other() -> None:
    rng = np.random.default_rng(9)
    kinds = rng.integers(0, 6, size=(2, 600))
    centres = rng.normal(size=(6, 12)) * 3
    rows = [unit(centres[k] + rng.normal(size=(600, 12))) for k in kinds]
    moved = kinds[1] == 4
    rows[1][moved] = unit(centres[4] + 1.5 + rng.normal(size=(int(moved.sum()), 12)))
    report = drift(*(named(r, n, [f"c{i}" for i in k]) for r, n, k in zip(rows, "ab", kinds, strict=True)))
    assert report.moved == ["c4"]
    assert report.classes[0].label == "c4"
    assert report.classes[0].distance == pytest.approx(
        np.linalg.norm(rows[0][kinds[0] == 4].mean(0) - rows[1][kinds[1] == 4].mean(0)), rel=0.1
    )
    assert len(report.classes) == 6
    assert f"Classes that moved: 1 of 6 with rows enough: c4." in str(report)  # noqa: F541


# --- arguments, drawing, words ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(a=st.sets(st.integers(0, 40)), b=st.sets(st.integers(0, 40)), sample=st.integers(1, 30), seed=st.integers(0, 9))
def test_no_row_is_drawn_twice_and_few_are_drawn_where_there_are_many(
    a: set[int], b: set[int], sample: int, seed: int
) -> None:
    one, other = sorted(a), sorted(b)
    drawn = draw(one, other, np.random.default_rng(seed), sample)
    ids = [one[i] for i in drawn.a] + [other[i] for i in drawn.b]
    assert len(ids) == len(set(ids))
    assert drawn.shared == len(a & b)
    assert len(drawn.a) <= sample
    assert len(ids) >= min(len(a | b), sample)


def test_a_sample_against_itself_is_no_alarm() -> None:
    rows = cloud(400, 1)
    ids = [str(i) for i in range(400)]
    own = Sample(rows, ["x", "y"] * 200, "a", ids)
    report = drift(own, Sample(rows, ["x", "y"] * 200, "b", ids))
    assert (report.shared, report.rows) == (400, (400, 400))
    assert sum(report.embedding.sizes) == 400
    assert not report.alarm
    assert report.embedding.p_value > 0.01
    assert str(report).startswith("no alarm: b (400 rows) against a (400 rows), 400 of them in both.")


@pytest.mark.parametrize(
    ("p", "least", "said"),
    [
        (0.6291, 1 / 201, "p = 0.63"),
        (2 / 201, 1 / 201, "p = 0.01"),
        (1 / 201, 1 / 201, "p < 0.005"),
        (2 / 201, 2 / 201, "p < 0.01"),
        (1 / 301, 1 / 301, "p < 0.0034"),
        (1e-30, 0.001, "p < 0.001"),
        (1.0, 0.001, "p = 1"),
    ],
)
def test_a_p_value_has_two_digits_and_the_least_there_can_be_is_said_as_a_bound(p: float, least: float, said: str) -> None:
    assert p_said(p, least) == said


def test_what_cannot_be_compared_is_said_at_once() -> None:
    with pytest.raises(InvalidArguments) as refused:
        drift(named(cloud(20, 1), "a", ["x"]), named(cloud(20, 2, d=5), "b"), permutations=99, sample=3)
    assert str(refused.value) == (
        "drift of 'a' and 'b': labels of 'a' are 1, expected 20, one a row; "
        "the vectors of 'a' have 12 numbers, those of 'b' 5; "
        "permutations is 99, expected 200 or more: fewer cannot give p < 0.01; sample is 3, expected 10 to 10,000."
    )
    with pytest.raises(InvalidArguments) as refused:
        drift(named(cloud(20, 1), "a"), named(cloud(9, 2), "b"))
    assert str(refused.value) == "drift of 'a' and 'b': 'b' has 9 rows to draw that the other has not, expected 10 or more."


def test_vectors_that_are_all_one_are_compared() -> None:
    rows = np.ones((20, 3), np.float32) / np.sqrt(np.float32(3))
    report = drift(named(rows, "a", ["x"] * 20), named(rows, "b", ["x"] * 20))
    assert not report.alarm
    assert np.isfinite(report.embedding.mmd2)


def test_a_report_reads_as_text_as_html_and_as_json() -> None:
    a = named(cloud(60, 1), "june", labels(**{"<b>": 40, "y": 20}))
    report = drift(a, named(cloud(60, 2, shift=2), "july", labels(**{"<b>": 10, "y": 50})))
    lines = str(report).splitlines()
    assert lines[0] == "ALARM: july (60 rows) against june (60 rows)."
    assert lines[1].startswith(
        "Embeddings: p < 0.01 from 60 and 60 rows and 200 permutations; a classifier tells them apart with AUC "
    )
    assert lines[2] == "Class balance: p < 0.001 from 60 and 60 rows; largest changes in points: <b> -50.0, y +50.0."
    assert lines[3] == "Classes that moved: 2 of 2 with rows enough: y, <b>."
    still = replace(report, classes=[replace(shift, moved=False) for shift in report.classes])
    assert str(still).splitlines()[3] == "Classes that moved: none of the 2 with rows enough."
    assert str(replace(report, classes=[])).splitlines()[3] == "Classes that moved: none has rows enough to tell."
    html = report._repr_html_()
    assert html.count("<rect") == 2
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    told = json.loads(json.dumps(report.to_dict()))
    assert (told["alarm"], told["balance"]["changes"][0]["change"]) == (True, -0.5)


# --- real data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Year:
    """Labels of all rows, the places of 2,500 of them, ascending, and the vectors of their titles."""

    labels: list[str]
    places: npt.NDArray[np.int64]
    vectors: Matrix


@pytest.fixture(scope="module")
def arxiv(datasets: Path) -> dict[str, Year]:
    found = {}
    for seed, name in enumerate(("test", "test2019")):
        rows = pq.read_table(datasets / "arxiv100k" / f"{name}.parquet", columns=["title", "label"])
        places = np.sort(np.random.default_rng(seed).choice(len(rows), 2_500, replace=False))
        vectors = np.asarray(encode(rows.take(places).column("title").to_pylist()))
        found[name] = Year(rows.column("label").to_pylist(), places, vectors)
    return found


@pytest.mark.model
def test_a_year_of_arxiv_is_an_alarm_and_its_largest_share_changes_are_named(arxiv: dict[str, Year]) -> None:
    """As the wrappers do it: the labels of all rows, the vectors of some."""
    a, b = arxiv["test"], arxiv["test2019"]
    report = measure(
        ("test", "test2019"),
        (a.labels, b.labels),
        (len(a.labels), len(b.labels)),
        (a.vectors, b.vectors),
        Drawn(a.places, b.places, 0),
        np.random.default_rng(0),
        200,
    )
    assert report.alarm
    assert report.embedding.p_value < 0.01
    shares = [Counter(year.labels) for year in (a, b)]
    change = {c: abs(shares[1][c] / len(b.labels) - shares[0][c] / len(a.labels)) for c in shares[0] | shares[1]}
    largest = sorted(change, key=lambda c: -change[c])[:3]
    assert [c.label for c in report.balance.changes[:3]] == largest
    assert all(name in str(report).splitlines()[2] for name in largest)


@pytest.mark.model
def test_random_halves_of_arxiv_are_at_most_two_alarms_in_twenty(arxiv: dict[str, Year]) -> None:
    year = arxiv["test"]
    alarms = 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(year.vectors))
        halves = [Sample(year.vectors[half], None, "half") for half in (order[:1_250], order[1_250:])]
        alarms += drift(*halves, seed=seed, sample=800).alarm
    assert alarms <= 2
