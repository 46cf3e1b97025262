from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from raystore.train import linear
from raystore.train.linear import fit_linear
from raystore.train.source import Examples

from .examples import ThreadGroup, clusters


def objective(examples: Examples, W: np.ndarray, b: np.ndarray, l2: float) -> float:
    """scikit-learn's objective in float64, over the weights' sum."""
    z = examples.vectors.astype(np.float64) @ W.T.astype(np.float64) + b
    z -= z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), examples.labels]
    weights = examples.weights.astype(np.float64)
    return float((weights @ losses + 0.5 * (W.astype(np.float64) ** 2).sum() / l2) / weights.sum())


@pytest.mark.parametrize("l2", [0.1, 1.0, 10.0])
def test_it_reaches_the_loss_and_the_answers_of_scikit_learn(l2: float) -> None:
    train, test = clusters(800, n_classes=5), clusters(400, n_classes=5, seed=1)
    peer = LogisticRegression(C=l2, max_iter=2000, tol=1e-7).fit(train.vectors.astype(np.float64), train.labels)
    W, b = fit_linear(train.vectors, train.labels, 5, l2=l2)
    expected = objective(train, peer.coef_, peer.intercept_, l2)
    assert objective(train, W, b, l2) == pytest.approx(expected, rel=1e-4)
    agree = (test.vectors @ W.T + b).argmax(axis=1) == peer.predict(test.vectors)
    assert agree.mean() > 0.98
    assert W.dtype == b.dtype == np.float32


def test_row_weights_mean_what_scikit_learn_means_by_them() -> None:
    train = clusters(500)
    weights = np.random.default_rng(0).uniform(0, 3, 500).astype(np.float32)
    weighted = train._replace(weights=weights)
    peer = LogisticRegression(C=2.0, max_iter=2000, tol=1e-7).fit(train.vectors, train.labels, sample_weight=weights)
    W, b = fit_linear(train.vectors, train.labels, 3, weights=weights, l2=2.0)
    assert objective(weighted, W, b, 2.0) == pytest.approx(objective(weighted, peer.coef_, peer.intercept_, 2.0), rel=1e-4)


def test_a_weight_of_two_is_the_row_twice() -> None:
    train = clusters(200)
    twice = np.repeat(np.arange(200), np.where(np.arange(200) % 3 == 0, 2, 1))
    weights = np.where(np.arange(200) % 3 == 0, 2, 1).astype(np.float32)
    W, b = fit_linear(train.vectors, train.labels, 3, weights=weights, tol=1e-6)
    W2, b2 = fit_linear(train.vectors[twice], train.labels[twice], 3, tol=1e-6)
    np.testing.assert_allclose(W, W2, atol=2e-3)
    np.testing.assert_allclose(b, b2, atol=2e-3)


@pytest.mark.parametrize("cuts", [[200, 400], [0, 599], [1, 1]])
def test_three_shards_walk_the_path_of_one(cuts: list[int]) -> None:
    train = clusters(600)
    W, b = fit_linear(train.vectors, train.labels, 3)
    shards = list(zip(np.split(train.vectors, cuts), np.split(train.labels, cuts), strict=True))
    fits = ThreadGroup(3).run(lambda rank, reduce: fit_linear(*shards[rank], 3, reduce=reduce))
    for W_shard, b_shard in fits:
        np.testing.assert_array_equal(W_shard, fits[0][0])
        np.testing.assert_array_equal(b_shard, fits[0][1])
        np.testing.assert_allclose(W_shard, W, atol=2e-3)
        np.testing.assert_allclose(b_shard, b, atol=2e-3)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train = clusters(1_000)
    W, _ = fit_linear(train.vectors, train.labels, 3)
    monkeypatch.setattr(linear, "BLOCK_LOGITS", 1)
    W_blocks, _ = fit_linear(train.vectors, train.labels, 3)
    np.testing.assert_allclose(W_blocks, W, atol=2e-3)


def test_read_only_rows_are_taken_and_left_as_they_are() -> None:
    train = clusters(100)
    before = train.vectors.copy()
    train.vectors.flags.writeable = train.labels.flags.writeable = False
    fit_linear(train.vectors, train.labels, 3)
    np.testing.assert_array_equal(train.vectors, before)


def test_a_class_without_rows_is_never_predicted() -> None:
    train = clusters(300)
    W, b = fit_linear(train.vectors, train.labels, 4)
    assert 3 not in (train.vectors @ W.T + b).argmax(axis=1)


def test_stopping_early_is_said(caplog: pytest.LogCaptureFixture) -> None:
    train = clusters(300)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        fit_linear(train.vectors, train.labels, 3, max_iter=2, tol=1e-9)
    assert "stopped after 2 steps" in caplog.text


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was() -> None:
    import torch

    train = clusters(5_000)
    before = torch.get_num_threads()
    try:
        fits = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            fits.append(fit_linear(train.vectors, train.labels, 3))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(fits[0][0], fits[1][0])


def test_fits_in_several_threads_leave_the_libraries_as_they_were() -> None:
    import torch
    from threadpoolctl import threadpool_info

    def limits() -> list[int]:
        return [torch.get_num_threads(), *(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")]

    train = clusters(300)
    before = limits()
    ThreadGroup(3).run(lambda rank, reduce: fit_linear(train.vectors, train.labels, 3, reduce=reduce))
    assert limits() == before
