"""`shard-0000.rows.arrow`: the row ids of a shard, ascending, and the ids, in one Arrow batch that is memory-mapped.

Position i of the shard is line i. Knows neither vectors nor what is searched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.errors import ShardCorrupt
from raystore.index.shards.blocks import file_digest
from raystore.index.source import RowIds
from raystore.layout import disk_full_is_said, sync

_SCHEMA = pa.schema([("row_id", pa.int64()), ("id", pa.large_string())])  # large: one batch may hold more than 2 GiB of ids


def rows_name(number: int) -> str:
    return f"shard-{number:04d}.rows.arrow"


def write_rows(folder: Path, number: int, row_ids: RowIds, ids: pa.LargeStringArray) -> dict[str, str]:
    """Write the file, synced; its name and sha256."""
    path = folder / rows_name(number)
    batch = pa.record_batch([pa.array(row_ids, pa.int64()), ids], schema=_SCHEMA)
    with disk_full_is_said(folder, f"writing {path.name}"):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(batch)
        sync(path)
    return {path.name: file_digest(path)}


def read_rows_file(folder: Path, number: int) -> tuple[RowIds, pa.LargeStringArray]:
    """Row ids (n,) int64 and their n ids, both views of the mapped file; check its digest first."""
    path = folder / rows_name(number)
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    if table.schema != _SCHEMA:
        raise ShardCorrupt(path=str(path), found="it holds other columns than row_id and id")
    if not len(table):
        return np.empty(0, dtype=np.int64), pa.array([], pa.large_string())
    return table.column("row_id").chunk(0).to_numpy(), table.column("id").chunk(0)


def joined_ids(parts: list[Any]) -> pa.LargeStringArray:
    """One array of the ids of many batches."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *(part.cast(pa.large_string()) for part in parts)])
