"""Which rows of a collection have which label: kept in memory, followed by the versions of collection and label table.

A row's label is in a kept column of its own, or in a source table with an id key ("outcomes.outcome"): of several rows of an
id the latest by the table's time, else the last one registered, counts; a null takes the label away. A row that is erased, or
a label that is, is gone from the votes with the commit that took it.

Cost: the first look reads ids and labels once. A new version of the collection reads the ids of its new rows, and where the count
says that some went, which are there; a new version of the label table reads both again. Memory: 16 bytes a row of the
collection, and the label table's ids. Knows no vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.keyed import ADDED
from raystore.data.snapshots.labels import is_class
from raystore.data.tables.table import KIND, SourceTable, open_table
from raystore.errors import ColumnNotFound, InvalidArguments
from raystore.index.source import RowIds
from raystore.layout import numbers
from raystore.train.classify.vote import Codes

NONE = -1  # the code of a row without a label


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labelled rows at one version of the collection, and of the label table where there is one.

    `row_ids` (n,) ascending, `codes` (n,) their classes' places, `counts` (c,) labelled rows a class. Every one of them has a
    vector of the encoder.
    """

    version: int
    labels_version: int | None
    row_ids: RowIds
    codes: Codes
    counts: Codes

    def codes_of(self, row_ids: RowIds) -> Codes:
        """The codes of rows in any shape, -1 of those that have none; -1 of a row id of -1."""
        if not len(self.row_ids):
            return np.full(row_ids.shape, NONE, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.row_ids, row_ids), len(self.row_ids) - 1)
        found: Codes = np.where(self.row_ids[at] == row_ids, self.codes[at], NONE)
        return found

    def only(self, kept: npt.NDArray[np.bool_]) -> Labelled:
        """Those of the rows."""
        codes = self.codes[kept]
        counts = np.bincount(codes, minlength=len(self.counts)).astype(np.int64)
        return Labelled(self.version, self.labels_version, self.row_ids[kept], codes, counts)

    def moved_from(self, other: Labelled) -> int:
        """How many rows are labelled in only one of the two, or otherwise."""
        _, mine, theirs = np.intersect1d(self.row_ids, other.row_ids, assume_unique=True, return_indices=True)
        same = int(np.count_nonzero(self.codes[mine] == other.codes[theirs]))
        return len(self.row_ids) + len(other.row_ids) - 2 * same


class _Rows(NamedTuple):
    """All rows of the collection that were there at `version`: ascending, and the code of each."""

    version: int
    row_ids: RowIds
    codes: Codes


class _Table(NamedTuple):
    """What a label table says at one version: ids, and the code of each."""

    version: int
    ids: pa.Array
    codes: Codes


def labels_of_ids(table: SourceTable, column: str) -> tuple[pa.Array, pa.ChunkedArray, RowIds]:
    """The (m,) ids of a label table that has an id key, all (n,) labels, and of each id (m,) the place of the one that counts:
    the latest by the table's time, else the last one registered."""
    key = table.id or ""
    columns = list(dict.fromkeys([key, column, *([table.time] if table.time else [])]))
    rows = table.dataset().to_table(columns=columns, filter=table.filter())
    if table.time:
        when = pc.fill_null(rows.column(table.time).cast(pa.int64()), np.iinfo(np.int64).min)
        rows = rows.take(np.argsort(when.to_numpy(), kind="stable"))
    rows = rows.filter(pc.is_valid(rows.column(key)))
    ids: Any = rows.column(key).combine_chunks().dictionary_encode()
    last = np.zeros(len(ids.dictionary), dtype=np.int64)
    np.maximum.at(last, ids.indices.to_numpy(), np.arange(len(ids)))
    return ids.dictionary, rows.column(column), last


class LabelledRows:
    """The labels of one collection, by one place they stand in. Safe to call from many threads.

    `classes` only ever grows: a class keeps its place when its last row is gone, so that who holds scores can name them.
    """

    def __init__(
        self, catalog: Catalog, table: CollectionTable, fingerprint: str, labels: str, classes: Sequence[str] = ()
    ) -> None:
        """
        Raises:
            InvalidArguments, TableNotFound, ColumnNotFound: there is no such place, or it holds no labels.
        """
        self.labels = labels
        self._catalog = catalog
        self._collection = table
        self._fingerprint = fingerprint
        self._call = f"classify in '{table.name}'"
        self._lock = threading.Lock()
        self._classes = list(classes)
        self._rows: _Rows | None = None
        self._known: _Table | None = None
        self._found: Labelled | None = None
        self._source, dot, self._column = labels.rpartition(".")
        if dot:
            self._check_table(open_table(catalog, self._source))
        else:
            self._check_column()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def at(self, version: int) -> Labelled:
        """The labelled rows at that version of the collection, or a later one, and the newest one of the label table."""
        newest = self._newest_labels()
        found = self._found
        if found is not None and found.version == version and found.labels_version == newest:
            return found
        with self._lock:
            found = self._found
            if found is None or found.version != version or found.labels_version != newest:
                found = self._found = self._look(version)
        return found

    def _look(self, version: int) -> Labelled:
        if self._source and (self._known is None or self._known.version != self._newest_labels()):
            self._known, self._rows = self._read_table(), None
        self._rows = rows = self._follow(self._rows or _Rows(0, np.empty(0, np.int64), np.empty(0, np.int64)))
        row_ids = self._collection.with_vector(self._fingerprint, rows.row_ids[rows.codes != NONE])
        codes = rows.codes[np.searchsorted(rows.row_ids, row_ids)]
        counts = np.bincount(codes, minlength=len(self._classes)).astype(np.int64)
        return Labelled(version, self._known.version if self._known else None, row_ids, codes, counts)

    def _follow(self, known: _Rows) -> _Rows:
        """The rows that are there, with their labels: those known before that still are, and those added since."""
        pinned = self._collection.pin(self._fingerprint)
        if pinned.version == known.version:
            return known
        column = "id" if self._source else self._column
        late = f"{ADDED} > {known.version}"
        read = pinned.dataset.scanner(columns=[column], filter=late, with_row_id=True).to_table()
        both = np.concatenate([known.row_ids, read.column("_rowid").to_numpy().astype(np.int64)])
        row_ids, first = np.unique(both, return_index=True)
        codes = np.concatenate([known.codes, self._codes_of(read.column(column))])[first]
        if len(row_ids) != pinned.live:  # some are gone
            there = np.isin(row_ids, pinned.row_ids(), assume_unique=True)
            row_ids, codes = row_ids[there], codes[there]
        return _Rows(pinned.version, row_ids, codes)

    def _codes_of(self, column: pa.ChunkedArray) -> Codes:
        """Of rows' ids, where a table has the labels; else of the labels themselves."""
        if self._known is None:
            return self._coded(column)
        at = pc.index_in(column, value_set=self._known.ids).combine_chunks()
        places = pc.fill_null(at, 0).to_numpy(zero_copy_only=False)
        codes = self._known.codes[places] if len(self._known.codes) else np.full(len(places), NONE, np.int64)
        return np.where(pc.is_valid(at).to_numpy(zero_copy_only=False), codes, NONE)

    def _coded(self, labels: pa.ChunkedArray) -> Codes:
        """The labels as places among the classes; new ones are appended, in the order of the alphabet."""
        words = labels.cast(pa.string()).combine_chunks()
        seen = set(self._classes)
        self._classes += sorted(word for word in pc.unique(words).to_pylist() if word is not None and word not in seen)
        found = pc.index_in(words, value_set=pa.array(self._classes, pa.string()), skip_nulls=True)
        codes: Codes = pc.fill_null(found, NONE).to_numpy(zero_copy_only=False).astype(np.int64)
        return codes

    def _read_table(self) -> _Table:
        table = open_table(self._catalog, self._source)
        self._check_table(table)
        ids, labels, last = labels_of_ids(table, self._column)
        return _Table(table.version, ids, self._coded(labels)[last])

    def _newest_labels(self) -> int | None:
        return numbers(self._catalog.layout.aliases(KIND, self._source))[-1] if self._source else None

    def _check_table(self, table: SourceTable) -> None:
        where = f"table '{table.name}'"
        if self._column not in table.columns:
            raise ColumnNotFound(name=self._column, where=where, existing=list(table.columns))
        if table.id is None:
            problem = f"{where} has no id key, by which its labels would join rows: register it with id="
            raise InvalidArguments(call=self._call, problems=[problem])
        self._check_type(where, table.dataset().schema.field(self._column).type)

    def _check_column(self) -> None:
        columns = list(self._collection.columns)
        where = f"collection '{self._collection.name}'"
        if self._column not in columns:
            raise ColumnNotFound(name=self._column, where=where, existing=columns)
        self._check_type(where, self._collection.schema.field(self._column).type)

    def _check_type(self, where: str, kind: pa.DataType) -> None:
        if not is_class(kind):
            problem = f"column '{self._column}' of {where} is {kind}, expected labels: text, integers or booleans"
            raise InvalidArguments(call=self._call, problems=[problem])
