from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from raystore.train.thresholds import EVEN, least_rows, threshold_for_precision, thresholds_for_labels

sure_and_right = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=1, max_size=40)


@given(sure_and_right, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
@settings(deadline=None)
def test_the_threshold_reaches_the_precision_on_enough_rows_and_no_lower_one_does(
    rows: list[tuple[float, bool]], wanted: float
) -> None:
    confidence, correct = np.array([c for c, _ in rows], np.float32), np.array([r for _, r in rows])
    chosen = threshold_for_precision(confidence, correct, wanted)
    enough = [t for t in np.unique(confidence) if (confidence >= t).sum() >= least_rows(len(rows))]
    precisions = {float(t): correct[confidence >= t].mean() for t in enough}
    reached = [t for t, p in precisions.items() if p >= wanted]
    if chosen.threshold is None:
        assert reached == []
        assert chosen.precision == pytest.approx(max(precisions.values()))
        assert chosen.coverage == 0
    else:
        assert chosen.threshold == min(reached)
        assert chosen.precision == pytest.approx(precisions[chosen.threshold])
        assert chosen.coverage == pytest.approx((confidence >= np.float32(chosen.threshold)).mean())


def test_each_label_has_the_threshold_with_the_best_f1() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((200, 3)) < 0.3
    probabilities = (0.5 * truth + 0.6 * rng.random((200, 3))).astype(np.float32)
    chosen, missed = thresholds_for_labels(probabilities, truth)
    assert missed == {}
    for j, threshold in enumerate(chosen):
        scores = [f1_score(truth[:, j], probabilities[:, j] >= t) for t in np.unique(probabilities[:, j])]
        assert f1_score(truth[:, j], probabilities[:, j] >= np.float32(threshold)) == pytest.approx(max(scores))


def test_a_label_that_misses_the_precision_falls_back_to_f1_and_says_the_best() -> None:
    probabilities = np.array([[0.9, 0.9, 0.1], [0.8, 0.8, 0.1], [0.2, 0.7, 0.1]], np.float32)
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    chosen, missed = thresholds_for_labels(probabilities, truth, precision=0.9)
    np.testing.assert_allclose(chosen, [0.5, 0.35, EVEN], atol=1e-6)
    assert missed == {1: pytest.approx(2 / 3)}


def test_three_right_rows_of_val_do_not_reach_a_precision() -> None:
    confidence = np.linspace(0, 1, 283)
    chosen = threshold_for_precision(confidence, confidence > 0.99, 0.999)
    assert chosen == (None, 0.0, pytest.approx(3 / least_rows(283)))
    assert [least_rows(n) for n in (0, 3, 60, 283, 400, 10_000)] == [0, 3, 5, 15, 20, 20]


def test_where_labels_lie_far_from_the_others_the_threshold_is_in_the_middle() -> None:
    chosen, _ = thresholds_for_labels(np.float32([[0.9955], [0.999], [0.001], [0.0]]), np.array([[1], [1], [0], [0]]))
    assert chosen == [pytest.approx((0.9955 + 0.001) / 2)]


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None)
def test_the_middle_of_a_gap_gives_the_label_to_the_same_rows_as_its_upper_end(rows: list[tuple[float, bool]]) -> None:
    probabilities, truth = np.array([[p] for p, _ in rows], np.float32), np.array([[t] for _, t in rows])
    if not truth.any():
        return
    chosen = np.float32(thresholds_for_labels(probabilities, truth)[0][0])
    scores = [f1_score(truth, probabilities >= t) for t in np.unique(probabilities)]
    assert f1_score(truth, probabilities >= chosen) == pytest.approx(max(scores))
