"""From a spec to examples in memory, on the sides they belong to and without what leaks. The same in every process.

Cost on two cores: 113,000 titles in 9 s, as many abstracts in 40 s (most of it tokens; the leak guard 4 to 5 s), 8,200 photographs of
160 pixels in some 5 s. Memory: 4 bytes a token, or the files of the pictures; while it reads, up to 1 kB more for the marks of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raystore.data.snapshots.split import SIDES, side
from raystore.encoders.passport import Modality
from raystore.fine_tune.examples.digest import data_digest
from raystore.fine_tune.examples.leaks import (
    KINDS,
    OUT,
    TEST,
    TRAIN,
    TWO_LABELS,
    VAL,
    Flags,
    Guarded,
    Leaks,
    Marks,
    guard,
    reason,
    twins,
)
from raystore.fine_tune.examples.provable import check_provable
from raystore.fine_tune.examples.reader import Collector, ItemReader
from raystore.fine_tune.examples.rows import Found, RowReader, check_unchanged, named_row
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Examples, IntArray, Pool, Sides

_STRANGE = "its label is out of scope, and the test files are the test side"
_STRANGE_KIN = "its label is out of scope, and other rows of its entity stand on train or val"


def read_sides(spec: DataSpec, reader: ItemReader, *, key: bytes = b"") -> Sides:
    """Train, val and test of a spec: entities stand on one side, and what leaks into an evaluation is left out.

    Args:
        key: the store's, for the digest; without it the digest is the same in every store, and guesses at a row can be tested.

    Raises:
        JobFailed: a file changed since it was planned, or cannot be read.
        InvalidArguments: nothing could be learned from these sides, or proven on them.
    """
    check_unchanged(spec, [*spec.references, *spec.test])
    collectors = [reader.collector(modality) for _, modality in spec.columns.views]
    rows = RowReader(spec, collectors, key)
    rows.read(spec.references)
    n_data = len(rows.found)
    rows.read(spec.test)
    found = rows.found
    labels = np.array(found.labels, np.int64)
    entities = _codes(found.entities)
    sides, strange = _drawn(spec, found, labels, entities, n_data)
    set_aside = found.set_aside + [named_row(spec, found, row, reason) for row, reason in strange.items()]
    # Without a column for it, an id is its own entity: two files that count from 1 share none.
    guarded = guard(sides, _joined(spec, collectors), labels, entities if spec.columns.subject and spec.test else None)
    whole = Examples(
        views=tuple(collector.finish(np.flatnonzero(guarded.sides == TRAIN)) for collector in collectors),
        labels=labels,
        classes=spec.classes,
        ids=tuple(found.ids),
        entities=entities,
        parents=_codes(spec.parents) if spec.parents else None,
        places=_places(found),
    )
    train, val, test = (_side(spec, whole, guarded.sides, code) for code in (TRAIN, VAL, TEST))
    digest = data_digest(spec, zip(guarded.sides.tolist(), found.digests, strict=True))
    read = Sides(train, val, test, set_aside, _leaks(spec, guarded, found), digest)
    check_provable(spec, read)
    return read


def read_pool(spec: DataSpec, reader: ItemReader) -> Pool:
    """The pool's rows, labelled -1, without those that stand in val or test or nearly so; both are read along for that.

    Of pairs the first view is read alone, and sought among both halves of val and test.

    Raises:
        JobFailed: as `read_sides`.
    """
    check_unchanged(spec, [*spec.references, *spec.test, *spec.pool])
    collector = reader.collector(spec.columns.views[0][1])
    rows = RowReader(spec, [collector], views=1)
    rows.read(spec.pool, labelled=False)
    found, n = rows.found, len(rows.found)
    collectors = [reader.collector(modality) for _, modality in spec.columns.views]
    judged = RowReader(spec, collectors)
    learned: set[str] = set()

    def is_judged(entity: str, label: str | None) -> bool:
        """Whether a row of the data may stand on val or on test, as `_drawn` puts them."""
        strange = label is not None and label == spec.out_of_scope and not spec.test
        if strange or side(entity, spec.split) != "train":
            return True
        learned.add(entity)
        return False

    judged.read(spec.references, only=is_judged)
    judged.read(spec.test)
    # Of the data, an entity that is learned from is among these only by rows out of scope, which then stand nowhere.
    entities = {*judged.found.entities} - (set() if spec.test else learned)
    # The first view's modality is the first: behind the pool's contents stand those of val and test.
    marks = collector.marks().joined([_joined(spec, collectors)[0]])
    same, near = twins(marks, np.arange(n), np.arange(n, len(marks.keys)))
    kinds = _first_set(_of_entities(rows, entities), same, near)
    left = np.flatnonzero(kinds < 0)
    whole = Pool(
        views=(collector.finish(left),),
        labels=np.full(n, -1, np.int64),
        classes=(),
        ids=tuple(found.ids),
        entities=_codes(found.entities),
        places=_places(found),
        set_aside=tuple(found.set_aside),
        removed={kind: int((kinds == code).sum()) for code, kind in enumerate(KINDS)},
        removed_rows=tuple(
            named_row(spec, found, row, reason(KINDS[kinds[row]], "val or test"))
            for row in np.flatnonzero(kinds >= 0).tolist()
        ),
    )
    return whole.take(left)


def _joined(spec: DataSpec, collectors: Sequence[Collector]) -> list[Marks]:
    """What the collectors marked, view behind view of each modality."""
    found: dict[Modality, list[Marks]] = {}
    for (_, modality), collector in zip(spec.columns.views, collectors, strict=True):
        found.setdefault(modality, []).append(collector.marks())
    return [first.joined(rest) for first, *rest in found.values()]


def _codes(names: Sequence[str]) -> IntArray:
    """(n,) a number for each name, equal for equal ones."""
    found = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return np.array([found[name] for name in names], np.int64)


def _places(found: Found) -> IntArray:
    return np.array(found.places, np.int64).reshape(-1, 2)


def _drawn(
    spec: DataSpec, found: Found, labels: IntArray, entities: IntArray, n_data: int
) -> tuple[IntArray, dict[int, str]]:
    """(n,) codes: the first `n_data` rows by their entity's hash, the rest, of the test files, on test; and reasons by row.

    What is out of scope is learned from on no side, so it goes to test; unless that side is given, or its entity stands on another.
    """
    by_name = {name: code for code, name in enumerate(SIDES)}
    drawn = [by_name[side(entity, spec.split)] for entity in found.entities[:n_data]]
    sides = np.array(drawn + [TEST] * (len(labels) - n_data), np.int64)
    if spec.out_of_scope is None:
        return sides, {}
    strange = np.flatnonzero(labels[:n_data] == spec.n_learned)
    if spec.test:
        sides[strange] = OUT
        return sides, dict.fromkeys(strange.tolist(), _STRANGE)
    sides[strange] = TEST
    kin = strange[np.isin(entities[strange], entities[sides != TEST])]
    sides[kin] = OUT
    return sides, dict.fromkeys(kin.tolist(), _STRANGE_KIN)


def _side(spec: DataSpec, whole: Examples, sides: IntArray, code: int) -> Examples:
    rows = np.flatnonzero(sides == code)
    part = whole.take(rows)
    if not spec.columns.label:
        # A pair without a label is its own class: its other half is the one positive.
        return replace(part, labels=np.arange(len(rows)))
    if code == TEST or spec.out_of_scope is None:
        return part
    n = spec.n_learned
    return replace(part, classes=part.classes[:n], parents=None if part.parents is None else part.parents[:n])


def _leaks(spec: DataSpec, guarded: Guarded, found: Found) -> Leaks:
    reasons = [*sorted(guarded.reasons.items()), *((row, TWO_LABELS) for row in guarded.two_labels.tolist())]
    rows = tuple(named_row(spec, found, row, reason) for row, reason in reasons)
    return Leaks(guarded.counts[TRAIN], guarded.counts[VAL], len(guarded.two_labels), rows)


def _of_entities(rows: RowReader, entities: set[str]) -> Flags:
    """(n,) which rows are of these entities; of files that do not say whose their rows are, none."""
    found = rows.found
    has = {place: rows.has_subject(place) for place in {place for place, _ in found.places}}
    each = zip(found.places, found.entities, strict=True)
    return np.array([has[place] and entity in entities for (place, _), entity in each], np.bool_)


def _first_set(*flags: Flags) -> IntArray:
    """(n,) the number of the first flag that is set, -1 where none is."""
    table = np.stack(flags)
    return np.where(table.any(axis=0), table.argmax(axis=0), -1)
