"""Columns of Arrow batches as plain values, for the sources that Arrow reads: Parquet, Arrow files, Lance.

A column of images is binary, or a struct of `bytes` and `path` as Hugging Face's datasets write it; it is read as its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.readers.reference import Block

# How many rows of a binary column are decoded at once: their mean may be small, and some of them large all the same.
BINARY_ROWS = 64


def type_name(kind: pa.DataType) -> str:
    """The column type of a collection that holds such values, "binary" for content, or the Arrow type's own name."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if _is_binary(kind) or _is_image_struct(kind):
        return "binary"
    tests = (
        (pa.types.is_boolean, "bool"), (pa.types.is_integer, "int64"), (pa.types.is_floating, "float64"),
        (pa.types.is_timestamp, "timestamp"), (pa.types.is_date, "date"), (pa.types.is_null, "string"),
    )  # fmt: skip
    return next((name for test, name in tests if test(kind)), str(kind))


def type_names(schema: pa.Schema) -> dict[str, str]:
    return {field.name: type_name(field.type) for field in schema}


def decoded_rows(schema: pa.Schema, columns: Sequence[str], batch_rows: int, mean_bytes: float, batch_bytes: int) -> int:
    """How many rows to decode at once, so that neither `batch_rows` nor, as far as the mean tells, `batch_bytes` is passed."""
    rows = min(batch_rows, int(batch_bytes / max(mean_bytes, 1.0)))
    if any(type_name(schema.field(name).type) == "binary" for name in columns if schema.get_field_index(name) >= 0):
        rows = min(rows, BINARY_ROWS)
    return max(rows, 1)


def blocks_of(
    batches: Iterable[tuple[int, pa.RecordBatch]], columns: Sequence[str], batch_rows: int, batch_bytes: int
) -> Iterator[Block]:
    """The rows of (number of its first row, batch) pairs, which follow one another, as blocks.

    A block holds at most `batch_rows` rows and `batch_bytes` of content; a larger row stands alone. Small batches are joined.
    """
    held, size = Block(0, {}, 0), 0
    for block, more in _parts(batches, columns, batch_rows, batch_bytes):
        if held.n_rows and (held.n_rows + block.n_rows > batch_rows or size + more > batch_bytes):
            yield held
            held, size = block, more
        elif held.n_rows:
            for name, values in block.columns.items():
                held.columns[name] += values
            held.n_rows += block.n_rows
            size += more
        else:
            held, size = block, more
    if held.n_rows:
        yield held


def _parts(
    batches: Iterable[tuple[int, pa.RecordBatch]], columns: Sequence[str], batch_rows: int, batch_bytes: int
) -> Iterator[tuple[Block, int]]:
    """Each batch as blocks, with the bytes of content in each."""
    for first, batch in batches:
        arrays = {name: _content(batch.column(name)) for name in columns}
        for start, stop, size in _runs(list(arrays.values()), len(batch), batch_rows, batch_bytes):
            part = {name: _values(array.slice(start, stop - start)) for name, array in arrays.items()}
            yield Block(first + start, part, stop - start), size


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"} or kind.num_fields != 2:
        return False
    return _is_binary(kind.field("bytes").type)


def _content(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, "bytes") if _is_image_struct(column.type) else column


def _runs(arrays: Sequence[pa.Array], n_rows: int, batch_rows: int, batch_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Start, stop and bytes of each run of rows that fits into a block."""
    ends = np.cumsum(sum((_sizes(array) for array in arrays), np.zeros(n_rows, np.int64)))
    start, before = 0, 0
    while start < n_rows:
        fits = int(np.searchsorted(ends, before + batch_bytes, side="right"))
        stop = max(start + 1, min(fits, start + batch_rows))
        yield start, stop, int(ends[stop - 1]) - before
        start, before = stop, int(ends[stop - 1])


def _sizes(array: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(n,) bytes of each value of a text or binary column; 0 for others, which are small."""
    if pa.types.is_dictionary(array.type):
        sizes = pa.array(_sizes(array.dictionary)).take(array.indices)
    elif pa.types.is_binary_view(array.type) or pa.types.is_string_view(array.type):
        sizes = pc.binary_length(array.cast(pa.large_binary()))
    elif _is_binary(array.type) or pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        sizes = pc.binary_length(array)
    else:
        return np.zeros(len(array), np.int64)
    return np.asarray(pc.fill_null(sizes, 0).to_numpy(zero_copy_only=False), np.int64)


def _values(column: pa.Array) -> list[Any]:
    """The column's values. Arrow hands out strings unchecked: what is not UTF-8 becomes lone surrogates, as in CSV."""
    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        raw = plain.cast(pa.large_binary()).to_pylist()
        found = [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    return found
