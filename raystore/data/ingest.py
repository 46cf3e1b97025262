"""RAY: the embedding job. References go to workers over Ray Data; counts come back.

Each worker holds the encoder, reads, encodes and commits by itself (`embed.Embedder`), so no row, vector or text
passes through the object store, and a job killed anywhere is resumed by running it again: what is committed is
skipped by its id. Inline (`workers=0`) the same Embedder runs in this process.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raystore.data.collection import TYPES, CollectionTable, check_columns
from raystore.data.embed import EmbedCounts, Embedder, EmbedPlan, is_done
from raystore.data.readers import Reference, SourceFile, find_files
from raystore.data.readers import plan as plan_files
from raystore.encoders.registry import Encoder, open_encoder
from raystore.errors import InvalidArguments, ItemNotFound
from raystore.layout import Layout
from raystore.session import INLINE_BELOW, choose_workers, no_core_files, root_cause, start_ray, thread_count

Progress = Callable[[int, int], None]
# Looking up which slices are done costs 20 us a row here; on a larger job the workers look, in parallel.
_LOOK_FIRST_ROWS = 200_000


@dataclass(frozen=True)
class EmbedReport:
    """What a job did: `added` + `known` + `set_aside` = `read`; `reasons` counts why rows were set aside."""

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

    @property
    def rows_per_s(self) -> float:
        return self.added / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        aside = f", {self.set_aside:,} set aside" if self.set_aside else ""
        how = "inline" if self.workers == 0 else f"{self.workers} Ray workers"
        return (
            f"{self.collection}: {self.added:,} rows embedded, {self.known:,} known already{aside}; "
            f"{self.seconds:.1f} s, {self.rows_per_s:,.0f} rows/s, {how}"
        )


@dataclass(frozen=True)
class SourceColumns:
    """Which columns of the source files hold what."""

    text: str
    id: str | None = None
    subject: str | None = None
    tenant: str | None = None
    time: str | None = None
    keep: Sequence[str] = ()


def embed_files(
    layout: Layout,
    table: CollectionTable,
    encoder: Encoder,
    store_key: bytes,
    paths: str | Path | Sequence[str | Path],
    columns: SourceColumns,
    *,
    id_prefix: str = "",
    check: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> EmbedReport:
    """Embed the rows of the files into the collection; the public face is `Collection.embed`."""
    call = f"embed into '{table.name}'"
    table.check_encoder(encoder.fingerprint, encoder.label)
    files = find_files(paths, call)
    if workers is not None and workers < 0:
        raise InvalidArguments(call=call, problems=[f"workers is {workers}, expected 0 (inline) or more"])
    sources, references = plan_files(files, workers or 1, call)
    kept_types = _check_sources(sources, columns, table, call)
    _add_columns(table, kept_types)
    plan = EmbedPlan(
        collection=table.name,
        fingerprint=encoder.fingerprint,
        text=columns.text,
        id=columns.id,
        subject=columns.subject,
        tenant=columns.tenant,
        time=columns.time,
        kept_types=kept_types,
        id_prefix=id_prefix,
        check=check,
        start_version=table.version,
    )
    began = time.monotonic()
    counts = EmbedCounts()
    total = sum(r.n_rows for r in references)
    todo = references
    if total <= _LOOK_FIRST_ROWS:
        todo = [r for r in references if not is_done(r, plan, table.rows)]
        counts.read = counts.known = total - sum(r.n_rows for r in todo)
    if progress:
        progress(counts.read, total)
    remaining = sum(r.n_rows for r in todo)
    chosen = 0 if not todo else choose_workers(workers, remaining, INLINE_BELOW.embed_rows, call)
    if not todo:
        pass
    elif chosen == 0:
        _inline(layout, plan, encoder, store_key, todo, counts, total, progress)
    else:
        _on_ray(layout, plan, todo, chosen, counts, total, progress, table)
    return EmbedReport(
        collection=table.name,
        fingerprint=encoder.fingerprint,
        files=len(files),
        read=counts.read,
        added=counts.added,
        known=counts.known,
        set_aside=counts.set_aside,
        reasons=dict(sorted(counts.reasons.items())),
        seconds=time.monotonic() - began,
        workers=chosen,
    )


def _check_sources(
    sources: Sequence[SourceFile], columns: SourceColumns, table: CollectionTable, call: str
) -> dict[str, str]:
    """The kept columns and their types; every missing or unusable column of every file is named together."""
    problems = []
    declared = table.columns
    kept: dict[str, str] = {}
    named = {
        "text": columns.text,
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
        if id_type is not None and id_type not in ("string", "int64") and source.kind == "parquet":
            problems.append(f"'{source.path}': column '{columns.id}' (id=) is {id_type}, expected strings or integers")
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
    if columns.text in columns.keep:
        problems.append(f"column '{columns.text}' is the text; it is embedded and never kept (keep=)")
    if problems:
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems)))
    return kept


def _add_columns(table: CollectionTable, kept_types: dict[str, str]) -> None:
    new = {name: kind for name, kind in kept_types.items() if name not in table.columns}
    if new:
        checked = check_columns(new, f"embed into '{table.name}'", table.columns)
        table.rows.add_columns([pa.field(n, t) for n, t in checked.items()])


def _inline(
    layout: Layout,
    plan: EmbedPlan,
    encoder: Encoder,
    store_key: bytes,
    todo: Sequence[Reference],
    counts: EmbedCounts,
    total: int,
    progress: Progress | None,
) -> None:
    embedder = Embedder(layout, plan, encoder.load(), store_key)

    def advance(part: EmbedCounts) -> None:
        counts.add(part)
        if progress:
            progress(counts.read, total)

    for reference in todo:
        embedder.embed(reference, advance)


class _Worker:
    """One Ray Data actor: opens the store by its root, checks the golden vectors, then embeds reference by reference."""

    def __init__(self, root: str, plan: EmbedPlan, threads: int) -> None:
        from raystore.catalog import open_root
        from raystore.secret import load_store_key

        no_core_files()
        self._node = os.getppid()
        layout, about = open_root(root, create=False)
        encoder = open_encoder(layout, plan.fingerprint, threads=threads)
        self._embedder = Embedder(layout, plan, encoder, load_store_key(layout, about["key_id"]))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        counts = EmbedCounts()
        for reference in batch["reference"]:
            counts.add(self._embedder.embed(Reference(**json.loads(str(reference))), self._end_if_orphaned))
        return {"counts": [json.dumps(dataclasses.asdict(counts))]}

    def _end_if_orphaned(self, _: EmbedCounts) -> None:
        """Ask after each batch whether the node that started this worker still runs.

        It ends with a killed driver at once, its workers 5 s later; they would do the next run's batches beside it.
        """
        if os.getppid() != self._node:
            os._exit(1)


def _on_ray(
    layout: Layout,
    plan: EmbedPlan,
    todo: Sequence[Reference],
    workers: int,
    counts: EmbedCounts,
    total: int,
    progress: Progress | None,
    table: CollectionTable,
) -> None:
    start_ray()
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the table's own count is the truth, and is shown instead
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints a failed worker's whole traceback
    items = [{"reference": json.dumps(dataclasses.asdict(r))} for r in todo]
    watch = _CountWatch(table, counts.read, total, progress)
    try:
        with watch:
            results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _Worker,
                fn_constructor_kwargs={"root": str(layout.root), "plan": plan, "threads": thread_count(workers)},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
                num_cpus=1,
            )
            for row in results.iter_rows():
                counts.add(EmbedCounts(**json.loads(row["counts"])))
    except (ray.exceptions.RayError, ItemNotFound, ValueError, RuntimeError) as error:
        advice = "What is committed is safe: run the same call again, it goes on where it stopped."
        raise root_cause(error, f"embedding into '{table.name}'", advice) from None
    if progress:
        progress(counts.read, total)


class _CountWatch:
    """Tells progress by the rows the collection gained, once a second, while a job runs elsewhere."""

    def __init__(self, table: CollectionTable, done: int, total: int, progress: Progress | None) -> None:
        self._table = table
        self._done = done
        self._total = total
        self._progress = progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="raystore-progress")

    def __enter__(self) -> None:
        if self._progress:
            self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        assert self._progress is not None
        before = self._table.count()
        while not self._stop.wait(1.0):
            self._progress(min(self._done + self._table.count() - before, self._total), self._total)
