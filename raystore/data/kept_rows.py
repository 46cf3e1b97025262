"""The kept content of rows that lack a vector, read like the slices of a file.

A slice is a range of the collection's row ids. Whoever reads it asks which of its rows still lack the vector, and finds
their content by payload and id: what is found is what was embedded, and a slice read again after a kill gives what is
left of it. No version is pinned, so rows may be logged while a fill of many hours runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.job import EmbedPlan, batch_rows
from raystore.data.kept_source import KeptSource
from raystore.data.keyed import PAYLOAD
from raystore.data.readers import BATCH_BYTES, Block, Reference
from raystore.data.readers.columns import blocks_of, decoded_rows
from raystore.data.readers.reference import slice_rows
from raystore.layout import vector_column

KEPT = "kept"  # the kind of its references
SOURCE = "the kept source"  # what stands as the source of its rows


def plan_kept(table: CollectionTable, fingerprint: str, workers: int) -> list[Reference]:
    """The slices of the rows that lack a vector of this encoder. Cost: one pass over which are null."""
    row_ids = table.row_ids_lacking(fingerprint)
    step = slice_rows(len(row_ids), workers)
    parts = [(first, row_ids[first : first + step]) for first in range(0, len(row_ids), step)]
    return [Reference(SOURCE, KEPT, first, len(part), int(part[0]), int(part[-1]) + 1) for first, part in parts]


def read_kept(table: CollectionTable, source: KeptSource, reference: Reference, plan: EmbedPlan) -> Iterator[Block]:
    """Blocks of id, content and payload, numbered within the slice; rows without such content are left out."""
    columns = ["id", plan.content, PAYLOAD]
    yield from blocks_of(_found(table, source, reference, plan), columns, batch_rows(plan), BATCH_BYTES)


def _found(
    table: CollectionTable, source: KeptSource, reference: Reference, plan: EmbedPlan
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some rows at a time, found by their keys, with the number of the first."""
    within = f"_rowid >= {reference.start} AND _rowid < {reference.stop}"
    null = " OR ".join(f"{vector_column(each)} IS NULL" for each in plan.fingerprints)
    condition = f"{within} AND ({null})"
    lacking = table.rows.dataset().to_table(columns=["id", PAYLOAD], filter=condition)
    schema, mean = source.table.dataset().schema, source.mean_bytes()
    step = decoded_rows(schema, [plan.content], batch_rows(plan), mean, BATCH_BYTES)
    row = 0
    for start in range(0, len(lacking), step):
        part = lacking.slice(start, step)
        rows = source.contents(part.column("id").to_pylist(), part.column(PAYLOAD).to_pylist(), plan.modality)
        for batch in rows.to_batches():
            yield row, batch
            row += len(batch)
