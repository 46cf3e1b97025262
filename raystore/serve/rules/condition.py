"""A condition in the grammar of `where=` as a function over facts, with SQL's three-valued logic.

    True, False, or None where SQL says NULL; a rule's condition holds where it is True.

The meaning is DuckDB's, in UTC; a property test compares the two. It differs in one thing: values of two kinds that cannot be compared
(a text with a number) make NULL, where DuckDB would convert the one or stop with an error. Columns of a request come as JSON, which
has no times, so a text that is compared with a time is read as ISO 8601 first. Costs 0.1 to 0.5 us for each comparison.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

from raystore.data.rows import as_time
from raystore.data.where import (
    Between,
    Column,
    Compare,
    Constant,
    In,
    Is,
    Joined,
    Not,
    Operand,
    Predicate,
    parse_predicate,
)
from raystore.errors import SqlRefused
from raystore.serve.rules.facts import Facts, Read, Stage, reader
from raystore.serve.rules.like import like

Test = Callable[[Facts], bool | None]

_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
# What Python compares with a constant as SQL does, by the constant's type.
_PLAIN: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int, float), float: (int, float)}
_LABELS = ("label", "second")  # facts that are labels of the head
_FLIPPED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?")


def compile_condition(text: str, stage: Stage) -> Test:
    """The condition as a function.

    Raises:
        SqlRefused: it does not parse, leaves the grammar, names what is not known at this stage, or holds a time that is none.
    """
    found = parse_predicate(text, what="its condition", rest="ask for the rest in a hook (call:)")
    return _Compiler(stage).test(found)


def labels_named(text: str) -> list[str]:
    """The labels that a condition compares `label` or `second` with, as it names them; none of one that does not parse."""
    try:
        return list(dict.fromkeys(_named(parse_predicate(text, what="its condition"))))
    except SqlRefused:
        return []


def _named(node: Predicate) -> Iterator[str]:
    if isinstance(node, Joined):
        yield from (*_named(node.left), *_named(node.right))
    elif isinstance(node, Not):
        yield from _named(node.of)
    elif isinstance(node, In) or (isinstance(node, Compare) and node.sign in ("=", "!=")):
        parts = (node.operand, *node.options) if isinstance(node, In) else (node.left, node.right)
        if any(isinstance(part, Column) and part.name in _LABELS and not part.quoted for part in parts):
            yield from (part.text for part in parts if isinstance(part, Constant) and part.kind == "text")


class _Compiler:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def test(self, node: Predicate) -> Test:
        if isinstance(node, Joined):
            tests = [self.test(part) for part in _chain(node, node.word)]
            return _all(tests) if node.word == "AND" else _any(tests)
        if isinstance(node, Not):
            return _not(self.test(node.of))
        if isinstance(node, Is):
            read, value = self._read(node.operand), _value(node.value)
            return lambda facts: read(facts) is value
        if isinstance(node, Between):
            return _all([self._compare(">=", node.operand, node.low), self._compare("<=", node.operand, node.high)])
        if isinstance(node, In):
            return self._in(node)
        if isinstance(node, Compare):
            return self._like(node) if node.sign == "LIKE" else self._compare(node.sign, node.left, node.right)
        read = self._read(node.operand)
        return lambda facts: value if isinstance(value := read(facts), bool) else None

    def _read(self, operand: Operand) -> Read:
        if isinstance(operand, Constant):
            value = _value(operand)
            return lambda _: value
        try:
            return reader(operand.name, self._stage, quoted=operand.quoted)
        except ValueError as error:
            raise SqlRefused(reason=f"its condition names {error}") from None

    def _compare(self, sign: str, left: Operand, right: Operand) -> Test:
        if isinstance(left, Constant) and isinstance(right, Column):
            return self._compare(_FLIPPED[sign], right, left)
        read, compare = self._read(left), _SIGNS[sign]
        if not isinstance(right, Constant):
            other = self._read(right)
            return lambda facts: _compared(compare, read(facts), other(facts))
        value = _value(right)
        if value is None:
            return lambda _: None
        plain = _PLAIN.get(type(value), ())

        def test(facts: Facts) -> bool | None:
            found = read(facts)
            if type(found) in plain and found == found:  # nearly always; all but NaN equals itself
                return compare(found, value)
            return _compared(compare, found, value)

        return test

    def _in(self, node: In) -> Test:
        slowly = _any([self._compare("=", node.operand, option) for option in node.options])
        if not all(isinstance(option, Constant) and option.kind == "text" for option in node.options):
            return slowly
        read = self._read(node.operand)
        options = frozenset(_value(option) for option in node.options if isinstance(option, Constant))
        return lambda facts: found in options if type(found := read(facts)) is str else slowly(facts)

    def _like(self, node: Compare) -> Test:
        read = self._read(node.left)
        if isinstance(node.right, Constant) and node.right.kind == "text":
            matches = like(node.right.text)
            return lambda facts: matches(found) if isinstance(found := read(facts), str) else None
        pattern = self._read(node.right)

        def test(facts: Facts) -> bool | None:
            found, asked = read(facts), pattern(facts)
            return like(asked)(found) if isinstance(found, str) and isinstance(asked, str) else None

        return test


def _chain(node: Predicate, word: str) -> list[Predicate]:
    if isinstance(node, Joined) and node.word == word:
        return _chain(node.left, word) + _chain(node.right, word)
    return [node]


def _all(tests: Sequence[Test]) -> Test:
    def test(facts: Facts) -> bool | None:
        said: bool | None = True
        for each in tests:
            found = each(facts)
            if found is False:
                return False
            if found is None:
                said = None
        return said

    return test


def _any(tests: Sequence[Test]) -> Test:
    def test(facts: Facts) -> bool | None:
        said: bool | None = False
        for each in tests:
            found = each(facts)
            if found is True:
                return True
            if found is None:
                said = None
        return said

    return test


def _not(of: Test) -> Test:
    return lambda facts: None if (found := of(facts)) is None else not found


def _compared(compare: Callable[[Any, Any], bool], left: object, right: object) -> bool | None:
    """NULL where one is, or where their kinds cannot be compared."""
    kinds = _kind(left), _kind(right)
    if None in kinds:
        return None
    if "time" in kinds and kinds != ("time", "time"):
        if "text" not in kinds:
            return None
        kinds = ("time", "time")
    if kinds[0] != kinds[1]:
        return None
    if kinds[0] == "time":
        try:
            return compare(as_time(left), as_time(right))
        except ValueError:  # the text is no time
            return None
    if kinds[0] == "number":
        # NaN is equal to itself and above every number, as DuckDB and Lance order them.
        return compare((left != left, 0 if left != left else left), (right != right, 0 if right != right else right))
    return compare(left, right)


def _kind(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, (int, float)):
        return "number"
    return "time" if isinstance(value, date) else None  # a datetime is a date


def _value(constant: Constant) -> Any:
    text = constant.text
    if constant.kind == "text":
        return text
    if constant.kind in ("flag", "null"):
        return {"TRUE": True, "FALSE": False, "NULL": None}[text]
    if constant.kind == "number":
        return int(text) if text.lstrip("-").isdigit() else float(text)
    try:
        if not (_DAY if constant.kind == "DATE" else _MOMENT).fullmatch(text):
            raise ValueError
        return as_time(text)
    except ValueError:
        wanted = "2026-01-31" if constant.kind == "DATE" else "2026-01-31 12:30:00"
        reason = f"its condition has a {constant.kind} that is none"
        raise SqlRefused(reason=reason, advice=f"Write it as {constant.kind} '{wanted}', in UTC.") from None
