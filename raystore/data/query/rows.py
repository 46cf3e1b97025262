"""The rows of one place of a query as DuckDB reads them: Lance's columns, with values of raystore's own beside them by position.

DuckDB asks a dataset for columns and a filter. What it may ask is pushed into Lance; a score, which raystore computed, or a
label, which it computes when the row is asked for, is laid beside by the row's position, so no join on ids is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pds

from raystore.data.keyed import ADDED
from raystore.data.query.row_table import Positions, RowTable

_BATCH_ROWS = 65_536
# Lance would read 2 GB ahead; with this a scan of wide rows stays under 300 MB, and is no slower.
_SCAN = {"batch_size": 8_192, "io_buffer_size": 64 << 20}


class Values(Protocol):
    """A value for each row of a collection."""

    @property
    def type(self) -> pa.DataType: ...
    def at(self, positions: Positions) -> pa.Array: ...


@dataclass(frozen=True)
class ScoreValues:
    """(n,) float32 by position; NaN is null."""

    scores: npt.NDArray[np.float32]

    @property
    def type(self) -> pa.DataType:
        return pa.float32()

    def at(self, positions: Positions) -> pa.Array:
        return pa.array(self.scores[positions], self.type, from_pandas=True)


@dataclass(frozen=True)
class NoValues:
    """Null everywhere: where a query is explained and nothing is computed."""

    type: pa.DataType

    def at(self, positions: Positions) -> pa.Array:
        return pa.nulls(len(positions), self.type)


@dataclass(frozen=True)
class Moment:
    """As of when a collection is read: a commit's number, and a time that rows must not be later than."""

    version: int | None
    time: datetime | None

    @property
    def columns(self) -> list[str]:
        return [c for c, asked in ((ADDED, self.version), ("time", self.time)) if asked is not None]

    def conditions(self) -> list[str]:
        """What selects its rows, in DuckDB's SQL."""
        found = [] if self.version is None else [f"{ADDED} <= {int(self.version)}"]
        return found + ([] if self.time is None else [f"time <= TIMESTAMPTZ '{self.time.isoformat(sep=' ')}'"])

    def mask(self, rows: RowTable) -> npt.NDArray[np.bool_] | None:
        """(n,) which rows were there, by position; None where all were."""
        mask = None if self.version is None else rows.added <= self.version
        if self.time is not None:
            times = rows.columns(["time"]).column("time")
            early = np.asarray(pa.compute.fill_null(pa.compute.less_equal(times, pa.scalar(self.time, times.type)), False))
            mask = early if mask is None else mask & early
        return mask


class PlaceRows(pds.Dataset):  # type: ignore[misc]
    """What DuckDB scans, under a name that no query can guess.

    Args:
        columns: Lance's columns that may be asked for.
        values: further columns by name, which are no column of the Lance table.
        positions: only these rows, in this order.
        resident: the columns from memory, by position, instead of from the disk.
        beside: further columns of the rows at `positions`, in their order.
    """

    def __init__(
        self,
        dataset: lance.LanceDataset,
        columns: Sequence[str],
        *,
        rows: Callable[[], RowTable] | None = None,
        values: dict[str, Values] | None = None,
        positions: Positions | None = None,
        resident: pa.Table | None = None,
        beside: pa.Table | None = None,
    ) -> None:
        self._dataset, self._columns, self._read_rows, self._values = dataset, list(columns), rows, values or {}
        self._positions, self._resident, self._beside = positions, resident, beside
        stored = dataset.schema if resident is None else resident.schema
        fields = [stored.field(c) for c in columns] + [pa.field(c, v.type) for c, v in self._values.items()]
        self._schema = pa.schema([*fields, *(beside.schema if beside is not None else [])])

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def scanner(self, columns: Sequence[str] | None = None, filter: pds.Expression | None = None, **_: Any) -> Any:
        names = list(columns) if columns is not None else self._schema.names
        schema = pa.schema([self._schema.field(c) for c in names])
        if self._positions is not None:
            return _Scan(schema, lambda: self._chosen(names, filter))
        if self._resident is not None:
            if not self._needs_values(names, filter) and not self._compares_dictionaries(self._resident, filter):
                return pds.dataset(self._resident).scanner(columns=names, filter=filter, batch_size=_BATCH_ROWS)
            return _Scan(schema, lambda: self._from_memory(names, filter))
        if not self._needs_values(names, filter):
            return self._dataset.scanner(columns=names, filter=filter, **_SCAN)
        return _Scan(schema, lambda: self._from_disk(names, filter))

    def _rows(self) -> RowTable:
        assert self._read_rows is not None
        return self._read_rows()

    def _chosen(self, names: list[str], filter: pds.Expression | None) -> Iterator[pa.RecordBatch]:
        positions = self._positions
        assert positions is not None
        table = self._rows().take(positions, self._columns)
        for name, values in self._values.items():
            table = table.append_column(name, values.at(positions))
        for name in self._beside.column_names if self._beside is not None else ():
            table = table.append_column(name, self._beside.column(name))  # type: ignore[union-attr]
        yield from (table if filter is None else table.filter(filter)).select(names).to_batches(_BATCH_ROWS)

    def _from_memory(self, names: list[str], filter: pds.Expression | None) -> Iterator[pa.RecordBatch]:
        resident = self._resident
        assert resident is not None
        late = self._named(filter, self._values)
        mask = None if filter is None or late else _mask(resident, filter)
        stored = resident.select(self._stored({*names, *(self._named(filter, self._columns) if late else ())}))
        for start in range(0, len(resident), _BATCH_ROWS):
            positions = np.arange(start, min(start + _BATCH_ROWS, len(resident)))
            part = stored.slice(start, _BATCH_ROWS)
            if mask is not None:
                kept = mask[start : start + _BATCH_ROWS]
                positions, part = positions[kept], part.filter(pa.array(kept))
            if len(positions):
                yield from self._with_values(part, positions, names, filter if late else None)

    def _from_disk(self, names: list[str], filter: pds.Expression | None) -> Iterator[pa.RecordBatch]:
        late = self._named(filter, self._values)
        stored = self._stored({*names, *(self._named(filter, self._columns) if late else ())})
        scanner = self._dataset.scanner(columns=stored, filter=None if late else filter, with_row_id=True, **_SCAN)
        for batch in scanner.to_batches():
            positions = self._rows().positions_of(batch.column("_rowid").to_numpy().astype(np.int64))
            part = pa.Table.from_batches([batch.select(stored)])
            yield from self._with_values(part, positions, names, filter if late else None)

    def _with_values(
        self, part: pa.Table, positions: Positions, names: list[str], filter: pds.Expression | None
    ) -> Iterator[pa.RecordBatch]:
        for name in self._values if filter is not None else [c for c in names if c in self._values]:
            part = part.append_column(name, self._values[name].at(positions))
        part = part if filter is None else part.filter(pa.array(_mask(part, filter)))
        yield from part.select(names).to_batches()

    def _needs_values(self, names: Sequence[str], filter: pds.Expression | None) -> bool:
        return any(c in self._values for c in names) or bool(self._named(filter, self._values))

    def _compares_dictionaries(self, resident: pa.Table, filter: pds.Expression | None) -> bool:
        """Arrow looks for text among text, not among the numbers of a dictionary."""
        return any(pa.types.is_dictionary(resident.schema.field(c).type) for c in self._named(filter, self._columns))

    def _stored(self, needed: set[str]) -> list[str]:
        """The stored columns among them; at least one, since a table without columns has no rows."""
        return [c for c in self._columns if c in needed] or self._columns[:1]

    @staticmethod
    def _named(filter: pds.Expression | None, columns: Sequence[str] | dict[str, Values]) -> list[str]:
        """Those of the columns that the filter may speak of."""
        text = "" if filter is None else str(filter)
        return [c for c in columns if re.search(rf"\b{re.escape(c)}\b", text)]


@dataclass(frozen=True)
class _Scan:
    """What DuckDB expects of a scanner."""

    projected_schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.projected_schema, self.batches())


def _decoded(table: pa.Table) -> pa.Table:
    """Without dictionaries: a filter compares text with text."""
    fields = [pa.field(f.name, f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


def _mask(resident: pa.Table, filter: pds.Expression) -> npt.NDArray[np.bool_]:
    """(n,) which rows the filter lets through."""
    text = str(filter)
    named = [c for c in resident.column_names if re.search(rf"\b{re.escape(c)}\b", text)]
    found = pds.dataset(_decoded(resident.select(named))).scanner(columns={"kept": filter}).to_table().column("kept")
    mask: npt.NDArray[np.bool_] = np.asarray(pa.compute.fill_null(found, False))
    return mask
