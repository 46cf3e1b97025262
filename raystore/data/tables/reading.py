"""What a source table can be read from, each as a stream of record batches, so that memory does not follow its size.

    files                    Parquet, CSV, TSV, JSON lines: paths, patterns, folders, URLs          (table_files)
    databases                a DuckDB or SQLite file, an ADBC, DBAPI or DuckDB connection, with a query   (table_queries)
    in memory, or from it    Arrow, pandas, Polars (lazy frames too), DuckDB relations, lists of dicts, whatever speaks
                             Arrow's stream interface

Libraries that are no dependency are known by what their objects can do, and are not imported. No error quotes a row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from raystore.data.readers import find_files
from raystore.data.readers.files import as_local, is_url
from raystore.data.tables.columns import Rows
from raystore.data.tables.files import BATCH_ROWS, file_rows
from raystore.data.tables.queries import (
    SUFFIXES,
    arrow_rows,
    connection_rows,
    database_rows,
    relation_rows,
    several_types,
    typed,
)
from raystore.errors import InvalidArguments

_EXPECTED = (
    "a path, a database file or connection with query=, an Arrow table or reader, a pandas or Polars DataFrame, "
    "a DuckDB relation or a list of dicts"
)


@contextmanager
def open_rows(data: Any, query: str | None, types: Mapping[str, pa.DataType], tmp: Path, call: str) -> Iterator[Rows]:
    """The rows of `data`, open as long as the context.

    Args:
        types: columns whose type is known: CSV and JSON are read to fit where they can be.
        tmp: where rows may lie for a while that have to be seen whole before their type is known.

    Raises:
        InvalidArguments: nothing that can be read, said with what can be; files, queries and values that cannot be.
    """
    with ExitStack() as stack:
        yield _rows(data, query, types, tmp, call, stack)


def _rows(data: Any, query: str | None, types: Mapping[str, pa.DataType], tmp: Path, call: str, stack: ExitStack) -> Rows:
    if isinstance(data, (str, Path)) and (query is not None or str(data).lower().endswith(SUFFIXES)):
        if is_url(str(data)):
            raise InvalidArguments(call=call, problems=["a database is read from a path of this machine, not from a URL"])
        path = str(Path(data).expanduser().absolute())
        found = {"kind": "database", "path": path, "query": query}
        return database_rows(path, query, found, tmp, call, stack)
    if callable(getattr(type(data), "cursor", None)):
        if query is None:
            problem = "a connection needs query=, a SELECT or a table's name"
            raise InvalidArguments(call=call, problems=[problem])
        driver = type(data).__module__.partition(".")[0].lstrip("_")
        return connection_rows(data, query, {"kind": "connection", "driver": driver, "query": query}, tmp, call, stack)
    if query is not None:
        problem = f"query= is for a database file or a connection, and data is {type(data).__name__}"
        raise InvalidArguments(call=call, problems=[problem])
    if isinstance(data, (str, Path)) or (isinstance(data, Sequence) and all(isinstance(p, (str, Path)) for p in data)):
        files = find_files(data, call)
        source: dict[str, Any] = {
            "kind": "files",
            "paths": [_lasting(p) for p in ([data] if isinstance(data, (str, Path)) else data)],
        }
        return file_rows(files, source, types, call, stack)
    return _memory_rows(data, {"kind": "memory", "type": _type_name(data)}, call)


def _lasting(path: str | Path) -> str:
    """The path or pattern as it can be found from any working folder."""
    text = as_local(str(path))
    return text if is_url(text) else str(Path(text).expanduser().absolute())


def _type_name(data: Any) -> str:
    kind = type(data)
    library = kind.__module__.partition(".")[0].lstrip("_")
    return kind.__name__ if library == "builtins" else f"{library} {kind.__name__}"


def _memory_rows(data: Any, source: dict[str, Any], call: str) -> Rows:
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        return _table_rows(data, source, call)
    if isinstance(data, pa.RecordBatchReader):
        return arrow_rows(data.schema, data, source, call, "the reader")
    if isinstance(data, pads.Dataset):
        return arrow_rows(data.schema, data.to_batches(batch_size=BATCH_ROWS), source, call, "the dataset")
    if isinstance(data, duckdb.DuckDBPyRelation):
        return relation_rows(data, source, call)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return _pandas_rows(data, source, call)
    if hasattr(data, "collect_schema") and hasattr(data, "collect_batches"):
        return _lazy_rows(data, source, call)
    if hasattr(data, "to_arrow") and hasattr(data, "get_columns"):
        return _table_rows(data.to_arrow(), source, call)
    if hasattr(data, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(data)
        return arrow_rows(reader.schema, reader, source, call, "the data")
    if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        return _dict_rows(data, source, call)
    raise InvalidArguments(call=call, problems=[f"data is {type(data).__name__}, expected {_EXPECTED}"])


def _table_rows(table: pa.Table, source: dict[str, Any], call: str) -> Rows:
    return arrow_rows(table.schema, table.to_batches(max_chunksize=BATCH_ROWS), source, call, "the table")


def _dict_rows(rows: Sequence[Mapping[Any, Any]], source: dict[str, Any], call: str) -> Rows:
    names = dict.fromkeys(key for row in rows for key in row)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        problems = [f"a column's name is {type(name).__name__}, expected a string" for name in wrong]
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems)))
    table = pa.table({name: typed(name, [row.get(name) for row in rows], call) for name in names})
    return _table_rows(table, source, call)


def _pandas_rows(frame: Any, source: dict[str, Any], call: str) -> Rows:
    """A pandas frame's columns, an index that has a name among them, converted one by one: an error of all would not say which."""
    named = [place for place, name in enumerate(frame.index.names) if name is not None and name not in frame.columns]
    if named:
        frame = frame.reset_index(level=named)
    names = [name if isinstance(name, str) else str(name) for name in frame.columns]
    wrong = [type(name).__name__ for name in frame.columns if not isinstance(name, str)]
    if wrong:
        problems = [f"a column's name is {kind}, expected a string" for kind in dict.fromkeys(wrong)]
        raise InvalidArguments(call=call, problems=problems)
    mixed, arrays = [], []
    for place, name in enumerate(names):
        try:
            column = pa.array(frame.iloc[:, place], from_pandas=True)
            arrays.append(column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            mixed.append(name)
    if mixed:
        raise several_types(mixed, call)
    return _table_rows(pa.Table.from_arrays(arrays, names=names), source, call)


def _lazy_rows(frame: Any, source: dict[str, Any], call: str) -> Rows:
    """A Polars lazy frame, collected batch by batch."""
    library = sys.modules[type(frame).__module__.partition(".")[0]]
    error = library.exceptions.PolarsError
    try:
        schema = frame.collect_schema().to_frame().to_arrow().schema
    except error as failed:
        raise InvalidArguments(
            call=call, problems=[f"the lazy frame cannot be collected ({type(failed).__name__})"]
        ) from None
    batches = (b for part in frame.collect_batches(chunk_size=BATCH_ROWS) for b in part.to_arrow().to_batches())
    return arrow_rows(schema, batches, source, call, "the lazy frame", error)
