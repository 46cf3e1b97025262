"""The job over all pairs: RAY, a thin shell around compare.py.

The rows are cut into parts. A worker reads the vectors of a part, asks a block of them at a time for their nearest, and
writes what it finds into a file of the stage. A job that was killed goes on from its finished parts when it is called again
with the same arguments, at the version it began with.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from raystore.errors import InvalidArguments
from raystore.index.build.plan import no_vectors
from raystore.index.build.run import on_ray
from raystore.index.build.stage import Stage, part_folder, resumable
from raystore.index.manifest import ShardRecord, latest
from raystore.index.pairs import plan as planning
from raystore.index.pairs.against import AgainstIndex, AgainstRows
from raystore.index.pairs.compare import FOUND, NEIGHBOURS, Nearest, near_pairs, neighbours
from raystore.index.pairs.finish import DUPLICATES, Duplicates, neighbour_batches
from raystore.index.pairs.plan import BLOCK_ROWS, Asked, PairKind, PairPlan, cut, problems_of_pairs
from raystore.index.pairs.table import PairFacts, PairTable, publish_pairs
from raystore.index.shards.write import write_shard
from raystore.index.source import ROW_ID_END, Rows, VectorSource, open_source, read_rows
from raystore.layout import FP12, Layout, read_json
from raystore.progress import Progress

EXACT_BELOW = 50_000  # rows: comparing all takes 15 s at d = 384 here
_SHARD = 0  # the exact shard's number among the parts; pairs are those from 1
_SOME = 32


def run_pairs(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    kind: PairKind,
    *,
    where: str | None,
    workers: int,
    exact: bool | None,
    progress: Progress | None,
    k: int | None = None,
    threshold: float | None = None,
    limit: int | None = None,
) -> PairTable:
    """What knn_graph.py and duplicates.py share, who say what it does."""
    started = time.monotonic()
    call = f"{'knn_graph' if kind == 'knn' else 'duplicates'} of collection '{collection}'"
    source.dim(fingerprint)
    problems = problems_of_pairs(k=k, threshold=threshold, limit=limit, exact=exact, workers=workers)
    index = latest(layout, collection, fingerprint)
    if exact is False and index is None:
        problems.append(
            "exact is False, but there is no index that could nominate neighbours, build one or leave exact out"
        )
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    if exact is None:
        exact = index is None or index[1].rows <= EXACT_BELOW
    whole = index is None or (exact and index[1].kind != "exact")
    against: Literal["index", "rows"] = "rows" if whole else "index"
    asked = Asked(kind=kind, where=where, against=against, k=k, threshold=threshold, limit=limit)
    name = f"pairs-{collection}-{fingerprint[:FP12]}"
    with resumable(layout.tmp, name, asked.model_dump(mode="json"), call) as stage:
        plan = _where_it_was(source, stage)
        if plan is None:
            plan = _begin(source, collection, fingerprint, asked, call)
            stage.begin(plan.model_dump(mode="json"))
        if whole and _SHARD not in stage.finished():
            _write_rows(source, stage, plan)
        records = {number: facts for number, facts in stage.finished().items() if number != _SHARD}
        done = sum(facts["rows"] for facts in records.values())
        if progress is not None and done:
            progress(done, plan.rows)
        jobs = [_Job(str(stage.folder), plan, n) for n in range(1, len(plan.ranges) + 1) if n not in records]
        with closing(_compared(source, layout, jobs, workers)) as finished:
            for number, facts in finished:
                records[number] = facts
                done += facts["rows"]
                if progress is not None:
                    progress(done, plan.rows)
        return _finish(layout, stage, plan, records, started)


class _Job(NamedTuple):
    """All a worker needs to know of a part: references, no vectors."""

    stage: str
    plan: PairPlan
    part: int


class _Comparer:
    """What a worker runs, in this process or in an actor: it opens what it compares with once, when the first part comes."""

    def __init__(self, root: str, source: VectorSource | None = None) -> None:
        self._layout = Layout(Path(root))
        self._source = source
        self._against: AgainstIndex | AgainstRows | None = None

    def work(self, job: _Job, threads: int | None = None) -> tuple[int, dict[str, Any]]:
        """Write the part's file and record."""
        plan = job.plan
        source = self._source = self._source or open_source(str(self._layout.root), plan.collection)
        if self._against is None:
            self._against = self._open(source, Path(job.stage), plan, threads)
        rows = read_rows(source, plan.fingerprint, row_ids=plan.ranges[job.part - 1], as_of=plan.version)
        if plan.where is not None:
            rows = rows.where(np.isin(rows.row_ids, source.row_ids(plan.where, as_of=plan.version), assume_unique=True))
        with part_folder(Path(job.stage), job.part) as (folder, facts):
            facts |= {"rows": len(rows.row_ids), "pairs": 0, "exact": True, "cut_short": 0}
            schema = NEIGHBOURS if plan.kind == "knn" else FOUND
            with pa.OSFile(str(folder / _file(job.part)), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for start in range(0, len(rows.row_ids), BLOCK_ROWS):
                    block = rows.where(np.arange(start, min(start + BLOCK_ROWS, len(rows.row_ids))))
                    writer.write_table(_compare(block, self._against, plan, facts))
            facts["index_version"] = self._against.number
        return job.part, facts

    def close(self) -> None:
        if self._against is not None:
            self._against.close()

    def _open(self, source: VectorSource, stage: Path, plan: PairPlan, threads: int | None) -> AgainstIndex | AgainstRows:
        if plan.against == "rows":
            record = ShardRecord.model_validate(read_json(stage / f"{_SHARD}.json"))
            dim = source.dim(plan.fingerprint)
            return AgainstRows(source, stage / "files", record, dim, where=plan.where, threads=threads)
        return AgainstIndex(
            source,
            self._layout,
            plan.collection,
            plan.fingerprint,
            version=plan.version,
            where=plan.where,
            threads=threads,
        )


def _compare(block: Rows, nearest: Nearest, plan: PairPlan, facts: dict[str, Any]) -> pa.Table:
    """What the block's part of the file is; `facts` count it."""
    if plan.k is not None:
        table, exact = neighbours(block, nearest, plan.k)
    else:
        table, exact, short = near_pairs(block, nearest, plan.threshold or 0.0, plan.limit or 1)
        facts["cut_short"] += short
    facts["exact"] &= exact
    facts["pairs"] += len(table)
    return table


def _compared(
    source: VectorSource, layout: Layout, jobs: Sequence[_Job], workers: int
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    if workers:
        advice = "Call it again: it goes on from the parts that are finished."
        yield from on_ray(_Comparer, [str(layout.root)], jobs, workers, says="pairs", advice=advice)
        return
    with closing(_Comparer(str(layout.root), source)) as comparer:
        for job in jobs:
            yield comparer.work(job)


def _file(part: int) -> str:
    return f"part-{part:06d}.arrow"


def _begin(source: VectorSource, collection: str, fingerprint: str, asked: Asked, call: str) -> PairPlan:
    version = source.version
    row_ids = source.with_vector(fingerprint, source.row_ids(asked.where, as_of=version))
    if not len(row_ids) and asked.where is None:
        raise InvalidArguments(call=call, problems=[no_vectors(collection, fingerprint)])
    some = source.rows_by_row_id(row_ids[:: max(1, len(row_ids) // _SOME)], ["id"])
    return PairPlan(
        **asked.model_dump(),
        collection=collection,
        fingerprint=fingerprint,
        version=version,
        ranges=cut(row_ids, planning.PART_ROWS) if len(row_ids) else (),
        rows=len(row_ids),
        some=dict(zip(some.column("_rowid").to_pylist(), some.column("id").to_pylist(), strict=True)),
    )


def _where_it_was(source: VectorSource, stage: Stage) -> PairPlan | None:
    """The plan of an earlier call, unless it was of another collection of the same name."""
    kept = stage.plan()
    if kept is None or not stage.files.is_dir():
        return None
    plan = PairPlan.model_validate(kept)
    there = source.rows_by_row_id(np.array(list(plan.some), dtype=np.int64), ["id"])
    same = zip(there.column("_rowid").to_pylist(), there.column("id").to_pylist(), strict=True)
    return plan if plan.version <= source.version and all(plan.some[row] == id_ for row, id_ in same) else None


def _write_rows(source: VectorSource, stage: Stage, plan: PairPlan) -> None:
    """The exact shard of all rows, which the parts are compared with: mapped, so that it may be larger than memory."""
    with part_folder(stage.folder, _SHARD) as (folder, facts):
        record = write_shard(
            source,
            folder,
            _SHARD,
            fingerprint=plan.fingerprint,
            row_ids=(0, ROW_ID_END),
            since=0,
            as_of=plan.version,
            kind="exact",
            metric="cosine",
        )
        facts.update(record.model_dump(mode="json"))


def _finish(layout: Layout, stage: Stage, plan: PairPlan, records: dict[int, dict[str, Any]], started: float) -> PairTable:
    index = latest(layout, plan.collection, plan.fingerprint) if plan.against == "index" else None
    exact = all(facts["exact"] for facts in records.values())
    facts = PairFacts(
        kind=plan.kind,
        collection=plan.collection,
        fingerprint=plan.fingerprint,
        version=plan.version,
        where=plan.where,
        rows=sum(facts["rows"] for facts in records.values()),
        pairs=sum(facts["pairs"] for facts in records.values()),
        exact=exact,
        recall=None if exact or index is None else index[1].recall,
        index_version=max((facts["index_version"] or 0 for facts in records.values()), default=0) or None,
        k=plan.k,
        threshold=plan.threshold,
        took_s=0.0,
    )
    files = [stage.files / _file(part) for part in sorted(records)]
    if plan.kind == "knn":
        said = facts.model_copy(update={"took_s": round(time.monotonic() - started, 3)})
        return publish_pairs(layout, stage.folder, said, NEIGHBOURS, neighbour_batches(files))
    found = Duplicates(files, stage.folder)
    counted = {
        "pairs": found.pairs,
        "groups": found.groups,
        "in_groups": found.in_groups,
        "cut_short": sum(facts["cut_short"] for facts in records.values()),
        "took_s": round(time.monotonic() - started, 3),
    }
    return publish_pairs(layout, stage.folder, facts.model_copy(update=counted), DUPLICATES, found.batches())
