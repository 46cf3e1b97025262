"""Snapshots written by hand: what readers of snapshots need, whatever freezes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.layout import write_json

LABELS = {"classes": pa.string(), "labels": pa.list_(pa.string()), "number": pa.float64()}


def frozen(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    *,
    name: str = "refunds",
    number: int = 1,
    task: str = "classes",
    collection: str = "tickets",
    hash_: str | None = None,
) -> SnapshotRecord:
    """The published snapshot of these rows: id, label, and where they are not the usual split, entity, weight, features."""
    whole = [{"entity": row["id"], "split": "train", "weight": 1.0, **row} for row in rows]
    whole.sort(key=lambda row: row["id"].encode())
    first = ["id", "entity", "label", "split", "weight"]
    names = [*first, *(n for n in dict.fromkeys(k for row in whole for k in row) if n not in first)]
    kinds = {"id": pa.string(), "entity": pa.string(), "label": LABELS[task], "split": pa.string(), "weight": pa.float64()}
    columns = {n: pa.array([row.get(n) for row in whole], kinds.get(n)) for n in names}
    table = pa.table(columns)
    place = folder / name / str(number)
    place.mkdir(parents=True)
    pq.write_table(table, place / "rows.parquet", compression="zstd")
    labels = [row["label"] for row in whole]
    flat = [one for label in labels for one in (label if isinstance(label, list) else [label])]
    spec = {
        "collection": collection,
        "sql": "SELECT id, label FROM tickets WHERE label <> '`'",
        "params": {"since": "2026-08-01"},
        "versions": {collection: 3},
        "as_of": None,
        "task": task,
        "label": None,
        "split": {"rule": "entity"},
        "features": names[5:],
        "encoders": {},
        "cap": None,
        "minimum": None,
        "weights": None,
        "hash": hash_ or f"{abs(hash(str(whole))):064x}",
        "counts": {side: sum(row["split"] == side for row in whole) for side in ("train", "val", "test")},
        "classes": {} if task == "number" else {c: flat.count(c) for c in sorted(set(flat))},
        "by_class": {},
        "left_out": {},
        "conflicts": 0,
        "created_at": "2026-11-20T12:00:00Z",
    }
    write_json(place / "spec.json", spec, folder / "tmp")
    return SnapshotRecord(name, number, spec, place)
