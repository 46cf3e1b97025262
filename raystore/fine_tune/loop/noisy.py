"""Labels that the training does not believe: each row's loss is followed, and two kinds of rows are told apart by it.

A wrong label is learned late: its loss stays high while the others' falls. A mixture of two normals over the rows' mean losses
says how likely each belongs to the higher one, if there are two at all.
Cost: two numbers a row. Source: Arazo et al. 2019 (arXiv 1904.11238), Li et al. 2020 (DivideMix, arXiv 2002.07394), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raystore.fine_tune.loop.points import Suspect

if TYPE_CHECKING:
    from raystore.fine_tune.examples.types import Examples

Floats = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_KEEP = 0.7  # of what was known of a row, when it is seen again
_SEEN = 2  # times, before a row is judged
_FEWEST = 50  # rows judged, before any is
_APART = 2.0  # Ashman's D: below it two normals are one hill
_ROUNDS = 100
LIGHT = 0.1  # the weight of a row whose label is surely wrong


@dataclass
class Losses:
    """Of each row of train how its loss stands to its batch's, smoothed, and how often it was seen."""

    mean: Floats
    seen: IntArray

    @classmethod
    def of(cls, n: int) -> Losses:
        return cls(np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.int64))

    def add(self, rows: IntArray, each: Floats) -> None:
        """After a step: the items' rows and losses; NaN where an item had no term. A row that stood twice counts with its mean."""
        real = np.isfinite(each)
        if not real.any():
            return
        values = each - np.median(each[real])  # batches differ in how hard they are
        unique, inverse = np.unique(rows[real], return_inverse=True)
        means = np.bincount(inverse, weights=values[real]) / np.bincount(inverse)
        keep = np.where(self.seen[unique] > 0, _KEEP, 0.0)
        self.mean[unique] = (keep * self.mean[unique] + (1 - keep) * means).astype(np.float32)
        self.seen[unique] += 1

    def wrong(self) -> Floats:
        """(n,) the probability that a row belongs to those whose labels are not believed; 0 where that cannot be said."""
        judged = self.seen >= _SEEN
        out = np.zeros(len(self.mean), dtype=np.float32)
        if int(judged.sum()) >= _FEWEST:
            out[judged] = higher_hill(self.mean[judged].astype(np.float64))
        return out

    def weights(self) -> Floats:
        """(n,) 1 for rows that are believed, down to `LIGHT`."""
        weights: Floats = (1 - (1 - LIGHT) * self.wrong()).astype(np.float32)
        return weights


def suspects(losses: Losses, data: Examples) -> tuple[Suspect, ...]:
    """Rows whose label is more likely wrong than right, surest first; by id and label, nothing of their content."""
    if not data.classes:
        return ()
    wrong = losses.wrong()
    order = [int(row) for row in np.argsort(-wrong, kind="stable") if wrong[row] > 0.5]
    return tuple(Suspect(data.ids[i], data.classes[data.labels[i]], float(wrong[i])) for i in order)


def higher_hill(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The probability that each value belongs to the higher of two normals (EM); zeros where one normal tells it as well. Pure."""
    nothing = np.zeros(len(values))
    centre, scale = float(np.median(values)), float(values.std())
    if scale < 1e-6:
        return nothing
    x = np.clip((values - centre) / scale, -6, 6)
    means = np.array([np.quantile(x, 0.25), np.quantile(x, 0.95)])
    deviations = np.array([0.5, 0.5])
    shares = np.array([0.8, 0.2])
    belongs = np.zeros((2, len(x)))
    for _ in range(_ROUNDS):
        density = shares[:, None] * np.exp(-0.5 * ((x - means[:, None]) / deviations[:, None]) ** 2) / deviations[:, None]
        belongs = density / density.sum(axis=0).clip(1e-300)
        mass = belongs.sum(axis=1).clip(1e-9)
        before = means
        means = (belongs @ x) / mass
        deviations = np.sqrt(((belongs * (x - means[:, None]) ** 2).sum(axis=1) / mass).clip(0.05**2))
        shares = mass / len(x)
        if np.abs(means - before).max() < 1e-5:
            break
    high = int(means.argmax())
    apart = np.sqrt(2) * abs(means[0] - means[1]) / np.sqrt((deviations**2).sum())
    if apart < _APART or not 0.002 < shares[high] < 0.5:
        return nothing
    found = belongs[high]
    found[x < means[high] - 3 * deviations[high]] = 0.0  # the wider of two normals has both tails
    found[x < means[1 - high]] = 0.0
    out: npt.NDArray[np.float64] = found
    return out
