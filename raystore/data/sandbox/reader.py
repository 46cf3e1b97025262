"""Somebody else's SQL, read by DuckDB's own parser before DuckDB runs it: one SELECT over named relations, or refused.

What runs is written from the tree that was checked, every relation in it under a name of this file's making, and what was
written is read and checked once more: no name of the query's own is ever looked up in DuckDB's catalog, so a
part of the query may be called like a catalog view without reaching it. Reading a query runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import duckdb

from raystore.data.sandbox.functions import FUNCTIONS, OF_VECTORS, TABLE_FUNCTIONS
from raystore.errors import QueryRefused, listed

Node = dict[str, Any]

VIEW, PART = "_relation_", "_part_"
# What the tree may be made of: expressions by their class, everything else by its type. Not among them: SHOW_REF
# (DESCRIBE, SUMMARIZE) and the nodes that write.
_EXPRESSIONS = """
BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT DEFAULT FUNCTION LAMBDA LAMBDA_REF OPERATOR PARAMETER
POSITIONAL_REFERENCE STAR SUBQUERY TYPE WINDOW
"""
_PARTS = """
SELECT_NODE SET_OPERATION_NODE RECURSIVE_CTE_NODE CTE_NODE EMPTY BASE_TABLE SUBQUERY JOIN TABLE_FUNCTION EXPRESSION_LIST PIVOT
ORDER_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER DISTINCT_MODIFIER ORDER_DEFAULT ASCENDING DESCENDING
"""
_ALLOWED = {"class": frozenset(_EXPRESSIONS.split()), "type": frozenset(_PARTS.split())}
_SELECT = "SQL over HTTP is one SELECT."
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`")


@dataclass(frozen=True)
class Asked:
    """A relation the query reads: its view, its name in the store, and the version asked for."""

    view: str
    name: str
    version: int | None


@dataclass(frozen=True)
class Reading:
    """A query that may run: its text, the relations it reads, and the parameters it names (in small letters)."""

    text: str
    relations: tuple[Asked, ...]
    parameters: frozenset[str]


class QueryReader:
    """Reads queries with the parser of one DuckDB connection, which it only asks for trees and names."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        asked = "SELECT function_name FROM duckdb_functions() UNION SELECT keyword_name FROM duckdb_keywords()"
        types = "SELECT type_name FROM duckdb_types() UNION SELECT logical_type FROM duckdb_types()"
        found = connection.sql(f"{asked} UNION {types}").fetchall()
        self._words = frozenset(str(name).lower() for (name,) in found) | OF_VECTORS

    def read(self, sql: str, served: Set[str], *, limit: int) -> Reading:
        """The query as it may run, of at most `limit` rows where it sets no limit itself.

        Args:
            served: the relations that may be read.

        Raises:
            QueryRefused: it does not parse, is not one SELECT, or names what may not be read or called.
        """
        node = self._tree(sql)
        named = [(part, "key") for ctes in _found(node, "cte_map") for part in ctes["cte_map"]["map"]]
        named += [(part, "cte_name") for part in _found(node, "cte_name")]
        parts = {str(part[key]).lower() for part, key in named}
        for name in sorted(parts & served):
            raise QueryRefused(reason=f"a part of it (WITH) has the name of '{name}'", advice="Give it another name.")
        self._check(node, sql)
        asked: dict[tuple[str, int | None], Asked] = {}
        for table in _found(node, "table_name"):
            self._rename(table, parts, served, asked, sql)
        for part, key in named:
            part[key] = PART + str(part[key]).lower()
        self._limit(node["statements"][0]["node"]["modifiers"], limit)
        (text,) = self._ask("SELECT json_deserialize_sql(?::JSON)", json.dumps(node))
        views = {relation.view for relation in asked.values()}
        self._check_again(text, views | {PART + part for part in parts})
        names = frozenset(str(p["identifier"]).lower() for p in _found(node, "identifier") if p.get("class") == "PARAMETER")
        return Reading(text, tuple(asked.values()), names)

    def said(self, error: duckdb.Error, sql: str, names: Iterable[str]) -> str:
        """What DuckDB says of a query it did not run, without the query's own words: they may be content.

        A word of the message is kept where it is SQL's, one of `names`, or does not stand in the query.
        """
        message = (str(error) or type(error).__name__).splitlines()[0]
        return self._masked(re.sub(r"^\w+ Error: ", "", message), sql, names)

    def _masked(self, message: str, sql: str, names: Iterable[str]) -> str:
        known = self._words | {str(name).lower() for name in names}
        own = {word.lower() for word in _WORD.findall(sql)} - known
        message = _QUOTED.sub(lambda m: m[0] if known.issuperset(m[0][1:-1].lower().split(".")) else "?", message)
        return _WORD.sub(lambda m: "?" if m[0].lower() in own else m[0], message).rstrip(".! ")

    def _ask(self, question: str, value: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self.connection.execute(question, [value]).fetchall()[0]
        return row

    def _tree(self, sql: str) -> Node:
        try:
            tree: Node = json.loads(self._ask("SELECT json_serialize_sql(?)", sql)[0])
        except RecursionError:
            raise QueryRefused(reason="its parts are nested too deeply") from None
        except UnicodeEncodeError:
            raise QueryRefused(reason="it holds characters that are no text") from None
        except duckdb.Error as error:
            raise QueryRefused(reason=f"it does not parse ({type(error).__name__})") from None
        if tree.get("error"):
            message = str(tree.get("error_message"))
            if "Only SELECT" in message:
                raise QueryRefused(reason="it is another statement, or PIVOT without its values", advice=_SELECT)
            place = str(tree.get("position", ""))
            where = _place(sql, int(place)) if place.isdigit() else f" ({self._masked(message, sql, ())})"
            raise QueryRefused(reason=f"it does not parse{where}")
        if len(tree["statements"]) != 1:
            raise QueryRefused(reason=f"it holds {len(tree['statements'])} statements", advice=_SELECT)
        return tree

    def _check(self, tree: Node, sql: str) -> None:
        """Refuse any node that is not of the lists above, and any function that is not on its own."""
        for node in _nodes(tree):
            sort = "class" if "class" in node else "type"
            kind = node.get(sort)
            if isinstance(kind, str) and kind not in _ALLOWED[sort]:
                raise QueryRefused(reason=f"it is more than a SELECT of columns{_location(node, sql)}", advice=_SELECT)
            if node.get("export_state"):
                raise QueryRefused(reason=f"it asks for the state of an aggregate{_location(node, sql)}")
            called = node["function"] if kind == "TABLE_FUNCTION" else node
            if "function_name" in called:
                location = _location(node, sql)
                self._check_call(called, TABLE_FUNCTIONS if kind == "TABLE_FUNCTION" else FUNCTIONS, location)

    def _check_call(self, node: Node, allowed: Set[str], location: str) -> None:
        name = str(node["function_name"]).lower()
        if name in OF_VECTORS:
            advice = (
                "Search: POST /v1/collections/NAME/search. similarity() in SQL is for the Python and command-line side."
            )
            raise QueryRefused(reason=f"{name}() reads vectors{location}, and SQL over HTTP sees none", advice=advice)
        if name not in allowed:
            shown = f"'{name}'" if name in self._words else "that is unknown"
            raise QueryRefused(reason=f"it calls a function {shown}, which SQL over HTTP does not have{location}")
        if node.get("catalog"):
            raise QueryRefused(reason=f"it calls a function of a named catalog{location}")

    def _rename(
        self, table: Node, parts: Set[str], served: Set[str], asked: dict[tuple[str, int | None], Asked], sql: str
    ) -> None:
        """Point a relation of the query at its view or its part, under the name the rest of the query knows it by."""
        name, location = str(table["table_name"]).lower(), _location(table, sql)
        if table.get("catalog_name") or table.get("schema_name"):
            raise QueryRefused(reason=f"it reads from a schema{location}, and there are none here", advice=_here(served))
        version = _version(table, location)
        if name in served:
            relation = asked.setdefault((name, version), Asked(f"{VIEW}{len(asked)}", name, version))
            inner = relation.view
        elif name in parts and version is None:
            inner = PART + name
        else:
            raise QueryRefused(reason=f"it reads from what is not served here{location}", advice=_here(served))
        table["alias"] = table.get("alias") or table["table_name"]
        table["table_name"] = inner
        table["qualified_name"] = {"path": [inner]}
        table["at_clause"] = None

    def _limit(self, modifiers: list[Node], limit: int) -> None:
        """Set the limit where the query has none: DuckDB need not sort or build what is not shown."""
        ours = self._tree(f"SELECT 1 LIMIT {limit:d}")["statements"][0]["node"]["modifiers"][0]
        own = [modifier for modifier in modifiers if str(modifier.get("type", "")).startswith("LIMIT")]
        if not own:
            modifiers.append(ours)
        elif own[0].get("limit") is None:  # OFFSET alone
            own[0]["limit"] = ours["limit"]

    def _check_again(self, text: str, names: Set[str]) -> None:
        tree = self._tree(text)
        self._check(tree, text)
        for table in _found(tree, "table_name"):
            if table["table_name"] not in names or table.get("catalog_name") or table.get("schema_name"):
                raise QueryRefused(reason="DuckDB's parser does not read it again as it wrote it")


def _nodes(tree: Any) -> Iterator[Node]:
    """Every node of the tree, its root first; without recursion, since the query chose the depth."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _found(tree: Node, key: str) -> list[Node]:
    return [node for node in _nodes(tree) if key in node]


def _version(table: Node, location: str) -> int | None:
    when = table.get("at_clause")
    if not when:
        return None
    literal = (when.get("expr") or {}).get("literal") or {}
    text = str(literal.get("text", ""))
    if when.get("unit") != "VERSION" or literal.get("kind") != "INTEGER" or not (text.isdigit() and len(text) < 10):
        advice = "Write: FROM tickets AS t AT (VERSION => 3)."
        raise QueryRefused(
            reason=f"a relation is asked for at something other than a version number{location}", advice=advice
        )
    return int(text)


def _here(served: Set[str]) -> str:
    return f"There are: {listed(sorted(served))}." if served else "Nothing is served to SQL here."


def _location(node: Node, sql: str) -> str:
    return _place(sql, int(node.get("query_location", -1)))


def _place(sql: str, offset: int) -> str:
    """Line and column of a byte of the query, from 1; empty where DuckDB gave no place."""
    before = sql.encode("utf-8", "replace")
    if not 0 <= offset <= len(before):
        return ""
    lines = before[:offset].decode("utf-8", "replace").split("\n")
    return f" (line {len(lines)}, column {len(lines[-1]) + 1})"
