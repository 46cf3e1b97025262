"""Write one shard from the collection: its rows, its vectors, and what nominates the near ones. Pure; no Ray.

The collection is scanned once, into the vector file. What follows reads that file, mapped: a sample to train on, a pass
that adds codes, and the exact answers of 256 rows, by which the probes are chosen.
Cost: one scan, one write of the vectors, and in memory the codes, one batch and the sample; of hnsw and ivf the vectors,
for they are their codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from raystore.index.kinds import KindName
from raystore.index.manifest import ShardRecord
from raystore.index.metric import Metric, as_queries
from raystore.index.shards.hnsw import GraphBuilder
from raystore.index.shards.ivf import IvfLists, list_count, sample_rows
from raystore.index.shards.lists import ListsBuilder
from raystore.index.shards.probes import Chosen, choose_ef, choose_probes
from raystore.index.shards.rows_file import joined_ids, write_rows
from raystore.index.shards.shard import Shard, ShardFacts
from raystore.index.shards.threads import faiss_threads
from raystore.index.shards.vector_file import VectorFile, VectorFileWriter, name_of
from raystore.index.source import RowIds, Scanned
from raystore.vectors import Matrix

_ADDED = 16_384  # rows whose codes are made at once: 24 MiB at d = 384
_SAMPLE_BYTES = 256 * 2**20  # of vectors to train on: 174,000 at d = 384
_ALONE = 2**20  # numbers that one thread gets through sooner than two meet on busy cores
_FEWEST_ROWS = {"exact": 0, "hnsw": 1, "ivf_pq": 256}  # fewer are searched exactly: 256 codes need as many points ...
_FEWEST_IN_LISTS = 78  # ... and one list is no list


class _Builder(Protocol):
    def add(self, vectors: Matrix) -> None: ...
    def save(self, folder: Path, number: int) -> dict[str, str]: ...


def write_shard(
    source: Scanned,
    stage: Path,
    number: int,
    *,
    fingerprint: str,
    row_ids: tuple[int, int],
    since: int,
    as_of: int,
    kind: KindName,
    metric: Metric,
    target_recall: float = 0.95,
    threads: int | None = None,
) -> ShardRecord:
    """The record of shard `number`, whose files now stand in `stage`, synced.

    Args:
        row_ids: half-open range; of it the rows whose vector came after version `since` and not after `as_of`, less what
            was erased since.
        kind: with too few rows for it the shard is exact, and its record says so.
        target_recall: at 10 neighbours. Probes are chosen for .02 more on a sample of the shard's own rows, so that other
            queries stay above the target.

    Raises:
        InvalidVectors: the collection holds a vector without a direction.
        DiskFull: the stage has no room.
    """
    dim = source.dim(fingerprint)
    found, ids, files = _write_vectors(source, stage, number, fingerprint, row_ids, since, as_of, metric, dim)
    files |= write_rows(stage, number, found, ids)
    vectors = VectorFile.open(stage, number, files, len(found), dim)
    enough = len(found) >= _FEWEST_ROWS.get(kind, _FEWEST_IN_LISTS)
    made: KindName = kind if enough else "exact"
    chosen: Chosen | None = None
    with faiss_threads(1 if len(found) * dim < _ALONE else threads):
        if made != "exact":
            builder = _begin(made, metric, vectors, stage, number)
            for _, part in vectors.parts(_ADDED):
                builder.add(part)
            if isinstance(builder, GraphBuilder):
                chosen = choose_ef(builder.graph, Shard("exact", metric, found, ids, vectors, dim), target_recall)
            files |= builder.save(stage, number)
            del builder  # before the files are opened: the codes are in memory once
        record = ShardRecord(
            number=number,
            files=files,
            rows=len(found),
            kind=None if made == kind else made,
            row_id_lo=row_ids[0],
            row_id_hi=row_ids[1],
            since=since,
            as_of=as_of,
            disk_bytes=sum(path.stat().st_size for path in stage.glob(f"shard-{number:04d}.*")),
        )
        shard = Shard.load(stage, record, ShardFacts(made, metric, dim))
        facts: dict[str, object] = {"memory_bytes": shard.memory_bytes}
        if made != "exact":
            chosen = chosen or choose_probes(shard, target_recall)
            facts |= {"nlist": shard.nlist, "nprobe": chosen.probes, "refine": chosen.refine, "recall": chosen.recall}
        return record.model_copy(update=facts)


def _write_vectors(
    source: Scanned,
    stage: Path,
    number: int,
    fingerprint: str,
    row_ids: tuple[int, int],
    since: int,
    as_of: int,
    metric: Metric,
    dim: int,
) -> tuple[RowIds, pa.LargeStringArray, dict[str, str]]:
    """Row ids ascending, their ids, and the digest of the vector file that was written in that order."""
    row_numbers: list[RowIds] = [np.empty(0, dtype=np.int64)]
    ids: list[pa.Array] = []
    path = stage / name_of(number)
    writer = VectorFileWriter(path, dim)
    for batch in source.scan(fingerprint, columns=(), as_of=as_of, since=since or None, row_ids=row_ids):
        writer.add(as_queries(batch.vectors, dim, metric, "index"))
        row_numbers.append(np.asarray(batch.row_ids, dtype=np.int64))
        # A copy: the batch's own array keeps all of its memory, vectors too (844 MiB at 480,000 rows of 384, docs/LOG.md).
        ids.append(batch.ids.take(pa.array(np.arange(len(batch.ids)))))
    files = writer.close()
    found, names = np.concatenate(row_numbers), joined_ids(ids)
    if (np.diff(found) > 0).all():
        return found, names, files
    order = np.argsort(found)  # fragments need not stand in row-id order
    scanned = path.rename(stage / f"{path.name}.scanned")
    vectors = np.memmap(scanned, dtype=np.float32, mode="r", shape=(len(found), dim))
    writer = VectorFileWriter(path, dim)
    for start in range(0, len(order), _ADDED):
        writer.add(vectors[order[start : start + _ADDED]])
    files = writer.close()
    scanned.unlink()
    return found[order], names.take(pa.array(order)), files


def _begin(kind: str, metric: Metric, vectors: VectorFile, stage: Path, number: int) -> _Builder:
    """What takes the vectors of that kind, trained on a sample of them."""
    n, dim = len(vectors), vectors.dim
    if kind == "hnsw":
        return GraphBuilder(metric, dim, n)
    if kind == "disk":
        return ListsBuilder(vectors, metric, stage, number)
    nlist = list_count(n)
    wanted = min(n, sample_rows(nlist), max(nlist, _SAMPLE_BYTES // (4 * dim)))
    positions = np.linspace(0, n - 1, wanted).astype(np.int64)
    return IvfLists.train(kind, metric, vectors.rows(positions), nlist)
