"""Drift of a store's own data: between two snapshots, or in a collection since a version or a date.

Reads ids and labels of all rows, the vectors of the drawn ones alone; the statistics are those of drift.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.collection import CollectionTable
from raystore.data.drift.drift import Drawn, Labels, check_settings, draw, measure
from raystore.data.drift.report import DriftReport
from raystore.data.keyed import ADDED
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.data.snapshots.split import SIDES
from raystore.errors import ColumnNotFound, InvalidArguments
from raystore.layout import vector_column
from raystore.vectors import Matrix

_LABELS = ("string", "int64", "bool")
_LOOKUP = 2_000


def snapshot_drift(
    a: SnapshotRecord,
    b: SnapshotRecord,
    table: CollectionTable,
    fingerprint: str,
    *,
    side: str | None = None,
    seed: int = 0,
    permutations: int = 200,
    sample: int = 4_000,
) -> DriftReport:
    """Whether and how the rows of snapshot `b` differ from those of `a`: class balance, embeddings, classes that moved.

    Numbers are compared as classes, the tenths of `a`. A row that stands in both snapshots is drawn for one of them.

    Args:
        table: the collection of both.
        fingerprint: the encoder whose vectors are compared.
        side: train, val or test alone.
        seed, permutations, sample: see `drift`.

    Raises:
        InvalidArguments: different collections or tasks, fewer than 10 rows on a side, settings that cannot be.
        PassportMismatch: the collection holds no vectors of this encoder.

    Cost: both snapshots' ids and labels, one pass over the collection's ids, 2 x `sample` vectors, and the cost of `drift`.
    """
    problems = [
        f"{s.label} is of collection '{s.collection}', the collection given is '{table.name}'"
        for s in (a, b)
        if s.collection != table.name
    ]
    if a.task != b.task:
        problems.append(f"the labels of {a.label} are {a.task} and those of {b.label} {b.task}")
    if side is not None and side not in SIDES:
        problems.append(f"side is '{side[:20]}', expected {', '.join(SIDES)} or None for all")
    check_settings(a.label, b.label, permutations, sample, problems)
    table.check_encoder(fingerprint)
    rng = np.random.default_rng(seed)
    rows = [_present(s, table, side) for s in (a, b)]
    ids = [kept.column("id").to_pylist() for kept, _ in rows]
    labels: list[Labels] = [kept.column("label").to_pylist() for kept, _ in rows]
    if a.task == "number":
        labels = _tenths(*(kept.column("label").to_numpy() for kept, _ in rows))
    drawn = draw(ids[0], ids[1], rng, sample)
    found = [table.vectors_found([own[i] for i in at], fingerprint) for own, at in zip(ids, drawn[:2], strict=True)]
    notes = [f"{n:,} rows of {s.label} were erased." for s, (_, n) in zip((a, b), rows, strict=True) if n]
    lacking = sum(int((~has).sum()) for has, _ in found)
    notes += [f"{lacking:,} drawn rows have no vector of this encoder."] if lacking else []
    notes += ["Its classes are the tenths of the numbers of " + a.label + "."] if a.task == "number" else []
    names = (f"{a.label} {side}", f"{b.label} {side}") if side else (a.label, b.label)
    return measure(
        names,
        (labels[0], labels[1]),
        (len(ids[0]), len(ids[1])),
        (np.asarray(found[0][1]), np.asarray(found[1][1])),
        Drawn(drawn.a[found[0][0]], drawn.b[found[1][0]], drawn.shared),
        rng,
        permutations,
        note=" ".join(notes),
    )


def collection_drift(
    table: CollectionTable,
    fingerprint: str,
    since: int | str | datetime,
    *,
    label: str | None = None,
    seed: int = 0,
    permutations: int = 200,
    sample: int = 4_000,
) -> DriftReport:
    """Whether and how a collection's rows since a version or a date differ from those before.

    Args:
        since: a version: rows added after it are compared with those it held. A date, also as ISO 8601: rows whose `time` is then
            or later are compared with those before (without a time zone, in UTC); rows without a time are left out and counted.
        label: a kept column that holds classes (string, int64 or bool).
        seed, permutations, sample: see `drift`.

    Raises:
        ColumnNotFound, PassportMismatch.
        InvalidArguments: fewer than 10 rows with a vector on a side, a label column of another type, settings that cannot be.

    Cost: one pass over `time` (or the commit numbers), the labels, and which rows have a vector; then as `snapshot_drift`.
    """
    problems = []
    since = _moment(since)
    names = (f"{table.name} before {_said(since)}", f"{table.name} since {_said(since)}")
    if label is not None and label not in table.visible:
        raise ColumnNotFound(name=label, where=f"collection '{table.name}'", existing=table.visible)
    kind = table.columns.get(label, "string") if label is not None else "string"
    if kind not in _LABELS or label == "time":
        problems.append(
            f"the column '{label}' holds {'timestamp' if label == 'time' else kind}, expected {', '.join(_LABELS)}"
        )
    check_settings(*names, permutations, sample, problems)
    table.check_encoder(fingerprint)
    rng = np.random.default_rng(seed)
    later, row_ids, labels, notes = _cut(table, fingerprint, since, label)
    sides = np.flatnonzero(~later), np.flatnonzero(later)
    drawn = draw(sides[0].tolist(), sides[1].tolist(), rng, sample)
    found = [_vectors(table, fingerprint, row_ids[own[places]]) for own, places in zip(sides, drawn[:2], strict=True)]
    drawn = Drawn(drawn.a[found[0][0]], drawn.b[found[1][0]], 0)
    told: list[Labels | None] = [None if labels is None else [labels[i] for i in own] for own in sides]
    sizes = (len(sides[0]), len(sides[1]))
    vectors = found[0][1], found[1][1]
    return measure(names, (told[0], told[1]), sizes, vectors, drawn, rng, permutations, note=" ".join(notes))


def _present(snapshot: SnapshotRecord, table: CollectionTable, side: str | None) -> tuple[pa.Table, int]:
    """The snapshot's rows that the collection still has, and how many it has not."""
    rows = snapshot.rows().select(["id", "label", "split"])
    if side is not None:
        rows = rows.filter(pc.equal(rows.column("split"), side))
    known = table.has_ids(rows.column("id").to_pylist())
    return rows.filter(pa.array(known)), int((~known).sum())


def _tenths(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> list[Labels]:
    """Which tenth of the numbers of `a` each number falls into, named by its bounds."""
    if len(a) == 0:
        return [[], ["all"] * len(b)]
    edges = np.unique(np.quantile(a, np.linspace(0.1, 0.9, 9)))
    bounds = [f"{edge:.4g}" for edge in edges]
    names = [
        f"up to {bounds[0]}",
        *(f"{lo} to {hi}" for lo, hi in pairwise(bounds)),
        f"over {bounds[-1]}",
    ]
    return [[names[i] for i in np.searchsorted(edges, own, side="left")] for own in (a, b)]


def _moment(since: object) -> int | datetime:
    """A version, or a time. Raises InvalidArguments where it is neither."""
    if isinstance(since, datetime) or (isinstance(since, int) and not isinstance(since, bool)):
        return since
    told = f"'{since[:40]}'" if isinstance(since, str) else f"a {type(since).__name__}"
    try:
        if isinstance(since, str):
            return datetime.fromisoformat(since)
    except ValueError:
        pass
    problem = f"since is {told}, expected a version, a datetime or an ISO 8601 string"
    raise InvalidArguments(call="drift", problems=[problem])


def _said(since: int | datetime) -> str:
    return f"version {since}" if not isinstance(since, datetime) else since.isoformat(sep=" ")


def _cut(
    table: CollectionTable, fingerprint: str, since: int | datetime, label: str | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], list[str | None] | None, list[str]]:
    """Of the rows with a vector, and a time where it is asked for: whether each is later, its row id, its label; what is left out."""
    column = "time" if isinstance(since, datetime) else ADDED
    rows = (
        table.rows.dataset()
        .scanner(columns=list(dict.fromkeys([column, *([label] if label else [])])), with_row_id=True)
        .to_table()
    )
    row_ids = rows.column("_rowid").to_numpy().astype(np.int64)
    order = np.argsort(row_ids)
    rows, row_ids = rows.take(order), row_ids[order]
    has_vector = np.isin(row_ids, table.with_vector(fingerprint, row_ids), assume_unique=True)
    when = rows.column(column)
    if isinstance(since, datetime):
        edge = since if since.tzinfo is not None else since.replace(tzinfo=UTC)
        later = pc.greater_equal(when, pa.scalar(edge, pa.timestamp("us", "UTC")))
    else:
        later = pc.greater(when, since)
    has_time = when.is_valid().to_numpy()
    kept = has_vector & has_time
    labels = None
    if label is not None:
        labels = [None if v is None else _label(v) for v in rows.column(label).filter(pa.array(kept)).to_pylist()]
    left = [(has_vector & ~has_time, "have no time"), (~has_vector, "have no vector of this encoder")]
    notes = [f"{int(out.sum()):,} rows {why} and are left out." for out, why in left if out.any()]
    return pc.fill_null(later, False).to_numpy()[kept], row_ids[kept], labels, notes


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _vectors(
    table: CollectionTable, fingerprint: str, row_ids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], Matrix]:
    """(n,) which of the row ids are still there with a vector, and the (m, d) float32 vectors of those, in their order."""
    out = np.empty((len(row_ids), table.dim(fingerprint)), np.float32)
    has = np.zeros(len(row_ids), np.bool_)
    for start in range(0, len(row_ids), _LOOKUP):
        asked = row_ids[start : start + _LOOKUP]
        rows = table.rows_by_row_id(asked, [vector_column(fingerprint)])
        rows = rows.filter(rows.column(vector_column(fingerprint)).is_valid())
        order = np.argsort(asked)
        at = start + order[np.searchsorted(asked[order], rows.column("_rowid").to_numpy())]
        lists = rows.column(vector_column(fingerprint)).combine_chunks()
        out[at] = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
        has[at] = True
    return has, out[has]
