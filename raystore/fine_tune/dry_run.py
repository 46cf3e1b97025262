"""What a fine-tuning would take, from a few of its real steps: memory, steps, time. Writes nothing; the weights are thrown away.

Cost: opening the base, reading the data, five steps and one look at val.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from raystore.fine_tune.batches import make_sampler
from raystore.fine_tune.loop.points import Point
from raystore.fine_tune.loop.schedule import LOOKS, Schedule
from raystore.fine_tune.loop.train import train
from raystore.fine_tune.loop.work import Opened, Work, about_data, open_work
from raystore.markup import facts_html

STEPS = 5
_SAMPLE_S = 0.01


@dataclass(frozen=True)
class DryRun:
    """The figures of a run that was not taken to its end. Seconds are of one worker on this machine."""

    rows: dict[str, int]
    steps: int  # of the whole run
    batch_rows: int
    step_s: float  # the median step
    look_s: float  # one look at val
    opening_s: float  # the base and the data
    memory_bytes: int  # what training added at most: activations, gradients, AdamW's moments (see `_kept_bytes`)
    device: str
    precision: str
    budget_s: float | None = None
    set_aside: int = 0
    leaks: int = 0
    pretrain_steps: int = 0
    evaluate_every: int | None = None  # steps between looks at val; None: ten in all
    distils: bool = False
    notes: tuple[str, ...] = ()  # as `Trained.notes`

    @property
    def seconds(self) -> float:
        """Of training on the labels; at most the budget. The proof comes after it, pre-training before it."""
        looks = LOOKS if self.evaluate_every is None else math.ceil(self.steps / self.evaluate_every)
        whole = self.opening_s + self.steps * self.step_s + (looks + 1) * self.look_s
        return whole if self.budget_s is None else min(whole, self.budget_s)

    @property
    def fitting_steps(self) -> int:
        """How many of the steps fit into the budget."""
        if self.budget_s is None:
            return self.steps
        looks, step_s = LOOKS + 1, self.step_s
        if self.evaluate_every is not None:
            looks, step_s = 1, self.step_s + self.look_s / self.evaluate_every
        left = self.budget_s - self.opening_s - looks * self.look_s
        return max(0, min(self.steps, int(left / max(step_s, 1e-9))))

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "steps": self.steps,
            "fitting_steps": self.fitting_steps,
            "batch_rows": self.batch_rows,
            "step_s": self.step_s,
            "look_s": self.look_s,
            "opening_s": self.opening_s,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "device": self.device,
            "precision": self.precision,
            "set_aside": self.set_aside,
            "leaks": self.leaks,
            "pretrain_steps": self.pretrain_steps,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join(f"{name + ':':<9} {words}" for name, words in self._facts().items())

    def _repr_html_(self) -> str:
        return facts_html("A fine-tuning, from five of its steps", self._facts())

    def _facts(self) -> dict[str, str]:
        rows = self.rows
        steps = f"{self.steps:,}, of {self.batch_rows:,} rows each"
        if self.fitting_steps < self.steps:
            steps += f"; {self.fitting_steps:,} of them fit into {(self.budget_s or 0) / 60:,.0f} minutes"
        before = f"{self.pretrain_steps:,} steps of pre-training, " if self.pretrain_steps else ""
        before += f"the teacher's vectors of {rows['train']:,} rows, " if self.distils else ""
        facts = {
            "data": f"{rows['train']:,} rows to train on, {rows['val']:,} to watch it, {rows['test']:,} to prove it; "
            f"{self.set_aside:,} set aside, {self.leaks:,} removed as leaks",
            "steps": steps,
            "time": f"{_minutes(self.seconds)}: {self.step_s:.2f} s a step, {self.look_s:.1f} s a look at val, "
            f"{self.opening_s:.1f} s to open base and data; not counted: {before}the proof by {rows['test']:,} rows",
            "memory": f"{self.memory_bytes / 2**20:,.0f} MiB more than the base itself, in {self.precision} on {self.device}",
        }
        return facts | ({"note": "; ".join(self.notes)} if self.notes else {})


def dry_run(work: Work, *, device: str | None = None, steps: int = STEPS) -> DryRun:
    """Take `steps` real steps of the work, and say what all of it would take.

    Raises:
        As `run_training`.
    """
    began = time.perf_counter()
    opened = open_work(work, device=device)
    return measured(work, opened, time.perf_counter() - began, steps)


def measured(work: Work, opened: Opened, opening_s: float, steps: int = STEPS) -> DryRun:
    """The same with base and data opened before; `opening_s` is what that took."""
    recipe, data = work.recipe, opened.sides.train
    sampler = make_sampler(data.labels, recipe, parents=data.parents, n_views=len(data.views))
    planned = Schedule.of(recipe, sampler.steps_per_epoch).steps
    taken = recipe.model_copy(update={"steps": steps, "evaluate_every": steps, "budget_minutes": None, "patience": 10**6})
    points: list[tuple[float, Point]] = []
    first = time.perf_counter()
    with _growth(opened.model.device) as memory:
        trained = train(
            opened.model, data, opened.sides.val, taken, report=lambda point: points.append((time.perf_counter(), point))
        )
    moments = [moment for moment, _ in points]
    looked = bool(len(opened.sides.val))
    # With val there is a point before the first step; the last step's point comes after a look.
    starts = moments if looked else [first, *moments]
    paces = [after - before for before, after in pairwise(starts)]
    plain = paces[:-1] or paces
    step_s = statistics.median(plain)
    about = about_data(opened.sides)
    return DryRun(
        rows=about["rows"],
        steps=planned,
        batch_rows=sampler.batch_rows,
        step_s=step_s,
        look_s=moments[0] - first if looked else 0.0,
        opening_s=opening_s,
        memory_bytes=max(memory[0], _kept_bytes(opened)),
        device=str(opened.model.device),
        precision=opened.model.precision,
        budget_s=recipe.budget_minutes * 60 if recipe.budget_minutes else None,
        set_aside=sum(about["set_aside"].values()),
        leaks=opened.sides.leaks.removed,
        pretrain_steps=recipe.pretrain_steps,
        evaluate_every=recipe.evaluate_every,
        distils=recipe.distill > 0,
        notes=trained.notes,
    )


@contextmanager
def _growth(device: Any) -> Iterator[list[int]]:
    """[bytes] by which the memory in use grew at most while the block ran: of the GPU, else of this process."""
    import torch

    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    over, before = threading.Event(), _resident()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            found[0] = max(found[0], _resident() - before)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield found
    finally:
        over.set()
        sampler.join()
        found[0] = max(found[0], _resident() - before)


def _kept_bytes(opened: Opened) -> int:
    """Bytes of gradients and AdamW's two moments, the least that training adds: a process that freed as much before grows by less."""
    return 3 * sum(p.numel() * p.element_size() for p in opened.model.learning_parameters().values())


def _resident() -> int:
    """Bytes of memory this process holds now; where the system does not say, the most it ever held."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:,.0f} minutes" if seconds >= 120 else f"about {seconds:,.0f} s"
