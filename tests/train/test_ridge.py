from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from raystore.train.ridge import fit_ridge

from .examples import ThreadGroup, numbers, slice_of


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_scikit_learns_ridge(weighted: bool) -> None:
    train = numbers(400)
    weights = np.random.default_rng(0).uniform(0, 3, 400).astype(np.float32) if weighted else None
    for l2, (W, b) in zip(
        (0.1, 1.0, 100.0), fit_ridge(train.vectors, train.labels, (0.1, 1.0, 100.0), weights=weights), strict=True
    ):
        peer = Ridge(alpha=1 / l2).fit(train.vectors.astype(np.float64), train.labels, sample_weight=weights)
        np.testing.assert_allclose(W[0], peer.coef_, rtol=1e-4, atol=1e-4)
        assert b[0] == pytest.approx(peer.intercept_, rel=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_shards_give_what_one_process_gives_to_rounding(world: int) -> None:
    train = numbers(500)
    ((W, b),) = fit_ridge(train.vectors, train.labels, [1.0])
    shards = [slice_of(train, rank, world) for rank in range(world)]
    fits = ThreadGroup(world).run(
        lambda rank, reduce: fit_ridge(shards[rank].vectors, shards[rank].labels, [1.0], reduce=reduce)
    )
    for ((W_shard, b_shard),) in fits:
        np.testing.assert_allclose(W_shard, W, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(b_shard, b, rtol=1e-6)


def test_a_worker_without_rows_takes_part() -> None:
    train = numbers(50)
    shards = [train, slice_of(train, 0, 1)._replace(vectors=train.vectors[:0], labels=train.labels[:0])]
    one, two = ThreadGroup(2).run(
        lambda rank, reduce: fit_ridge(shards[rank].vectors, shards[rank].labels, [1.0], reduce=reduce)
    )
    np.testing.assert_array_equal(one[0][0], two[0][0])


def test_labels_far_from_zero_lose_nothing() -> None:
    train = numbers(300)
    ((W, _),) = fit_ridge(train.vectors, train.labels, [1.0])
    ((far, b),) = fit_ridge(train.vectors, train.labels + 1e9, [1.0])
    np.testing.assert_allclose(far, W, atol=1e-3)
    assert b[0] == pytest.approx(1e9, rel=1e-5)


def test_columns_that_say_nothing_get_no_weight() -> None:
    train = numbers(100)
    padded = np.concatenate([train.vectors, np.zeros((100, 3), np.float32)], axis=1)
    ((W, _),) = fit_ridge(padded, train.labels, [1e6])
    np.testing.assert_allclose(W[0, -3:], 0, atol=1e-6)
