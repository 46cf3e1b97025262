"""The texts or image files of given rows, read again by reference: what encoders take, and reports that may show items.

Only the slices that hold the rows are opened. Content lives as long as the caller holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from raystore.data.readers import Reference, read
from raystore.encoders.items import Item
from raystore.errors import JobFailed
from raystore.fine_tune.examples.rows import check_unchanged, without_words
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Examples, IntArray

_ROWS = 1_024


def stream_items(
    spec: DataSpec, rows: Examples | IntArray, view: int = 0, block_rows: int = _ROWS
) -> Iterator[tuple[IntArray, list[Item]]]:
    """(places in `rows`, their items) block by block, in the order of the files.

    Args:
        rows: a side as `read_sides` put it out, whose blocks come in its own order; or (n, 2) `Examples.places`, in any order.

    Raises:
        JobFailed: a file changed since it was planned, or cannot be read.
    """
    places = _places(rows)
    column = spec.columns.views[view][0]
    held = {spec.sources[number].path for number in np.unique(places[:, 0]).tolist()}
    check_unchanged(spec, [each for each in _references(spec).values() if each.path in held])
    order = np.lexsort((places[:, 1], places[:, 0]))
    sorted_places = places[order]
    numbers = {source.path: number for number, source in enumerate(spec.sources)}
    for reference in sorted(_references(spec).values(), key=lambda each: (numbers[each.path], each.first_row)):
        first, last = (_at(sorted_places, numbers[reference.path], row) for row in _span(reference))
        if first < last:
            yield from _of_slice(reference, column, order[first:last], sorted_places[first:last, 1], block_rows)


def _places(rows: Examples | IntArray) -> IntArray:
    if not isinstance(rows, Examples):
        return rows.reshape(-1, 2)
    assert rows.places is not None, "read_sides and read_pool say where each row lies"
    return rows.places


def _references(spec: DataSpec) -> Mapping[tuple[str, int], Reference]:
    """Every slice once; a pool may be read from the files of the data."""
    return {(each.path, each.first_row): each for each in (*spec.references, *spec.test, *spec.pool)}


def _span(reference: Reference) -> tuple[int, int]:
    return reference.first_row, reference.first_row + reference.n_rows


def _at(places: IntArray, source: int, row: int) -> int:
    """Where (source, row) stands or would stand among the sorted places."""
    start, stop = np.searchsorted(places[:, 0], [source, source + 1])
    return int(start + np.searchsorted(places[start:stop, 1], row))


def _of_slice(
    reference: Reference, column: str, wanted: IntArray, rows: IntArray, block_rows: int
) -> Iterator[tuple[IntArray, list[Item]]]:
    blocks = read(reference, [column], block_rows)
    at = 0
    while at < len(rows):
        block = without_words(f"reading rows of '{reference.path}' again", lambda: next(blocks, None))
        if block is None:
            raise _gone(reference)
        end = at + int(np.searchsorted(rows[at:], block.first_row + block.n_rows))
        if end > at:
            values = block.columns[column]
            yield wanted[at:end], [_item(reference, values[row - block.first_row]) for row in rows[at:end].tolist()]
        at = end


def _item(reference: Reference, value: object) -> Item:
    if not isinstance(value, (str, bytes)):
        raise _gone(reference)
    return value


def _gone(reference: Reference) -> JobFailed:
    return JobFailed(
        job=f"reading rows of '{reference.path}' again",
        reason="a row that could be read before cannot be read any more",
        advice="Restore the file, or start a new run on what there is now.",
    )
