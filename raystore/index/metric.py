"""What near means: three metrics, one score of a pair each, higher is nearer. Pure NumPy.

    cosine   the dot product of unit rows, -1 to 1
    ip       the inner product, of vectors as they are
    l2       minus the squared Euclidean distance, 0 at best

The vectors of a collection are unit rows, over which all three give the same order; they differ in the scores.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from raystore.errors import DimensionMismatch, InvalidVectors
from raystore.vectors import Matrix, as_unit_rows, pair_scores

Metric = Literal["cosine", "ip", "l2"]
METRICS: tuple[str, ...] = get_args(Metric)

LONGEST = 1e18  # of ip and l2: beyond it squares leave float32, and FAISS nominates nothing
_PAIRS = 1_024  # as of vectors.pair_scores


def as_queries(vectors: object, dim: int, metric: Metric, call: str) -> Matrix:
    """(m, d) float32 rows as the metric takes them: of length 1 for cosine, as they are otherwise. One vector becomes one row.

    Raises:
        DimensionMismatch: rows are not `dim` long.
        InvalidVectors: not numbers, or rows with NaN or infinity; for cosine also rows without a direction, for the others rows
            longer than 1e18.
    """
    if metric == "cosine":
        return as_unit_rows(vectors, dim, call)
    try:
        with np.errstate(over="ignore"):
            matrix = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    except (TypeError, ValueError):
        raise InvalidVectors(call=call, n_vectors=1, problems=[(0, "is not a list of numbers")]) from None
    if matrix.ndim != 2:
        raise InvalidVectors(call=call, n_vectors=1, problems=[(0, f"has {matrix.ndim} axes, expected 1 or 2")])
    if matrix.shape[1] != dim:
        raise DimensionMismatch(call=call, expected=dim, found=matrix.shape[1])
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1)
    bad = ~(lengths <= LONGEST)
    if bad.any():
        says = [
            (int(i), f"is longer than {LONGEST:g}" if lengths[i] < np.inf else "holds NaN or infinity")
            for i in np.flatnonzero(bad)
        ]
        raise InvalidVectors(call=call, n_vectors=len(matrix), problems=says)
    return matrix


def canonical_scores(queries: Matrix, rows: Matrix, metric: Metric) -> Matrix:
    """(p,) float32: each pair's one score, summed in float64 over that pair alone and rounded once, so that neither the
    shard nor the batch a row stands in changes a bit of it."""
    if metric != "l2":
        return pair_scores(queries, rows)
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        apart = np.subtract(queries[part], rows[part], dtype=np.float64, order="C")
        scores[part] = -np.square(apart, out=apart).sum(axis=1)
    return scores


def faiss_metric(metric: Metric) -> Any:
    import faiss

    return faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
