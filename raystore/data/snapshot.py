"""Snapshots: a frozen training set over one collection, as ids and labels, never vectors.

SQL + pinned versions + split rule -> rows (id, entity, label, split, weight), sorted by id, and a content hash over them.
The same SQL at the same versions gives the same hash, in any process, in any order of rows.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.rewrite import parse_query, relations
from raystore.data.split import SALT, SIDES, side, split_problems
from raystore.data.sql import SqlEngine
from raystore.data.tables import open_table, table_names
from raystore.errors import InvalidArguments, SnapshotNotFound, SnapshotRefused, listed
from raystore.layout import check_name, disk_full_is_said, names, numbers, publish, read_json, staging, write_json

DEFAULT_SPLIT: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("entity", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class SnapshotRecord:
    """A published snapshot: `name@number`, its content hash, and the spec it was made from."""

    name: str
    number: int
    spec: dict[str, Any]
    folder: Path

    @property
    def hash(self) -> str:
        return str(self.spec["hash"])

    @property
    def collection(self) -> str:
        return str(self.spec["collection"])

    @property
    def classes(self) -> list[str]:
        return sorted(self.spec["classes"])

    def rows(self) -> pa.Table:
        """id, entity, label, split, weight; sorted by id."""
        return pq.read_table(self.folder / "rows.parquet", schema=SCHEMA)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.spec['counts'][s]:,} {s}" for s in SIDES)
        return f"<snapshot {self.name}@{self.number}: {counts}; {len(self.classes)} classes; hash {self.hash[:12]}>"


def open_snapshot(catalog: Catalog, reference: str) -> SnapshotRecord:
    """`name` (the newest) or `name@number`."""
    name, _, number = reference.partition("@")
    folder = catalog.layout.snapshots(name)
    published = numbers(folder) if name.replace("_", "").isalnum() else []
    wanted = int(number) if number.isdecimal() else (published[-1] if published and not number else 0)
    if wanted not in published:
        where = f"store '{catalog.layout.root}'"
        raise SnapshotNotFound(name=reference, where=where, existing=snapshot_names(catalog))
    return SnapshotRecord(name, wanted, read_json(folder / str(wanted) / "spec.json"), folder / str(wanted))


def snapshot_names(catalog: Catalog) -> list[str]:
    return names(catalog.layout.snapshots())


def freeze(
    catalog: Catalog,
    engine: SqlEngine,
    name: str,
    sql: str,
    params: Mapping[str, Any] | None = None,
    split: Mapping[str, float] | None = None,
) -> SnapshotRecord:
    """The snapshot, published; `Store.snapshot` documents it. The rows of the newest one again make no new number."""
    check_name("a snapshot", name)
    fractions = dict(split or DEFAULT_SPLIT)
    problems = split_problems(fractions) + _param_problems(params or {})
    if problems:
        raise InvalidArguments(call=f"snapshot('{name}')", problems=problems)
    fractions = {s: fractions.get(s, 0.0) for s in SIDES}
    collection, versions = _pin(catalog, name, sql)
    rows = _rows(engine, name, sql, params, collection, versions, fractions)
    spec = {
        "collection": collection,
        "sql": sql,
        "params": dict(params or {}),
        "versions": versions,
        "split": {"fractions": fractions, "salt": SALT},
        "hash": content_hash(rows),
        "counts": {s: rows.column("split").to_pylist().count(s) for s in SIDES},
        "classes": dict(sorted(Counter(rows.column("label").to_pylist()).items())),
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    newest = numbers(catalog.layout.snapshots(name))
    if newest:
        found = open_snapshot(catalog, name)
        if all(found.spec[key] == spec[key] for key in ("collection", "sql", "params", "split", "hash")):
            return found
    with staging(catalog.layout.tmp) as stage, disk_full_is_said(catalog.layout.snapshots(), f"freezing '{name}'"):
        pq.write_table(rows, stage / "rows.parquet", compression="zstd")
        write_json(stage / "spec.json", spec, catalog.layout.tmp)
        number = publish(stage, catalog.layout.snapshots(name))
    return open_snapshot(catalog, f"{name}@{number}")


@dataclass(frozen=True)
class Rebuilt:
    """What the SQL gives today, at the snapshot's pinned versions."""

    hash: str
    same: bool
    rows: pa.Table


def rebuild(engine: SqlEngine, snapshot: SnapshotRecord) -> Rebuilt:
    """Run the snapshot's SQL again as of its versions; nothing is published."""
    spec = snapshot.spec
    rows = _rows(
        engine,
        snapshot.name,
        spec["sql"],
        spec["params"],
        snapshot.collection,
        spec["versions"],
        spec["split"]["fractions"],
    )
    found = content_hash(rows)
    return Rebuilt(found, found == snapshot.hash, rows)


def content_hash(rows: pa.Table) -> str:
    """SHA-256 over the rows sorted by id: each text field behind its length in 8 bytes, the weight as a big-endian double."""
    digest = hashlib.sha256()
    columns = [rows.column(name).to_pylist() for name in ("id", "entity", "label", "split", "weight")]
    for *texts, weight in sorted(zip(*columns, strict=True)):
        for text in texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)
        digest.update(struct.pack(">d", weight))
    return digest.hexdigest()


def _pin(catalog: Catalog, name: str, sql: str) -> tuple[str, dict[str, int]]:
    """The collection the SQL samples, and the present version of everything it reads."""
    collections, tables = collection_names(catalog.layout), table_names(catalog)
    found = {r.name for r in relations(parse_query(sql), {*collections, *tables}.__contains__)}
    sampled = sorted(found & set(collections))
    if len(sampled) != 1:
        problem = f"its SQL reads {len(sampled)} collections ({listed(sampled)}), expected exactly one"
        raise SnapshotRefused(name=name, problems=[problem])
    versions = {n: CollectionTable.open(catalog.layout, n).version for n in sampled}
    versions |= {n: open_table(catalog, n).version for n in sorted(found & set(tables))}
    return sampled[0], versions


def _param_problems(params: Mapping[str, Any]) -> list[str]:
    """Parameters stand in spec.json, from which the SQL is run again."""
    return [
        f"parameter '{name}' is {type(value).__name__}, expected a string, a number or a boolean (CAST it in the SQL)"
        for name, value in params.items()
        if not (value is None or isinstance(value, (str, int, float, bool)))
    ]


def _rows(
    engine: SqlEngine,
    name: str,
    sql: str,
    params: Mapping[str, Any] | None,
    collection: str,
    versions: Mapping[str, int],
    fractions: Mapping[str, float],
) -> pa.Table:
    sampled = engine.run(sql, params, versions=versions).to_arrow()
    given = Counter(sampled.column_names)
    problems = [f"its SQL gives no column '{c}'" for c in ("id", "label") if c not in given]
    problems += [f"its SQL gives {n} columns '{c}'" for c, n in given.items() if n > 1 and c in SCHEMA.names]
    if problems:
        has = ", ".join(sampled.column_names)
        raise SnapshotRefused(name=name, problems=[*problems, f"it gives: {has}"])
    if len(sampled) == 0:
        raise SnapshotRefused(name=name, problems=["its SQL gives no rows"])
    problems = _label_problems(sampled)
    if problems:
        raise SnapshotRefused(name=name, problems=problems)
    columns = ", ".join(
        f"CAST(q.{c} AS VARCHAR) AS {c}" if c in sampled.column_names else f"NULL AS {c}" for c in ("entity", "split")
    )
    weight = "CAST(q.weight AS DOUBLE)" if "weight" in sampled.column_names else "1.0"
    joined = engine.run(
        f"""SELECT CAST(q.id AS VARCHAR) AS id, CAST(q.label AS VARCHAR) AS label, {columns}, {weight} AS weight,
                   c.subject AS subject, c.id IS NULL AS missing
            FROM _sampled q LEFT JOIN "{collection}" c ON c.id = CAST(q.id AS VARCHAR)""",  # noqa: S608  checked names
        versions=versions,
        extra={"_sampled": sampled},
    ).to_arrow()
    problems = _row_problems(joined, collection)
    if problems:
        raise SnapshotRefused(name=name, problems=problems)
    rows = _split(joined, fractions)
    problems = _split_problems(rows)
    if problems:
        raise SnapshotRefused(name=name, problems=problems)
    return rows


def _label_problems(sampled: pa.Table) -> list[str]:
    kind = sampled.schema.field("label").type
    if pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return [f"its labels are {kind}, expected text, integers or booleans (CAST them in the SQL)"]
    return []


def _row_problems(joined: pa.Table, collection: str) -> list[str]:
    ids = joined.column("id").to_pylist()
    problems = []
    null_ids = ids.count(None)
    if null_ids:
        problems.append(f"{null_ids} rows have no id")
    repeated = sorted(i for i, n in Counter(i for i in ids if i is not None).items() if n > 1)
    if repeated:
        problems.append(
            f"{len(repeated)} ids stand more than once ({listed(repeated, 3)}); choose one row each, with GROUP BY or DISTINCT ON"
        )
    null_labels = joined.filter(pc.is_null(joined.column("label"))).column("id").to_pylist()
    if null_labels:
        shown = listed([str(i) for i in null_labels], 3)
        problems.append(f"{len(null_labels)} rows have no label ({shown}); leave them out: WHERE label IS NOT NULL")
    missing = [i for i in joined.filter(joined.column("missing")).column("id").to_pylist() if i is not None]
    if missing:
        problems.append(f"{len(missing)} ids are not in collection '{collection}' ({listed(missing, 3)})")
    bad = [w for w in joined.column("weight").to_pylist() if w is None or not 0 <= w < float("inf")]
    if bad:
        problems.append(f"{len(bad)} weights are null, negative or not finite")
    strange = sorted({s for s in joined.column("split").to_pylist() if s is not None and s not in SIDES})
    if strange:
        problems.append(f"its column split holds {listed(strange, 3)}, expected {', '.join(SIDES)} or null")
    return problems


def _split(joined: pa.Table, fractions: Mapping[str, float]) -> pa.Table:
    """Entity: the SQL's column, else the row's subject, else its id. Side: the SQL's column, else the entity's hash."""
    entity = pc.coalesce(joined.column("entity").cast(pa.string()), joined.column("subject"), joined.column("id"))
    entities = entity.to_pylist()
    sides = {e: side(e, fractions) for e in set(entities)}
    given = joined.column("split").to_pylist()
    rows = pa.table(
        [
            joined.column("id").cast(pa.string()),
            entity.cast(pa.string()),
            joined.column("label").cast(pa.string()),
            pa.array([g or sides[e] for g, e in zip(given, entities, strict=True)], pa.string()),
            joined.column("weight").cast(pa.float64()),
        ],
        schema=SCHEMA,
    )
    return rows.sort_by("id")


def _split_problems(rows: pa.Table) -> list[str]:
    problems = []
    by_entity: dict[str, str] = {}
    torn = set()
    for entity, split in zip(rows.column("entity").to_pylist(), rows.column("split").to_pylist(), strict=True):
        if by_entity.setdefault(entity, split) != split:
            torn.add(entity)
    if torn:
        problems.append(f"{len(torn)} entities stand on two sides of the given split ({listed(sorted(torn), 3)})")
    labels, splits = rows.column("label").to_pylist(), rows.column("split").to_pylist()
    in_train = {label for label, s in zip(labels, splits, strict=True) if s == "train"}
    absent = sorted(set(labels) - in_train)
    if absent:
        problems.append(
            f"{len(absent)} classes have no row in train ({listed(absent, 5)}); give them more entities, leave them out, or raise train"
        )
    if len(in_train) == 1:
        problems.append(f"train holds one class only ('{next(iter(in_train))}')")
    return problems
