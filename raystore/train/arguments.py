"""What `train_head` refuses, all at once, before anything runs: arguments, options, labels. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raystore.errors import InvalidArguments, InvalidName, listed
from raystore.layout import check_name
from raystore.train.heads import KINDS, Kind
from raystore.train.linear import LOSSES
from raystore.train.source import SPLITS, TASKS, Targets, Task, VectorSource

_LINEAR: dict[Task, tuple[str, ...]] = {
    "classes": ("l2", "loss", "class_weight", "max_iter", "tol"),
    "labels": ("l2", "max_iter", "tol"),
    "number": ("l2",),
}
_MLP = ("hidden", "dropout", "learning_rate", "weight_decay", "batch_rows", "max_epochs", "patience", "seeds")
_MAY_BE_ZERO = ("dropout", "weight_decay", "power")
_WHOLE = ("max_iter", "hidden", "batch_rows", "max_epochs", "patience", "k")


def options_of(kind: Kind, task: Task) -> tuple[str, ...]:
    """The options a kind of head has for a task."""
    if kind == "linear":
        return _LINEAR[task]
    if kind == "mlp":
        return (*_MLP, "class_weight") if task == "classes" else _MLP
    return ("k", "power")


def check_arguments(
    name: str,
    kind: object,
    classes: Sequence[object],
    source: VectorSource,
    workers: object,
    options: Mapping[str, Any],
    *,
    task: object = "classes",
    precision: object = None,
    call: str = "train_head",
) -> None:
    """Raise InvalidArguments with everything that is wrong with a call of `train_head`, if anything is; InvalidName where it is the
    name alone."""
    unnamed = _unnamed(name)
    if task not in TASKS:
        raise InvalidArguments(call=call, problems=[f"task must be one of {', '.join(map(repr, TASKS))}, found {task!r}"])
    labels = {split: source.labels(split) for split in SPLITS}
    problems = option_problems(kind, task, options, classes, has_val=len(labels["val"]) > 0)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        problems.append(f"workers must be 0 (inline) or a number of Ray workers, found {workers!r}")
    problems += _class_problems(classes, task)
    problems += _precision_problems(precision, task, has_val=len(labels["val"]) > 0)
    for split, found in labels.items():
        problems += _label_problems(split, found, task, len(classes))
    problems += _train_problems(labels["train"], task, source.erased)
    if problems:
        raise InvalidArguments(call=call, problems=[*([str(unnamed).rstrip(".")] if unnamed else []), *problems])
    if unnamed:
        raise unnamed


def _unnamed(name: str) -> InvalidName | None:
    try:
        check_name("a head", name, dashes=True)
    except InvalidName as error:
        return error
    return None


def _class_problems(classes: Sequence[object], task: Task) -> list[str]:
    if task == "number":
        return ["a head for numbers has no classes"] if len(classes) else []
    problems = []
    if not all(isinstance(c, str) for c in classes):
        problems.append("classes must be strings")
    if len(set(classes)) != len(classes):
        problems.append("classes must differ from each other")
    return problems


def _precision_problems(precision: object, task: Task, *, has_val: bool) -> list[str]:
    if precision is None:
        return []
    if task == "number":
        return ["precision is for tasks 'classes' and 'labels': a predicted number is not right or wrong"]
    if not isinstance(precision, (int, float)) or isinstance(precision, bool) or not 0 < precision <= 1:
        return [f"precision must lie above 0 and be 1 at most, found {precision!r}"]
    return [] if has_val else ["precision needs rows of val to choose the threshold on, and there are none"]


def _label_problems(split: str, labels: Targets, task: Task, n_classes: int) -> list[str]:
    if len(labels) == 0:
        return []
    if task == "number":
        bad = int(np.count_nonzero(~np.isfinite(labels)))
        return [f"labels of {split} hold {bad} NaN or infinite values, expected numbers"] if bad else []
    if task == "labels":
        if labels.shape[1:] != (n_classes,):
            return [f"labels of {split} must be a matrix of {n_classes} columns, one a class, found shape {labels.shape}"]
        if ((labels != 0) & (labels != 1)).any():
            return [f"labels of {split} must be a matrix of 0 and 1"]
        return []
    if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        return [f"labels of {split} must lie in 0 to {n_classes - 1}, the number of classes less one"]
    return []


def _train_problems(labels: Targets, task: Task, erased: int) -> list[str]:
    problem = _train_problem(labels, task)
    if problem is None:
        return []
    were = "1 row of the snapshot was" if erased == 1 else f"{erased:,} rows of the snapshot were"
    return [f"{problem} ({were} erased since)" if erased else problem]


def _train_problem(labels: Targets, task: Task) -> str | None:
    if len(labels) == 0:
        return "the train split has no rows"
    if task == "labels":
        same = (labels == labels[0]).all()
        return "all rows of the train split have the same labels, so there is nothing to tell apart" if same else None
    if len(np.unique(labels)) > 1:
        return None
    if task == "number":
        return "all rows of the train split have the same label, so there is nothing to predict"
    return "the train split holds one class only, so there is nothing to tell apart"


def option_problems(
    kind: Any, task: Task, options: Mapping[str, Any], classes: Sequence[object], *, has_val: bool
) -> list[str]:
    """What is wrong with a kind and its options."""
    if kind not in KINDS:
        return [f"kind must be one of {', '.join(map(repr, KINDS))}, found {kind!r}"]
    problems = []
    known = options_of(kind, task)
    for option, value in options.items():
        if option not in known:
            of = "" if task == "classes" else f" for task '{task}'"
            problems.append(f"a {kind} head{of} has no option {option!r}, it has {', '.join(known)}")
        elif option == "loss":
            if value not in LOSSES:
                problems.append(f"loss must be one of {', '.join(map(repr, LOSSES))}, found {value!r}")
        elif option == "class_weight":
            problems += _weight_problems(value, classes)
        elif option == "seeds":
            problems += _seed_problems(value, has_val=has_val)
        elif option == "l2" and isinstance(value, (list, tuple)):
            problems += _l2_problems(value, has_val=has_val)
        else:
            problems += _number_problems(option, value)
    return problems


def _number_problems(option: str, value: Any) -> list[str]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return [f"{option} must be a number, found {type(value).__name__}"]
    if not (np.isfinite(value) and (value > 0 or (value == 0 and option in _MAY_BE_ZERO))):
        return [f"{option} must be positive, found {value}"]
    if option in _WHOLE and not isinstance(value, int):
        return [f"{option} must be a whole number, found {value}"]
    return [f"dropout must be below 1, found {value}"] if option == "dropout" and value >= 1 else []


def _l2_problems(values: Sequence[Any], *, has_val: bool) -> list[str]:
    if not values:
        return ["l2 is an empty list"]
    problems = [problem for value in values for problem in _number_problems("l2", value)]
    if not problems and len(set(values)) != len(values):
        problems.append("l2 names a value twice")
    if len(values) > 1 and not has_val:
        problems.append("a list of l2 needs rows of val to choose by, and there are none: give one number")
    return problems


def _seed_problems(value: Any, *, has_val: bool) -> list[str]:
    many = value if isinstance(value, (list, tuple)) else [value]
    if not many or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in many) or value == 0:
        return [f"seeds must be a number of fits from 1, or a list of whole numbers from 0, found {value!r}"]
    several = len(many) > 1 or (not isinstance(value, (list, tuple)) and value > 1)
    return ["several seeds need rows of val to choose by, and there are none"] if several and not has_val else []


def _weight_problems(value: Any, classes: Sequence[object]) -> list[str]:
    if isinstance(value, str) and value == "balanced":
        return []
    if not isinstance(value, Mapping):
        return [f"class_weight must be 'balanced' or a weight for each class by its label, found {type(value).__name__}"]
    problems = []
    strange = [str(label) for label in value if label not in classes]
    if strange:
        problems.append(f"class_weight names {len(strange)} classes that are not there ({listed(strange, 3)})")
    for weight in value.values():
        ok = isinstance(weight, (int, float)) and not isinstance(weight, bool) and np.isfinite(weight) and weight > 0
        if not ok:
            problems.append(f"a class weight must be a positive number, found {weight!r}")
    return problems
