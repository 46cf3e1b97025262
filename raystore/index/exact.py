"""Exact top k by cosine, the same bits whatever the sharding. Pure NumPy and FAISS; knows no file and no Ray.

Why FAISS alone is not exact enough: a float32 dot product is a sum, and FAISS (and the BLAS under it) adds it up
in an order that depends on the block: one query or forty, with or without a filter, row 3 of a block of 5 or of
5,000. So the last bits of a score change with the sharding, rows that are nearly equal change places, and
duplicates, which should tie, do not. Therefore FAISS only nominates candidates here, a few more than k, and
`pair_scores` gives each (query, row) pair its one score: every product is exact in float64 (24 + 24 bits), the sum
runs over that pair's numbers alone in an order fixed by d, and the result is rounded to float32 once. Order is by
(-score, row id).

A row FAISS did not nominate can still belong to the answer only if FAISS's own rounding hid it. That error is at
most d * 2**-24 for unit vectors, in any order of summation (Higham, Accuracy and Stability, eq. 3.5, with
Cauchy-Schwarz). Where the k-th score does not clear the last nominated one by that much, the boundary is too close
to call, and one range search brings every row that could stand above it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.vectors import Matrix, pair_scores, rounding_bound

Positions = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Gather = Callable[[Positions], Matrix]  # positions (c,) -> vectors (c, d)

OVERFETCH = 16
_PAIRS_PER_BLOCK = 8192  # 8192 x 384 float64 products are 25 MiB


def score_candidates(queries: Matrix, positions: Positions, gather: Gather) -> Scores:
    """(m, c) float32 canonical scores of the candidates at `positions` (m, c); -inf where a position is -1."""
    scores = np.full(positions.shape, -np.inf, dtype=np.float32)
    real = positions >= 0
    for start in range(0, len(queries), max(1, _PAIRS_PER_BLOCK // max(1, positions.shape[1]))):
        rows = slice(start, start + max(1, _PAIRS_PER_BLOCK // max(1, positions.shape[1])))
        at = np.nonzero(real[rows])
        if len(at[0]):
            scores[rows][at] = pair_scores(queries[rows][at[0]], gather(positions[rows][at]))
    return scores


def best_first(positions: Positions, scores: Scores, k: int) -> tuple[Positions, Scores]:
    """The k best columns of each row, by (-score, position); shorter rows are padded with -1 and -inf."""
    order = np.lexsort((positions, -scores), axis=-1)[:, :k]
    positions, scores = np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)
    missing = k - positions.shape[1]
    if missing > 0:
        positions = np.pad(positions, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return positions, scores


def flat_top_k(
    flat: Any, gather: Gather, queries: Matrix, k: int, *, params: Any = None, selected: int | None = None
) -> tuple[Positions, Scores]:
    """The exact k best positions of a faiss.IndexFlatIP for each query, ties to the lower position.

    Args:
        flat: IndexFlatIP over unit rows.
        gather: vectors at positions, the same bits as in `flat`.
        queries: (m, d) float32 unit rows.
        params: faiss.SearchParameters with a selector, and `selected` how many rows it lets through.

    Returns:
        positions (m, k) int64 padded with -1, canonical scores (m, k) float32 padded with -inf.

    Cost: one pass of m*n*d multiply-adds; a second one for the queries whose boundary is too close to call.
    """
    available = flat.ntotal if selected is None else selected
    fetch = min(available, k + OVERFETCH)
    if fetch == 0 or not len(queries):
        return best_first(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
    rough, nominated = flat.search(queries, fetch, params=params)
    positions, scores = best_first(nominated, score_candidates(queries, nominated, gather), k)
    if fetch == available:
        return positions, scores
    bound = rounding_bound(queries.shape[1])
    doubtful = np.flatnonzero(scores[:, k - 1] <= rough[:, -1] + bound)
    if len(doubtful):
        _settle(flat, gather, queries, k, params, bound, doubtful, positions, scores)
    return positions, scores


def _settle(
    flat: Any,
    gather: Gather,
    queries: Matrix,
    k: int,
    params: Any,
    bound: float,
    doubtful: Positions,
    positions: Positions,
    scores: Scores,
) -> None:
    """Overwrite the answers of the doubtful queries with the best of every row that could belong to them."""
    for i in doubtful:
        query = np.ascontiguousarray(queries[i : i + 1])
        # The k-th score only rises as rows are added, so what counts scores at least this, less FAISS's rounding.
        _, _, near = flat.range_search(query, float(scores[i, k - 1]) - 2 * bound, params=params)
        near = near.astype(np.int64)[None, :]
        positions[i : i + 1], scores[i : i + 1] = best_first(near, score_candidates(query, near, gather), k)
