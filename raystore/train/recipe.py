"""How a head's arrays are fitted, wherever it runs: kinds, tasks, the choice of l2 and of seeds. Pure; knows no Ray, no file.

`fit_arrays` is the one function that trains, inline or as one of several workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.errors import InvalidArguments
from raystore.progress import Progress
from raystore.train.heads import Kind, logits
from raystore.train.linear import Reduce, alone, fit_linear
from raystore.train.losses import loss_sums
from raystore.train.mlp import fit_mlp
from raystore.train.ridge import fit_ridge
from raystore.train.source import Examples, Targets, Task, VectorSource
from raystore.vectors import Matrix

L2 = 10.0  # scikit-learn's C; what a linear head has where nothing is chosen
MAX_ITER = 500
MAX_EPOCHS = 60


@dataclass(frozen=True)
class Recipe:
    """Everything a worker needs to fit its share; picklable, and small where the source is."""

    kind: Kind
    n_classes: int
    source: VectorSource
    task: Task = "classes"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    class_weights: tuple[float, ...] | None = None

    @property
    def n_outputs(self) -> int:
        return 1 if self.task == "number" else self.n_classes


def make_recipe(
    kind: Kind, classes: Sequence[str], source: VectorSource, task: Task, seed: int, options: Mapping[str, Any]
) -> Recipe:
    """The recipe of checked arguments. `class_weight` becomes a weight a class, of the whole train split."""
    chosen = dict(options)
    asked = chosen.pop("class_weight", None)
    weights: tuple[float, ...] | None = None
    if isinstance(asked, Mapping):
        weights = tuple(float(asked.get(label, 1.0)) for label in classes)
    elif asked is not None:
        weights = tuple(_balanced(source.labels("train"), len(classes)).tolist())
    return Recipe(kind, len(classes), source, task, seed, chosen, weights)


class Fitted(NamedTuple):
    """A head's arrays, and what was found out on the way, JSON-ready: the l2 or seed that was taken, and all that were tried."""

    arrays: dict[str, Matrix]
    found: dict[str, Any]


def fit_arrays(
    recipe: Recipe,
    train: Examples,
    val: Examples,
    *,
    rank: int = 0,
    reduce: Reduce | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """The head's arrays, fitted on this worker's rows and, through `reduce`, on those of all others.

    Class weights count in what is minimised and in what chooses on val, not in calibration and reports.

    Raises:
        InvalidArguments: all weights are 0.
    """
    total = reduce or alone
    options = dict(recipe.options)
    if recipe.class_weights is not None:
        by_class = np.asarray(recipe.class_weights, dtype=np.float32)
        train, val = (e._replace(weights=e.weights * by_class[e.labels]) for e in (train, val))
    if recipe.kind == "knn":
        return Fitted({}, {})
    if not float(total(np.array([train.weights.sum(dtype=np.float64)]))[0]) > 0:
        raise InvalidArguments(call="train_head", problems=["the rows of train all weigh 0"])
    if recipe.kind == "mlp":
        return _fit_mlps(recipe, options, train, val, rank, reduce, progress)
    return _fit_linears(recipe, options, train, val, reduce, progress)


def _fit_linears(
    recipe: Recipe,
    options: dict[str, Any],
    train: Examples,
    val: Examples,
    reduce: Reduce | None,
    progress: Progress | None,
) -> Fitted:
    """A fit for each l2, the strongest penalty first, each from where the last one ended; the best on val is taken."""
    asked = options.pop("l2", L2)
    path = sorted(asked) if isinstance(asked, (list, tuple)) else [asked]
    max_iter = options.pop("max_iter", MAX_ITER)
    count = _Counter(progress, max_iter * len(path))
    if recipe.task == "number":
        ridges = fit_ridge(train.vectors, train.labels, path, weights=train.weights, reduce=reduce)
    loss = options.pop("loss", "ovr" if recipe.task == "labels" else "multinomial")
    start: tuple[Matrix, Matrix] | None = None
    tried: list[tuple[float, dict[str, Matrix]]] = []
    for i, l2 in enumerate(path):
        if recipe.task == "number":
            W, b = ridges[i]
        else:
            W, b = fit_linear(
                train.vectors,
                train.labels,
                recipe.n_classes,
                weights=train.weights,
                loss=loss,
                l2=l2,
                max_iter=max_iter,
                start=start,
                reduce=reduce,
                on_step=count.step,
                **options,
            )
            start = W, b
        count.up_to(max_iter * (i + 1))
        arrays = {"W": W, "b": b}
        tried.append((val_loss(recipe, arrays, val, reduce) if len(path) > 1 else 0.0, arrays))
    best = min(range(len(path)), key=lambda i: tried[i][0])
    if len(path) == 1:
        return Fitted(tried[0][1], {})
    losses = [[l2, loss] for l2, (loss, _) in zip(path, tried, strict=True)]
    return Fitted(tried[best][1], {"l2": path[best], "l2_tried": losses})


def _fit_mlps(
    recipe: Recipe,
    options: dict[str, Any],
    train: Examples,
    val: Examples,
    rank: int,
    reduce: Reduce | None,
    progress: Progress | None,
) -> Fitted:
    """A fit for each seed; the best on val is taken."""
    seeds = options.pop("seeds", 1)
    tried = list(range(recipe.seed, recipe.seed + seeds)) if isinstance(seeds, int) else list(seeds)
    max_epochs = options.pop("max_epochs", MAX_EPOCHS)
    count = _Counter(progress, max_epochs * len(tried))
    fits = []
    for i, seed in enumerate(tried):
        fits.append(
            fit_mlp(
                train,
                val,
                recipe.n_outputs,
                task=recipe.task,
                seed=seed,
                max_epochs=max_epochs,
                rank=rank,
                reduce=reduce,
                on_epoch=count.step,
                **options,
            )
        )
        count.up_to(max_epochs * (i + 1))
    losses = [loss for _, loss in fits]
    best = min(range(len(fits)), key=losses.__getitem__) if len(fits) > 1 else 0
    found: dict[str, Any] = {}
    if len(fits) > 1:
        pairs = [[seed, loss] for seed, loss in zip(tried, losses, strict=True)]
        found = {"seed": tried[best], "seeds_tried": pairs, "val_loss_spread": float(np.std(losses))}
    return Fitted(fits[best][0]._asdict(), found)


def val_loss(recipe: Recipe, arrays: Mapping[str, Matrix], val: Examples, reduce: Reduce | None = None) -> float:
    """The mean loss over all workers' validation rows, before temperature; see `losses.loss_sums`."""
    found = logits(recipe.kind, arrays, val.vectors)
    summed, mass = (reduce or alone)(loss_sums(recipe.task, found, val.labels, val.weights)).tolist()
    return float(summed / mass) if mass > 0 else 0.0


def _balanced(labels: Targets, n_classes: int) -> npt.NDArray[np.float64]:
    """(c,) weights with which every class of train weighs the same: rows / (classes present * rows of the class)."""
    counts = np.bincount(labels, minlength=n_classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, counts.sum() / (present * np.maximum(counts, 1)), 1.0)


class _Counter:
    """Steps done, told to whoever wants to know."""

    def __init__(self, progress: Progress | None, most: int) -> None:
        self._progress, self._most, self._done = progress, most, -1
        self.up_to(0)

    def step(self) -> None:
        self.up_to(min(self._done + 1, self._most))

    def up_to(self, done: int) -> None:
        if done > self._done:
            self._done = done
            if self._progress is not None:
                self._progress(done, self._most)
