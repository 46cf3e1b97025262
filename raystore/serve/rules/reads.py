"""What the rules in shadow look at: that much of a request's facts, and no more, is told to the process that looks.

A condition says what it names. A hook does not, and is told every fact and column but the text. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from raystore.data.where import Column, parse_predicate
from raystore.serve.rules.facts import Facts, Stage, is_column, unquoted
from raystore.serve.spec.rules import AfterRule, BeforeRule, RulesSpec


@dataclass(frozen=True)
class Reads:
    """Names of facts, and of the request's own columns; or everything."""

    facts: frozenset[str]
    columns: frozenset[str]
    everything: bool

    def of(self, facts: Facts) -> dict[str, Any]:
        if self.everything:
            return {**facts, "text": None}
        columns = facts["columns"]
        return {
            **{name: facts[name] for name in self.facts if name in facts},
            "columns": {name: columns[name] for name in self.columns if name in columns},
        }


def reads_of(spec: RulesSpec) -> Reads:
    """Of rules that are known to be right."""
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for rule in spec.shadow:
        stage: Stage = "shadow before" if isinstance(rule, BeforeRule) else "shadow after"
        for name, quoted in _names(rule):
            found[is_column(name, stage, quoted=quoted)].add(name)
    hooks = any(rule.call is not None for rule in spec.shadow)
    return Reads(frozenset(found[False]), frozenset(found[True]), hooks)


def _names(rule: BeforeRule | AfterRule) -> Iterator[tuple[str, bool]]:
    """Each name, and whether it stands in double quotes."""
    if rule.when is not None:
        yield from ((column.name, column.quoted) for column in _columns(parse_predicate(rule.when)))
    if isinstance(rule, BeforeRule):
        yield from map(unquoted, rule.names)


def _columns(node: object) -> Iterator[Column]:
    if isinstance(node, Column):
        yield node
    elif isinstance(node, tuple):
        for each in node:
            yield from _columns(each)
    elif is_dataclass(node) and not isinstance(node, type):
        for each in fields(node):
            yield from _columns(getattr(node, each.name))
