"""What a search stands on: the newest index, opened, or the collection's rows read into memory where there is none.

A shard that the index before had too (a fold adds one and links the others) is taken from there, not opened again. A
shard whose files are bad is served from rows written again, and published for whoever comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raystore.errors import IndexNotFound, ShardCorrupt
from raystore.index.build.run import open_shard, repair
from raystore.index.live.actors import ActorShards, Replaced
from raystore.index.live.gather import Shards
from raystore.index.live.inline import InlineShards
from raystore.index.manifest import IndexManifest, ShardRecord, index_folder, newest_number, read_manifest
from raystore.index.metric import Metric
from raystore.index.shards.blocks import check_file
from raystore.index.shards.rows_file import ShardRows, read_rows_file, rows_name
from raystore.index.shards.shard import Shard, memory_shard
from raystore.index.source import RowIds, VectorSource, read_rows
from raystore.layout import Layout
from raystore.session import has_ray

log = logging.getLogger("raystore")


class NewestNumber:
    """The number of the index in use, kept while its folder is what it was: two looks at the file system."""

    def __init__(self, layout: Layout, collection: str, fingerprint: str) -> None:
        self._folder = layout.indexes(collection, fingerprint)
        self._index = (layout, collection, fingerprint)
        self._kept: tuple[int | None, tuple[int, int], Path] | None = None

    def read(self) -> int | None:
        try:
            found = self._folder.stat()
        except FileNotFoundError:
            return None
        signs = (found.st_ino, found.st_mtime_ns)
        kept = self._kept
        # The folder's time moves in steps of the kernel's clock, in which two indexes can fall: so the next one is looked for.
        if kept is not None and kept[1] == signs and not kept[2].exists():
            return kept[0]
        number = newest_number(*self._index)
        self._kept = (number, signs, self._folder / str((number or 0) + 1))
        return number


@dataclass(eq=False)
class Base:
    """An opened index, or (number None) the rows as they were at one version. `named` are the rows of its shards, and
    their ids; `version` is the collection's: rows whose vector came later are not here."""

    number: int | None
    manifest: IndexManifest | None
    shards: Shards
    named: tuple[ShardRows, ...]
    version: int
    ended: bool = False  # found bad, or its actors were ended by whoever switched to a newer index

    @property
    def rows(self) -> int:
        return sum(map(len, self.named))

    @property
    def metric(self) -> Metric:
        return "cosine" if self.manifest is None else self.manifest.metric

    @property
    def alive(self) -> bool:
        return not self.ended and (not isinstance(self.shards, ActorShards) or self.shards.connected)

    def gone_from(self, live: RowIds) -> RowIds:
        """Its rows that are not among the (ascending) live ones, ascending. Cost: 5 ms for 1,000,000 rows."""
        parts = [_NONE, *(not_in(part.row_ids, live) for part in self.named)]
        gone: RowIds = np.unique(np.concatenate(parts))
        return gone

    def rows_of(self, shards: Collection[int]) -> int:
        """How many rows the shards of those numbers hold."""
        return sum(record.rows for record in self.manifest.shards if record.number in shards) if self.manifest else 0


def open_base(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    deadline_s: float,
    before: Base | None = None,
) -> Base:
    """The newest index, opened.

    Args:
        before: what was searched until now; shards that are in both indexes are taken over.
    """
    while True:
        number = newest_number(layout, collection, fingerprint)
        if number is None:
            return _read_all(source, fingerprint)
        try:
            manifest = read_manifest(layout, collection, fingerprint, number)
            # The same shards give the same answers in this process: a Ray of its own is not worth 5 s to a single search.
            if manifest.served == "actors" and has_ray():
                return _open_actors(source, layout, number, manifest, before, deadline_s)
            return _open_inline(source, layout, number, manifest, before)
        except Replaced:
            continue
        except IndexNotFound:
            if newest_number(layout, collection, fingerprint) == number:
                raise  # otherwise it was folded into a newer one, and removed, in this moment


def changes_nothing(layout: Layout, collection: str, fingerprint: str, number: int | None) -> bool:
    """Whether index `number` answers as the one before it, and takes seconds to open: a fold or a repair, into actors."""
    if number is None:
        return False
    try:
        manifest = read_manifest(layout, collection, fingerprint, number)
    except IndexNotFound:  # a newer one took its place in this moment
        return False
    return manifest.made_by in ("fold", "repair") and manifest.served == "actors" and has_ray()


def mend(
    source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, problems: Mapping[int, str]
) -> tuple[int, IndexManifest]:
    """Publish the shards that are bad, written again, and say so; the index that is then the newest."""
    fresh, whole = repair(source, layout, number, manifest, set(problems))
    if fresh != number:
        for shard, problem in problems.items():
            log.warning(
                "collection '%s': shard %s of index %s was rebuilt from the collection and published as index %s: %s",
                manifest.collection, shard, number, fresh, problem,
            )  # fmt: skip
    return fresh, whole


def _read_all(source: VectorSource, fingerprint: str) -> Base:
    version = source.version
    rows = read_rows(source, fingerprint, as_of=version, rows_hint=source.pin(fingerprint).live)
    shard = memory_shard(rows.row_ids, rows.vectors, rows.ids, "cosine")
    return Base(None, None, InlineShards({0: shard}), (shard.named,), version)


def _open_inline(source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, before: Base | None) -> Base:
    kept = _good_shards(before, manifest)
    shards: dict[int, Shard] = {}
    problems: dict[int, str] = {}
    for place, record in enumerate(manifest.shards):
        shard, problem = kept.get(_key(record)), None
        if shard is None:
            shard, problem = open_shard(source, layout, number, manifest, place)
        if problem is not None:
            problems[record.number] = str(problem)
        shards[record.number] = shard
    if problems:
        fresh, whole = mend(source, layout, number, manifest, problems)
        if (whole.made_by, whole.made_from) != ("repair", number):
            raise Replaced  # a build or a fold came first: it has other shards
        number, manifest = fresh, whole
    named = tuple(shard.named for shard in shards.values())
    return Base(number, manifest, InlineShards(shards), named, manifest.version)


def _open_actors(
    source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, before: Base | None, deadline_s: float
) -> Base:
    folder = index_folder(layout, manifest.collection, manifest.fingerprint, number)
    kept: dict[str, ShardRows] = {}
    if before is not None and before.manifest is not None:
        kept = dict(zip(map(_key, before.manifest.shards), before.named, strict=True))
    named: dict[int, ShardRows] = {}
    problems: dict[int, str] = {}
    for record in manifest.shards:
        if _key(record) in kept:
            named[record.number] = kept[_key(record)]
            continue
        try:
            check_file(folder / rows_name(record.number), record.files.get(rows_name(record.number), ""))
            named[record.number] = read_rows_file(folder, record.number)
        except ShardCorrupt as error:
            problems[record.number] = str(error)
    if problems:
        mend(source, layout, number, manifest, problems)
        raise Replaced
    actors = ActorShards(layout, number, manifest, deadline_s=deadline_s)
    return Base(number, manifest, actors, tuple(named.values()), manifest.version)


def _good_shards(before: Base | None, manifest: IndexManifest) -> dict[str, Shard]:
    """The opened shards by what they were opened by, without those that were found bad."""
    if before is None or before.manifest is None or not isinstance(before.shards, InlineShards):
        return {}
    old = before.manifest
    if (old.kind, old.metric, old.dim, old.cache_bytes) != (
        manifest.kind, manifest.metric, manifest.dim, manifest.cache_bytes
    ):  # fmt: skip
        return {}
    opened, bad = before.shards.shards, before.shards.problems
    return {_key(r): opened[r.number] for r in old.shards if r.number in opened and r.number not in bad}


def _key(record: ShardRecord) -> str:
    return record.model_dump_json()


def not_in(row_ids: RowIds, live: RowIds) -> RowIds:
    """Those of the ascending row ids that are not among the ascending live ones."""
    if not len(row_ids):
        return row_ids
    near = live[np.searchsorted(live, row_ids[0]) : np.searchsorted(live, row_ids[-1], "right")]
    gone: RowIds = row_ids[np.isin(row_ids, near, assume_unique=True, invert=True)]
    return gone


_NONE: RowIds = np.empty(0, dtype=np.int64)
