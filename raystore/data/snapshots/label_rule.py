"""Label rules: how the rows of an id become its one label. Text that is read, checked, kept by name, and written as SQL.

    None                 the SQL gives one row an id, with its label
    first, last          the label at the earliest or latest `at`; of several at one time the smallest
    majority             the most frequent label; of several the smallest
    any                  true where any row's label is true
    any:VALUE            true where any row's label is VALUE
    sql: EXPRESSION      an aggregate over the rows of an id, in DuckDB's SQL: sql: arg_max(label, at)
    EVENTS within ...    an event rule (event_label.py)
    NAME or NAME@2       a rule that was defined under a name

Knows no table and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from raystore.catalog import Catalog
from raystore.data.snapshots.event_label import EventRule, parse_event_rule
from raystore.data.snapshots.repeatable import unrepeatable
from raystore.errors import InvalidArguments, listed
from raystore.layout import check_name, numbers

KIND = "label_rule"
PLAIN = ("first", "last", "majority", "any")
_NAMED = re.compile(r"([a-z][a-z0-9_]*)(?:@(\d{1,9}))?")
_EXPECTED = "expected first, last, majority, any, 'any:VALUE', 'sql: EXPRESSION' or 'EVENTS within 30 days of t.time'"


# Aggregates that give one of the values they are given, and what may stand around them and around their argument.
_CHOOSE = (exp.ArgMax, exp.ArgMin, exp.Max, exp.Min, exp.First, exp.Last, exp.AnyValue, exp.Mode)
_AROUND = (exp.Filter, exp.IgnoreNulls, exp.Paren, exp.Cast)


@dataclass(frozen=True)
class LabelRule:
    """A rule as it was resolved: its text, the `name@n` it was found under, and its parts."""

    text: str | None
    named: str | None = None
    kind: str = "column"  # column, first, last, majority, any, value, sql, event
    value: str = ""
    event: EventRule | None = None

    @property
    def reads(self) -> list[str]:
        """The columns it needs of the SQL, `label` among them."""
        if self.kind == "event":
            return []
        if self.kind == "sql":
            tree = sqlglot.parse_one(self.value, dialect="duckdb", into=exp.Condition)
            return list(dict.fromkeys(column.name for column in tree.find_all(exp.Column)))
        return ["label", "at"] if self.kind in ("first", "last") else ["label"]

    @property
    def chooses(self) -> str | None:
        """The SQL of what it chooses among the rows of an id, by which they differ; None where that cannot be told."""
        if self.kind != "sql":
            return "label"
        tree = sqlglot.parse_one(self.value, dialect="duckdb", into=exp.Condition)
        while isinstance(tree, (*_AROUND, *_CHOOSE)):
            if isinstance(tree, _CHOOSE) and tree.this.find(exp.AggFunc) is None:
                return str(_bare(tree.this).sql("duckdb", identify=True))
            tree = tree.this
        return "label" if "label" in self.reads else None

    @property
    def gathers(self) -> bool:
        """Whether it takes several rows an id."""
        return self.kind not in ("column", "event")

    def aggregate(self, order: str) -> str:
        """DuckDB's SQL for the label of the rows of one id; `order` is a number, larger later (votes, for a majority)."""
        if self.kind == "sql":  # quoted, since names like `at` are words of DuckDB's grammar
            return str(sqlglot.parse_one(self.value, dialect="duckdb", into=exp.Condition).sql("duckdb", identify=True))
        if self.kind == "any":
            return "bool_or(label)"
        if self.kind == "value":
            literal = self.value.replace("'", "''")
            return f"bool_or(CAST(label AS VARCHAR) = '{literal}')"
        sign = "" if self.kind == "first" else "-"
        return f"min({{'order': {sign}({order}), 'label': label}}).label"


def parse_rule(text: str) -> tuple[LabelRule, list[str]]:
    """The rule a text says, and what is wrong with it; names of defined rules are not looked up."""
    stripped = text.strip()
    if stripped in PLAIN:
        return LabelRule(stripped, kind=stripped), []
    if stripped.startswith("any:"):
        return LabelRule(stripped, kind="value", value=stripped.removeprefix("any:")), []
    if stripped.startswith("sql:"):
        expression = stripped.removeprefix("sql:").strip()
        return LabelRule(stripped, kind="sql", value=expression), _expression_problems(expression)
    found = parse_event_rule(stripped)
    if found is not None:
        event, problems = found
        return LabelRule(stripped, kind="event", event=event), problems
    return LabelRule(stripped), [f"label='{stripped[:80]}' is no rule, {_EXPECTED}"]


def resolve_rule(catalog: Catalog, label: object) -> tuple[LabelRule, list[str]]:
    """The rule `label=` means now: its text is taken over, so that a name defined anew later changes nothing."""
    if label is None:
        return LabelRule(None), []
    if not isinstance(label, str):
        return LabelRule(None), [f"label= is a {type(label).__name__}, {_EXPECTED}"]
    named = _NAMED.fullmatch(label.strip())
    if named is None or label.strip() in PLAIN:
        return parse_rule(label)
    folder = catalog.layout.aliases(KIND, named[1])
    number = int(named[2]) if named[2] else (numbers(folder) or [0])[-1]
    record = catalog.record(folder, number)
    if record is None:
        known = rule_names(catalog)
        also = f", or a rule defined before ({listed(known)})" if known else ""
        return LabelRule(None), [f"label='{label.strip()[:80]}' is no rule, {_EXPECTED}{also}"]
    rule, problems = parse_rule(str(record["rule"]))
    return LabelRule(rule.text, f"{named[1]}@{number}", rule.kind, rule.value, rule.event), problems


def define_rule(catalog: Catalog, name: str, expression: str) -> str:
    """`name@n`, under which label= finds the rule from now on; the same text again makes no new number.

    Args:
        expression: any rule but a name: "majority", "any:refund", "sql: arg_max(label, at)", "refund within 30 days of t.time".

    Raises:
        InvalidName; InvalidArguments: the name is a rule's own, or the text is no rule.
    """
    check_name("a label rule", name)
    rule, problems = parse_rule(expression)
    if name in PLAIN:
        problems.insert(0, f"'{name}' is a rule of its own")
    if problems:
        raise InvalidArguments(call=f"define_rule('{name}')", problems=problems)
    latest = catalog.latest(catalog.layout.aliases(KIND, name))
    if latest is not None and latest[1]["rule"] == rule.text:
        return f"{name}@{latest[0]}"
    return f"{name}@{catalog.set_alias(KIND, name, {'rule': rule.text})}"


def rule_names(catalog: Catalog) -> list[str]:
    return catalog.alias_names(KIND)


def _bare(argument: exp.Expression) -> exp.Expression:
    return argument.this if isinstance(argument, exp.Order) else argument


def _expression_problems(expression: str) -> list[str]:
    """An aggregate over the rows of an id, and nothing that looks elsewhere."""
    try:
        tree = sqlglot.parse_one(expression, dialect="duckdb", into=exp.Condition)
    except sqlglot.errors.SqlglotError:
        return ["the expression of the label rule does not parse as one SQL expression"]
    problems = [f"the label rule {problem}" for problem in unrepeatable(tree, sets=True)]
    if tree.find(exp.Query, exp.Window, exp.Placeholder, exp.Parameter):
        problems.append(
            "the label rule holds a query, a window or a parameter, expected an aggregate over the rows of an id"
        )
    stars = [star for star in tree.find_all(exp.Star) if not isinstance(star.parent, exp.Count)]
    if stars or any(column.table for column in tree.find_all(exp.Column)):
        problems.append("the label rule names a column otherwise than by its plain name")
    return problems


def label_rule_columns(rule: LabelRule, given: Sequence[str]) -> list[str]:
    """What the rule needs and the SQL does not give, as sentences."""
    missing = [c for c in rule.reads if c not in given]
    because = {"at": f", by which label='{rule.kind}' orders the rows of an id"}
    return [f"its SQL gives no column '{c}'{because.get(c, '')}" for c in missing]
