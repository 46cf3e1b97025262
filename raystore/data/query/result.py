"""What a query gives: its rows, streamed until somebody wants them whole. Knows no store."""

from __future__ import annotations

import html
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from raystore.errors import ExtraNotInstalled, InvalidArguments, SqlRefused
from raystore.markup import cells_html

_SHOWN_ROWS = 50
_COUNTED_ROWS = 1_000_000
_COUNTED_BYTES = 64 << 20
_KIND = re.compile(r"\A(?:Invalid: )?([A-Z][A-Za-z ]{2,30} Error): ")
_OF_THE_QUERY = re.compile(
    r"\A(?:Invalid: )?(?:(?:Binder|Catalog|Parser|Syntax|Permission|Out of Memory) Error: "
    r"|Invalid Input Error: (?:Values were not provided for|Parameter argument/count mismatch|More than one row returned by)"
    r"|Not implemented Error: Unable to transform python value of type)"
)
_OF_A_VALUE = re.compile(r"(?:Conversion|Out of Range|Invalid Input|Mismatch Type) Error")
_FIND = "TRY_CAST and try() make NULL of values that do not fit: WHERE TRY_CAST(...) IS NULL finds their rows."


class SqlResult:
    """A query's rows, as the store was when it began.

    The query runs when it is called, and then as far as its rows are taken: `batches()` hands them over a few at a time and keeps none.
    Whatever needs all rows (`to_arrow`, `to_pandas`, `to_dicts`, `len`, iteration) takes them into memory once, and can be
    repeated. Rows that `batches()` has handed over are gone: asking for them again is refused, not run again.
    """

    def __init__(self, rows: pa.Table | pa.RecordBatchReader, close: Callable[[], object] | None = None) -> None:
        self._table: pa.Table | None = rows if isinstance(rows, pa.Table) else None
        self._reader: pa.RecordBatchReader | None = None if isinstance(rows, pa.Table) else rows
        self._ahead: list[pa.RecordBatch] = []
        self._is_taken = False
        self._close = weakref.finalize(self, close) if close is not None else None
        self.schema: pa.Schema = rows.schema

    @property
    def columns(self) -> list[str]:
        names: list[str] = self.schema.names
        return names

    def batches(self, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The rows in batches of at most so many; a few batches are in memory, however many rows there are.

        Raises:
            SqlRefused: the query failed at a row.
            InvalidArguments: the rows were handed over already; `to_arrow()` first where they are wanted twice.
        """
        if rows < 1:
            raise InvalidArguments(call="batches()", problems=[f"rows={rows}, expected at least 1"])
        if self._table is not None:
            return iter(self._table.to_batches(rows))
        if self._is_taken:
            problem = "the rows were handed over already and are gone: call to_arrow() first, or run the query again"
            raise InvalidArguments(call="batches()", problems=[problem])
        self._is_taken = True
        return (batch.slice(start, rows) for batch in self._taken() for start in range(0, len(batch), rows))

    def to_arrow(self) -> pa.Table:
        """All rows in memory. The same table each time."""
        if self._table is None:
            self._table = pa.Table.from_batches(self.batches(), self.schema)
        return self._table

    def to_pandas(self) -> Any:
        """A pandas DataFrame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """A polars DataFrame. Raises ExtraNotInstalled without polars."""
        try:
            import polars
        except ImportError:
            raise ExtraNotInstalled(what="polars data frames", package="polars", extra="polars") from None
        return polars.from_arrow(self.to_arrow())

    def to_ray(self) -> Any:
        """A Ray Dataset: the rows go batch by batch to Ray's object store. Ray is started or joined for it."""
        from raystore.data.query.to_ray import to_ray

        return to_ray(self)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dict for each row."""
        rows: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return rows

    def __len__(self) -> int:
        return int(self.to_arrow().num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def __repr__(self) -> str:
        return f"<{self._counted()}: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        if self._table is None and self._is_taken:
            return f"<p>{html.escape(repr(self))}</p>"
        counted = self._counted()
        if self._table is not None:
            shown = self._table.slice(0, _SHOWN_ROWS)
        else:
            shown = pa.Table.from_batches(self._ahead, self.schema).slice(0, _SHOWN_ROWS)
        more = f", the first {len(shown)} shown" if not counted.startswith(f"{len(shown):,} row") else ""
        cells = zip(*(column.to_pylist() for column in shown.columns), strict=True)
        return cells_html(self.columns, cells, note=f"{counted}{more}")

    def _counted(self) -> str:
        """How many rows there are; a large result is looked into so far, not taken into memory whole."""
        if self._table is None and self._is_taken:
            return "rows that were handed over"
        if self._table is None and self._reader is not None:
            n, size = sum(map(len, self._ahead)), sum(batch.nbytes for batch in self._ahead)
            while n < _COUNTED_ROWS and size < _COUNTED_BYTES:
                batch = self._next()
                if batch is None:
                    self._table = pa.Table.from_batches(self._ahead, self.schema)
                    self._ahead = []
                    break
                self._ahead.append(batch)
                n, size = n + len(batch), size + batch.nbytes
            if self._table is None:
                return f"more than {n:,} rows"
        n = len(self)
        return f"{n:,} row{'' if n == 1 else 's'}"

    def _taken(self) -> Iterator[pa.RecordBatch]:
        while self._ahead:
            yield self._ahead.pop(0)
        while (batch := self._next()) is not None:
            yield batch

    def _next(self) -> pa.RecordBatch | None:
        if self._reader is None:
            return None
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            self._end()
            return None
        except (OSError, pa.ArrowException) as error:
            self._end()
            raise refused(error) from None

    def _end(self) -> None:
        self._reader = None
        if self._close is not None:
            self._close()


def refused(error: Exception, advise: Callable[[str], str] | None = None) -> SqlRefused:
    """What DuckDB says where it speaks of the query; elsewhere it may quote a row, so only its kind is said, and what to do.

    Args:
        advise: what to do about words of DuckDB that speak of the query.
    """
    text = str(error)
    kind = found[1] if (found := _KIND.match(text)) else type(error).__name__
    if _OF_THE_QUERY.search(text):
        reason = f"DuckDB says: {text[text.index(kind) :].splitlines()[0].rstrip('.! ').replace('Values list ', '')}"
        advice = advise(reason) if advise is not None else ""
        if "disabled by config" in reason:
            advice = "SQL reads the store alone: register files with register_table."
        return SqlRefused(reason=reason, advice=advice)
    if _OF_A_VALUE.fullmatch(kind):
        return SqlRefused(reason=f"DuckDB stopped at a value ({kind})", advice=_FIND)
    return SqlRefused(reason=f"DuckDB stopped ({kind})")
