"""Parquet: sliced by row group and rows; only the footer is read to plan.

A row group is streamed page by page, so memory follows its pages (1 MB as most writers make them) and not its size; a slice
in the middle of a row group reads past the rows before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from raystore.data.readers.columns import blocks_of, decoded_rows, type_names
from raystore.data.readers.files import open_input
from raystore.data.readers.reference import Block, Reference, SourceFile, slice_rows

# Without a buffer the whole column chunk is read at once: 640 MB of Arrow memory for a row group of 600 MB, with it 45 MB.
_BUFFER_BYTES = 2**20


def plan(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    with open_input(path) as source, pq.ParquetFile(source) as file:
        total = file.metadata.num_rows
        step = slice_rows(total, workers)
        references, first = [], 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                references.append(Reference(path, kind, first + start, stop - start, start, stop, group))
            first += rows
        columns = type_names(file.schema_arrow)
    return SourceFile(path, kind, total, columns), references


def read(reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int) -> Iterator[Block]:
    return blocks_of(_batches(reference, columns, batch_rows, batch_bytes), columns, batch_rows, batch_bytes)


def _batches(
    reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with open_input(reference.path) as source, pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        group = file.metadata.row_group(reference.row_group)
        mean = _bytes_of(group, columns) / max(1, group.num_rows)
        rows = min(batch_rows, max(1, reference.stop - reference.start))
        step = decoded_rows(file.schema_arrow, columns, rows, mean, batch_bytes)
        position = 0
        batches = file.iter_batches(batch_size=step, row_groups=[reference.row_group], columns=columns, use_threads=False)
        for batch in batches:
            start, stop = max(reference.start - position, 0), min(reference.stop - position, len(batch))
            if start < stop:
                yield reference.first_row + position + start - reference.start, batch.slice(start, stop - start)
            position += len(batch)
            if position >= reference.stop:
                return


def _bytes_of(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """Uncompressed bytes of the columns in a row group, by the footer."""
    chunks = (group.column(i) for i in range(group.num_columns))
    paths = [(c.path_in_schema, c.total_uncompressed_size) for c in chunks]
    return sum(size for path, size in paths if any(path == name or path.startswith(f"{name}.") for name in columns))
