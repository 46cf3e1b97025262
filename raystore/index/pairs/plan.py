"""What a job over all pairs is to compare: arguments checked, the version pinned, the rows cut into parts. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from raystore.index.build.plan import split_row_ids
from raystore.index.source import RowIds

PairKind = Literal["knn", "duplicates"]

PART_ROWS = 16_384  # a kill loses at most so many rows' comparisons a worker
BLOCK_ROWS = 2_048  # asked at once


class Asked(BaseModel):
    """What was asked for; with the collection, all that tells one job from another.

    `against` is "index", or "rows": an exact shard over mapped vectors that the job writes for itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PairKind
    where: str | None
    against: Literal["index", "rows"]
    k: int | None = None  # knn: neighbours a row
    threshold: float | None = None  # duplicates: pairs that score at least so much
    limit: int | None = None  # duplicates: pairs a row that are looked for


class PairPlan(Asked):
    """A job that is pinned: the rows of each of `ranges` are compared with all rows that `where` selects at `version`."""

    collection: str
    fingerprint: str
    version: int
    ranges: tuple[tuple[int, int], ...]
    rows: int
    some: dict[int, str]  # ids of some row ids: another collection of the same name has others


def cut(row_ids: RowIds, part_rows: int) -> tuple[tuple[int, int], ...]:
    """The half-open ranges of the parts, in which at most so many of the (ascending) rows stand."""
    return tuple(split_row_ids(row_ids, -(-len(row_ids) // part_rows)))


def problems_of_pairs(*, k: object, threshold: object, limit: object, exact: object, workers: object) -> list[str]:
    """Every argument that cannot be; None is an argument that was not asked for."""
    problems = []
    for name, value, least in (("k", k, 1), ("limit", limit, 1), ("workers", workers, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            problems.append(f"{name} is {value!r}, expected a number from {least}")
    share = isinstance(threshold, (int, float)) and not isinstance(threshold, bool) and 0 < threshold <= 1
    if threshold is not None and not share:
        problems.append(f"threshold is {threshold!r}, expected a cosine above 0 and at most 1")
    if exact is not None and not isinstance(exact, bool):
        problems.append(f"exact is {exact!r}, expected True, False, or None for what the index in use gives")
    return problems
