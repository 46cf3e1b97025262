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
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.errors import IndexNotFound, PassportMismatch, StoreUnusable
from raystore.index.shard import Shard
from raystore.layout import FP12, Layout, disk_full_is_said, numbers, publish, read_json, staging
from raystore.markup import facts_html, rows_html

MANIFEST = "manifest.json"


class ShardRecord(BaseModel):
    """One shard: its rows are those of the collection with row_id_lo <= row id < row_id_hi."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    files: dict[str, str]  # name -> sha256
    rows: int
    row_id_lo: int
    row_id_hi: int
    nlist: int | None = None
    nprobe: int | None = None
    recall: float | None = None  # of nprobe, at 10 neighbours, on a sample of the shard's own rows


class IndexManifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["exact", "ivf"]
    metric: Literal["cosine"] = "cosine"
    collection: str
    fingerprint: str
    dim: int
    version: int  # of the collection: the rows up to it are in the shards, later ones are searched beside them
    shards: tuple[ShardRecord, ...]
    served: Literal["inline", "actors"]
    build_s: float
    repaired_from: int | None = None  # the index number whose bad shard files this one replaces

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


def publish_index(stage: Path, layout: Layout, manifest: IndexManifest) -> int:
    """Write the manifest beside the shard files in `stage` and publish both; the index's number."""
    with disk_full_is_said(stage, f"writing {MANIFEST}"):
        (stage / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        return publish(stage, layout.indexes(manifest.collection, manifest.fingerprint))


def publish_repaired(
    layout: Layout, number: int, manifest: IndexManifest, repaired: Mapping[int, Shard]
) -> tuple[int, IndexManifest]:
    """Index `number` again under the next number, with the repaired shards' files new and the others linked."""
    folder = index_folder(layout, manifest.collection, manifest.fingerprint, number)
    with staging(layout.tmp) as stage:
        records = []
        for record in manifest.shards:
            if record.number in repaired:
                shard = repaired[record.number]
                files = shard.save(stage, record.number)
                update = {
                    "files": files,
                    "rows": shard.rows,
                    "nlist": shard.nlist,
                    "nprobe": shard.nprobe,
                    "recall": shard.recall,
                }
                records.append(record.model_copy(update=update))
                continue
            records.append(record)
            for name in record.files:
                if (folder / name).is_file():  # one that went missing since is the next reader's to repair
                    _link(folder / name, stage / name)
        whole = manifest.model_copy(update={"shards": tuple(records), "repaired_from": number})
        return publish_index(stage, layout, whole), whole


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, to)
