"""knn_label(): each row's label by the vote of its nearest labelled neighbours. Blocked matrix products, exact answers.

A float32 product of matrices nominates: whatever its rounding could hide is kept. `pair_scores` then gives each pair its one score,
so an answer depends on the two vectors alone and not on the blocks, the filter of the query or the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.query.row_table import Positions, RowTable
from raystore.data.query.vector_files import Scores, blocks, gather
from raystore.data.tables.table import SourceTable
from raystore.errors import SqlRefused
from raystore.vectors import Matrix, pair_scores, rounding_bound

_ASKED_ROWS = 1_024
_OTHER_ROWS = 8_192  # 1,024 x 8,192 products are 32 MB


@dataclass(frozen=True)
class Best:
    """The k nearest so far of each asked row (a, k): scores highest first, ties to the lower position; -inf and -1 where fewer."""

    scores: Scores
    positions: Positions

    @classmethod
    def none(cls, n: int, k: int) -> Best:
        return cls(np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int64))

    def with_pairs(self, asked: Positions, positions: Positions, scores: Scores) -> Best:
        """With further pairs of (row of this table, position, score)."""
        n, k = self.scores.shape
        owner = np.concatenate([np.repeat(np.arange(n), k), asked])
        where = np.concatenate([self.positions.ravel(), positions])
        value = np.concatenate([self.scores.ravel(), scores])
        order = np.lexsort((where, -value, owner))
        owner = owner[order]
        first = np.searchsorted(owner, np.arange(n))
        chosen = order[first[:, None] + np.arange(k)]
        return Best(value[chosen], where[chosen])


def nearest_rows(
    rows: RowTable, column: str, queries: Matrix, k: int, among: npt.NDArray[np.bool_], themselves: Positions | None = None
) -> Best:
    """The k rows nearest to each query, by (-score, position).

    Args:
        queries: (a, d) float32 unit rows, a block of them.
        among: (n,) the rows that may be answers, by position.
        themselves: (a,) the position of each query's own row, which is no answer.

    Cost: a * n * d multiply-adds; 40 MB, whatever n.
    """
    best = Best.none(len(queries), k)
    bound = 2 * rounding_bound(queries.shape[1])
    by_address = np.argsort(rows.addresses, kind="stable")
    addresses = rows.addresses[by_address]
    for block in blocks(rows.dataset, column):
        found = np.minimum(np.searchsorted(addresses, block.addresses), len(addresses) - 1)
        positions = by_address[found]
        usable = np.flatnonzero((addresses[found] == block.addresses) & among[positions])
        for start in range(0, len(usable), _OTHER_ROWS):
            part = usable[start : start + _OTHER_ROWS]
            vectors = block.vectors[part]
            products = queries @ vectors.T
            if themselves is not None:
                products[themselves[:, None] == positions[part][None, :]] = -np.inf
            least = best.scores[:, -1]
            if len(part) > k and np.isinf(least).any():  # what is not among the k best of this block is no answer either
                least = np.maximum(least, np.partition(products, len(part) - k, axis=1)[:, len(part) - k])
            asked, other = np.nonzero((products >= (least - bound)[:, None]) & (products > -np.inf))
            scores = np.empty(len(asked), np.float32)
            for at in range(0, len(asked), _OTHER_ROWS):
                pairs = slice(at, at + _OTHER_ROWS)
                scores[pairs] = pair_scores(queries[asked[pairs]], vectors[other[pairs]])
            best = best.with_pairs(asked, positions[part][other], scores)
    return best


class KnnLabels:
    """The labels of rows, voted when they are asked for: `Values` of a collection's rows.

    Args:
        labels: (n,) by position, int codes into `names`; -1 where a row has none.
        there: (n,) the rows that were there, with their vector, by position; None for all.
    """

    def __init__(
        self,
        rows: Callable[[], RowTable],
        column: str,
        k: int,
        labels: Callable[[], npt.NDArray[np.int64]],
        names: pa.Array,
        there: Callable[[], npt.NDArray[np.bool_] | None],
    ) -> None:
        self._rows, self._column, self._k = rows, column, k
        self._labels, self._names, self._there = labels, names, there

    @property
    def type(self) -> pa.DataType:
        return self._names.type

    def at(self, positions: Positions) -> pa.Array:
        rows, labels, there = self._rows(), self._labels(), self._there()
        among = labels >= 0 if there is None else (labels >= 0) & there
        codes = np.full(len(positions), -1, np.int64)
        for start in range(0, len(positions), _ASKED_ROWS):
            asked = positions[start : start + _ASKED_ROWS]
            vectors, has = gather(rows, self._column, asked)
            if there is not None:
                has &= there[asked]
            if has.any():
                best = nearest_rows(rows, self._column, vectors[has], self._k, among, asked[has])
                codes[start : start + _ASKED_ROWS][has] = votes(np.where(best.positions < 0, -1, labels[best.positions]))
        return self._names.take(pa.array(codes, mask=codes < 0))


def votes(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(a,) the most frequent label of each row of (a, k), nearest first; of several the one that stands first; -1 is no label."""
    n, k = labels.shape
    counts = np.zeros((n, k), np.int64)
    for other in range(k):
        counts += labels == labels[:, other : other + 1]
    counts[labels < 0] = 0
    winner = counts.argmax(axis=1)
    return np.where(counts[np.arange(n), winner] > 0, labels[np.arange(n), winner], -1)


def labels_by_id(table: SourceTable, column: str, until: datetime | None = None) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(ids, codes, names): each id of the table that has a label, once, and what its label is; of events those up to `until`.

    Raises:
        SqlRefused: the table has no key or no such column, or an id has several different labels.
    """
    if table.id is None:
        raise SqlRefused(
            reason=f"knn_label() joins by the key of '{table.name}', which has none",
            advice=f"Register it with id=: register_table('{table.name}', ..., id='...').",
        )
    if column not in table.columns:
        has = ", ".join(table.columns)
        raise SqlRefused(reason=f"knn_label() asks for '{column}', which '{table.name}' does not have; it has: {has}")
    timed = [table.time] if until is not None and table.time is not None else []
    rows = table.dataset().to_table(columns=list(dict.fromkeys([table.id, column, *timed])), filter=table.filter())
    for time in timed:
        rows = rows.filter(pc.less_equal(rows.column(time), pa.scalar(until, rows.column(time).type)))
    rows = rows.filter(pc.and_(rows.column(column).is_valid(), rows.column(table.id).is_valid()))
    try:
        encoded = pc.dictionary_encode(rows.column(column).combine_chunks())
    except pa.ArrowException:
        reason = f"knn_label() cannot vote on '{table.name}.{column}', which is {table.columns[column]}"
        raise SqlRefused(reason=reason) from None
    found = pa.table({"id": rows.column(table.id), "code": encoded.indices})
    found = found.group_by("id").aggregate([("code", "min"), ("code", "max")])
    several = int(pc.sum(pc.not_equal(found.column("code_min"), found.column("code_max"))).as_py() or 0)
    if several:
        raise SqlRefused(
            reason=f"{several} ids of '{table.name}' have several different values of '{column}'",
            advice="knn_label() needs one label an id: register a table that has one.",
        )
    return found.column("id").combine_chunks(), found.column("code_min").combine_chunks(), encoded.dictionary


def codes_by_position(ids: pa.ChunkedArray, labelled: pa.Array, codes: pa.Array) -> npt.NDArray[np.int64]:
    """(n,) each row's label code, -1 where it has none."""
    found = pc.take(codes, pc.index_in(ids, value_set=labelled))
    by_position: npt.NDArray[np.int64] = pc.fill_null(pc.cast(found, pa.int64()), -1).to_numpy()
    return by_position
