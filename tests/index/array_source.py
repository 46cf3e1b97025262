"""A source over arrays: what write_shard asks of a collection, without a store. It suffices because a shard sees nothing of a
collection but one scan; the scans of real collections are tested in test_build.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class ArrayBatch:
    ids: pa.Array
    row_ids: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class ArraySource:
    """Rows in the order of their fragments, which need not be that of their row ids."""

    row_ids: np.ndarray
    vectors: np.ndarray

    def dim(self, fingerprint: str) -> int:
        return self.vectors.shape[1]

    def scan(
        self,
        fingerprint: str,
        *,
        columns: Sequence[str] = ("id",),
        as_of: int | None = None,
        since: int | None = None,
        row_ids: tuple[int, int] | None = None,
    ) -> Iterator[ArrayBatch]:
        lo, hi = row_ids or (0, 2**62)
        for start in range(0, len(self.row_ids), 190):
            some = self.row_ids[start : start + 190]
            inside = (some >= lo) & (some < hi)
            ids = pa.array([name_of(row) for row in some[inside].tolist()], pa.string())
            yield ArrayBatch(ids, some[inside], self.vectors[start : start + 190][inside])


def name_of(row: int) -> str:
    return f"t '{row}' ä"
