"""Append and scan through raystore against pylance alone, and a commit of one row into a small and a large collection.

    python benchmarks/append.py [--rows N] [--large N] [--repeats N]

1. 100,000 x 384 float32 in chunks of 10,000: `KeyedTable.commit` looks every id up, keeps a payload digest and a commit number
   beside each row, merges fragments, indexes the ids and syncs every file; the peer is `lance.write_dataset(mode="append")` with ids
   and vectors, which does none of that. Measured with no file synced by either, and with every file synced by both.
   Goal: 1.1 times the peer's time; a scan the same.
2. One-row commits in turns into 10,000 and into 1,000,000 rows, merges of fragments among them. Goal: the same median.
3. One row appended to the journal of a table, durable with one sync, in turns with a commit of one row, after what was appended was
   taken in; and with a bare write and sync of as many bytes to a file, below which no durable append can be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import lance
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Ratio, interleaved, seconds, write_result
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.layout import Layout, vector_column
from raystore.layout import sync as sync_path

FINGERPRINT = "0123456789abcdef" * 4
VECTORS = vector_column(FINGERPRINT)
DIM = 384
CHUNK = 10_000
GOAL = 1.1
COMMITS = 128  # four merges of fragments among them
APPENDS = 16  # before they are taken in
COMMIT_DIM = 32  # a commit's cost hangs on the number of rows; so a million of them fit a small disk


def chunk(start: int, n: int, dim: int) -> pa.Table:
    vectors = np.random.default_rng(start).standard_normal((n, dim), dtype=np.float32)
    ids = pa.array([f"row-{i:08}" for i in range(start, start + n)])
    return pa.table({"id": ids, VECTORS: vector_array(vectors)})


def as_rows(table: pa.Table) -> pa.Table:
    """What an embedding job hands to `commit`: a digest beside each row."""
    digests = np.frombuffer(np.random.default_rng(1).bytes(32 * len(table)), np.uint8)
    payload = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(table), [None, pa.py_buffer(digests)])
    return table.append_column("_payload", payload)


def new_table(root: Path, dim: int) -> CollectionTable:
    return CollectionTable.create(Layout(root / uuid.uuid4().hex), "bench", {FINGERPRINT: dim})


def ours(root: Path, chunks: list[pa.Table]) -> CollectionTable:
    table = new_table(root, DIM)
    for rows in chunks:
        table.rows.commit([rows], refuse_differing=False)
    return table


def peer(root: Path, chunks: list[pa.Table], sync: bool) -> Path:
    path = root / uuid.uuid4().hex
    for rows in chunks:
        dataset = lance.write_dataset(rows, str(path), mode="append")
        if sync:  # what raystore syncs: the fragment, the manifest, and their folders
            manifest = path / "_versions" / f"{2**64 - 1 - dataset.version:020d}.manifest"
            files = [path / "data" / file.path for file in dataset.get_fragments()[-1].data_files()]
            for synced in (*files, path / "data", manifest, manifest.parent):
                sync_path(synced)
    return path


def timed(call: Callable[[Path], object], root: Path) -> Callable[[], object]:
    """The call in an empty folder; what an earlier one left there is cleared first, alike for both."""

    def run() -> object:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        return call(root)

    return run


def append_and_scan(root: Path, rows: int, repeats: int) -> dict[str, object]:
    bare = [chunk(start, CHUNK, DIM) for start in range(0, rows, CHUNK)]
    full = [as_rows(part) for part in bare]
    through = timed(lambda folder: ours(folder, full), root / "ours")
    with patch("os.fsync"):
        alone = interleaved(through, timed(lambda folder: peer(folder, bare, sync=False), root / "peer"), repeats)
    synced = interleaved(through, timed(lambda folder: peer(folder, bare, sync=True), root / "peer"), repeats)
    table = ours(root / "scan", full)
    path = peer(root / "scan", bare, sync=False)

    def scan() -> float:
        return float(sum(batch.vectors[:, 0].sum() for batch in table.scan(FINGERPRINT)))

    def scan_alone() -> float:
        batches = lance.dataset(str(path)).scanner(columns=["id", VECTORS], batch_size=8_192).to_batches()
        return float(sum(b.column(VECTORS).flatten().to_numpy().reshape(-1, DIM)[:, 0].sum() for b in batches))

    scanned = interleaved(scan, scan_alone, repeats * 2)
    return {
        "append_unsynced": said(alone),
        "append": said(synced) | {"rows_per_s": round(rows / synced.ours_s)},
        "syncs_cost_s": {
            "raystore": round(synced.ours_s - alone.ours_s, 3),
            "pylance": round(synced.peer_s - alone.peer_s, 3),
        },
        "scan": said(scanned) | {"rows_per_s": round(rows / scanned.ours_s)},
    }


def said(ratio: Ratio) -> dict[str, object]:
    """The ratio as times the peer's time: below 1.1 is the goal."""
    return {"times_peer": round(1 / ratio.median, 3), "goal": GOAL, "met": 1 / ratio.median <= GOAL} | ratio.record()


def one_row_commits(root: Path, small: int, large: int) -> dict[str, object]:
    tables = {n: new_table(root, COMMIT_DIM) for n in (small, large)}
    for n, table in tables.items():
        for start in range(0, n, 100_000):
            rows = as_rows(chunk(start, min(100_000, n - start), COMMIT_DIM))
            table.rows.commit([rows], refuse_differing=False)
    times: dict[int, list[float]] = {n: [] for n in tables}
    for i in range(COMMITS):
        for n in (small, large) if i % 2 else (large, small):
            row = as_rows(chunk(n + i, 1, COMMIT_DIM))
            times[n].append(seconds(lambda n=n, row=row: tables[n].rows.commit([row], refuse_differing=True)) * 1e3)
    medians = {n: statistics.median(t) for n, t in times.items()}
    means = {n: statistics.fmean(t) for n, t in times.items()}
    return {
        "commits": COMMITS,
        "rows": [small, large],
        "median_ms": [round(medians[n], 2) for n in (small, large)],
        "mean_ms": [round(means[n], 2) for n in (small, large)],
        "slowest_ms": [round(max(times[n]), 1) for n in (small, large)],
        "ratio_of_medians": round(medians[large] / medians[small], 3),
        "ratio_of_means": round(means[large] / means[small], 3),
    }


def one_row_appends(root: Path, large: int) -> dict[str, object]:
    table = new_table(root, DIM)
    for start in range(0, large, 100_000):
        table.rows.commit([as_rows(chunk(start, 100_000, DIM))], refuse_differing=False)
    table.rows.know_keys()
    times: dict[str, list[float]] = {"append": [], "commit": [], "write_and_sync": []}
    n_bytes = 0
    with (root / "bare").open("wb", buffering=0) as bare:

        def write_and_sync(data: bytes) -> None:
            bare.write(data)
            os.fsync(bare.fileno())

        for i in range(COMMITS):
            rows = [as_rows(chunk(large + (APPENDS + 1) * i + j, 1, DIM)) for j in range(APPENDS + 1)]
            for row in rows[1:]:
                times["append"].append(seconds(lambda row=row: table.rows.append([row])) * 1e3)
            n_bytes = table.rows.waiting_bytes // APPENDS
            data = os.urandom(n_bytes)
            times["write_and_sync"].append(seconds(lambda data=data: write_and_sync(data)) * 1e3)
            table.rows.take_in()
            times["commit"].append(seconds(lambda row=rows[0]: table.rows.commit([row], refuse_differing=True)) * 1e3)
            table.rows.know_keys()
    medians = {what: statistics.median(each) for what, each in times.items()}
    return {
        "rows": large,
        "bytes_of_a_row": n_bytes,
        "median_ms": {what: round(median, 2) for what, median in medians.items()},
        "slowest_ms": {what: round(max(each), 1) for what, each in times.items()},
        "ratio_of_medians": round(medians["commit"] / medians["append"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = append_and_scan(Path(folder), options.rows, options.repeats)
        figures["one_row"] = one_row_commits(Path(folder), 10_000, options.large)
        figures["one_row_durable"] = one_row_appends(Path(folder), min(options.large, 200_000))
    shape = {"rows": options.rows, "dim": DIM, "chunk": CHUNK}
    write_result("append", {**shape, **figures}, ["pylance", "pyarrow", "numpy"], "python benchmarks/append.py")


if __name__ == "__main__":
    main()
