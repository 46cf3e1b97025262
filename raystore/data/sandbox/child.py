"""The process that runs one query that came over HTTP, answers, and ends. Started by `process.py`, and by nobody else.

    service                                    process
                                          ──▶  "ready", when the libraries are loaded
    query, limits, folders to read        ──▶  closes itself in, then reads the query
                                          ──▶  the relations it names
    what to show of each                  ──▶  runs it
                                          ──▶  what became of it; its rows

It imports little, since it is started for each query: no store, no parser but DuckDB's own.
"""

from __future__ import annotations

import datetime
import decimal
import gc
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import lance  # loaded before the process is confined: nothing can be loaded afterwards
import pyarrow as pa

from raystore.data.sandbox import frames
from raystore.data.sandbox.jail import confine
from raystore.data.sandbox.reader import Asked, QueryReader, Reading
from raystore.data.sandbox.rows import as_arrow, as_json, take
from raystore.errors import QueryRefused, QueryStopped, RaystoreError, listed

_FOREVER = math.inf
_REQUEST_BYTES = 2**27
_BATCH = 2_048
# The kinds that speak of the query's shape. Every other kind may quote a row.
_OF_SHAPE = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.SyntaxException)

Resolve = Callable[[tuple[Asked, ...]], list[dict[str, Any]]]


def main(memory_mb: int) -> None:
    """Answer one request from stdin on stdout, within so much memory. Ends without tidying up: there is nothing to tidy."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # what a library prints must not stand in the answer, nor in anybody's log
        os.dup2(nothing, fd)

    def resolve(relations: tuple[Asked, ...]) -> list[dict[str, Any]]:
        frames.send(sink, json.dumps([[r.name, r.version] for r in relations]).encode(), _FOREVER)
        found: list[dict[str, Any]] = json.loads(frames.receive(source, _FOREVER, max_bytes=_REQUEST_BYTES))
        return found

    try:
        reader = rehearse(memory_mb)
        frames.send(sink, b"ready", _FOREVER)
        about, body = answer(reader, json.loads(frames.receive(source, _FOREVER, max_bytes=_REQUEST_BYTES)), resolve)
        frames.send(sink, json.dumps(about).encode(), _FOREVER)
        frames.send(sink, body, _FOREVER)
    except frames.FrameLostError:  # the service is gone, or has refused the query itself
        with suppress(OSError):
            Path.cwd().rmdir()
        os._exit(3)
    os._exit(0)


def rehearse(memory_mb: int) -> QueryReader:
    """A reader on a connection that has done a little of everything, so that what is loaded late is loaded now.

    It is made before the process is confined: DuckDB 2.0 aborts where it may not read its control group.
    """
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    rows = pa.table({"t": pa.array([moment], pa.timestamp("us", "UTC")), "n": pa.array([decimal.Decimal("1.0")])})
    connection = connect(memory_mb)
    connection.register("rehearsed", rows)  # not as a dataset: its threads would stay, and outside of Landlock
    cut = take(connection.sql("FROM rehearsed WHERE t IS NOT NULL").to_arrow_reader(_BATCH), max_rows=1, max_bytes=2**20)
    as_json(cut, 2**20), as_arrow(cut, {})
    reader = QueryReader(connection)
    reader.read("SELECT 1", frozenset(), limit=1)
    connection.unregister("rehearsed")
    gc.collect()
    return reader


def connect(memory_mb: int) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory without files, network, extensions or Python's variables; one thread, as the service has others."""
    connection = duckdb.connect(
        config={
            "enable_external_access": False,
            "python_enable_replacements": False,
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "temp_directory": "",
            "threads": 1,
            "async_threads": 0,
            "memory_limit": f"{memory_mb * 3 // 4}MiB",  # the rest is for what DuckDB does not count
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def answer(reader: QueryReader, request: Mapping[str, Any], resolve: Resolve) -> tuple[dict[str, Any], bytes]:
    """What became of the request, and the rows it found."""
    limits = request["limits"]
    confine(
        memory_bytes=limits["memory_mb"] * 2**20,
        seconds=limits["timeout_s"] + 2,  # the service ends it earlier, where there still is one
        readable=[Path(folder) for folder in request["folders"].values()],
    )
    try:
        return run(reader, request, resolve)
    except RaystoreError as error:
        return _told(error), b""
    except (MemoryError, duckdb.OutOfMemoryException):
        return _told(QueryStopped(reason=f"it needed more than {limits['memory_mb']:,} MiB of memory")), b""


def run(reader: QueryReader, request: Mapping[str, Any], resolve: Resolve) -> tuple[dict[str, Any], bytes]:
    """The query's columns, versions and rows.

    Raises:
        QueryRefused, QueryStopped, MemoryError, duckdb.OutOfMemoryException.
    """
    sql, limits, most = str(request["sql"]), request["limits"], int(request["limit"])
    connection, folders = reader.connection, request["folders"]
    reading = reader.read(sql, frozenset(folders), limit=most + 1)
    params = _bound(reading, request["params"])
    names: set[str] = set()
    versions: dict[str, int] = {}
    for asked, found in zip(reading.relations, resolve(reading.relations), strict=True):
        show(connection, asked, folders[asked.name], found)
        names.update(found["columns"])
        versions[asked.name] = max(found["version"], versions.get(asked.name, 0))
    connection.execute("SET lock_configuration = true")
    try:
        result = connection.sql(reading.text, params=params or None)
        columns = [{"name": name, "type": str(kind)} for name, kind in zip(result.columns, result.types, strict=True)]
        cut = take(result.to_arrow_reader(_BATCH), max_rows=most, max_bytes=limits["max_bytes"])
    except duckdb.OutOfMemoryException:
        raise
    except _OF_SHAPE as error:
        advice = f"Columns of its relations: {listed(sorted(names), 40)}." if "not found" in str(error) else ""
        said = reader.said(error, sql, names | set(versions))
        raise QueryRefused(reason=f"DuckDB says: {said}", advice=advice) from None
    except (duckdb.Error, pa.ArrowException, OSError, OverflowError) as error:
        advice = "TRY_CAST and try() turn values that do not fit into NULL."
        raise QueryRefused(reason=f"DuckDB stopped at a value ({type(error).__name__})", advice=advice) from None
    about = {"columns": columns, "versions": versions, "truncated": cut.truncated, "row_count": len(cut.rows)}
    if request["form"] == "arrow":
        return about, as_arrow(cut, {key: about[key] for key in ("versions", "truncated", "row_count")})
    body, rows = as_json(cut, limits["max_bytes"])
    return {**about, "truncated": cut.truncated or rows < len(cut.rows), "row_count": rows}, body


def show(connection: duckdb.DuckDBPyConnection, asked: Asked, folder: str, found: Mapping[str, Any]) -> None:
    """Make the view `asked.view` of the relation: the columns and rows that the service named, nothing else."""
    raw = f"_raw{asked.view}"
    connection.register(raw, lance.dataset(folder, version=found["lance"]))
    columns = ", ".join('"' + column.replace('"', '""') + '"' for column in found["columns"])
    where = f" WHERE {found['condition']}" if found["condition"] else ""
    connection.execute(f"CREATE TEMP VIEW {asked.view} AS SELECT {columns} FROM {raw}{where}")  # noqa: S608  our own names


def _bound(reading: Reading, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as DuckDB takes them. QueryRefused where they are not those the query names."""
    if any(name.isdigit() for name in reading.parameters):
        raise QueryRefused(reason="it has parameters by position", advice="Write them by name: $product.")
    given = {name.lower() for name in params}
    if given != reading.parameters or len(given) != len(params):
        missing, unused = len(reading.parameters - given), len(given - reading.parameters)
        raise QueryRefused(reason=f"of its parameters, {missing} were not given and {unused} that were given are not in it")
    return dict(params)


def _told(error: RaystoreError) -> dict[str, Any]:
    return {"error": type(error).__name__, "facts": error.facts}
