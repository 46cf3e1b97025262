"""Confidence against truth, as curves: how far it can be believed, and what a threshold on it keeps. Pure NumPy.

Reliability after Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 1; coverage and precision
after Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017 (coverage and 1 - risk).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from raystore.train.calibration import BINS

Confidence = npt.NDArray[np.floating]
Correct = npt.NDArray[np.bool_]

POINTS = 50
WANTED = (0.90, 0.95, 0.99)
ENOUGH = 20  # how many a threshold has to keep before its precision is believed


class ReliabilityBin(BaseModel):
    """Rows whose confidence lies in (low, high]: their mean confidence, the share of them that is right, their number."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    confidence: float
    accuracy: float
    rows: int


class CurvePoint(BaseModel):
    """What a threshold keeps, and the share of the kept that is right.

    `coverage` is the share of rows kept; for "labels" the share of the true labels that are given, their recall.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    coverage: float
    precision: float


class Cut(BaseModel):
    """One threshold in numbers: how many it keeps (`rows`; for "labels" given labels), and the 95% interval of precision.

    `wanted` is the precision it was sought for, of the threshold in force on val; `threshold` is None where no threshold reaches
    what is wanted on 20 rows or more, surely above the majority class; `no_better` where that class alone does reach it.
    """

    model_config = ConfigDict(frozen=True)

    wanted: float | None = None
    threshold: float | None = None
    coverage: float = 0.0
    precision: float = 0.0
    rows: int = 0
    low: float = 0.0
    high: float = 0.0
    no_better: bool = False


class Ranked(NamedTuple):
    """After each group of equal confidence, the surest first: (g,) its confidence, how many are kept with it, how many right."""

    threshold: npt.NDArray[np.float64]
    kept: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]


def reliability(confidence: Confidence, correct: Correct, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The bins that hold rows, lowest first; a bin is (low, high], the first one holds 0 too."""
    of_bin = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(of_bin, minlength=bins)
    sure, right = (np.bincount(of_bin, weights=x.astype(np.float64), minlength=bins) for x in (confidence, correct))
    return tuple(
        ReliabilityBin(
            low=i / bins,
            high=(i + 1) / bins,
            confidence=float(sure[i] / rows[i]),
            accuracy=float(right[i] / rows[i]),
            rows=int(rows[i]),
        )
        for i in np.flatnonzero(rows).tolist()
    )


def rank(confidence: Confidence, correct: Correct) -> Ranked:
    """All thresholds there are: a row is kept where its confidence is at least the threshold."""
    order = np.argsort(-confidence, kind="stable")
    sorted_, right = confidence[order].astype(np.float64), np.cumsum(correct[order], dtype=np.int64)
    last = np.append(np.flatnonzero(np.diff(sorted_)), len(sorted_) - 1)[: len(sorted_)]
    return Ranked(sorted_[last], last.astype(np.int64) + 1, right[last])


def coverage_curve(ranked: Ranked, *, whole: int | None = None, points: int = POINTS) -> tuple[CurvePoint, ...]:
    """Some `points` thresholds, spread evenly over what they keep, the lowest threshold first.

    Args:
        whole: for "labels", how many true labels there are: coverage is then their recall, else the share kept.
    """
    if not len(ranked.kept):
        return ()
    at = np.searchsorted(ranked.kept, np.linspace(1, ranked.kept[-1], points))
    if whole is not None:  # what lies beyond the last true label is a long tail of nothing
        at = np.searchsorted(ranked.right, np.linspace(1, max(whole, 1), points)).clip(max=len(ranked.right) - 1)
    return tuple(_point(ranked, int(i), whole) for i in np.unique(at)[::-1])


def threshold_for(ranked: Ranked, wanted: float, least: int = 1) -> float | None:
    """The threshold that keeps most while the share of the kept that is right is at least `wanted`; None: none does that keeps
    `least` or more."""
    enough = np.flatnonzero((ranked.right >= wanted * ranked.kept) & (ranked.kept >= least))
    return float(ranked.threshold[enough[-1]]) if len(enough) else None


def thresholds_for(
    ranked: Ranked, wanted: Sequence[float] = WANTED, least: int = ENOUGH
) -> list[tuple[float, float | None]]:
    """(wanted precision, threshold) for each that is wanted; None where none reaches it on `least` or more."""
    return [(each, threshold_for(ranked, each, least)) for each in wanted]


def cut_at(ranked: Ranked, threshold: float, *, wanted: float | None = None, whole: int | None = None) -> Cut:
    """What is kept from `threshold` on; its interval is the point until `Cut.model_copy` sets it."""
    found = int(np.searchsorted(-ranked.threshold, -threshold, side="right"))
    if not found:
        return Cut(wanted=wanted, threshold=threshold)
    point = _point(ranked, found - 1, whole)
    return Cut(
        wanted=wanted,
        threshold=threshold,
        coverage=point.coverage,
        precision=point.precision,
        rows=int(ranked.kept[found - 1]),
        low=point.precision,
        high=point.precision,
    )


def _point(ranked: Ranked, i: int, whole: int | None) -> CurvePoint:
    kept, right = int(ranked.kept[i]), int(ranked.right[i])
    coverage = kept / int(ranked.kept[-1]) if whole is None else right / max(whole, 1)
    return CurvePoint(threshold=float(ranked.threshold[i]), coverage=coverage, precision=right / kept)
