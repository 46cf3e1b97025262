"""Build a sharded index from a collection: RAY, a thin shell around the pure `build_shard`.

A shard is a range of row ids. A Ray actor is handed the range and the collection's name, reads its own vectors and
writes its own files; no vector passes through Ray. The manifest is written last, so a build that was killed left
nothing but a folder under tmp/.
Cost: one scan of the vectors and, per worker, one shard in memory twice (as read, and inside FAISS).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raystore.errors import InvalidArguments, ShardCorrupt
from raystore.index.manifest import IndexManifest, ShardRecord, index_folder, publish_index
from raystore.index.shard import KINDS, Shard
from raystore.index.source import ROW_ID_END, RowIds, VectorSource, open_source, read_rows
from raystore.layout import FP12, Layout, staging
from raystore.progress import Progress
from raystore.session import root_cause, start_ray, thread_count

SERVED = ("inline", "actors")


def split_row_ids(row_ids: RowIds, shards: int) -> list[tuple[int, int]]:
    """Half-open ranges of row ids that hold equally many of the (ascending) rows, give or take one.

    The first starts at 0 and the last is open to the end, so that together they hold any row id.
    """
    cuts = [int(part[0]) for part in np.array_split(row_ids, shards)[1:]]
    return list(zip([0, *cuts], [*cuts, ROW_ID_END], strict=True))


def build_shard(
    source: VectorSource,
    fingerprint: str,
    *,
    row_ids: tuple[int, int],
    as_of: int,
    kind: str,
    rows_hint: int = 0,
    threads: int | None = None,
) -> Shard:
    """The shard of one range of row ids, as the collection was at version `as_of`, less what was erased since."""
    rows = read_rows(source, fingerprint, row_ids=row_ids, as_of=as_of, rows_hint=rows_hint)
    return Shard.build(rows.row_ids, rows.vectors, kind, ids=rows.ids, threads=threads)


def open_shard(
    source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, shard: int, *, threads: int | None = None
) -> tuple[Shard, ShardCorrupt | None]:
    """The shard from its files, or built again from the collection, with what was wrong with the files."""
    record = manifest.shards[shard]
    folder = index_folder(layout, manifest.collection, manifest.fingerprint, number)
    try:
        loaded = Shard.load(
            folder, record.number, record.files, kind=manifest.kind, nprobe=record.nprobe, recall=record.recall
        )
    except ShardCorrupt as error:
        rebuilt = build_shard(
            source,
            manifest.fingerprint,
            row_ids=(record.row_id_lo, record.row_id_hi),
            as_of=manifest.version,
            kind=manifest.kind,
            rows_hint=record.rows,
            threads=threads,
        )
        return rebuilt, error
    return loaded, None


def build_index(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    shards: int = 1,
    kind: str = "exact",
    workers: int = 0,
    served: str = "inline",
    progress: Progress | None = None,
) -> tuple[int, IndexManifest]:
    """The new index and its number; searches use it from the moment it is published.

    Args:
        source: the collection; workers open it themselves, by name.
        shards: parts, at most as many as rows; each is an even range of row ids.
        kind: "exact", or "ivf" (approximate; its probes are chosen for a recall of 0.95 at 10 neighbours).
        workers: 0 builds in this process; otherwise so many Ray actors do.
        served: "inline", in the process that searches, or "actors", one Ray actor a shard.
        progress: called with the rows indexed so far and the rows in all.

    Raises:
        InvalidArguments: every argument that cannot be, and a collection without rows, in one sentence.
        PassportMismatch: the collection holds no vectors of this encoder.
        DiskFull, JobFailed: nothing was published.
    """
    started = time.monotonic()
    dim = source.dim(fingerprint)
    version = source.version
    row_ids = source.row_ids(as_of=version)
    _check(collection, len(row_ids), shards, kind, workers, served)
    ranges = split_row_ids(row_ids, shards)
    counts = [len(part) for part in np.array_split(row_ids, shards)]
    with staging(layout.tmp) as stage:
        jobs = [
            _Job(str(layout.root), collection, fingerprint, str(stage), number, lo, hi, version, kind, count)
            for number, ((lo, hi), count) in enumerate(zip(ranges, counts, strict=True))
        ]
        records: list[ShardRecord] = []
        with closing(_built_on_ray(jobs, workers) if workers else (_write_shard(source, job) for job in jobs)) as finished:
            for record in finished:
                records.append(record)
                if progress is not None:
                    progress(sum(counts[r.number] for r in records), len(row_ids))
        if not sum(record.rows for record in records):
            raise InvalidArguments(call=_call(collection), problems=[_no_vectors(collection, fingerprint)])
        manifest = IndexManifest.model_validate(
            {
                "kind": kind,
                "collection": collection,
                "fingerprint": fingerprint,
                "dim": dim,
                "version": version,
                "shards": tuple(sorted(records, key=lambda record: record.number)),
                "served": served,
                "build_s": round(time.monotonic() - started, 3),
            }
        )
        return publish_index(stage, layout, manifest), manifest


class _Job(NamedTuple):
    """All a worker needs to know of a shard: references, no vectors."""

    root: str
    collection: str
    fingerprint: str
    stage: str
    number: int
    lo: int
    hi: int
    version: int
    kind: str
    rows: int


def _write_shard(source: VectorSource, job: _Job, threads: int | None = None) -> ShardRecord:
    shard = build_shard(
        source,
        job.fingerprint,
        row_ids=(job.lo, job.hi),
        as_of=job.version,
        kind=job.kind,
        rows_hint=job.rows,
        threads=threads,
    )
    return ShardRecord(
        number=job.number,
        files=shard.save(Path(job.stage), job.number),
        rows=shard.rows,
        row_id_lo=job.lo,
        row_id_hi=job.hi,
        nlist=shard.nlist,
        nprobe=shard.nprobe,
        recall=shard.recall,
    )


class _Builder:
    """What a Ray worker runs: it opens the collection itself."""

    def write(self, job: _Job, threads: int) -> ShardRecord:
        return _write_shard(open_source(job.root, job.collection), job, threads)


def _built_on_ray(jobs: Sequence[_Job], workers: int) -> Generator[ShardRecord, None, None]:
    """The shards' records as they are finished, by `workers` actors.

    Actors, because a build that is interrupted ends them by a kill. `ray.cancel` of a task whose reply arrives just then
    aborts this process (Ray 2.60, "Tried to complete task that was not pending"; docs/LOG.md).
    """
    ray = start_ray()
    at_once = min(workers, len(jobs))
    # A worker that dies is replaced and its shard tried again, up to three times, as Ray does with tasks.
    actor = ray.remote(_Builder).options(num_cpus=1, max_restarts=-1, max_task_retries=3)
    waiting = list(reversed(jobs))
    builders: list[Any] = []
    running: dict[object, Any] = {}  # the builder of each record that is awaited
    try:
        for _ in range(at_once):
            builders.append(actor.remote())
            running[builders[-1].write.remote(waiting.pop(), thread_count(at_once))] = builders[-1]
        while running:
            (done,), _ = ray.wait(list(running))
            record, builder = ray.get(done), running.pop(done)
            if waiting:
                running[builder.write.remote(waiting.pop(), thread_count(at_once))] = builder
            else:
                ray.kill(builder)  # where there are more builders than CPUs, another waits for this one's
            yield record
    except ray.exceptions.RayError as error:
        raise root_cause(error, "build_index", "Nothing was published; build it again.") from None
    finally:
        for builder in builders:
            ray.kill(builder)


def _check(collection: str, rows: int, shards: object, kind: object, workers: object, served: object) -> None:
    problems = []
    if not isinstance(shards, int) or isinstance(shards, bool) or shards < 1:
        problems.append(f"shards is {shards!r}, expected a number from 1")
    elif rows and shards > rows:
        problems.append(f"shards is {shards}, more than the collection's {rows} rows")
    if kind not in KINDS:
        problems.append(f"kind is {kind!r}, expected {' or '.join(map(repr, KINDS))}")
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        problems.append(f"workers is {workers!r}, expected a number from 0 (0 is this process)")
    if served not in SERVED:
        problems.append(f"served is {served!r}, expected {' or '.join(map(repr, SERVED))}")
    if not rows:
        problems.append(f"collection '{collection}' has no rows yet, embed some first")
    if problems:
        raise InvalidArguments(call=_call(collection), problems=problems)


def _call(collection: str) -> str:
    return f"build_index of collection '{collection}'"


def _no_vectors(collection: str, fingerprint: str) -> str:
    return f"collection '{collection}' has no vectors of encoder {fingerprint[:FP12]} yet, embed some first"
