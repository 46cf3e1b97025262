"""Where a head's examples come from: by split, and by slice of a split, so that each worker loads its own.

Knows NumPy alone. What implements `VectorSource` over a store travels to the workers, so it is small and
picklable: it names rows, it does not hold them. Raw content never passes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from raystore.vectors import Matrix

Labels = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]

SPLITS = ("train", "val", "test")


class Examples(NamedTuple):
    """Rows of one split: vectors (n, d) float32 unit rows, labels (n,) int64 into the classes, weights (n,) float32."""

    vectors: Matrix
    labels: Labels
    weights: Weights


class VectorSource(Protocol):
    """What `train_head` reads from. `load` of ranks 0..world-1 together gives every row of the split once."""

    def labels(self, split: str) -> Labels:
        """The labels of a whole split, without its vectors; empty where the split has no row."""

    def load(self, split: str, rank: int, world: int) -> Examples:
        """Slice `rank` of `world` of a split; shapes (0, d), (0,), (0,) where it is empty."""


@dataclass(frozen=True)
class ArraySource:
    """Examples that are in memory already: every `world`-th row from `rank` on."""

    splits: Mapping[str, Examples]

    def labels(self, split: str) -> Labels:
        return self.splits[split].labels if split in self.splits else np.empty(0, dtype=np.int64)

    def load(self, split: str, rank: int, world: int) -> Examples:
        if split not in self.splits:
            d = next(iter(self.splits.values())).vectors.shape[1]
            return Examples(np.empty((0, d), np.float32), np.empty(0, np.int64), np.empty(0, np.float32))
        vectors, labels, weights = self.splits[split]
        return Examples(vectors[rank::world], labels[rank::world], weights[rank::world])
