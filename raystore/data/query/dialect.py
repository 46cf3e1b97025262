"""A query's text, read by sqlglot as DuckDB reads it: parameters, and the keys and paths of JSON. Pure."""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

_TOKEN = re.compile(
    r"""
      [eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\Z)           # a string with escapes
    | '[^']*(?:''[^']*)*(?:'|\Z)
    | "[^"]*(?:""[^"]*)*(?:"|\Z)
    | --[^\n\r]*
    | (?P<comment>/\*)
    | [^\W\d][\w$]*                                        # a name, which may hold a $
    | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)   # a string in dollars
    | (?P<parameter>\$\w+)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_ENDS = re.compile(r"/\*|\*/")
_ANOTHER = re.compile(r"[^\s$]+\$")


class _Dialect(DuckDB):  # type: ignore[misc]  # sqlglot's dialects are not typed
    def to_json_path(self, path: exp.Expression | None) -> exp.Expression | None:
        """What stands behind -> as it is written: sqlglot would make the keys x and y of the key 'x.y'."""
        return path


def statements(sql: str) -> list[exp.Expression]:
    """The statements in `sql`. Raises sqlglot's SqlglotError where it does not parse."""
    found = [s for s in sqlglot.parse(spaced(sql), dialect=_Dialect) if s is not None]
    for statement in found:
        for node in list(statement.find_all(exp.JSONExtract)):  # a -> b -> c, written bare, is a lambda to DuckDB
            if isinstance(node.this, exp.JSONExtract):
                node.set("this", exp.Paren(this=node.this))
    return found


def spaced(sql: str) -> str:
    """The same query with a space behind each parameter that has another `$` behind it and no space between.

    sqlglot takes `$a,$` of `IN ($a,$b)` for the tag of a string; DuckDB's tags are names. A tag with a space in it is none to both.
    """
    parts, kept, at = [], 0, 0
    while found := _TOKEN.search(sql, at):
        at = found.end()
        if found["comment"]:
            at = _comment_end(sql, at)
        elif found["parameter"] and _ANOTHER.match(sql, at):
            parts += [sql[kept:at], " "]
            kept = at
    return "".join([*parts, sql[kept:]])


def _comment_end(sql: str, at: int) -> int:
    """Where the comment that is open at `at` ends; comments stand in one another."""
    depth = 1
    for found in _COMMENT_ENDS.finditer(sql, at):
        depth += 1 if found[0] == "/*" else -1
        if not depth:
            return found.end()
    return len(sql)
