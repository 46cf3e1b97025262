"""What is kept of a fine-tuning: one numbered record a run, with everything that is needed to repeat and to judge it.

    runs/<name>/<n>/run.json, points.csv          published whole, never edited
    runs/<name>/<n>/tensorboard/                  where it was written
    runs/<name>/notes/<n>/live/<m>.json           when its encoder was made live, on what proof, and why where it was forced

A run that an alarm stopped is a record too, with the alarm's sentence and without an encoder. None of them holds an item: they hold
settings, counts, curves, ids of suspected rows and of the proof's neighbours.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.catalog import Catalog
from raystore.encoders.records import KIND
from raystore.errors import InvalidArguments, RunNotFound, StoreUnusable
from raystore.fine_tune.loop.points import Trained
from raystore.fine_tune.proof.proof import Proof
from raystore.fine_tune.recipe import Recipe
from raystore.layout import Layout, disk_full_is_said, names, numbers, publish, read_json, staging, write_json

_REFERENCE = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,62})(@(?P<number>[1-9]\d{0,8}))?")


class Run(BaseModel):
    """What is known of every run. `key` is the digest of what was asked: the same call again finds a finished one."""

    model_config = ConfigDict(frozen=True)

    name: str
    number: int = 0
    key: str
    started: str
    ended: str
    base: str  # a label
    base_fingerprint: str
    recipe_name: str | None
    recipe: Recipe
    workers: int
    data: dict[str, Any]  # files with their sizes, columns, split; digest, rows by side, leaks, rows set aside
    trained: dict[str, Any]
    libraries: dict[str, str] = {}

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def training(self) -> Trained:
        return Trained.from_dict(self.trained)


class RunRecord(Run):
    """A finished run."""

    status: Literal["finished"] = "finished"
    encoder: str  # the tuned one's label
    fingerprint: str
    model: int  # its folder's number
    proof: dict[str, Any]
    standing: dict[str, Any] | None = None  # a proof too: from what the name meant to this one, where that was not the base
    require: tuple[str, ...]
    show: tuple[str, ...] = ()
    fell: tuple[str, ...] = ()  # sentences: what stands against making it live

    @property
    def unchanged(self) -> bool:
        """Whether the encoder is the base itself: no step's weights were better than those before the first."""
        return self.fingerprint == self.base_fingerprint

    @property
    def judged(self) -> Proof:
        return Proof.model_validate(self.proof)

    @property
    def against_standing(self) -> Proof | None:
        return None if self.standing is None else Proof.model_validate(self.standing)


class StoppedRun(Run):
    """A run that an alarm stopped, `reason` being its sentence. The same call goes on from its last good checkpoint."""

    status: Literal["stopped"] = "stopped"
    reason: str


AnyRun: TypeAlias = RunRecord | StoppedRun
_Kind = TypeVar("_Kind", RunRecord, StoppedRun)


def publish_run(layout: Layout, record: _Kind, logs: Path) -> _Kind:
    """The record under its number. What `logs` holds of points.csv and tensorboard/ is kept beside it."""
    folder = layout.runs(record.name)
    with disk_full_is_said(folder, "keeping a run's record"), staging(layout.tmp) as stage:
        write_json(stage / "run.json", record.model_dump(mode="json", exclude={"number"}), layout.tmp)
        if (logs / "points.csv").is_file():
            shutil.copyfile(logs / "points.csv", stage / "points.csv")
        if (logs / "tensorboard").is_dir():
            shutil.copytree(logs / "tensorboard", stage / "tensorboard")
        number = publish(stage, folder)
    return type(record).model_validate({**read_json(folder / str(number) / "run.json"), "number": number})


class Runs:
    """The runs of a store: `names()`, `of(name)`, `get("minilm-tickets@2")` (without a number its newest).

    Those that an alarm stopped are among them, as StoppedRun.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._layout = catalog.layout

    def __repr__(self) -> str:
        return f"Runs({', '.join(self.names()) or 'none'})"

    def names(self) -> list[str]:
        return names(self._layout.runs())

    def of(self, name: str) -> list[AnyRun]:
        """Oldest first; none where there is no such name."""
        return [_read(self._layout, name, number) for number in numbers(self._layout.runs(name))]

    def get(self, reference: str) -> AnyRun:
        """Raises RunNotFound with the runs there are."""
        found = _REFERENCE.fullmatch(str(reference))
        if found is not None:
            known = numbers(self._layout.runs(found["name"]))
            number = int(found["number"]) if found["number"] else (known or [0])[-1]
            if number in known:
                return _read(self._layout, found["name"], number)
        existing = [f"{name}@{n}" for name in self.names() for n in numbers(self._layout.runs(name))]
        raise RunNotFound(name=str(reference)[:80], where=f"store '{self._layout.root}'", existing=existing)

    def shown(self, reference: str) -> AnyRun:
        """As `get`; without a number the newest that was finished, where there is one."""
        done = [run for run in self.of(reference) if isinstance(run, RunRecord)] if reference in self.names() else []
        return done[-1] if done else self.get(reference)

    def finished(self, reference: str) -> RunRecord:
        """As `shown`.

        Raises:
            RunNotFound; InvalidArguments: it was stopped, so there is no encoder.
        """
        found = self.shown(reference)
        if isinstance(found, StoppedRun):
            problem = f"{found.label} has no encoder, only a record (runs.get('{found.label}')): {_bare(found.reason)}"
            raise InvalidArguments(call=f"run('{reference}')", problems=[problem])
        return found

    def with_key(self, name: str, key: str) -> RunRecord | None:
        """The newest finished run of this name that was asked the same."""
        return next((run for run in reversed(self.of(name)) if isinstance(run, RunRecord) and run.key == key), None)

    def means(self, name: str) -> str | None:
        """The fingerprint that the name means at present."""
        alias = self._catalog.alias(KIND, name)
        return None if alias is None else str(alias["fingerprint"])

    def is_live(self, record: AnyRun) -> bool:
        """Whether the run's name means its encoder at present; never where that is the base itself."""
        if not isinstance(record, RunRecord) or record.unchanged:
            return False
        return self.means(record.name) == record.fingerprint

    def was_live(self, record: RunRecord) -> bool:
        """Whether the run's name means its encoder, or meant it once."""
        folder = self._layout.aliases(KIND, record.name)
        return any(read_json(folder / f"{n}.json").get("fingerprint") == record.fingerprint for n in numbers(folder))

    def notes_folder(self, record: RunRecord) -> Path:
        return self._layout.run_notes(record.name, record.number)

    def decisions(self, record: RunRecord) -> list[dict[str, Any]]:
        """When and why its encoder was made live, oldest first."""
        folder = self.notes_folder(record) / "live"
        return [read_json(folder / f"{number}.json") for number in numbers(folder)]


def _bare(sentences: str) -> str:
    """Without the last full stop, for the end of another sentence."""
    return sentences.removesuffix(".")


def _read(layout: Layout, name: str, number: int) -> AnyRun:
    path = layout.runs(name) / str(number) / "run.json"
    try:
        about = {**read_json(path), "number": number}
        kind = StoppedRun if about.get("status") == "stopped" else RunRecord
        return kind.model_validate(about)
    except (OSError, ValueError, ValidationError):
        raise StoreUnusable(
            root=str(layout.root),
            found=f"the record of run '{name}@{number}' cannot be read",
            advice=f"Restore '{path}' from a backup, or remove its folder.",
        ) from None
