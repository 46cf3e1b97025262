"""An index over a collection's vectors of one encoder, like that over another's."""

from __future__ import annotations

from raystore.data.collection import CollectionTable
from raystore.index.build.run import build_index
from raystore.index.manifest import IndexManifest, latest, newest_number
from raystore.layout import Layout
from raystore.progress import Progress
from raystore.session import INLINE_BELOW, choose_workers


def missing_index(layout: Layout, collection: str, old: str, new: str) -> IndexManifest | None:
    """The index over the vectors of the encoder `old` (a fingerprint), where there is one and none over those of `new`."""
    found = latest(layout, collection, old)
    return None if found is None or newest_number(layout, collection, new) is not None else found[1]


def index_like(
    layout: Layout, table: CollectionTable, like: IndexManifest, new: str, progress: Progress | None = None
) -> tuple[int, IndexManifest]:
    """The new index over the vectors of the encoder `new` and its number: kind, shards and settings are those of the index `like`;
    probes are chosen anew, for the same recall.

    Raises:
        As `build_index`.
    """
    rows = table.count() - table.count_lacking(new)
    return build_index(
        table,
        layout,
        table.name,
        new,
        kind=like.kind,
        shards=min(rows, sum(not shard.since for shard in like.shards)),  # those of later rows were folded in
        metric=like.metric,
        workers=choose_workers(None, rows, INLINE_BELOW.index_rows, f"index over '{table.name}'"),
        served=like.served,
        replicas=like.replicas,
        target_recall=like.target_recall,
        fold_rows=like.fold_rows,
        fold_after_s=like.fold_after_s,
        home=like.home,
        cache_bytes=like.cache_bytes,
        progress=progress,
    )
