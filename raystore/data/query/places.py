"""The relations of one query, opened once: what they show, as of when, and how DuckDB finds them by a name nobody can guess."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.columns import is_hidden, stamps_of
from raystore.data.keyed import quoted
from raystore.data.query.cache import SqlCache
from raystore.data.query.calls import Hidden
from raystore.data.query.rewrite import Place, Relation, replace_table, utc
from raystore.data.query.row_table import Positions, RowTable
from raystore.data.query.rows import Moment, PlaceRows, Values
from raystore.data.query.vector_runs import matrix_of
from raystore.data.tables.table import SourceTable, open_table, table_at
from raystore.errors import ItemNotFound, SqlRefused
from raystore.vectors import Matrix


class OpenCollection:
    """A collection as one query reads it: one Lance version for all that the query asks."""

    def __init__(self, catalog: Catalog, name: str, cache: SqlCache) -> None:
        self.table = CollectionTable.open(catalog.layout, name)
        self.dataset = self.table.rows.dataset()
        self.version = int(self.dataset.version)
        self.cache = cache

    @cached_property
    def visible(self) -> list[str]:
        """The columns SQL sees."""
        return [c for c in self.dataset.schema.names if not is_hidden(c) and not c.startswith("vec_")]

    @cached_property
    def rows(self) -> RowTable:
        return self.cache.rows(self.dataset)

    def there(self, moment: Moment, column: str) -> npt.NDArray[np.bool_] | None:
        """(n,) which rows were there with the vector they may have, by position; None where all were."""
        mask = moment.mask(self.rows)
        stamp = stamps_of(self.dataset.schema).get(column)
        if moment.version is None or stamp is None:
            return mask
        late = pc.fill_null(pc.greater(self.rows.columns([stamp]).column(stamp), moment.version), False)
        return ~np.asarray(late) if mask is None else mask & ~np.asarray(late)

    def vector_of(self, id_: str, column: str, moment: Moment) -> Matrix:
        """(d,) float32. Raises ItemNotFound where the item, or its vector, was not there."""
        stamp = stamps_of(self.dataset.schema).get(column)
        read = [column, "time", "_added", *([stamp] if stamp else [])]
        row = self.dataset.to_table(columns=read, filter=f"id = {quoted(id_)}")
        is_there = len(row) == 1 and row.column(column)[0].is_valid
        if is_there and moment.version is not None:
            late = row.column(stamp)[0].as_py() if stamp else None
            is_there = row.column("_added")[0].as_py() <= moment.version and (late or 0) <= moment.version
        if is_there and moment.time is not None:
            time = row.column("time")[0].as_py()
            is_there = time is not None and time <= moment.time
        if not is_there:
            where = f"collection '{self.table.name}' with a vector of this encoder"
            raise ItemNotFound(name=id_, where=where if moment == Moment(None, None) else f"{where} at that time")
        vector: Matrix = matrix_of(row.column(column).combine_chunks())[0]
        return vector

    def positions_of_ids(self, ids: pa.Array) -> Positions:
        """Positions of the ids in their order; -1 for those that are not there."""
        if not len(ids):
            return np.empty(0, np.int64)
        listed = ", ".join(quoted(i) for i in ids.to_pylist())
        found = self.dataset.to_table(columns=["id"], filter=f"id IN ({listed})", with_row_id=True)
        at = pc.index_in(ids, value_set=found.column("id").combine_chunks())
        row_ids = pc.take(found.column("_rowid").combine_chunks(), at)
        here = np.asarray(row_ids.is_valid())
        positions = np.full(len(ids), -1, np.int64)
        positions[here] = self.rows.positions_of(row_ids.drop_null().to_numpy().astype(np.int64))
        return positions


class Relations:
    """The relations of one query. `show` puts each at its place for DuckDB."""

    def __init__(
        self,
        catalog: Catalog,
        cache: SqlCache,
        collections: Sequence[str],
        versions: Mapping[str, int] | None,
        as_of: datetime | None,
    ) -> None:
        self._catalog, self._cache = catalog, cache
        self._collections = frozenset(collections)
        self._versions, self._as_of = versions or {}, None if as_of is None else utc(as_of)
        self._opened: dict[str, OpenCollection] = {}

    def is_collection(self, name: str) -> bool:
        return name in self._collections

    def collection(self, name: str) -> OpenCollection:
        if name not in self._opened:
            self._opened[name] = OpenCollection(self._catalog, name, self._cache)
        return self._opened[name]

    def moment(self, relation: Relation) -> Moment:
        """As of when a collection is read."""
        version = relation.version if relation.version is not None else self._versions.get(relation.name)
        opened = self.collection(relation.name)
        if version is not None and not 1 <= version <= opened.version:
            newest = f"collection '{relation.name}' has no version {version}, its newest is {opened.version}"
            raise SqlRefused(reason=newest)
        return Moment(version, relation.time or self._as_of)

    def source(self, relation: Relation) -> SourceTable:
        """A source table at the version that the query or the call says, else as of its time or that of the call."""
        if relation.version is not None:
            return open_table(self._catalog, relation.name, relation.version)
        time, version = relation.time or self._as_of, self._versions.get(relation.name)
        if version is None:
            return (
                open_table(self._catalog, relation.name) if time is None else table_at(self._catalog, relation.name, time)
            )
        pinned = open_table(self._catalog, relation.name, version)
        if relation.time is None or pinned.time is not None:
            return pinned
        return open_table(self._catalog, relation.name, as_of=relation.time)

    def columns(self, relation: Relation) -> list[str]:
        """The columns SQL sees."""
        if self.is_collection(relation.name):
            return self.collection(relation.name).visible
        return list(self.source(relation).columns)

    def until(self, relation: Relation) -> datetime | None:
        """The time that events of a source table must not be later than."""
        return relation.time or (self._as_of if relation.version is None else None)

    def show_source(self, connection: duckdb.DuckDBPyConnection, view: str, place: Place) -> None:
        source = self.source(place.relation)
        listed = ", ".join(_name(c) for c in source.columns)
        conditions = [source.filter()]
        until = self.until(place.relation)
        if until is not None and source.time is not None:
            conditions.append(f"{_name(source.time)} <= TIMESTAMPTZ '{until.isoformat(sep=' ')}'")
        _view(connection, view, source.dataset(), listed, conditions)
        replace_table(place.table, view)

    def show(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: str,
        place: Place,
        *,
        vectors: bool,
        wanted: frozenset[str] | None,
        hidden: Hidden,
        values: dict[str, Values],
        positions: Positions | None = None,
        beside: pa.Table | None = None,
    ) -> None:
        """Make the collection visible at its place: without the store's own columns, as of its moment.

        Args:
            wanted: the columns the query may name, in small letters; None for all.
            values: of the hidden columns that Lance does not have.
            positions: only these rows; `beside` are further columns of theirs.
        """
        opened = self.collection(place.relation.name)
        moment, stamps = self.moment(place.relation), stamps_of(opened.dataset.schema)
        visible = [c for c in opened.dataset.schema.names if not is_hidden(c)] if vectors else opened.visible
        extra = beside.column_names if beside is not None else []
        visible = [c for c in visible if c not in extra]
        resident = None
        if wanted is not None and not vectors and not hidden.vectors and positions is None:
            read = [c for c in visible if c.lower() in wanted] or visible[:1]
            resident = opened.cache.columns(opened.rows, list(dict.fromkeys([*read, *moment.columns])))
            visible = read if resident is not None else visible
        late = {} if moment.version is None else {c: f"{s} > {int(moment.version)}" for c, s in stamps.items()}
        columns = dict.fromkeys([*visible, *hidden.vectors.values(), *moment.columns])
        columns |= dict.fromkeys(stamps[c] for c in list(columns) if c in late)
        shown = {**{c: _name(c) for c in [*visible, *extra]}, **{n: _name(n) for n in values}}
        shown |= {n: _name(c) for n, c in hidden.vectors.items()}
        stored = {**{c: c for c in visible}, **hidden.vectors}
        listed = ", ".join(
            f"CASE WHEN {late[stored[n]]} THEN NULL ELSE {sql} END AS {_name(n)}"
            if stored.get(n) in late
            else f"{sql} AS {_name(n)}"
            for n, sql in shown.items()
        )
        scanned = PlaceRows(
            opened.dataset,
            list(columns),
            rows=lambda: opened.rows,
            values=values,
            positions=positions,
            resident=resident,
            beside=beside,
        )
        _view(connection, view, scanned, listed, moment.conditions())
        replace_table(place.table, view)


def _view(
    connection: duckdb.DuckDBPyConnection, view: str, rows: PlaceRows, listed: str, conditions: Sequence[str]
) -> None:
    raw = f"_raw_{secrets.token_hex(16)}"
    connection.register(raw, rows)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    connection.execute(f"CREATE TEMP VIEW {view} AS SELECT {listed} FROM {raw}{where}")  # noqa: S608  our own names


def _name(column: str) -> str:
    return str(exp.to_identifier(column, quoted=True))


def hides(select: exp.Select, place: Place) -> list[exp.Star] | None:
    """The stars of a select that would show hidden columns of the place, to leave them out; None where that cannot be told."""
    if place.table.args.get("pivots") or any(j.args.get("method") == "NATURAL" for j in select.args.get("joins") or ()):
        return None
    stars = []
    for node in select.find_all(exp.Star, exp.Columns, exp.Column):
        if node.find_ancestor(exp.Select) is not select or isinstance(node.parent, exp.Count):
            continue
        if isinstance(node, exp.Columns):
            return None
        if isinstance(node, exp.Column):
            if not node.table and node.name.lower() == place.alias.lower():  # the row as a whole
                return None
            continue
        holder = node.parent if isinstance(node.parent, exp.Column) else node
        if holder.parent is not select or node.args.get("ilike"):
            return None
        if holder is node or holder.args["table"].name.lower() == place.alias.lower():
            stars.append(node)
    return stars


def wanted_columns(query: exp.Expression, places: Sequence[Place]) -> frozenset[str] | None:
    """Every name that stands in the query, in small letters; None where it may mean columns that it does not name."""
    aliases = {p.alias.lower() for p in places}
    for node in query.find_all(exp.Star, exp.Columns, exp.Pivot, exp.Join, exp.TableAlias, exp.Column):
        if isinstance(node, exp.Star) and isinstance(node.parent, exp.Count):
            continue
        if isinstance(node, exp.Join) and node.args.get("method") != "NATURAL":
            continue
        if isinstance(node, exp.TableAlias) and not node.args.get("columns"):
            continue
        if isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier) and node.table:
            continue
        if isinstance(node, exp.Column) and node.name.lower() not in aliases:
            continue
        return None
    return frozenset(node.name.lower() for node in query.find_all(exp.Identifier))


def looks_up_ids(query: exp.Expression) -> bool:
    """Whether rows are chosen by their id, for which the disk has an index."""
    return any(
        isinstance(side, exp.Column) and side.name.lower() == "id" and not isinstance(node.expression, exp.Column)
        for node in query.find_all(exp.EQ, exp.In)
        for side in (node.this, node.args.get("expression"))
    )
