"""Rows drawn from a collection to try indexes over, held in memory, and queries held out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raystore.index.source import RowIds, VectorSource
from raystore.vectors import Matrix, as_unit_rows

_AT_ONCE = 8_192  # rows read by their ids, and rows of a batch
_SEED = 20261120


@dataclass(frozen=True)
class SampleBatch:
    ids: pa.Array
    row_ids: RowIds
    vectors: Matrix


@dataclass(frozen=True)
class Sample:
    """n unit rows (n, d) float32, which a shard can be built from as if they were a collection: numbered 0 to n - 1."""

    vectors: Matrix

    def dim(self, fingerprint: str) -> int:  # noqa: ARG002  # of a sample there is one encoder
        return int(self.vectors.shape[1])

    def scan(
        self,
        fingerprint: str,  # noqa: ARG002
        *,
        columns: Sequence[str] = ("id",),  # noqa: ARG002
        as_of: int | None = None,  # noqa: ARG002
        since: int | None = None,  # noqa: ARG002
        row_ids: tuple[int, int] | None = None,
    ) -> Iterator[SampleBatch]:
        """Its rows in batches, by ascending number."""
        lo, hi = row_ids or (0, len(self.vectors))
        numbers = np.arange(max(0, lo), min(hi, len(self.vectors)), dtype=np.int64)
        for start in range(0, len(numbers), _AT_ONCE):
            part = numbers[start : start + _AT_ONCE]
            yield SampleBatch(pa.array(part.astype(str)), part, self.vectors[part[0] : part[-1] + 1])

    def part(self, share: int) -> Sample:
        """Every `share`-th row."""
        return Sample(np.ascontiguousarray(self.vectors[::share]))


def draw(source: VectorSource, fingerprint: str, rows: int, queries: int) -> tuple[Sample, Matrix, int]:
    """Up to `rows` rows of the collection at random (always the same), some others as queries, and how many rows there are.

    `queries` is at most how many are held out; of a small collection a tenth is.
    Cost: one look at the row ids, a read of each drawn row by its id, and rows * d * 4 bytes.
    """
    live = source.row_ids()
    rng = np.random.default_rng(_SEED)
    drawn = np.sort(rng.choice(live, min(len(live), rows + queries), replace=False))
    parts: list[Matrix] = [np.empty((0, source.dim(fingerprint)), dtype=np.float32)]
    for start in range(0, len(drawn), _AT_ONCE):
        _, vectors = source.vectors_at(fingerprint, drawn[start : start + _AT_ONCE])
        if len(vectors):
            parts.append(as_unit_rows(vectors, parts[0].shape[1], "index tune"))
    found = np.concatenate(parts)
    order = rng.permutation(len(found))
    held, kept = np.split(order, [min(queries, len(found) // 10)])
    counted = round(len(live) * len(found) / max(1, len(drawn)))
    return Sample(found[np.sort(kept[:rows])]), found[np.sort(held)], counted
