"""The kind "disk": private memory, one query's time warm and cold, and recall, over sentence vectors in files.

    python benchmarks/index_disk.py [--rows 100000 1000000 5000000] [--fresh]

The vectors are MiniLM's of a million sentences, clauses and titles of arXiv abstracts (.bench-cache/sentences-*.npy), less
the 1,000 that are the queries; what is asked beyond a million is interpolated: a sentence and one of its five nearest in
the same list, mixed, and of length 1 again. Shards and exact answers are kept in .bench-cache/disk-<rows> for the next run;
--fresh makes them anew. Each size is measured in a process of its own, by the shard's own search:

    private   Anonymous of /proc/self/smaps_rollup, less the same before the shard was opened. Mapped file pages are not in
              it: the system takes them back when it wants to.
    warm      single queries, after 200 others
    cold      single queries, each the first of a shard just opened, with every page of its files dropped from memory
              (posix_fadvise) and no block verified

and the largest against the smallest in turns in one process, each with the fewest probes that reach the recall.
Goals: under 1 GiB private, p95 at most 25 ms warm and 100 ms cold, p50 at 5,000,000 at most 5 times that at 100,000.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import CACHE, MILLION, seconds, sentence_files, write_result
from raystore.index.manifest import ShardRecord
from raystore.index.shards.list_file import lists_name
from raystore.index.shards.lists import DiskLists
from raystore.index.shards.shard import Shard, ShardFacts
from raystore.index.shards.write import write_shard
from raystore.vectors import Matrix

DIM, K = 384, 10
QUERIES = 1_000  # the last sentences, in no index
BATCH = 50_000
COLD, WARM_UP, TURN = 40, 200, 20
RECALL = 0.95
GOALS = {"private_gib": 1.0, "warm_p95_ms": 25.0, "cold_p95_ms": 100.0, "p50_ratio": 5.0}
FACTS = ShardFacts("disk", "cosine", DIM)


@dataclass(frozen=True)
class Part:
    ids: pa.Array
    row_ids: np.ndarray
    vectors: Matrix


class Sentences:
    """`n` rows as an index scans them; those beyond the cached sentences are interpolated with `near` (rows, 5)."""

    def __init__(self, n: int, near: np.ndarray | None = None) -> None:
        self.n, self.near = n, near
        self.files = [np.load(file, mmap_mode="r") for file in sentence_files()]
        self.starts = np.cumsum([0, *(len(file) for file in self.files)])
        self.real = int(self.starts[-1]) - QUERIES

    def dim(self, _: str) -> int:
        return DIM

    def scan(self, _: str, **__: object) -> Iterator[Part]:
        for start in range(0, self.n, BATCH):
            rows = np.arange(start, min(start + BATCH, self.n))
            yield Part(pa.array([f"s-{row}" for row in rows]), rows, self.rows(rows))

    def queries(self) -> Matrix:
        return self.at(np.arange(self.real, self.real + QUERIES))

    def at(self, rows: np.ndarray) -> Matrix:
        """Cached vectors, in any order."""
        found = np.empty((len(rows), DIM), np.float32)
        which = np.searchsorted(self.starts, rows, "right") - 1
        for number in np.unique(which):
            here = which == number
            found[here] = self.files[number][rows[here] - self.starts[number]]
        return found

    def rows(self, rows: np.ndarray) -> Matrix:
        found = self.at(rows % self.real)
        made = np.flatnonzero(rows >= self.real)
        if len(made):
            rng = np.random.default_rng(int(rows[0]))
            base = rows[made] % self.real
            other = self.at(self.near[base, rng.integers(0, 5, len(made))])
            share = rng.uniform(0.2, 0.8, (len(made), 1)).astype(np.float32)
            found[made] = (1 - share) * found[made] + share * other
            found[made] /= np.linalg.norm(found[made], axis=1, keepdims=True)
        return found


def folder_of(rows: int) -> Path:
    return CACHE / f"disk-{rows}"


def build(rows: int, *, fresh: bool) -> None:
    """The shard's files, its record and the exact answers, unless they are there."""
    folder = folder_of(rows)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "truth.npy").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = Sentences(rows)
    if rows > source.real:
        source.near = neighbours(source, fresh=fresh)
    start = time.perf_counter()
    record = write_shard(
        source,
        folder,
        0,
        fingerprint="",
        row_ids=(0, rows),
        since=0,
        as_of=1,
        kind="disk",
        metric="cosine",
        target_recall=RECALL,
    )
    took = time.perf_counter() - start
    (folder / "record.json").write_text(json.dumps({**record.model_dump(), "build_s": round(took, 1)}))
    shard = Shard.load(folder, record, FACTS)
    truth = shard.nearest(source.queries(), K)[0]
    np.save(folder / "truth.npy", truth)
    print(
        f"{rows:,} rows built in {took:.0f} s: {record.nlist} lists, {record.nprobe} probes, refine {record.refine}",
        flush=True,
    )


def neighbours(source: Sentences, *, fresh: bool) -> np.ndarray:
    """(rows, 5) of every cached sentence the nearest in its own list, of the shard over all of them."""
    build(source.real, fresh=fresh)
    kept = folder_of(source.real) / "near.npy"
    if not kept.exists():
        lists = opened(source.real)[0]._nominator
        assert isinstance(lists, DiskLists)
        near = np.empty((source.real, 5), np.int32)
        for block in lists.blocks.read(range(lists.nlist)):
            n = len(block) // (DIM + 8)
            if n:
                rows = np.frombuffer(block[n * DIM :], np.int64)
                vectors = source.at(rows)
                order = np.argsort(-(vectors @ vectors.T), axis=1)[:, 1:6]
                near[rows] = rows[np.pad(order, ((0, 0), (0, 5 - order.shape[1])), mode="edge") if n > 1 else [[0] * 5]]
        np.save(kept, near)
    return np.load(kept)


def opened(rows: int) -> tuple[Shard, dict[str, Any]]:
    facts = json.loads((folder_of(rows) / "record.json").read_text())
    record = ShardRecord.model_validate({name: facts[name] for name in ShardRecord.model_fields})
    return Shard.load(folder_of(rows), record, FACTS), facts


def private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("Anonymous:")))


def drop_from_memory(folder: Path) -> None:
    """No page of the shard's files is in memory; nobody may have them mapped."""
    gc.collect()
    for path in folder.glob("shard-*"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def percentiles(times: Sequence[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1e3 * float(np.quantile(times, 0.5)), 2),
        "p95_ms": round(1e3 * float(np.quantile(times, 0.95)), 2),
    }


def recall_of(shard: Shard, queries: Matrix, truth: np.ndarray, probes: int | None = None) -> float:
    found = shard.search(queries, K, probes=probes).rows
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)]))


def fewest_probes(shard: Shard, queries: Matrix, truth: np.ndarray) -> tuple[int, float]:
    """With which the recall is reached: doubled until it is, then halved between."""
    low, high = 1, 8
    while high < (shard.nlist or 1) and recall_of(shard, queries, truth, high) < RECALL:
        low, high = high + 1, 2 * high
    high = min(high, shard.nlist or 1)
    while low < high:
        middle = (low + high) // 2
        if recall_of(shard, queries, truth, middle) >= RECALL:
            high = middle
        else:
            low = middle + 1
    return low, recall_of(shard, queries, truth, low)


def measure(rows: int) -> dict[str, Any]:
    """In a process that has done nothing else."""
    folder = folder_of(rows)
    queries, truth = Sentences(rows).queries(), np.load(folder / "truth.npy")
    before = private_bytes()
    shard, facts = opened(rows)
    fewest, reached = fewest_probes(shard, queries, truth)
    # Most rows of an interpolated shard lie between two others, so its own sample found them with fewer probes than sentences
    # that are in no index need: those are asked here, with enough.
    probes = max(fewest, shard.nprobe or 1)
    cold, read = [], []
    for query in queries[:COLD]:
        shard = None
        drop_from_memory(folder)
        shard, facts = opened(rows)
        drop_from_memory(folder)  # what opening it read
        from_disk = read_from_disk()
        cold.append(seconds(lambda query=query, shard=shard: shard.search(query[None], K, probes=probes)))
        read.append(read_from_disk() - from_disk)
    load = seconds(lambda: opened(rows))
    for query in queries[-WARM_UP:]:
        shard.search(query[None], K, probes=probes)
    warm = [seconds(lambda query=query: shard.search(query[None], K, probes=probes)) for query in queries[:-WARM_UP]]
    recall = recall_of(shard, queries, truth, probes)
    batch = seconds(lambda: shard.search(queries, K, probes=probes))
    private = private_bytes() - before
    return {
        "rows": rows,
        "lists": shard.nlist,
        "probes": probes,
        "refine": shard.refine,
        "recall_at_10": round(recall, 4),
        "chosen_by_its_build": {"probes": shard.nprobe, "recall_of_its_own_rows": shard.recall},
        "fewest_probes": fewest,
        "recall_with_them": round(reached, 4),
        "private_mib": round(private / 2**20, 1),
        "counted_mib": round(shard.memory_bytes / 2**20, 1),
        "file_bytes_a_row": round(sum(path.stat().st_size for path in folder.glob("shard-*")) / rows),
        "list_bytes_a_row": round((folder / lists_name(0)).stat().st_size / rows),
        "warm": percentiles(warm),
        "cold": {**percentiles(cold), "mib_read_median": round(statistics.median(read) / 2**20, 1)},
        "batch_queries_per_s": round(len(queries) / batch),
        "open_s": round(load, 3),
        "build_s": facts["build_s"],
    }


def compare(small: int, large: int, probes: Sequence[int]) -> dict[str, Any]:
    """Both warm, in turns of twenty single queries, the first two of a turn not counted."""
    queries = Sentences(small).queries()
    shards = [opened(small)[0], opened(large)[0]]
    times: list[list[float]] = [[], []]
    for turn, start in enumerate(range(0, QUERIES, TURN)):
        for which in (0, 1) if turn % 2 else (1, 0):
            calls = [
                seconds(lambda query=query, which=which: shards[which].search(query[None], K, probes=probes[which]))
                for query in queries[start : start + TURN]
            ]
            if turn >= WARM_UP // TURN:
                times[which] += calls[2:]
    ours = [statistics.median(kept) * 1e3 for kept in times]
    return {
        "rows": [small, large],
        "probes": list(probes),
        "p50_ms": [round(ms, 3) for ms in ours],
        "ratio": round(ours[1] / ours[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, MILLION, 5 * MILLION])
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    cached = Sentences(0).real
    sizes = sorted({cached if rows == MILLION else rows for rows in options.rows})
    figures: dict[str, Any] = {}
    for rows in sizes:
        build(rows, fresh=options.fresh)
        command = [sys.executable, __file__, "--measure", str(rows)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        figures[str(rows)] = json.loads(output.splitlines()[-1])
        print(json.dumps(figures[str(rows)]), flush=True)
    measured = list(figures.values())
    met = {
        "recall": all(size["recall_at_10"] >= RECALL for size in measured),
        "private": all(size["private_mib"] < 1024 * GOALS["private_gib"] for size in measured),
        "warm": all(size["warm"]["p95_ms"] <= GOALS["warm_p95_ms"] for size in measured),
        "cold": all(size["cold"]["p95_ms"] <= GOALS["cold_p95_ms"] for size in measured),
    }
    if len(sizes) > 1:
        probes = [figures[str(rows)]["fewest_probes"] for rows in (sizes[0], sizes[-1])]
        figures["compared"] = compare(sizes[0], sizes[-1], probes)
        met["ratio"] = figures["compared"]["ratio"] <= GOALS["p50_ratio"]
    shape = {"dim": DIM, "k": K, "queries": QUERIES, "recall": RECALL, "goals": GOALS, "met": met}
    command = f"python benchmarks/index_disk.py --rows {' '.join(map(str, options.rows))}"
    write_result("index_disk", {**shape, **figures}, ["faiss-cpu", "numpy", "pyarrow"], command)


if __name__ == "__main__":
    main()
