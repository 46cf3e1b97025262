"""A snapshot in the making: the plan, the place to work in, and what has come of it so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raystore.catalog import Catalog
from raystore.data.query.engine import SqlEngine
from raystore.data.snapshots.plan import Plan
from raystore.data.snapshots.split import SIDES, SplitRule
from raystore.data.snapshots.work import Work
from raystore.errors import SnapshotRefused


@dataclass
class Making:
    """What every step is handed; each works on table `rows` of `work`, whose column `out` says why a row is left out.

    `known` is the spec of the snapshot that is made again, `frozen` are its rows: what a step learned from the rows as a whole
    (cuts of time, caps, weights of classes, sides of entities) is taken from these, so that a row erased since moves no other.
    Otherwise they are None, and what a step learns goes to `learned`, or `split`. `unseen` counts rows of the collection that
    a given moment hides, by the reason; `conflicts` is None where the label rule does not say what it chooses from.
    """

    catalog: Catalog
    engine: SqlEngine
    work: Work
    plan: Plan
    known: Mapping[str, Any] | None = None
    frozen: pa.Table | None = None
    split: SplitRule | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    hash: str = ""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    by_class: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    conflicts: int | None = 0
    unseen: dict[str, int] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return sum(self.counts.values())

    def refuse(self, problems: Sequence[str]) -> None:
        if problems:
            raise SnapshotRefused(name=self.plan.name, problems=problems)

    def leave_out(self, reason: str, where: str) -> None:
        """Leave out the rows that are in so far and where the condition holds; a condition of null leaves a row in."""
        said = reason.replace("'", "''")
        self.work.connection.execute(f"UPDATE rows SET out = '{said}' WHERE out IS NULL AND ({where})")  # noqa: S608  our own text

    def record(self) -> dict[str, Any]:
        """The spec: the plan, what was learned, and how the rows are spread."""
        record = {**self.plan.record(), "encoders": self.encoders, **self.learned}
        if self.split is not None:
            record["split"] = self.split.record()
        return {
            **record,
            "hash": self.hash,
            "counts": self.counts,
            "classes": {label: sum(sides.values()) for label, sides in self.by_class.items()},
            "by_class": self.by_class,
            "left_out": self.left_out,
            "conflicts": self.conflicts,
        }
