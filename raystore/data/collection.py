"""A collection as one Lance table: a row per event, one vector column per encoder fingerprint.

Rows are added by `KeyedTable.commit`; this file reads them. Its columns stand in columns.py. Knows nothing of encoders,
files or jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.columns import (
    KEEPS_SOURCE,
    SYSTEM,
    TYPES,
    check_columns,
    collection_schema,
    fingerprints_of,
    is_hidden,
    stamps_of,
    vector_field,
    vector_matrix,
)
from raystore.data.journaled import JournaledTable
from raystore.data.keyed import ADDED, Filled, KeyedTable, quoted
from raystore.data.pinned import Pinned
from raystore.data.where import parse_where
from raystore.errors import (
    AlreadyExists,
    CollectionNotFound,
    ColumnNotFound,
    InvalidArguments,
    ItemNotFound,
    PassportMismatch,
    SqlRefused,
)
from raystore.layout import Layout, check_name, filled_column, names, staging, vector_column
from raystore.vectors import Matrix, Vectors, mark

# Beyond this many ids, one scan of the vectors beats looking the ids up (1,000 random rows cost 15 ms).
_SCAN_FROM_IDS = 20_000
_READ_AHEAD = (
    32 * 2**20
)  # bytes of a scan that Lance reads before they are asked for; its default of 2 GiB is the whole table
_LISTED_ROWS = 1_000  # row ids that a filter names one by one


@dataclass(frozen=True)
class VectorBatch:
    """Some rows of a scan: n ids, n Lance row ids (stable), (n, d) float32 vectors, and the asked columns."""

    ids: pa.Array
    row_ids: npt.NDArray[np.int64]
    vectors: Matrix
    table: pa.Table


class CollectionTable:
    """Read one collection; every call reads its newest version."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout = layout
        self.name = name
        self.rows = JournaledTable(layout.rows(name), layout.collection_fence(name), "id", layout.journal(name))

    @classmethod
    def open(cls, layout: Layout, name: str) -> CollectionTable:
        table = cls(layout, name)
        if not table.rows.exists():
            raise CollectionNotFound(name=name, where=f"store '{layout.root}'", existing=collection_names(layout))
        return table

    @classmethod
    def create(
        cls,
        layout: Layout,
        name: str,
        dims: Mapping[str, int],
        columns: Mapping[str, str] | None = None,
        *,
        keep_source: bool = False,
    ) -> CollectionTable:
        """The new, empty collection. `dims` gives the dimension of each encoder, by full fingerprint; without any it holds
        rows without vectors, such as predictions.

        With `keep_source` its raw content is kept beside it (`kept_source.py`), which no later call can change.

        Raises:
            InvalidName, InvalidArguments: the name, or columns that cannot be.
            AlreadyExists: a collection or source table has this name.
        """
        check_name("a collection", name)
        declared = check_columns(columns or {}, f"create_collection('{name}')")
        schema = collection_schema(dims, declared, keep_source=keep_source)
        taken = AlreadyExists(noun="collection", name=name, advice=f"Open it: store.collection('{name}').")
        if layout.table(name).exists():
            raise AlreadyExists(noun="table", name=name, advice="Collections and tables share one SQL namespace.")
        if layout.rows(name).exists():
            raise taken
        try:
            KeyedTable.create(layout.rows(name), layout.tmp, schema, "id")
        except FileExistsError:
            raise taken from None
        return cls(layout, name)

    @property
    def version(self) -> int:
        return self.rows.version

    @property
    def schema(self) -> pa.Schema:
        schema: pa.Schema = self.rows.dataset().schema
        return schema

    @property
    def keeps_source(self) -> bool:
        """Whether whoever made the collection chose to keep its raw content."""
        return KEEPS_SOURCE in (self.schema.metadata or {})

    @property
    def fingerprints(self) -> list[str]:
        """The encoders whose vectors the collection holds, oldest column first."""
        return fingerprints_of(self.schema)

    @property
    def columns(self) -> dict[str, str]:
        """The declared columns and their types."""
        named = {kind: name for name, kind in TYPES.items()}
        shown = [f for f in self.schema if f.name not in SYSTEM and not is_hidden(f.name)]
        return {f.name: named[f.type] for f in shown if f.type in named}

    @property
    def visible(self) -> list[str]:
        """The columns SQL and predicates see."""
        return [*SYSTEM, *self.columns]

    def dim(self, fingerprint: str) -> int:
        self.check_encoder(fingerprint)
        return int(self.schema.field(vector_column(fingerprint)).type.list_size)

    def check_encoder(self, fingerprint: str, label: str | None = None) -> None:
        """Raise PassportMismatch unless the collection holds this encoder's vectors."""
        mine = self.fingerprints
        if fingerprint not in mine:
            raise PassportMismatch(
                asker=f"collection '{self.name}'",
                expected=" or ".join(mine) or "no encoder",
                found=label or fingerprint,
                advice="Encode with the collection's encoder, or use a collection made for this one.",
            )

    def add_encoder(self, fingerprint: str, dim: int) -> bool:
        """Make a vector column for this encoder, null in every row; False where there is one already.

        Raises:
            InvalidArguments: another encoder's column has the same first 12 digits.
        """
        if fingerprint in self.fingerprints:
            return False
        self.rows.add_columns([vector_field(fingerprint, dim)])
        if fingerprint not in self.fingerprints:
            problem = f"the column '{vector_column(fingerprint)}' is another encoder's, whose fingerprint begins alike"
            raise InvalidArguments(call=f"add_encoder to '{self.name}'", problems=[problem])
        return True

    def fill(
        self, rows: pa.Table, fingerprint: str | Sequence[str], *, also: Mapping[str, str] = MappingProxyType({})
    ) -> Filled:
        """What became of vectors of these encoders for rows that lack one, in one commit; see `KeyedTable.fill_columns`.

        Whoever reads an earlier version goes on reading these rows without a vector. `also`: by fingerprint a column that is
        there and gets the commit's number beside the vectors written.
        """
        asked = [fingerprint] if isinstance(fingerprint, str) else fingerprint
        stamps: dict[str, str | None] = {vector_column(each): filled_column(each) for each in asked}
        there = self.schema.names
        if missing := [stamp for stamp in stamps.values() if stamp not in there]:
            self.rows.add_columns([pa.field(stamp, pa.int64()) for stamp in missing])
        return self.rows.fill_columns(rows, stamps, {vector_column(each): column for each, column in also.items()})

    def count_lacking(self, fingerprint: str) -> int:
        """How many rows have no vector of this encoder. Cost: one pass over which are null, 40 ms at 200,000 rows."""
        self.check_encoder(fingerprint)
        return int(self.rows.dataset().count_rows(f"{vector_column(fingerprint)} IS NULL"))

    def count_filled(self, fingerprints: Sequence[str], since: int) -> int:
        """How many rows that were there got a vector of one of these encoders after that version. Cost: one pass over integers."""
        dataset = self.rows.dataset()
        stamps = stamps_of(dataset.schema)
        later = [f"{stamps[c]} > {int(since)}" for c in map(vector_column, fingerprints) if c in stamps]
        return int(dataset.count_rows(" OR ".join(later))) if later else 0

    def row_ids_lacking(self, fingerprint: str) -> npt.NDArray[np.int64]:
        """The Lance row ids of the rows that have no vector of this encoder, sorted. Cost: as `count_lacking`."""
        self.check_encoder(fingerprint)
        condition = f"{vector_column(fingerprint)} IS NULL"
        rows = self.rows.dataset().scanner(columns=[], filter=condition, with_row_id=True).to_table()
        return np.sort(rows.column("_rowid").to_numpy().astype(np.int64))

    def count(self, where: str | None = None, as_of: int | None = None) -> int:
        return int(self.rows.dataset().count_rows(self._filter(where, as_of)))

    def to_arrow(
        self, columns: Sequence[str] | None = None, where: str | None = None, as_of: int | None = None
    ) -> pa.Table:
        """The rows, in the order they were added; vectors only where their column is named."""
        wanted = list(columns) if columns is not None else self.visible
        self._check_readable(wanted)
        dataset = self.rows.dataset()
        stamps = {} if as_of is None else {c: s for c, s in stamps_of(dataset.schema).items() if c in wanted}
        read = [*wanted, *stamps.values()]
        rows = dataset.to_table(columns=read, filter=self._filter(where, as_of), with_row_id=True)
        for column, stamp in stamps.items():
            number, field = rows.schema.get_field_index(column), rows.schema.field(column)
            late = pc.fill_null(pc.greater(rows.column(stamp), as_of), False)
            rows = rows.set_column(number, field, pc.if_else(late, pa.scalar(None, field.type), rows.column(column)))
        numbers = rows.column("_rowid").to_numpy()
        if (numbers[1:] < numbers[:-1]).any():  # merged fragments stand behind later ones
            rows = rows.take(np.argsort(numbers))
        table: pa.Table = rows.select(wanted)
        return table

    def scan(
        self,
        fingerprint: str,
        *,
        columns: Sequence[str] = ("id",),
        where: str | None = None,
        as_of: int | None = None,
        since: int | None = None,
        row_ids: tuple[int, int] | None = None,
        batch_rows: int = 8_192,
    ) -> Iterator[VectorBatch]:
        """The vectors of one encoder with the asked columns, a batch at a time; rows without a vector are left out.

        Args:
            as_of: only rows that were there at this version, with their vector.
            since: only rows that were added, or got their vector, after this version.
            row_ids: only rows whose row id r has lo <= r < hi.

        Order is the order of the fragments, stable for one version. Cost: one streaming read; one batch in memory.
        """
        self.check_encoder(fingerprint)
        column = vector_column(fingerprint)
        wanted = [c for c in dict.fromkeys(["id", *columns]) if c != column]
        self._check_readable(wanted)
        dataset = self.rows.dataset()
        clauses = [self._filter(where, as_of)]
        stamp = stamps_of(dataset.schema).get(column)
        if as_of is not None and stamp is not None:
            clauses.append(f"{stamp} IS NULL OR {stamp} <= {int(as_of)}")
        if since is not None:
            clauses.append(f"{ADDED} > {int(since)}" + (f" OR {stamp} > {int(since)}" if stamp is not None else ""))
        if row_ids is not None:
            clauses.append(f"_rowid >= {row_ids[0]} AND _rowid < {row_ids[1]}")
        scanner = dataset.scanner(
            columns=[*wanted, column],
            filter=" AND ".join(f"({c})" for c in clauses if c) or None,
            with_row_id=True,
            batch_size=batch_rows,
            batch_readahead=4,
            io_buffer_size=_READ_AHEAD,
            scan_in_order=True,
        )
        for batch in scanner.to_batches():
            rows = batch.filter(batch.column(column).is_valid()) if batch.column(column).null_count else batch
            if len(rows):
                yield VectorBatch(
                    ids=rows.column("id"),
                    row_ids=rows.column("_rowid").to_numpy().astype(np.int64),
                    vectors=vector_matrix(rows.column(column)),
                    table=pa.Table.from_batches([rows.select(wanted)]),
                )

    def pin(self, fingerprint: str) -> Pinned:
        """The newest version, held still, for the vectors of one encoder."""
        self.check_encoder(fingerprint)
        return Pinned(self.rows.dataset(), fingerprint)

    def vectors_at(
        self, fingerprint: str, row_ids: Sequence[int] | npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """(n,) which of the (different) row ids have a vector of this encoder, and the (m, d) float32 vectors of those, in
        the order of `row_ids`. Cost: 2 ms for a few, 20 ms for 1,000."""
        wanted = np.asarray(row_ids, dtype=np.int64)
        found = np.zeros(len(wanted), dtype=np.bool_)
        out = np.empty((len(wanted), self.dim(fingerprint)), dtype=np.float32)
        column, dataset = vector_column(fingerprint), self.rows.dataset()
        order = np.argsort(wanted)
        for start in range(0, len(wanted), 2_000):
            part = order[start : start + 2_000]
            listed = ", ".join(map(str, wanted[part].tolist()))
            condition = f"_rowid IN ({listed}) AND {column} IS NOT NULL"
            rows = dataset.scanner(columns=[column], filter=condition, with_row_id=True).to_table()
            if len(rows):
                at = part[np.searchsorted(wanted[part], rows.column("_rowid").to_numpy().astype(np.int64))]
                out[at], found[at] = vector_matrix(rows.column(column).combine_chunks()), True
        return found, mark(out[found], fingerprint)

    def vectors_of(self, ids: Sequence[str], fingerprint: str) -> Vectors:
        """(n, d) float32 vectors in the order of `ids`.

        Raises:
            ItemNotFound: an id is not in the collection, or has no vector of this encoder; the first one is named.
        """
        vectors, missing = self._gather(ids, fingerprint)
        if missing:
            raise self._no_vector(next(iter(missing)))
        return vectors

    def vectors_present(self, ids: Sequence[str], fingerprint: str) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """(n,) which of the ids the collection has, and the (m, d) float32 vectors of those, in the order of `ids`.

        Raises:
            ItemNotFound: a row that is there has no vector of this encoder.
        """
        found, vectors = self.vectors_found(ids, fingerprint)
        missing = [ids[i] for i in np.flatnonzero(~found).tolist()]
        there = self.has_ids(missing)
        if there.any():
            raise self._no_vector(missing[int(there.argmax())])
        return found, vectors

    def vectors_found(self, ids: Sequence[str], fingerprint: str) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """(n,) which of the ids the collection has with a vector of this encoder, and the (m, d) float32 vectors of those, in
        the order of `ids`."""
        vectors, missing = self._gather(ids, fingerprint)
        found = np.ones(len(ids), dtype=np.bool_)
        found[[place for places in missing.values() for place in places]] = False
        return found, vectors if found.all() else mark(vectors[found], fingerprint)

    def has_ids(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(n,) which of the ids the collection has. Cost: the index on the ids for a few, one pass over the ids for many."""
        dataset = self.rows.dataset()
        wanted = pa.array(ids, pa.string())
        if len(ids) >= _SCAN_FROM_IDS:
            tables = [dataset.to_table(columns=["id"])]
        else:
            parts = (ids[start : start + 2_000] for start in range(0, len(ids), 2_000))
            tables = [dataset.to_table(columns=["id"], filter=f"id IN ({', '.join(map(quoted, part))})") for part in parts]
        found = pa.chunked_array([c for t in tables for c in t.column("id").chunks], pa.string())
        mask: npt.NDArray[np.bool_] = pc.is_in(wanted, value_set=found).to_numpy(zero_copy_only=False).astype(np.bool_)
        return mask

    def _no_vector(self, id_: str) -> ItemNotFound:
        return ItemNotFound(name=id_, where=f"collection '{self.name}' with a vector of this encoder")

    def _gather(self, ids: Sequence[str], fingerprint: str) -> tuple[Vectors, dict[str, list[int]]]:
        """(n, d) vectors in the order of `ids`, and the places of those that have none; their rows hold nothing."""
        dim = self.dim(fingerprint)
        out = np.empty((len(ids), dim), dtype=np.float32)
        places: dict[str, list[int]] = {}
        for i, id_ in enumerate(ids):
            places.setdefault(id_, []).append(i)
        if len(places) >= _SCAN_FROM_IDS:
            batches = self.scan(fingerprint)
        else:
            unique = list(places)
            batches = (
                batch
                for start in range(0, len(unique), 2_000)
                for batch in self._scan_ids(fingerprint, unique[start : start + 2_000])
            )
        missing = dict(places)
        for batch in batches:
            for row, id_ in enumerate(batch.ids.to_pylist()):
                for place in missing.pop(id_, ()):
                    out[place] = batch.vectors[row]
        return mark(out, fingerprint), missing

    def _scan_ids(self, fingerprint: str, ids: Sequence[str]) -> Iterator[VectorBatch]:
        column = vector_column(fingerprint)
        dataset = self.rows.dataset()
        rows = dataset.to_table(columns=["id", column], filter=f"id IN ({', '.join(map(quoted, ids))})")
        rows = rows.filter(rows.column(column).combine_chunks().is_valid())
        if len(rows):
            vectors = vector_matrix(rows.column(column).combine_chunks())
            yield VectorBatch(rows.column("id").combine_chunks(), np.empty(0, np.int64), vectors, rows)

    def row_ids(self, where: str | None = None, as_of: int | None = None) -> npt.NDArray[np.int64]:
        """The Lance row ids of the rows a predicate selects, sorted."""
        rows = self.rows.dataset().scanner(columns=[], filter=self._filter(where, as_of), with_row_id=True).to_table()
        return np.sort(rows.column("_rowid").to_numpy().astype(np.int64))

    def with_vector(self, fingerprint: str, row_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of the ascending row ids whose row has a vector of this encoder.

        Cost: 2 ms for a few; for many one pass over which are null, 60 ms at 200,000 rows of 384 numbers. Nothing where the
        collection has one encoder, since then every row has its vector.
        """
        dataset = self.rows.dataset()
        if len(row_ids) == 0 or len(fingerprints_of(dataset.schema)) == 1:
            return row_ids
        chosen = f"_rowid >= {row_ids[0]} AND _rowid <= {row_ids[-1]}"
        if len(row_ids) <= _LISTED_ROWS:
            chosen = f"_rowid IN ({', '.join(str(int(r)) for r in row_ids)})"
        condition = f"{chosen} AND {vector_column(fingerprint)} IS NOT NULL"
        found = dataset.scanner(columns=[], filter=condition, with_row_id=True).to_table().column("_rowid").to_numpy()
        return np.intersect1d(row_ids, found.astype(np.int64), assume_unique=True)

    def rows_by_row_id(self, row_ids: Sequence[int] | npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The asked columns and `_rowid` of those rows that are still there, in no stated order."""
        self._check_readable(columns)
        if len(row_ids) == 0:
            return (
                self.rows.dataset()
                .schema.empty_table()
                .select(list(columns))
                .append_column("_rowid", pa.array([], pa.int64()))
            )
        listed = ", ".join(str(int(r)) for r in row_ids)
        rows = (
            self.rows.dataset().scanner(columns=list(columns), filter=f"_rowid IN ({listed})", with_row_id=True).to_table()
        )
        return rows.set_column(rows.schema.get_field_index("_rowid"), "_rowid", rows.column("_rowid").cast(pa.int64()))

    def _filter(self, where: str | None, as_of: int | None) -> str | None:
        clauses = []
        if where:
            clauses.append(f"({parse_where(where, self.visible)})")
            try:  # planning finds operands whose types do not meet; running it would find them row by row
                self.rows.dataset().scanner(columns=["id"], filter=clauses[0]).explain_plan()
            except (OSError, ValueError):
                raise SqlRefused(
                    reason="the where= predicate compares what cannot be compared",
                    advice=f"The columns and their types: {self._described()}.",
                ) from None
        if as_of is not None:
            clauses.append(f"{ADDED} <= {int(as_of)}")
        return " AND ".join(clauses) or None

    def _described(self) -> str:
        return ", ".join(f"{f.name} {f.type}" for f in self.schema if f.name in self.visible)

    def _check_readable(self, columns: Sequence[str]) -> None:
        known = self.schema.names
        for column in columns:
            if column not in known or is_hidden(column):
                raise ColumnNotFound(name=column, where=f"collection '{self.name}'", existing=self.visible)


def discard_empty(layout: Layout, name: str) -> None:
    """Take away the collection, if it has no row: one that was made for a job which then could not begin."""
    table = CollectionTable.open(layout, name)
    table.rows.take_in()
    if table.count() == 0:
        with staging(layout.tmp) as stage:
            layout.collection(name).rename(stage / name)


def collection_names(layout: Layout) -> list[str]:
    return [name for name in names(layout.collections) if layout.rows(name).exists()]
