"""A result as bytes: JSON rows or one Arrow stream, cut at a number of rows and of bytes.

What JSON has no word for is text: times in ISO 8601, decimals, NaN and infinities, UUIDs; bytes are base64. Integers stay
numbers, of any size. Knows no SQL.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raystore.errors import QueryStopped

_BATCH = 256  # rows turned into JSON at once


@dataclass(frozen=True)
class Cut:
    """The first rows of a result, and whether there were more."""

    rows: pa.Table
    truncated: bool


def take(reader: pa.RecordBatchReader, *, max_rows: int, max_bytes: int) -> Cut:
    """At most so many rows, whose Arrow buffers have at most so many bytes. Reads no further than that.

    Raises:
        QueryStopped: the first row alone has more bytes.
    """
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        kept = _fitting(batch.slice(0, max_rows - rows), max_bytes - size)
        batches.append(kept)
        rows, size = rows + len(kept), size + kept.nbytes
        if len(kept) < len(batch):
            if not rows and max_rows:
                raise _too_large(max_bytes)
            return Cut(pa.Table.from_batches(batches, reader.schema), True)
    return Cut(pa.Table.from_batches(batches, reader.schema), False)


def _fitting(batch: pa.RecordBatch, max_bytes: int) -> pa.RecordBatch:
    """The most of its first rows that have at most so many bytes."""
    low, high = 0, len(batch)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if batch.slice(0, middle).nbytes <= max_bytes else (low, middle - 1)
    return batch.slice(0, low)


def as_arrow(cut: Cut, facts: dict[str, Any]) -> bytes:
    """One Arrow IPC stream; `facts` stand as JSON under `raystore` in its schema's metadata."""
    sink = pa.BufferOutputStream()
    table = cut.rows.replace_schema_metadata({"raystore": json.dumps(facts)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def as_json(cut: Cut, max_bytes: int) -> tuple[bytes, int]:
    """The rows as one JSON array of arrays of at most `max_bytes`, and how many they are.

    Raises:
        QueryStopped: the first row alone has more bytes.
    """
    parts: list[bytes] = []
    size = 2
    for start in range(0, len(cut.rows), _BATCH):
        columns = [_values(column) for column in cut.rows.slice(start, _BATCH).columns]
        for row in zip(*columns, strict=True):
            part = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            size += len(part) + 1
            if size > max_bytes:
                if not parts:
                    raise _too_large(max_bytes)
                return b"[" + b",".join(parts) + b"]", len(parts)
            parts.append(part)
    return b"[" + b",".join(parts) + b"]", len(parts)


def _too_large(max_bytes: int) -> QueryStopped:
    return QueryStopped(reason=f"one row of its result is over {max_bytes:,} bytes")


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return [_plain(value) for value in column.to_pylist()]
    except (ValueError, OverflowError):  # times that Python's own types cannot hold
        return [_plain(value) for value in column.cast(pa.string()).to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, decimal.Decimal) and value.as_tuple().exponent == 0:  # HUGEINT, as the sum of integers is one
        return int(value)
    return str(value)
