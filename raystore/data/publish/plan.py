"""Which files a publication needs: ranges of commit numbers, kept, written again, or merged. Pure: knows counts, no file system.

Every row carries the number of its commit, rows never change and numbers only grow; so the rows of the commits (first, last] are
what a file holds for good, but for those that were erased, and a count of them says whether any was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Like the fragments of a table, small files are merged in tiers, so that a row is written again some three times in all.
_MERGED_FROM = 8
_TIERS = (512, 64, 8)


@dataclass(frozen=True)
class PartFile:
    """A file that stands: the commits (first, last], how many of the collection's rows those held, and how many rows it has."""

    first: int
    last: int
    ids: int
    rows: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return part_name(self.first, self.last)


@dataclass(frozen=True)
class Range:
    """The commits (first, last] of a file that should stand, the file where it stands already, and what it is made of where not."""

    first: int
    last: int
    kept: PartFile | None = None
    replaces: tuple[PartFile, ...] = ()

    @property
    def name(self) -> str:
        return part_name(self.first, self.last)


@dataclass(frozen=True)
class Commits:
    """The commit numbers that rows still carry, ascending, and how many rows each, both (n,) int64."""

    numbers: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def rows(self, first: int, last: int) -> int:
        """How many rows the commits (first, last] have now."""
        lo, hi = np.searchsorted(self.numbers, [first, last], side="right")
        return int(self.counts[lo:hi].sum())


def part_name(first: int, last: int) -> str:
    return f"part-{first:012d}-{last:012d}.parquet"


def plan(
    files: Sequence[PartFile],
    commits: Commits,
    *,
    stale: Iterable[int] = (),
    all_stale: bool = False,
    absent: Iterable[str] = (),
    target_rows: int,
) -> list[Range]:
    """The files that should stand, in the order of their commits; together they hold every commit once.

    Args:
        files: those that stand, in order, the first beginning at 0 and each where the one before it ends.
        stale: numbers of commits whose rows are to be written again; `all_stale`, all of them.
        absent: names of files that are not there, or not whole.
        target_rows: a new file takes commits up to so many rows; one commit is never cut.
    """
    gone = set(absent)
    touched = np.array(sorted(set(stale)), np.int64)
    ranges = []
    for file in files:
        lo, hi = np.searchsorted(touched, [file.first, file.last], side="right")
        same = commits.rows(file.first, file.last) == file.ids and lo == hi and file.name not in gone
        is_kept = same and not all_stale
        ranges.append(Range(file.first, file.last, file if is_kept else None, (file,)))
    merged = _merged(ranges, commits, target_rows)
    last = files[-1].last if files else 0
    new = _new(last, commits, target_rows)
    # A publication without rows still has a file, so that readers find the columns.
    return [*merged, *new] or [Range(0, 0)]


def _new(after: int, commits: Commits, target_rows: int) -> list[Range]:
    found, first, size = [], after, 0
    place = int(np.searchsorted(commits.numbers, after, side="right"))
    numbers, counts = commits.numbers[place:].tolist(), commits.counts[place:].tolist()
    for i, (number, count) in enumerate(zip(numbers, counts, strict=True)):
        size += count
        if i + 1 == len(numbers) or size + counts[i + 1] > target_rows:
            found.append(Range(first, number))
            first, size = number, 0
    return found


def _merged(ranges: list[Range], commits: Commits, target_rows: int) -> list[Range]:
    """Where many neighbours are small, one in their place."""
    for tier in _TIERS:
        small = [commits.rows(r.first, r.last) < max(1, target_rows // tier) for r in ranges]
        found: list[Range] = []
        start = 0
        while start < len(ranges):
            stop = start
            while stop < len(ranges) and small[stop]:
                stop += 1
            if stop - start >= _MERGED_FROM:
                run = ranges[start:stop]
                found.append(Range(run[0].first, run[-1].last, None, tuple(f for r in run for f in r.replaces)))
            else:
                stop = max(stop, start + 1)
                found += ranges[start:stop]
            start = stop
        ranges = found
    return ranges
