"""Two heads on the same items: what both said of each, row beside row. Pure: Arrow in, NumPy out; knows no store.

Heads are paired by the item, whatever part they had: a canary that answered, and a head that has been live since, are compared
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raystore.errors import InvalidArguments
from raystore.serve.kept.predictions import read_labels
from raystore.train.source import Floats, Labels, Targets, Task

Mask = npt.NDArray[np.bool_]

COLUMNS = (
    "request", "subject", "time", "role", "head", "label", "labels", "value", "confidence", "abstained", "latency_ms",
)  # fmt: skip
_COLUMN: dict[Task, str] = {"classes": "label", "labels": "labels", "number": "value"}


@dataclass(frozen=True)
class Said:
    """What one head said of the n paired items.

    `targets`: (n,) int64 into the classes, (n, c) of 0 and 1, or (n,) float64, by the task. `confidence` and `latency_ms` are NaN
    where there is none.
    """

    targets: Targets
    confidence: Floats
    abstained: Mask
    latency_ms: Floats


@dataclass(frozen=True)
class Pairs:
    """Items that both heads saw, in the order of their time.

    `n_live`: items that the live head saw since the first of them. `entities` (n,) are equal for equal subjects, an item without
    one being its own; None where there is no subject at all.
    """

    live_head: str
    shadow_head: str
    task: Task
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    times: pa.ChunkedArray
    entities: Labels | None
    live: Said
    shadow: Said
    n_live: int

    def __len__(self) -> int:
        return len(self.ids)


def heads_of(rows: pa.Table) -> tuple[str | None, list[str]]:
    """The live head, which is the one that answered last in that part, and the others, sorted."""
    live = rows.filter(pc.equal(rows.column("role"), "live"))
    newest = None
    if len(live):
        newest = live.column("head")[int(np.argmax(live.column("time").cast(pa.int64()).to_numpy()))].as_py()
    others = [head for head in pc.unique(rows.column("head")).to_pylist() if head != newest]
    return newest, sorted(others)


def make_pairs(rows: pa.Table, live: str, shadow: str) -> Pairs:
    """The items of both heads.

    Args:
        rows: with the columns `COLUMNS`; of an item and head one row.

    Raises:
        InvalidArguments: the two predict different things.
    """
    mine, theirs = (rows.filter(pc.equal(rows.column("head"), head)) for head in (live, shadow))
    task = _task(live, mine, shadow, theirs)
    mine, theirs = (side.filter(pc.is_valid(side.column(_COLUMN[task]))) for side in (mine, theirs))
    at = pc.index_in(mine.column("request"), value_set=theirs.column("request").combine_chunks())
    both = mine.filter(pc.is_valid(at))
    other = theirs.take(pc.drop_null(at))
    order = np.argsort(both.column("time").cast(pa.int64()).to_numpy(), kind="stable")
    both, other = both.take(order), other.take(order)
    since = both.column("time")[0] if len(both) else None
    n_live = len(mine) if since is None else int(pc.sum(pc.greater_equal(mine.column("time"), since)).as_py() or 0)
    classes = _classes(task, both, other)
    return Pairs(
        live_head=live,
        shadow_head=shadow,
        task=task,
        classes=classes,
        ids=tuple(both.column("request").to_pylist()),
        times=both.column("time"),
        entities=_entities(both.column("subject")),
        live=_said(both, task, classes),
        shadow=_said(other, task, classes),
        n_live=n_live,
    )


def coded(values: pa.ChunkedArray | pa.Array, task: Task, classes: Sequence[str]) -> Targets:
    """Labels as a head's targets are; every label stands among the classes."""
    if task == "number":
        numbers: Targets = values.cast(pa.float64()).to_numpy().astype(np.float64)
        return numbers
    if task == "classes":
        found: Any = pc.index_in(values.cast(pa.string()), value_set=pa.array(classes, pa.string()))
        places: Targets = found.to_numpy().astype(np.int64)
        return places
    place = {label: i for i, label in enumerate(classes)}
    given = np.zeros((len(values), len(classes)), dtype=np.float64)
    for row, labels in enumerate(sets(values)):
        given[row, [place[label] for label in labels]] = 1
    return given


def sets(values: pa.ChunkedArray | pa.Array) -> list[tuple[str, ...]]:
    """Sets of labels, from lists or from text as predictions hold them; a null is the empty set."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return [tuple(map(str, labels or ())) for labels in values.to_pylist()]
    return [read_labels(text) if text else () for text in values.to_pylist()]


def _task(live: str, mine: pa.Table, shadow: str, theirs: pa.Table) -> Task:
    first, second = _task_of(mine), _task_of(theirs)
    if first is not None and second is not None and first != second:
        problem = f"head '{live}' predicts {first}, head '{shadow}' predicts {second}"
        raise InvalidArguments(call="shadow report", problems=[problem])
    return first or second or "classes"


def _task_of(rows: pa.Table) -> Task | None:
    return next((task for task, column in _COLUMN.items() if rows.column(column).null_count < len(rows)), None)


def _classes(task: Task, *sides: pa.Table) -> tuple[str, ...]:
    if task == "number":
        return ()
    if task == "classes":
        return tuple(sorted({label for rows in sides for label in pc.unique(rows.column("label")).to_pylist() if label}))
    distinct = {text for rows in sides for text in pc.unique(rows.column("labels")).to_pylist() if text}
    return tuple(sorted({label for text in distinct for label in read_labels(text)}))


def _said(rows: pa.Table, task: Task, classes: Sequence[str]) -> Said:
    return Said(
        targets=coded(rows.column(_COLUMN[task]), task, classes),
        confidence=_floats(rows.column("confidence")),
        abstained=pc.fill_null(rows.column("abstained"), False).to_numpy().astype(np.bool_),
        latency_ms=_floats(rows.column("latency_ms")),
    )


def _floats(column: pa.ChunkedArray) -> Floats:
    found: Any = pc.fill_null(column.cast(pa.float64()), float("nan"))
    values: Floats = found.to_numpy()
    return values


def _entities(subjects: pa.ChunkedArray) -> Labels | None:
    if subjects.null_count == len(subjects):
        return None
    codes = subjects.combine_chunks().dictionary_encode().indices
    own = np.arange(len(codes)) + len(codes)  # no code is so high
    found: Labels = np.where(codes.is_valid(), pc.fill_null(codes, 0).to_numpy(), own).astype(np.int64)
    return found
