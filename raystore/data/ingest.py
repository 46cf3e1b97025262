"""The embedding job: references go to the workers of `pool.py`, counts come back.

Each worker holds the encoder, reads, encodes and commits by itself (`embed.Embedder`), so no row, vector or text
passes through the object store, and a job killed anywhere is resumed by running it again: what is committed is
skipped by its id. Inline (`workers=0`) the same Embedder runs in this process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.columns import TYPES, check_columns
from raystore.data.embed import Embedder, is_done
from raystore.data.job import EmbedCounts, EmbedPlan
from raystore.data.manifest import JobFile, JobRecord, RunningJob, SourceColumns, now
from raystore.data.pool import embed_references
from raystore.data.pool_size import AskedPool, Pool, Workers, check_pool
from raystore.data.readers import SOURCES, Reference, SourceFile, find_files
from raystore.data.readers import plan as plan_files
from raystore.encoders.registry import Encoder
from raystore.encoders.together import load_together
from raystore.errors import InvalidArguments
from raystore.layout import Layout
from raystore.markup import facts_html
from raystore.progress import Progress

# Looking up which slices are done costs 20 us a row here; on a larger job the workers look, in parallel.
_LOOK_FIRST_ROWS = 200_000


@dataclass(frozen=True)
class EmbedReport:
    """What a job did: `added` + `filled` + `known` + `set_aside` = `read`; `reasons` counts why rows were set aside.

    `filled` rows were in the collection and got the vectors that they lacked. `fingerprints` are the encoders of which each row
    has a vector now, `fingerprint` the first of them.
    """

    collection: str
    fingerprint: str
    files: int
    read: int
    added: int
    known: int
    set_aside: int
    reasons: dict[str, int]
    seconds: float
    workers: int
    gpu_workers: int = 0
    filled: int = 0
    fingerprints: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return facts_html(
            f"{self.added:,} rows embedded into {self.collection}", {**asdict(self), "rows_per_s": self.rows_per_s}
        )

    @property
    def _why(self) -> str:
        """The most frequent reason, and where all of them stand."""
        see = "see collection.set_aside()"
        if not self.reasons:
            return see
        reason = max(self.reasons, key=lambda each: self.reasons[each])
        return f"{'mostly: ' if len(self.reasons) > 1 else ''}{reason}; {see}"

    @property
    def rows_per_s(self) -> float:
        return (self.added + self.filled) / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        aside = f", {self.set_aside:,} set aside ({self._why})" if self.set_aside else ""
        filled = f", {self.filled:,} filled" if self.filled else ""
        each = f" with {len(self.fingerprints)} encoders" if len(self.fingerprints) > 1 else ""
        how = Pool((self.workers, self.workers), (self.gpu_workers, self.gpu_workers))
        return (
            f"{self.collection}: {self.added:,} rows embedded{each}{filled}, {self.known:,} known already{aside}; "
            f"{self.seconds:.1f} s, {self.rows_per_s:,.0f} rows/s, {how}"
        )


def embed_files(
    layout: Layout,
    table: CollectionTable,
    encoders: Sequence[Encoder],
    store_key: bytes,
    paths: str | Path | Sequence[str | Path],
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
    """Embed the rows of the files into the collection; the public face is `Collection.embed`.

    Args:
        encoders: of which each row gets a vector. With `named` one that does not take the content is refused, else left out.
    """
    call = f"embed into '{table.name}'"
    asked = check_pool(workers, gpu_workers, gpus_per_worker, call)
    files = find_files(paths, call, SOURCES)
    sources, references = plan_files(files, asked.slices_for, call)
    columns = content_found(sources, columns, call)
    encoders = takers(encoders, columns, table, named=named)
    kept_types = check_sources(sources, columns, encoders, table, call)
    add_columns(table, kept_types)
    plan = plan_of(table, encoders, columns, kept_types, id_prefix=id_prefix, check=check)
    record = job_record("embed", encoders, columns, id_prefix, sources)
    began = time.monotonic()
    with RunningJob(layout, table.name, record) as job:
        pool = run_slices(layout, table, plan, encoders, store_key, references, asked, job.counts, progress)
        job.workers = pool.most
    return report_of(plan, job.counts, pool, len(files), time.monotonic() - began)


def report_of(plan: EmbedPlan, counts: EmbedCounts, pool: Pool, files: int, seconds: float) -> EmbedReport:
    return EmbedReport(
        collection=plan.collection,
        fingerprint=plan.fingerprints[0],
        files=files,
        read=counts.read,
        added=counts.added,
        known=counts.known,
        set_aside=counts.set_aside,
        reasons=dict(sorted(counts.reasons.items())),
        seconds=seconds,
        workers=pool.cpu[1],
        gpu_workers=pool.gpu[1],
        filled=counts.filled,
        fingerprints=plan.fingerprints,
    )


def plan_of(
    table: CollectionTable,
    encoders: Sequence[Encoder],
    columns: SourceColumns,
    kept_types: dict[str, str],
    *,
    id_prefix: str = "",
    check: bool = False,
    fill_only: bool = False,
    from_kept: bool = False,
) -> EmbedPlan:
    return EmbedPlan(
        collection=table.name,
        fingerprints=tuple(encoder.fingerprint for encoder in encoders),
        content=columns.content,
        modality=columns.modality,
        id=columns.id,
        subject=columns.subject,
        tenant=columns.tenant,
        time=columns.time,
        kept_types=kept_types,
        id_prefix=id_prefix,
        check=check,
        start_version=table.version,
        fill_only=fill_only,
        from_kept=from_kept,
    )


def job_record(
    kind: Literal["embed", "fill"],
    encoders: Sequence[Encoder],
    columns: SourceColumns,
    id_prefix: str,
    sources: Sequence[SourceFile],
) -> JobRecord:
    files = [JobFile(path=s.path, rows=s.n_rows, size_bytes=s.size_bytes, modified=s.modified) for s in sources]
    return JobRecord(
        kind=kind,
        started=now(),
        encoder=", ".join(encoder.label for encoder in encoders),
        fingerprint=encoders[0].fingerprint,
        fingerprints=tuple(encoder.fingerprint for encoder in encoders),
        columns=columns,
        id_prefix=id_prefix,
        files=tuple(files),
    )


def run_slices(
    layout: Layout,
    table: CollectionTable,
    plan: EmbedPlan,
    encoders: Sequence[Encoder],
    store_key: bytes,
    references: Sequence[Reference],
    asked: AskedPool,
    counts: EmbedCounts,
    progress: Progress | None,
) -> Pool:
    """The pool that embedded the slices: inline or on Ray. What became of their rows is added to `counts`."""
    total = sum(r.n_rows for r in references)
    todo, counts.known = left_to_do(references, plan, table)
    counts.read = counts.known
    if progress:
        progress(counts.read, total)
    pool = Pool()
    remaining = sum(r.n_rows for r in todo)
    if todo and asked.is_inline(remaining):
        asked.say(pool, remaining, f"embed into '{table.name}'")
        _inline(layout, plan, encoders, store_key, todo, counts, total, progress)
    elif todo:
        known = counts.read
        gained = (lambda rows: progress(min(known + rows, total), total)) if progress else None
        more, pool = embed_references(table, plan, todo, asked, gained)
        counts.add(more)
        if progress:
            progress(counts.read, total)
    return pool


def left_to_do(references: Sequence[Reference], plan: EmbedPlan, table: CollectionTable) -> tuple[Sequence[Reference], int]:
    """The slices with rows to embed, and how many rows the others hold. On large jobs the workers look themselves."""
    total = sum(r.n_rows for r in references)
    if total > _LOOK_FIRST_ROWS:
        return references, 0
    todo = [r for r in references if not is_done(r, plan, table.rows)]
    return todo, total - sum(r.n_rows for r in todo)


def content_found(sources: Sequence[SourceFile], columns: SourceColumns, call: str) -> SourceColumns:
    """The columns with the one to embed named. Folders and tars of images need not say: their files are the images.

    Raises:
        InvalidArguments: both text= and image= are given, or neither where the sources hold other things.
    """
    if columns.text and columns.image:
        raise InvalidArguments(call=call, problems=["expected exactly one of text= and image=, found both"])
    are_images = all(s.kind in ("images", "tar") for s in sources)
    if not columns.content and are_images:
        columns = replace(columns, image="image")
    if columns.image == "image" and columns.id is None and are_images:
        # Not file name and row number: another image in the folder would move the rows behind it.
        columns = replace(columns, id="name")
    if columns.content:
        return columns
    raise InvalidArguments(call=call, problems=["which column is to be embedded? Name it with text= or image="])


def takers(
    encoders: Sequence[Encoder], columns: SourceColumns, table: CollectionTable, *, named: bool
) -> Sequence[Encoder]:
    """The encoders of which the rows get a vector: those that were named, or of all those that take the content.

    Where none of all takes it, they are all given back: `check_sources` says so.

    Raises:
        PassportMismatch: the collection holds no vectors of one.
    """
    for encoder in encoders:
        table.check_encoder(encoder.fingerprint, encoder.label)
    if named:
        return encoders
    return [encoder for encoder in encoders if columns.modality in encoder.passport.modalities] or encoders


def check_sources(
    sources: Sequence[SourceFile], columns: SourceColumns, encoders: Sequence[Encoder], table: CollectionTable, call: str
) -> dict[str, str]:
    """The kept columns and their types; every missing or unusable column of every file is named together."""
    problems = _modality_problems(columns, encoders)
    declared = table.columns
    kept: dict[str, str] = {}
    named = {
        "text": columns.text,
        "image": columns.image,
        "id": columns.id,
        "subject": columns.subject,
        "tenant": columns.tenant,
        "time": columns.time,
    }
    for source in sources:
        has = ", ".join(source.columns) or "none"
        for role, column in named.items():
            if column is not None and column not in source.columns and source.n_rows:
                problems.append(f"'{source.path}' has no column '{column}' ({role}=); it has: {has}")
        id_type = source.columns.get(columns.id or "")
        if id_type is not None and id_type not in ("string", "int64") and source.kind not in ("csv", "tsv", "jsonl"):
            problems.append(f"'{source.path}': column '{columns.id}' (id=) is {id_type}, expected strings or integers")
        image_type = source.columns.get(columns.image or "", "binary")
        if image_type != "binary":
            problems.append(
                f"'{source.path}': column '{columns.image}' (image=) is {image_type}, expected the bytes of image files"
            )
        for role in ("subject", "tenant", "time"):
            if source.columns.get(named[role] or "") == "binary":
                problems.append(
                    f"'{source.path}': column '{named[role]}' is binary, which a collection cannot keep ({role}=)"
                )
        for column in columns.keep:
            kind = source.columns.get(column)
            if kind is None:
                problems.append(f"'{source.path}' has no column '{column}' (keep=); it has: {has}")
            elif kind not in TYPES:
                problems.append(f"'{source.path}': column '{column}' is {kind}, which a collection cannot keep")
            else:
                kept[column] = declared.get(column) or kept.get(column) or kind
    if columns.id is None and len({Path(s.path).stem for s in sources}) < len(sources):
        problems.append("two files have the same name, and without id= ids are made from file names and row numbers")
    for role in ("id", "subject", "tenant", "time", "keep"):
        if columns.content in (columns.keep if role == "keep" else (named[role],)):
            problems.append(
                f"column '{columns.content}' is the {columns.modality}; it is embedded and never kept ({role}=)"
            )
    if problems:
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems)))
    return kept


def _modality_problems(columns: SourceColumns, encoders: Sequence[Encoder]) -> list[str]:
    asked = columns.modality
    other = {
        e.label: " or ".join(f"{m}=" for m in e.passport.modalities) for e in encoders if asked not in e.passport.modalities
    }
    return [f"encoder {label} takes no {asked}s ({asked}=): name a column with {named}" for label, named in other.items()]


def new_columns(table: CollectionTable, kept_types: dict[str, str]) -> list[pa.Field]:
    """The kept columns that the collection does not have yet. Raises InvalidArguments for those it cannot have."""
    new = {name: kind for name, kind in kept_types.items() if name not in table.columns}
    checked = check_columns(new, f"embed into '{table.name}'", table.columns)
    return [pa.field(name, kind) for name, kind in checked.items()]


def add_columns(table: CollectionTable, kept_types: dict[str, str]) -> None:
    if new := new_columns(table, kept_types):
        table.rows.add_columns(new)


def _inline(
    layout: Layout,
    plan: EmbedPlan,
    encoders: Sequence[Encoder],
    store_key: bytes,
    todo: Sequence[Reference],
    counts: EmbedCounts,
    total: int,
    progress: Progress | None,
) -> None:
    embedder = Embedder(layout, plan, load_together(encoders), store_key)

    def advance(part: EmbedCounts) -> None:
        counts.add(part)
        if progress:
            progress(counts.read, total)

    for reference in todo:
        embedder.embed(reference, advance)
