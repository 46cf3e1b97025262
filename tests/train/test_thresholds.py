from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from raystore.train.thresholds import EVEN, threshold_for_precision, thresholds_for_labels

sure_and_right = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=1, max_size=40)


@given(sure_and_right, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
@settings(deadline=None)
def test_the_threshold_reaches_the_precision_and_no_lower_one_does(rows: list[tuple[float, bool]], wanted: float) -> None:
    confidence, correct = np.array([c for c, _ in rows], np.float32), np.array([r for _, r in rows])
    chosen = threshold_for_precision(confidence, correct, wanted)
    precisions = {float(t): correct[confidence >= t].mean() for t in np.unique(confidence)}
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
    np.testing.assert_allclose(chosen, [0.8, 0.7, EVEN], atol=1e-6)
    assert missed == {1: pytest.approx(2 / 3)}
