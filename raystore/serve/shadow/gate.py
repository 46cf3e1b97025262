"""The gate a shadow passes before it is promoted: `agreement > .97 and accuracy_gain.low > 0 and n_labelled >= 500`.

Comparisons of a report's figures (metrics.py) with numbers and with each other, joined by and, or, not and parentheses. Python's own
parser reads the text, and only these forms are taken from its tree; nothing is ever evaluated by Python. A figure without a value
makes the gate fail, wherever it stands. Pure; knows reports by their figures.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from raystore.errors import InvalidArguments, Quoting
from raystore.serve.shadow.metrics import METRICS
from raystore.serve.spec.base import Strict

_LONGEST = 1_000
_NAMES_LISTED = 8
_OPERATORS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
}
_BY_SIGN = dict(_OPERATORS.values())

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Figure:
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Number:
    value: float

    def __str__(self) -> str:
        return str(int(self.value)) if self.value.is_integer() and abs(self.value) < 1e15 else repr(self.value)


@dataclass(frozen=True)
class Comparison:
    """`.5 < agreement <= 1`: one operand more than signs."""

    operands: tuple[Figure | Number, ...]
    signs: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.operands[0]) + "".join(f" {s} {o}" for s, o in zip(self.signs, self.operands[1:], strict=True))


@dataclass(frozen=True)
class Joined:
    """Two or more clauses, all of which (`and`) or one of which (`or`) must hold."""

    word: str
    clauses: tuple[Comparison | Joined | Not, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(f"({c})" if isinstance(c, Joined) else str(c) for c in self.clauses)


@dataclass(frozen=True)
class Not:
    clause: Comparison | Joined | Not

    def __str__(self) -> str:
        return f"not ({self.clause})" if isinstance(self.clause, Joined) else f"not {self.clause}"


Expression = Comparison | Joined | Not


class Clause(Strict):
    """One comparison of a gate, its figures' values, and whether it held; None where a figure has no value."""

    text: str
    values: dict[str, float | None]
    held: bool | None


class Verdict(Strict):
    """What a gate says of a report. `missing`: a sentence for each figure without a value."""

    gate: str
    live: str
    shadow: str
    passed: bool
    clauses: tuple[Clause, ...]
    missing: tuple[str, ...]

    def text(self) -> str:
        """For a terminal: the verdict, then a line for each comparison."""
        lines = [f"{self.shadow} {'passes' if self.passed else 'does not pass'}: {self.gate}"]
        for clause in self.clauses:
            held = {True: "holds", False: "does not hold", None: "cannot be told"}[clause.held]
            values = ", ".join(f"{name} = {_shown(value)}" for name, value in clause.values.items())
            lines.append(f"  {clause.text}: {held}" + (f" ({values})" if values else ""))
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.missing)])

    def __str__(self) -> str:
        return self.text()


class Reported(Protocol):
    """What a gate needs of a shadow report."""

    @property
    def live(self) -> str: ...
    @property
    def shadow(self) -> str: ...
    def metrics(self) -> Figures: ...
    def missing(self, name: str) -> str: ...


@dataclass(frozen=True)
class Gate:
    expression: Expression

    @classmethod
    def parse(cls, text: str) -> Gate:
        """
        Raises:
            InvalidArguments: the text is no gate; an unknown figure is named with the nearest, and the figures there are.
        """
        problems: list[str] = []
        expression = _read(text, problems)
        if expression is not None and not cls(expression).figures:
            problems.append("it names no figure of a shadow report, so it would always say the same")
        if problems or expression is None:
            raise InvalidArguments(call="gate", problems=list(dict.fromkeys(problems)))
        return cls(expression)

    def __str__(self) -> str:
        return str(self.expression)

    @property
    def figures(self) -> list[str]:
        """The names it speaks of, in the order in which they come."""
        return list(
            dict.fromkeys(o.name for c in _comparisons(self.expression) for o in c.operands if isinstance(o, Figure))
        )

    def check(self, report: Reported) -> Verdict:
        values = report.metrics()
        missing = [name for name in self.figures if _value(values, name) is None]
        clauses = [_clause(comparison, values) for comparison in _comparisons(self.expression)]
        return Verdict(
            gate=str(self),
            live=report.live,
            shadow=report.shadow,
            passed=not missing and _holds(self.expression, values),
            clauses=tuple(clauses),
            missing=tuple(f"{name} has no value: {report.missing(name)}." for name in missing),
        )


# --- reading ------------------------------------------------------------------------------------------------------------


def _read(text: str, problems: list[str]) -> Expression | None:
    if len(text) > _LONGEST:
        problems.append(f"it has {len(text):,} characters, expected at most {_LONGEST:,}")
        return None
    text = " ".join(text.split())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, about texts that are refused below
            tree = ast.parse(text, mode="eval").body
        return _expression(tree, problems)
    except SyntaxError as error:
        problems.append(f"it cannot be read at character {error.offset or len(text) + 1}")
    except (ValueError, RecursionError, MemoryError):
        problems.append("it cannot be read")
    return None


def _expression(node: ast.expr, problems: list[str]) -> Expression | None:
    match node:
        case ast.BoolOp(op=op, values=values):
            clauses = [_expression(value, problems) for value in values]
            word = "and" if isinstance(op, ast.And) else "or"
            return None if None in clauses else Joined(word, tuple(c for c in clauses if c is not None))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            clause = _expression(operand, problems)
            return None if clause is None else Not(clause)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [_operand(each, problems) for each in (left, *comparators)]
            if unknown := [op for op in ops if type(op) not in _OPERATORS]:
                problems.append(f"'{_SIGNS_REFUSED.get(type(unknown[0]), '?')}' is none of {', '.join(_BY_SIGN)}")
                return None
            if None in operands:
                return None
            return Comparison(tuple(o for o in operands if o is not None), tuple(_OPERATORS[type(op)][0] for op in ops))
        case _:
            problems.append(_quoting(node, "is no comparison such as agreement > 0.97"))
            return None


_SIGNS_REFUSED = {ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not"}


def _operand(node: ast.expr, problems: list[str]) -> Figure | Number | None:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value) if _is_finite(value):
            return Number(float(value))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if _is_finite(value):
            return Number(-float(value))
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            if name in METRICS:
                return Figure(name)
            if name is not None:
                problems.append(_quoting(node, _unknown(name)))
                return None
    problems.append(_quoting(node, "is neither a figure of the report nor a number"))
    return None


def _is_finite(value: float) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _dotted(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            before = _dotted(value)
            return None if before is None else f"{before}.{attr}"
    return None


def _quoting(node: ast.expr, reason: str) -> Quoting:
    """What is wrong with a part of the gate: the part, or where it begins, and the reason."""
    text = ast.unparse(node)
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return Quoting(f"'{shown}' {reason}", unquoted=f"what begins at character {node.col_offset + 1} {reason}")


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.5)
    tops = [figure for figure in METRICS if "." not in figure]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"is no figure of a shadow report: {hint}there are {', '.join(tops)}, and their parts (docs/shadows.md)"


# --- checking -----------------------------------------------------------------------------------------------------------


def _comparisons(expression: Expression) -> Iterator[Comparison]:
    if isinstance(expression, Comparison):
        yield expression
    elif isinstance(expression, Not):
        yield from _comparisons(expression.clause)
    else:
        for clause in expression.clauses:
            yield from _comparisons(clause)


def _holds(expression: Expression, values: Figures) -> bool:
    if isinstance(expression, Not):
        return not _holds(expression.clause, values)
    if isinstance(expression, Joined):
        return (all if expression.word == "and" else any)(_holds(clause, values) for clause in expression.clauses)
    numbers = [o.value if isinstance(o, Number) else _value(values, o.name) for o in expression.operands]
    return all(
        a is not None and b is not None and _BY_SIGN[sign](a, b)
        for a, sign, b in zip(numbers, expression.signs, numbers[1:], strict=False)
    )


def _clause(comparison: Comparison, values: Figures) -> Clause:
    named = {o.name: _value(values, o.name) for o in comparison.operands if isinstance(o, Figure)}
    held = None if None in named.values() else _holds(comparison, values)
    return Clause(text=str(comparison), values=named, held=held)


def _value(values: Figures, name: str) -> float | None:
    """NaN is no value: it would make `not (x < 0)` hold."""
    value = values.get(name)
    return None if value is None or math.isnan(value) else value


def _shown(value: float | None) -> str:
    return "no value" if value is None else f"{value:.6g}"
