"""Where a head's examples come from: by split, and by slice of a split, so that each worker loads its own.

Knows NumPy alone. What implements `VectorSource` over a store travels to the workers, so it is small and
picklable: it names rows, it does not hold them. Raw content never passes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from raystore.vectors import Matrix

Task = Literal["classes", "labels", "number"]
TASKS: tuple[Task, ...] = ("classes", "labels", "number")

Labels = npt.NDArray[np.int64]
Targets = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]

SPLITS = ("train", "val", "test")


class Examples(NamedTuple):
    """Rows of one split: vectors (n, d) float32 unit rows, labels, weights (n,) float32.

    Labels by task: "classes" (n,) int64 into the classes; "labels" (n, c) float32 of 0 and 1; "number" (n,) float64.
    """

    vectors: Matrix
    labels: Targets
    weights: Weights


class VectorSource(Protocol):
    """What `train_head` reads from. `load` of ranks 0..world-1 together gives every row of the split once."""

    def labels(self, split: str) -> Targets:
        """The labels of a whole split, without its vectors; empty where the split has no row."""

    def load(self, split: str, rank: int, world: int) -> Examples:
        """Slice `rank` of `world` of a split; no rows where it is empty. Of 1 it is the whole, in the order of `labels`."""

    def entities(self, split: str) -> Labels:
        """(n,) codes of the rows' entities, equal for equal ones, over all splits."""

    def ids(self, split: str) -> list[str]:
        """The rows' ids, in the order of `labels`."""

    @property
    def erased(self) -> int:
        """How many rows the source names that are gone; they are left out of everything above."""


@dataclass(frozen=True)
class ArraySource:
    """Examples that are in memory already: every `world`-th row from `rank` on. Each row is an entity unless codes say else."""

    splits: Mapping[str, Examples]
    codes: Mapping[str, Labels] = field(default_factory=dict)
    erased: int = 0

    def labels(self, split: str) -> Targets:
        return self.load(split, 0, 1).labels

    def load(self, split: str, rank: int, world: int) -> Examples:
        if split not in self.splits:
            return Examples(*(array[:0] for array in next(iter(self.splits.values()))))
        vectors, labels, weights = self.splits[split]
        return Examples(vectors[rank::world], labels[rank::world], weights[rank::world])

    def entities(self, split: str) -> Labels:
        if split in self.codes:
            return self.codes[split]
        before = sum(len(self.splits[s].labels) for s in SPLITS[: SPLITS.index(split)] if s in self.splits)
        return np.arange(before, before + len(self.labels(split)), dtype=np.int64)

    def ids(self, split: str) -> list[str]:
        return [f"{split}-{i}" for i in range(len(self.labels(split)))]
