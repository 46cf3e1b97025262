"""RAY: the workers of an embedding job, and how work reaches them.

A pool has workers without a GPU, workers with one (or a part of one), or both side by side; each kind may grow and
shrink. Every worker opens the store by its root, passes the encoders' golden checks before its first row, then reads,
encodes and commits by itself (`embed.Embedder`). Through Ray pass references and counts; rows only where the
caller's own Ray Dataset is embedded, whose blocks lie there already.

With one kind of worker Ray Data hands each the next slice. With two, the faster must be able to take what the slower
would have got: each kind has a queue of turns, as many as there are slices, and a turn asks one small actor for the next
slice. A turn that Ray repeats after a worker's death is given its slice again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

from raystore.catalog import open_root
from raystore.data.collection import CollectionTable
from raystore.data.embed import Embedder
from raystore.data.job import EmbedCounts, EmbedPlan, batch_rows
from raystore.data.pool_size import AskedPool, Pool
from raystore.data.readers import BATCH_BYTES, Block, Reference
from raystore.data.readers.columns import blocks_of
from raystore.encoders.together import open_together
from raystore.errors import InvalidArguments, ItemNotFound, RaystoreError
from raystore.secret import load_store_key
from raystore.session import no_core_files, root_cause, start_ray, thread_count

DATASET = "a Ray Dataset"  # what stands as the source of its rows


def is_ray_dataset(value: object) -> bool:
    """Whether this is a ray.data.Dataset; asks without importing ray."""
    data = sys.modules.get("ray.data")
    return data is not None and isinstance(value, data.Dataset)


# --- in the driver ------------------------------------------------------------------------------------------------------


def embed_references(
    table: CollectionTable,
    plan: EmbedPlan,
    references: Sequence[Reference],
    asked: AskedPool,
    progress: Callable[[int], None] | None,
) -> tuple[EmbedCounts, Pool]:
    """What Ray workers made of the slices, and the pool they were. `progress` is told the rows gained, once a second.

    Raises:
        InvalidArguments: the pool cannot be on this Ray; nothing was started.
        RaystoreError: what a worker raised (GoldenMoved, DiskFull...), or JobFailed; what is committed is safe.
    """
    ray = start_ray("ray.data")
    call = f"embed into '{table.name}'"
    pool = asked.on(ray.cluster_resources(), len(references), call)
    asked.say(pool, sum(reference.n_rows for reference in references), call)
    slices = [json.dumps(dataclasses.asdict(reference)) for reference in references]
    if pool.cpu[1] and pool.gpu[1]:
        # Without a CPU of its own: on a small machine the workers have them all.
        dispenser = ray.remote(_Dispenser).options(num_cpus=0).remote(slices)
        queues = [[{"slice": "", "turn": f"{kind} {n}"} for n in range(len(slices))] for kind in ("cpu", "gpu")]
    else:
        dispenser = None
        queues = [[{"slice": line, "turn": ""} for line in slices]]
    kinds = [on_gpu for on_gpu, size in ((False, pool.cpu), (True, pool.gpu)) if size[1]]
    parts = [
        _mapped(_from_items(items), _SliceWorker, table, plan, pool, on_gpu, batch_size=1, dispenser=dispenser)
        for on_gpu, items in zip(kinds, queues, strict=True)
    ]
    results = parts[0] if len(parts) == 1 else parts[0].union(*parts[1:])
    return _collect(results, table, plan, progress, len(slices)), pool


def embed_dataset(
    table: CollectionTable,
    plan: EmbedPlan,
    dataset: Any,
    asked: AskedPool,
    progress: Callable[[int], None] | None,
) -> tuple[EmbedCounts, Pool]:
    """As `embed_references`, for the rows of a Ray Dataset, which reach the workers as blocks of plan.columns.

    Raises:
        InvalidArguments: both kinds of workers; a Dataset has one way through.
    """
    ray = start_ray("ray.data")
    call = f"embed into '{table.name}'"
    pool = asked.on(ray.cluster_resources(), sys.maxsize, call)
    if pool.cpu[1] and pool.gpu[1]:
        problem = "a Ray Dataset goes to workers of one kind: give workers= or gpu_workers=, not both"
        raise InvalidArguments(call=call, problems=[problem])
    rows = dataset.select_columns(plan.columns)
    on_gpu = bool(pool.gpu[1])
    batches = _mapped(rows, _BlockWorker, table, plan, pool, on_gpu, batch_size=batch_rows(plan), batch_format="pyarrow")
    return _collect(batches, table, plan, progress, None), pool


def _from_items(items: list[dict[str, str]]) -> Any:
    import ray.data

    return ray.data.from_items(items, override_num_blocks=len(items))


def _mapped(
    rows: Any,
    worker: type[_Worker],
    table: CollectionTable,
    plan: EmbedPlan,
    pool: Pool,
    on_gpu: bool,
    dispenser: Any = None,
    **batches: Any,
) -> Any:
    """The rows through a pool of actors of one kind."""
    import ray.data

    least, most = pool.gpu if on_gpu else pool.cpu
    about = {
        "root": str(table.layout.root),
        "plan": plan,
        "threads": thread_count(pool.most),
        "on_gpu": on_gpu,
        "dispenser": dispenser,
    }
    return rows.map_batches(
        worker,
        fn_constructor_kwargs=about,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        # A GPU worker asks for no CPU: beside others that have them all it would wait for ever.
        **({"num_cpus": 0, "num_gpus": pool.gpus_per_worker} if on_gpu else {"num_cpus": 1}),
        **batches,
    )


def _collect(
    results: Any, table: CollectionTable, plan: EmbedPlan, progress: Callable[[int], None] | None, n_slices: int | None
) -> EmbedCounts:
    """The sum of what the workers did. It ends with the last slice, though turns be left of a kind that never got a place."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the table's own count is the truth, and is shown instead
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints a failed worker's whole traceback
    counts, ended = EmbedCounts(), 0
    try:
        with _CountWatch(table, plan, progress):
            # Without prefetching: it holds each result back until there is another.
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in batch.to_pylist():
                    if row["error"]:
                        raise pickle.loads(row["error"])  # noqa: S301  made by our own workers, a moment ago
                    counts.add(EmbedCounts(**json.loads(row["counts"])))
                    ended += row["slices"]
                if ended == n_slices:
                    break
    except (ray.exceptions.RayError, ItemNotFound, ValueError, RuntimeError) as error:
        advice = "What is committed is safe: run the same call again, it goes on where it stopped."
        raise root_cause(error, f"embedding into '{table.name}'", advice) from None
    return counts


class _CountWatch:
    """Tells progress by the rows that were added or filled, once a second, while a job runs elsewhere."""

    def __init__(self, table: CollectionTable, plan: EmbedPlan, progress: Callable[[int], None] | None) -> None:
        self._table = table
        self._plan = plan
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
        before = self._count()
        while not self._stop.wait(1.0):
            self._progress(self._count() - before)

    def _count(self) -> int:
        filled = self._table.count_filled(self._plan.fingerprints, self._plan.start_version)
        return filled if self._plan.fill_only else filled + self._table.count()


# --- in actors ----------------------------------------------------------------------------------------------------------


class _Dispenser:
    """Hands out slices, each to one turn; the same turn is given the same slice again."""

    def __init__(self, slices: Sequence[str]) -> None:
        self._left = list(reversed(slices))
        self._given: dict[str, str] = {}

    def take(self, turn: str) -> str:
        """The turn's slice, "" when none is left."""
        if turn not in self._given:
            if not self._left:
                return ""
            self._given[turn] = self._left.pop()
        return self._given[turn]


class _Worker:
    """One Ray Data actor. It holds encoders that passed the golden check and an Embedder of the job's plan.

    Its errors go back as results: of an actor that fails while it is made, or raises at its work, the driver learns
    no more than that. What keeps it from an encoder (GoldenMoved...) is said at its first turn, before it takes work.
    """

    def __init__(self, root: str, plan: EmbedPlan, threads: int, on_gpu: bool, dispenser: Any) -> None:
        no_core_files()
        self._node = os.getppid()
        self._dispenser = dispenser
        self._refused: RaystoreError | None = None
        if not on_gpu:  # Ray shows the GPUs to whoever asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        try:
            layout, about = open_root(root, create=False)
            backend = "torch" if on_gpu else None
            encoders = open_together(layout, plan.fingerprints, threads=threads, backend=backend)
            self._embedder = Embedder(layout, plan, encoders, load_store_key(layout, about["key_id"]))
        except RaystoreError as error:
            self._refused = error

    def _said(self, work: Callable[[Embedder], tuple[EmbedCounts, int]]) -> dict[str, list[Any]]:
        """What the work did and how many slices it ended, or the error it met, as the one row of a result."""
        error, counts, slices = self._refused, EmbedCounts(), 0
        if error is None:
            try:
                counts, slices = work(self._embedder)
            except RaystoreError as met:
                error = met
        said = b"" if error is None else pickle.dumps(error)
        return {"counts": [json.dumps(dataclasses.asdict(counts))], "slices": [slices], "error": [said]}

    def _end_if_orphaned(self, _: EmbedCounts) -> None:
        """Ask after each batch whether the node that started this worker still runs.

        It ends with a killed driver at once, its workers 5 s later; they would do the next run's batches beside it.
        """
        if os.getppid() != self._node:
            os._exit(1)


class _SliceWorker(_Worker):
    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        return self._said(lambda embedder: self._embed_slice(embedder, str(batch["slice"][0]), str(batch["turn"][0])))

    def _embed_slice(self, embedder: Embedder, line: str, turn: str) -> tuple[EmbedCounts, int]:
        if self._dispenser is not None:
            import ray

            line = ray.get(self._dispenser.take.remote(turn))
        if not line:
            return EmbedCounts(), 0
        return embedder.embed(Reference(**json.loads(line)), self._end_if_orphaned), 1


class _BlockWorker(_Worker):
    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        return self._said(lambda embedder: self._embed_batch(embedder, batch))

    def _embed_batch(self, embedder: Embedder, batch: pa.Table) -> tuple[EmbedCounts, int]:
        counts = EmbedCounts()
        for block in batch_blocks(batch):
            counts.add(embedder.embed_block(DATASET, block, self._end_if_orphaned))
        return counts, 0


def batch_blocks(batch: pa.Table) -> Iterator[Block]:
    """The rows as a reader would have read them, numbered within the batch."""
    parts = batch.to_batches()
    firsts = accumulate((len(part) for part in parts), initial=0)
    yield from blocks_of(zip(firsts, parts, strict=False), batch.column_names, len(batch), BATCH_BYTES)
