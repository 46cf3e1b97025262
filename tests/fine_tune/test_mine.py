"""Hard negatives and confused classes against a look at every pair."""

from __future__ import annotations

import numpy as np
import pytest

from raystore.fine_tune.batches.mine import confused_classes, hard_negatives
from raystore.fine_tune.batches.sampler import make_sampler
from raystore.fine_tune.recipe import Recipe


def rows_and_labels(n: int = 200, c: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, c, n)
    rows = rng.normal(size=(c + 1, 8))[labels] + 0.7 * rng.normal(size=(n, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("n", [60, 700])  # a class of 700 / 7 rows left out, and of more than FAISS is asked to pass over
def test_hard_negatives_are_the_nearest_rows_of_other_classes(n: int) -> None:
    rows, labels = rows_and_labels(n, c=2)
    found = hard_negatives(rows, labels, 5)
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    for i in range(n):
        far = [j for j in range(n) if labels[j] not in (-1, labels[i])] if labels[i] >= 0 else []
        nearest = sorted(far, key=lambda j: -cosines[i, j])[:5]
        assert found[i].tolist() == nearest + [-1] * (5 - len(nearest))


def test_where_there_are_too_few_strangers_the_rest_is_minus_one() -> None:
    rows, labels = rows_and_labels(6)[0], np.array([0, 0, 0, 0, 1, -1])
    found = hard_negatives(rows, labels, 3)
    assert found[:4].tolist() == [[4, -1, -1]] * 4
    assert found[5].tolist() == [-1, -1, -1]
    assert set(found[4].tolist()) < {0, 1, 2, 3}
    assert (hard_negatives(rows, np.full(6, -1), 3) == -1).all()


def test_confused_classes_are_those_whose_rows_lie_nearest() -> None:
    angles = np.deg2rad([0, 10, 90, 105, 200])  # of five classes on a circle
    labels = np.repeat(np.arange(5), 20)
    turned = angles[labels] + 0.02 * np.random.default_rng(0).normal(size=100)
    rows = np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)
    found = confused_classes(rows, labels, 2)
    assert found[:4, 0].tolist() == [1, 0, 3, 2]
    assert found[4, 0] == 3
    assert found.shape == (5, 2)


def test_classes_without_rows_are_confused_with_nobody() -> None:
    rows, labels = rows_and_labels(60, c=3)
    found = confused_classes(rows, labels, 4, n_classes=5)
    assert (found[3:] == -1).all()
    assert sorted(found[0].tolist()) == [-1, -1, 1, 2]


def test_what_is_mined_is_what_a_sampler_is_told() -> None:
    rows, labels = rows_and_labels()
    recipe = Recipe(classes_per_batch=2, hard_classes=0.5)
    sampler = make_sampler(labels, recipe)
    found = confused_classes(rows, labels, 2)
    sampler.confuse(found)
    pairs = [set(np.unique(sampler.batch(3 * step).labels).tolist()) for step in range(20)]  # where a round of 6 begins
    assert all(any(int(found[a, 0]) in pair or int(found[a, 1]) in pair for a in pair) for pair in pairs)
