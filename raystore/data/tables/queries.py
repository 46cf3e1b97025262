"""What a query finds in a database, as one stream: DuckDB and SQLite files, connections of DuckDB, ADBC and DBAPI.

A DBAPI cursor gives Python values, whose types are known when the last row was seen: its rows go through an unnamed temporary
file, with the chosen columns only, so memory does not follow their number. An error says its type, and the database's own words only
where they are about the query: other words may quote a row. Files are opened to be read.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from uuid import UUID

import duckdb
import pyarrow as pa

from raystore.data.tables.columns import Rows, Stream, plain_type
from raystore.data.tables.files import BATCH_ROWS, guarded, wider
from raystore.errors import InvalidArguments, listed

SUFFIXES = (".duckdb", ".ddb", ".db", ".sqlite", ".sqlite3")
_DBAPI_ROWS = 4_096
_STATEMENT = re.compile(r"(\s|--[^\n]*\n|/\*.*?\*/|\()*(select|with|from|values|table)\b", re.IGNORECASE | re.DOTALL)
_PLAIN_NAME = re.compile(r"\w+(\.\w+)*")
# What a database says about the query itself, and not about rows.
_ABOUT_QUERY = re.compile(r"(no such (table|column|function)|near \"|(Catalog|Binder|Parser) Error)")


def statement(query: str) -> str:
    """The SELECT itself, or one of everything in the table that `query` names."""
    if _STATEMENT.match(query):
        return query.strip().rstrip(";")
    name = query.strip()
    return f"SELECT * FROM {name}" if _PLAIN_NAME.fullmatch(name) else 'SELECT * FROM "{}"'.format(name.replace('"', '""'))  # noqa: S608


def database_rows(path: str, query: str | None, source: dict[str, Any], tmp: Path, call: str, stack: ExitStack) -> Rows:
    """The query's rows in a DuckDB or SQLite file; `stack` closes it.

    Raises:
        InvalidArguments: no such file, or none of the two; no query (the file's tables are named); a query that fails.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InvalidArguments(call=call, problems=[f"'{path}' cannot be opened ({type(error).__name__})"]) from None
    is_duckdb = start[8:12] == b"DUCK"
    if not is_duckdb and not start.startswith(b"SQLite format 3"):
        raise InvalidArguments(call=call, problems=[f"'{path}' is neither a DuckDB nor a SQLite file, which query= is for"])
    try:
        connection: Any = duckdb.connect(path, read_only=True) if is_duckdb else _sqlite(path)
    except (duckdb.Error, sqlite3.Error) as error:
        problem = (
            f"'{path}' cannot be opened ({type(error).__name__}): where this program has it open to write, hand in that "
            "connection; where another one has, it must close it first"
        )
        raise InvalidArguments(call=call, problems=[problem]) from None
    stack.enter_context(closing(connection))
    if query is None:
        tables = "information_schema.tables" if is_duckdb else "sqlite_schema WHERE type IN ('table', 'view')"
        column = "table_name" if is_duckdb else "name"
        names = [row[0] for row in connection.execute(f"SELECT {column} FROM {tables} ORDER BY 1").fetchall()]  # noqa: S608
        raise InvalidArguments(
            call=call, problems=[f"query= must name a table of '{path}' or be a SELECT; it has: {listed(names)}"]
        )
    return connection_rows(connection, query, source, tmp, call, stack)


def _sqlite(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)


def connection_rows(connection: Any, query: str, source: dict[str, Any], tmp: Path, call: str, stack: ExitStack) -> Rows:
    """The query's rows over an open connection, which stays open.

    Raises:
        InvalidArguments: the query fails or brings no rows; while they are read, values of several types in a column.
    """
    errors = _errors_of(connection)
    try:
        if isinstance(connection, duckdb.DuckDBPyConnection):
            relation = connection.sql(statement(query))
            if relation is not None:
                return relation_rows(relation, source, call)
        else:
            cursor = connection.cursor()
            stack.enter_context(closing(cursor))
            cursor.execute(statement(query))
            if hasattr(cursor, "fetch_record_batch"):
                reader = cursor.fetch_record_batch()
                return arrow_rows(reader.schema, reader, source, call, "the query's rows", *errors)
            if cursor.description is not None:
                names = [str(column[0]) for column in cursor.description]
                return Rows(names, partial(_fetched, cursor, names, tmp, call, stack, errors), source)
    except (duckdb.Error, pa.ArrowException, *errors) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        found = _ABOUT_QUERY.search(first)
        said = f": {first[found.start() :]}" if found else ""
        raise InvalidArguments(call=call, problems=[f"the query cannot be run ({type(error).__name__}){said}"]) from None
    raise InvalidArguments(call=call, problems=["the query brings no rows, expected a SELECT or a table's name"])


def relation_rows(relation: duckdb.DuckDBPyRelation, source: dict[str, Any], call: str) -> Rows:
    def stream(columns: list[str]) -> Stream:
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        reader = relation.project(names).to_arrow_reader(BATCH_ROWS)
        return Stream(reader.schema, guarded(iter(reader), "the query's rows", call))

    return Rows(list(relation.columns), stream, source)


def arrow_rows(
    schema: pa.Schema, batches: Any, source: dict[str, Any], call: str, label: str, *errors: type[Exception]
) -> Rows:
    """The rows of an iterable of record batches."""

    def stream(columns: list[str]) -> Stream:
        chosen = pa.schema([schema.field(name) for name in columns])
        return Stream(chosen, guarded((batch.select(columns) for batch in batches), label, call, *errors))

    return Rows(list(schema.names), stream, source)


def _errors_of(connection: Any) -> tuple[type[Exception], ...]:
    """The class of all errors of a driver: on its connections, as most have it, or on its module."""
    module = sys.modules.get(type(connection).__module__.partition(".")[0])
    found = getattr(connection, "Error", None) or getattr(module, "Error", None)
    return (found,) if isinstance(found, type) and issubclass(found, Exception) else ()


def _fetched(
    cursor: Any,
    names: list[str],
    tmp: Path,
    call: str,
    stack: ExitStack,
    errors: tuple[type[Exception], ...],
    columns: list[str],
) -> Stream:
    """The cursor's rows, through a file. A driver may allow its own thread alone: all are fetched here, none by the reader."""
    places = [names.index(name) for name in columns]
    types: dict[str, pa.DataType] = dict.fromkeys(columns, pa.null())
    tmp.mkdir(parents=True, exist_ok=True)
    file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(dir=tmp))  # noqa: SIM115  the stack closes it
    starts = []
    while rows := _next_rows(cursor, call, errors):
        arrays = [typed(name, [row[place] for row in rows], call) for name, place in zip(columns, places, strict=True)]
        for name, array in zip(columns, arrays, strict=True):
            both = wider(types[name], array.type)
            if both is None:
                raise several_types([name], call)
            types[name] = both
        starts.append(file.tell())
        batch = pa.record_batch(arrays, names=columns)
        with pa.ipc.new_stream(file, batch.schema) as writer:
            writer.write_batch(batch)
    return Stream(pa.schema(list(types.items())), _spooled(file, starts))


def _next_rows(cursor: Any, call: str, errors: tuple[type[Exception], ...]) -> Sequence[Any]:
    try:
        rows: Sequence[Any] = cursor.fetchmany(_DBAPI_ROWS)
    except errors as error:
        raise InvalidArguments(call=call, problems=[f"the query's rows cannot be read ({type(error).__name__})"]) from None
    return rows


def _spooled(file: IO[bytes], starts: Sequence[int]) -> Iterator[pa.RecordBatch]:
    for start in starts:
        file.seek(start)
        with pa.ipc.open_stream(file) as reader:
            yield from reader


def typed(name: str, values: Sequence[Any], call: str) -> pa.Array:
    """Python values as one Arrow array of the type they have in common."""
    try:
        array = pa.array([str(v) if isinstance(v, UUID) else v for v in values])
        return array.cast(plain_type(array.type))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # whose words quote a value
        raise several_types([name], call) from None


def several_types(names: Sequence[str], call: str) -> InvalidArguments:
    return InvalidArguments(call=call, problems=[f"column '{name}' holds values of several types" for name in names])
