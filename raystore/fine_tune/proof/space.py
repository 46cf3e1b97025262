"""The same rows under one encoder, and which of them are nearest. NumPy; knows no store, no encoder and no label.

Cost of `nearest`: m*n*d multiply-adds in BLAS blocks and a selection of each block: 3,000 queries among 20,000 rows of 384
take some 1 s on two cores, and memory of one block (32 MB) beside the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.train.source import Labels
from raystore.vectors import Matrix, as_unit_rows

BLOCK_SCORES = 2**23

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Space:
    """One encoder's vectors: `reference` (n, d) of rows that training saw, `queries` (m, d) of rows it did not see; unit float32.

    Two spaces that are compared hold the same rows in the same order; their d may differ.
    """

    name: str  # the encoder's label, 'minilm@5f3c1a2b9d0e'
    reference: Matrix
    queries: Matrix
    fingerprint: str = ""

    def checked(self, call: str) -> Space:
        """The same with rows scaled to length 1. InvalidVectors, DimensionMismatch: there are rows that cannot be."""
        d = self.reference.shape[-1]
        marked = str(getattr(self.reference, "fingerprint", None) or "")
        return Space(
            self.name,
            as_unit_rows(self.reference, d, call),
            as_unit_rows(self.queries, d, call),
            self.fingerprint or marked,
        )

    def take(self, reference: Rows, queries: Rows) -> Space:
        return Space(self.name, self.reference[reference], self.queries[queries], self.fingerprint)


class Nearest(NamedTuple):
    """`rows` (m, k) int64 and `cosines` (m, k) float32, highest first; equal ones in the order of rows; -inf where there are fewer."""

    rows: Rows
    cosines: Matrix


def nearest(
    reference: Matrix, queries: Matrix, k: int, *, kin: tuple[Labels, Labels] | None = None, block: int = BLOCK_SCORES
) -> Nearest:
    """The k rows of `reference` nearest to each query, by cosine.

    Args:
        reference: (n, d) unit rows. queries: (m, d) unit rows.
        k: neighbours of a query; all n where there are fewer.
        kin: entities of reference (n,) and queries (m,): rows of a query's own entity are no neighbours of it.
        block: scores held at once.
    """
    n, m = len(reference), len(queries)
    k = min(k, n)
    rows, cosines = np.empty((m, k), dtype=np.int64), np.empty((m, k), dtype=np.float32)
    step = max(1, block // max(n, 1))
    for start in range(0, m, step):
        part = slice(start, min(start + step, m))
        scores = queries[part] @ reference.T  # (b, n)
        if kin is not None:
            scores[kin[1][part, None] == kin[0][None, :]] = -np.inf
        chosen = np.argpartition(scores, n - k, axis=1)[:, n - k :] if k < n else np.tile(np.arange(n), (len(scores), 1))
        held = np.take_along_axis(scores, chosen, axis=1)
        order = np.lexsort((chosen, -held), axis=1)
        rows[part] = np.take_along_axis(chosen, order, axis=1)
        cosines[part] = np.take_along_axis(held, order, axis=1)
    return Nearest(rows, cosines)
