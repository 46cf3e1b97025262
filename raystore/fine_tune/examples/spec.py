"""What a fine-tuning reads: references, columns, split and classes. Picklable, JSON-able, and without any content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raystore.data.readers import Reference, SourceFile
from raystore.encoders.passport import Modality


@dataclass(frozen=True)
class Columns:
    """Which columns of the source files hold what. `text` and `image`, or `text` and `pair`, make pairs."""

    text: str | None = None
    image: str | None = None
    pair: str | None = None
    label: str | None = None
    parent: str | None = None
    id: str | None = None
    subject: str | None = None

    @property
    def views(self) -> tuple[tuple[str, Modality], ...]:
        """(column, modality) of each view; a picture stands before its text."""
        found: list[tuple[str, Modality]] = [(self.image, "image")] if self.image else []
        return tuple(found + [(name, "text") for name in (self.text, self.pair) if name])

    @property
    def named(self) -> dict[str, str]:
        """Role -> column, of those that are named."""
        return {role: column for role, column in asdict(self).items() if column}


@dataclass(frozen=True)
class DataSpec:
    """What a run trains on and is judged by; whoever has it reads the same examples.

    Attributes:
        references, test, pool: slices of the labelled data, of the files that form the test side whole (none: `split` says),
            and of unlabelled rows.
        sources: every file of the three, each once, as it was when it was planned.
        split: fractions of train, val and, without test files, test. An entity stands on one side.
        classes: the labels of the data, sorted, and `out_of_scope` behind them; `class_rows` how many rows of the data each
            has, 0 of what is out of scope.
        parents: the parent of each class, or nothing.
        out_of_scope: a label that is no class: its rows are on test alone.
    """

    references: tuple[Reference, ...]
    columns: Columns
    split: Mapping[str, float]
    sources: tuple[SourceFile, ...]
    test: tuple[Reference, ...] = ()
    pool: tuple[Reference, ...] = ()
    classes: tuple[str, ...] = ()
    class_rows: tuple[int, ...] = ()
    parents: tuple[str, ...] = ()
    out_of_scope: str | None = None

    @property
    def is_pairs(self) -> bool:
        return len(self.columns.views) > 1

    @property
    def n_learned(self) -> int:
        """How many of `classes` are learned from, the first ones; what is out of scope has the code behind them."""
        return len(self.classes) - (self.out_of_scope is not None)

    def record(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return asdict(self) | {"split": dict(self.split)}
