"""When a head had better say nothing: thresholds chosen on validation rows for a wanted precision. Pure NumPy.

Source: selective prediction, El-Yaniv and Wiener 2010; per-label thresholds by F1, Lipton, Elkan, Naryanaswamy 2014.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.train.report.curves import Ranked, cut_at, rank, threshold_for
from raystore.vectors import Matrix

EVEN = 0.5  # where a label is given when val says nothing about it


class Chosen(NamedTuple):
    """The threshold, or None where no threshold reaches the precision; then coverage is 0 and `precision` the best there is.

    `coverage` is the share of the val rows that are kept, `precision` the share of the kept that is right.
    """

    threshold: float | None
    coverage: float
    precision: float


def threshold_for_precision(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], precision: float
) -> Chosen:
    """The lowest confidence from which on at least the wanted share of rows is right. Rows of equal confidence go together.

    Args:
        confidence, correct: (n,) of rows the head was not fitted on.
        precision: in (0, 1].
    """
    ranked = rank(confidence, correct)
    found = threshold_for(ranked, precision)
    if found is None:
        return Chosen(None, 0.0, _best_precision(ranked))
    cut = cut_at(ranked, found)
    return Chosen(found, cut.coverage, cut.precision)


def thresholds_for_labels(
    probabilities: Matrix, truth: npt.NDArray[np.generic], precision: float | None = None
) -> tuple[list[float], dict[int, float]]:
    """(c) thresholds, one a label, and the best precision of those labels for which the wanted one is not reached.

    Each is the lowest that reaches the precision. Where none is wanted or none reaches it, it is the one with the best F1
    (ties: the higher); 0.5 for a label that no row has.

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
        chosen.append(found)
    return chosen, missed


def _best_precision(ranked: Ranked) -> float:
    return float((ranked.right / ranked.kept).max()) if len(ranked.kept) else 0.0
