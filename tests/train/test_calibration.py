from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as peer_log_loss

from raystore.train import losses
from raystore.train.calibration import expected_calibration_error, fit_temperature, sigmoid, softmax
from raystore.train.losses import loss_sums
from raystore.train.metrics import log_loss


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 20), st.integers(1, 50))
@settings(deadline=None)
def test_temperature_leaves_the_highest_class_and_never_raises_the_loss(seed: int, scale: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(n, 5))).astype(np.float32)
    labels = rng.integers(0, 5, n)
    temperature = fit_temperature(logits, labels)
    warm = softmax(logits, temperature)
    top = warm[np.arange(n), logits.argmax(axis=1)]
    np.testing.assert_array_equal(top, warm.max(axis=1))
    np.testing.assert_allclose(warm.sum(axis=1), 1, atol=1e-5)
    assert log_loss(labels, warm) <= log_loss(labels, softmax(logits)) + 1e-4


def test_logits_that_are_three_times_too_sure_get_temperature_three() -> None:
    rng = np.random.default_rng(0)
    honest = 2 * rng.normal(size=(20_000, 4)).astype(np.float32)
    p = softmax(honest)
    labels = (p.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert fit_temperature(3 * honest, labels) == pytest.approx(3, rel=0.05)
    sure = softmax(3 * honest)
    right = sure.argmax(axis=1) == labels
    assert expected_calibration_error(sure.max(axis=1), right) > 0.1
    assert expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels) < 0.02


def test_a_row_that_weighs_nothing_does_not_count() -> None:
    logits = np.array([[2, 0], [0, 2], [9, 0]], dtype=np.float32)
    labels = np.array([0, 1, 1])
    assert fit_temperature(logits, labels, np.array([1, 1, 0], np.float32)) == fit_temperature(logits[:2], labels[:2])


def test_without_validation_rows_nothing_is_scaled() -> None:
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1.0


def test_calibration_error_is_the_gap_of_the_bins_weighed_by_their_rows() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.55])
    right = np.array([True, True, False, False])
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx((3 * abs(2 / 3 - 0.95) + 0.55) / 4)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_and_zero_to_the_first() -> None:
    # 0.5 and 0.4 share the bin (0, 0.5]: their gaps cancel; were 0.5 in the upper one, they would add.
    assert expected_calibration_error(np.array([0.5, 0.4]), np.array([True, False]), bins=2) == pytest.approx(0.05)
    assert expected_calibration_error(np.array([0.0]), np.array([False]), bins=2) == 0.0


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 20), st.integers(1, 50))
@settings(deadline=None)
def test_temperature_never_raises_the_loss_of_several_labels_a_row(seed: int, scale: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(n, 5))).astype(np.float32)
    labels = (rng.random((n, 5)) < 0.4).astype(np.float32)
    temperature = fit_temperature(logits, labels, task="labels")
    before, after = (loss_sums("labels", logits, labels, scale=1 / t)[0] for t in (1.0, temperature))
    assert after <= before
    assert sigmoid(1000 * logits).min() >= 0


def test_losses_are_those_of_scikit_learn_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, 50)
    weights = rng.uniform(0, 2, 50).astype(np.float32)
    summed, mass = loss_sums("classes", logits, labels, weights)
    assert summed / mass == pytest.approx(
        peer_log_loss(labels, softmax(logits), sample_weight=weights, labels=range(4)), rel=1e-5
    )
    monkeypatch.setattr(losses, "_BLOCK_CELLS", 12)
    np.testing.assert_allclose(loss_sums("classes", logits, labels, weights), [summed, mass])
    matrix = np.eye(4, dtype=np.float32)[labels]
    one_a_label = sum(peer_log_loss(matrix[:, j], sigmoid(logits)[:, j], labels=[0, 1]) for j in range(4))
    assert loss_sums("labels", logits, matrix)[0] / 50 == pytest.approx(one_a_label, rel=1e-5)
    assert loss_sums("number", logits[:, :1], np.zeros(50))[0] == pytest.approx((logits[:, 0].astype(float) ** 2).sum())
