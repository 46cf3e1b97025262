"""RAY: the workers of an embedding job: how many of which kind, and how work reaches them.

A pool has workers without a GPU, workers with one (or a part of one), or both side by side; each kind may grow and
shrink. Every worker opens the store by its root, passes the encoder's golden check before its first row, then reads,
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
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.embed import EmbedCounts, Embedder, EmbedPlan, batch_rows
from raystore.data.readers import Block, Reference
from raystore.encoders.registry import open_encoder
from raystore.errors import InvalidArguments, ItemNotFound
from raystore.session import INLINE_BELOW, no_core_files, root_cause, start_ray, thread_count

Progress = Callable[[int, int], None]  # rows done, rows in all
Range = tuple[int, int]  # least, most
Workers = int | Sequence[int] | None
DATASET = "a Ray Dataset"  # what stands as the source of its rows


@dataclass(frozen=True)
class Pool:
    """(least, most) workers of each kind; a pool without any is inline, which is work in the calling process."""

    cpu: Range = (0, 0)
    gpu: Range = (0, 0)
    gpus_per_worker: float = 1.0

    @property
    def most(self) -> int:
        return self.cpu[1] + self.gpu[1]

    def __str__(self) -> str:
        kinds = [
            f"{least if least == most else f'{least} to {most}'} {noun}{'s' if most > 1 else ''}"
            for (least, most), noun in ((self.cpu, "Ray worker"), (self.gpu, "GPU worker"))
            if most
        ]
        return " and ".join(kinds) or "inline"


@dataclass(frozen=True)
class AskedPool:
    """What the caller asked for, None where nothing was said: then it is decided by the rows and by what Ray has."""

    workers: Range | None = None
    gpu_workers: Range | None = None
    gpus_per_worker: float = 1.0

    @property
    def slices_for(self) -> int:
        """For how many workers files are cut. Two kinds get smaller slices: a slow worker's last one holds up the end."""
        cpu, gpu = (most for _, most in (self.workers or (0, 0), self.gpu_workers or (0, 0)))
        return max(1, (cpu + gpu) * (4 if cpu and gpu else 1))

    def is_inline(self, n_rows: int) -> bool:
        if self.gpu_workers is not None and self.gpu_workers[1]:
            return False
        return n_rows < INLINE_BELOW.embed_rows if self.workers is None else self.workers[1] == 0

    def on(self, resources: Mapping[str, float], n_slices: int, call: str) -> Pool:
        """The pool on a Ray with these resources, no larger than there are slices.

        Raises:
            InvalidArguments: GPU workers were asked for, and this Ray has too few GPUs for the least of them.
        """
        gpus, share = resources.get("GPU", 0.0), self.gpus_per_worker
        room = int(gpus) * int(1 / share + 1e-9)  # a worker's part lies on one GPU
        gpu = self.gpu_workers
        if gpu is None:
            gpu = (room, room) if self.workers is None else (0, 0)
        if gpu[0] > room:
            problem = (
                f"gpu_workers={gpu[0]} with gpus_per_worker={share:g} needs {gpu[0] * share:g} GPUs, this Ray has {gpus:g}: "
                "ask for fewer, or leave gpu_workers out"
            )
            raise InvalidArguments(call=call, problems=[problem])
        gpu = (max(1, gpu[0]), gpu[1]) if room and gpu[1] else (0, 0)
        cores = max(1, os.cpu_count() or 1)
        cpu = self.workers or (0, 0)
        if cpu[1] + gpu[1] == 0:  # nobody said, or GPU workers "if there are any", of which there are none
            cpu = (cores, cores)
        return Pool(_at_most(cpu, n_slices), _at_most(gpu, n_slices), share)


def _at_most(size: Range, n: int) -> Range:
    return min(size[0], n), min(size[1], n)


def check_pool(workers: Workers, gpu_workers: Workers, gpus_per_worker: float, call: str) -> AskedPool:
    """What was asked for, in one form. Raises InvalidArguments with every problem."""
    problems: list[str] = []
    asked = AskedPool(
        _range("workers", workers, 1, "expected 0 (inline) or more", problems),
        _range("gpu_workers", gpu_workers, 0, "expected 0 or more", problems),
        gpus_per_worker,
    )
    if not 0 < gpus_per_worker <= 1:
        problems.append(f"gpus_per_worker is {gpus_per_worker:g}, expected more than 0 and at most 1")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return asked


def _range(name: str, given: Workers, least: int, expected: str, problems: list[str]) -> Range | None:
    if given is None:
        return None
    if isinstance(given, int):
        if given < 0:
            problems.append(f"{name} is {given}, {expected}")
        return given, given
    ends = list(given)
    if len(ends) == 2 and all(isinstance(end, int) for end in ends) and least <= ends[0] <= ends[1] and ends[1] > 0:
        return ends[0], ends[1]
    problems.append(f"{name} is {tuple(ends)}, expected (least, most) with {least} <= least <= most and most >= 1")
    return None


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
    ray = start_ray()
    pool = asked.on(ray.cluster_resources(), len(references), f"embed into '{table.name}'")
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
    return _collect(results, table, progress), pool


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
    ray = start_ray()
    call = f"embed into '{table.name}'"
    pool = asked.on(ray.cluster_resources(), sys.maxsize, call)
    if pool.cpu[1] and pool.gpu[1]:
        problem = "a Ray Dataset goes to workers of one kind: give workers= or gpu_workers=, not both"
        raise InvalidArguments(call=call, problems=[problem])
    rows = dataset.select_columns(plan.columns)
    on_gpu = bool(pool.gpu[1])
    batches = _mapped(rows, _BlockWorker, table, plan, pool, on_gpu, batch_size=batch_rows(plan), batch_format="pyarrow")
    return _collect(batches, table, progress), pool


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


def _collect(results: Any, table: CollectionTable, progress: Callable[[int], None] | None) -> EmbedCounts:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the table's own count is the truth, and is shown instead
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints a failed worker's whole traceback
    counts = EmbedCounts()
    try:
        with _CountWatch(table, progress):
            for row in results.iter_rows():
                counts.add(EmbedCounts(**json.loads(row["counts"])))
    except (ray.exceptions.RayError, ItemNotFound, ValueError, RuntimeError) as error:
        advice = "What is committed is safe: run the same call again, it goes on where it stopped."
        raise root_cause(error, f"embedding into '{table.name}'", advice) from None
    return counts


class _CountWatch:
    """Tells progress by the rows the collection gained, once a second, while a job runs elsewhere."""

    def __init__(self, table: CollectionTable, progress: Callable[[int], None] | None) -> None:
        self._table = table
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
            self._progress(self._table.count() - before)


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
    """One Ray Data actor. It holds an encoder that passed the golden check and an Embedder of the job's plan."""

    def __init__(self, root: str, plan: EmbedPlan, threads: int, on_gpu: bool, dispenser: Any) -> None:
        from raystore.catalog import open_root
        from raystore.secret import load_store_key

        no_core_files()
        self._node = os.getppid()
        self._dispenser = dispenser
        if not on_gpu:  # Ray shows the GPUs to whoever asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        layout, about = open_root(root, create=False)
        encoder = open_encoder(layout, plan.fingerprint, threads=threads, backend="torch" if on_gpu else None)
        self._embedder = Embedder(layout, plan, encoder, load_store_key(layout, about["key_id"]))

    def _end_if_orphaned(self, _: EmbedCounts) -> None:
        """Ask after each batch whether the node that started this worker still runs.

        It ends with a killed driver at once, its workers 5 s later; they would do the next run's batches beside it.
        """
        if os.getppid() != self._node:
            os._exit(1)


class _SliceWorker(_Worker):
    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        line = str(batch["slice"][0])
        if self._dispenser is not None:
            import ray

            line = ray.get(self._dispenser.take.remote(str(batch["turn"][0])))
        if not line:
            return _said(EmbedCounts())
        return _said(self._embedder.embed(Reference(**json.loads(line)), self._end_if_orphaned))


class _BlockWorker(_Worker):
    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        return _said(self._embedder.embed_block(DATASET, as_block(batch), self._end_if_orphaned))


def _said(counts: EmbedCounts) -> dict[str, list[str]]:
    return {"counts": [json.dumps(dataclasses.asdict(counts))]}


def as_block(batch: pa.Table) -> Block:
    """The batch as a reader would have read it; rows are numbered within it."""
    return Block(0, {name: batch.column(name).to_pylist() for name in batch.column_names}, len(batch))
