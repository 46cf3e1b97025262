"""What the model as it is gets wrong: for a row the nearest of other classes, for a class those it is confused with.

Pure functions over matrices; the search is raystore's own (index/shards), exact. Cost: n * n * d multiply-adds, in blocks:
10,000 rows of 384 numbers some seconds on 2 cores. Hand in a sample of a few thousand rows a look.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raystore.fine_tune.batches.batch import IntArray
from raystore.index.shards.shard import memory_shard
from raystore.vectors import Matrix


def hard_negatives(vectors: Matrix, labels: IntArray, k: int) -> IntArray:
    """(n, k) int64: for each row the k nearest rows of other classes, nearest first, ties to the lower row.

    Args:
        vectors: (n, d) float32 unit rows.
        labels: (n,) codes; rows labelled -1 are nobody's neighbour and have none.

    -1 where fewer than k rows are of other classes.
    """
    found = np.full((len(labels), k), -1, dtype=np.int64)
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        return found
    names = pa.array(rows.astype(str), pa.string())
    shard = memory_shard(rows, np.ascontiguousarray(vectors[rows], dtype=np.float32), names, "cosine")
    for code in np.unique(labels[rows]):
        own = rows[labels[rows] == code]
        found[own] = shard.search(np.ascontiguousarray(vectors[own], dtype=np.float32), k, without=own).rows
    return found


def confused_classes(vectors: Matrix, labels: IntArray, m: int, *, n_classes: int | None = None) -> IntArray:
    """(c, m) int64: for each class the m others whose rows are nearest to its rows, most confused first; for `Sampler.confuse`.

    Each row of a class has a vote for the class of each of its nearest 10 strangers, by how near that is; equal sums keep the
    lower code first. Classes nobody voted for do not stand there: -1 fills up, as where a class has no row.
    """
    c = int(n_classes if n_classes is not None else labels.max(initial=-1) + 1)
    found = np.full((c, m), -1, dtype=np.int64)
    near = hard_negatives(vectors, labels, _VOTES)
    for code in range(c):
        own = np.flatnonzero(labels == code)
        at = near[own]
        real = at >= 0
        if not real.any():
            continue
        cosines = np.einsum("rd,rkd->rk", vectors[own], vectors[at])
        votes = np.bincount(labels[at[real]], weights=(1 + cosines[real]), minlength=c)
        order = np.argsort(-votes, kind="stable")[: min(m, int(np.count_nonzero(votes)))]
        found[code, : len(order)] = order
    return found


_VOTES = 10
