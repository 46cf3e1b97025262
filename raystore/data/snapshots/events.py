"""Labels and features of a snapshot that come from event tables: what is read of them, and the joins."""

# ruff: noqa: S608  names that were checked against the catalog stand quoted; nothing of a row stands in the SQL

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from raystore.data.snapshots.event_label import EventRule, event_label_sql, event_where, feature_sql
from raystore.data.snapshots.made import Making
from raystore.data.snapshots.plan import Events, open_events
from raystore.data.snapshots.work import quoted, stamp, utc

log = logging.getLogger("raystore")


def label_by_events(m: Making) -> None:
    """Make the column `label` by the event rule; rows without a time or key, and those with an open window, are left out."""
    rule = m.plan.label.event
    if rule is None:
        return
    events = open_events(m.catalog, m.plan, rule.events)
    where = f"WHERE {event_where(rule.where, events.columns)}" if rule.where else ""
    result = m.engine.run(
        f"SELECT {quoted(events.key)} AS key, {quoted(events.time)} AS time FROM {quoted(events.name)} {where}",
        versions=m.plan.versions,
    )
    until = m.plan.complete_to or m.plan.as_of
    complete_to = stamp(until)
    _look_for_stale_events(m, events, rule, until)
    m.work.take(
        "events",
        f"""SELECT CAST(key AS VARCHAR) AS key, {utc("time")} AS time FROM incoming
            WHERE CAST(key AS VARCHAR) IN (SELECT {events.joins} FROM rows) AND {utc("time")} <= {complete_to}""",
        result,
    )
    m.work.step("rows", event_label_sql(rule, "rows", events.joins, "events", complete_to))
    m.work.connection.execute("DROP TABLE events")
    m.leave_out("they have no time", "time IS NULL")
    m.leave_out("they have no subject", f"{events.joins} IS NULL")
    m.leave_out("the window had not closed", "open")


def _look_for_stale_events(m: Making, events: Events, rule: EventRule, until: datetime) -> None:
    """Note in the spec, and warn, where the newest event is older than a whole window: it may be the data that ends there."""
    result = m.engine.run(
        f"SELECT max({quoted(events.time)}) AS newest FROM {quoted(events.name)} WHERE {quoted(events.time)} <= $until",
        {"until": until},
        versions=m.plan.versions,
    )
    newest = result.to_arrow().column("newest")[0].as_py()
    newest = newest.replace(tzinfo=UTC) if newest is not None and newest.tzinfo is None else newest
    if newest is None or until - newest > timedelta(seconds=rule.window_s):
        last = "no event" if newest is None else f"no event since {newest:%Y-%m-%d %H:%M}"
        m.learned["stale_events"] = (
            f"'{rule.events}' holds {last}, and counts as complete until {until:%Y-%m-%d %H:%M} UTC; "
            "if its data ends earlier, rows since are negative by mistake: give as_of="
        )
        log.warning("snapshot '%s': %s", m.plan.name, m.learned["stale_events"])


def join_features(m: Making) -> None:
    """Add a column `feature_<name>` for each feature: the latest value at or before the item's time."""
    tables: dict[str, dict[str, str]] = {}
    for name, source in m.plan.features.items():
        table, _, column = source.partition(".")
        tables.setdefault(table, {})[f"feature_{name}"] = column
    for table, columns in tables.items():
        events = open_events(m.catalog, m.plan, table)
        has = ", ".join(events.columns)
        m.refuse(
            [
                f"'{table}' has no column '{c}' for a feature; it has: {has}"
                for c in columns.values()
                if c not in events.columns
            ]
        )
        _take(m, events, sorted(set(columns.values())))
        m.work.step("rows", feature_sql("rows", events.joins, "events", {name: quoted(c) for name, c in columns.items()}))
        m.work.connection.execute("DROP TABLE events")


def _take(m: Making, events: Events, columns: list[str]) -> None:
    """Make table `events`: key, time, held. Of several rows of a key at one time the greatest, so that chance has no part."""
    each = ", ".join(f"{quoted(c)} AS {quoted(f'held_{c}')}" for c in columns)
    result = m.engine.run(
        f"SELECT {quoted(events.key)} AS key, {quoted(events.time)} AS time, {each} FROM {quoted(events.name)}",
        versions=m.plan.versions,
    )
    found = {c: result.schema.field(f"held_{c}").type for c in columns}
    expected = "expected text, numbers, booleans or times"
    m.refuse(
        [f"'{events.name}.{c}' is {found[c]}, {expected} of a feature" for c in columns if feature_kind(found[c]) is None]
    )
    held = []
    for column in columns:
        kind, value = feature_kind(found[column]), quoted(f"held_{column}")
        held.append(f"{quoted(column)}: {utc(value) if kind == 'TIMESTAMP' else f'CAST({value} AS {kind})'}")
    m.work.take(
        "events",
        f"""SELECT CAST(key AS VARCHAR) AS key, {utc("time")} AS time, max({{{", ".join(held)}}}) AS held FROM incoming
            WHERE CAST(key AS VARCHAR) IN (SELECT {events.joins} FROM rows) AND {utc("time")} <= {stamp(m.plan.as_of)}
            GROUP BY ALL""",
        result,
    )


def feature_kind(kind: pa.DataType) -> str | None:
    """The SQL type that a column of this type is kept as; None where it cannot be."""
    if pa.types.is_dictionary(kind):
        return feature_kind(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return "VARCHAR"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_integer(kind):
        return "DOUBLE" if kind == pa.uint64() else "BIGINT"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "DOUBLE"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    return "DATE" if pa.types.is_date(kind) else None
