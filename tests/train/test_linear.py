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


@pytest.fixture(params=[False, True], ids=["straight", "sampled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows go straight, many by a part of them first; here few go both ways."""
    monkeypatch.setattr(linear, "SAMPLED_FROM_ROWS", 1 if request.param else 10**9)
    monkeypatch.setattr(linear, "SAMPLED_FROM_ROWS_A_NUMBER", 0)


@pytest.mark.parametrize("l2", [0.1, 1.0, 10.0])
def test_it_reaches_the_loss_and_the_answers_of_scikit_learn(l2: float, way: None) -> None:
    train, test = clusters(800, n_classes=5), clusters(400, n_classes=5, seed=1)
    peer = LogisticRegression(C=l2, max_iter=2000, tol=1e-7).fit(train.vectors.astype(np.float64), train.labels)
    W, b = fit_linear(train.vectors, train.labels, 5, l2=l2)
    expected = objective(train, peer.coef_, peer.intercept_, l2)
    assert objective(train, W, b, l2) == pytest.approx(expected, rel=1e-4)
    agree = (test.vectors @ W.T + b).argmax(axis=1) == peer.predict(test.vectors)
    assert agree.mean() > 0.98
    assert W.dtype == b.dtype == np.float32


def test_row_weights_mean_what_scikit_learn_means_by_them(way: None) -> None:
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
def test_three_shards_end_where_one_ends(cuts: list[int], way: None) -> None:
    train = clusters(600)
    W, b = fit_linear(train.vectors, train.labels, 3, tol=1e-6)
    shards = list(zip(np.split(train.vectors, cuts), np.split(train.labels, cuts), strict=True))
    fits = ThreadGroup(3).run(lambda rank, reduce: fit_linear(*shards[rank], 3, reduce=reduce, tol=1e-6))
    for W_shard, b_shard in fits:
        np.testing.assert_array_equal(W_shard, fits[0][0])
        np.testing.assert_array_equal(b_shard, fits[0][1])
        np.testing.assert_allclose(W_shard, W, atol=1e-2)
        np.testing.assert_allclose(b_shard, b, atol=1e-2)
        assert objective(train, W_shard, b_shard, 10.0) == pytest.approx(objective(train, W, b, 10.0), rel=1e-5)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train = clusters(1_000)
    W, _ = fit_linear(train.vectors, train.labels, 3)
    monkeypatch.setattr(linear, "BLOCK_LOGITS", 1)
    W_blocks, _ = fit_linear(train.vectors, train.labels, 3)
    np.testing.assert_allclose(W_blocks, W, atol=2e-3)


def test_read_only_rows_are_taken_and_left_as_they_are(way: None) -> None:
    train = clusters(100)
    before = train.vectors.copy()
    train.vectors.flags.writeable = train.labels.flags.writeable = False
    fit_linear(train.vectors, train.labels, 3)
    np.testing.assert_array_equal(train.vectors, before)


def test_a_class_without_rows_is_never_predicted(way: None) -> None:
    train = clusters(300)
    W, b = fit_linear(train.vectors, train.labels, 4)
    assert 3 not in (train.vectors @ W.T + b).argmax(axis=1)


def test_stopping_early_is_said(caplog: pytest.LogCaptureFixture) -> None:
    train = clusters(300)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        fit_linear(train.vectors, train.labels, 3, max_iter=2, tol=1e-9)
    assert "stopped after 2 steps" in caplog.text


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was(way: None) -> None:
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


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_one_against_the_rest_reaches_the_loss_of_scikit_learns_one_a_class(l2: float, way: None) -> None:
    train = clusters(800, n_classes=5)
    W, b = fit_linear(train.vectors, train.labels, 5, loss="ovr", l2=l2, tol=1e-6)
    for j in range(5):
        mine = (train.labels == j).astype(int)
        peer = LogisticRegression(C=l2, max_iter=2000, tol=1e-7).fit(train.vectors.astype(np.float64), mine)

        def cost(w: np.ndarray, c: float, mine: np.ndarray = mine) -> float:
            z = train.vectors.astype(np.float64) @ w + c
            return float((np.logaddexp(0, z) - mine * z).sum() + 0.5 * (w.astype(np.float64) ** 2).sum() / l2)

        assert cost(W[j], b[j]) == pytest.approx(cost(peer.coef_[0], peer.intercept_[0]), rel=1e-4)


def test_one_against_the_rest_takes_a_matrix_of_labels_and_means_the_same_by_it() -> None:
    train = clusters(500)
    matrix = np.eye(3, dtype=np.float32)[train.labels]
    W, b = fit_linear(train.vectors, train.labels, 3, loss="ovr")
    W2, b2 = fit_linear(train.vectors, matrix, 3, loss="ovr")
    np.testing.assert_allclose(W, W2, atol=1e-3)
    np.testing.assert_allclose(b, b2, atol=1e-3)


def test_a_start_near_the_end_leads_to_the_same_end_in_fewer_steps() -> None:
    train, steps = clusters(800), {"cold": 0, "warm": 0}

    def count(of: str) -> None:
        steps[of] += 1

    near = fit_linear(train.vectors, train.labels, 3, l2=5)
    cold = fit_linear(train.vectors, train.labels, 3, l2=10, on_step=lambda: count("cold"))
    warm = fit_linear(train.vectors, train.labels, 3, l2=10, start=near, on_step=lambda: count("warm"))
    assert steps["warm"] < steps["cold"]
    assert objective(train, *warm, 10) == pytest.approx(objective(train, *cold, 10), rel=1e-5)


def test_ten_thousand_classes_are_fitted() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10_000, 8)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    W, b = fit_linear(centres, np.arange(10_000), 10_000, l2=100.0, max_iter=3, tol=1e-2)
    assert W.shape == (10_000, 8)
    assert np.isfinite(W).all()
    assert np.isfinite(b).all()


def test_a_part_of_the_rows_first_saves_passes_over_all_even_where_classes_are_rare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = clusters(40_000, n_classes=40, dim=32, spread=0.3)
    kept = np.random.default_rng(0).random(40_000) < 1 / (1 + many.labels)  # the last class has a 40th of the first's rows
    train = Examples(*(array[kept] for array in many))
    steps, losses = {}, {}
    for name, rows in (("straight", 10**9), ("sampled", 1)):
        monkeypatch.setattr(linear, "SAMPLED_FROM_ROWS", rows)
        counted: list[None] = []
        W, b = fit_linear(train.vectors, train.labels, 40, on_step=lambda c=counted: c.append(None))
        steps[name], losses[name] = len(counted), objective(train, W, b, 10)
    assert steps["sampled"] < 0.6 * steps["straight"]
    assert losses["sampled"] == pytest.approx(losses["straight"], rel=1e-3)
