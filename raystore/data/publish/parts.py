"""What goes into the files of a publication: a collection's rows, a table's rows for them, a head's predictions of them.

A part gives its rows for any range of commits, some thousand at a time. Knows no file system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.collection import CollectionTable
from raystore.data.columns import stamps_of
from raystore.data.keyed import ADDED
from raystore.data.snapshots.export import VECTOR, VECTOR_TYPE
from raystore.data.tables.table import SourceTable
from raystore.errors import InvalidArguments
from raystore.layout import vector_column

_BATCH = 8_192
_UTC = pa.timestamp("us", "UTC")


class Part(Protocol):
    """One folder of a publication.

    `key` is JSON: files made with another key are written again. `encoder` is the fingerprint whose vectors the rows depend on.
    """

    @property
    def folder(self) -> str: ...
    @property
    def key(self) -> dict[str, Any]: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def encoder(self) -> str | None: ...
    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.Table]]:
        """Tables of the commits (first, last], and how many of the collection's rows each covers."""


@dataclass(frozen=True)
class Predictions:
    """What a head says of rows: `head` names its version ("refunds@2"), `of` maps ids to a flat table with a column `id`.

    Ids that `of` leaves out (no vector of the head's encoder) have no row. When `head` changes, all rows are predicted anew.
    """

    head: str
    fingerprint: str
    of: Callable[[Sequence[str]], pa.Table]


def plain(schema: pa.Schema) -> pa.Schema:
    """The columns in types that warehouses share: UTC microseconds, plain strings, no dictionaries, no half floats."""
    return pa.schema([pa.field(f.name, _plain_type(f.type)) for f in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return _UTC
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return kind


@dataclass(frozen=True)
class RowsPart:
    """The collection's columns, and the vectors of one encoder where `encoder` is given."""

    table: CollectionTable
    columns: tuple[str, ...]
    encoder: str | None

    folder = "rows"

    @cached_property
    def schema(self) -> pa.Schema:
        own = self.table.schema
        fields = [own.field(name) for name in self.columns]
        schema = plain(pa.schema([pa.field(f.name, f.type) for f in fields]))
        return schema if self.encoder is None else schema.append(pa.field(VECTOR, VECTOR_TYPE))

    @property
    def key(self) -> dict[str, Any]:
        return {"columns": [[f.name, str(f.type)] for f in self.schema], "encoder": self.encoder}

    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.Table]]:
        vectors = [vector_column(self.encoder)] if self.encoder is not None else []
        for rows in scan_commits(self.table, first, last, [*self.columns, *vectors]):
            named = rows.rename_columns([*self.columns, VECTOR]) if vectors else rows
            if vectors:
                lists = named.column(VECTOR).cast(VECTOR_TYPE)
                named = named.set_column(len(self.columns), VECTOR, lists)
            yield len(rows), named


@dataclass(frozen=True)
class LabelsPart:
    """The rows of a source table that name a row of the collection, as they were registered."""

    table: CollectionTable
    source: SourceTable
    name: str

    encoder = None

    @property
    def folder(self) -> str:
        return f"labels/{self.name}"

    @property
    def key(self) -> dict[str, Any]:
        return {"table": self.source.name, "version": self.source.version, "id": self.source.id}

    @cached_property
    def _rows(self) -> pa.Table:
        return self.source.to_arrow()

    @cached_property
    def schema(self) -> pa.Schema:
        return plain(self._rows.schema)

    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.Table]]:
        ids = [rows.column("id").combine_chunks() for rows in scan_commits(self.table, first, last, ["id"])]
        whole = pa.chunked_array(ids, pa.string())
        yield len(whole), self._rows.filter(pc.is_in(self._rows.column(self.source.id), value_set=whole.combine_chunks()))


@dataclass(frozen=True)
class PredictionsPart:
    """What one head says of the collection's rows."""

    table: CollectionTable
    predictions: Predictions
    name: str

    @property
    def folder(self) -> str:
        return f"predictions/{self.name}"

    @property
    def encoder(self) -> str:
        return self.predictions.fingerprint

    @property
    def key(self) -> dict[str, Any]:
        return {"head": self.predictions.head, "columns": [[f.name, str(f.type)] for f in self.schema]}

    @cached_property
    def schema(self) -> pa.Schema:
        return plain(self._asked([]).schema)

    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.Table]]:
        for rows in scan_commits(self.table, first, last, ["id"]):
            ids = rows.column("id").to_pylist()
            yield len(ids), self._asked(ids)

    def _asked(self, ids: list[str]) -> pa.Table:
        found = self.predictions.of(ids)
        problems = []
        if not isinstance(found, pa.Table) or "id" not in found.column_names:
            problems.append(
                f"{self.predictions.head} gave {type(found).__name__}, expected an Arrow table with a column 'id'"
            )
        else:
            given = found.column("id").to_pylist()
            if len(set(given)) != len(given) or not set(given) <= set(ids):
                problems.append(f"{self.predictions.head} predicted ids that it was not asked for, or one twice")
            if pa.types.is_null(found.schema.field("id").type):
                found = found.set_column(found.schema.get_field_index("id"), "id", pa.array([], pa.string()))
        if problems:
            raise InvalidArguments(call=f"publish '{self.table.name}'", problems=problems)
        return found


@dataclass(frozen=True)
class WhatIsLeft:
    """A folder that nobody here can make anew: its files, without the rows that are gone from the collection."""

    table: CollectionTable
    folder: str
    key: dict[str, Any]
    id: str
    schema: pa.Schema
    standing: Callable[[int, int], Iterator[pa.Table] | None]

    encoder = None

    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.Table]]:
        ids = [rows.column("id").combine_chunks() for rows in scan_commits(self.table, first, last, ["id"])]
        known = pa.chunked_array(ids, pa.string()).combine_chunks()
        found = self.standing(first, last)
        # Somebody took a file away: a count that no commits have makes whoever can make it anew do so.
        yield (len(known) if found is not None else -1), self.schema.empty_table()
        for rows in found or ():
            yield 0, rows.filter(pc.is_in(rows.column(self.id), value_set=known))


def scan_commits(table: CollectionTable, first: int, last: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The columns of the rows of the commits (first, last], some thousand at a time."""
    condition = f"{ADDED} > {int(first)} AND {ADDED} <= {int(last)}"
    scanner = table.rows.dataset().scanner(columns=list(columns), filter=condition, batch_size=_BATCH, scan_in_order=True)
    for batch in scanner.to_batches():
        if len(batch):
            yield pa.Table.from_batches([batch]).select(list(columns))


def filled_since(table: CollectionTable, fingerprint: str | None, version: int) -> list[int]:
    """The commits of rows that got their vector of this encoder after the version, though they were there before."""
    dataset = table.rows.dataset()
    stamp = stamps_of(dataset.schema).get(vector_column(fingerprint)) if fingerprint is not None else None
    if stamp is None:
        return []
    rows = dataset.to_table(columns=[ADDED], filter=f"{stamp} > {int(version)}")
    return [int(number) for number in np.unique(rows.column(ADDED).to_numpy())]
