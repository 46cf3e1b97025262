"""Lance datasets: sliced by fragment and rows, at the version that was planned, whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import lance
import pyarrow as pa

from raystore.data.readers.columns import blocks_of, decoded_rows, type_name, type_names
from raystore.data.readers.files import join, look
from raystore.data.readers.reference import Block, Reference, SourceFile, slice_rows
from raystore.errors import InvalidArguments


def plan(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    dataset = lance.dataset(path)
    fragments = [(fragment.fragment_id, fragment.count_rows()) for fragment in dataset.get_fragments()]
    total = sum(rows for _, rows in fragments)
    step = slice_rows(total, workers)
    references, first = [], 0
    for number, rows in fragments:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            references.append(Reference(path, kind, first + start, stop - start, start, stop, number, dataset.version))
        first += rows
    sizes = [_size(fragment) for fragment in dataset.get_fragments()]
    size = None if None in sizes else sum(size or 0 for size in sizes)
    versions = look(join(path, "_versions"))
    return SourceFile(
        path, kind, total, type_names(dataset.schema), size, versions.modified if versions else None
    ), references


def read(reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int) -> Iterator[Block]:
    return blocks_of(_batches(reference, columns, batch_rows, batch_bytes), columns, batch_rows, batch_bytes)


def _batches(
    reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    try:
        dataset = lance.dataset(reference.path, version=reference.version)
    except ValueError as error:
        problem = f"version {reference.version} of '{reference.path}' is not there any more ({type(error).__name__})"
        raise InvalidArguments(call="read", problems=[f"{problem}: plan the job again"]) from None
    fragment = dataset.get_fragment(reference.row_group)
    mean = (_size(fragment) or 0) / max(1, fragment.physical_rows)
    step = decoded_rows(dataset.schema, columns, batch_rows, mean, batch_bytes)
    has_images = any(type_name(dataset.schema.field(name).type) == "binary" for name in columns)
    # Lance reads a scan ahead as fast as it can: 830 MB for 400 images of 1 MB. A scan of a few rows holds a few rows.
    chunk = step if has_images else max(1, reference.n_rows)
    row = reference.first_row
    for start in range(reference.start, reference.stop, chunk):
        rows = min(chunk, reference.stop - start)
        for batch in fragment.to_batches(columns=columns, offset=start, limit=rows, batch_size=step, batch_readahead=1):
            yield row, batch
            row += len(batch)


def _size(fragment: lance.LanceFragment) -> int | None:
    """Bytes of the fragment's files, all columns together; None where the dataset does not say."""
    sizes = [file.file_size_bytes for file in fragment.data_files()]
    return None if None in sizes else sum(sizes)
