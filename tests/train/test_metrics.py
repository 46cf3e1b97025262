from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raystore.train import metrics

from .examples import clusters

N_CLASSES = 4
class_numbers = st.integers(0, N_CLASSES - 1)
pairs = st.integers(1, 60).flatmap(lambda n: st.tuples(*(arrays(np.int64, n, elements=class_numbers) for _ in range(2))))


@given(pairs)
@settings(deadline=None)
def test_scores_are_those_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = pair
    names = list(range(N_CLASSES))
    confusion = metrics.confusion_matrix(labels, predicted, N_CLASSES)
    np.testing.assert_array_equal(confusion, peer.confusion_matrix(labels, predicted, labels=names))
    assert metrics.accuracy(labels, predicted) == pytest.approx(peer.accuracy_score(labels, predicted))
    counts = metrics.class_counts(labels, predicted, N_CLASSES)
    assert metrics.macro_f1(counts) == pytest.approx(peer.f1_score(labels, predicted, average="macro", zero_division=0))
    expected = peer.precision_recall_fscore_support(labels, predicted, labels=names, zero_division=0)
    for ours, theirs in zip([*metrics.class_scores(counts), counts.support], expected, strict=True):
        np.testing.assert_allclose(ours, theirs)


@given(pairs.map(lambda pair: pair[0]), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_log_loss_is_that_of_scikit_learn(labels: np.ndarray, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(N_CLASSES), len(labels))
    expected = peer.log_loss(labels, probabilities, labels=list(range(N_CLASSES)))
    clipped = probabilities[np.arange(len(labels)), labels] < 1e-6
    if not clipped.any():
        assert metrics.log_loss(labels, probabilities.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_scores_of_several_labels_are_those_of_scikit_learn(n: int, c: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, given_ = rng.random((n, c)) < 0.4, rng.random((n, c)) < 0.4
    probabilities = rng.integers(0, 5, (n, c)).astype(np.float32) / 5  # with ties
    counts = metrics.label_counts(truth, given_)
    assert metrics.micro_f1(counts) == pytest.approx(peer.f1_score(truth, given_, average="micro", zero_division=0))
    expected = peer.precision_recall_fscore_support(truth, given_, zero_division=0, average=None)
    for ours, theirs in zip([*metrics.class_scores(counts), counts.support], expected, strict=True):
        np.testing.assert_allclose(ours, theirs)
    average = metrics.average_precision(truth, probabilities)
    for j in range(c):
        wanted = peer.average_precision_score(truth[:, j], probabilities[:, j]) if truth[:, j].any() else 0.0
        assert average[j] == pytest.approx(wanted)


def test_counts_with_a_leading_axis_are_scored_one_by_one() -> None:
    rng = np.random.default_rng(0)
    each = [metrics.class_counts(*rng.integers(4, size=(2, 20)), 4) for _ in range(5)]
    stacked = metrics.ClassCounts(*(np.stack(column) for column in zip(*each, strict=True)))
    assert metrics.macro_f1(stacked).tolist() == [float(metrics.macro_f1(one)) for one in each]


def test_the_baseline_of_labels_gives_what_half_of_the_rows_have_or_else_the_most_frequent_label() -> None:
    truth = np.array([[1, 0, 1], [1, 1, 0]])
    assert metrics.labels_baseline(np.array([[1, 0, 0], [1, 0, 1], [1, 0, 0]]), truth) == pytest.approx(2 / 3)
    assert metrics.labels_baseline(
        np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]), truth
    ) == pytest.approx(2 / 3)


def test_the_baselines_of_numbers_are_the_training_median_and_mean() -> None:
    mae, rmse = metrics.number_baseline(np.array([0.0, 1.0, 8.0]), np.array([2.0, 4.0]))
    assert mae == 2.0
    assert rmse == pytest.approx(1.0)


def test_neighbours_average_numbers_and_label_matrices_by_cosine() -> None:
    rows, asked = np.eye(3, dtype=np.float32), np.array([[0.6, 0.8, 0], [-1, 0, 0]], dtype=np.float32)
    assert metrics.knn_mean(rows, np.array([0.0, 7.0, 100.0]), asked, k=2).tolist() == pytest.approx([4.0, 53.5])
    shares = metrics.knn_mean(rows, np.array([[1.0, 0], [0, 1], [1, 1]]), asked[:1], k=2)
    np.testing.assert_allclose(shares, [[0.6 / 1.4, 0.8 / 1.4]], rtol=1e-6)


def test_majority_answers_the_most_frequent_training_class_and_the_lower_of_two() -> None:
    assert metrics.majority_baseline(np.array([2, 1, 1, 2]), np.array([1, 1, 2, 0]), 3) == 0.5


def test_neighbours_vote_as_a_plain_count_over_all_cosines_does() -> None:
    train, asked = clusters(300), clusters(80, seed=3)
    cosines = asked.vectors.astype(np.float64) @ train.vectors.T.astype(np.float64)
    expected = []
    for row in cosines:
        nearest = np.argsort(-row, kind="stable")[:10]
        expected.append(np.bincount(train.labels[nearest], weights=np.maximum(row[nearest], 0), minlength=3).argmax())
    voted = metrics.knn_predict(train.vectors, train.labels, asked.vectors, 3)
    assert (voted == np.array(expected)).mean() > 0.98


def test_neighbours_that_tie_give_the_lower_class_and_fewer_than_k_are_all_asked() -> None:
    rows = np.eye(2, dtype=np.float32)
    halfway = np.array([[1, 1]], dtype=np.float32) / np.sqrt(np.float32(2))
    assert metrics.knn_predict(rows, np.array([1, 0]), halfway, 2).tolist() == [0]


def test_no_rows_score_zero_and_do_not_divide_by_it() -> None:
    none = np.empty(0, dtype=np.int64)
    assert metrics.accuracy(none, none) == 0.0
    assert metrics.macro_f1(metrics.class_counts(none, none, 3)) == 0.0
    assert metrics.log_loss(none, np.empty((0, 3), np.float32)) == 0.0
