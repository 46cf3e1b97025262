"""The rows of one step, and a worker's share of them. Pure NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.errors import InvalidArguments

IntArray = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """`rows` (b,) row numbers of the examples, `labels` (b,) their codes, `sides` (b,) which of a pair's contents is meant, or
    None where there is one. The same row may stand in it twice: as two views, or as both parts of its pair."""

    rows: IntArray
    labels: IntArray
    sides: IntArray | None = None


def share(batch: Batch, rank: int, world: int) -> Batch:
    """The rows of worker `rank` of `world`: a contiguous slice, as long as everybody's.

    Where the batch cannot be cut evenly, its last rows (fewer than `world`) are nobody's: what workers gather must be equally long.

    Raises:
        InvalidArguments: fewer rows than workers.
    """
    each = len(batch.rows) // world
    if not each:
        problem = f"a batch of {len(batch.rows)} rows cannot be shared by {world} workers"
        raise InvalidArguments(call="fine_tune", problems=[problem])
    part = slice(rank * each, (rank + 1) * each)
    return Batch(batch.rows[part], batch.labels[part], None if batch.sides is None else batch.sides[part])
