"""Rows of train and val that stand in the evaluation too: found, counted by kind, and left out.

A row leaks into test where its entity, its content or all but its content stands there; of pairs one half is enough, and a text is
sought among both halves. Such rows are taken from train and from val, never from test: what a model is judged by stays whole. A val
row that train holds too leaves val. Pure, over marks (`marks/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
NamedRow = tuple[str, int, str | None, str]  # source, row in it, id, reason

TRAIN, VAL, TEST, OUT = range(4)  # codes of the sides; OUT is on none
KINDS = ("entity", "same", "near")
_REASONS = {
    "entity": "its entity stands in {place}",
    "same": "its content stands in {place}",
    "near": "a near-duplicate of it stands in {place}",
}
TWO_LABELS = "its content stands in train with another label too"


class Marks(Protocol):
    """What tells equal and nearly equal contents (`marks/`)."""

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """(n,) equal for equal contents."""
        ...

    def near(self, rows: IntArray, others: IntArray) -> Flags:
        """(len(rows),) which of `rows` have a near-duplicate among `others`."""
        ...

    def joined(self, others: Sequence[Self]) -> Self:
        """Those of these contents, and behind them of the others'."""
        ...


@dataclass(frozen=True)
class Leaks:
    """What the leak guard removed.

    Attributes:
        train, val: rows removed from that side by kind: `entity` (it stands in test), `same` (equal content; of texts but for case,
            signs and spaces), `near` (a near-duplicate). A row counts once, as the first of these.
        two_labels: rows left in train whose content stands there with another label too; they stay.
        rows: of every removed row, and behind them of those with two labels.
    """

    train: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    val: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    two_labels: int = 0
    rows: tuple[NamedRow, ...] = field(default=(), repr=False)

    @property
    def removed(self) -> int:
        return sum(self.train.values()) + sum(self.val.values())

    def to_dict(self) -> dict[str, Any]:
        """The counts, JSON-ready, without the rows."""
        return {"train": dict(self.train), "val": dict(self.val), "two_labels": self.two_labels}

    def __str__(self) -> str:
        sides = (("train", self.train), ("val", self.val))
        lines = [_sentence(side, found) for side, found in sides if sum(found.values())]
        if self.two_labels:
            rows = "row of train stands" if self.two_labels == 1 else "rows of train stand"
            lines.append(f"{self.two_labels:,} {rows} there with another label too.")
        return " ".join(lines) or "No row of train or val stands in the evaluation."


def _sentence(side: str, found: dict[str, int]) -> str:
    words = {"entity": "by entity", "same": "by content", "near": "as near-duplicates"}
    kinds = ", ".join(f"{n:,} {words[kind]}" for kind, n in found.items() if n)
    n = sum(found.values())
    return f"{n:,} {'row' if n == 1 else 'rows'} of {side} {'was' if n == 1 else 'were'} removed ({kinds})."


@dataclass(frozen=True)
class Guarded:
    """`sides` (n,) without the removed rows, which stand on side OUT; `reasons` by row; the counts by side and kind; `two_labels`
    the rows of train that an equal there contradicts."""

    sides: IntArray
    reasons: dict[int, str]
    counts: dict[int, dict[str, int]]
    two_labels: IntArray


def guard(sides: IntArray, marks: Sequence[Marks], labels: IntArray, entities: IntArray | None = None) -> Guarded:
    """The sides without what leaks.

    Args:
        sides: (n,) TRAIN, VAL, TEST or OUT.
        marks: of the contents, one for each modality. Content j is of row j % n: of pairs of texts there are 2 n, the first halves
            and then the second ones.
        labels: (n,) codes; -1 is no label, and differs from none.
        entities: (n,) codes; None where rows are entities of their own.

    Cost: that of `marks.near` for train and val against test, and val against train.
    """
    found = np.array(sides)
    reasons: dict[int, str] = {}
    counts = {TRAIN: dict.fromkeys(KINDS, 0), VAL: dict.fromkeys(KINDS, 0)}

    def remove(rows: IntArray, kind: str, place: str) -> None:
        for side in counts:
            counts[side][kind] += int((found[rows] == side).sum())
        found[rows] = OUT
        reasons.update(dict.fromkeys(rows.tolist(), reason(kind, place)))

    def remove_twins(rows: IntArray, others: IntArray, place: str) -> None:
        same, near = _twins_of_rows(marks, rows, others, len(found))
        remove(rows[same], "same", place)
        remove(rows[near], "near", place)

    test = np.flatnonzero(found == TEST)
    if entities is not None:
        judged = np.flatnonzero((found == TRAIN) | (found == VAL))
        remove(judged[np.isin(entities[judged], entities[test])], "entity", "test")
    remove_twins(np.flatnonzero((found == TRAIN) | (found == VAL)), test, "test")
    remove_twins(np.flatnonzero(found == VAL), np.flatnonzero(found == TRAIN), "train")
    return Guarded(found, reasons, counts, _two_labels(marks[0].keys, labels, np.flatnonzero(found == TRAIN)))


def twins(marks: Marks, rows: IntArray, others: IntArray) -> tuple[Flags, Flags]:
    """(len(rows),) each: which contents of `rows` have an equal among `others`, and which have but a near-duplicate."""
    same = np.isin(marks.keys[rows], marks.keys[others])
    near = np.zeros(len(rows), np.bool_)
    near[~same] = marks.near(rows[~same], others)
    return same, near


def reason(kind: str, place: str) -> str:
    """Why a row is left out, as the end of a sentence."""
    return _REASONS[kind].format(place=place)


def _twins_of_rows(marks: Sequence[Marks], rows: IntArray, others: IntArray, n: int) -> tuple[Flags, Flags]:
    """As `twins`, of rows by any of their contents."""
    same, near = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    for each in marks:
        starts = np.arange(0, len(each.keys), max(n, 1))[:, None]
        for found, flags in zip((same, near), twins(each, (starts + rows).ravel(), (starts + others).ravel()), strict=True):
            found |= flags.reshape(len(starts), len(rows)).any(axis=0)
    return same, near & ~same


def _two_labels(keys: npt.NDArray[np.uint64], labels: IntArray, rows: IntArray) -> IntArray:
    """Those of `rows` that have an equal among them with another label."""
    rows = rows[labels[rows] >= 0]
    _, content = np.unique(keys[rows], return_inverse=True)
    least = np.full(len(rows), np.iinfo(np.int64).max)
    most = np.full(len(rows), -1)
    np.minimum.at(least, content, labels[rows])
    np.maximum.at(most, content, labels[rows])
    torn: Flags = (least != most)[content]
    return rows[torn]
