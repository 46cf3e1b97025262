"""The rows of a caller's own Ray Dataset, embedded like those of files; only where the collection keeps its content.

A Dataset's blocks lie in Ray's object store, in shared memory and in its spill files: whoever hands one over has
content there already, and says by `keep_source=True` that it may be kept. A collection without that refuses it.
Imports no Ray: it asks the Dataset it was given.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from raystore.data.collection import CollectionTable
from raystore.data.dry_run import SAMPLE_ROWS, DryRun, dry_run
from raystore.data.embed import Embedder
from raystore.data.ingest import (
    EmbedReport,
    add_columns,
    check_sources,
    content_found,
    job_record,
    new_columns,
    plan_of,
    report_of,
    takers,
)
from raystore.data.job import EmbedPlan, batch_rows
from raystore.data.manifest import RunningJob, SourceColumns
from raystore.data.pool import DATASET, batch_blocks, embed_dataset
from raystore.data.pool_size import Pool, Workers, check_pool
from raystore.data.readers import Block, SourceFile
from raystore.data.readers.columns import type_name
from raystore.encoders.registry import Encoder
from raystore.encoders.together import load_together
from raystore.errors import InvalidArguments
from raystore.layout import Layout
from raystore.progress import Progress


def embed_ray_dataset(
    layout: Layout,
    table: CollectionTable,
    encoders: Sequence[Encoder],
    store_key: bytes,
    dataset: Any,
    columns: SourceColumns,
    *,
    named: bool = True,
    id_prefix: str = "",
    check: bool = False,
    workers: Workers = None,
    gpu_workers: Workers = None,
    gpus_per_worker: float = 1.0,
    progress: Progress | None = None,
) -> EmbedReport:
    """As `embed_files`, for the rows of a ray.data.Dataset; only into a collection that keeps its source."""
    call = f"embed into '{table.name}'"
    asked = check_pool(workers, gpu_workers, gpus_per_worker, call)
    columns, encoders, kept_types = _checked(dataset, columns, encoders, table, call, named=named)
    add_columns(table, kept_types)
    plan = plan_of(table, encoders, columns, kept_types, id_prefix=id_prefix, check=check)
    began = time.monotonic()
    pool = Pool()
    with RunningJob(layout, table.name, job_record("embed", encoders, columns, id_prefix, [])) as job:
        # How many rows there are nobody knows before they were made: nothing is chosen by it, and no total is told.
        if asked.is_inline(sys.maxsize):
            embedder = Embedder(layout, plan, load_together(encoders), store_key)
            for block in _blocks(dataset, plan):
                job.counts.add(embedder.embed_block(DATASET, block))
                if progress:
                    progress(job.counts.read, 0)
        else:
            gained = (lambda rows: progress(rows, 0)) if progress else None
            counts, pool = embed_dataset(table, plan, dataset, asked, gained)
            job.counts.add(counts)
        job.workers = pool.most
    return report_of(plan, job.counts, pool, 0, time.monotonic() - began)


def dry_run_ray_dataset(
    table: CollectionTable,
    encoders: Sequence[Encoder],
    store_key: bytes,
    dataset: Any,
    columns: SourceColumns,
    *,
    named: bool = True,
    id_prefix: str = "",
    check: bool = False,
) -> DryRun:
    """What `embed_ray_dataset` would do, from its first rows. Counting the rows may run the whole Dataset."""
    call = f"embed into '{table.name}'"
    columns, encoders, kept_types = _checked(dataset, columns, encoders, table, call, named=named)
    new_columns(table, kept_types)
    plan = plan_of(table, encoders, columns, kept_types, id_prefix=id_prefix, check=check)
    sample = next(_blocks(dataset.limit(SAMPLE_ROWS), plan), Block(0, {}, 0))
    return dry_run(table, plan, load_together(encoders), store_key, sample, files=0, rows=dataset.count())


def _checked(
    dataset: Any, columns: SourceColumns, encoders: Sequence[Encoder], table: CollectionTable, call: str, *, named: bool
) -> tuple[SourceColumns, Sequence[Encoder], dict[str, str]]:
    """The columns, with the one to embed, the encoders that do, and the types of those kept; refuses before a row is asked for."""
    if not table.keeps_source:
        problem = (
            "the blocks of a Ray Dataset, and so the content, lie in Ray's object store, and this collection keeps no "
            "content: embed the files it was read from, or make a collection with keep_source=True"
        )
        raise InvalidArguments(call=call, problems=[problem])
    if columns.id is None:
        problem = "the rows of a Ray Dataset have no numbers to make ids from: name the column of ids with id="
        raise InvalidArguments(call=call, problems=[problem])
    schema = dataset.schema()
    types = {} if schema is None else {n: type_name(t) for n, t in zip(schema.names, schema.types, strict=True)}
    source = SourceFile(path=DATASET, kind="ray", n_rows=0 if schema is None else 1, columns=types)
    columns = content_found([source], columns, call)
    encoders = takers(encoders, columns, table, named=named)
    return columns, encoders, check_sources([source], columns, encoders, table, call)


def _blocks(dataset: Any, plan: EmbedPlan) -> Iterator[Block]:
    rows = dataset.select_columns(plan.columns)
    for batch in rows.iter_batches(batch_size=batch_rows(plan), batch_format="pyarrow"):
        yield from batch_blocks(batch)
