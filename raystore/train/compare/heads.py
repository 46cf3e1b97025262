"""Two published heads, compared on the rows they share: reads the side through each head's own encoder, and predicts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from raystore.errors import InvalidArguments
from raystore.train.compare.compare import Comparison, compare
from raystore.train.heads import Head
from raystore.train.source import Targets, VectorSource


def compare_heads(
    a: Head,
    b: Head,
    source_a: VectorSource,
    source_b: VectorSource,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    snapshot: str | None = None,
    seen: Collection[str] = (),
) -> Comparison:
    """What head `b` gains over `a` on the rows of one side that neither was fitted on.

    Args:
        source_a, source_b: the rows, each with the vectors of one head's encoder. The encoders may differ.
        split: the side to compare on; without it that of a's report.
        classes: label i of both sources is `classes[i]`; without it, of each head's own.
        snapshot: what the rows are called; without it a's.
        seen: ids that a head was fitted on or calibrated with; they are left out.

    Raises:
        InvalidArguments: the heads have different tasks, the side has no rows, or the rows or labels of the two differ.
    """
    split = split or a.report.split
    problems = []
    if a.record.task != b.record.task:
        problems.append(f"head '{a.label}' predicts {a.record.task}, head '{b.label}' predicts {b.record.task}")
    elif not source_a.ids(split):
        problems.append(f"the {split} split has no rows")
    elif not _same_rows(a, b, source_a, source_b, split, classes):
        where = [f"'{h.label}' {h.snapshot.get('name')}@{h.snapshot.get('number')}" for h in (a, b)]
        problems.append(
            f"the heads' {split} rows or labels differ ({where[0]}, {where[1]}); name the snapshot to compare both on: on="
        )
    else:
        ids = np.array(source_a.ids(split), dtype=object)
        kept = np.flatnonzero([id_ not in seen for id_ in ids])
        if not len(kept):
            problems.append(f"all {len(ids):,} rows of {split} are rows that a head was fitted on")
    if problems:
        raise InvalidArguments(call="compare", problems=problems)
    places = sorted({*a.classes, *b.classes, *(classes or ())})
    return compare(
        a.label,
        b.label,
        _recoded(source_a.labels(split), a, classes, places)[kept],
        _predicted(a, source_a, split, places)[kept],
        _predicted(b, source_b, split, places)[kept],
        places,
        task=a.record.task,
        ids=list(ids[kept]),
        entities=source_a.entities(split)[kept],
        split=split,
        snapshot=snapshot or f"{a.snapshot.get('name')}@{a.snapshot.get('number')}",
    )


def _same_rows(
    a: Head, b: Head, source_a: VectorSource, source_b: VectorSource, split: str, classes: Sequence[str] | None
) -> bool:
    if source_a.ids(split) != source_b.ids(split):
        return False
    places = sorted({*a.classes, *b.classes, *(classes or ())})
    mine, theirs = (_recoded(s.labels(split), h, classes, places) for h, s in ((a, source_a), (b, source_b)))
    return bool(np.array_equal(mine, theirs))


def _recoded(labels: Targets, head: Head, classes: Sequence[str] | None, places: Sequence[str]) -> Targets:
    """Targets coded by `classes`, or by the head's own, in the places of `places`."""
    if head.record.task == "number":
        return labels
    number = {label: i for i, label in enumerate(places)}
    place = np.array([number[label] for label in (head.classes if classes is None else classes)], dtype=np.int64)
    if head.record.task == "classes":
        return place[labels]
    wide = np.zeros((len(labels), len(places)), dtype=labels.dtype)
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
