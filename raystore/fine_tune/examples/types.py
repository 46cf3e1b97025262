"""Examples in the memory of the process that trains: contents by view, labels, and the three sides. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import numpy as np
import numpy.typing as npt

from raystore.encoders.passport import Modality
from raystore.fine_tune.examples.leaks import Leaks, NamedRow

IntArray = npt.NDArray[np.int64]
IDS_NAMED = 20  # of each reason


class Content(Protocol):
    """Items of one modality, in the memory of the process that trains."""

    @property
    def modality(self) -> Modality: ...

    def __len__(self) -> int: ...

    def lengths(self) -> IntArray:
        """(n,) tokens of each text, special ones included; ones for pictures."""
        ...

    def inputs(self, rows: IntArray, augment: np.random.Generator | None = None) -> dict[str, npt.NDArray[Any]]:
        """One padded batch, rows in the order given, named as the passport's part names its inputs.

        Args:
            augment: draws crops, flips and colours of pictures; None reads them as the encoder does. Texts ignore it.
        """
        ...

    def take(self, rows: IntArray) -> Self:
        """The rows in the order given, repeats allowed."""
        ...


@dataclass(frozen=True)
class Examples:
    """Items with their labels; row i of every view belongs together.

    Attributes:
        views: one content, or two of pairs (text and text, image and text).
        labels: (n,) codes into `classes`, -1 where a row has none; for pairs without labels 0 .. n-1.
        classes: the labels in the order of their codes; empty for pairs without labels and for a pool.
        ids, entities: of each row; entities are codes that mean the same on every side.
        parents: (c,) the code of each class's parent, where labels are hierarchical.
        places: (n, 2) where a row lies: which of the spec's sources, and its row in it.
    """

    views: tuple[Content, ...]
    labels: IntArray
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    entities: IntArray
    parents: IntArray | None = None
    places: IntArray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: IntArray) -> Self:
        """The rows in the order given; labels stay as they are, those of unlabelled pairs too."""
        return replace(
            self,
            views=tuple(view.take(rows) for view in self.views),
            labels=self.labels[rows],
            ids=tuple(self.ids[row] for row in rows.tolist()),
            entities=self.entities[rows],
            places=None if self.places is None else self.places[rows],
        )

    def __reduce__(self) -> NoReturn:
        stays_here()

    def __repr__(self) -> str:
        kinds = " and ".join(view.modality for view in self.views)
        return f"Examples({len(self):,} rows of {kinds}, {len(self.classes):,} classes)"


@dataclass(frozen=True)
class Sides:
    """What a spec's references hold, in three parts that share no entity and no twin.

    What is out of scope is among test's classes alone, behind the others.

    Attributes:
        set_aside: rows that cannot be used, with reasons that quote nothing.
        leaks: what was removed from train and val, counted.
        digest: names the data that was read; equal for equal rows, labels, contents and sides.
    """

    train: Examples
    val: Examples
    test: Examples
    set_aside: list[NamedRow]
    leaks: Leaks
    digest: str

    @property
    def ids_by_reason(self) -> dict[str, list[str]]:
        """The first ids of the rows that were set aside, removed as leaks, or stand in train with two labels."""
        return ids_by_reason([*self.set_aside, *self.leaks.rows])

    def __reduce__(self) -> NoReturn:
        stays_here()


@dataclass(frozen=True, repr=False)
class Pool(Examples):
    """Rows without labels.

    Attributes:
        set_aside: rows that cannot be used. removed: rows that stand in val or test, which are left out too, counted by kind as in
            `Leaks`, and each with its reason.
    """

    set_aside: tuple[NamedRow, ...] = ()
    removed: dict[str, int] = field(default_factory=dict)
    removed_rows: tuple[NamedRow, ...] = ()

    @property
    def ids_by_reason(self) -> dict[str, list[str]]:
        """As that of `Sides`."""
        return ids_by_reason([*self.set_aside, *self.removed_rows])


def ids_by_reason(rows: Iterable[NamedRow], most: int = IDS_NAMED) -> dict[str, list[str]]:
    """The first ids by reason; a row without an id is named by its file and its number there, from 0."""
    found: dict[str, list[str]] = {}
    for source, row, id_, reason in rows:
        ids = found.setdefault(reason, [])
        if len(ids) < most:
            ids.append(f"row {row} of {Path(source).name}" if id_ is None else id_)
    return found


def stays_here() -> NoReturn:
    """Raise TypeError: examples hold content, which no object store, file or other process gets to see."""
    raise TypeError("examples stay in the process that read them: send the DataSpec, and read it there")
