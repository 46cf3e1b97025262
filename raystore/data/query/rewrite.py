"""Read a query's shape: which relations it names, as of when, and where it calls raystore's own functions.

Pure sqlglot: parses and finds. Knows no table's rows and runs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlglot
from sqlglot import exp

from raystore.data.query.dialect import statements
from raystore.errors import SqlRefused

NEAREST_FORM = "FROM nearest(collection, encoder, 'text', 10)"
KNN_FORM = "knn_label(encoder, 'table.column') or knn_label(encoder, 'table.column', 10)"
# sqlglot warns on a logger of its own where it falls back, quoting the statement; we refuse such statements ourselves.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Relation:
    """A named relation of the query: a collection or source table, at its newest version, a numbered one, or as of a time."""

    name: str
    version: int | None
    time: datetime | None = None


@dataclass(frozen=True, eq=False)
class Place:
    """Where a relation stands in the query. `nearest` holds the arguments (encoder, what, k) where it stands as nearest(...)."""

    table: exp.Table
    relation: Relation
    nearest: tuple[exp.Expression, exp.Expression, exp.Expression] | None = None

    @property
    def alias(self) -> str:
        name: str = self.table.alias_or_name
        return name


def parse_query(sql: str) -> exp.Query:
    """The one query in `sql`. Raises SqlRefused where it does not parse, is several, or is not a query."""
    query, explained = parse_statement(sql)
    if explained:
        raise SqlRefused(reason="it is an EXPLAIN, which has no rows of its own", advice="Leave the word out.")
    return query


def parse_statement(sql: str) -> tuple[exp.Query, bool]:
    """The query, and whether EXPLAIN stands before it."""
    if not isinstance(sql, str):
        raise SqlRefused(reason=f"it is a {type(sql).__name__}, expected a SELECT as a string")
    try:
        found = statements(sql)
    except sqlglot.errors.SqlglotError as error:
        raise SqlRefused(reason=f"it does not parse{_place(error)}") from None
    if len(found) != 1:
        raise SqlRefused(reason=f"it holds {len(found)} statements, expected one query")
    statement = found[0]
    if isinstance(statement, exp.Command) and str(statement.this).upper() == "EXPLAIN":
        explained = str(statement.expression.this)
        if explained.split(maxsplit=1)[:1] and explained.split(maxsplit=1)[0].upper() == "ANALYZE":
            raise SqlRefused(reason="it is an EXPLAIN ANALYZE, expected EXPLAIN and a SELECT")
        return parse_query(explained), True
    if not isinstance(statement, exp.Query) or statement.find(exp.Into):
        kind = "SELECT INTO" if isinstance(statement, exp.Query) else type(statement).__name__.upper()
        raise SqlRefused(
            reason=f"it is a {kind} statement, expected a SELECT",
            advice="SQL reads; rows are written with log, embed and register_table.",
        )
    for table in statement.find_all(exp.Table):
        if _is_call(table.this, "nearest") and not table.alias:
            alias = table.args.get("alias") or exp.TableAlias()
            alias.set("this", exp.to_identifier("nearest"))
            table.set("alias", alias)
    return statement, False


def _is_call(node: object, name: str) -> bool:
    return isinstance(node, exp.Anonymous) and str(node.this).lower() == name


def calls_of(query: exp.Expression, names: Iterable[str]) -> list[tuple[str, exp.Anonymous]]:
    """(name in small letters, node) of each call of these functions, in the order they stand."""
    wanted = frozenset(names)
    found = ((str(node.this).lower(), node) for node in query.find_all(exp.Anonymous))
    return [(name, node) for name, node in found if name in wanted]


def _place(error: Exception) -> str:
    """Where the parser stopped; its own words speak of its classes."""
    found = (getattr(error, "errors", None) or [{}])[0]
    if not found.get("line"):
        return ""
    return f": line {found['line']}, column {found['col']}, near '{str(found.get('highlight') or '')[:40]}'"


def places(query: exp.Query, known: Callable[[str], bool]) -> list[Place]:
    """Where the store's relations stand in the query's FROM clauses. Names of CTEs and of other functions are left alone.

    Args:
        known: whether the store has a relation of this name, in small letters as all its names are; SQL may write it in others.

    Raises:
        SqlRefused: a part of the query is named like a relation, so that its name would mean two things; nearest() was
            called otherwise than it is defined.
    """
    for cte in query.find_all(exp.CTE):
        if known(cte.alias_or_name.lower()):
            raise SqlRefused(
                reason=f"its part WITH {cte.alias_or_name} has the name of a collection or table",
                advice="Give it another name.",
            )
    found = []
    for table in query.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and not table.db and known(table.name.lower()):
            name = table.name.lower()
            found.append(Place(table, Relation(name, *_moment(table, name))))
        elif _is_call(table.this, "nearest"):
            name, *asked = _nearest_arguments(table.this)
            if known(name):
                found.append(Place(table, Relation(name, *_moment(table, name)), (asked[0], asked[1], asked[2])))
    return found


def _nearest_arguments(call: exp.Anonymous) -> tuple[str, exp.Expression, exp.Expression, exp.Expression]:
    given = call.expressions
    if len(given) != 4 or not all(isinstance(a, exp.Column) for a in given[:2]) or given[0].table:
        raise SqlRefused(
            reason="nearest() was called otherwise than it is defined",
            advice=f"Write {NEAREST_FORM}; a name with '-' in it stands in double quotes.",
        )
    return given[0].name.lower(), given[1], given[2], given[3]


def label_tables(query: exp.Expression) -> list[tuple[exp.Anonymous, str, str]]:
    """(call, table, column) of each knn_label() of the query."""
    found = []
    for _, node in calls_of(query, ["knn_label"]):
        given = node.expressions
        asked = given[1] if len(given) in (2, 3) and isinstance(given[0], exp.Column) else None
        table, column = "", ""
        if isinstance(asked, exp.Literal) and asked.is_string:
            table, _, column = asked.this.partition(".")
        elif isinstance(asked, exp.Column):
            table, column = asked.table, asked.name
        if not table or not column:
            raise SqlRefused(
                reason="knn_label() was called otherwise than it is defined",
                advice=f"Write {KNN_FORM}; an encoder with '-' in its name stands in double quotes.",
            )
        found.append((node, table.lower(), column))
    return found


def relations(query: exp.Query, known: Callable[[str], bool]) -> dict[Relation, list[exp.Table]]:
    """The store's relations that the query's answer depends on, with the places they stand at in FROM (none for those that
    only knn_label() names)."""
    found: dict[Relation, list[exp.Table]] = {}
    for place in places(query, known):
        found.setdefault(place.relation, []).append(place.table)
    for _, table, _ in label_tables(query):
        if known(table):
            found.setdefault(Relation(table, None), [])
    return found


def unknown_names(query: exp.Query, known: Callable[[str], bool]) -> list[str]:
    """Plain relation names, in small letters, that are neither the store's nor the query's own."""
    ctes = {cte.alias_or_name.lower() for cte in query.find_all(exp.CTE)}
    tables = list(query.find_all(exp.Table))
    named = {t.name.lower() for t in tables if isinstance(t.this, exp.Identifier) and not t.db} - ctes
    named |= {_nearest_arguments(t.this)[0] for t in tables if _is_call(t.this, "nearest")}
    named |= {table for _, table, _ in label_tables(query)}
    return sorted(name for name in named if not known(name) and "." not in name)


def _moment(table: exp.Table, name: str) -> tuple[int | None, datetime | None]:
    """(version, time) that AT asks for."""
    when = table.args.get("when")
    if when is None:
        return None, None
    kind, asked = when.args.get("kind"), when.expression
    if kind == "VERSION" and isinstance(asked, exp.Literal) and asked.is_int:
        return int(asked.this), None
    if kind == "TIMESTAMP":
        text = asked.this if isinstance(asked, exp.Cast) else asked
        if isinstance(text, exp.Literal) and text.is_string:
            try:
                return None, utc(datetime.fromisoformat(text.this))
            except ValueError:
                pass
    raise SqlRefused(
        reason=f"'{name}' is asked for at something other than a version number or a time",
        advice=f"Write: FROM {name} AT (VERSION => 3), or AT (TIMESTAMP => '2026-11-01 09:00').",
    )


def utc(time: datetime) -> datetime:
    """The same time in UTC; without a zone it is UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def enclosing(node: exp.Expression) -> Iterable[exp.Select]:
    """The selects around a node, the innermost first."""
    select = node.find_ancestor(exp.Select)
    while select is not None:
        yield select
        select = select.find_ancestor(exp.Select)


def place_of(
    node: exp.Expression, function: str, qualifier: str, standing: Iterable[Place], is_collection: Callable[[str], bool]
) -> Place:
    """The place whose rows a call speaks of: by its qualifier or, without one, the only collection of the nearest FROM that has one.

    Raises:
        SqlRefused: there is none, or more than one.
    """
    by_select: dict[int, list[Place]] = {}
    for place in standing:
        by_select.setdefault(id(place.table.find_ancestor(exp.Select)), []).append(place)
    for select in enclosing(node):
        here = [p for p in by_select.get(id(select), []) if is_collection(p.relation.name)]
        here = [p for p in here if not qualifier or p.alias.lower() == qualifier.lower()]
        if len(here) > 1:
            raise SqlRefused(
                reason=f"{function}() could rank over more than one collection here",
                advice=f"Qualify the encoder with one of: {', '.join(p.alias for p in here)}.",
            )
        if here:
            return here[0]
        if qualifier and any(s.alias_or_name.lower() == qualifier.lower() for s in _sources(select)):
            break
    named = f"'{qualifier}' is no collection of this query" if qualifier else "no collection stands in its FROM"
    advice = "Put the collection of its vectors into FROM."
    if any(_is_derived(source) for select in enclosing(node) for source in _sources(select)):
        advice = f"Rows of a subquery or of WITH have no vectors: put {function}() into its SELECT, and name it there."
    raise SqlRefused(reason=f"{function}() has nothing to rank: {named}", advice=advice)


def _sources(select: exp.Select) -> list[exp.Expression]:
    return [s for s in select.find_all(exp.Table, exp.Subquery) if s.find_ancestor(exp.Select) is select]


def _is_derived(source: exp.Expression) -> bool:
    """Whether a source of a select is a query of its own, in FROM or WITH."""
    if isinstance(source, exp.Subquery):
        return isinstance(source.parent, exp.From | exp.Join)
    ctes = {cte.alias_or_name.lower() for cte in source.root().find_all(exp.CTE)}
    return isinstance(source.this, exp.Identifier) and source.name.lower() in ctes


def parameter(node: exp.Expression, params: Any, function: str) -> Any:
    """The value of a literal or of a parameter that is given by name.

    Raises:
        SqlRefused: it is neither.
    """
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else float(node.this)
    if isinstance(node, exp.Placeholder) and isinstance(params, Mapping) and node.name in params:
        return params[node.name]
    raise SqlRefused(
        reason=f"{function}() asks for neither a value nor a named parameter",
        advice="Parameters of raystore's own functions go by name: $query, with params={'query': ...}.",
    )


def whole_number(node: exp.Expression, params: Any, function: str) -> int:
    """The number of neighbours that is asked for."""
    value = parameter(node, params, function)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise SqlRefused(reason=f"{function}() asks for neither 1 nor more neighbours")
    return int(value)


def replace_table(table: exp.Table, view: str) -> None:
    """Point the place at a view, under the name the rest of the query knows it by."""
    alias = table.alias_or_name
    table.set("when", None)
    if not table.alias:
        table.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))
    table.set("this", exp.to_identifier(view))
