"""A trial of an embedding job: a sample of its rows goes the whole way into a scratch table, which is thrown away.

The sample is read, checked, encoded and committed by the job's own Embedder, so its pace holds the commits too. The
scratch table stands in the store's `tmp/`, on the disk the job would write to, and is gone when the trial ends; the
collection is not touched. Nothing here knows Ray: the pace is that of one process on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from raystore.data.collection import CollectionTable
from raystore.data.embed import Embedder
from raystore.data.ingest import check_sources, content_found, left_to_do, new_columns, plan_of, takers
from raystore.data.job import EmbedCounts, EmbedPlan, JobEncoder
from raystore.data.manifest import SourceColumns
from raystore.data.readers import SOURCES, Block, Reference, find_files, read
from raystore.data.readers import plan as plan_files
from raystore.encoders.registry import Encoder
from raystore.encoders.together import load_together
from raystore.errors import AlreadyExists
from raystore.layout import Layout, check_name, staging
from raystore.markup import facts_html

SAMPLE_ROWS = 256
_FIRST_ROWS = 16  # tell how large a sample takes _SECONDS, and pay for what only the first batch pays
_SECONDS = 4.0
_READ_ROWS = 8
_SLICES = 8  # of the job, evenly spread, that the sample is taken from
_SAMPLE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class DryRun:
    """What a job would be. `reasons` counts why rows of the sample would be set aside; nothing was written."""

    collection: str
    files: int
    rows: int  # left to embed
    known: int  # embedded already
    sampled: int
    set_aside: int  # of the sample
    reasons: dict[str, int] = field(default_factory=dict)
    rows_per_s: float = 0.0
    seconds_left: float = 0.0
    vector_bytes: int = 0
    device: str = ""

    def _repr_html_(self) -> str:
        return facts_html(f"A trial: {self.rows:,} rows to embed into {self.collection}", asdict(self), str(self))

    def __str__(self) -> str:
        known = f", {self.known:,} known already" if self.known else ""
        says = f"{self.collection}: {self.rows:,} rows to embed{known}"
        if not self.sampled:
            return f"{says}; nothing was tried"
        aside = f" ({self.set_aside} would be set aside)" if self.set_aside else ""
        return (
            f"{says}; {self.sampled} tried{aside} at {self.rows_per_s:,.0f} rows/s in one process, {self.device}: "
            f"{_duration(self.seconds_left)} to go, {_size(self.vector_bytes)} of vectors; nothing was written"
        )


def dry_run_files(
    table: CollectionTable,
    encoders: Sequence[Encoder],
    store_key: bytes,
    paths: str | Path | Sequence[str | Path],
    columns: SourceColumns,
    *,
    named: bool = True,
    id_prefix: str = "",
    check: bool = False,
) -> DryRun:
    """What `embed_files` would do, from a sample of the rows that are left; writes nothing."""
    call = f"embed into '{table.name}'"
    sources, references = plan_files(find_files(paths, call, SOURCES), 1, call)
    columns = content_found(sources, columns, call)
    encoders = takers(encoders, columns, table, named=named)
    kept_types = check_sources(sources, columns, encoders, table, call)
    new_columns(table, kept_types)
    plan = plan_of(table, encoders, columns, kept_types, id_prefix=id_prefix, check=check)
    todo, known = left_to_do(references, plan, table)
    rows = sum(r.n_rows for r in todo)
    sample = sample_rows(todo, plan)
    loaded = load_together(encoders)
    return dry_run(table, plan, loaded, store_key, sample, files=len(sources), rows=rows, known=known)


def dry_run_new(
    layout: Layout,
    name: str,
    encoders: Sequence[Encoder],
    store_key: bytes,
    paths: str | Path | Sequence[str | Path],
    columns: SourceColumns,
    *,
    named: bool = True,
    id_prefix: str = "",
    check: bool = False,
) -> DryRun:
    """As `dry_run_files`, for a collection that is not there yet and is not made.

    Raises:
        InvalidName, AlreadyExists: as the making of the collection would.
    """
    check_name("a collection", name)
    if layout.table(name).exists():
        raise AlreadyExists(noun="table", name=name, advice="Collections and tables share one SQL namespace.")
    with staging(layout.tmp) as stage:
        table = CollectionTable.create(Layout(stage), name, {encoder.fingerprint: encoder.dim for encoder in encoders})
        return dry_run_files(table, encoders, store_key, paths, columns, named=named, id_prefix=id_prefix, check=check)


def dry_run(
    table: CollectionTable,
    plan: EmbedPlan,
    encoders: Mapping[str, JobEncoder],
    store_key: bytes,
    sample: Block,
    *,
    files: int,
    rows: int,
    known: int = 0,
) -> DryRun:
    """The trial of a job that has `rows` rows left, on some of them. Cost: a few seconds, the sample's reading apart.

    Raises:
        JobFailed: as the job itself would.
    """
    found = DryRun(table.name, files, rows, known, 0, 0)
    if sample.n_rows == 0:
        return found
    first = min(_FIRST_ROWS, sample.n_rows)
    with staging(table.layout.tmp) as stage:
        scratch = _scratch(Layout(stage), table, plan)
        embedder = Embedder(scratch.layout, replace(plan, start_version=scratch.version), encoders, store_key)
        counts, pace = _embedded(embedder, _part(sample, 0, first))
        # The first batch pays for what is made once: where there are more rows, they tell the pace.
        last = min(sample.n_rows, first + max(_FIRST_ROWS, int(pace * _SECONDS)))
        if last > first:
            more, pace = _embedded(embedder, _part(sample, first, last))
            counts.add(more)
    return replace(
        found,
        sampled=counts.read,
        set_aside=counts.set_aside,
        reasons=dict(sorted(counts.reasons.items())),
        rows_per_s=pace,
        seconds_left=rows / pace,
        vector_bytes=sum(rows * table.dim(fingerprint) * 4 for fingerprint in plan.fingerprints),
        device=" and ".join(dict.fromkeys(f"{encoder.backend} on {encoder.device}" for encoder in encoders.values())),
    )


def sample_rows(references: Sequence[Reference], plan: EmbedPlan) -> Block:
    """Up to SAMPLE_ROWS rows from the beginnings of slices all over the job, as one block numbered from 0."""
    chosen = references[:: max(1, -(-len(references) // _SLICES))]
    parts: list[Block] = []
    for reference in chosen:
        parts += _beginning(reference, plan, SAMPLE_ROWS // len(chosen), _SAMPLE_BYTES // len(chosen))
    sample = Block(0, {name: [] for name in plan.columns}, 0)
    for part in parts:
        for name, values in sample.columns.items():
            values += part.columns[name]
        sample.unreadable |= {sample.n_rows + number - part.first_row: reason for number, reason in part.unreadable.items()}
        sample.n_rows += part.n_rows
    return sample


def _beginning(reference: Reference, plan: EmbedPlan, n_rows: int, n_bytes: int) -> list[Block]:
    blocks: list[Block] = []
    for block in read(reference, plan.columns, min(n_rows, _READ_ROWS)):
        blocks.append(block)
        n_rows -= block.n_rows
        n_bytes -= sum(len(value) for value in block.columns[plan.content] if isinstance(value, (str, bytes)))
        if n_rows <= 0 or n_bytes <= 0:
            break
    return blocks


def _part(block: Block, start: int, stop: int) -> Block:
    unreadable = {number: reason for number, reason in block.unreadable.items() if start <= number < stop}
    return Block(start, {name: values[start:stop] for name, values in block.columns.items()}, stop - start, unreadable)


def _embedded(embedder: Embedder, block: Block) -> tuple[EmbedCounts, float]:
    """What became of the rows, and how many went through in a second."""
    began = time.perf_counter()
    counts = embedder.embed_block("the sample", block)
    return counts, block.n_rows / max(time.perf_counter() - began, 1e-6)


def _scratch(layout: Layout, table: CollectionTable, plan: EmbedPlan) -> CollectionTable:
    """An empty collection with the columns that the job's would have."""
    dims = {fingerprint: table.dim(fingerprint) for fingerprint in plan.fingerprints}
    return CollectionTable.create(layout, table.name, dims, table.columns | plan.kept_types)


def _duration(seconds: float) -> str:
    """As "40 s", "25 min", "3.5 h" or "12 days"."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3_600)):
        if seconds < length * (120 if unit != "h" else 48):
            count = seconds / length
            return f"{count:.1f} {unit}" if unit == "h" and count < 10 else f"{count:,.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def _size(n_bytes: int) -> str:
    """As "900 B", "1.5 MB" or "46 GB"."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1_000:
            break
        size, unit = size / 1_000, larger
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:,.0f} {unit}"
