"""A whole run, in whatever process it is: the base opened, the data read, pre-trained where that is asked for, and trained.

Content is read here, in the process that trains, and goes no further than its tokens and pictures in memory.
Cost: opening the base (3 to 6 s), reading and tokenising the data once in every worker, and the training.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystore.encoders.model import Options
from raystore.encoders.passport import digest_of
from raystore.encoders.source import Source
from raystore.fine_tune.batches import make_sampler
from raystore.fine_tune.examples.read import read_pool, read_sides
from raystore.fine_tune.examples.reader import ItemReader
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Examples, Sides
from raystore.fine_tune.loop.checkpoints import Checkpoints, InMemory
from raystore.fine_tune.loop.evaluate import embed_all
from raystore.fine_tune.loop.group import Alone, Group, together
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.points import Report, Trained, nobody
from raystore.fine_tune.loop.schedule import Schedule
from raystore.fine_tune.loop.train import train
from raystore.fine_tune.recipe import Recipe
from raystore.layout import FP12, Layout, read_json
from raystore.secret import load_store_key

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.model.trainable import Trainable


@dataclass(frozen=True)
class Work:
    """What is to be trained. Small and picklable: it names a base and files, it holds no content.

    root: of the store, whose key the data's digest is made under; name: of the run; base, options: as
    `encoders.records.open_source` gives them.
    """

    root: str
    name: str
    base: Source
    options: Options
    data: DataSpec
    recipe: Recipe

    @cached_property
    def digest(self) -> str:
        """64 hex digits: equal for work that gives the same weights."""
        about = {
            "base": [self.base.model, self.base.revision, str(self.base.folder)],
            "options": self.options.model_dump(mode="json"),
            "data": self.data.record(),
            "recipe": self.recipe.model_dump(mode="json"),
        }
        return digest_of(about)

    @property
    def folder(self) -> Path:
        """Where its checkpoints stand until it is published. Of two names each has its own: its model is published by its name."""
        return Layout(Path(self.root)).tmp / "fine_tune" / f"{self.name}-{self.digest[:FP12]}"


@dataclass(frozen=True)
class Opened:
    """A base in memory and the examples it can read."""

    model: Trainable
    sides: Sides
    reader: ItemReader


def open_work(work: Work, *, device: str | None = None, sides: Sides | None = None) -> Opened:
    """The base and the data; `sides` where they were read before.

    Raises:
        ModelUnusable, InvalidArguments, ExtraNotInstalled: as `open_trainable`. JobFailed: a file cannot be read or changed.
    """
    from raystore.fine_tune.model.trainable import open_trainable

    model = open_trainable(work.base, work.options, work.recipe, device=device)
    reader = ItemReader(model.passport, model.tokenizer_json, work.recipe.max_tokens, work.recipe.augment)
    return Opened(model, sides or read_sides(work.data, reader, key=_key(work)), reader)


def run_training(
    work: Work,
    group: Group | None = None,
    checkpoints: Checkpoints | None = None,
    report: Report = nobody,
    *,
    device: str | None = None,
    opened: Opened | None = None,
) -> Trained:
    """What the run came to; its weights are `checkpoints.done()`, and in the model of `opened`.

    A run that is done is read, one that was begun goes on. The same with every worker.

    Raises:
        As `open_work` and `loop.train.train`.
    """
    began = time.monotonic()
    group, checkpoints = group or Alone(), checkpoints or InMemory()
    if (done := checkpoints.done()) is not None:
        if opened is not None:
            opened.model.load_state(done[1])
        return done[0]
    ready = opened or together(group, lambda: open_work(work, device=device))
    recipe, sides = work.recipe, ready.sides
    about = about_data(sides)
    together(group, lambda: checkpoints.note(about))
    teacher = _teacher(work, ready, group) if recipe.distill else None
    start = time.monotonic()
    before = _pretrained(work, ready, group, checkpoints.phase("pretrain"), report) if _pretrains(work) else None
    now = time.monotonic()
    budget = recipe.budget_minutes * 60 if recipe.budget_minutes else None
    trained = train(
        ready.model,
        sides.train,
        sides.val,
        recipe,
        group=group,
        checkpoints=checkpoints,
        report=report,
        teacher=teacher,
        budget_s=budget,
        spent_s=now - began,
        earlier_s=max(0.0, before.seconds - (now - start)) if before else 0.0,
    )
    trained = replace(trained, data=about, pretrained=before)
    together(group, lambda: checkpoints.finish(trained, ready.model.state()))
    return trained


def load_trained(work: Work, weights: Mapping[str, Tensor], *, device: str | None = None) -> Trainable:
    """The base with the weights of a run that is done."""
    from raystore.fine_tune.model.trainable import open_trainable

    model = open_trainable(work.base, work.options, work.recipe, device=device)
    model.load_state(weights)
    model.module.eval()
    return model


def about_data(sides: Sides) -> dict[str, Any]:
    """Counts, digests and a few ids of what was read; nothing of its content."""
    leaks = sides.leaks
    return {
        "digest": sides.digest,
        "rows": {"train": len(sides.train), "val": len(sides.val), "test": len(sides.test)},
        "classes": len(sides.train.classes),
        "leaks": leaks.to_dict(),
        "leaks_said": str(leaks) if leaks.removed or leaks.two_labels else "",
        "set_aside": dict(Counter(reason for _, _, _, reason in sides.set_aside)),
        "ids_by_reason": sides.ids_by_reason,
    }


def _key(work: Work) -> bytes:
    layout = Layout(Path(work.root))
    return load_store_key(layout, read_json(layout.store_file)["key_id"])


def _pretrains(work: Work) -> bool:
    return work.recipe.pretrain_steps > 0 and bool(work.data.pool)


def pretraining(recipe: Recipe) -> Recipe:
    """The recipe of the phase before the labels: every row twice, as two views, among strangers.

    Source: SimCSE (Gao et al. 2021, arXiv 2104.08821), section 3; of pictures two crops (Chen et al. 2020, arXiv 2002.05709).
    """
    return recipe.model_copy(
        update={
            "losses": {"supcon": 1.0},
            "views": 2,
            "per_class": 1,
            "classes_per_batch": max(2, recipe.batch_rows // 2),
            "steps": recipe.pretrain_steps,
            "learning_rate": recipe.pretrain_learning_rate,
            "hard_classes": 0.0,
            "distill": 0.0,
            "noisy_labels": "off",
        }
    )


def _pretrained(work: Work, ready: Opened, group: Group, checkpoints: Checkpoints, report: Report) -> Trained:
    """The model trained on the pool; from then on the model is that."""
    if (done := checkpoints.done()) is not None:
        ready.model.load_state(done[1])
        return done[0]
    recipe = pretraining(work.recipe)
    pool = together(group, lambda: read_pool(work.data, ready.reader))
    trained = train(
        ready.model,
        pool,
        None,
        recipe,
        group=group,
        checkpoints=checkpoints,
        report=report,
        phase="pretrain",
        budget_s=_budget(work, ready.sides.train),
    )
    about = {"rows": len(pool), "removed": pool.removed, "ids_by_reason": pool.ids_by_reason}
    trained = replace(trained, data={**about, "set_aside": dict(Counter(reason for *_, reason in pool.set_aside))})
    together(group, lambda: checkpoints.finish(trained, ready.model.state()))
    return trained


def _budget(work: Work, data: Examples) -> float | None:
    """The pre-training's part of the minutes: as its steps are of all."""
    recipe = work.recipe
    if recipe.budget_minutes is None:
        return None
    sampler = make_sampler(data.labels, recipe, parents=data.parents, n_views=len(data.views))
    steps = Schedule.of(recipe, sampler.steps_per_epoch).steps
    return recipe.budget_minutes * 60 * recipe.pretrain_steps / (recipe.pretrain_steps + steps)


def _teacher(work: Work, ready: Opened, group: Group) -> Sequence[Tensor]:
    """For each view the (n, t) rows of train in the base as it is, whole where the student has fewer layers."""
    import torch

    from raystore.fine_tune.model.trainable import open_trainable

    model = ready.model
    if work.recipe.layers is not None:
        whole = work.recipe.model_copy(update={"layers": None, "mode": "full", "gradient_checkpointing": False})
        model = open_trainable(work.base, work.options, whole, device=str(model.device))
    micro = Micro.of(work.recipe)
    return [torch.from_numpy(embed_all(model, view, micro, group)) for view in ready.sides.train.views]
