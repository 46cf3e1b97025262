"""One shard's files, written from the collection: for a build, for a fold, and again where they were found bad."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from raystore.index.build.plan import BuildPlan
from raystore.index.build.stage import KEPT_S
from raystore.index.kinds import KindName
from raystore.index.manifest import IndexManifest, Rebuilt, ShardRecord, shard_stem
from raystore.index.shards.blocks import send_home
from raystore.index.shards.write import write_shard
from raystore.index.source import VectorSource
from raystore.layout import FP12, Layout, read_json, staging, sync_tree, write_json

_RECORD = "record.json"


def write_part(
    source: VectorSource,
    folder: Path,
    number: int,
    *,
    plan: IndexManifest | BuildPlan,
    kind: KindName,
    row_ids: tuple[int, int],
    since: int,
    as_of: int,
    threads: int | None = None,
) -> ShardRecord:
    """One shard's files written into `folder`, its big ones sent to `plan.home` where that is set: of a build, a repair or a fold."""
    record = write_shard(
        source,
        folder,
        number,
        fingerprint=plan.fingerprint,
        row_ids=row_ids,
        since=since,
        as_of=as_of,
        kind=kind,
        metric=plan.metric,
        target_recall=plan.target_recall,
        threads=threads,
    )
    made = record.kind or kind  # exact where the rows are too few for the kind
    if made != plan.kind:
        record = record.model_copy(update={"kind": made})
    if plan.home is None or made != "disk":
        return record
    home = f"{plan.home.rstrip('/')}/{plan.collection}/{plan.fingerprint[:FP12]}/{uuid.uuid4().hex}"
    for name in (f"{shard_stem(number)}.vectors", f"{shard_stem(number)}.lists"):
        send_home(folder / name, home)
        (folder / name).unlink()
    return record.model_copy(update={"home": home})


def rebuilt_part(
    source: VectorSource, layout: Layout, manifest: IndexManifest, record: ShardRecord, threads: int | None
) -> Rebuilt:
    """The shard of that record written again, in a folder under tmp/ named by the record, or as it is found there."""
    digest = hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:16]
    folder = layout.tmp / f"rebuilt-{manifest.collection}-{manifest.fingerprint[:FP12]}-{digest}"
    if not (folder / _RECORD).exists():
        _sweep(layout.tmp)
        with staging(layout.tmp) as stage:
            made = write_part(
                source,
                stage,
                record.number,
                plan=manifest,
                kind=record.kind or manifest.kind,
                row_ids=(record.row_id_lo, record.row_id_hi),
                since=record.since,
                as_of=record.as_of,
                threads=threads,
            )
            write_json(stage / _RECORD, made.model_dump(mode="json"), layout.tmp)
            sync_tree(stage)
            try:
                os.rename(stage, folder)
            except OSError:
                if not (folder / _RECORD).exists():  # another process was as quick: its files are as good
                    raise
    return Rebuilt(folder, ShardRecord.model_validate(read_json(folder / _RECORD)))


def _sweep(tmp: Path) -> None:
    """Take away what was rebuilt and never published, because a newer index came first."""
    for folder in tmp.glob("rebuilt-*"):
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)
