"""How fast vectors are made and written, on a collection's own items: what a plan of a migration reckons with.

The pace of encoding is that of the newest job with the encoder, or measured on up to 32 items; that of writing is measured on a
scratch table beside the collection. Costs the encoder's load and a second or two; writes nothing that stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array, vector_matrix
from raystore.data.fill import sources_of
from raystore.data.kept_source import open_source
from raystore.data.keyed import PAYLOAD
from raystore.data.manifest import JobRecord
from raystore.data.readers import plan as plan_files
from raystore.data.readers import read
from raystore.data.rows import row_table
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments, ItemsUnusable
from raystore.layout import Layout, staging, vector_column

_TRIED = 32  # items that tell the encoder's pace, after 4 that warm it up
_WRITTEN = 2_048  # vectors that tell the pace of writing


class Pace:
    """Rows a second of an encoder on this collection's own items; found out once, when it is asked."""

    def __init__(self, table: CollectionTable, encoder: Encoder, jobs: list[JobRecord]) -> None:
        self._table, self.encoder, self._jobs = table, encoder, jobs
        self._found: float | None = None
        self.said = ""

    def seconds(self, rows: int) -> float | None:
        if not rows:
            return 0.0
        if self._found is None:
            self._found, self.said = self._measured()
        return rows / self._found if self._found else None

    def _measured(self) -> tuple[float, str]:
        recorded = [pace for job in reversed(self._jobs) if (pace := _pace_of(job, self.encoder.fingerprint))]
        if recorded:
            return recorded[0], f"{recorded[0]:,.0f} rows/s as in its last job"
        items = list(_some_items(self._table, self._jobs, self.encoder))
        if len(items) < 5:
            return 0.0, "no item could be read to measure the pace"
        try:
            self.encoder.encode(items[:4])
            began = time.perf_counter()
            self.encoder.encode(items[4:])
        except ItemsUnusable:
            return 0.0, "the items that were tried cannot be encoded"
        pace = (len(items) - 4) / max(time.perf_counter() - began, 1e-6)
        return pace, f"{pace:,.0f} rows/s in one process, measured on {len(items) - 4} items"


def _pace_of(job: JobRecord, fingerprint: str) -> float | None:
    done = job.counts.get("added", 0) + job.counts.get("filled", 0)
    if fingerprint not in (*job.fingerprints, job.fingerprint) or job.ended is None or job.failed or done < 1_000:
        return None
    seconds = (datetime.fromisoformat(job.ended) - datetime.fromisoformat(job.started)).total_seconds()
    return done / seconds if seconds >= 2 else None  # the records count whole seconds


def _some_items(table: CollectionTable, jobs: list[JobRecord], encoder: Encoder) -> Iterator[str | bytes]:
    """Up to 36 items of the collection, from its kept content or its files."""
    most = _TRIED + 4
    if (source := open_source(table)) is not None:
        for modality in encoder.passport.modalities:
            found = source.table.dataset().to_table(columns=[modality], filter=f"{modality} IS NOT NULL", limit=most)
            yield from found.column(modality).to_pylist()
        return
    for (columns, _), paths in sources_of(jobs).items():
        for path in paths if columns.modality in encoder.passport.modalities else ():
            try:
                _, references = plan_files([path], 1, "plan_migration")
                block = next(iter(read(references[0], [columns.content], most)), None)
            except (InvalidArguments, IndexError, OSError):
                continue
            items = [] if block is None else [item for item in block.columns[columns.content] if item]
            if items:
                yield from items[:most]
                return


def state_of(jobs: Sequence[JobRecord], encoder: Encoder) -> dict[str, int]:
    """How many of the files are as they were, changed, gone, or hold what the encoder does not take; rows of the first two."""
    state = {"there": 0, "changed": 0, "gone": 0, "other": 0, "rows": 0}
    newest = {(file.path, job.columns.modality): file for job in jobs if job.kind == "embed" for file in job.files}
    for (path, modality), file in newest.items():
        local = Path(path)
        if modality not in encoder.passport.modalities:
            state["other"] += 1
            continue
        if "://" not in path and not local.exists():
            state["gone"] += 1
            continue
        same = "://" in path or file.size_bytes is None or not local.is_file() or local.stat().st_size == file.size_bytes
        state["there" if same else "changed"] += 1
        state["rows"] += file.rows
    return state


def writes_per_s(table: CollectionTable, old: Encoder, dim: int) -> float:
    """Rows a second at which vectors of so many numbers are written, tried on a scratch table beside the collection."""
    column = vector_column(old.fingerprint)
    rows = table.rows.dataset().to_table(columns=["id", PAYLOAD, column], filter=f"{column} IS NOT NULL", limit=_WRITTEN)
    if not len(rows):
        return 1.0
    n = len(rows)
    vectors = np.resize(vector_matrix(rows[column].combine_chunks()), (n, dim)).astype(np.float32)
    with staging(table.layout.tmp) as stage:
        scratch = CollectionTable.create(Layout(stage), table.name, {old.fingerprint: dim})
        nothing: list[None] = [None] * n
        empty = vector_array(vectors, np.zeros(n, np.bool_))
        given = row_table(
            ids=rows["id"].to_pylist(),
            payloads=rows[PAYLOAD].to_pylist(),
            vectors={old.fingerprint: empty},
            subjects=nothing,
            tenants=nothing,
            times=nothing,
            kept={},
            kept_types={},
        )
        scratch.rows.commit([given], refuse_differing=True)
        began = time.perf_counter()
        scratch.fill(pa.table({"id": rows["id"], PAYLOAD: rows[PAYLOAD], column: vector_array(vectors)}), old.fingerprint)
        return n / max(time.perf_counter() - began, 1e-6)
