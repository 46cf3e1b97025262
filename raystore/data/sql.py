"""SQL over collections and source tables: DuckDB in this process, reading Lance with columns and filters pushed down.

Vectors are not columns: `similarity(encoder, 'text')` becomes one streaming pass over the encoder's vectors, whose
scores DuckDB joins by id. Queries read; nothing here writes. For the person at this machine: SQL from the network
needs a process of its own.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from sqlglot import exp

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names, is_hidden, stamps_of
from raystore.data.keyed import ADDED
from raystore.data.rewrite import (
    Relation,
    SimilarityCall,
    parse_query,
    relations,
    replace_call,
    replace_table,
    similarity_calls,
    unknown_names,
)
from raystore.data.tables import open_table, table_names
from raystore.errors import SqlRefused, TableNotFound
from raystore.vectors import Matrix, Vectors

_SCORES_KEPT = 8  # rankings kept per store: a query refined by hand asks for the same text again


# Only the store's own relations: a snapshot that read a file could not be made again, and nothing is fetched or loaded.
_CONFIG: dict[str, Any] = {"python_enable_replacements": False, "enable_external_access": False}


class NamedEncoder(Protocol):
    @property
    def fingerprint(self) -> str: ...
    @property
    def label(self) -> str: ...
    def encode(self, texts: Sequence[str]) -> Vectors: ...


class SqlResult:
    """A query's rows, as they were when it ran."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def columns(self) -> list[str]:
        names: list[str] = self._table.column_names
        return names

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def to_arrow(self) -> pa.Table:
        return self._table

    def to_pandas(self) -> Any:
        return self._table.to_pandas()

    def to_dicts(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    def __repr__(self) -> str:
        return f"<{len(self):,} rows: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        html: str = self._table.slice(0, 50).to_pandas().to_html(index=False)
        return html


class SqlEngine:
    """Runs queries over one store. Holds a few rankings, no connection and no rows."""

    def __init__(self, catalog: Catalog, encoder: Callable[[str], NamedEncoder]) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._scores: OrderedDict[tuple[str, int, str, bytes], pa.Table] = OrderedDict()
        self._scores_lock = threading.Lock()

    def run(
        self,
        sql: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        vectors: bool = False,
        versions: Mapping[str, int] | None = None,
        extra: Mapping[str, pa.Table] | None = None,
    ) -> SqlResult:
        """The query's rows; `Store.sql` documents it.

        Args:
            versions: read these relations as of these versions where the query does not say.
            extra: further relations by name, for raystore's own queries.
        """
        query = parse_query(sql)
        collections, tables = collection_names(self._catalog.layout), table_names(self._catalog)
        known = {*collections, *tables}
        unknown = [name for name in unknown_names(query, known.__contains__) if name not in (extra or {})]
        if unknown:
            where = f"store '{self._catalog.layout.root}'"
            raise TableNotFound(name=unknown[0], where=where, existing=sorted(known))
        places = relations(query, known.__contains__)
        connection = duckdb.connect(config=_CONFIG)
        try:
            # Else a comparison of times, and so a snapshot's hash, would hang on the machine's time zone.
            connection.execute("SET TimeZone = 'UTC'")
            for name, table in (extra or {}).items():
                connection.register(name, table)
            for number, (node, table, call) in enumerate(similarity_calls(query, places, collections.__contains__, params)):
                scores = f"_scores_{number}"
                connection.register(scores, self._ranking(call, self._at(call.relation, versions)))
                replace_call(node, table, scores)
            for number, (relation, nodes) in enumerate(places.items()):
                view = f"_relation_{number}"
                self._show(connection, view, relation.name, self._at(relation, versions), vectors, collections)
                for node in nodes:
                    replace_table(node, view)
            left = {node.name for node in query.find_all(exp.Placeholder)}  # similarity() may have used the others up
            bound = {k: v for k, v in params.items() if k in left} if isinstance(params, Mapping) else params
            return SqlResult(connection.sql(query.sql("duckdb"), params=bound or None).to_arrow_table())
        except duckdb.Error as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            advice = (
                "SQL reads the store alone: register files with register_table." if "disabled by config" in reason else ""
            )
            raise SqlRefused(reason=f"DuckDB says: {reason}", advice=advice) from None
        finally:
            connection.close()

    @staticmethod
    def _at(relation: Relation, versions: Mapping[str, int] | None) -> int | None:
        return relation.version if relation.version is not None else (versions or {}).get(relation.name)

    def _show(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: str,
        name: str,
        version: int | None,
        vectors: bool,
        collections: list[str],
    ) -> None:
        """Make the relation visible as `view`: a Lance dataset without the hidden columns, as of its version.

        The dataset with all its columns has a name that no query can guess.
        """
        raw = f"_raw_{secrets.token_hex(16)}"
        late: dict[str, str] = {}
        if name in collections:
            table = CollectionTable.open(self._catalog.layout, name)
            _check_version(table, version)
            dataset = table.rows.dataset()
            columns = [c for c in dataset.schema.names if not is_hidden(c)] if vectors else table.visible
            condition = "" if version is None else f" WHERE {ADDED} <= {int(version)}"
            if version is not None:  # vectors that came later are not there yet
                late = {
                    c: f"CASE WHEN {s} > {int(version)} THEN NULL ELSE {c} END"
                    for c, s in stamps_of(dataset.schema).items()
                }
        else:
            source = open_table(self._catalog, name, version)
            dataset, columns = source.dataset(), list(source.columns)
            condition = f" WHERE {source.filter()}"
        connection.register(raw, dataset)
        quoted = {c: str(exp.to_identifier(c, quoted=True)) for c in columns}
        listed = ", ".join(f"{late[c]} AS {q}" if c in late else q for c, q in quoted.items())
        connection.execute(f"CREATE TEMP VIEW {view} AS SELECT {listed} FROM {raw}{condition}")  # noqa: S608  our own names

    def _ranking(self, call: SimilarityCall, version: int | None) -> pa.Table:
        table = CollectionTable.open(self._catalog.layout, call.relation.name)
        encoder = self._encoder(call.encoder)
        table.check_encoder(encoder.fingerprint, encoder.label)
        if call.item is not None:
            query = np.asarray(table.vectors_of([call.item], encoder.fingerprint))[0]
        else:
            query = np.asarray(encoder.encode([call.text or ""]))[0]
        _check_version(table, version)
        at = table.version if version is None else version
        key = (table.name, at, encoder.fingerprint, query.tobytes())
        scores = self._scores.get(key)
        if scores is None:
            scores = rank(table, encoder.fingerprint, query, at)
        with self._scores_lock:
            self._scores[key] = scores
            self._scores.move_to_end(key)
            while len(self._scores) > _SCORES_KEPT:
                self._scores.popitem(last=False)
        return scores


def _check_version(table: CollectionTable, version: int | None) -> None:
    if version is not None and not 1 <= version <= table.version:
        raise SqlRefused(reason=f"collection '{table.name}' has no version {version}, its newest is {table.version}")


def rank(table: CollectionTable, fingerprint: str, query: Matrix, as_of: int) -> pa.Table:
    """(id, score) of every row: the dot product of unit vectors, float32. Cost: one streaming scan of the vectors."""
    ids, scores = [], []
    for batch in table.scan(fingerprint, as_of=as_of):
        ids.append(batch.ids)
        scores.append(pa.array(batch.vectors @ query))
    return pa.table({"id": pa.chunked_array(ids, pa.string()), "score": pa.chunked_array(scores, pa.float32())})
