from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.train.calibration import sigmoid, softmax
from raystore.train.knn import Neighbours
from raystore.train.source import Examples

from .examples import clusters, numbers, tagged

E = np.eye(4, dtype=np.float32)


def ones(n: int) -> np.ndarray:
    return np.ones(n, dtype=np.float32)


def test_the_votes_are_shared_by_cosine_and_one_more_is_spread_over_the_classes() -> None:
    near = Neighbours(Examples(np.stack([E[0], 0.6 * E[0] + 0.8 * E[1], E[2]]), np.array([0, 1, 2]), ones(3)))
    probabilities = softmax(near.scores(E[:1], 3, "classes", k=2, power=1.0))
    votes = 2 * np.array([1 / 1.6, 0.6 / 1.6, 0]) + 1 / 3
    np.testing.assert_allclose(probabilities[0], votes / 3, atol=1e-6)


def test_a_higher_power_listens_more_to_the_nearest() -> None:
    train, row = clusters(300), clusters(1, seed=3).vectors
    low, high = (softmax(Neighbours(train).scores(row, 3, "classes", k=20, power=p)).max() for p in (0.0, 30.0))
    assert low != high


def test_labels_are_shares_on_their_own_and_numbers_are_means() -> None:
    vectors = np.stack([E[0], E[0], E[1]])
    labels = Neighbours(Examples(vectors, np.array([[1, 1], [1, 0], [0, 0]], np.float32), ones(3)))
    odds = labels.scores(E[:1], 2, "labels", k=2)
    np.testing.assert_allclose(sigmoid(odds)[0], [2.5 / 3, 1.5 / 3], atol=1e-6)
    values = Neighbours(Examples(vectors, np.array([10.0, 20.0, 99.0]), np.array([3, 1, 1], np.float32)))
    assert values.scores(E[:1], 0, "number", k=2)[0, 0] == pytest.approx(12.5)


def test_with_fewer_rows_than_k_all_are_asked_and_rows_that_point_away_count_alike() -> None:
    near = Neighbours(Examples(np.stack([-E[0], -E[0]]), np.array([0, 1]), ones(2)))
    np.testing.assert_allclose(softmax(near.scores(E[:1], 2, "classes", k=10)), 0.5)


@given(st.integers(0, 10_000), st.sampled_from(["classes", "labels", "number"]))
@settings(deadline=None, max_examples=20)
def test_a_row_gets_the_same_answer_alone_and_among_others(seed: int, task: str) -> None:
    make = {"classes": clusters, "labels": tagged, "number": numbers}[task]
    near, rows = Neighbours(make(80)), make(30, seed=seed).vectors
    n_classes = {"classes": 3, "labels": 4, "number": 0}[task]
    together = near.scores(rows, n_classes, task)  # type: ignore[arg-type]
    alone = np.concatenate([near.scores(row[None], n_classes, task) for row in rows])  # type: ignore[arg-type]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
