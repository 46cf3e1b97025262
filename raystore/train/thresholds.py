"""When a head had better say nothing: thresholds chosen on validation rows for a wanted precision. Pure NumPy.

Source: selective prediction, El-Yaniv and Wiener 2010; per-label thresholds by F1, Lipton, Elkan, Naryanaswamy 2014.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.train.report.curves import Ranked, cut_at, rank, threshold_for
from raystore.vectors import Matrix

EVEN = 0.5  # where a label is given when val says nothing about it
_LEAST, _LEAST_SHARE, _LEAST_OF_ALL = 20, 0.05, 5  # kept rows


class Chosen(NamedTuple):
    """The threshold, or None where none reaches the precision on enough rows; then coverage is 0, `precision` the best on so many.

    `coverage` is the share of the val rows that are kept, `precision` the share of the kept that is right.
    """

    threshold: float | None
    coverage: float
    precision: float


def threshold_for_precision(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], precision: float
) -> Chosen:
    """The lowest confidence from which on at least the wanted share of rows is right. Rows of equal confidence go together.

    It is the confidence of a row, not the middle of a gap: what lies below was not seen to be right. It keeps `least_rows` or
    more, else it is not reached: three rows that happen to be right say nothing of a precision.

    Args:
        confidence, correct: (n,) of rows the head was not fitted on.
        precision: in (0, 1].
    """
    ranked, least = rank(confidence, correct), least_rows(len(confidence))
    found = threshold_for(ranked, precision, least)
    if found is None:
        return Chosen(None, 0.0, _best_precision(ranked, least))
    cut = cut_at(ranked, found)
    return Chosen(found, cut.coverage, cut.precision)


def least_rows(n: int) -> int:
    """How many of n val rows a threshold has to keep: 20, of fewer than 400 rows 5% of them, never fewer than 5."""
    return min(_LEAST, max(_LEAST_OF_ALL, math.ceil(_LEAST_SHARE * n)), n)


def thresholds_for_labels(
    probabilities: Matrix, truth: npt.NDArray[np.generic], precision: float | None = None
) -> tuple[list[float], dict[int, float]]:
    """(c) thresholds, one a label, and the best precision of those labels for which the wanted one is not reached.

    Each is the lowest that reaches the precision. Where none is wanted or none reaches it, it is the one with the best F1
    (ties: the higher); 0.5 for a label that no row has. It lies in the middle between the lowest probability it takes in and the
    next lower one of val, or 0: where val's labels and the others lie far apart, so that a row a little less sure is given it too.

    Args:
        probabilities: (n, c) of rows the head was not fitted on.
        truth: (n, c) of 0 and 1.
    """
    chosen, missed = [], {}
    for j in range(probabilities.shape[1]):
        has = truth[:, j] != 0
        if not has.any():
            chosen.append(EVEN)
            continue
        ranked = rank(probabilities[:, j], has)
        found = None if precision is None else threshold_for(ranked, precision)
        if found is None:
            f1 = 2 * ranked.right / (ranked.kept + int(has.sum()))
            found = float(ranked.threshold[int(f1.argmax())])
            if precision is not None:
                missed[j] = _best_precision(ranked)
        chosen.append(_in_the_gap(ranked, found))
    return chosen, missed


def _in_the_gap(ranked: Ranked, lowest: float) -> float:
    """Halfway to the next lower probability; rounded as probabilities are, it must not take that one in."""
    below = ranked.threshold[ranked.threshold < lowest]
    next_ = float(below[0]) if len(below) else 0.0
    middle = float(np.float32((lowest + next_) / 2))
    return middle if middle > next_ else lowest


def _best_precision(ranked: Ranked, least: int = 1) -> float:
    enough = ranked.kept >= least
    return float((ranked.right / ranked.kept)[enough].max()) if enough.any() else 0.0
