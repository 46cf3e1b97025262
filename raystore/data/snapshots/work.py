"""A DuckDB of our own to make something large in: what does not fit its memory goes to a folder that is gone afterwards.

It reads what it is handed and nothing else: no file, no network, no variable of this process.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raystore.data.query.engine import SqlResult
from raystore.errors import DiskFull, RaystoreError
from raystore.layout import staging

MEMORY = "1GB"


class Work:
    """One connection; `take` streams a query's result in, `step` replaces a table, `read` streams one out."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._numbers = itertools.count()

    def take(self, table: str, select: str, result: SqlResult, columns: Sequence[str] | None = None) -> None:
        """Make `table` of `select`, which reads the result as `incoming`; at most a batch of it is in memory.

        Args:
            columns: only these, which stand once each; the rest never gets here.

        Raises:
            What the result raises while it runs, as it is.
        """
        names = list(columns) if columns is not None else list(result.schema.names)
        schema = pa.schema([result.schema.field(name) for name in names])
        raised: list[RaystoreError] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for batch in result.batches():
                    yield pa.RecordBatch.from_arrays([batch.column(name) for name in names], schema=schema)
            except RaystoreError as error:  # DuckDB would wrap it in an error of its own
                raised.append(error)
                raise

        self.connection.register("incoming", pa.RecordBatchReader.from_batches(schema, batches()))
        try:
            self.connection.execute(f"CREATE TABLE {table} AS {select}")
        except duckdb.Error:
            if raised:
                raise raised[0] from None
            raise
        finally:
            self.connection.unregister("incoming")

    def step(self, table: str, select: str) -> None:
        """Put in the table's place what `select` makes of it."""
        self.connection.execute(f"CREATE TABLE _next AS {select}")
        self.connection.execute(f"DROP TABLE {table}")
        self.connection.execute(f"ALTER TABLE _next RENAME TO {table}")

    def value(self, select: str) -> Any:
        """The one value of the one row."""
        return self.all(select)[0][0]

    def all(self, select: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(select).fetchall()

    def some(self, value: str, source: str, limit: int = 3) -> tuple[int, list[str]]:
        """How many rows `source` (a FROM clause and what follows) has, and the first values, smallest first."""
        n = int(self.value(f"SELECT count(*) FROM (SELECT 1 {source})"))  # noqa: S608  our own text
        few = self.all(f"SELECT CAST({value} AS VARCHAR) v {source} ORDER BY v LIMIT {limit}") if n else []
        return n, [str(v) for (v,) in few]

    def kind(self, table: str, column: str) -> pa.DataType:
        relation = self.connection.sql(f"SELECT {quoted(column)} FROM {table} LIMIT 0")  # noqa: S608  our own names
        return relation.to_arrow_table().schema.field(0).type

    def read(self, select: str, rows: int) -> pa.RecordBatchReader:
        return self.connection.sql(select).to_arrow_reader(rows)


@contextmanager
def working(tmp: Path) -> Iterator[Work]:
    """A place to work in, with at most `MEMORY` of it in memory; the rest in a folder under `tmp`, until the end."""
    with staging(tmp) as spill:
        config: dict[str, Any] = {
            "python_enable_replacements": False,
            "enable_external_access": False,
            "memory_limit": MEMORY,
            "temp_directory": str(spill),
            "preserve_insertion_order": False,
        }
        connection = duckdb.connect(config=config)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield Work(connection)
        except duckdb.IOException as error:
            if "No space left" in str(error):
                raise DiskFull(folder=str(tmp), doing="working on more rows than fit the memory") from None
            raise
        finally:
            connection.close()


def few(n: int, shown: Sequence[str]) -> str:
    """'a', 'b', 'c' and 5 more, of n."""
    names = ", ".join(f"'{name}'" for name in shown)
    return names if n <= len(shown) else f"{names} and {n - len(shown):,} more"


def utc(column: str) -> str:
    """A time of any type as a TIMESTAMP in UTC; the connection's zone is UTC."""
    return f"CAST(CAST({column} AS TIMESTAMPTZ) AS TIMESTAMP)"


def stamp(moment: datetime) -> str:
    return f"TIMESTAMP '{moment.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f')}'"


def quoted(name: str) -> str:
    """The name as SQL reads it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
