"""The one small predicate grammar: what `where=` means everywhere.

    column (= != < <= > >=) literal, IN (...), [NOT] BETWEEN, [NOT] LIKE, IS [NOT] NULL, AND, OR, NOT, parentheses
    literals: numbers, 'text', TRUE, FALSE, NULL, TIMESTAMP '...', DATE '...'

A predicate is parsed by sqlglot and written anew, node by node, as a Lance filter; what is not in the grammar is
refused, so it can call nothing and needs no sandbox. Knows column names, nothing of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import sqlglot
from sqlglot import exp

from raystore.errors import SqlRefused

_COMPARISONS: dict[type[exp.Expression], str] = {
    exp.EQ: "=", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.Like: "LIKE",
}  # fmt: skip
# What a node of the grammar may be made of. sqlglot also hangs modifiers on nodes (BETWEEN SYMMETRIC): those are refused,
# since a node written without one would select other rows than it says.
_ARGS = {"this", "expression", "expressions", "low", "high", "to", "is_string", "negate"}
_GRAMMAR = "column, comparison, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT and literals"


def parse_where(text: str, columns: Iterable[str]) -> str:
    """The predicate as a Lance filter.

    Args:
        text: the predicate, e.g. "product = 'card' AND time >= TIMESTAMP '2026-01-01'".
        columns: the columns it may name.

    Raises:
        SqlRefused: it does not parse, leaves the grammar, or names a column that is not there.
    """
    return _parse(text, tuple(sorted(columns)))


@lru_cache(maxsize=1024)
def _parse(text: str, columns: tuple[str, ...]) -> str:
    try:
        return _Writer(columns).write(sqlglot.parse_one(text, dialect="duckdb", into=exp.Condition))
    except sqlglot.errors.SqlglotError:
        raise SqlRefused(reason="the where= predicate does not parse", advice=f"It may hold {_GRAMMAR}.") from None
    except RecursionError:
        advice = "Write long chains of OR as IN (...)."
        raise SqlRefused(reason="the where= predicate is nested too deep", advice=advice) from None


class _Writer:
    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns

    def write(self, node: exp.Expression) -> str:
        kind = type(node)
        if any(value and name not in _ARGS for name, value in node.args.items()):
            raise self._refused(node)
        if isinstance(node, exp.Paren):
            return f"({self.write(node.this)})"
        if isinstance(node, (exp.And, exp.Or)):
            return f"({self.write(node.left)} {'AND' if isinstance(node, exp.And) else 'OR'} {self.write(node.right)})"
        if isinstance(node, exp.Not):
            return f"(NOT {self.write(node.this)})"
        if kind in _COMPARISONS:
            clause = f"{self.operand(node.this)} {_COMPARISONS[kind]} {self.operand(node.expression)}"
            return f"(NOT {clause})" if node.args.get("negate") else clause
        if isinstance(node, exp.In):
            return f"{self.operand(node.this)} IN ({', '.join(self.operand(e) for e in node.expressions)})"
        if isinstance(node, exp.Between):
            return (
                f"{self.operand(node.this)} BETWEEN {self.operand(node.args['low'])} AND {self.operand(node.args['high'])}"
            )
        if isinstance(node, exp.Is) and isinstance(node.expression, (exp.Null, exp.Boolean)):
            return f"{self.operand(node.this)} IS {self.operand(node.expression)}"
        if isinstance(node, (exp.Column, exp.Boolean)):
            return self.operand(node)
        raise self._refused(node)

    def operand(self, node: exp.Expression) -> str:
        if isinstance(node, exp.Column) and not node.table:
            if node.name not in self._columns:
                raise SqlRefused(
                    reason=f"the where= predicate names the column '{node.name[:80]}', which is not there",
                    advice=f"The columns are: {', '.join(self._columns)}.",
                )
            return f"`{node.name}`"
        if isinstance(node, exp.Literal):
            return "'" + node.this.replace("'", "''") + "'" if node.is_string else str(node.this)
        if isinstance(node, exp.Boolean):
            return "TRUE" if node.this else "FALSE"
        if isinstance(node, exp.Null):
            return "NULL"
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return f"-{node.this.this}"
        if isinstance(node, exp.Paren):
            return self.operand(node.this)
        if isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal) and node.this.is_string:
            target = str(node.to.this.value)
            literal = node.this.this.replace("'", "''")
            if target in ("TIMESTAMP", "TIMESTAMPNTZ"):  # sqlglot's name for a time without a zone
                return f"CAST('{literal}' AS TIMESTAMP)"
            if target == "DATE":
                return f"CAST('{literal}' AS DATE)"
        raise self._refused(node)

    def _refused(self, node: exp.Expression) -> SqlRefused:
        return SqlRefused(
            reason=f"the where= predicate holds {type(node).__name__.upper()}, which is outside its grammar",
            advice=f"It may hold {_GRAMMAR}; ask for the rest in store.sql().",
        )
