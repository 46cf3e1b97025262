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


class ShardRows:
    """Row ids (n,) int64, ascending, and their n ids. Position i is row_ids[i]."""

    def __init__(self, row_ids: RowIds, ids: pa.LargeStringArray) -> None:
        self.row_ids, self.ids = row_ids, ids
        self._dense = len(row_ids) > 0 and int(row_ids[-1]) - int(row_ids[0]) == len(row_ids) - 1

    def __len__(self) -> int:
        return len(self.row_ids)

    def positions_of(self, row_ids: RowIds) -> RowIds:
        """(c,) int64 where those of the (ascending) row ids stand that are here."""
        if not len(self) or not len(row_ids):
            return np.empty(0, dtype=np.int64)
        first, last = self.row_ids[0], self.row_ids[-1]
        mine = row_ids[np.searchsorted(row_ids, first) : np.searchsorted(row_ids, last, "right")]
        if self._dense:
            near: RowIds = mine - first
            return near
        at: RowIds = np.searchsorted(self.row_ids, mine)
        present: RowIds = at[self.row_ids[at] == mine]
        return present

    def names_of(self, wanted: RowIds) -> dict[int, str]:
        """The ids of those of the (ascending) row ids that are here."""
        at = self.positions_of(wanted)
        return dict(zip(self.row_ids[at].tolist(), self.ids.take(pa.array(at)).to_pylist(), strict=True))


def read_rows_file(folder: Path, number: int) -> ShardRows:
    """The rows, as views of the mapped file; check its digest first."""
    path = folder / rows_name(number)
    with pa.memory_map(str(path)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    if table.schema != _SCHEMA:
        raise ShardCorrupt(path=str(path), found="it holds other columns than row_id and id")
    if not len(table):
        return ShardRows(np.empty(0, dtype=np.int64), pa.array([], pa.large_string()))
    return ShardRows(table.column("row_id").chunk(0).to_numpy(), table.column("id").chunk(0))


def joined_ids(parts: list[Any]) -> pa.LargeStringArray:
    """One array of the ids of many batches."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *(part.cast(pa.large_string()) for part in parts)])
