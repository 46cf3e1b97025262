"""What the rows of a job are compared with: the collection's index as it is, or an exact shard that the job wrote for itself.

Both answer with cosines and the ids of rows that are still there. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from raystore.errors import ShardsMissing
from raystore.index.live.view import Views
from raystore.index.manifest import ShardRecord
from raystore.index.pairs.compare import Near
from raystore.index.shards.shard import Shard, ShardFacts
from raystore.index.shards.threads import faiss_threads
from raystore.index.source import RowIds, VectorSource
from raystore.layout import FP12, Layout
from raystore.vectors import Matrix


class AgainstIndex:
    """The newest index, the rows beside it, and no row that was erased. `number` is the last index that answered."""

    def __init__(
        self,
        source: VectorSource,
        layout: Layout,
        collection: str,
        fingerprint: str,
        *,
        version: int,
        where: str | None,
        threads: int | None,
    ) -> None:
        self.number: int | None = None
        self._views = Views(source, layout, collection, fingerprint, folds=False)
        self._label = f"{collection}/{fingerprint[:FP12]}"
        self._version, self._threads = version, threads
        self._filtered = where is not None
        self._compared: Callable[[], RowIds] = lambda: source.row_ids(where, as_of=version)
        self._allowed: RowIds | None = None

    def __call__(self, queries: Matrix, k: int) -> Near:
        view = self._views.current()
        if self._allowed is None and (self._filtered or view.version != self._version):
            self._allowed = self._compared()  # rows that came since are no part of this job
        with faiss_threads(self._threads):
            found = view.search(queries, k, allowed=self._allowed)
        if found.missing:
            raise ShardsMissing(index=self._label, missing=found.missing)
        self.number = found.number
        # Vectors of a collection have length 1: |a - b|^2 = 2 - 2 a.b.
        scores = found.scores if view.metric != "l2" else (1 + found.scores / 2).astype(np.float32)
        return Near(found.rows, scores, found.names, found.exact)

    def close(self) -> None:
        self._views.close()


class AgainstRows:
    """Every row, over the mapped vectors of one exact shard."""

    number = None

    def __init__(
        self, source: VectorSource, folder: Path, record: ShardRecord, dim: int, *, where: str | None, threads: int | None
    ) -> None:
        self._shard = Shard.load(folder, record, ShardFacts("exact", "cosine", dim))
        self._allowed = None if where is None else source.row_ids(where, as_of=record.as_of)
        gone = np.setdiff1d(self._shard.row_ids, source.row_ids(), assume_unique=True)
        self._gone = gone if len(gone) else None
        self._threads = threads

    def __call__(self, queries: Matrix, k: int) -> Near:
        found = self._shard.search(queries, k, allowed=self._allowed, without=self._gone, threads=self._threads)
        return Near(found.rows, found.scores, self._shard.names_of(found.rows), True)

    def close(self) -> None:
        """The map goes with this object."""
