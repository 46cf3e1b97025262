"""Many shards' answers into one. Pure NumPy.

Each shard's own k best hold every row of the k best overall, and a pair's score does not depend on its shard
(exact.py), so the merge of any partition is the answer of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raystore.index.shards.exact import Positions, Scores, best_first

Answer = tuple[Positions, Scores]  # row ids (m, k) int64 padded with -1, scores (m, k) float32 padded with -inf


def merge(parts: Sequence[Answer], m: int, k: int) -> Answer:
    """The k best of all parts for each of m queries, highest first, ties to the lower row id, padded.

    A row that two parts answer (a shard rebuilt while the same row stood in the tail) counts once.
    """
    rows = np.concatenate([np.empty((m, 0), dtype=np.int64), *(part[0] for part in parts)], axis=1)
    scores = np.concatenate([np.empty((m, 0), dtype=np.float32), *(part[1] for part in parts)], axis=1)
    rows, scores = best_first(rows, scores, max(k, rows.shape[1]))
    twice = np.zeros(rows.shape, dtype=bool)
    twice[:, 1:] = (rows[:, 1:] == rows[:, :-1]) & (
        rows[:, 1:] >= 0
    )  # equal rows have equal scores, so they are neighbours
    if twice.any():
        rows, scores = best_first(np.where(twice, -1, rows), np.where(twice, -np.inf, scores).astype(np.float32), k)
    return rows[:, :k], scores[:, :k]
