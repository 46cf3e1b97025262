"""Labels from events: `refund within 30 days of t.time`, and features as they stood at an item's time.

An event rule labels an item `refund` where an event follows it within the window, and `no_refund` where the window has
closed without one. Only events strictly after the item's time count, the window's end included. A row whose window is
still open is neither: it is left out and counted, also where an event came already, since keeping the early
positives alone would tilt the classes. So no event that comes later, and none before the item, changes a snapshot.

Written as DuckDB's ASOF joins: one sort of either side. Knows names and times, and no store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from raystore.data.where import parse_where

_UNITS = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
_MOST = 1_000_000
_RULE = re.compile(
    r"(?P<events>[a-z][a-z0-9_]*)\s+within\s+(?P<n>\S+)\s+(?P<unit>[a-z]+)\s+of\s+"
    r"(?P<of>[a-z_]\w*(?:\.[a-z_]\w*)?)(?:\s+where\s+(?P<where>.+))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class EventRule:
    """`events` within `window_s` seconds of the time `of` (a column, or alias.column), where `where` holds for the event."""

    events: str
    window_s: int
    of: str
    where: str | None = None

    @property
    def labels(self) -> tuple[str, str]:
        return self.events, f"no_{self.events}"


def parse_event_rule(text: str) -> tuple[EventRule, list[str]] | None:
    """The rule and what is wrong with it; None where the text is no such rule at all."""
    found = _RULE.fullmatch(text)
    if found is None:
        return None
    n, unit = found["n"], found["unit"].lower().removesuffix("s")
    problems = []
    if not (n.isascii() and n.isdecimal() and 0 < int(n) <= _MOST):
        problems.append(f"the window of the label rule is '{n[:20]}' long, expected a whole number from 1 to {_MOST:,}")
        n = "1"
    if unit not in _UNITS:
        problems.append(
            f"the window of the label rule is in '{found['unit'][:20]}', expected minutes, hours, days or weeks"
        )
        unit = "day"
    return EventRule(found["events"].lower(), int(n) * _UNITS[unit], found["of"], found["where"]), problems


def event_where(predicate: str, columns: Sequence[str]) -> str:
    """The rule's predicate in DuckDB's SQL.

    Raises:
        SqlRefused: it leaves the grammar of where= (where.py), or names a column the events do not have.
    """
    parse_where(predicate, columns)
    return str(sqlglot.parse_one(predicate, dialect="duckdb", into=exp.Condition).sql("duckdb", identify=True))


def event_label_sql(rule: EventRule, items: str, key: str, events: str, complete_to: str) -> str:
    """Every row of `items` (its `label` made anew) with `open`.

    Args:
        items: has `time` and the column `key`; events: has `key` and `time`. Both times are TIMESTAMP, UTC.
        complete_to: a TIMESTAMP in SQL: until then all events are known.

    `label` is one of `rule.labels`; `open` is true where the window ends after `complete_to`, null without a time.
    """
    yes, no = rule.labels
    end = f"i.time + to_seconds({rule.window_s})"
    return f"""
        SELECT i.* EXCLUDE (label), CASE WHEN e.time <= {end} THEN '{yes}' ELSE '{no}' END AS label,
               {end} > {complete_to} AS open
        FROM {items} i ASOF LEFT JOIN {events} e ON i.{key} = e.key AND i.time < e.time"""  # noqa: S608  checked names


def feature_sql(items: str, key: str, events: str, columns: Mapping[str, str]) -> str:
    """Every row of `items` with columns of the latest event of its key at or before its time; null where there is none.

    Args:
        events: has `key`, `time` and `held`, a struct.
        columns: name of the new column -> field of `held`, both as SQL reads them.
    """
    taken = ", ".join(f"e.held.{field} AS {name}" for name, field in columns.items())
    return f"""
        SELECT i.*, {taken} FROM {items} i
        ASOF LEFT JOIN {events} e ON i.{key} = e.key AND i.time >= e.time"""  # noqa: S608  checked names
