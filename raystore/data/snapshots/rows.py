"""The rows of a snapshot: sampled, labelled, joined with their items, put on sides, chosen, weighted, written and hashed.

All in one DuckDB that spills (work.py), a step after the other over one table; nothing is held in Python but counts.
"""

# ruff: noqa: S608  our own text; the names of features were checked

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raystore.catalog import Catalog
from raystore.data.query.engine import SqlEngine
from raystore.data.snapshots.classes import balance, leave_out_beyond, leave_out_small
from raystore.data.snapshots.content_hash import BLOCK, ContentHash, blocks
from raystore.data.snapshots.events import join_features, label_by_events
from raystore.data.snapshots.made import Making
from raystore.data.snapshots.plan import COLUMNS, Plan
from raystore.data.snapshots.sample import sample
from raystore.data.snapshots.sides import put_on_sides
from raystore.data.snapshots.split import SIDES
from raystore.data.snapshots.work import few, working

_CLASSES_SAID = 5


def make_rows(
    catalog: Catalog,
    engine: SqlEngine,
    plan: Plan,
    file: Path,
    known: Mapping[str, Any] | None = None,
    frozen: pa.Table | None = None,
) -> Making:
    """Write the plan's rows to a Parquet file, sorted by the bytes of their ids; what came of them.

    Args:
        known: a spec, whose cuts, caps, weights and encoders are used instead of learning them from these rows.
        frozen: the rows of that snapshot, as far as it still names them.

    Raises:
        SnapshotRefused: the rows are no training set; every reason that one look finds.
    """
    with working(catalog.layout.tmp) as work:
        m = Making(catalog, engine, work, plan, known, frozen)
        given = sample(m)
        label_by_events(m)
        join_features(m)
        put_on_sides(m, given)
        if plan.minimum is not None:
            leave_out_small(m, plan.minimum)
        if plan.cap is not None:
            leave_out_beyond(m, plan.cap)
        _count(m)
        if plan.weights:
            balance(m)
        _write(m, file)
    return m


def _count(m: Making) -> None:
    """Rows by side, by class and by the reason they are left out. Refused: no row, no class, one class, none of one in train."""
    out = dict(m.work.all("SELECT out, count(*) FROM rows WHERE out IS NOT NULL GROUP BY out"))
    m.left_out = dict(sorted({**out, **m.unseen}.items()))
    m.counts |= dict(m.work.all("SELECT side, count(*) FROM rows WHERE out IS NULL GROUP BY side"))
    if m.plan.task != "number":
        label = "label" if m.plan.task == "classes" else "unnest(label)"
        each = f"SELECT {label} AS label, side FROM rows WHERE out IS NULL"
        for name, side, n in m.work.all(f"SELECT label, side, count(*) FROM ({each}) GROUP BY ALL ORDER BY label"):
            m.by_class.setdefault(name, dict.fromkeys(SIDES, 0))[side] = n
    if m.known is not None:
        return
    if m.n_rows == 0:
        m.refuse(["no row is left, of " + "; ".join(f"{n:,} {reason}" for reason, n in m.left_out.items())])
    if m.counts["train"] == 0:
        m.refuse(["no row stands on train"])
    if m.plan.task != "number":
        m.refuse(_class_problems(m.by_class, m.plan.task))


def _class_problems(by_class: Mapping[str, Mapping[str, int]], task: str) -> list[str]:
    in_train = [label for label, sides in by_class.items() if sides["train"]]
    absent = [label for label, sides in by_class.items() if not sides["train"]]
    problems = []
    if absent:
        out = "leave them out (minimum=1 does)" if task == "classes" else "leave them out"
        said = few(len(absent), absent[:_CLASSES_SAID])
        problems.append(
            f"{len(absent):,} classes have no row in train ({said}); give them more entities, {out}, or raise train"
        )
    if task == "labels" and not by_class:
        problems.append("no row has a label")
    if task == "classes" and len(in_train) == 1:
        problems.append(f"train holds one class only ('{in_train[0]}')")
    return problems


def _write(m: Making, file: Path) -> None:
    features = "".join(f', feature_{name} AS "{name}"' for name in m.plan.features)
    rows = f"SELECT id, entity, label, side AS split, weight{features} FROM rows WHERE out IS NULL ORDER BY id"
    reader = m.work.read(rows, BLOCK)
    schema = pa.schema([pa.field(f.name, _kept(f.type), nullable=f.name not in COLUMNS) for f in reader.schema])
    hashing = ContentHash(schema)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for block in blocks(reader):
            kept = block.cast(schema)
            hashing.update(kept)
            writer.write_table(kept)
    m.hash = hashing.hexdigest()


def _kept(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(pa.string())
    return pa.timestamp("us", "UTC") if pa.types.is_timestamp(kind) else kind
