"""Build a sharded index from a collection: RAY, a thin shell around `write_shard`, which is pure.

A shard is a range of row ids. A Ray actor is handed the range and the collection's name, reads its own vectors and
writes its own files; no vector passes through Ray. The manifest is written last. A build that was killed left its
finished shards in a folder under tmp/, and the same call goes on from them, at the version it began with.
Cost: one scan of the vectors and, per worker, the codes of one shard in memory.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raystore.errors import InvalidArguments, ShardCorrupt
from raystore.index.build.part import rebuilt_part, write_part
from raystore.index.build.plan import BuildPlan, no_vectors, plan_build, problems_of
from raystore.index.build.stage import Stage, part_folder, resumable
from raystore.index.manifest import (
    FOLD_AFTER_S,
    FOLD_ROWS,
    IndexManifest,
    ShardRecord,
    index_folder,
    latest,
    newest_number,
    publish_index,
    publish_repaired,
)
from raystore.index.shards.shard import Shard
from raystore.index.source import VectorSource, open_source
from raystore.layout import FP12, Layout
from raystore.progress import Progress
from raystore.session import root_cause, start_ray, thread_count
from raystore.vectors import as_unit_rows

log = logging.getLogger("raystore")

_LOOKED_AT = 32  # rows of a finished shard that are compared with the collection before a build goes on from it


def build_index(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    shards: int | None = 1,
    kind: str = "exact",
    metric: str = "cosine",
    workers: int = 0,
    served: str = "inline",
    replicas: int = 1,
    memory: int | None = None,
    target_recall: float = 0.95,
    fold_rows: int = FOLD_ROWS,
    fold_after_s: float = FOLD_AFTER_S,
    home: str | None = None,
    cache_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> tuple[int, IndexManifest]:
    """The new index and its number; searches use it from the moment it is published.

    Args:
        source: the collection; workers open it themselves, by name.
        shards: parts, at most as many as rows; each is an even range of row ids. None: as many as `memory` needs.
        kind: one of kinds.py; all but "exact" are approximate, their probes chosen for `target_recall`.
        workers: 0 builds in this process; otherwise so many Ray actors do, spread over the nodes.
        served: "inline", in the process that searches, or "actors", `replicas` Ray actors a shard.
        memory: bytes that the process of one shard may hold for it; mapped files are not counted.
        fold_rows, fold_after_s: how many rows, and how old, may stand beside the shards before they are folded in.
        home: kind "disk": an fsspec address for the vector and list files; `cache_bytes` of what is read from there is kept.
        progress: called with the rows indexed so far and the rows in all.

    Raises:
        InvalidArguments: every argument that cannot be, a budget that cannot be met (with the nearest that can), and a
            collection without rows, in one sentence.
        PassportMismatch: the collection holds no vectors of this encoder.
        JobFailed: a live process is building the same index, or a worker failed.
        DiskFull: nothing was published.
    """
    started = time.monotonic()
    call = f"build_index of collection '{collection}'"
    dim, version = source.dim(fingerprint), source.version
    there = source.row_ids(as_of=version)
    row_ids = source.with_vector(fingerprint, there)
    shaping = {
        "collection": collection,
        "fingerprint": fingerprint,
        "dim": dim,
        "kind": kind,
        "metric": metric,
        "shards": shards,
        "memory": memory,
        "target_recall": target_recall,
        "home": home,
    }
    facts = {
        "served": served,
        "replicas": replicas,
        "fold_rows": fold_rows,
        "fold_after_s": fold_after_s,
        "cache_bytes": cache_bytes,
    }
    problems = problems_of(shaping, facts, workers=workers, rows=len(row_ids), empty=not len(there))
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    with resumable(layout.tmp, f"index-{collection}-{fingerprint[:FP12]}", shaping, call) as stage:
        plan, records = _where_it_was(source, stage)
        if plan is None:
            plan = plan_build(row_ids, version, shaping)
            stage.begin(plan.model_dump(mode="json"))
        done = sum(plan.counts[record.number] for record in records)
        if progress is not None and done:
            progress(done, plan.rows)
        jobs = [_Job(str(stage.folder), plan, number) for number in plan.numbers_but(records)]
        with closing(_written(source, layout, jobs, workers)) as finished:
            for record in finished:
                _check_budget(record, plan, call)
                records.append(record)
                done += plan.counts[record.number]
                if progress is not None:
                    progress(done, plan.rows)
        if not any(record.rows for record in records):
            raise InvalidArguments(call=call, problems=[no_vectors(collection, fingerprint)])
        manifest = plan.manifest(records, facts, build_s=round(time.monotonic() - started, 3))
        number = publish_index(stage.files, layout, manifest)
        if manifest.recall is not None and manifest.recall < target_recall:
            log.warning(
                "index %s over '%s' (%s) finds %.1f%% of the 10 nearest of its own rows, not the %.1f%% it was asked for, at the most "
                "that kind gives here; another kind may: collection.tune_index()",
                number, collection, kind, 100 * manifest.recall, 100 * target_recall,
            )  # fmt: skip
        return number, manifest


def open_shard(
    source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, place: int, *, threads: int | None = None
) -> tuple[Shard, ShardCorrupt | None]:
    """The shard at that place of the manifest from its files, or written again from the collection, with what was wrong with
    the files."""
    folder = index_folder(layout, manifest.collection, manifest.fingerprint, number)
    try:
        return Shard.load(folder, manifest.shards[place], manifest), None
    except ShardCorrupt as error:
        return rebuild_shard(source, layout, manifest, place, threads=threads), error


def rebuild_shard(
    source: VectorSource, layout: Layout, manifest: IndexManifest, place: int, *, threads: int | None = None
) -> Shard:
    """The shard at that place written again from the collection, into a folder under tmp/ that is named by its record: whoever
    else finds the same shard bad, in this process or another, finds it there, until `repair` publishes it."""
    record = manifest.shards[place]
    made = rebuilt_part(source, layout, manifest, record, threads)
    try:
        return Shard.load(made.folder, made.record, manifest)
    except ShardCorrupt:  # what an earlier rebuild left was damaged too
        shutil.rmtree(made.folder, ignore_errors=True)
        made = rebuilt_part(source, layout, manifest, record, threads)
        return Shard.load(made.folder, made.record, manifest)


def repair(
    source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, numbers: Collection[int]
) -> tuple[int, IndexManifest]:
    """The index with the shards of those numbers (`ShardRecord.number`) written again and published under the next number;
    the newest index, where another process has published one already."""
    if newest_number(layout, manifest.collection, manifest.fingerprint) != number:
        return latest(layout, manifest.collection, manifest.fingerprint) or (number, manifest)
    bad = [record for record in manifest.shards if record.number in numbers]
    if not bad:
        return number, manifest
    rebuilt = {record.number: rebuilt_part(source, layout, manifest, record, None) for record in bad}
    try:
        published = publish_repaired(layout, number, manifest, rebuilt)
    except FileExistsError:  # a build or a fold came first, and is not made of the bad files
        return latest(layout, manifest.collection, manifest.fingerprint) or (number, manifest)
    for made in rebuilt.values():
        shutil.rmtree(made.folder, ignore_errors=True)  # whoever has mapped the files keeps them
    return published


class _Job(NamedTuple):
    """All a worker needs to know of a shard: references, no vectors."""

    stage: str
    plan: BuildPlan
    number: int


def _written(
    source: VectorSource, layout: Layout, jobs: Sequence[_Job], workers: int
) -> Generator[ShardRecord, None, None]:
    if not workers or not jobs:
        return (_write(source, job) for job in jobs)
    advice = "Nothing was published; call it again, it goes on from the shards that are finished."
    return on_ray(_Builder, [str(layout.root)], jobs, workers, says="build_index", advice=advice)


def _write(source: VectorSource, job: _Job, threads: int | None = None) -> ShardRecord:
    plan = job.plan
    with part_folder(Path(job.stage), job.number) as (folder, facts):
        record = write_part(
            source,
            folder,
            job.number,
            plan=plan,
            kind=plan.kind,
            row_ids=plan.ranges[job.number],
            since=0,
            as_of=plan.version,
            threads=threads,
        )
        facts.update(record.model_dump(mode="json"))
    return record


def _where_it_was(source: VectorSource, stage: Stage) -> tuple[BuildPlan | None, list[ShardRecord]]:
    """The plan that an earlier call began with and the shards it finished, None where there is nothing to go on from.

    A shard counts where its files are whole and its rows are the collection's: it may have been another collection of the
    same name.
    """
    kept = stage.plan()
    if kept is None or not stage.files.is_dir():
        return None, []
    plan = BuildPlan.model_validate(kept)
    if plan.version > source.version:
        return None, []
    whole = plan.manifest([], {"served": "inline"}, build_s=0.0)
    records = []
    for number, facts in stage.finished().items():
        record = ShardRecord.model_validate(facts)
        try:
            shard = Shard.load(stage.files, record, whole)
        except ShardCorrupt:
            stage.forget(number)
            continue
        if not _is_of(shard, source, plan.fingerprint):
            return None, []
        records.append(record)
    return plan, records


def _is_of(shard: Shard, source: VectorSource, fingerprint: str) -> bool:
    """Whether some of the shard's rows, those that are still there, are the collection's, vectors and all."""
    at = np.unique(np.linspace(0, shard.rows - 1, min(_LOOKED_AT, shard.rows)).astype(np.int64))
    row_ids = np.asarray(shard.row_ids)[at]
    found, vectors = source.vectors_at(fingerprint, row_ids)
    if not found.any():
        return True  # nothing to tell by, and nothing that a search would answer with
    return bool(np.array_equal(shard.vectors_at(at[found]), as_unit_rows(vectors, vectors.shape[1], "index")))


def _check_budget(record: ShardRecord, plan: BuildPlan, call: str) -> None:
    if plan.memory is not None and record.memory_bytes > plan.memory:
        problem = (
            f"shard {record.number} of {len(plan.ranges)} takes {record.memory_bytes:,} bytes of memory, more than the "
            f"{plan.memory:,} it may, ask for more shards"
        )
        raise InvalidArguments(call=call, problems=[problem])


class _Builder:
    """What a Ray worker runs: it opens the collection itself."""

    def __init__(self, root: str) -> None:
        self._root = root

    def work(self, job: _Job, threads: int) -> ShardRecord:
        return _write(open_source(self._root, job.plan.collection), job, threads)


def on_ray(
    worker: type, arguments: Sequence[Any], jobs: Sequence[Any], workers: int, *, says: str, advice: str
) -> Generator[Any, None, None]:
    """What `worker(*arguments).work(job, threads)` returned for each job, as they are finished, by `workers` actors.

    `worker` must not open anything when it is made: an actor whose constructor fails does not say why.

    Actors, because work that is interrupted ends them by a kill. `ray.cancel` of a task whose reply arrives just then
    aborts this process (Ray 2.60, "Tried to complete task that was not pending"; docs/LOG.md).

    Raises:
        JobFailed or the raystore error of the worker that failed; `says` and `advice` are of its sentence.
    """
    if not jobs:
        return
    ray = start_ray()
    at_once = min(workers, len(jobs))
    # A worker that dies is replaced and its job tried again, up to three times, as Ray does with tasks.
    actor = ray.remote(worker).options(num_cpus=1, max_restarts=-1, max_task_retries=3, scheduling_strategy="SPREAD")
    waiting = list(reversed(jobs))
    started: list[Any] = []
    running: dict[object, Any] = {}  # the actor of each answer that is awaited
    try:
        for _ in range(at_once):
            started.append(actor.remote(*arguments))
            running[started[-1].work.remote(waiting.pop(), thread_count(at_once))] = started[-1]
        while running:
            (done,), _ = ray.wait(list(running))
            answer, mine = ray.get(done), running.pop(done)
            if waiting:
                running[mine.work.remote(waiting.pop(), thread_count(at_once))] = mine
            else:
                ray.kill(mine)  # where there are more actors than CPUs, another waits for this one's
            yield answer
    except ray.exceptions.RayError as error:
        raise root_cause(error, says, advice) from None
    finally:
        for mine in started:
            ray.kill(mine)
