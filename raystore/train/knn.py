"""A head without weights: the labels of the nearest training rows, by cosine. NumPy and FAISS; knows no file.

Nothing is fitted, so a training row that leaves the collection leaves such a head the next time its rows are read.
Cost: n*d multiply-adds a prediction (100,000 x 384: some 15 ms), and the training vectors in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raystore.train.source import Examples, Task
from raystore.vectors import Matrix

K = 10
POWER = 4.0
_QUERY_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The training rows that are asked."""

    examples: Examples

    @cached_property
    def _index(self) -> Any:
        import faiss

        index = faiss.IndexFlatIP(self.examples.vectors.shape[1])
        index.add(np.ascontiguousarray(self.examples.vectors))
        return index

    def scores(self, rows: Matrix, n_classes: int, task: Task, *, k: int = K, power: float = POWER) -> Matrix:
        """(m, c) float32 logits, or (m, 1) predicted numbers, of (m, d) float32 unit rows.

        A neighbour's vote is its weight times its cosine to `power`, 0 below a cosine of 0; `k` neighbours, all where there
        are fewer. "classes": the log of each class's share of the votes, after one vote more was spread evenly over the
        classes, so that no class is impossible. "labels": the log odds of each label's share, the vote more being half for
        it. "number": the mean of the neighbours' numbers by their votes.
        """
        width = 1 if task == "number" else n_classes
        out = np.empty((len(rows), width), dtype=np.float32)
        for start in range(0, len(rows), _QUERY_ROWS):
            part = slice(start, start + _QUERY_ROWS)
            out[part] = self._block(np.ascontiguousarray(rows[part]), width, task, k, power)
        return out

    def _block(self, rows: Matrix, width: int, task: Task, k: int, power: float) -> Matrix:
        labels = self.examples.labels
        k = min(k, len(labels))
        cosines, near = self._index.search(rows, k)
        # Rounded to what float32 cosines are good for, so that equal votes tie however many rows were asked about at once.
        votes = np.maximum(cosines.astype(np.float64).round(6), 0.0) ** power * self.examples.weights[near]
        votes = np.where(votes.sum(axis=1, keepdims=True) > 0, votes, 1.0)
        votes /= votes.sum(axis=1, keepdims=True)
        if task == "number":
            means: Matrix = (votes * labels[near]).sum(axis=1, keepdims=True).astype(np.float32)
            return means
        shares = np.zeros((len(rows), width))
        row = np.arange(len(rows))
        for j in range(k):
            if task == "labels":
                shares += votes[:, j, None] * labels[near[:, j]]
            else:
                shares[row, labels[near[:, j]]] += votes[:, j]
        if task == "labels":
            log_odds: Matrix = np.log((k * shares + 0.5) / (k * (1 - shares).clip(0.0) + 0.5)).astype(np.float32)
            return log_odds
        logs: Matrix = np.log((k * shares + 1 / width) / (k + 1)).astype(np.float32)
        return logs
