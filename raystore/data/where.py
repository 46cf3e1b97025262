"""The one small predicate grammar: what `where=` means everywhere.

    column (= != < <= > >=) literal, IN (...), [NOT] BETWEEN, [NOT] LIKE, IS [NOT] NULL, AND, OR, NOT, parentheses
    literals: numbers, 'text', TRUE, FALSE, NULL, TIMESTAMP '...', DATE '...'

A predicate is parsed by sqlglot and read into a small tree, node by node; what is not in the grammar is refused, so it
can call nothing and needs no sandbox. `parse_where` writes the tree as a Lance filter. Knows column names, nothing of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

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


@dataclass(frozen=True)
class Column:
    name: str
    quoted: bool  # whether it stood in double quotes


@dataclass(frozen=True)
class Constant:
    """`text` is a number as it was written, a text without its quotes, TRUE, FALSE or NULL."""

    kind: Literal["number", "text", "flag", "null", "TIMESTAMP", "DATE"]
    text: str


Operand = Column | Constant


@dataclass(frozen=True)
class Holds:
    """A column or a literal that is a condition by itself."""

    operand: Operand


@dataclass(frozen=True)
class Compare:
    sign: str  # = != < <= > >= LIKE
    left: Operand
    right: Operand


@dataclass(frozen=True)
class In:
    operand: Operand
    options: tuple[Operand, ...]


@dataclass(frozen=True)
class Between:
    operand: Operand
    low: Operand
    high: Operand


@dataclass(frozen=True)
class Is:
    operand: Operand
    value: Constant  # NULL, TRUE or FALSE


@dataclass(frozen=True)
class Not:
    of: Predicate


@dataclass(frozen=True)
class Joined:
    word: Literal["AND", "OR"]
    left: Predicate
    right: Predicate


Predicate = Holds | Compare | In | Between | Is | Not | Joined


def parse_where(text: str, columns: Iterable[str]) -> str:
    """The predicate as a Lance filter.

    Args:
        text: the predicate, e.g. "product = 'card' AND time >= TIMESTAMP '2026-01-01'".
        columns: the columns it may name.

    Raises:
        SqlRefused: it does not parse, leaves the grammar, or names a column that is not there.
    """
    return _parse_where(text, tuple(sorted(columns)))


@lru_cache(maxsize=1024)
def _parse_where(text: str, columns: tuple[str, ...]) -> str:
    return _Lance(columns).write(parse_predicate(text))


def parse_predicate(
    text: str, *, what: str = "the where= predicate", rest: str = "ask for the rest in store.sql()"
) -> Predicate:
    """The predicate as a tree.

    Args:
        what: what error sentences call it.
        rest: what they say of a wish that is outside the grammar.

    Raises:
        SqlRefused: it does not parse, or leaves the grammar.
    """
    try:
        return _Reader(what, rest).predicate(sqlglot.parse_one(text, dialect="duckdb", into=exp.Condition))
    except sqlglot.errors.SqlglotError:
        raise SqlRefused(reason=f"{what} does not parse", advice=f"It may hold {_GRAMMAR}.") from None
    except RecursionError:
        raise SqlRefused(reason=f"{what} is nested too deep", advice="Write long chains of OR as IN (...).") from None


class _Reader:
    """sqlglot's tree as ours; SqlRefused where ours has no such node."""

    def __init__(self, what: str, rest: str) -> None:
        self._what = what
        self._rest = rest

    def predicate(self, node: exp.Expression) -> Predicate:
        kind = type(node)
        if any(value and name not in _ARGS for name, value in node.args.items()):
            raise self._refused(node)
        if isinstance(node, exp.Paren):
            return self.predicate(node.this)
        if isinstance(node, (exp.And, exp.Or)):
            word: Literal["AND", "OR"] = "AND" if isinstance(node, exp.And) else "OR"
            return Joined(word, self.predicate(node.left), self.predicate(node.right))
        if isinstance(node, exp.Not):
            return Not(self.predicate(node.this))
        if kind in _COMPARISONS:
            found = Compare(_COMPARISONS[kind], self.operand(node.this), self.operand(node.expression))
            return Not(found) if node.args.get("negate") else found
        if isinstance(node, exp.In) and node.expressions:
            return In(self.operand(node.this), tuple(self.operand(option) for option in node.expressions))
        if isinstance(node, exp.Between):
            return Between(self.operand(node.this), self.operand(node.args["low"]), self.operand(node.args["high"]))
        if isinstance(node, exp.Is) and isinstance(node.expression, (exp.Null, exp.Boolean)):
            return Is(self.operand(node.this), self._constant(node.expression))
        if isinstance(node, (exp.Column, exp.Boolean)):
            return Holds(self.operand(node))
        raise self._refused(node)

    def operand(self, node: exp.Expression) -> Operand:
        if isinstance(node, exp.Paren):
            return self.operand(node.this)
        if isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier) and not node.table:
            return Column(node.name, bool(node.this.quoted))
        return self._constant(node)

    def _constant(self, node: exp.Expression) -> Constant:
        if isinstance(node, exp.Literal):
            return Constant("text" if node.is_string else "number", str(node.this))
        if isinstance(node, exp.Boolean):
            return Constant("flag", "TRUE" if node.this else "FALSE")
        if isinstance(node, exp.Null):
            return Constant("null", "NULL")
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return Constant("number", f"-{node.this.this}")
        if isinstance(node, exp.Cast) and isinstance(node.this, exp.Literal) and node.this.is_string:
            target = str(node.to.this.value)
            if target in ("TIMESTAMP", "TIMESTAMPNTZ"):  # sqlglot's name for a time without a zone
                return Constant("TIMESTAMP", node.this.this)
            if target == "DATE":
                return Constant("DATE", node.this.this)
        raise self._refused(node)

    def _refused(self, node: exp.Expression) -> SqlRefused:
        return SqlRefused(
            reason=f"{self._what} holds {type(node).__name__.upper()}, which is outside its grammar",
            advice=f"It may hold {_GRAMMAR}; {self._rest}.",
        )


class _Lance:
    """The tree as a Lance filter over these columns."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns

    def write(self, node: Predicate) -> str:
        if isinstance(node, Joined):
            return f"({self.write(node.left)} {node.word} {self.write(node.right)})"
        if isinstance(node, Not):
            return f"(NOT {self.write(node.of)})"
        if isinstance(node, Compare):
            return f"{self._operand(node.left)} {node.sign} {self._operand(node.right)}"
        if isinstance(node, In):
            return f"{self._operand(node.operand)} IN ({', '.join(self._operand(option) for option in node.options)})"
        if isinstance(node, Between):
            return f"{self._operand(node.operand)} BETWEEN {self._operand(node.low)} AND {self._operand(node.high)}"
        if isinstance(node, Is):
            return f"{self._operand(node.operand)} IS {node.value.text}"
        return self._operand(node.operand)

    def _operand(self, operand: Operand) -> str:
        if isinstance(operand, Column):
            if operand.name not in self._columns:
                raise SqlRefused(
                    reason=f"the where= predicate names the column '{operand.name[:80]}', which is not there",
                    advice=f"The columns are: {', '.join(self._columns)}.",
                )
            return f"`{operand.name}`"
        if operand.kind in ("number", "flag", "null"):
            return operand.text
        text = "'" + operand.text.replace("'", "''") + "'"
        return text if operand.kind == "text" else f"CAST({text} AS {operand.kind})"
