"""Two published heads, compared on the rows they share: reads the side through each head's own encoder, and predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raystore.errors import InvalidArguments
from raystore.train.compare.compare import Comparison, compare
from raystore.train.heads import Head
from raystore.train.source import Targets, VectorSource


def compare_heads(
    a: Head, b: Head, source_a: VectorSource, source_b: VectorSource, *, split: str | None = None
) -> Comparison:
    """What head `b` gains over `a` on the rows that a's report stands on.

    Args:
        source_a, source_b: each head's snapshot with its encoder's vectors. The encoders may differ.
        split: the side to compare on; without it that of a's report.

    Raises:
        InvalidArguments: the heads have different tasks, the side has no rows, or the rows or labels of the two differ.
    """
    split = split or a.report.split
    problems = []
    if a.record.task != b.record.task:
        problems.append(f"head '{a.label}' predicts {a.record.task}, head '{b.label}' predicts {b.record.task}")
    elif not (ids := source_a.ids(split)):
        problems.append(f"the {split} split has no rows")
    elif not _same_rows(a, b, source_a, source_b, split):
        where = [f"'{h.label}' {h.snapshot.get('name')}@{h.snapshot.get('number')}" for h in (a, b)]
        problems.append(
            f"the heads' {split} rows or labels differ ({where[0]}, {where[1]}); train both on one snapshot to compare them"
        )
    if problems:
        raise InvalidArguments(call="compare", problems=problems)
    classes = sorted({*a.classes, *b.classes})
    return compare(
        a.label,
        b.label,
        _recoded(source_a.labels(split), a, classes),
        _predicted(a, source_a, split, classes),
        _predicted(b, source_b, split, classes),
        classes,
        task=a.record.task,
        ids=ids,
        entities=source_a.entities(split),
        split=split,
        snapshot=f"{a.snapshot.get('name')}@{a.snapshot.get('number')}",
    )


def _same_rows(a: Head, b: Head, source_a: VectorSource, source_b: VectorSource, split: str) -> bool:
    if source_a.ids(split) != source_b.ids(split):
        return False
    classes = sorted({*a.classes, *b.classes})
    return bool(np.array_equal(_recoded(source_a.labels(split), a, classes), _recoded(source_b.labels(split), b, classes)))


def _recoded(labels: Targets, head: Head, classes: Sequence[str]) -> Targets:
    """A head's targets, in the places of `classes`."""
    if head.record.task == "number":
        return labels
    places = {label: i for i, label in enumerate(classes)}
    place = np.array([places[label] for label in head.classes], dtype=np.int64)
    if head.record.task == "classes":
        return place[labels]
    wide = np.zeros((len(labels), len(classes)), dtype=labels.dtype)
    wide[:, place] = labels
    return wide


def _predicted(head: Head, source: VectorSource, split: str, classes: Sequence[str]) -> Targets:
    said: Sequence[Any] = head.predict(source.load(split, 0, 1).vectors).labels
    if head.record.task == "number":
        return np.asarray(said, dtype=np.float64)
    place = {label: i for i, label in enumerate(classes)}
    if head.record.task == "classes":
        return np.array([place[label] for label in said], dtype=np.int64)
    given = np.zeros((len(said), len(classes)), dtype=np.float32)
    for i, found in enumerate(said):
        given[i, [place[label] for label in found]] = 1
    return given
