"""The first step of a snapshot: run its SQL, make one label an id, and put each id beside its item in the collection."""

# ruff: noqa: S608  columns stand quoted, and were found in the result's or the collection's schema

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.snapshots.label_rule import label_rule_columns
from raystore.data.snapshots.labels import (
    gather,
    is_number,
    is_time,
    label_kind_problems,
    label_sql,
    label_value_problems,
    rule_problems,
)
from raystore.data.snapshots.made import Making
from raystore.data.snapshots.plan import Plan
from raystore.data.snapshots.split import SIDES
from raystore.data.snapshots.work import few, quoted, stamp, utc

_LATE = "their time is after the snapshot's moment"
_TIMELESS = "they have no time, so they cannot be seen as of a moment"


@dataclass(frozen=True)
class _Reference:
    """A column that a rule names: of the SQL's result (`sampled`), or of the item in the collection (`held`)."""

    table: str
    column: str
    kind: pa.DataType

    def sql(self) -> str:
        return f"{'labelled' if self.table == 'sampled' else 'held'}.{quoted(self.column)}"


def sample(m: Making) -> bool:
    """Make table `rows`: id, label, entity, subject, weight, given, time, split_time, grp, and `out`, null but for items that
    are later than the plan's moment. The label is null where events will make it. Returns whether the SQL gives sides.

    Raises:
        SnapshotRefused: what the SQL gives is no sample of the collection.
    """
    plan, work, rule = m.plan, m.work, m.plan.label
    as_of = plan.as_of if plan.as_of_given else None
    m.unseen = _unseen(m) if plan.as_of_given else {}
    pinned = m.known["encoders"] if m.known is not None else None
    m.encoders = m.engine.encoders(plan.sql, plan.query_params, versions=plan.versions, as_of=as_of, encoders=pinned)
    result = m.engine.run(plan.sql, plan.query_params, versions=plan.versions, as_of=as_of, encoders=m.encoders)
    names = list(result.schema.names)
    problems = _column_problems(plan, names)
    if problems:
        m.refuse([*problems, f"it gives: {', '.join(names)}"])
    references = _references(m, result.schema)
    kinds = {name: result.schema.field(name).type for name in names if names.count(name) == 1}
    at = kinds.get("at") if rule.kind in ("first", "last") else None
    m.refuse(_kind_problems(kinds) + (rule_problems(rule, kinds.get("label"), at) if rule.gathers else []))
    named = {r.column for r in references if r is not None and r.table == "sampled"}
    others = [*(c for c in ("entity", "weight", "split") if c in kinds), *sorted(named - {"entity", "weight", "split"})]
    needed = list(dict.fromkeys(["id", *rule.reads, *others]))
    kept = ", ".join("CAST(id AS VARCHAR) AS id" if c == "id" else quoted(c) for c in needed)
    work.take("sampled", f"SELECT {kept} FROM incoming", result, needed)
    _check_sampled(m)
    if rule.gathers:
        m.refuse(gather(work, rule, at, others))
        counted = rule.chooses is not None and plan.task != "labels"
        m.conflicts = None if not counted else int(work.value("SELECT count(*) FROM labelled WHERE differ"))
        m.refuse(label_kind_problems(work, work.kind("labelled", "label"), plan.task, "labelled"))
        m.refuse(label_value_problems(work, plan.task, "labelled"))
    else:
        work.connection.execute("ALTER TABLE sampled RENAME TO labelled")
    _join(m, references, others)
    _check_joined(m)
    return "split" in others


def _unseen(m: Making) -> dict[str, int]:
    """How many rows of the collection the SQL is not shown as of the snapshot's moment, by the reason."""
    result = m.engine.run(
        f"""SELECT count(*) FILTER (time > TIMESTAMPTZ '{m.plan.as_of.isoformat(sep=" ")}') AS late,
                   count(*) FILTER (time IS NULL) AS timeless FROM {quoted(m.plan.collection)}""",
        versions=m.plan.versions,
    )
    found = result.to_dicts()[0]
    return {reason: n for reason, n in ((_LATE, found["late"]), (_TIMELESS, found["timeless"])) if n}


def _references(m: Making, schema: pa.Schema) -> tuple[_Reference | None, ...]:
    """The item's time, the time and the group to split by; the last two where they are needed."""
    plan = m.plan
    collection = CollectionTable.open(m.catalog.layout, plan.collection)
    fields = collection.schema
    problems: list[str] = []

    def found(name: str, what: str, *, is_a_time: bool) -> _Reference | None:
        alias, _, column = name.rpartition(".")
        if column in schema.names and alias.lower() not in plan.names:
            reference = _Reference("sampled", column, schema.field(column).type)
        elif column in collection.visible and (not alias or alias.lower() in plan.names):
            reference = _Reference("held", column, fields.field(column).type)
        else:
            where = f"its SQL gives no column '{column}', and neither has collection '{plan.collection}'"
            problems.append(f"{what} is '{name}': {where}")
            return None
        if is_a_time and not is_time(reference.kind):
            problems.append(f"{what} is '{name}', which is {reference.kind}, expected a time (CAST it AS TIMESTAMP)")
        if not is_a_time and (pa.types.is_floating(reference.kind) or pa.types.is_nested(reference.kind)):
            problems.append(f"{what} is '{name}', which is {reference.kind}, expected text or integers")
        return reference

    rule = plan.label.event
    time = split_time = group = None
    if rule or plan.features:
        time = found(rule.of if rule else "time", "the item's time", is_a_time=True)
    if plan.split.by == "time":
        column = str(plan.split.column)
        split_time = time if column == "time" and time else found(column, "the time to split by", is_a_time=True)
    if plan.split.by == "group":
        group = found(str(plan.split.column), "the group to split by", is_a_time=False)
    m.refuse(problems)
    return time, split_time, group


def _column_problems(plan: Plan, names: Sequence[str]) -> list[str]:
    count = Counter(names)
    problems = [] if "id" in count else ["its SQL gives no column 'id'"]
    problems += label_rule_columns(plan.label, names)
    wanted = {"id", "entity", "label", "split", "weight", "time", *plan.label.reads}
    wanted |= {c.rpartition(".")[2] for c in (plan.label.event.of if plan.label.event else "", plan.split.column or "")}
    problems += [f"its SQL gives {n} columns '{c}'" for c, n in count.items() if n > 1 and c in wanted]
    if plan.label.kind == "event" and "label" in count:
        problems.append("its SQL gives a column 'label', which the label rule is to make")
    if plan.split.by in ("time", "group") and "split" in count:
        problems.append(f"its SQL gives a column 'split', and split= says by {plan.split.by}")
    if plan.split.by == "given" and "split" not in count:
        problems.append("its SQL gives no column 'split', which split='given' takes the sides from")
    return problems


def _kind_problems(kinds: dict[str, pa.DataType]) -> list[str]:
    weight = kinds.get("weight")
    if weight is None or is_number(weight) or pa.types.is_null(weight):
        return []
    return [f"its weights are {weight}, expected numbers (CAST them AS DOUBLE in the SQL)"]


def _check_sampled(m: Making) -> None:
    """No rows, rows without an id, labels that cannot be, and ids that stand more than once where no rule gathers them."""
    work, rule = m.work, m.plan.label
    problems: list[str] = []
    if m.known is None and int(work.value("SELECT count(*) FROM sampled")) == 0:
        m.refuse(
            [
                "its SQL gives no rows"
                + "".join(f"; of the collection it did not see {n:,}: {r}" for r, n in m.unseen.items())
            ]
        )
    if rule.kind == "column":
        m.refuse(label_kind_problems(work, work.kind("sampled", "label"), m.plan.task, "sampled"))
    without = int(work.value("SELECT count(*) FROM sampled WHERE id IS NULL"))
    if without:
        problems.append(f"{without:,} rows have no id")
    if not rule.gathers:
        repeated = "FROM (SELECT id FROM sampled WHERE id IS NOT NULL GROUP BY id HAVING count(*) > 1)"
        n, shown = work.some("id", repeated)
        if n:
            how = "make one row each: GROUP BY id with min(), max() or arg_max(), or DISTINCT ON (id) with ORDER BY a unique key"
            if rule.kind == "column":
                how = "say which label an id gets, with label='last', 'majority' or another rule"
            problems.append(f"{n:,} ids stand more than once ({few(n, shown)}); {how}")
    if rule.kind == "column":
        problems += label_value_problems(work, m.plan.task, "sampled")
    elif rule.kind in ("first", "last", "majority", "any", "value"):
        problems += label_value_problems(work, "classes", "sampled")
        if rule.kind in ("first", "last"):
            n, shown = work.some("id", 'FROM sampled WHERE "at" IS NULL')
            if n:
                problems.append(
                    f"{n:,} rows have no at ({few(n, shown)}), by which label='{rule.kind}' orders the rows of an id"
                )
    m.refuse(problems)


def _join(m: Making, references: Sequence[_Reference | None], others: Sequence[str]) -> None:
    """Table `rows` of `labelled` and the items of the collection with these ids."""
    work, plan = m.work, m.plan
    held = [r.column for r in references if r is not None and r.table == "held"]
    columns = ", ".join(quoted(c) for c in dict.fromkeys(["id", "subject", "time", *held]))
    result = m.engine.run(f'SELECT {columns} FROM "{plan.collection}"', versions=plan.versions)
    work.take("held", f"SELECT {columns} FROM incoming WHERE id IN (SELECT id FROM labelled)", result)
    time, split_time, group = ("NULL" if r is None else r.sql() for r in references)
    entity = "CAST(labelled.entity AS VARCHAR), " if "entity" in others else ""
    label = "CAST(NULL AS VARCHAR)" if plan.label.kind == "event" else label_sql(plan.task, "labelled.label")
    said = _LATE.replace("'", "''")
    late = f"CASE WHEN {utc('held.time')} > {stamp(plan.as_of)} THEN '{said}' END"
    work.connection.execute(
        f"""CREATE TABLE rows AS
            SELECT labelled.id, {label} AS label, coalesce({entity}held.subject, labelled.id) AS entity, held.subject,
                   {"CAST(labelled.weight AS DOUBLE)" if "weight" in others else "CAST(1 AS DOUBLE)"} AS weight,
                   {"CAST(labelled.split AS VARCHAR)" if "split" in others else "CAST(NULL AS VARCHAR)"} AS given,
                   {utc(time)} AS time, {utc(split_time)} AS split_time, CAST({group} AS VARCHAR) AS grp,
                   held.id IS NULL AS missing, {late} AS out
            FROM labelled LEFT JOIN held ON held.id = labelled.id"""
    )
    work.connection.execute("DROP TABLE held; DROP TABLE labelled; DROP TABLE IF EXISTS sampled")


def _check_joined(m: Making) -> None:
    """Ids the collection does not have, weights and sides that cannot be."""
    problems = []
    n, shown = m.work.some("id", "FROM rows WHERE missing")
    if n and m.known is not None:  # erased from the collection, and still named by the table that labels them
        m.work.connection.execute("DELETE FROM rows WHERE missing")
    elif n:
        problems.append(f"{n:,} ids are not in collection '{m.plan.collection}' ({few(n, shown)})")
    n = int(m.work.value("SELECT count(*) FROM rows WHERE weight IS NULL OR NOT isfinite(weight) OR weight < 0"))
    if n:
        problems.append(f"{n:,} weights are null, negative or not finite")
    sides = ", ".join(f"'{side}'" for side in SIDES)
    n, shown = m.work.some("given", f"FROM (SELECT DISTINCT given FROM rows WHERE given NOT IN ({sides}))")
    if n:
        problems.append(f"its column split holds {few(n, shown)}, expected {', '.join(SIDES)} or null")
    m.refuse(problems)
