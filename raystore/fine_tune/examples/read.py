"""From a spec to examples in memory, on the sides they belong to and without what leaks. The same in every process.

Cost on two cores: 113,000 titles in 9 s, as many abstracts in 40 s (most of it tokens; the leak guard 4 to 5 s), 8,200 photographs of
160 pixels in some 5 s. Memory: 4 bytes a token, or the files of the pictures; while it reads, up to 1 kB more for the marks of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raystore.data.snapshots.split import SIDES, side
from raystore.fine_tune.examples.digest import data_digest
from raystore.fine_tune.examples.leaks import TEST, TRAIN, VAL, Guarded, Leaks, guard, twins
from raystore.fine_tune.examples.reader import ItemReader
from raystore.fine_tune.examples.rows import Found, RowReader, check_unchanged
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Examples, IntArray, Sides


def read_sides(spec: DataSpec, reader: ItemReader, *, key: bytes = b"") -> Sides:
    """Train, val and test of a spec: entities stand on one side, and what leaks into an evaluation is left out.

    Args:
        key: the store's, for the digest; without it the digest is the same in every store, and guesses at a row can be tested.

    Raises:
        JobFailed: a file changed since it was planned, or cannot be read.
    """
    references = [*spec.references, *spec.test]
    check_unchanged(spec, references)
    collectors = [reader.collector(modality, marked=not view) for view, (_, modality) in enumerate(spec.columns.views)]
    rows = RowReader(spec, collectors, key)
    rows.read(spec.references)
    n_data = len(rows.found)
    rows.read(spec.test)
    found = rows.found
    sides = _sides(spec, found.entities, n_data)
    labels = np.array(found.labels, np.int64)
    entities = _codes(found.entities)
    # Without a column for it, an id is its own entity: two files that count from 1 share none.
    guarded = guard(sides, collectors[0].marks(), labels, entities if spec.columns.subject and spec.test else None)
    whole = Examples(
        views=tuple(collector.finish(np.flatnonzero(guarded.sides == TRAIN)) for collector in collectors),
        labels=labels,
        classes=spec.classes,
        ids=tuple(found.ids),
        entities=entities,
        parents=_codes(spec.parents) if spec.parents else None,
        places=_places(found),
    )
    train, val, test = (_side(spec, whole, np.flatnonzero(guarded.sides == code)) for code in (TRAIN, VAL, TEST))
    digest = data_digest(spec, zip(guarded.sides.tolist(), found.digests, strict=True))
    return Sides(train, val, test, found.set_aside, _leaks(spec, guarded, found), digest)


def read_pool(spec: DataSpec, reader: ItemReader) -> Examples:
    """The pool's rows, labelled -1, without those that stand in test or nearly so; test is read along for that.

    Of pairs the first view is read alone.

    Raises:
        JobFailed: as `read_sides`.
    """
    check_unchanged(spec, [*spec.references, *spec.test, *spec.pool])
    collector = reader.collector(spec.columns.views[0][1], marked=True)
    rows = RowReader(spec, [collector], views=1)
    rows.read(spec.pool, labelled=False)
    n_pool = len(rows.found)
    rows.read(spec.test or spec.references, only=None if spec.test else lambda entity: side(entity, spec.split) == "test")
    found = rows.found
    same, near = twins(collector.marks(), np.arange(n_pool), np.arange(n_pool, len(found)))
    left = np.flatnonzero(~(same | near))
    whole = Examples(
        views=(collector.finish(left),),
        labels=np.full(len(found), -1, np.int64),
        classes=(),
        ids=tuple(found.ids),
        entities=_codes(found.entities),
        places=_places(found),
    )
    return whole.take(left)


def _sides(spec: DataSpec, entities: Sequence[str], n_data: int) -> IntArray:
    """(n,) codes: the first `n_data` rows by their entity's hash, the rest, of the test files, on test."""
    by_name = {name: code for code, name in enumerate(SIDES)}
    found = [by_name[side(entity, spec.split)] for entity in entities[:n_data]]
    return np.array(found + [TEST] * (len(entities) - n_data), np.int64)


def _codes(names: Sequence[str]) -> IntArray:
    """(n,) a number for each name, equal for equal ones."""
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return np.array([codes[name] for name in names], np.int64)


def _places(found: Found) -> IntArray:
    return np.array(found.places, np.int64).reshape(-1, 2)


def _side(spec: DataSpec, whole: Examples, rows: IntArray) -> Examples:
    part = whole.take(rows)
    # A pair without a label is its own class: its other half is the one positive.
    return part if spec.columns.label else replace(part, labels=np.arange(len(rows)))


def _leaks(spec: DataSpec, guarded: Guarded, found: Found) -> Leaks:
    rows = [
        (spec.sources[found.places[row][0]].path, found.places[row][1], found.ids[row], reason)
        for row, reason in sorted(guarded.reasons.items())
    ]
    return Leaks(guarded.counts[TRAIN], guarded.counts[VAL], guarded.two_labels, tuple(rows))
