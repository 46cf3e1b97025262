"""What training a head consists of, wherever it runs: refuse, fit, calibrate, measure. Pure; knows no Ray, no file.

`fit_arrays` is the part that may run on several workers; the rest runs once, in the calling process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raystore.errors import InvalidArguments
from raystore.train import metrics
from raystore.train.calibration import fit_temperature, softmax
from raystore.train.heads import KINDS, Kind, logits
from raystore.train.linear import Reduce, fit_linear
from raystore.train.mlp import fit_mlp
from raystore.train.report import Baselines, Report, measure
from raystore.train.source import SPLITS, Examples, Labels, VectorSource
from raystore.vectors import Matrix

OPTIONS: dict[Kind, tuple[str, ...]] = {
    "linear": ("l2", "max_iter", "tol"),
    "mlp": ("hidden", "dropout", "learning_rate", "weight_decay", "batch_rows", "max_epochs", "patience"),
}
_MAY_BE_ZERO = ("dropout", "weight_decay")
_WHOLE = ("max_iter", "hidden", "batch_rows", "max_epochs", "patience")

# The neighbours' baseline is a product of two row counts; beyond these it is taken on a slice, and the report says so.
KNN_TRAIN_ROWS = 200_000
KNN_ROWS = 20_000


@dataclass(frozen=True)
class Recipe:
    """Everything a worker needs to fit its share; picklable, and small where the source is."""

    kind: Kind
    n_classes: int
    source: VectorSource
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def fit_arrays(
    recipe: Recipe, train: Examples, val: Examples, *, rank: int = 0, reduce: Reduce | None = None
) -> dict[str, Matrix]:
    """The head's arrays, fitted on this worker's rows and, through `reduce`, on those of all others."""
    if recipe.kind == "linear":
        W, b = fit_linear(
            train.vectors, train.labels, recipe.n_classes, weights=train.weights, reduce=reduce, **recipe.options
        )
        return {"W": W, "b": b}
    fitted = fit_mlp(train, val, recipe.n_classes, seed=recipe.seed, rank=rank, reduce=reduce, **recipe.options)
    return fitted._asdict()


def finish(
    label: str,
    recipe: Recipe,
    arrays: Mapping[str, Matrix],
    classes: list[str],
    train: Examples,
    n_train: int,
    val: Examples,
    test: Examples,
    seconds: float,
) -> Report:
    """The report, with the temperature that was found on val: on test, else on val, else on the training rows.

    Args:
        train: all training rows, or a slice of them where they are too many; the neighbours' baseline knows these.
        n_train: how many rows the head was fitted on.
    """
    temperature = fit_temperature(logits(recipe.kind, arrays, val.vectors), val.labels, val.weights)
    split, on = next((s, e) for s, e in (("test", test), ("val", val), ("train", train)) if len(e.labels))
    probabilities = softmax(logits(recipe.kind, arrays, on.vectors), temperature)
    return measure(
        label,
        split,
        on.labels,
        probabilities,
        classes,
        n={"train": n_train, "val": len(val.labels), "test": len(test.labels)},
        temperature=temperature,
        baselines=_baselines(train, recipe.source.labels("train"), on, recipe.n_classes),
        seconds=seconds,
    )


def _baselines(train: Examples, train_labels: Labels, on: Examples, n_classes: int) -> Baselines:
    step = -(-len(on.labels) // KNN_ROWS)
    asked, truth = on.vectors[::step], on.labels[::step]
    voted = metrics.knn_predict(train.vectors, train.labels, asked, n_classes, k=10)
    return Baselines(
        majority=metrics.majority_baseline(train_labels, on.labels, n_classes),
        knn10=metrics.accuracy(truth, voted),
        knn10_train_rows=len(train.labels),
        knn10_rows=len(truth),
    )


def check_arguments(
    kind: object, classes: Sequence[object], source: VectorSource, workers: object, options: Mapping[str, Any]
) -> None:
    """Raise InvalidArguments with everything that is wrong with a call of `train_head`, if anything is."""
    problems = []
    if kind not in KINDS:
        problems.append(f"kind must be one of {', '.join(map(repr, KINDS))}, found {kind!r}")
    else:
        problems += _option_problems(kind, options)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        problems.append(f"workers must be 0 (inline) or a number of Ray workers, found {workers!r}")
    if not all(isinstance(c, str) for c in classes):
        problems.append("classes must be strings")
    if len(set(classes)) != len(classes):
        problems.append("classes must differ from each other")
    labels = {split: source.labels(split) for split in SPLITS}
    for split, found in labels.items():
        if len(found) and (int(found.min()) < 0 or int(found.max()) >= len(classes)):
            problems.append(f"labels of {split} must lie in 0 to {len(classes) - 1}, the number of classes less one")
    present = np.unique(labels["train"])
    if len(present) == 0:
        problems.append("the train split has no rows")
    elif len(present) == 1:
        problems.append("the train split holds one class only, so there is nothing to tell apart")
    if problems:
        raise InvalidArguments(call="train_head", problems=problems)


def _option_problems(kind: Kind, options: Mapping[str, Any]) -> list[str]:
    problems = []
    for option, value in options.items():
        if option not in OPTIONS[kind]:
            problems.append(f"a {kind} head has no option {option!r}, it has {', '.join(OPTIONS[kind])}")
        elif not isinstance(value, (int, float)) or isinstance(value, bool):
            problems.append(f"{option} must be a number, found {type(value).__name__}")
        elif not (np.isfinite(value) and (value > 0 or (value == 0 and option in _MAY_BE_ZERO))):
            problems.append(f"{option} must be positive, found {value}")
        elif option in _WHOLE and not isinstance(value, int):
            problems.append(f"{option} must be a whole number, found {value}")
        elif option == "dropout" and value >= 1:
            problems.append(f"dropout must be below 1, found {value}")
    return problems
