"""The best of what was nominated, scored by the true vectors. Pure NumPy and FAISS.

Where more than k rows are nominated, float32 products choose the best k of them, and only those get canonical scores: of
100 nominated rows a query, ten float64 sums. The choice may differ from the canonical one in rows whose scores differ in
the last bits; what is returned has its canonical score and order.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np

from raystore.index.metric import Metric, canonical_scores
from raystore.index.shards.exact import Positions, Scores, best_first, nothing, score_candidates
from raystore.index.shards.shard_vectors import ShardVectors
from raystore.index.shards.threads import faiss_threads
from raystore.vectors import Matrix

faiss: Any = _faiss

_PAIRS = 8_192  # gathered at once; of 384 numbers each they are 12 MiB


def best_of(
    queries: Matrix, nominated: Positions, k: int, vectors: ShardVectors, metric: Metric
) -> tuple[Positions, Scores]:
    """The k best of the nominated positions (m, c), -1 where there is none; padded, ties to the lower position."""
    if len(queries) == 1:
        return _best_of_one(queries[0], nominated[0][nominated[0] >= 0], k, vectors, metric)
    if nominated.shape[1] > k:
        nominated = _nearest(queries, nominated, k, vectors, metric)
    return best_first(nominated, score_candidates(queries, nominated, vectors.rows, metric), k)


def _best_of_one(
    query: Matrix, positions: Positions, k: int, vectors: ShardVectors, metric: Metric
) -> tuple[Positions, Scores]:
    """The same of one query, in a quarter of the steps: they are what a single search takes beside FAISS."""
    if len(positions) > k:
        with faiss_threads(1):  # of one query there is nothing to share, and on busy cores two threads wait for each other
            positions = _nearest(query[None], positions[None], k, vectors, metric)[0]
    rows = vectors.rows(positions)
    scores = canonical_scores(np.broadcast_to(query, rows.shape), rows, metric)
    order = np.lexsort((positions, -scores))
    if len(order) == k:
        return positions[order][None], scores[order][None]
    padded = nothing(1, k)
    padded[0][0, : len(order)], padded[1][0, : len(order)] = positions[order], scores[order]
    return padded


def _nearest(queries: Matrix, nominated: Positions, k: int, vectors: ShardVectors, metric: Metric) -> Positions:
    """(m, k) of the positions, by float32 scores, in no order."""
    rough = rough_scores(queries, nominated, vectors, metric)
    best = np.argpartition(rough, rough.shape[1] - k, axis=1)[:, rough.shape[1] - k :]
    return nominated[np.arange(len(queries))[:, None], best]


def rough_scores(queries: Matrix, positions: Positions, vectors: ShardVectors, metric: Metric) -> Scores:
    """(m, c) float32 scores of the rows at `positions` (m, c), added up in float32; -inf where a position is -1."""
    whole = vectors.whole(positions[positions >= 0])
    if whole is None:
        return _gathered(queries, positions, vectors, metric)
    rough = np.empty(positions.shape, dtype=np.float32)  # in place, by all threads: a quarter of the time of gathering
    by_position = faiss.fvec_L2sqr_by_idx if metric == "l2" else faiss.fvec_inner_products_by_idx
    queries, positions = np.ascontiguousarray(queries), np.ascontiguousarray(positions)  # alive while FAISS reads them
    pointers = (faiss.swig_ptr(array) for array in (rough, queries, whole, positions))
    by_position(*pointers, queries.shape[1], *positions.shape)
    return np.negative(rough, out=rough) if metric == "l2" else rough


def _gathered(queries: Matrix, nominated: Positions, vectors: ShardVectors, metric: Metric) -> Scores:
    """The same of rows that are not on this machine."""
    rough = np.full(nominated.shape, -np.inf, dtype=np.float32)
    at_once = max(1, _PAIRS // nominated.shape[1])
    for start in range(0, len(queries), at_once):
        some, positions = queries[start : start + at_once], nominated[start : start + at_once]
        rows = vectors.rows(np.maximum(positions, 0).reshape(-1)).reshape(*positions.shape, -1)
        scores = np.vecdot(rows, some[:, None])
        if metric == "l2":
            scores = 2 * scores - np.vecdot(rows, rows) - np.vecdot(some, some)[:, None]
        rough[start : start + at_once] = np.where(positions < 0, -np.inf, scores)
    return rough
