"""The rows that no shard of the index holds yet, in memory, searched exactly. Pure: knows no file and no collection.

They are kept in parts, since a commit of one row must not copy all of them. A part takes in the one behind it while it is
not four times as long, so there are about log4(n) parts, and a row is copied about as often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raystore.data.pinned import Came
from raystore.index.metric import Metric, as_queries
from raystore.index.shards.rows_file import ShardRows
from raystore.index.shards.shard import Found, Shard, memory_shard
from raystore.index.source import RowIds
from raystore.vectors import Matrix

_TIMES = 4


@dataclass(frozen=True)
class _Part:
    """Some rows by ascending row id, and `came`, the version that brought each one's vector."""

    shard: Shard
    ids: pa.ChunkedArray
    vectors: Matrix
    came: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, row_ids: RowIds, ids: pa.ChunkedArray, vectors: Matrix, came: npt.NDArray[np.int64], metric: Metric
    ) -> _Part:
        return cls(memory_shard(row_ids, vectors, ids, metric), ids, vectors, came)

    def where(self, chosen: npt.NDArray[np.bool_], metric: Metric) -> _Part:
        at = np.flatnonzero(chosen)
        return _Part.of(self.shard.row_ids[at], self.ids.take(at), self.vectors[at], self.came[at], metric)

    def joined(self, other: _Part, metric: Metric) -> _Part:
        row_ids = np.concatenate([self.shard.row_ids, other.shard.row_ids])
        order = np.argsort(row_ids, kind="stable")  # rows that got their vector late stand before earlier ones
        ids = pa.chunked_array([*self.ids.chunks, *other.ids.chunks], pa.string()).take(order)
        vectors = np.concatenate([self.vectors, other.vectors])[order]
        return _Part.of(row_ids[order], ids, vectors, np.concatenate([self.came, other.came])[order], metric)


@dataclass(frozen=True)
class Tail:
    """Never changed: every call that adds or leaves out rows gives another."""

    metric: Metric
    parts: tuple[_Part, ...] = ()

    @cached_property
    def rows(self) -> int:
        return sum(part.shard.rows for part in self.parts)

    @property
    def row_ids(self) -> RowIds:
        """All of them, ascending."""
        found: RowIds = np.sort(np.concatenate([_NONE, *(part.shard.row_ids for part in self.parts)]))
        return found

    def with_rows(self, came: Came) -> Tail:
        """These and those; none of them may be here already."""
        if not len(came.row_ids):
            return self
        vectors = as_queries(came.vectors, came.vectors.shape[1], self.metric, "index")  # as the shards hold them
        parts = [*self.parts, _Part.of(came.row_ids, came.ids, vectors, came.came, self.metric)]
        while len(parts) > 1 and parts[-2].shard.rows <= _TIMES * parts[-1].shard.rows:
            last = parts.pop()
            parts[-1] = parts[-1].joined(last, self.metric)
        return Tail(self.metric, tuple(parts))

    def only(self, live: RowIds) -> Tail:
        """Those of the (ascending) live rows."""
        return self._where([np.isin(part.shard.row_ids, live, assume_unique=True) for part in self.parts])

    def after(self, version: int) -> Tail:
        """Those whose vector came after that version."""
        return self._where([part.came > version for part in self.parts])

    def of_metric(self, metric: Metric) -> Tail:
        """The same rows, scored by another metric."""
        if metric == self.metric:
            return self
        parts = (
            _Part.of(p.shard.row_ids, p.ids, as_queries(p.vectors, p.vectors.shape[1], metric, "index"), p.came, metric)
            for p in self.parts
        )
        return Tail(metric, tuple(parts))

    def search(self, queries: Matrix, k: int, allowed: RowIds | None) -> list[Found]:
        """Each part's k best."""
        return [part.shard.search(queries, k, allowed=allowed) for part in self.parts]

    @property
    def named(self) -> Iterator[ShardRows]:
        """The rows of each part, and their ids."""
        return (part.shard.named for part in self.parts)

    def _where(self, chosen: list[npt.NDArray[np.bool_]]) -> Tail:
        if all(kept.all() for kept in chosen):
            return self
        kept_parts = zip(self.parts, chosen, strict=True)
        return Tail(self.metric, tuple(part.where(kept, self.metric) for part, kept in kept_parts if kept.any()))


_NONE: RowIds = np.empty(0, dtype=np.int64)
