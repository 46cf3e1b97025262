"""Vectors of one more encoder for the rows a collection holds already, from their kept content or their files.

A collection that keeps its content has that of every row it was given one for, by whatever way it came; there nothing else
is asked. Otherwise the files stand in the records of earlier jobs (`manifest.py`): each row that lacks a vector
of this encoder is read again and filled, if its content is what was embedded before. Rows that came by `log`, or whose
files are gone, then stay as they are; the report counts them. Run it again after a kill: it goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from raystore.data.collection import CollectionTable
from raystore.data.ingest import check_sources, job_record, plan_of, run_slices
from raystore.data.job import EmbedCounts
from raystore.data.kept_rows import KEPT, SOURCE, plan_kept
from raystore.data.manifest import JobRecord, RunningJob, SourceColumns, read_jobs
from raystore.data.pool_size import Workers, check_pool
from raystore.data.readers import Reference, SourceFile
from raystore.data.readers import plan as plan_files
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.layout import Layout
from raystore.markup import facts_html
from raystore.progress import Progress


@dataclass(frozen=True)
class FillReport:
    """What became of the rows that lacked a vector of this encoder.

    `filled` of `lacking` got one and `left` have none; `reasons` counts why rows of the files were set aside. `gone`
    are files that cannot be read any more, and `other` those whose content this encoder does not take. With `kept` the
    collection's own kept content was read, and no file.
    """

    collection: str
    encoder: str
    fingerprint: str
    lacking: int
    filled: int
    left: int
    set_aside: int
    reasons: dict[str, int]
    files: int
    gone: list[str]
    other: list[str]
    seconds: float
    workers: int
    kept: bool = False

    def _repr_html_(self) -> str:
        title = f"{self.filled:,} rows of {self.collection} got a vector of {self.encoder}"
        return facts_html(title, {**asdict(self), "rows_per_s": self.rows_per_s})

    @property
    def rows_per_s(self) -> float:
        return self.filled / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        why = "nothing is kept of them that it takes" if self.kept else "no file holds them as they were embedded"
        left = f"; {self.left:,} have none: {why}" if self.left else ""
        gone = f"; {len(self.gone):,} of the files are gone" if self.gone else ""
        other = f"; {len(self.other):,} of the files hold what this encoder does not take" if self.other else ""
        return (
            f"{self.collection}: {self.filled:,} of {self.lacking:,} rows got a vector of {self.encoder}{left}{gone}{other}; "
            f"{self.seconds:.1f} s, {self.rows_per_s:,.0f} rows/s"
        )


@dataclass(frozen=True)
class _Part:
    """What one run of slices reads, and how."""

    columns: SourceColumns
    id_prefix: str
    sources: list[SourceFile]
    references: list[Reference]
    from_kept: bool = False


@dataclass
class _Totals:
    counts: EmbedCounts = field(default_factory=EmbedCounts)
    files: int = 0
    gone: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    workers: int = 0


def add_encoder(
    layout: Layout,
    table: CollectionTable,
    encoder: Encoder,
    store_key: bytes,
    *,
    workers: Workers = None,
    gpu_workers: Workers = None,
    gpus_per_worker: float = 1.0,
    progress: Progress | None = None,
) -> FillReport:
    """Give the collection a vector column for the encoder and fill it; the public face is `Collection.add_encoder`."""
    call = f"add_encoder to '{table.name}'"
    asked = check_pool(workers, gpu_workers, gpus_per_worker, call)
    kept = table.keeps_source
    jobs = [] if kept else read_jobs(layout, table.name)
    began = time.monotonic()
    write_both(table, encoder)
    table.rows.take_in()  # from here on rows are written with its vectors
    lacking = table.count_lacking(encoder.fingerprint)
    totals = _Totals()
    slices_for = asked.slices_for
    parts = _kept(table, encoder, slices_for) if kept else _files(jobs, table, encoder, slices_for, totals, call)
    for part in parts if lacking else ():
        types = _kept_types(table, part.columns)
        prefix = part.id_prefix
        plan = plan_of(table, [encoder], part.columns, types, id_prefix=prefix, fill_only=True, from_kept=part.from_kept)
        with RunningJob(layout, table.name, job_record("fill", [encoder], part.columns, prefix, part.sources)) as job:
            pool = run_slices(layout, table, plan, [encoder], store_key, part.references, asked, job.counts, progress)
            job.workers = pool.most
        totals.counts.add(job.counts)
        totals.workers = max(totals.workers, pool.most)
    return FillReport(
        collection=table.name,
        encoder=encoder.label,
        fingerprint=encoder.fingerprint,
        lacking=lacking,
        filled=totals.counts.filled,
        left=table.count_lacking(encoder.fingerprint),
        set_aside=totals.counts.set_aside,
        reasons=dict(sorted(totals.counts.reasons.items())),
        files=totals.files,
        gone=totals.gone,
        other=totals.other,
        seconds=time.monotonic() - began,
        workers=totals.workers,
        kept=kept,
    )


def write_both(table: CollectionTable, encoder: Encoder) -> bool:
    """Whether the collection got a column for the encoder, which every row that is logged or embedded from now on fills; False
    where it has one.

    Its model is loaded first: where it cannot be, nothing has changed, and no later log is refused for it.

    Raises:
        ModelUnusable, GoldenMoved.
    """
    if encoder.fingerprint in table.fingerprints:
        return False
    encoder.load()
    return table.add_encoder(encoder.fingerprint, encoder.dim)


def _kept(table: CollectionTable, encoder: Encoder, workers: int) -> Iterator[_Part]:
    """The rows that lack a vector, once for each kind of content that the encoder takes."""
    for modality in encoder.passport.modalities:
        columns = SourceColumns(id="id", text="text") if modality == "text" else SourceColumns(id="id", image="image")
        references = plan_kept(table, encoder.fingerprint, workers)  # anew: the kind before may have filled some
        if references:
            source = SourceFile(SOURCE, KEPT, sum(reference.n_rows for reference in references), {})
            yield _Part(columns, "", [source], references, from_kept=True)


def _files(
    jobs: list[JobRecord], table: CollectionTable, encoder: Encoder, workers: int, totals: _Totals, call: str
) -> Iterator[_Part]:
    """The files of earlier jobs that the encoder takes; the others are told to `totals`."""
    for (columns, id_prefix), paths in sources_of(jobs).items():
        if columns.modality not in encoder.passport.modalities:
            totals.other += paths
            continue
        sources, references, gone = _plan_again(paths, columns, encoder, table, workers, call)
        totals.gone += gone
        totals.files += len(paths) - len(gone)
        if sources:
            yield _Part(columns, id_prefix, sources, references)


def sources_of(jobs: list[JobRecord]) -> dict[tuple[SourceColumns, str], list[str]]:
    """(columns, id prefix) -> the files that were embedded with them, each once, in the order of the jobs."""
    found: dict[tuple[SourceColumns, str], dict[str, None]] = {}
    for job in jobs:
        if job.kind == "embed":
            found.setdefault((job.columns, job.id_prefix), {}).update(dict.fromkeys(file.path for file in job.files))
    return {key: list(files) for key, files in found.items()}


def _kept_types(table: CollectionTable, columns: SourceColumns) -> dict[str, str]:
    declared = table.columns
    return {column: declared[column] for column in columns.keep}


def _plan_again(
    paths: list[str], columns: SourceColumns, encoder: Encoder, table: CollectionTable, workers: int, call: str
) -> tuple[list[SourceFile], list[Reference], list[str]]:
    """What the files hold now and their slices, and those that cannot be read any more or lost a column.

    Each is asked alone, so that one hides no other.
    """
    sources: list[SourceFile] = []
    references: list[Reference] = []
    gone: list[str] = []
    for path in paths:
        try:
            found, slices = plan_files([path], workers, call)
            check_sources(found, columns, [encoder], table, call)
        except InvalidArguments:
            gone.append(path)
        else:
            sources += found
            references += slices
    return sources, references, gone
