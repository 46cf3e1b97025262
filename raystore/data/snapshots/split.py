"""Which side of a split a row stands on: by a hash of its entity or group, by time, or as given.

Pure: a side hangs on the row's own values and the rule, never on other rows' order or workers. The one thing that is
learned from rows, the cuts of a split by fractions of time, is written into the rule, so that it holds when it is run
again. The SQL here says the same as `bucket` and `side`, vectorised.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SALT = "raystore-split-1"
SIDES = ("train", "val", "test")
DEFAULT_SPLIT: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
WAYS = ("entity", "group", "time", "given")


def bucket(entity: str, salt: str = SALT) -> float:
    """In [0, 1): the first 8 bytes, big-endian, of SHA-256(salt + NUL + entity), over 2^64."""
    digest = hashlib.sha256(salt.encode() + b"\0" + entity.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def side(entity: str, fractions: Mapping[str, float], salt: str = SALT) -> str:
    """The side whose range of the cumulative fractions, in the order train, val, test, holds the entity's bucket."""
    place = bucket(entity, salt)
    edges = _edges(fractions)
    return next((name for name, edge in edges if place < edge), edges[-1][0])  # the fractions sum to 1 but for rounding


def bucket_sql(entity: str, salt: str = SALT) -> str:
    """`bucket` of a text expression, in DuckDB's SQL, to the last bit."""
    digest = f"sha256('{salt}' || chr(0) || {entity})"
    return f"(CAST('0x' || left({digest}, 16) AS UBIGINT)::DOUBLE / 18446744073709551616::DOUBLE)"


def side_sql(entity: str, fractions: Mapping[str, float], salt: str = SALT) -> str:
    """`side` of a text expression, in DuckDB's SQL."""
    edges = _edges(fractions)
    place = bucket_sql(entity, salt)
    # A decimal literal would be another number than Python's: text is read as the nearest double.
    cases = " ".join(f"WHEN {place} < CAST('{edge!r}' AS DOUBLE) THEN '{name}'" for name, edge in edges[:-1])
    return f"CASE {cases} ELSE '{edges[-1][0]}' END" if cases else f"'{edges[-1][0]}'"


def _edges(fractions: Mapping[str, float]) -> list[tuple[str, float]]:
    named = [s for s in SIDES if fractions.get(s, 0.0) > 0]
    edges, edge = [], 0.0
    for name in named:
        edge += float(fractions[name])
        edges.append((name, edge))
    return edges


def split_problems(fractions: Mapping[str, float]) -> list[str]:
    """What is wrong with the fractions, as sentences; empty when they can be used."""
    problems = [f"'{name}' is no side of a split, expected {', '.join(SIDES)}" for name in fractions if name not in SIDES]
    strange = [n for n, f in fractions.items() if isinstance(f, bool) or not isinstance(f, (int, float))]
    problems += [
        f"the fraction of '{n}' is a {type(fractions[n]).__name__}, expected a number from 0 to 1" for n in strange
    ]
    problems += [
        f"the fraction of '{n}' is {f}, expected 0 to 1"
        for n, f in fractions.items()
        if n not in strange and not 0 <= f <= 1
    ]
    if problems:
        return problems
    total = sum(fractions.values())
    if not math.isclose(total, 1.0, abs_tol=1e-9):
        problems.append(f"the fractions sum to {total:g}, expected 1")
    elif not fractions.get("train"):
        problems.append("no row goes to train")
    return problems


@dataclass(frozen=True)
class SplitRule:
    """How rows are put on sides.

    `by` is "entity" or "group" (hashed, by `fractions`; `column` holds the group), "time" (`column` is compared with the
    cuts: before `val` is train, from `val` on val, from `test` on test; `fractions` places the cuts) or "given" (the
    SQL's column split).
    """

    by: str
    fractions: Mapping[str, float] | None = None
    column: str | None = None
    val: datetime | None = None
    test: datetime | None = None

    def record(self) -> dict[str, Any]:
        """As it stands in the spec; without the cuts that fractions placed, see `asked`."""
        found: dict[str, Any] = {"by": self.by}
        if self.fractions is not None:
            found["fractions"] = dict(self.fractions)
        if self.by in ("entity", "group"):
            found["salt"] = SALT
        if self.column is not None:
            found["column"] = self.column
        for name in ("val", "test"):
            cut = getattr(self, name)
            if cut is not None:
                found[name] = iso(cut)
        return found

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> SplitRule:
        cuts = {name: moment(record[name]) for name in ("val", "test") if name in record}
        return cls(record["by"], record.get("fractions"), record.get("column"), **cuts)

    @property
    def asked(self) -> SplitRule:
        """The rule as it was given: without cuts where fractions place them."""
        if self.by == "time" and self.fractions is not None:
            return SplitRule(self.by, self.fractions, self.column)
        return self

    def time_side_sql(self, time: str) -> str:
        """The side of a TIMESTAMP expression in UTC; both cuts may be missing."""
        cases = [("val", "train", self.val), ("test", "val" if self.val else "train", self.test)]
        whens = " ".join(
            f"WHEN {time} < TIMESTAMP '{cut.strftime('%Y-%m-%d %H:%M:%S.%f')}' THEN '{before}'"
            for _, before, cut in cases
            if cut is not None
        )
        last = "test" if self.test else "val" if self.val else "train"
        return f"CASE {whens} ELSE '{last}' END" if whens else f"'{last}'"


def parse_split(split: Any) -> tuple[SplitRule, list[str]]:
    """The rule and what is wrong with it, as sentences.

    Args:
        split: fractions by side (entities are hashed), {"by": "group", "column": c, fractions}, {"by": "time", "column": c,
            "val": moment, "test": moment} or with fractions, or "given". None is by entity; fractions are .8, .1, .1
            where none are given.
    """
    if split is None:
        return SplitRule("entity", dict(DEFAULT_SPLIT)), []
    if isinstance(split, str):
        problems = [] if split == "given" else [f"split='{split}' is no way to split, expected 'given' or a mapping"]
        return SplitRule("given"), problems
    if not isinstance(split, Mapping):
        return SplitRule("given"), [f"split= is a {type(split).__name__}, expected 'given' or a mapping"]
    given = dict(split)
    by = given.pop("by", "entity")
    if by not in WAYS:
        return SplitRule("given"), [f"a split cannot be by '{by}', expected {', '.join(WAYS)}"]
    column = given.pop("column", "time" if by == "time" else None)
    if by == "time":
        return _by_time(column, given)
    problems = []
    if by == "group" and not isinstance(column, str):
        problems.append("a split by group needs 'column': the column that holds the group")
    if by in ("entity", "given") and column is not None:
        problems.append(f"a split by {by} has no 'column'")
    if by == "given":
        problems += [f"a given split has no '{name}'" for name in given]
        return SplitRule("given"), problems
    fractions = given or DEFAULT_SPLIT
    problems += split_problems(fractions)
    return SplitRule(by, {s: fractions.get(s, 0.0) for s in SIDES}, column), problems


def _by_time(column: Any, given: dict[str, Any]) -> tuple[SplitRule, list[str]]:
    problems = [] if isinstance(column, str) else ["the 'column' of a split by time is no text"]
    moments = {n: v for n, v in given.items() if isinstance(v, (str, datetime))}
    if not moments:
        fractions = given or DEFAULT_SPLIT
        problems += split_problems(fractions)
        return SplitRule("time", {s: fractions.get(s, 0.0) for s in SIDES}, str(column)), problems
    cuts: dict[str, datetime] = {}
    for name, value in given.items():
        if name not in ("val", "test"):
            problems.append(f"'{name}' is no cut of a split by time, expected val and test (moments), or fractions")
        elif name not in moments:
            problems.append(f"the cut '{name}' is a {type(value).__name__}, expected a moment like '2026-03-01'")
        else:
            try:
                cuts[name] = moment(value)
            except ValueError:
                problems.append(f"the cut '{name}' is no moment, expected one like '2026-03-01' or '2026-03-01T12:00:00Z'")
    if len(cuts) == 2 and cuts["val"] >= cuts["test"]:
        problems.append("the cut 'val' is not before the cut 'test'")
    return SplitRule("time", None, str(column), **cuts), problems


def moment(value: str | datetime) -> datetime:
    """A time in UTC, to the microsecond; without a zone it is UTC. ValueError where a text is none in ISO 8601."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def iso(value: datetime) -> str:
    """As the specs keep it: 2026-03-01T12:00:00Z."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
