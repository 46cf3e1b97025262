"""Read a query's shape: which relations it names, at which version, and where it asks for similarity.

Pure sqlglot: parses, finds, and writes the query anew. Knows no table's rows and runs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from raystore.errors import SqlRefused

_SIMILARITY_FORM = "similarity(encoder, 'text') or similarity(encoder, item('id'))"
# sqlglot warns on a logger of its own where it falls back, quoting the statement; we refuse such statements ourselves.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Relation:
    """A named relation of the query: a collection or source table, at its newest version or a numbered one."""

    name: str
    version: int | None


@dataclass(frozen=True)
class SimilarityCall:
    """similarity(encoder, text | item(id)) over the collection that stands in the query as `relation`."""

    relation: Relation
    encoder: str
    text: str | None
    item: str | None


def parse_query(sql: str) -> exp.Query:
    """The one query in `sql`. Raises SqlRefused where it does not parse, is several, or is not a query."""
    try:
        statements = [s for s in sqlglot.parse(sql, dialect="duckdb") if s is not None]
    except sqlglot.errors.SqlglotError as error:
        raise SqlRefused(reason=f"it does not parse{_place(error)}") from None
    if len(statements) != 1:
        raise SqlRefused(reason=f"it holds {len(statements)} statements, expected one query")
    if not isinstance(statements[0], exp.Query) or statements[0].find(exp.Into):
        kind = "SELECT INTO" if isinstance(statements[0], exp.Query) else type(statements[0]).__name__.upper()
        raise SqlRefused(
            reason=f"it is a {kind} statement, expected a SELECT",
            advice="SQL reads; rows are written with log, embed and register_table.",
        )
    return statements[0]


def _place(error: Exception) -> str:
    """Where the parser stopped; its own words speak of its classes."""
    found = (getattr(error, "errors", None) or [{}])[0]
    if not found.get("line"):
        return ""
    return f": line {found['line']}, column {found['col']}, near '{str(found.get('highlight') or '')[:40]}'"


def relations(query: exp.Query, known: Callable[[str], bool]) -> dict[Relation, list[exp.Table]]:
    """The store's relations the query names, with the places they stand at. Names of CTEs and functions are left alone.

    Raises:
        SqlRefused: a part of the query is named like a relation, so that its name would mean two things.
    """
    for cte in query.find_all(exp.CTE):
        if known(cte.alias_or_name.lower()):
            raise SqlRefused(
                reason=f"its part WITH {cte.alias_or_name} has the name of a collection or table",
                advice="Give it another name.",
            )
    found: dict[Relation, list[exp.Table]] = {}
    for table in query.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and not table.db and known(table.name):
            found.setdefault(Relation(table.name, _version(table)), []).append(table)
    return found


def unknown_names(query: exp.Query, known: Callable[[str], bool]) -> list[str]:
    """Plain relation names that are neither the store's nor the query's own."""
    ctes = {cte.alias_or_name for cte in query.find_all(exp.CTE)}
    return sorted(
        {
            t.name
            for t in query.find_all(exp.Table)
            if isinstance(t.this, exp.Identifier)
            and not t.db
            and t.name not in ctes
            and not known(t.name)
            and "." not in t.name
        }
    )


def _version(table: exp.Table) -> int | None:
    when = table.args.get("when")
    if when is None:
        return None
    if when.args.get("kind") == "VERSION" and isinstance(when.expression, exp.Literal) and when.expression.is_int:
        return int(when.expression.this)
    raise SqlRefused(
        reason=f"'{table.name}' is asked for at something other than a version number",
        advice=f"Write: FROM {table.name} AT (VERSION => 3).",
    )


def similarity_calls(
    query: exp.Query, places: Mapping[Relation, list[exp.Table]], is_collection: Callable[[str], bool], params: Any
) -> list[tuple[exp.Expression, exp.Table, SimilarityCall]]:
    """Each similarity() call with the table it ranks over, resolved by its qualifier or, without one, by the only collection."""
    calls = []
    for node in query.find_all(exp.Anonymous):
        if str(node.this).lower() != "similarity":
            continue
        if len(node.expressions) != 2 or not isinstance(node.expressions[0], exp.Column):
            raise SqlRefused(
                reason="similarity() was called otherwise than it is defined",
                advice=f"Write {_SIMILARITY_FORM}; an encoder with '-' in its name stands in double quotes.",
            )
        encoder, what = node.expressions
        table, relation = _ranked(node, encoder.table, places, is_collection)
        text, item = _asked(what, params)
        calls.append((node, table, SimilarityCall(relation, encoder.name, text, item)))
    return calls


def _ranked(
    node: exp.Expression, qualifier: str, places: Mapping[Relation, list[exp.Table]], is_collection: Callable[[str], bool]
) -> tuple[exp.Table, Relation]:
    by_table = {id(table): relation for relation, tables in places.items() for table in tables}
    select = node.find_ancestor(exp.Select)
    while select is not None:
        here = [t for t in select.find_all(exp.Table) if t.find_ancestor(exp.Select) is select and id(t) in by_table]
        here = [t for t in here if is_collection(t.name) and (not qualifier or t.alias_or_name == qualifier)]
        if len(here) > 1:
            raise SqlRefused(
                reason="similarity() could rank over more than one collection here",
                advice=f"Qualify the encoder with one of: {', '.join(t.alias_or_name for t in here)}.",
            )
        if here:
            return here[0], by_table[id(here[0])]
        select = select.find_ancestor(exp.Select)
    named = f"'{qualifier}' is no collection of this query" if qualifier else "no collection stands in its FROM"
    raise SqlRefused(reason=f"similarity() has nothing to rank: {named}", advice=f"Write {_SIMILARITY_FORM}.")


def _asked(node: exp.Expression, params: Any) -> tuple[str | None, str | None]:
    """(text, None) or (None, id) of the second argument; parameters are looked up."""
    inner, is_item = node, False
    if isinstance(node, exp.Anonymous) and str(node.this).lower() == "item" and len(node.expressions) == 1:
        inner, is_item = node.expressions[0], True
    if isinstance(inner, exp.Literal) and inner.is_string:
        value: Any = inner.this
    elif isinstance(inner, exp.Placeholder) and isinstance(params, Mapping) and inner.name in params:
        value = params[inner.name]
    else:
        raise SqlRefused(
            reason="similarity() asks for neither a text, an item nor a named parameter",
            advice=f"Write {_SIMILARITY_FORM}; parameters by name: $query, with params={{'query': ...}}.",
        )
    if not isinstance(value, str):
        raise SqlRefused(reason=f"similarity() was given a {type(value).__name__}, expected a string")
    return (None, value) if is_item else (value, None)


def replace_call(node: exp.Expression, table: exp.Table, scores: str) -> None:
    """Put in place of the call a look-up of the row's score by its id; DuckDB turns it into one hash join."""
    row = exp.column("id", table=table.alias_or_name, quoted=True)
    score = exp.select(exp.column("score", table=scores)).from_(exp.to_identifier(scores))
    node.replace(exp.paren(score.where(exp.EQ(this=exp.column("id", table=scores), expression=row)), copy=False))


def replace_table(table: exp.Table, view: str) -> None:
    """Point the place at a view, under the name the rest of the query knows it by."""
    alias = table.alias_or_name
    table.set("when", None)
    if not table.alias:
        table.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))
    table.set("this", exp.to_identifier(view))
