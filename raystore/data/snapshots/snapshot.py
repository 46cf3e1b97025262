"""Snapshots: a frozen training set over one collection, as ids and labels, never vectors.

SQL + parameters + pinned versions + label rule + split rule -> rows (id, entity, label, split, weight, features), sorted by
id, and a content hash over them (content_hash.py). The same SQL at the same versions gives the same hash, in any process,
in any order of rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raystore.catalog import Catalog
from raystore.data.query.engine import SqlEngine
from raystore.data.snapshots.content_hash import content_hash
from raystore.data.snapshots.plan import Plan, make_plan
from raystore.data.snapshots.report import Ranges, html_report, ranges, text_report
from raystore.data.snapshots.rows import make_rows
from raystore.data.snapshots.split import DEFAULT_SPLIT, SIDES, SplitRule
from raystore.data.snapshots.work import working
from raystore.errors import SnapshotNotFound
from raystore.layout import check_name, disk_full_is_said, names, numbers, publish, read_json, staging, write_json
from raystore.markup import facts_html

__all__ = [
    "DEFAULT_SPLIT",
    "SCHEMA",
    "Rebuilt",
    "SnapshotRecord",
    "content_hash",
    "freeze",
    "open_snapshot",
    "rebuild",
    "refresh",
    "snapshot_names",
]

# The columns of a snapshot of classes; a label is list<string> for task "labels", float64 for "number". Features follow.
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("entity", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)
# What makes a snapshot another one, beside its rows.
_SAME = ("collection", "sql", "params", "task", "features", "cap", "minimum", "weights", "hash")


@dataclass(frozen=True)
class SnapshotRecord:
    """A published snapshot: `name@number`, its content hash, and the spec it was made from."""

    name: str
    number: int
    spec: dict[str, Any]
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def hash(self) -> str:
        return str(self.spec["hash"])

    @property
    def collection(self) -> str:
        return str(self.spec["collection"])

    @property
    def task(self) -> str:
        """classes, labels or number."""
        return str(self.spec["task"])

    @property
    def classes(self) -> list[str]:
        """Sorted; empty where the labels are numbers."""
        return sorted(self.spec["classes"])

    @property
    def versions(self) -> dict[str, int]:
        """The pinned version of everything it read."""
        return dict(self.spec["versions"])

    @property
    def encoders(self) -> dict[str, str]:
        """The fingerprint of each encoder that its SQL calls, by the name it is called by there."""
        return dict(self.spec["encoders"])

    def rows(self) -> pa.Table:
        """id, entity, label, split, weight and the features; sorted by id."""
        return pq.read_table(self.folder / "rows.parquet")

    def report(self) -> str:
        """Class by side with shares (of numbers, smallest, median and largest by side), what was left out and why, and conflicts,
        as text."""
        return text_report(self.label, self.spec, self._ranges())

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.spec['counts'][s]:,} {s}" for s in SIDES)
        what = "numbers" if self.task == "number" else f"{len(self.classes):,} classes"
        return f"<snapshot {self.label}: {counts}; {what}; hash {self.hash[:12]}>"

    def _repr_html_(self) -> str:
        return html_report(self.label, self.spec, self._ranges())

    def _ranges(self) -> Ranges | None:
        return ranges(self.rows()) if self.task == "number" else None


def open_snapshot(catalog: Catalog, reference: str) -> SnapshotRecord:
    """`name` (the newest) or `name@number`."""
    name, _, number = reference.partition("@")
    folder = catalog.layout.snapshots(name)
    published = numbers(folder) if name.replace("_", "").isalnum() else []
    wanted = int(number) if number.isdecimal() else (published[-1] if published and not number else 0)
    if wanted not in published:
        where = f"store '{catalog.layout.root}'"
        existing = [f"{name}@{n}" for n in reversed(published)] or snapshot_names(catalog)
        raise SnapshotNotFound(name=reference, where=where, existing=existing)
    return SnapshotRecord(name, wanted, read_json(folder / str(wanted) / "spec.json"), folder / str(wanted))


def snapshot_names(catalog: Catalog) -> list[str]:
    return names(catalog.layout.snapshots())


def freeze(
    catalog: Catalog,
    engine: SqlEngine,
    name: str,
    sql: str,
    *,
    params: Mapping[str, Any] | None = None,
    label: str | None = None,
    task: str = "classes",
    split: Mapping[str, Any] | str | None = None,
    features: Mapping[str, str] | None = None,
    cap: int | None = None,
    minimum: int | None = None,
    weights: str | None = None,
    as_of: str | datetime | None = None,
    notes: str = "",
) -> SnapshotRecord:
    """The snapshot, published under its next number. The rows of the newest one by the same rules make no new number.

    Args:
        sql: a query over one collection giving `id`, and `label` unless events make it; optionally `entity` (else the row's
            subject, else its id), `weight`, `split` (train, val, test; null leaves it to the hash), and columns that
            rules name. $as_of is the snapshot's moment. What asks the clock, draws at random, or hangs on the
            order of rows is refused (repeatable.py).
        label: how the rows of an id become its label: None (one row each), "first", "last" (by column `at`), "majority", "any",
            "any:VALUE", "sql: EXPRESSION", "EVENTS within 30 days of t.time where ...", or the name of a defined rule
            (label_rule.py, event_label.py).
        task: "classes" (text, integers, booleans), "labels" (a list of text a row, may be empty) or "number" (finite floats).
        split: fractions of entities (.8, .1, .1), {"by": "time", "val": moment, "test": moment} or with fractions,
            {"by": "group", "column": c, fractions}, or "given". An entity never stands on two sides.
        features: {"plan": "accounts.plan"}: columns of event tables as they stood at the item's time.
        cap: at most so many rows of a class on train, chosen by the hash of their ids; val and test stay as they are.
        minimum: classes with fewer rows, or with none on train, are left out; minimum=1 is about the latter alone.
        weights: "balanced": on train, n / (classes * rows of the class) times the column weight.
        as_of: the moment of the snapshot, by default now: no row or event after it is seen, nor a row of the collection without
            a time; tables without a time at their version then. Events are known until their table was last registered or
            refreshed (a collection: last written to), or until this moment, whichever is earlier.
        notes: kept in the spec.

    Raises:
        InvalidName, InvalidArguments: arguments that cannot be, all at once.
        SnapshotRefused: rows that are no training set; every reason that one look finds.
        SqlRefused, TableNotFound.

    Cost: the query, one hash join with the collection, one sort; 1,000,000 rows take seconds, and at most 1 GB beside the query.
    """
    check_name("a snapshot", name)
    plan = make_plan(
        catalog,
        name,
        sql,
        params=params,
        label=label,
        task=task,
        split=split,
        features=features,
        cap=cap,
        minimum=minimum,
        weights=weights,
        as_of=as_of,
    )
    layout = catalog.layout
    with staging(layout.tmp) as stage, disk_full_is_said(layout.snapshots(), f"freezing '{name}'"):
        made = make_rows(catalog, engine, plan, stage / "rows.parquet")
        spec = {**made.record(), "notes": notes, "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        if numbers(layout.snapshots(name)):
            newest = open_snapshot(catalog, name)
            if _is_same(newest.spec, spec):
                return newest
        write_json(stage / "spec.json", spec, layout.tmp)
        number = publish(stage, layout.snapshots(name))
    return open_snapshot(catalog, f"{name}@{number}")


def refresh(
    catalog: Catalog, engine: SqlEngine, snapshot: SnapshotRecord, *, as_of: str | datetime | None = None
) -> SnapshotRecord:
    """The same SQL and rules on today's data, as of now or a given moment, under the next number; the same rows again make none.

    A label rule that was taken by name keeps its number. Raises as `freeze`.
    """
    spec = snapshot.spec
    split = SplitRule.of_record(spec["split"]).asked.record()
    split.pop("salt", None)
    fractions = split.pop("fractions", {})
    return freeze(
        catalog,
        engine,
        snapshot.name,
        spec["sql"],
        params=spec["params"],
        label=spec["label"].get("named") or spec["label"]["rule"],
        task=spec["task"],
        split={**split, **fractions},
        features=spec["features"],
        cap=spec["cap"],
        minimum=spec["minimum"],
        weights=spec["weights"],
        as_of=as_of,
        notes=spec["notes"],
    )


@dataclass(frozen=True)
class Rebuilt:
    """What the SQL and the rules give today, at the snapshot's pinned versions.

    `same`: the rows are the frozen ones, less those that were erased since. `erased`: the ids of these, as far as the
    snapshot still names them; `n_erased` counts all. `hash` is the snapshot's own where nothing was erased.
    """

    hash: str
    same: bool
    rows: pa.Table
    erased: list[str]
    n_erased: int

    def __repr__(self) -> str:
        less = f" less {self.n_erased:,} that were erased" if self.n_erased else ""
        return f"<rebuilt: {'the same rows' if self.same else 'other rows'}{less}; hash {self.hash[:12]}>"

    def _repr_html_(self) -> str:
        facts = {"same rows": self.same, "rows": len(self.rows), "erased since": self.n_erased, "hash": self.hash[:12]}
        return facts_html("Rebuilt", facts)


def rebuild(engine: SqlEngine, snapshot: SnapshotRecord) -> Rebuilt:
    """Make the snapshot's rows again as of its versions, by what it learned of them then; nothing is published.

    Cost: as `freeze`, and the rows in memory.
    """
    catalog, spec = engine.catalog, snapshot.spec
    plan = Plan.of_spec(snapshot.name, spec)
    with staging(catalog.layout.tmp) as stage:
        frozen = snapshot.rows()
        made = make_rows(catalog, engine, plan, stage / "rows.parquet", known=spec, frozen=frozen)
        rows = pq.read_table(stage / "rows.parquet")
        erased = _erased(catalog, engine, plan, frozen)
    left = frozen.filter(pc.invert(pc.is_in(frozen.column("id"), erased))) if len(erased) else frozen
    n_erased = sum(spec["counts"].values()) - len(left)
    whole = snapshot.hash if n_erased == 0 else content_hash(left)
    return Rebuilt(made.hash, made.hash == whole, rows, erased.to_pylist(), n_erased)


def _erased(catalog: Catalog, engine: SqlEngine, plan: Plan, frozen: pa.Table) -> pa.Array:
    """The frozen ids that the collection no longer holds, sorted."""
    with working(catalog.layout.tmp) as work:
        work.connection.register("frozen", frozen.select(["id"]))
        held = engine.run(f'SELECT id FROM "{plan.collection}"')  # noqa: S608  a checked name
        work.take("held", "SELECT id FROM incoming WHERE id IN (SELECT id FROM frozen)", held)
        gone = work.connection.sql("SELECT id FROM frozen ANTI JOIN held USING (id) ORDER BY id").to_arrow_table()
    return gone.column("id").combine_chunks().cast(pa.string())


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two specs ask for the same and got the same; when they were made, and at which versions, is no difference, but a
    moment that the caller gave is."""
    rules = [(s["label"]["rule"], SplitRule.of_record(s["split"]).asked) for s in (one, other)]
    if other["as_of_given"] and not (one["as_of_given"] and one["as_of"] == other["as_of"]):
        return False
    return rules[0] == rules[1] and all(one[key] == other[key] for key in _SAME) and other["notes"] in ("", one["notes"])
