"""Of two classes, each alone: what an alarm from P(class) on is worth, and how many of its rows it finds. Pure NumPy.

A confidence threshold asks how sure a head is of any answer, so a rare class may never pass it; this asks about the class alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from raystore.train import metrics
from raystore.train.report.curves import CurvePoint, Cut, coverage_curve, cut_at, rank, thresholds_for
from raystore.train.source import Labels
from raystore.vectors import Matrix

WANTED = (0.5, 0.8, 0.9)
ENOUGH = 5  # alarms; a rare class has few, and the interval beside them says how little they prove


class Alarms(BaseModel):
    """One class of two: its rows, and over thresholds on its probability the precision and recall ("coverage") of its alarms.

    `cuts` are those with 50, 80 and 90% of the alarms right, with Wilson's 95% interval over rows; `threshold` is None where
    none of 5 alarms or more is.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    support: int
    average_precision: float
    curve: tuple[CurvePoint, ...]
    cuts: tuple[Cut, ...]


def alarms(labels: Labels, probabilities: Matrix, classes: Sequence[str]) -> tuple[Alarms, ...]:
    """Both classes, the rarer first; () where there are not two, or one of them has no row."""
    support = np.bincount(labels, minlength=len(classes))
    if len(classes) != 2 or not support.all():
        return ()
    order = sorted((0, 1), key=lambda j: (support[j], -j))
    return tuple(_of(classes[j], labels == j, probabilities[:, j]) for j in order)


def _of(label: str, truth: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], probability: Matrix) -> Alarms:
    ranked, whole = rank(probability, truth), int(truth.sum())
    cuts = []
    for wanted, at in thresholds_for(ranked, WANTED, ENOUGH):
        cut = Cut(wanted=wanted) if at is None else cut_at(ranked, at, wanted=wanted, whole=whole)
        if cut.rows:
            low, high = wilson(cut.precision, cut.rows)
            cut = cut.model_copy(update={"low": low, "high": high})
        cuts.append(cut)
    return Alarms(
        label=label,
        support=whole,
        average_precision=float(metrics.average_precision(truth[:, None], probability[:, None])[0]),
        curve=coverage_curve(ranked, whole=whole),
        cuts=tuple(cuts),
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share of n rows (Wilson 1927), which also holds near 0 and 1."""
    z2 = 1.96**2
    middle, half = share + z2 / (2 * n), 1.96 * ((share * (1 - share) + z2 / (4 * n)) / n) ** 0.5
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))
