"""Answers that are not all alike: maximal marginal relevance. Pure NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raystore.vectors import Matrix

# Rows that are chosen from: so many for each one that is answered, and no fewer than POOL_LEAST.
POOL, POOL_LEAST = 10, 100


def most_marginal(relevance: Matrix, rows: Matrix, k: int, diversity: float) -> npt.NDArray[np.int64]:
    """The positions of k of p rows, in the order they are chosen: each is the best by
    (1 - diversity) * its relevance - diversity * its cosine with the nearest row chosen before it.

    Args:
        relevance: (p,) cosine of each row with the query, best first.
        rows: (p, d) float32 unit rows.
        diversity: 0 keeps the order of relevance; at 1, only the first row is chosen for what was asked.

    Returns:
        (min(k, p),) int64; ties to the lower position.

    Cost: min(k, p) products of (p, d) with one row.
    Source: Carbonell and Goldstein, The Use of MMR, SIGIR 1998; their lambda is 1 - diversity.
    """
    chosen = np.empty(min(k, len(rows)), dtype=np.int64)
    value = relevance.astype(np.float64)
    nearest = np.full(len(rows), -np.inf)
    left = np.ones(len(rows), dtype=bool)
    for i in range(len(chosen)):
        best = int(np.where(left, value, -np.inf).argmax())
        chosen[i], left[best] = best, False
        np.maximum(nearest, rows @ rows[best], out=nearest)
        value = (1 - diversity) * relevance - diversity * nearest
    return chosen
