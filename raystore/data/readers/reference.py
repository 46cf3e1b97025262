"""What a job hands around (Reference), what planning finds (SourceFile), and what reading yields (Block).

Knows no file format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MIN_SLICE_ROWS, MAX_SLICE_ROWS = 1_024, 16_384
MIN_SLICE_IMAGES, MAX_SLICE_IMAGES = 64, 2_048  # an image is as much work as some ten texts
_SLICES_A_WORKER = 4
BATCH_BYTES = 64 * 2**20  # content a block holds at most: 13 photographs of 5 MB, and not the 1,024 that rows alone allow


@dataclass(frozen=True)
class Reference:
    """A slice of a source: `n_rows` rows from `first_row` (from 0, over the whole source). A few hundred bytes as JSON.

    `start` and `stop` are byte offsets, or rows of the row group, record batch or fragment that `row_group` numbers. A folder's
    slice goes from the name `first` to the name `last`; `version` pins a Lance dataset.
    """

    path: str
    kind: str
    first_row: int
    n_rows: int
    start: int
    stop: int
    row_group: int = -1
    version: int = 0
    first: str = ""
    last: str = ""


@dataclass
class Block:
    """Some rows of a slice, by column; a row that could not be read stands in `unreadable` with the reason.

    `first_row` and the keys of `unreadable` count from the source's first row. A value is str, bytes, a number, or None.
    """

    first_row: int
    columns: dict[str, list[Any]]
    n_rows: int
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFile:
    """A source as it was when it was planned; `modified` is ISO 8601 in UTC. None where the filesystem does not say."""

    path: str
    kind: str
    n_rows: int
    columns: dict[str, str]  # name -> type name of a collection's TYPES, "binary", or what it is instead
    size_bytes: int | None = None
    modified: str | None = None


class Row(NamedTuple):
    """One row on its way into a block: its values, how many bytes of content they hold, and why it could not be read."""

    values: Mapping[str, Any]
    size: int
    problem: str | None = None


def slice_rows(total: int, workers: int, *, images: bool = False) -> int:
    """Rows of a slice: four slices a worker, neither tiny nor huge."""
    even = -(-total // (max(1, workers) * _SLICES_A_WORKER))
    least, most = (MIN_SLICE_IMAGES, MAX_SLICE_IMAGES) if images else (MIN_SLICE_ROWS, MAX_SLICE_ROWS)
    return min(max(even, least), most)


def blocks(
    rows: Iterable[Row], first_row: int, columns: Sequence[str], batch_rows: int, batch_bytes: int
) -> Iterator[Block]:
    """The rows in blocks of at most `batch_rows` rows and `batch_bytes` of content; a larger row stands alone."""
    block, size = Block(first_row, {name: [] for name in columns}, 0), 0
    for row in rows:
        if block.n_rows == batch_rows or (block.n_rows and size + row.size > batch_bytes):
            yield block
            block, size = Block(block.first_row + block.n_rows, {name: [] for name in columns}, 0), 0
        if row.problem:
            block.unreadable[block.first_row + block.n_rows] = row.problem
        for name in columns:
            block.columns[name].append(row.values.get(name))
        block.n_rows += 1
        size += row.size
    if block.n_rows:
        yield block


def numbered(reference: Reference, batch_rows: int) -> Iterator[Block]:
    """The slice's row numbers, without any column."""
    for start in range(0, reference.n_rows, batch_rows):
        yield Block(reference.first_row + start, {}, min(batch_rows, reference.n_rows - start))
