"""What the index needs of a collection: a version, rows with stable row ids, and their vectors.

Everything in this room is written against `VectorSource`; `raystore.data.collection.CollectionTable` is one.
Ray workers and shard actors are handed a store root and a collection's name, never a source and never
vectors: `open_source` opens the collection where the work is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.pinned import Came
from raystore.layout import Layout
from raystore.vectors import Matrix, as_unit_rows

RowIds = npt.NDArray[np.int64]

ROW_ID_END = 2**62  # above every row id Lance gives out


class Batch(Protocol):
    """Some rows of a scan: `ids` (n strings), `row_ids` (n,) int64 and `vectors` (n, d) float32, in one order."""

    @property
    def ids(self) -> pa.Array: ...
    @property
    def row_ids(self) -> RowIds: ...
    @property
    def vectors(self) -> Matrix: ...


class Pinned(Protocol):
    """One version of the collection, for the vectors of one encoder."""

    @property
    def version(self) -> int: ...

    @property
    def live(self) -> int:
        """How many rows there are, with a vector or without; costs nothing."""

    @property
    def fragments(self) -> frozenset[int]:
        """The parts the rows stand in, for `came_after` of a later version."""

    def row_ids(self) -> RowIds:
        """All rows, sorted."""

    def came_after(self, version: int, known: Set[int] = frozenset()) -> Came:
        """The rows that were added or got their vector after that version; `known` are parts that need no reading."""

    def count_after(self, version: int) -> int:
        """How many rows have a vector that came after that version."""


class Scanned(Protocol):
    """Rows with vectors, read once from one end to the other: all that a shard is built from."""

    def dim(self, fingerprint: str) -> int:
        """Numbers in a vector of that encoder; PassportMismatch where the collection holds none of its vectors."""

    def scan(
        self,
        fingerprint: str,
        *,
        columns: Sequence[str] = ("id",),
        as_of: int | None = None,
        since: int | None = None,
        row_ids: tuple[int, int] | None = None,
    ) -> Iterator[Batch]:
        """Batches of the rows that have a vector of that encoder, which came after `since` and not after `as_of`; `row_ids`
        is a half-open range. Order is that of the store, not of the row ids."""


class VectorSource(Scanned, Protocol):
    """The collection as the index sees it. Row ids are stable: a row keeps its own until it is erased."""

    @property
    def version(self) -> int:
        """Moves with every commit, deletes too; read anew at each call."""

    def pin(self, fingerprint: str) -> Pinned:
        """The newest version, held still while it is looked at."""

    def row_ids(self, where: str | None = None, as_of: int | None = None) -> RowIds:
        """The rows a predicate selects, sorted."""

    def with_vector(self, fingerprint: str, row_ids: RowIds) -> RowIds:
        """Those of the (ascending) row ids whose row has a vector of that encoder."""

    def vectors_at(self, fingerprint: str, row_ids: RowIds) -> tuple[npt.NDArray[np.bool_], Matrix]:
        """(n,) which of the (different) row ids have a vector of that encoder, and the (m, d) vectors of those, in order."""

    def rows_by_row_id(self, row_ids: RowIds, columns: Sequence[str]) -> Any:
        """A pa.Table of the columns and `_rowid`, in no stated order; rows that are gone are left out."""


def open_source(root: str, collection: str) -> VectorSource:
    """The collection, opened in the process that reads it."""
    source: VectorSource = CollectionTable.open(Layout(Path(root)), collection)
    return source


class Rows(NamedTuple):
    """n rows by ascending row id: row_ids (n,) int64, their ids (a pa.ChunkedArray), unit vectors (n, d) float32."""

    row_ids: RowIds
    ids: Any
    vectors: Matrix

    def where(self, chosen: npt.NDArray[Any]) -> Rows:
        """Those rows, by mask or position."""
        return Rows(self.row_ids[chosen], self.ids.take(np.arange(len(self.row_ids))[chosen]), self.vectors[chosen])


def read_rows(
    source: VectorSource,
    fingerprint: str,
    *,
    row_ids: tuple[int, int] = (0, ROW_ID_END),
    as_of: int | None = None,
    since: int | None = None,
    rows_hint: int = 0,
) -> Rows:
    """The rows of one half-open range of row ids whose vector of that encoder came after `since` and not after `as_of`.

    `rows_hint` is how many rows to expect: with it the block is filled in place, and memory peaks at one copy.
    """
    row_numbers: list[RowIds] = []
    ids: list[pa.Array] = []
    block = np.empty((rows_hint, source.dim(fingerprint)), dtype=np.float32)
    filled = 0
    for batch in source.scan(fingerprint, columns=(), as_of=as_of, since=since, row_ids=row_ids):
        unit = as_unit_rows(batch.vectors, block.shape[1], "index")
        needed = filled + len(unit)
        if needed > len(block):
            grown = np.empty((max(needed, 2 * len(block)), block.shape[1]), dtype=np.float32)
            grown[:filled] = block[:filled]
            block = grown
        block[filled:needed] = unit
        filled = needed
        row_numbers.append(np.asarray(batch.row_ids, dtype=np.int64))
        ids.append(batch.ids.take(pa.array(np.arange(len(batch.ids)))))  # a copy: the batch's array keeps its vectors too
    found = np.concatenate([np.empty(0, dtype=np.int64), *row_numbers])
    rows = Rows(found, pa.chunked_array(ids, pa.string()), block[:filled])
    if (np.diff(found) < 0).any():  # fragments need not stand in row-id order
        return rows.where(np.argsort(found, kind="stable"))
    return rows
