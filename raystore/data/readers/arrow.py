"""Arrow IPC files (Feather among them) and streams: sliced by record batch and rows.

A local file is mapped into memory and only touched where it is read. A compressed batch is decompressed whole, so there memory
follows the batch. A slice of a stream walks the batches before it, microseconds each where they are not compressed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pyarrow as pa

from raystore.data.readers.columns import blocks_of, type_names
from raystore.data.readers.files import is_url, open_input
from raystore.data.readers.reference import Block, Reference, SourceFile, slice_rows

_FILE_MAGIC = b"ARROW1"


def plan(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    with _open(path) as source:
        schema = _schema(source)
        sizes = [len(batch) for batch in _batches(source, _narrowest(schema))]
    total = sum(sizes)
    step = slice_rows(total, workers)
    references = []
    batch, start = 0, 0  # where the next slice begins
    for first in range(0, total, step):
        while start >= sizes[batch]:
            start -= sizes[batch]
            batch += 1
        rows = min(step, total - first)
        references.append(Reference(path, kind, first, rows, start, start + rows, batch))
        start += rows
    return SourceFile(path, kind, total, type_names(schema)), references


def read(reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int) -> Iterator[Block]:
    return blocks_of(_slice(reference, columns), columns, batch_rows, batch_bytes)


def _slice(reference: Reference, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    row, end = reference.first_row, reference.first_row + reference.n_rows
    position = row - reference.start  # of the batch's first row
    with _open(reference.path) as source:
        schema = _schema(source)
        for batch in _batches(source, [schema.get_field_index(name) for name in columns], reference.row_group):
            part = batch.slice(row - position, min(end - row, position + len(batch) - row))
            _check_offsets(part)
            yield row, part
            row += len(part)
            position += len(batch)
            if row >= end:
                return


def _open(path: str) -> pa.NativeFile:
    return open_input(path) if is_url(path) else pa.memory_map(os.fsencode(path))


def _is_file(source: pa.NativeFile) -> bool:
    source.seek(0)
    is_file: bool = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    source.seek(0)
    return is_file


def _schema(source: pa.NativeFile) -> pa.Schema:
    is_file = _is_file(source)
    return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).schema


def _batches(source: pa.NativeFile, fields: Sequence[int], first: int = 0) -> Iterator[pa.RecordBatch]:
    """The record batches from number `first` on, with the named fields alone."""
    # Picking fields copies what is picked, which a mapped file has no need of (600 MB for a batch of as many).
    options = pa.ipc.IpcReadOptions(included_fields=[] if _is_mapped(source) else list(fields), use_threads=False)
    if _is_file(source):
        file = pa.ipc.open_file(source, options=options)
        yield from (file.get_batch(i) for i in range(first, file.num_record_batches))
        return
    for number, batch in enumerate(pa.ipc.open_stream(source, options=options)):
        if number >= first:
            yield batch


def _is_mapped(source: pa.NativeFile) -> bool:
    """True when batches are views of a file mapped into memory; not where they are compressed."""
    if not isinstance(source, pa.MemoryMappedFile):
        return False
    is_file = _is_file(source)
    begin = source.read_buffer(1).address
    source.seek(0)
    if is_file:
        file = pa.ipc.open_file(source)
        batch = file.get_batch(0) if file.num_record_batches else None
    else:
        batch = next(iter(pa.ipc.open_stream(source)), None)
    arrays = batch.columns if batch is not None else []
    buffers = [buffer for array in arrays for buffer in array.buffers() if buffer is not None and buffer.size]
    return all(begin <= buffer.address < begin + source.size() for buffer in buffers)


def _narrowest(schema: pa.Schema) -> list[int]:
    """A field that costs little to read, for counting rows: one of fixed width, if there is one."""
    fixed = [i for i, field in enumerate(schema) if pa.types.is_primitive(field.type)]
    return fixed[:1] or [0][: len(schema)]


def _check_offsets(batch: pa.RecordBatch) -> None:
    """Arrow takes offsets as they stand in the file: wrong ones would read memory that is not the file's."""
    for column in batch.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
        column.validate(full=not pa.types.is_string_view(column.type))
