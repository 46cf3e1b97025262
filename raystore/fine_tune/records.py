"""What is kept of a fine-tuning: one numbered record a run, with everything that is needed to repeat and to judge it.

    runs/<name>/<n>/run.json, points.csv          published whole, never edited
    runs/<name>/notes/<n>/live/<m>.json           when its encoder was made live, on what proof, and why where it was forced

It holds settings, counts, curves, ids of suspected rows and of the proof's neighbours; no item.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.catalog import Catalog
from raystore.encoders.records import KIND
from raystore.errors import RunNotFound, StoreUnusable
from raystore.fine_tune.loop.points import Trained
from raystore.fine_tune.proof.proof import Proof
from raystore.fine_tune.recipe import Recipe
from raystore.layout import Layout, disk_full_is_said, names, numbers, publish, read_json, staging, write_json

_REFERENCE = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,62})(@(?P<number>[1-9]\d{0,8}))?")


class RunRecord(BaseModel):
    """A finished run. `key` is the digest of what was asked: the same call again finds it instead of training again."""

    model_config = ConfigDict(frozen=True)

    name: str
    number: int = 0
    key: str
    started: str
    ended: str
    base: str  # a label
    base_fingerprint: str
    encoder: str  # the tuned one's label
    fingerprint: str
    model: int  # its folder's number
    recipe_name: str | None
    recipe: Recipe
    workers: int
    data: dict[str, Any]  # files with their sizes, columns, split, digest, rows by side, leaks, rows set aside
    trained: dict[str, Any]
    proof: dict[str, Any]
    require: tuple[str, ...]
    fell: tuple[str, ...] = ()  # sentences: required figures that fell
    libraries: dict[str, str] = {}

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def training(self) -> Trained:
        return Trained.from_dict(self.trained)

    @property
    def judged(self) -> Proof:
        return Proof.model_validate(self.proof)


def publish_run(layout: Layout, record: RunRecord, points: Path | None) -> RunRecord:
    """The record under its number, with the file of its points beside it."""
    folder = layout.runs(record.name)
    with disk_full_is_said(folder, "keeping a run's record"), staging(layout.tmp) as stage:
        write_json(stage / "run.json", record.model_dump(mode="json", exclude={"number"}), layout.tmp)
        if points is not None and points.is_file():
            (stage / "points.csv").write_bytes(points.read_bytes())
        number = publish(stage, folder)
    return _read(layout, record.name, number)


class Runs:
    """The runs of a store: `names()`, `of(name)`, `get("minilm-tickets@2")` (without a number its newest)."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._layout = catalog.layout

    def __repr__(self) -> str:
        return f"Runs({', '.join(self.names()) or 'none'})"

    def names(self) -> list[str]:
        return names(self._layout.runs())

    def of(self, name: str) -> list[RunRecord]:
        """Oldest first; none where there is no such name."""
        return [_read(self._layout, name, number) for number in numbers(self._layout.runs(name))]

    def get(self, reference: str) -> RunRecord:
        """Raises RunNotFound with the runs there are."""
        found = _REFERENCE.fullmatch(str(reference))
        if found is not None:
            known = numbers(self._layout.runs(found["name"]))
            number = int(found["number"]) if found["number"] else (known or [0])[-1]
            if number in known:
                return _read(self._layout, found["name"], number)
        existing = [f"{name}@{n}" for name in self.names() for n in numbers(self._layout.runs(name))]
        raise RunNotFound(name=str(reference)[:80], where=f"store '{self._layout.root}'", existing=existing)

    def with_key(self, name: str, key: str) -> RunRecord | None:
        """The newest run of this name that was asked the same."""
        return next((run for run in reversed(self.of(name)) if run.key == key), None)

    def is_live(self, record: RunRecord) -> bool:
        """Whether the run's name means its encoder at present."""
        alias = self._catalog.alias(KIND, record.name)
        return alias is not None and alias.get("fingerprint") == record.fingerprint

    def points_file(self, record: RunRecord) -> Path:
        return self._layout.runs(record.name) / str(record.number) / "points.csv"

    def notes_folder(self, record: RunRecord) -> Path:
        return self._layout.run_notes(record.name, record.number)

    def decisions(self, record: RunRecord) -> list[dict[str, Any]]:
        """When and why its encoder was made live, oldest first."""
        folder = self.notes_folder(record) / "live"
        return [read_json(folder / f"{number}.json") for number in numbers(folder)]


def _read(layout: Layout, name: str, number: int) -> RunRecord:
    path = layout.runs(name) / str(number) / "run.json"
    try:
        return RunRecord.model_validate({**read_json(path), "number": number})
    except (OSError, ValueError, ValidationError):
        raise StoreUnusable(
            root=str(layout.root),
            found=f"the record of run '{name}@{number}' cannot be read",
            advice=f"Restore '{path}' from a backup, or remove its folder.",
        ) from None
