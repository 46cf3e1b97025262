"""A head without weights: the labels of the nearest training rows, by cosine. NumPy and FAISS; knows no file.

Nothing is fitted, so a training row that leaves the collection leaves such a head the next time its rows are read.
Cost: n*d multiply-adds a prediction (100,000 x 384: some 15 ms), and the training vectors in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raystore.train.classify.vote import POWER, K, class_votes, log_votes, vote_shares
from raystore.train.source import Examples, Task
from raystore.vectors import Matrix

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
        votes = vote_shares(cosines, weights=self.examples.weights[near], power=power)
        if task == "number":
            means: Matrix = (votes * labels[near]).sum(axis=1, keepdims=True).astype(np.float32)
            return means
        if task == "classes":
            return log_votes(class_votes(votes, labels[near], width), k, 1 / width)
        shares = np.zeros((len(rows), width))
        for j in range(k):
            shares += votes[:, j, None] * labels[near[:, j]]
        log_odds: Matrix = np.log((k * shares + 0.5) / (k * (1 - shares).clip(0.0) + 0.5)).astype(np.float32)
        return log_odds
