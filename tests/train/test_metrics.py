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
    assert metrics.macro_f1(confusion) == pytest.approx(peer.f1_score(labels, predicted, average="macro", zero_division=0))
    expected = peer.precision_recall_fscore_support(labels, predicted, labels=names, zero_division=0)
    for ours, theirs in zip(metrics.class_scores(confusion), expected, strict=True):
        np.testing.assert_allclose(ours, theirs)


@given(pairs.map(lambda pair: pair[0]), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_log_loss_is_that_of_scikit_learn(labels: np.ndarray, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(N_CLASSES), len(labels))
    expected = peer.log_loss(labels, probabilities, labels=list(range(N_CLASSES)))
    clipped = probabilities[np.arange(len(labels)), labels] < 1e-6
    if not clipped.any():
        assert metrics.log_loss(labels, probabilities.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


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
    assert metrics.macro_f1(metrics.confusion_matrix(none, none, 3)) == 0.0
    assert metrics.log_loss(none, np.empty((0, 3), np.float32)) == 0.0
