"""The sides of a snapshot's rows: column `side`, and what is left out or refused so that no entity stands on two."""

# ruff: noqa: S608  the SQL holds the split rule's own numbers and moments; nothing of a row

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from raystore.data.snapshots.made import Making
from raystore.data.snapshots.split import SplitRule, side_sql
from raystore.data.snapshots.work import few

_EARLIER = "their entity stands on an earlier side"


def put_on_sides(m: Making, given: bool) -> None:
    """Add the column `side` by the plan's split rule.

    Args:
        given: whether the SQL gives sides, which go before the hash.

    Raises:
        SnapshotRefused: an entity on two given sides or in two groups, a row whose side is not given.
    """
    rule = m.plan.split
    if rule.by == "time":
        _by_time(m, rule)
    elif rule.by == "group":
        _by_group(m, rule)
    elif rule.by == "given":
        n = int(m.work.value("SELECT count(*) FROM rows WHERE given IS NULL AND out IS NULL"))
        m.refuse([f"{n:,} rows have no side in column split, and split='given' gives them none"] if n else [])
        m.work.step("rows", "SELECT *, given AS side FROM rows")
    else:
        hashed = side_sql("entity", rule.fractions or {})
        m.work.step("rows", f"SELECT *, {f'coalesce(given, {hashed})' if given else hashed} AS side FROM rows")
    if given:
        torn = "FROM (SELECT entity FROM rows WHERE out IS NULL GROUP BY entity HAVING min(side) <> max(side))"
        n, shown = m.work.some("entity", torn)
        m.refuse([f"{n:,} entities stand on two sides of the given split ({few(n, shown)})"] if n else [])


def _by_group(m: Making, rule: SplitRule) -> None:
    m.leave_out("they have no group", "grp IS NULL")
    two = "FROM (SELECT entity FROM rows WHERE out IS NULL GROUP BY entity HAVING min(grp) <> max(grp))"
    n, shown = m.work.some("entity", two)
    advice = "leave them out, or split by entity"
    m.refuse([f"{n:,} entities stand in two groups of '{rule.column}' ({few(n, shown)}); {advice}"] if n else [])
    m.work.step("rows", f"SELECT *, {side_sql('grp', rule.fractions or {})} AS side FROM rows")


def _by_time(m: Making, rule: SplitRule) -> None:
    """An entity stands where its first row does; rows of it that fall on a later side are left out.

    Made again, it stands where it stood, since its first row may be erased; and where none of its rows is left, but rows were
    left out as later than their entity's first, its rows are among these.
    """
    m.leave_out("they have no time to split by", "split_time IS NULL")
    if rule.fractions is not None and m.known is None:
        rule = m.split = _with_cuts(m, rule, rule.fractions)
    first = f"SELECT entity, {rule.time_side_sql('min(split_time)')} AS side FROM rows WHERE out IS NULL GROUP BY entity"
    if m.frozen is not None and m.known is not None:
        m.work.connection.register("frozen", m.frozen.select(["entity", "split"]))
        m.work.connection.execute("CREATE TABLE stood AS SELECT entity, min(split) AS side FROM frozen GROUP BY entity")
        m.work.connection.unregister("frozen")
        learned = "" if _EARLIER in m.known["left_out"] else f"UNION ALL FROM ({first}) ANTI JOIN stood USING (entity)"
        first = f"FROM stood {learned}"
    m.work.step(
        "rows",
        f"""SELECT r.*, f.side, {rule.time_side_sql("r.split_time")} IS DISTINCT FROM f.side AS later
            FROM rows r LEFT JOIN ({first}) f ON f.entity = r.entity""",
    )
    m.leave_out(_EARLIER, "later")


def _with_cuts(m: Making, rule: SplitRule, fractions: Mapping[str, float]) -> SplitRule:
    """The rule with its cuts: the times of the rows with which val and test begin, in the order of time."""
    n = int(m.work.value("SELECT count(*) FROM rows WHERE out IS NULL"))
    cuts: dict[str, datetime] = {}
    before = fractions["train"]
    for side in ("val", "test"):
        place = int(n * before + 1e-9)
        before += fractions[side]
        if fractions[side] > 0 and place < n:
            ordered = "SELECT epoch_us(split_time) FROM rows WHERE out IS NULL ORDER BY split_time"
            since_1970 = timedelta(microseconds=int(m.work.value(f"{ordered} LIMIT 1 OFFSET {place}")))
            cuts[side] = datetime(1970, 1, 1, tzinfo=UTC) + since_1970
    return SplitRule(rule.by, fractions, rule.column, **cuts)
