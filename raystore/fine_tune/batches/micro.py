"""A batch cut into micro-batches of like lengths: padding wastes two thirds of a step where short texts meet long ones."""

from __future__ import annotations

import numpy as np

from raystore.fine_tune.batches.batch import IntArray


def chunks(lengths: IntArray, tokens: int, rows_max: int | None = None) -> list[IntArray]:
    """Positions 0 to n - 1, each once, in groups whose size times longest length is at most `tokens`.

    Args:
        lengths: (n,) tokens of each row, as the group is padded to its longest.
        tokens: the budget of a group, padding included. A row longer than that stands alone.
        rows_max: rows of a group at most; None: as many as fit.

    Longest first, equal lengths in their order: what does not fit into memory fails in the first pass, not in the last.
    Cost: a sort.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable").astype(np.int64)
    groups, start = [], 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, min(tokens // longest, len(order) if rows_max is None else rows_max))
        groups.append(order[start : start + size])
        start += size
    return groups
