"""The parts of a job into one table: neighbours one after the other; duplicates each once, in order, with their groups.

Out of core: DuckDB sorts and drops the pairs that were found from both sides, in 1 GiB, and spills into the stage. In memory
stand the row ids of rows that have a duplicate, and two integers for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from raystore.index.pairs.compare import FOUND, NEIGHBOURS
from raystore.index.pairs.groups import Groups
from raystore.index.source import RowIds

DUPLICATES = pa.schema(
    [
        pa.field("a", pa.string(), False),
        pa.field("b", pa.string(), False),
        pa.field("score", pa.float32(), False),
        pa.field("group", pa.int64(), False),
    ]
)
_BATCH = 65_536
_MEMORY = "1GB"


def neighbour_batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """NEIGHBOURS of all parts, in their order."""
    for file in files:
        with pa.memory_map(str(file)) as source:
            yield from pa.ipc.open_file(source).read_all().cast(NEIGHBOURS).to_batches()


class Duplicates:
    """The pairs of all parts, each once. `pairs`, `groups` and `in_groups` count them, their groups, and the rows in those."""

    def __init__(self, files: Sequence[Path], stage: Path) -> None:
        self._sorted = stage / "sorted.arrow"
        self.pairs = 0
        self._ends = self._sort(files, stage)
        groups = Groups(len(self._ends))
        for batch in self._batches():
            groups.join(self._places(batch, "a_row"), self._places(batch, "b_row"))
        tops, self._group = np.unique(groups.tops(), return_inverse=True)  # so the first group has the row added first
        self.groups, self.in_groups = len(tops), len(self._ends)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """DUPLICATES, by the row that was added first and then by the other."""
        for batch in self._batches():
            group = pa.array(self._group[self._places(batch, "a_row")].astype(np.int64))
            columns = [batch.column("a"), batch.column("b"), batch.column("score"), group]
            yield pa.RecordBatch.from_arrays(columns, schema=DUPLICATES)

    def _sort(self, files: Sequence[Path], stage: Path) -> RowIds:
        """Write the pairs in order; the row ids of all that are in one, ascending."""
        spill: dict[str, Any] = {"memory_limit": _MEMORY, "temp_directory": str(stage / "spill")}
        with duckdb.connect(config=spill) as connection:
            connection.register("found", ds.dataset([str(file) for file in files], schema=FOUND, format="ipc"))
            once = (
                "SELECT a_row, b_row, any_value(a) AS a, any_value(b) AS b, max(score) AS score FROM found "
                "GROUP BY a_row, b_row ORDER BY a_row, b_row"
            )
            reader = connection.sql(once).to_arrow_reader(_BATCH)
            with pa.OSFile(str(self._sorted), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
                for batch in reader:
                    self.pairs += batch.num_rows
                    writer.write_batch(batch)
            ends = connection.sql("SELECT a_row AS r FROM found UNION SELECT b_row FROM found ORDER BY r").fetchnumpy()
        return np.asarray(ends["r"], dtype=np.int64)

    def _batches(self) -> Iterator[Any]:
        with pa.memory_map(str(self._sorted)) as source:
            reader = pa.ipc.open_file(source)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)

    def _places(self, batch: Any, column: str) -> RowIds:
        places: RowIds = np.searchsorted(self._ends, batch.column(column).to_numpy())
        return places
