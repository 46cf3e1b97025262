"""The steps of one phase of a training, from wherever its checkpoint stands. Knows no file, no Ray and no base model's kind.

Every worker runs this; what could differ between them (a clock, a rounding) the first one decides. Of chance there is only what
`chance.py` and the sampler draw from (seed, step), so a run that was killed ends with the weights it would have had.
Cost: the steps; some ten looks at val; a checkpoint at each look and every five minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raystore.fine_tune.batches import Sampler, make_sampler
from raystore.fine_tune.loop.chance import Chance
from raystore.fine_tune.loop.checkpoints import Checkpoints, InMemory
from raystore.fine_tune.loop.classes import without_unseen
from raystore.fine_tune.loop.evaluate import Look, look
from raystore.fine_tune.loop.group import Alone, Group, together
from raystore.fine_tune.loop.learns import Learns
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.mining import class_means, confused
from raystore.fine_tune.loop.noisy import Losses, suspects
from raystore.fine_tune.loop.optimiser import Optimiser
from raystore.fine_tune.loop.points import Phase, Point, Report, Told, Trained, nobody
from raystore.fine_tune.loop.resume import restore, saved
from raystore.fine_tune.loop.schedule import Schedule
from raystore.fine_tune.loop.step import take_step, trivial_loss, whole
from raystore.fine_tune.loop.watch import Watch, spread
from raystore.fine_tune.losses import Objective, make_objective
from raystore.fine_tune.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.examples.types import Examples

Floats = npt.NDArray[np.float32]

CHECKPOINT_S = 300.0  # at most between two
_POINTS = 200  # of a run, about
_RANKED_EVERY = 10  # steps, after the first ones
_TRUST_AFTER = 0.3  # of the steps, before labels are doubted


def train(
    model: Learns,
    data: Examples,
    val: Examples | None,
    recipe: Recipe,
    *,
    group: Group | None = None,
    checkpoints: Checkpoints | None = None,
    report: Report = nobody,
    teacher: Sequence[Tensor] | None = None,
    phase: Phase = "train",
    budget_s: float | None = None,
    spent_s: float = 0.0,
    earlier_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """What the training came to; `model` then has its best weights.

    Args:
        data, val: what is learned from, and what is looked at to stop in time and to choose the best weights. Without val
            (None, or no row) all steps are taken and the last weights are kept.
        group: the workers; everything else is the same with each of them.
        checkpoints: where to go on from, and where to; None keeps them in memory.
        report: hears every point, with each worker.
        teacher: for each view (n, t) rows of `data`'s items, for distillation.
        budget_s: seconds of this phase, those that went by before it included.
        spent_s: of those, seconds of this process.
        earlier_s: and of processes before it; a checkpoint to go on from has its own.

    Raises:
        TrainingCollapsed, TrainingDiverged: the last good checkpoint is kept.
        DiskFull: at a checkpoint or in `report`; what was saved before is kept.
        JobFailed: a single row does not fit into memory, or AdamW's state.
    """
    data, val = without_unseen(data, val)
    n_classes = max(len(data.classes), int(data.labels.max(initial=0)) + 1)
    run = Run(
        model=model,
        data=data,
        val=val if val is not None and len(val) else None,
        recipe=recipe,
        group=group or Alone(),
        checkpoints=checkpoints or InMemory(),
        report=report,
        objective=make_objective(recipe, n_classes, model.passport.dim).to(model.device),
        sampler=make_sampler(data.labels, recipe, parents=data.parents, n_views=len(data.views)),
        teacher=teacher,
        phase=phase,
        budget_s=budget_s,
        spent_s=spent_s,
        earlier_s=earlier_s,
        clock=clock,
    )
    return run.go()


@dataclass
class Run:
    """One phase under way. `resume.py` puts it down and takes it up."""

    model: Learns
    data: Examples
    val: Examples | None
    recipe: Recipe
    group: Group
    checkpoints: Checkpoints
    report: Report
    objective: Objective
    sampler: Sampler
    teacher: Sequence[Tensor] | None
    phase: Phase
    budget_s: float | None
    spent_s: float
    earlier_s: float
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.schedule = Schedule.of(recipe, self.sampler.steps_per_epoch, budget_s=self.budget_s)
        self.optimiser = Optimiser(self.model, self.objective, recipe, half=self.model.precision == "fp16")
        self.micro = Micro.of(recipe)
        self.watch = Watch(recipe.learning_rate)
        self.losses = Losses.of(len(self.data))
        self.weights: Floats | None = None
        self.step, self.seen, self.points = 0, 0, list[Point]()
        self.began = self.checkpoint_at = self.clock()
        self.look_s, self.worse = 0.0, 0
        self.kept = self.best_step = 0
        self.first_accuracy: float | None = None
        self.best: Look | None = None
        self.best_state = self.model.state()

    @property
    def seconds(self) -> float:
        return self.earlier_s + self.spent_s + self.clock() - self.began

    @property
    def _doubts(self) -> bool:
        return self.phase == "train" and self.recipe.noisy_labels != "off"

    def go(self) -> Trained:
        if found := self.checkpoints.last():
            restore(self, found)
        self.model.module.train()
        if self.step == 0:
            self._begin()
        ended = self._steps()
        if self.best is None:
            self.best_step, self.best_state = self.step, self.model.state()
        self.model.load_state(self.best_state)
        self.model.module.eval()
        return Trained(
            steps=self.step,
            best_step=self.best_step,
            seconds=self.seconds,
            ended=ended,
            rows=self.seen,
            first_accuracy=self.first_accuracy,
            best_accuracy=self.best.accuracy if self.best else None,
            points=tuple(self.points),
            suspects=suspects(self.losses, self.data) if self._doubts else (),
            workers=self.group.world,
            micro={"tokens": self.micro.tokens, "images": self.micro.images},
            notes=(*self.sampler.notes, *self.micro.notes(self.recipe)),
        )

    def _steps(self) -> str:
        """Every step there is to take; why there are no more."""
        while True:
            # Asked of one that was taken up too: it may have been killed after its last look.
            if self.worse >= self.recipe.patience:
                return f"val was no better in {self.recipe.patience} looks"
            progress, due = self.group.first([self._progress(), self.clock() - self.checkpoint_at])
            if progress >= 1:
                by_time = self.budget_s is not None and self.step < self.schedule.steps
                return "the minutes were over" if by_time else "all steps were taken"
            if due > CHECKPOINT_S and self.watch.is_well and self.step > self.kept:
                self._save()
            self.model.stage(progress)
            self._mine()
            value = self._one(progress)
            after = self.group.first([self._progress()])[0]
            looks = self.val is not None and self.schedule.looks_at_val(self.step, progress, after)
            if looks:
                self._look(progress, value)
            elif self.step % max(1, self.schedule.steps // _POINTS) == 0:
                self.report(self._point(progress, value))
            if self.val is None and self.schedule.looks_at_val(self.step, progress, after) and self.watch.is_well:
                self._save()

    def _progress(self) -> float:
        return self.schedule.progress(self.step, self.seconds, self.look_s)

    def _begin(self) -> None:
        """Before the first step: class vectors, and how the base does on val."""
        if any(True for _ in self.objective.parameters()):
            self.objective.start(class_means(self.model, self.data, self.recipe, self.micro, self.group))
        if self.val is not None:
            self._look(0.0, None)

    def _one(self, progress: float) -> Told:
        """One step: gradient, what is watched, and the weights."""
        batch = self.sampler.batch(self.step)
        chance = Chance(self.recipe.seed, self.step, self.group.rank, int(self.phase == "pretrain"))
        found = take_step(
            self.model,
            self.objective,
            self.data,
            batch,
            self.micro,
            chance,
            group=self.group,
            augmented=bool(self.recipe.augment),
            teacher=self.teacher,
            weights=self.weights,
            scale=self.optimiser.scale,
        )
        self.step += 1
        ranked = self.step <= _RANKED_EVERY or self.step % _RANKED_EVERY == 0
        around = spread(found.rows, ranked=ranked)
        trivial = trivial_loss(self.model, self.objective, whole(batch, self.group.world), self.teacher)
        rate = self.schedule.rate(progress)

        def learn() -> None:
            self.watch.look(self.step, found.loss, around, trivial, found.labels, self._stays)
            may_skip = self.optimiser.may_skip
            if not self.optimiser.step(rate) and not may_skip:
                raise self.watch.gradient_is_not_finite(self.step, self._stays)

        together(self.group, learn)
        self.losses.add(batch.rows[: len(found.each)], found.each)
        self.seen += len(found.rows)
        return Told(found.loss, rate * self.recipe.learning_rate, around.variance, around.rank)

    @property
    def _stays(self) -> int:
        """The step that the same call would go on from if this one were stopped now; 0 where that is its beginning."""
        return self.kept if self.checkpoints.stay else 0

    def _save(self) -> None:
        """A checkpoint of now; those who wait for the disk wait together."""
        together(self.group, lambda: self.checkpoints.save(saved(self)))
        self.kept, self.checkpoint_at = self.step, self.clock()

    def _look(self, progress: float, told: Told | None) -> None:
        """Look at val, keep the best weights, write a checkpoint."""
        assert self.val is not None
        before = self.clock()
        how = {"rows": self.recipe.evaluate_rows, "seed": self.recipe.seed}
        seen = look(self.model, self.data, self.val, micro=self.micro, group=self.group, **how)
        seen = Look(*self.group.first(seen))
        # Few rows of val are soon all right: then it is their neighbours that say which weights are better.
        better = self.best is None or seen[:2] > self.best[:2]
        # The watch saw the weights as they were before the last step, which may have been the one that ruined them.
        well = self.watch.is_well and not (self.step and self.watch.is_one_point(seen.variance))
        if better and well:
            self.best, self.best_step, self.worse = seen, self.step, 0
            self.best_state = self.model.state()
        else:
            self.worse += 1
        if self.step == 0:
            self.first_accuracy = seen.accuracy
        elif self.recipe.noisy_labels == "down-weight" and progress >= _TRUST_AFTER:
            self.weights = self.losses.weights()
        self.look_s = max(self.look_s, self.clock() - before)
        point = self._point(progress, told, seen)
        if self.step and well:
            self._save()
            if self.best_step == self.step:
                together(self.group, lambda: self.checkpoints.save_best(self.step, self.best_state))
        self.report(point)

    def _point(self, progress: float, told: Told | None, seen: Look | None = None) -> Point:
        point = Point(
            step=self.step,
            steps=self.schedule.steps_by(self.step, self._progress()) if progress else self.schedule.steps,
            phase=self.phase,
            seconds=self.seconds,
            rows=self.seen,
            loss=told.loss if told else None,
            learning_rate=told.learning_rate if told else None,
            variance=told.variance if told else None,
            rank=told.rank if told else None,
            val_accuracy=seen.accuracy if seen else None,
            val_precision=seen.precision if seen else None,
        )
        self.points.append(point)
        return point

    def _mine(self) -> None:
        """Tell the sampler which classes the model confuses as it is."""
        every = self.recipe.mine_every
        if self.recipe.hard_classes and (self.step == 0 or (every and self.step % every == 0)):
            found = confused(self.model, self.data, self.recipe, self.micro, self.group)
            if found is not None:
                self.sampler.confuse(found, self.step)
