"""SQL over collections and source tables: DuckDB in this process, reading Lance with columns and filters pushed down.

Vectors are not columns: what similarity(), cosine(), norm(), knn_label() and nearest() need of them, raystore computes beside
DuckDB, and lays it beside the rows by position. Queries read; nothing here writes. For the person at this machine: SQL from the
network needs a process of its own.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.query.cache import SqlCache, machine_memory, parse_bytes
from raystore.data.query.compute import NamedEncoder
from raystore.data.query.places import Relations
from raystore.data.query.query import Query
from raystore.data.query.result import SqlResult, refused
from raystore.data.query.rewrite import parse_statement, places, unknown_names, utc
from raystore.data.tables.table import table_names
from raystore.errors import TableNotFound
from raystore.settings import setting
from raystore.vectors import Vectors

__all__ = ["NamedEncoder", "Nearest", "SqlEngine", "SqlResult"]

Nearest = Callable[[CollectionTable, Vectors, int, int | None], pa.Table]
Extra = Mapping[str, pa.Table | pa.RecordBatchReader]
Params = Mapping[str, Any] | Sequence[Any] | None


class SqlEngine:
    """Runs queries over one store. Keeps one DuckDB, and columns and scores within the budget of RAYSTORE_SQL_CACHE.

    Args:
        encoder: gives an encoder by its name.
        nearest: answers nearest() of a collection's newest version, best first, with columns id and score; None scans exactly.
    """

    def __init__(self, catalog: Catalog, encoder: Callable[[str], NamedEncoder], nearest: Nearest | None = None) -> None:
        self.catalog = catalog
        self._encoder = encoder
        self._nearest = nearest
        asked = setting("RAYSTORE_SQL_CACHE")
        self.cache = SqlCache(parse_bytes(asked, "RAYSTORE_SQL_CACHE") if asked else machine_memory() // 8)
        self._database: _Database | None = None
        self._lock = threading.Lock()

    def run(
        self,
        sql: str,
        params: Params = None,
        *,
        vectors: bool = False,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
        extra: Extra | None = None,
        encoders: Mapping[str, str] | None = None,
    ) -> SqlResult:
        """The query's rows; `Store.sql` documents it.

        Args:
            versions: read these relations as of these versions where the query does not say.
            as_of: read of collections and event tables, at their newest version, the rows whose time is not later, and other
                source tables at their version then; a relation with a version of its own is read at that version. `$as_of`
                in the query is this time where the parameters give no other. Without a zone it is UTC.
            extra: further relations by name, for raystore's own queries.
            encoders: the fingerprint that a name of an encoder means; other names mean what they mean now.
        """
        query, is_explained = parse_statement(sql)
        if is_explained:
            lines = self._explained(query, params, vectors, versions, as_of, extra)
            return SqlResult(pa.table({"explain_key": ["raystore", "physical_plan"], "explain_value": lines}))
        read = self._read(query, params, versions, as_of, extra, encoders)
        connection = self._connect()
        try:
            for name, rows in (extra or {}).items():
                connection.register(name, rows)
            read.compute()
            text, bound = read.rewrite(connection, vectors=vectors)
            reader = connection.sql(text, params=bound).to_arrow_reader(65_536)
        except duckdb.Error as error:
            connection.close()
            raise refused(error, read.advice) from None
        except BaseException:
            connection.close()
            raise
        return SqlResult(reader, connection.close)

    def explain(
        self,
        sql: str,
        params: Params = None,
        *,
        vectors: bool = False,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
        extra: Extra | None = None,
    ) -> str:
        """What would be done for the query: a line for what raystore computes first, then DuckDB's plan. Nothing is run or encoded."""
        return "\n".join(self._explained(parse_statement(sql)[0], params, vectors, versions, as_of, extra))

    def encoders(
        self,
        sql: str,
        params: Params = None,
        *,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
        encoders: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """The fingerprint of each encoder that the query calls, by the name it is called by; arguments as of `run`."""
        read = self._read(parse_statement(sql)[0], params, versions, as_of, None, encoders)
        return dict(sorted(read.encoders.items()))

    def close(self) -> None:
        """Let the DuckDB and its spill folder go; the next query starts another."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _explained(
        self,
        query: Any,
        params: Params,
        vectors: bool,
        versions: Mapping[str, int] | None,
        as_of: datetime | None,
        extra: Extra | None,
    ) -> list[str]:
        read = self._read(query, params, versions, as_of, extra)
        connection = self._connect()
        try:
            for name, rows in (extra or {}).items():
                connection.register(name, rows.schema.empty_table() if isinstance(rows, pa.RecordBatchReader) else rows)
            text, bound = read.rewrite(connection, vectors=vectors)
            plan = connection.execute(f"EXPLAIN {text}", bound).fetchall()
        except duckdb.Error as error:
            raise refused(error, read.advice) from None
        finally:
            connection.close()
        return [f"raystore: {'; '.join(read.notes()) or 'nothing is computed before'}.", str(plan[-1][1])]

    def _read(
        self,
        query: Any,
        params: Params,
        versions: Mapping[str, int] | None,
        as_of: datetime | None,
        extra: Extra | None,
        encoders: Mapping[str, str] | None = None,
    ) -> Query:
        collections, tables = collection_names(self.catalog.layout), table_names(self.catalog)
        known = {*collections, *tables}
        given = {name.lower() for name in extra or {}}
        unknown = [name for name in unknown_names(query, known.__contains__) if name not in given]
        if unknown:
            where = f"store '{self.catalog.layout.root}'"
            raise TableNotFound(name=unknown[0], where=where, existing=sorted(known))
        asked = any(node.name == "as_of" for node in query.find_all(exp.Placeholder))
        if as_of is not None and asked and (params is None or isinstance(params, Mapping)):
            params = {"as_of": utc(as_of), **(params or {})}
        relations = Relations(self.catalog, self.cache, collections, versions, as_of)

        def encoder(name: str) -> NamedEncoder:
            return self._encoder((encoders or {}).get(name, name))

        return Query(query, places(query, known.__contains__), relations, encoder, self._nearest, params)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own; no query sees what another one registered."""
        with self._lock:
            if self._database is None:
                self._database = _Database(self.catalog.layout.tmp)
                weakref.finalize(self, self._database.close)
            connection = self._database.connection.cursor()
        # Else a comparison of times, and so a snapshot's hash, would hang on the machine's time zone.
        connection.execute("SET TimeZone = 'UTC'")
        return connection


class _Database:
    """One DuckDB in memory, shared by the queries of an engine: they share its memory limit, and starting one takes 10 ms."""

    def __init__(self, tmp: Path) -> None:
        tmp.mkdir(parents=True, exist_ok=True)
        self._folder = tmp / f"sql-{secrets.token_hex(8)}"
        # Only the store's own relations: a snapshot that read a file could not be made again, and nothing is fetched or loaded.
        config: dict[str, Any] = {
            "python_enable_replacements": False,
            "enable_external_access": False,
            "temp_directory": str(self._folder),
        }
        self.connection = duckdb.connect(config=config)
        self.connection.execute(f"SET memory_limit = '{self._limit()}'")

    @staticmethod
    def _limit() -> str:
        asked = setting("RAYSTORE_SQL_MEMORY")
        limit = parse_bytes(asked, "RAYSTORE_SQL_MEMORY") if asked else machine_memory() // 2
        return f"{max(limit, 1 << 20)} bytes"

    def close(self) -> None:
        self.connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)
