"""The k nearest neighbours of every row of a collection."""

from __future__ import annotations

from raystore.index.pairs.run import run_pairs
from raystore.index.pairs.table import PairTable
from raystore.index.source import VectorSource
from raystore.layout import Layout
from raystore.progress import Progress


def knn_graph(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    k: int = 10,
    where: str | None = None,
    workers: int = 0,
    exact: bool | None = None,
    progress: Progress | None = None,
) -> PairTable:
    """A table of id, rank (from 0), neighbour and score (cosine): the k rows nearest to each row, itself left out.

    Rows stand in the order they were added, neighbours nearest first, equal scores by the row added first. Fewer than k where
    fewer rows are compared.

    Args:
        where: only rows this predicate selects, on both sides.
        workers: 0 compares in this process; otherwise so many Ray actors do. A killed job goes on where it was.
        exact: True compares every row with every other; False has the index nominate; None takes the index where there is
            one and over 50,000 rows.
        progress: called with the rows compared so far and the rows in all.

    Raises:
        InvalidArguments: every argument that cannot be, and a collection without vectors, in one sentence.
        PassportMismatch, SqlRefused, ColumnNotFound: the encoder, or the predicate.
        ShardsMissing, JobFailed, DiskFull: nothing was published.

    Cost: a search for every row, 2,048 at a time; exact, n * n * d multiply-adds and a copy of the vectors on disk meanwhile.
    Memory is that of the index and of 16,384 rows a worker.
    """
    return run_pairs(
        source, layout, collection, fingerprint, "knn", k=k, where=where, workers=workers, exact=exact, progress=progress
    )  # fmt: skip
