"""Classes known by their descriptions: what is said of them before any row has a label, and while few have one. Pure NumPy.

    no labels      softmax of the cosines between the text and the descriptions, over a temperature
    some labels    the same as votes beside the neighbours': half as many as there are neighbours, fewer with each label of the class

Measured on Banking77 with its 77 class names as descriptions, all-MiniLM-L6-v2, test accuracy with 0, 1, 2, 4, 8 labels a class:
63.0, 68.5, 72.8, 75.5, 81.3%; by 20 neighbours alone, from one label on, 53.4, 64.9, 71.5, 80.4% (`benchmarks/knn_buckets.py`). The
numbers below were chosen there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystore.train.calibration import softmax
from raystore.train.classify.vote import Shares
from raystore.vectors import Matrix

# The softmax of cosines is best calibrated there: log loss on Banking77 1.45 at .06, 1.48 at .05, 1.53 at .08, 1.89 at .03.
TEMPERATURE = 0.06
PSEUDO_VOTES = 0.5  # of as many votes as there are neighbours, before a class has a label
HALVED_AT = 4  # labels of a class at which its description counts half


def sentence_of(name: str, description: str) -> str:
    """What is encoded of a class: its name in words, and its description."""
    words = " ".join(name.replace("_", " ").replace("-", " ").split())
    said = " ".join(description.split())
    return f"{words}: {said}" if said else words


@dataclass(frozen=True, eq=False)
class Described:
    """Classes by description: `texts` by class, `vectors` (c, d) float32 unit rows in their order."""

    texts: Mapping[str, str]
    vectors: Matrix

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def cosines(self, rows: Matrix) -> Matrix:
        """(m, c) float32 of (m, d) unit rows."""
        found: Matrix = rows @ self.vectors.T
        return found

    def shares(self, cosines: Matrix, n_classes: int) -> Shares:
        """(m, n_classes) float64 rows that sum to 1: the softmax over the described classes, which are the first ones; 0 beyond."""
        wide = np.zeros((len(cosines), n_classes))
        wide[:, : cosines.shape[1]] = softmax(cosines, TEMPERATURE)
        return wide


def pseudo_votes(labels: npt.NDArray[np.integer], k: int) -> Shares:
    """How many votes a class's description counts for, by how many labels the class has: k/2 without one, k/4 at 4, then fading."""
    faded: Shares = PSEUDO_VOTES * k * HALVED_AT / (HALVED_AT + labels.astype(np.float64))
    return faded
