from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from raystore.train.calibration import expected_calibration_error
from raystore.train.report.curves import WANTED, coverage_curve, cut_at, rank, reliability, threshold_for, thresholds_for

rows = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80).map(
    lambda pairs: (np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs]))
)


@given(rows)
def test_bins_hold_every_row_once_and_give_the_calibration_error(pair: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = pair
    bins = reliability(confidence, correct)
    assert sum(b.rows for b in bins) == len(confidence)
    assert all(b.low - 1e-6 <= b.confidence <= b.high + 1e-6 for b in bins)
    gap = sum(abs(b.accuracy - b.confidence) * b.rows for b in bins) / len(confidence)
    assert gap == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-6)


@given(rows)
def test_a_higher_threshold_never_keeps_more(pair: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = pair
    curve = coverage_curve(rank(confidence, correct))
    thresholds, coverage = [p.threshold for p in curve], [p.coverage for p in curve]
    assert thresholds == sorted(thresholds)
    assert coverage == sorted(coverage, reverse=True)
    assert coverage[0] == 1.0
    for point in curve:
        kept = confidence >= point.threshold
        assert (point.coverage, point.precision) == pytest.approx((kept.mean(), correct[kept].mean()))


@given(rows, st.sampled_from(WANTED))
def test_the_threshold_for_a_precision_is_the_lowest_that_reaches_it(
    pair: tuple[np.ndarray, np.ndarray], wanted: float
) -> None:
    confidence, correct = pair
    reach = [t for t in np.unique(confidence) if correct[confidence >= t].sum() >= wanted * (confidence >= t).sum()]
    assert threshold_for(rank(confidence, correct), wanted) == (min(reach) if reach else None)


@given(rows)
@settings(deadline=None)
def test_precision_and_recall_of_labels_are_those_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, correct = pair
    if not correct.any():
        return
    precision, recall, thresholds = precision_recall_curve(correct, confidence)
    ranked = rank(confidence, correct)
    for t, p, r in zip(thresholds, precision, recall, strict=False):
        cut = cut_at(ranked, float(t), whole=int(correct.sum()))
        assert (cut.precision, cut.coverage) == pytest.approx((p, r))


def test_a_threshold_above_every_confidence_keeps_nothing_and_one_that_is_not_reached_is_none() -> None:
    ranked = rank(np.array([0.5, 0.6]), np.array([True, False]))
    assert cut_at(ranked, 0.7).rows == 0
    assert thresholds_for(ranked) == [(0.9, None), (0.95, None), (0.99, None)]


def test_no_rows_make_no_curve() -> None:
    none = rank(np.empty(0), np.empty(0, bool))
    assert coverage_curve(none) == ()
    assert threshold_for(none, 0.9) is None
    assert reliability(np.empty(0), np.empty(0, bool)) == ()
