"""Exact top k, the same bits whatever the sharding. Pure NumPy and FAISS; knows no file and no Ray.

Why FAISS alone is not exact enough: a float32 dot product is a sum, and FAISS (and the BLAS under it) adds it up
in an order that depends on the block: one query or forty, with or without a filter, row 3 of a block of 5 or of
5,000. So the last bits of a score change with the sharding, rows that are nearly equal change places, and
duplicates, which should tie, do not. Therefore FAISS only nominates candidates here, a few more than k, and
`canonical_scores` gives each (query, row) pair its one score: every product is exact in float64 (24 + 24 bits), the sum
runs over that pair's numbers alone in an order fixed by d, and the result is rounded to float32 once. Order is by
(-score, row id).

A row FAISS did not nominate can still belong to the answer only if FAISS's own rounding hid it. That error is at
most (d + 8) * 2**-24 times the lengths of query and row, in any order of summation (Higham, Accuracy and Stability,
eq. 3.5, with Cauchy-Schwarz). Where the k-th score does not clear the last nominated one by that much, the boundary is
too close to call, and one range search brings every row that could stand above it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from raystore.index.metric import Metric, canonical_scores, faiss_metric
from raystore.vectors import Matrix

faiss: Any = _faiss

Positions = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Gather = Callable[[Positions], Matrix]  # positions (c,) -> vectors (c, d)

OVERFETCH = 16
_PAIRS = 1_024  # scored at once; of 384 numbers each they are 1.5 MiB (8,192 took half as long again)


def best_first(positions: Positions, scores: Scores, k: int) -> tuple[Positions, Scores]:
    """The k best columns of each row, by (-score, position); shorter rows are padded with -1 and -inf."""
    order = np.lexsort((positions, -scores), axis=-1)[:, :k]
    line = np.arange(len(order))[:, None]
    positions, scores = positions[line, order], scores[line, order]
    missing = k - positions.shape[1]
    if missing > 0:
        positions = np.pad(positions, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return positions, scores


def nothing(m: int, k: int) -> tuple[Positions, Scores]:
    """The answer of m queries that found no row."""
    return np.full((m, k), -1, dtype=np.int64), np.full((m, k), -np.inf, dtype=np.float32)


def score_candidates(queries: Matrix, positions: Positions, gather: Gather, metric: Metric) -> Scores:
    """(m, c) float32 canonical scores of the candidates at `positions` (m, c); -inf where a position is -1."""
    scores = np.full(positions.shape, -np.inf, dtype=np.float32)
    real = positions >= 0
    at_once = max(1, _PAIRS // max(1, positions.shape[1]))
    for start in range(0, len(queries), at_once):
        rows = slice(start, start + at_once)
        at = np.nonzero(real[rows])
        if len(at[0]):
            scores[rows][at] = canonical_scores(queries[rows][at[0]], gather(positions[rows][at]), metric)
    return scores


def flat_view(vectors: Matrix, metric: Metric) -> Any:
    """A faiss.IndexFlat over the memory of `vectors` (n, d) float32, C order: nothing is copied, so they must outlive it."""
    flat = faiss.IndexFlat(vectors.shape[1], faiss_metric(metric))
    if len(vectors):
        codes = flat.codes  # FAISS reads mapped files into such a view too (IO_FLAG_MMAP_IFC), from index files only
        memory = faiss.swig_ptr(vectors.reshape(-1).view(np.uint8))
        codes.is_owned = False
        codes.view_data = codes.c_ptr = memory
        codes.view_size = codes.c_size = vectors.nbytes
        flat.ntotal = len(vectors)
    return flat


def longest(vectors: Matrix) -> float:
    """The length of the longest row, 0 where there are none."""
    parts = (vectors[start : start + _PAIRS] for start in range(0, len(vectors), _PAIRS))
    return float(np.sqrt(max((float(np.einsum("nd,nd->n", part, part).max()) for part in parts), default=0.0)))


def flat_top_k(
    vectors: Matrix, queries: Matrix, k: int, metric: Metric, *, longest_row: float, selector: Any = None, selected: int = 0
) -> tuple[Positions, Scores]:
    """The exact k best rows of `vectors` for each query, ties to the lower position.

    Args:
        vectors: (n, d) float32, C order; read in place.
        queries: (m, d) float32, prepared for the metric.
        longest_row: at least the length of the longest of `vectors`.
        selector: a FAISS selector over positions, and `selected` how many rows it lets through.

    Returns:
        positions (m, k) int64 padded with -1, canonical scores (m, k) float32 padded with -inf.

    Cost: one pass of m*n*d multiply-adds; a second one for the queries whose boundary is too close to call.
    """
    available = len(vectors) if selector is None else selected
    fetch = min(available, k + OVERFETCH)
    if fetch == 0 or not len(queries):
        return nothing(len(queries), k)
    flat = flat_view(vectors, metric)
    params = None if selector is None else faiss.SearchParameters(sel=selector)
    rough, nominated = flat.search(queries, fetch, params=params)
    positions, scores = best_first(nominated, score_candidates(queries, nominated, vectors.__getitem__, metric), k)
    if fetch == available:
        return positions, scores
    last = -rough[:, -1] if metric == "l2" else rough[:, -1]
    bounds = _rounding(queries, longest_row, metric)
    for i in np.flatnonzero(scores[:, k - 1] <= last + bounds):
        # The k-th score only rises as rows are added, so what counts scores at least this, less FAISS's rounding.
        near = _scoring_at_least(flat, queries[i : i + 1], float(scores[i, k - 1]) - 2 * float(bounds[i]), metric, params)
        found = score_candidates(queries[i : i + 1], near, vectors.__getitem__, metric)
        positions[i : i + 1], scores[i : i + 1] = best_first(near, found, k)
    return positions, scores


def _rounding(queries: Matrix, longest_row: float, metric: Metric) -> npt.NDArray[np.float64]:
    """(m,) the most FAISS's score of a pair differs from the canonical one. l2 it makes of norms and products in large batches."""
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    size = (lengths + longest_row) ** 2 if metric == "l2" else lengths * longest_row
    bounds: npt.NDArray[np.float64] = (queries.shape[1] + 8) * 2.0**-24 * 1.01 * size
    return bounds


def _scoring_at_least(flat: Any, query: Matrix, least: float, metric: Metric, params: Any) -> Positions:
    """(1, c) the positions of every row that FAISS scores above `least`."""
    if metric == "l2":  # a squared distance below the radius
        radius = float(np.nextafter(np.float32(max(-least, 0.0)), np.float32(np.inf)))
    else:
        radius = float(np.nextafter(np.float32(least), np.float32(-np.inf)))
    near: Positions = flat.range_search(np.ascontiguousarray(query), radius, params=params)[2]
    return near[None, :]
