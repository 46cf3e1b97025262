"""A block of rows compared with all others: the nearest of each, and the pairs that are near enough. Knows no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raystore.index.shards.exact import Scores
from raystore.index.source import RowIds, Rows
from raystore.vectors import Matrix

NEIGHBOURS = pa.schema(
    [
        pa.field("id", pa.string(), False),
        pa.field("rank", pa.int32(), False),
        pa.field("neighbour", pa.string(), False),
        pa.field("score", pa.float32(), False),
    ]
)
FOUND = pa.schema(  # a pair as it was found, the row that was added first on the left
    [
        pa.field("a_row", pa.int64(), False),
        pa.field("b_row", pa.int64(), False),
        pa.field("a", pa.string(), False),
        pa.field("b", pa.string(), False),
        pa.field("score", pa.float32(), False),
    ]
)

_FIRST = 16  # rows asked of a row at first; most have no near duplicate


class Near(NamedTuple):
    """Row ids (m, k) padded with -1, their cosines (m, k), and the ids of those rows."""

    rows: RowIds
    scores: Scores
    names: Mapping[int, str]
    exact: bool


class Nearest(Protocol):
    """Whatever the rows are compared with."""

    def __call__(self, queries: Matrix, k: int) -> Near: ...


def neighbours(rows: Rows, nearest: Nearest, k: int) -> tuple[pa.Table, bool]:
    """NEIGHBOURS of each row of a block, k of them or fewer where there are fewer, itself left out, nearest first; and whether
    exact."""
    near = nearest(rows.vectors, k + 1)
    others = (near.rows >= 0) & (near.rows != rows.row_ids[:, None])
    rank = np.cumsum(others, axis=1) - 1
    at, column = np.nonzero(others & (rank < k))
    columns = {
        "id": pa.array(rows.ids.take(at).to_pylist(), pa.string()),
        "rank": rank[at, column].astype(np.int32),
        "neighbour": pa.array([near.names[row] for row in near.rows[at, column].tolist()], pa.string()),
        "score": near.scores[at, column],
    }
    return pa.table(columns, schema=NEIGHBOURS), near.exact


def near_pairs(rows: Rows, nearest: Nearest, threshold: float, limit: int) -> tuple[pa.Table, bool, int]:
    """FOUND: the pairs of the rows of a block with others that score at least `threshold`; whether exact; and how many of the
    rows have more than `limit` such others, of which the nearest were taken.

    A row is asked for more others only where all it was given were near enough.
    """
    tables, exact, cut_short = [], True, 0
    waiting, k = np.arange(len(rows.row_ids)), min(_FIRST, limit)
    while len(waiting):
        near = nearest(rows.vectors[waiting], k + 2)  # itself, and one more that tells whether there are more
        exact &= near.exact
        others = (near.rows >= 0) & (near.scores >= threshold) & (near.rows != rows.row_ids[waiting, None])
        many = others.sum(axis=1) > k
        if k == limit:
            cut_short += int(many.sum())
            others &= np.cumsum(others, axis=1) <= k
            many[:] = False
        tables.append(_found(rows, waiting, near, others & ~many[:, None]))
        waiting, k = waiting[many], min(4 * k, limit)
    return pa.concat_tables([FOUND.empty_table(), *tables]), exact, cut_short


def _found(rows: Rows, asked: RowIds, near: Near, chosen: npt.NDArray[np.bool_]) -> pa.Table:
    at, column = np.nonzero(chosen)
    mine, other = rows.row_ids[asked[at]], near.rows[at, column]
    own = pa.array(rows.ids.take(asked[at]).to_pylist(), pa.string())
    names = pa.array([near.names[row] for row in other.tolist()], pa.string())
    first = pa.array(mine < other)
    columns = {
        "a_row": np.minimum(mine, other),
        "b_row": np.maximum(mine, other),
        "a": pc.if_else(first, own, names),
        "b": pc.if_else(first, names, own),
        "score": near.scores[at, column],
    }
    return pa.table(columns, schema=FOUND)
