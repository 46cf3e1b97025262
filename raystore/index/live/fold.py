"""Rows that came since an index was built, folded into it: the next number, with the same shards linked and one more.

A folded shard holds the rows whose vector came after version `since` and not after `as_of`, of any row id. Small ones are
written together with what is new, so there are about log4(n) of them. A shard of which much was erased is written anew.
Only one process folds an index at a time (a file lock), and the next number is taken only if no other index took it
meanwhile; a fold that was killed left a folder under tmp/, which the next one removes.

Cost: the new rows and the small shards are read and written; linked shards cost nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from raystore.data.publish.folder import file_system
from raystore.errors import IndexNotFound, PassportMismatch, ShardCorrupt, StoreUnusable
from raystore.index.build.part import write_part
from raystore.index.kinds import KindName
from raystore.index.live.base import not_in
from raystore.index.manifest import (
    IndexManifest,
    ShardRecord,
    index_folder,
    latest,
    link_shard,
    publish_index,
    read_manifest,
)
from raystore.index.shards.blocks import check_file
from raystore.index.shards.rows_file import read_rows_file, rows_name
from raystore.index.source import ROW_ID_END, RowIds, VectorSource
from raystore.layout import FP12, Layout, numbers

_TIMES = 4  # a folded shard this many times as long as what follows it stays as it is
_GONE = 0.2  # the share of erased rows from which a shard is written anew
_KEPT = 2  # indexes that stay: the one in use, and the one that its readers come from


class Written(NamedTuple):
    """A shard to be written: its number, the versions between which its rows came, their row ids, and about how many."""

    number: int
    since: int
    as_of: int
    row_ids: tuple[int, int]
    rows: int
    kind: KindName


def plan_fold(
    manifest: IndexManifest, version: int, new: int, gone: Mapping[int, int], *, drop_gone: bool = False
) -> tuple[list[ShardRecord], list[Written]]:
    """The shards that stay and those to be written; none to be written where nothing is to be done.

    Args:
        version: of the collection, up to which rows are folded in.
        new: rows with a vector that came after `manifest.version`.
        gone: by shard number, how many of its rows were erased; all of them where its rows cannot be told.
        drop_gone: write every shard anew that holds an erased row.
    """
    stay = list(manifest.shards)
    written: list[Written] = []
    if new:
        since = manifest.version
        most = max([record.rows for record in stay if not _is_folded(record)] + [8 * manifest.fold_rows])
        total = new
        while stay and _is_folded(stay[-1]) and stay[-1].as_of == since:
            rows = stay[-1].rows - gone.get(stay[-1].number, 0)
            if rows > _TIMES * total or total + rows > most:
                break
            since, total = stay.pop().since, total + rows
        written.append(Written(len(stay), since, version, (0, ROW_ID_END), total, manifest.kind))
    for record in list(stay):
        lost = gone.get(record.number, 0)
        if lost > (0 if drop_gone else _GONE * record.rows):
            stay.remove(record)
            kind = record.kind or manifest.kind
            within = (record.row_id_lo, record.row_id_hi)
            written.append(Written(record.number, record.since, record.as_of, within, record.rows - lost, kind))
    return stay, written


def fold_index(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    drop_gone: bool = False,
    threads: int | None = None,
) -> tuple[int, IndexManifest] | None:
    """The folded index and its number, in use from now on; None where there is nothing to fold, or another process is at it.

    Args:
        drop_gone: every shard that holds an erased row is written anew, and all older indexes are removed, so that no file
            of an index holds an erased row's vector or id. Waits for whoever is folding. An index that is being built
            meanwhile from an earlier version is not seen.
        threads: of FAISS.

    Raises:
        DiskFull: nothing was published.
    """
    folder = layout.indexes(collection, fingerprint)
    if latest(layout, collection, fingerprint) is None:
        return None
    with _alone(folder / "fold.lock", wait=drop_gone) as alone:
        if not alone:
            return None
        while True:
            found = latest(layout, collection, fingerprint)
            if found is None:
                return None
            try:
                folded = _fold(source, layout, *found, drop_gone=drop_gone, threads=threads)
            except FileExistsError:  # an index was published meanwhile: what this one was made of is not in use any more
                continue
            _retire(layout, collection, fingerprint, drop_gone=drop_gone)
            return folded


def _fold(
    source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, *, drop_gone: bool, threads: int | None
) -> tuple[int, IndexManifest] | None:
    started = time.monotonic()
    folder = index_folder(layout, manifest.collection, manifest.fingerprint, number)
    pinned = source.pin(manifest.fingerprint)
    gone = _count_gone(folder, manifest.shards, pinned.row_ids())
    stay, wanted = plan_fold(manifest, pinned.version, pinned.count_after(manifest.version), gone, drop_gone=drop_gone)
    if not wanted:
        return None
    with _stage(layout, manifest) as stage:
        records = [*stay, *(_write(source, stage, manifest, shard, threads) for shard in wanted)]
        for record in stay:
            link_shard(folder, record.number, stage)
        update = {
            "shards": tuple(sorted(records, key=lambda record: record.number)),
            "version": pinned.version,
            "build_s": round(time.monotonic() - started, 3),
            "made_by": "fold",
            "made_from": number,
        }
        whole = manifest.model_copy(update=update)
        return publish_index(stage, layout, whole, only=number + 1), whole


def _write(source: VectorSource, stage: Path, manifest: IndexManifest, shard: Written, threads: int | None) -> ShardRecord:
    return write_part(
        source,
        stage,
        shard.number,
        plan=manifest,
        kind=shard.kind,
        row_ids=shard.row_ids,
        since=shard.since,
        as_of=shard.as_of,
        threads=threads,
    )


def _is_folded(record: ShardRecord) -> bool:
    return record.since > 0


def _count_gone(folder: Path, records: Sequence[ShardRecord], live: RowIds) -> dict[int, int]:
    """By shard how many of its rows are gone; all of them where its file of row ids is bad."""
    gone = {}
    for record in records:
        name = rows_name(record.number)
        try:
            check_file(folder / name, record.files.get(name, ""))
            gone[record.number] = len(not_in(read_rows_file(folder, record.number).row_ids, live))
        except ShardCorrupt:
            gone[record.number] = record.rows
    return gone


def _retire(layout: Layout, collection: str, fingerprint: str, *, drop_gone: bool) -> None:
    """Remove folds and repairs that are older than the index before the newest, and indexes whose manifest nobody can read;
    with `drop_gone` every older index."""
    folder = layout.indexes(collection, fingerprint)
    found = numbers(folder)
    manifests: dict[int, IndexManifest] = {}
    for number in found:
        with suppress(IndexNotFound, StoreUnusable, PassportMismatch):
            manifests[number] = read_manifest(layout, collection, fingerprint, number)
    retired = [
        number
        for number in found[: -1 if drop_gone else -_KEPT]
        if drop_gone or number not in manifests or manifests[number].made_by in ("fold", "repair")
    ]
    for number in retired:
        away = layout.tmp / uuid.uuid4().hex
        os.rename(folder / str(number), away)  # at once: nobody sees half of it
        shutil.rmtree(away)
    left = {record.home for number, kept in manifests.items() if number not in retired for record in kept.shards}
    for home in {record.home for number in retired if number in manifests for record in manifests[number].shards} - left:
        if home is None:
            continue
        system, path = file_system(home, "fold_index")
        with suppress(FileNotFoundError):  # it was lost, and its shard was written again elsewhere
            system.rm(path, recursive=True)


@contextmanager
def _alone(lock: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process alone folds the index until the block ends. The kernel's lock ends with its process."""
    with lock.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _stage(layout: Layout, manifest: IndexManifest) -> Iterator[Path]:
    """A folder to write into, after those of folds that were killed are gone: the lock is held, so none of them is alive."""
    name = f"fold-{manifest.collection}-{manifest.fingerprint[:FP12]}"
    for left in layout.tmp.glob(f"{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    stage = layout.tmp / f"{name}-{uuid.uuid4().hex}"
    stage.mkdir(parents=True)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
