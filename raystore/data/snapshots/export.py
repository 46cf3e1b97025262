"""A snapshot as files that others read: one Parquet file a side, or a folder that Hugging Face's `datasets` loads.

An export is a copy: a later erase does not reach it. Rows that were erased before are not in it. Written whole: a temporary
folder beside the target, then a rename. Needs neither Ray nor `datasets`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from raystore.access import LOCAL, Principal, Verb
from raystore.data.collection import CollectionTable
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.data.snapshots.split import SIDES
from raystore.data.tabular import shown
from raystore.errors import InvalidArguments, NotAllowed
from raystore.layout import disk_full_is_said, new_folder, write_json
from raystore.vectors import Matrix

Format = Literal["parquet", "huggingface"]
VECTOR = "vector"
VECTOR_TYPE = pa.list_(pa.float32())
_BATCH = 8_192
_NAMES = {"train": "train", "val": "validation", "test": "test"}  # what Hugging Face calls the sides
_DTYPES = {"double": "float64", "float": "float32", "halffloat": "float16", "date32[day]": "date32"}


def export(
    snapshot: SnapshotRecord,
    table: CollectionTable,
    target: str | Path,
    *,
    format: Format = "parquet",
    fingerprint: str | None = None,
    principal: Principal = LOCAL,
) -> Path:
    """The folder `target`, holding the snapshot's rows that its collection still has.

    "parquet": `train.parquet`, `val.parquet`, `test.parquet` with the snapshot's columns (id, entity, label, split, weight,
    features), and `spec.json`. "huggingface": `data/<split>-00000-of-00001.parquet` for the splits train, validation and test,
    which `datasets.load_dataset(folder)` reads with classes as ClassLabel, `spec.json`, and a `README.md` card. A side without
    rows has no file. Rows stand in the order of their ids.

    Args:
        fingerprint: also a column `vector`, list<float32> unit rows of this encoder; rows without one are left out.
        principal: vectors need the verb "vectors".

    Raises:
        NotAllowed: vectors were asked for and the principal may not read them.
        AlreadyExists: the target is a file, or a folder that is not empty.
        InvalidArguments, PassportMismatch, DiskFull: nothing was written.

    Cost: the rows in memory, one pass over the collection's ids; with vectors 20 us a row, 8,192 of them in memory.
    """
    target = Path(target).expanduser().absolute()
    check_export(snapshot, table, fingerprint, principal, f"export of {snapshot.label}")
    if format not in get_args(Format):
        problem = f"format is '{str(format)[:20]}', expected {' or '.join(get_args(Format))}"
        raise InvalidArguments(call=f"export of {snapshot.label}", problems=[problem])
    rows = snapshot.rows()
    known = table.has_ids(rows.column("id").to_pylist())
    left_out = Counter({"erased": len(rows) - int(known.sum())})
    rows = rows.filter(pa.array(known))
    with new_folder(target) as stage, disk_full_is_said(target.parent, f"exporting {snapshot.label}"):
        if format == "parquet":
            counts = _write_parquet(rows, table, fingerprint, stage, left_out)
        else:
            counts = _write_huggingface(snapshot, rows, table, fingerprint, stage, left_out)
        exported = {
            "snapshot": snapshot.label,
            "rows": counts,
            "left_out": {reason: left_out[reason] for reason in ("erased", "without a vector")},
            "encoder": fingerprint,
        }
        write_json(stage / "spec.json", {**snapshot.spec, "exported": exported}, stage)
        if format == "huggingface":
            (stage / "README.md").write_text(_card(snapshot, exported), encoding="utf-8")
    return target


def check_export(
    snapshot: SnapshotRecord, table: CollectionTable, fingerprint: str | None, principal: Principal, call: str
) -> None:
    """Raise unless the table is the snapshot's collection, and the principal may have the vectors that are asked for."""
    if fingerprint is not None and not principal.may(Verb.VECTORS):
        raise NotAllowed(principal=principal.name, verb=Verb.VECTORS)
    if table.name != snapshot.collection:
        problem = f"it is a snapshot of collection '{snapshot.collection}', the collection given is '{table.name}'"
        raise InvalidArguments(call=call, problems=[problem])
    if fingerprint is not None:
        table.check_encoder(fingerprint)
    if fingerprint is not None and VECTOR in snapshot.rows().column_names:
        problem = f"it has a column '{VECTOR}', which is what the vectors are called"
        raise InvalidArguments(call=call, problems=[problem])


def vector_lists(matrix: Matrix) -> pa.ListArray:
    """(n, d) float32 as list<float32>, the type every warehouse reads."""
    n, d = matrix.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * d)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)))


def _write_parquet(
    rows: pa.Table, table: CollectionTable, fingerprint: str | None, stage: Path, left_out: Counter[str]
) -> dict[str, int]:
    return {side: _write(_of_side(rows, side), table, fingerprint, stage / f"{side}.parquet", left_out) for side in SIDES}


def _write_huggingface(
    snapshot: SnapshotRecord,
    rows: pa.Table,
    table: CollectionTable,
    fingerprint: str | None,
    stage: Path,
    left_out: Counter[str],
) -> dict[str, int]:
    """As Parquet, with `datasets`' own description of the columns in the schema's metadata, where `datasets` writes it too."""
    features = {f.name: _feature(f, snapshot.label) for f in rows.schema if f.name not in ("label", "split")}
    value = {"dtype": "float64", "_type": "Value"}
    if snapshot.task == "number":
        features["label"] = value
    else:
        names = {"names": snapshot.classes, "_type": "ClassLabel"}
        features["label"] = names if snapshot.task == "classes" else {"feature": names, "_type": "List"}
        rows = rows.set_column(rows.schema.get_field_index("label"), "label", _codes(rows.column("label"), snapshot))
    if fingerprint is not None:
        features[VECTOR] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
    written = [name for name in (*rows.column_names, *([VECTOR] if fingerprint else [])) if name != "split"]
    told = json.dumps({"info": {"features": {name: features[name] for name in written}}})
    (stage / "data").mkdir()
    counts = {}
    for side in SIDES:
        own = _of_side(rows, side).drop_columns(["split"])
        file = stage / "data" / f"{_NAMES[side]}-00000-of-00001.parquet"
        own = own.replace_schema_metadata({"huggingface": told})
        counts[side] = _write(own, table, fingerprint, file, left_out)
    return counts


def _of_side(rows: pa.Table, side: str) -> pa.Table:
    return rows.filter(pc.equal(rows.column("split"), side))


def _write(rows: pa.Table, table: CollectionTable, fingerprint: str | None, file: Path, left_out: Counter[str]) -> int:
    """How many rows the file got."""
    if len(rows) == 0:
        return 0
    if fingerprint is None:
        pq.write_table(rows, file, compression="zstd")
        return len(rows)
    schema = rows.schema.append(pa.field(VECTOR, VECTOR_TYPE))
    written = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(rows), _BATCH):
            own = rows.slice(start, _BATCH)
            has, vectors = table.vectors_found(own.column("id").to_pylist(), fingerprint)
            left_out["without a vector"] += len(own) - len(vectors)
            own = own.filter(pa.array(has)).append_column(schema.field(VECTOR), vector_lists(np.asarray(vectors)))
            writer.write_table(own.cast(schema), row_group_size=_BATCH)
            written += len(own)
    if written == 0:
        file.unlink()
    return written


def _codes(labels: pa.ChunkedArray, snapshot: SnapshotRecord) -> pa.Array:
    """The labels as numbers into the sorted classes, int64 or list<int64>."""
    whole = labels.combine_chunks()
    classes = pa.array(snapshot.classes, pa.string())
    if snapshot.task == "classes":
        return pc.index_in(whole, value_set=classes).cast(pa.int64())
    codes = pc.index_in(whole.flatten(), value_set=classes).cast(pa.int64())
    lengths = np.concatenate([[0], np.cumsum(pc.list_value_length(whole).to_numpy(zero_copy_only=False))])
    return pa.ListArray.from_arrays(pa.array(lengths, pa.int32()), codes)


def _feature(field: pa.Field, label: str) -> dict[str, Any]:
    """A column as `datasets` describes it."""
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        return {"feature": _feature(field.type.value_field, label), "_type": "List"}
    if pa.types.is_nested(field.type) or pa.types.is_dictionary(field.type):
        problem = f"its column '{field.name}' is {field.type}, which a Hugging Face folder cannot hold; CAST it in the SQL"
        raise InvalidArguments(call=f"export of {label}", problems=[problem])
    return {"dtype": _DTYPES.get(str(field.type), str(field.type)), "_type": "Value"}


def _card(snapshot: SnapshotRecord, exported: dict[str, Any]) -> str:
    """The README of a Hugging Face folder: where its splits lie, and what the snapshot is."""
    spec, counts = snapshot.spec, exported["rows"]
    files = [
        {"split": _NAMES[side], "path": f"data/{_NAMES[side]}-00000-of-00001.parquet"} for side in SIDES if counts[side]
    ]
    head = {"pretty_name": snapshot.label, "configs": [{"config_name": "default", "data_files": files}]}
    facts = [
        ("snapshot", snapshot.label),
        ("content hash", snapshot.hash),
        ("collection", snapshot.collection),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(snapshot.versions.items()))),
        ("task", snapshot.task),
        ("rows", ", ".join(f"{counts[side]:,} {_NAMES[side]}" for side in SIDES)),
        ("left out of this copy", ", ".join(f"{n:,} {reason}" for reason, n in exported["left_out"].items())),
        ("vectors", f"encoder {exported['encoder']}" if exported["encoder"] else "none"),
        ("taken", str(spec["created_at"])),
        ("parameters", json.dumps(spec["params"], ensure_ascii=False)),
    ]
    lines = [f"| {name} | {_cell(value)} |" for name, value in facts]
    classes = [f"| {_cell(label)} | {n:,} |" for label, n in spec["classes"].items()]
    sql = str(spec["sql"])
    fence = "`" * max(3, 1 + max((len(run) for run in _runs(sql)), default=0))
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {snapshot.label}",
        "A training set frozen by raystore. Labels, sides and weights are those of the snapshot; `spec.json` holds all of it.",
        "\n".join(["| | |", "|---|---|", *lines]),
        f"{fence}sql\n{sql}\n{fence}",
    ]
    if classes:
        parts.append("\n".join(["| class | rows of the snapshot |", "|---|---|", *classes]))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _runs(text: str) -> Sequence[str]:
    return "".join(c if c == "`" else " " for c in text).split()
