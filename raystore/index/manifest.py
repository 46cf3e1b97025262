"""What an index is: one manifest beside its shard files, numbered, written last, never edited.

    indexes/<collection>/<fp12>/<n>/   manifest.json, shard-0000.faiss, shard-0000.rows.arrow, ...

The highest number is the index in use. The files are a cache of the collection, which is the truth: a shard whose
file is not what the manifest says is built again and published, with the good files linked, under the next number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.errors import IndexNotFound, PassportMismatch, StoreUnusable
from raystore.index.kinds import KindName
from raystore.index.metric import Metric
from raystore.layout import FP12, Layout, disk_full_is_said, numbers, publish, read_json, staging
from raystore.markup import facts_html, rows_html

MANIFEST = "manifest.json"
FOLD_ROWS = 20_000
FOLD_AFTER_S = 3_600.0


class ShardRecord(BaseModel):
    """One shard: the rows of the collection with row_id_lo <= row id < row_id_hi whose vector came after version `since`
    and not after version `as_of`, less what was erased before the shard was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    files: dict[str, str]  # name -> sha256; of a file that is verified block by block, that of its table of blocks
    rows: int
    kind: KindName | None = None  # where it is not the index's: a small shard is exact
    row_id_lo: int
    row_id_hi: int
    since: int = 0
    as_of: int
    nlist: int | None = None
    nprobe: int | None = None  # lists a search visits; of hnsw, its ef
    refine: int = 1  # rows nominated for each neighbour asked
    recall: float | None = None  # of nprobe and refine, at 10 neighbours, on a sample of the shard's own rows
    memory_bytes: int = 0  # private memory of the process that holds it; mapped files are not counted
    disk_bytes: int = 0
    home: str | None = None  # the address of the folder where its vector and list files lie, if not beside the manifest


class IndexManifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: KindName
    metric: Metric = "cosine"
    collection: str
    fingerprint: str
    dim: int
    version: int  # of the collection: the rows up to it are in the shards, later ones are searched beside them
    shards: tuple[ShardRecord, ...]
    served: Literal["inline", "actors"]
    replicas: int = 1  # actors a shard
    target_recall: float = 0.95  # probes were chosen for it
    fold_rows: int = FOLD_ROWS  # so many rows beside the shards are folded into one more
    fold_after_s: float = FOLD_AFTER_S  # so old a row beside the shards is
    home: str | None = None  # kind "disk": an fsspec address under which shards put their vector and list files
    cache_bytes: int = 256 * 2**20  # of what was read from `home`, kept by a process
    build_s: float
    made_by: Literal["build", "fold", "repair", "rollback"] = "build"
    made_from: int | None = None  # the index number that a fold, a repair or a rollback started from

    def __str__(self) -> str:
        reached = [f"shard {s.number}: {s.rows:,} rows" + (f", {s.nprobe} of {s.nlist} lists" if s.nlist else "")
                   + (f", recall {s.recall:.3f}" if s.recall is not None else "") for s in self.shards]  # fmt: skip
        memory, disk = (sum(getattr(s, f"{name}_bytes") for s in self.shards) / 2**20 for name in ("memory", "disk"))
        return "\n".join([
            f"{self.kind} index of {self.rows:,} rows of {self.collection}, encoder {self.fingerprint[:FP12]}, version {self.version}, "
            f"searched {'by actors' if self.served == 'actors' else 'inline'}: {memory:,.1f} MiB of memory, {disk:,.1f} MiB of disk, "
            f"built in {self.build_s:.1f} s", *reached
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        facts = {"kind": self.kind, "encoder": self.fingerprint[:FP12], "version": self.version, "searched": self.served}
        shards = [
            {"shard": s.number, "rows": s.rows, "lists": s.nlist, "probes": s.nprobe, "recall": s.recall}
            for s in self.shards
        ]
        return facts_html(f"Index of {self.rows:,} rows of {self.collection}", facts) + rows_html(shards)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def recall(self) -> float | None:
        """What the shards measured when they were built, weighted by their rows; None where every shard is exact."""
        if all(shard.recall is None for shard in self.shards):
            return None
        share = sum(shard.rows * (1.0 if shard.recall is None else shard.recall) for shard in self.shards)
        return round(share / max(1, self.rows), 4)


def index_folder(layout: Layout, collection: str, fingerprint: str, number: int) -> Path:
    return layout.indexes(collection, fingerprint) / str(number)


def newest_number(layout: Layout, collection: str, fingerprint: str) -> int | None:
    """The number of the index in use. Cost: one listing of a folder."""
    found = numbers(layout.indexes(collection, fingerprint))
    return found[-1] if found else None


def read_manifest(layout: Layout, collection: str, fingerprint: str, number: int) -> IndexManifest:
    """Index `number` over the collection's vectors of that encoder.

    Raises:
        IndexNotFound: there is none of that number.
        PassportMismatch: it was built over another encoder with the same first 12 digits.
        StoreUnusable: its manifest cannot be read.
    """
    path = index_folder(layout, collection, fingerprint, number) / MANIFEST
    try:
        manifest = IndexManifest.model_validate(read_json(path))
    except FileNotFoundError:
        existing = [str(n) for n in numbers(layout.indexes(collection, fingerprint))]
        raise IndexNotFound(
            name=str(number), where=f"collection '{collection}' for encoder {fingerprint[:FP12]}", existing=existing
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
        raise StoreUnusable(
            root=str(layout.root),
            found=f"the index manifest '{path}' cannot be read",
            advice="Build the index again: collection.build_index().",
        ) from None
    if manifest.fingerprint != fingerprint:
        raise PassportMismatch(
            asker=f"index {number} over collection '{collection}'",
            expected=manifest.fingerprint,
            found=fingerprint,
            advice="Build an index for this encoder: collection.build_index().",
        )
    return manifest


def latest(layout: Layout, collection: str, fingerprint: str) -> tuple[int, IndexManifest] | None:
    """The index in use and its number, or None where none was built."""
    number = newest_number(layout, collection, fingerprint)
    return None if number is None else (number, read_manifest(layout, collection, fingerprint, number))


@dataclass(frozen=True)
class IndexFacts:
    """One number of a collection's indexes; `live` is the one searches use. Bytes are of all its shards, each once: numbers
    share files that did not change."""

    number: int
    live: bool
    kind: str
    metric: str
    version: int
    rows: int
    shards: int
    served: str
    replicas: int
    recall: float | None
    memory_bytes: int
    disk_bytes: int
    made_by: str
    made_from: int | None
    build_s: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def list_indexes(layout: Layout, collection: str, fingerprint: str) -> list[IndexFacts]:
    """Every number there is, the newest first."""
    found = numbers(layout.indexes(collection, fingerprint))[::-1]
    manifests = [(number, read_manifest(layout, collection, fingerprint, number)) for number in found]
    return [
        IndexFacts(
            number=number,
            live=number == found[0],
            kind=manifest.kind,
            metric=manifest.metric,
            version=manifest.version,
            rows=manifest.rows,
            shards=len(manifest.shards),
            served=manifest.served,
            replicas=manifest.replicas,
            recall=manifest.recall,
            memory_bytes=sum(shard.memory_bytes for shard in manifest.shards),
            disk_bytes=sum(shard.disk_bytes for shard in manifest.shards),
            made_by=manifest.made_by,
            made_from=manifest.made_from,
            build_s=manifest.build_s,
        )
        for number, manifest in manifests
    ]


def publish_index(stage: Path, layout: Layout, manifest: IndexManifest, *, only: int | None = None) -> int:
    """Write the manifest beside the shard files in `stage` and publish both; the index's number. With `only`, that number or
    FileExistsError: of an index that is worth having only while no other was published."""
    with disk_full_is_said(stage, f"writing {MANIFEST}"):
        (stage / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        return publish(stage, layout.indexes(manifest.collection, manifest.fingerprint), only=only)


@dataclass(frozen=True)
class Rebuilt:
    """A shard that was written again from the collection: its files in `folder`, and the record of them."""

    folder: Path
    record: ShardRecord


def publish_repaired(
    layout: Layout, number: int, manifest: IndexManifest, repaired: Mapping[int, Rebuilt]
) -> tuple[int, IndexManifest]:
    """Index `number` again under the next number: the shards in `repaired` (by their number) with their new files, the
    others linked. FileExistsError where another was published meanwhile. Cost: links; no file is read."""
    folder = index_folder(layout, manifest.collection, manifest.fingerprint, number)
    with staging(layout.tmp) as stage:
        records = []
        for record in manifest.shards:
            made = repaired.get(record.number)
            link_shard(made.folder if made else folder, record.number, stage)
            records.append(made.record if made else record)
        whole = manifest.model_copy(update={"shards": tuple(records), "made_by": "repair", "made_from": number})
        return publish_index(stage, layout, whole, only=number + 1), whole


def publish_again(layout: Layout, collection: str, fingerprint: str, number: int) -> tuple[int, IndexManifest]:
    """Index `number` as the newest again, its files linked: a rollback. Rows that came after it are searched beside it.

    Raises:
        IndexNotFound, PassportMismatch, StoreUnusable: as `read_manifest`.
    """
    manifest = read_manifest(layout, collection, fingerprint, number)
    with staging(layout.tmp) as stage:
        for record in manifest.shards:
            link_shard(index_folder(layout, collection, fingerprint, number), record.number, stage)
        again = manifest.model_copy(update={"made_by": "rollback", "made_from": number})
        return publish_index(stage, layout, again), again


def link_shard(folder: Path, shard: int, stage: Path) -> None:
    """Every file of the shard that is in `folder` stands in `stage` too; what went missing is the next reader's to repair."""
    for file in sorted(folder.glob(f"{shard_stem(shard)}.*")):
        _link(file, stage / file.name)


def shard_stem(shard: int) -> str:
    """What the names of a shard's files begin with."""
    return f"shard-{shard:04d}"


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, to)
