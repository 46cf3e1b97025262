"""The pairs of rows of a collection that are nearly the same, and the groups they form."""

from __future__ import annotations

from raystore.index.pairs.run import run_pairs
from raystore.index.pairs.table import PairTable
from raystore.index.source import VectorSource
from raystore.layout import Layout
from raystore.progress import Progress


def duplicates(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    threshold: float = 0.95,
    limit: int = 100,
    where: str | None = None,
    workers: int = 0,
    exact: bool | None = None,
    progress: Progress | None = None,
) -> PairTable:
    """A table of a, b, score (cosine) and group: every pair of rows that scores at least `threshold`, once.

    `a` is the row that was added first; rows stand in the order of a, then b. Rows that hang together through pairs have one
    group, numbered from 0 by their first row.

    Args:
        threshold: above 0, at most 1.
        limit: pairs a row that are looked for. Of a row with more, the nearest are taken; the result's `cut_short` counts
            such rows. Rows that are all alike are one group all the same.
        where, workers, exact, progress: as of `knn_graph`.

    Raises:
        As `knn_graph`.

    Cost: as `knn_graph`; a row is searched again for four times as many where all it got were near enough.
    """
    return run_pairs(
        source, layout, collection, fingerprint, "duplicates",
        threshold=threshold, limit=limit, where=where, workers=workers, exact=exact, progress=progress,
    )  # fmt: skip
