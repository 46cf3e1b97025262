from __future__ import annotations

import pickle
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, silhouette_samples
from sklearn.neighbors import NearestNeighbors

from raystore.errors import ExtraNotInstalled, InvalidArguments, InvalidVectors
from raystore.fine_tune.proof.changes import auroc_change, class_changes, mean_changes
from raystore.fine_tune.proof.maps import draw_maps, laid_on, plane, spread_rows
from raystore.fine_tune.proof.near import choose
from raystore.fine_tune.proof.proof import Proof
from raystore.fine_tune.proof.scores import Question, neighbour_scores, silhouette, unseen_precision
from raystore.fine_tune.proof.space import Space, nearest
from tests.fine_tune.proofs import CLASSES, Made, proof, spaces, unit


def swapped(made: Made) -> Made:
    return Made(made.after, made.before, made.reference_labels, made.query_labels)


@pytest.mark.parametrize("block", [1, 70, 10**9])
def test_neighbours_are_those_of_a_plain_search_however_they_are_cut_into_blocks(block: int) -> None:
    rng = np.random.default_rng(0)
    reference, queries = unit(rng.normal(size=(40, 8))), unit(rng.normal(size=(30, 8)))
    found = nearest(reference, queries, 5, block=block)
    _, expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(reference).kneighbors(queries)
    assert (found.rows == expected).all()
    assert found.cosines[3, 0] == pytest.approx(queries[3] @ reference[found.rows[3, 0]])
    assert nearest(reference, queries, 100).rows.shape == (30, 40)


def test_rows_of_ones_own_entity_are_no_neighbours() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(12, 4)))
    kin = np.arange(12) // 3
    found = nearest(rows, rows, 9, kin=(kin, kin))
    assert (kin[found.rows] != kin[:, None]).all()
    assert np.isneginf(nearest(rows, rows, 10, kin=(kin, kin)).cosines[:, 9]).all()


def test_precision_counts_as_many_neighbours_as_the_class_has_rows() -> None:
    # Two reference rows of class 0 beside the query, then one of class 1: with k=3, two of two are right, not two of three.
    reference = unit(np.array([[1, 0.1], [1, -0.1], [0, 1]]))
    ask = Question(np.array([0, 0, 1]), np.array([0, 1]), np.arange(2), 2, 3)
    found = neighbour_scores(nearest(reference, unit(np.array([[1, 0], [1, 0.2]])), 3), ask)
    assert found["precision"].tolist() == [1.0, 0.0]
    assert found["knn_accuracy"].tolist() == [1.0, 0.0]


def test_precision_among_unseen_rows_leaves_out_the_own_entity_and_classes_of_one() -> None:
    rows = unit(np.array([[1, 0], [1, 0.01], [1, 0.02], [0, 1]]))
    ask = Question(np.array([0]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2]), 2, 2)
    found = unseen_precision(rows, ask, np.arange(4))
    assert found[:3].tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(found[3])  # there is no other row of its class


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(6, 40))
@settings(deadline=None, max_examples=30)
def test_the_silhouette_is_scikit_learns_of_cosine_distances(seed: int, c: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(c), rng.integers(c, size=m - c)) if m > c else rng.integers(c, size=m)
    vectors = unit(rng.normal(size=(m, 6)))
    found = silhouette(vectors, labels, c + 1)  # a class without rows changes nothing
    if 1 < len(np.unique(labels)) < m:
        assert found == pytest.approx(silhouette_samples(vectors, labels, metric="cosine"), abs=1e-5)
    else:
        assert np.isnan(found).all()


@given(st.integers(0, 2**32 - 1), st.integers(14, 60))
@settings(deadline=None, max_examples=30)
def test_auroc_is_scikit_learns_with_ties_and_turns_round_with_its_sides(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    inside = np.arange(n) < n // 2
    before, after = rng.integers(5, size=n).astype(float), rng.normal(size=n)
    found = auroc_change(before, after, inside, np.arange(n), draws=50)
    back = auroc_change(after, before, inside, np.arange(n), draws=50)
    assert found is not None
    assert back is not None
    assert (found.before, found.after) == pytest.approx((roc_auc_score(inside, before), roc_auc_score(inside, after)))
    assert (found.low, found.high) == pytest.approx((-back.high, -back.low))  # type: ignore[operator]
    assert auroc_change(before, after, np.ones(n, dtype=bool), np.arange(n)) is None


@given(st.integers(0, 2**32 - 1), st.integers(6, 60), st.booleans())
@settings(deadline=None, max_examples=30)
def test_an_encoder_gains_nothing_over_itself_and_swapping_turns_every_difference_round(
    seed: int, n: int, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    entities = np.arange(n) // 3 if grouped else np.arange(n)
    a, b = rng.random(n), (rng.random(n) < 0.5).astype(float)
    a[:2] = b[:2] = np.nan
    same = mean_changes({"x": (a, a)}, entities, draws=100)["x"]
    assert (same.value, same.low, same.high) in [(0, 0, 0), (0, None, None)]
    there, back = (mean_changes({"x": pair}, entities, draws=100)["x"] for pair in ((a, b), (b, a)))
    assert there.rows == n - 2
    assert there.value == pytest.approx(np.nanmean(b) - np.nanmean(a))
    if there.low is not None and there.high is not None:
        assert there.low <= there.value <= there.high
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)  # type: ignore[operator]
    else:
        assert there.entities < 6


def test_the_interval_of_a_difference_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=2_000)
    after = before + 0.1 + 0.5 * rng.normal(size=2_000)
    found = mean_changes({"x": (before, after)}, np.arange(2_000))["x"]
    half = 1.96 * (after - before).std() / np.sqrt(2_000)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.004)


def test_a_class_of_five_rows_is_never_said_to_have_got_worse() -> None:
    labels = np.repeat([0, 1], [5, 6])
    few, enough = class_changes(np.ones(11), np.zeros(11), labels, 2, np.arange(11), draws=50)
    assert (few.value, few.low, few.fell) == (-1.0, None, False)
    assert (enough.value, enough.fell) == (-1.0, True)


def test_a_space_whose_rows_lie_closer_is_better_and_the_other_way_round_not() -> None:
    made = spaces(before=1.6, after=1.0)
    found = proof(made)
    assert found.verdict == "better"
    assert set(found.rose) <= set(found.stated) == {"knn_accuracy", "precision", "head_accuracy"}
    assert all(c.value > 0 for c in found.metrics.values())
    back = proof(swapped(made))
    assert (back.verdict, back.better) == ("not better", False)
    for name, c in found.metrics.items():
        assert back.metrics[name].value == pytest.approx(-c.value)
    assert back.mcnemar["knn_accuracy"].only_a == found.mcnemar["knn_accuracy"].only_b


def test_the_same_space_twice_is_not_better_and_few_rows_cannot_tell() -> None:
    same = spaces()
    assert proof(same._replace(after=same.before)).verdict == "not better"
    assert proof(spaces(m=25, before=1.1, after=1.05)).verdict == "cannot tell"
    one = proof(spaces(m=40, before=2, after=0.5), entities=np.zeros(40, dtype=np.int64))
    assert one.verdict == "cannot tell"
    assert one.metrics["precision"].low is None


def test_the_figures_are_those_of_a_plain_count() -> None:
    made = spaces()
    found = proof(made, k=5)
    rows = nearest(made.after.reference, made.after.queries, 5).rows
    right = made.reference_labels[rows] == made.query_labels[:, None]
    assert found.metrics["precision"].after == pytest.approx(right.mean())
    for c in found.per_class:
        mine = made.query_labels == CLASSES.index(c.label)
        assert (c.rows, c.precision.after) == (mine.sum(), pytest.approx(right[mine].mean()))
    assert (found.rows, found.entities, found.n_classes, found.reference_rows, found.k) == (200, 200, 5, 300, 5)
    assert (found.after_fingerprint, found.before_fingerprint) == ("a" * 64, "b" * 64)


def test_the_class_that_was_hurt_is_named_as_worse_and_the_others_are_not() -> None:
    found = proof(spaces(m=600, before=1.2, after=1.0, hurt=3))
    assert [c.label for c in found.worse_classes if c.precision.fell] == ["limit"]
    assert found.worse_classes[0].label == "limit"


def test_rows_out_of_scope_are_in_no_figure_but_how_well_they_are_told_apart() -> None:
    made = spaces(c=6, before=1.5, after=0.8, m=400)
    stranger = CLASSES[5]
    found = proof(made, out_of_scope=stranger)
    assert found.out_of_scope_rows == (made.query_labels == 5).sum()
    assert found.rows == 400 - found.out_of_scope_rows
    assert stranger not in {c.label for c in found.per_class}
    assert found.metrics["oos_neighbours"].rows == 400
    assert {"oos_neighbours", "oos_head"} <= set(found.metrics)
    assert "oos_neighbours" in found.stated
    assert "oos_head" not in proof(made, out_of_scope=stranger, head=False).metrics


def test_rows_without_a_label_or_of_a_class_the_reference_lacks_are_left_out_and_counted() -> None:
    made = spaces(c=6)
    labels = made.query_labels.copy()
    labels[:7] = -1
    known = made.reference_labels.copy()
    known[known == 5] = -1
    found = proof(made._replace(query_labels=labels, reference_labels=known), classes=CLASSES)
    assert found.left_out == {"no label": 7, "a label that no reference row has": int((labels == 5).sum())}
    assert found.rows == 200 - sum(found.left_out.values())


def test_pairs_whose_classes_have_one_row_each_are_measured_too() -> None:
    made = spaces(n=50, m=50, c=5, before=0.4, after=0.2)
    labels = np.arange(50)
    found = proof(made._replace(reference_labels=labels, query_labels=labels), head=False)
    assert set(found.metrics) == {"knn_accuracy", "precision"}
    assert "in 50 classes" not in str(found)


def test_the_chosen_rows_are_those_that_changed_most_each_class_once_a_side() -> None:
    before, after = np.array([0, 0, 0.5, 1, 1, 0.5]), np.array([1, 0.9, 0.5, 0, 0.1, 0.6])
    assert choose(before, after, np.array([0, 0, 1, 1, 2, 2]), 4).tolist() == [0, 5, 3, 4]
    assert choose(before, before, np.zeros(6, dtype=np.int64), 4).tolist() == []


def test_neighbours_before_and_after_stand_side_by_side_with_ids_and_labels() -> None:
    made = spaces(before=1.5, after=0.8)
    ids, reference_ids = [f"q{i}" for i in range(200)], [f"r{i}" for i in range(300)]
    found = proof(made, ids=ids, reference_ids=reference_ids, ask=["q7", "q3"])
    assert [asked.id for asked in found.neighbours] == ["q7", "q3"]
    first = found.neighbours[0]
    rows = nearest(made.before.reference, made.before.queries[7:8], 10).rows[0]
    assert [each.id for each in first.before] == [f"r{i}" for i in rows]
    assert first.right[0] == (made.reference_labels[rows] == made.query_labels[7]).sum()
    assert len(proof(made).neighbours) <= 12


def test_maps_hold_the_same_rows_in_a_square_and_the_second_is_turned_onto_the_first() -> None:
    made = spaces(m=120)
    a, _ = plane(made.before.queries)
    turned = a @ np.array([[0, 1], [1, 0]])
    assert laid_on(a, turned) == pytest.approx(a - a.mean(axis=0), abs=1e-5)
    found = draw_maps(
        made.before.queries, made.before.queries, made.query_labels, [str(i) for i in range(120)], method="pca"
    )
    assert found.before == found.after
    assert found.shown is not None
    assert 0 < found.shown[0] <= 1
    assert {v for point in found.before for v in point} <= set(range(1001))
    assert max(v for point in found.before for v in point) == 1000


@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(6, 90))
@settings(deadline=None, max_examples=40)
def test_a_map_keeps_every_class_and_its_share(seed: int, n: int, most: int) -> None:
    codes = np.random.default_rng(seed).integers(6, size=n)
    rows = spread_rows(codes, most, seed)
    assert len(rows) == min(n, most)
    assert (np.diff(rows) > 0).all()
    assert set(codes[rows]) == set(codes)


def test_maps_by_umap_say_what_they_need_or_are_drawn() -> None:
    made = spaces(n=30, m=60)
    if find_spec("umap") is None:
        with pytest.raises(ExtraNotInstalled) as error:
            proof(made, maps="umap")
        assert str(error.value) == "maps by UMAP need umap-learn. Install it: pip install 'raystore[explore]'"
        found = proof(made, maps="auto")
        assert found.maps is not None
        assert found.maps.method == "pca"
    else:
        found = proof(made, maps="umap")
        assert found.maps is not None
        assert found.maps.method == "umap"
        assert found.maps.shown is None


def test_json_out_and_in_is_the_same_proof_and_measuring_again_gives_the_same() -> None:
    made = spaces(c=6, before=1.5)
    found, again = (proof(made, maps="pca", out_of_scope=CLASSES[5]) for _ in range(2))
    assert Proof.model_validate_json(found.model_dump_json()) == found == pickle.loads(pickle.dumps(found))
    assert again.model_copy(update={"seconds": found.seconds}) == found


def test_spaces_of_different_widths_are_compared() -> None:
    made, other = spaces(before=1.5), spaces(d=24, after=0.8)
    after = Space("wide@a", other.after.reference, other.after.queries)
    assert proof(made._replace(after=after)).rows == 200


def test_all_that_is_wrong_with_what_is_given_is_said_at_once() -> None:
    made = spaces()
    with pytest.raises(InvalidArguments) as error:
        proof(
            made._replace(query_labels=np.append(made.query_labels, 9)[1:]), classes=CLASSES[:5], ids=["a", "b"],
            out_of_scope="x", ask=["c"], stated=["f1"], reference_ids=["r"],
        )  # fmt: skip
    assert str(error.value) == (
        "measure a proof: there are 2 ids= for 200 rows; there are 1 reference_ids= for 300 rows; query labels are numbers from 0 "
        "to 4, or -1 for none; out_of_scope= names no class; there are: 'card <lost>', '退款', 'it's & late', 'limit', 'fee'; ask= "
        "names ids that no query has: 'c'; there is no figure 'f1'; there are: knn_accuracy, precision, precision_unseen, "
        "head_accuracy, silhouette, oos_neighbours, oos_head."
    )
    with pytest.raises(InvalidArguments) as error:
        proof(made._replace(after=Space("short@1", made.after.reference, made.after.queries[:3])))
    assert str(error.value) == "measure a proof: there are 3 query vectors of short@1 and 200 query labels."
    with pytest.raises(InvalidArguments) as error:
        proof(made._replace(query_labels=np.full(200, -1)), classes=CLASSES)
    assert str(error.value) == (
        "measure a proof: no query has a label that a reference row has, so nothing can be measured."
    )
    broken = made.after.queries.copy()
    broken[4, 0] = np.nan
    with pytest.raises(InvalidVectors, match="1 of 200 vectors are unusable: vector 4 holds NaN or infinity"):
        proof(made._replace(after=Space("nan@1", made.after.reference, broken)))
