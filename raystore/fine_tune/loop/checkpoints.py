"""Where a training stands, on the disk: the last state to go on from, the best weights, and in the end the result.

    <folder>/last-<step>/      weights.safetensors, optimiser.safetensors, state.json: one, the newest
    <folder>/best-<step>/      weights.safetensors: one
    <folder>/data.json         what was read, until the result says it
    <folder>/done/             weights.safetensors, trained.json

Each is written beside its place, synced, and renamed; only then does what it replaces go. So a full disk or a kill leaves the one
before. Nothing of the training's content is in them: weights, counts, losses, a few ids of rows.
Cost: the weights once and AdamW's two moments of them, three times the size of what learns.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raystore.fine_tune.loop.points import Trained
from raystore.layout import disk_full_is_said, read_json, sync, sync_tree, write_json

if TYPE_CHECKING:
    from torch import Tensor

_PART = ".part"
_DATA = "data.json"


@dataclass(frozen=True)
class Saved:
    """Where a training stood after `step`. `facts` is JSON-ready."""

    step: int
    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoints(Protocol):
    @property
    def stay(self) -> bool:
        """Whether what was saved outlives this process."""

    def note(self, data: Mapping[str, Any]) -> None:
        """What was read (`loop.work.about_data`), for the record of a run that an alarm stops."""

    def last(self) -> Saved | None: ...
    def save(self, saved: Saved) -> None: ...
    def best(self) -> tuple[int, dict[str, Tensor]] | None: ...
    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None: ...
    def done(self) -> tuple[Trained, dict[str, Tensor]] | None: ...
    def finish(self, trained: Trained, weights: Mapping[str, Tensor]) -> None: ...
    def phase(self, name: str) -> Checkpoints:
        """Those of another phase of the same run."""


class InMemory:
    """None on the disk: for trials and tests. What was saved can be gone on from while this object lives."""

    stay = False

    def __init__(self) -> None:
        self._last: Saved | None = None
        self._best: tuple[int, dict[str, Tensor]] | None = None
        self._done: tuple[Trained, dict[str, Tensor]] | None = None
        self._phases: dict[str, InMemory] = {}

    def note(self, data: Mapping[str, Any]) -> None:
        """Nobody asks: a trial has no record."""

    def last(self) -> Saved | None:
        return self._last

    def save(self, saved: Saved) -> None:
        self._last = saved

    def best(self) -> tuple[int, dict[str, Tensor]] | None:
        return self._best

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        self._best = (step, dict(weights))

    def done(self) -> tuple[Trained, dict[str, Tensor]] | None:
        return self._done

    def finish(self, trained: Trained, weights: Mapping[str, Tensor]) -> None:
        self._done = (trained, dict(weights))

    def phase(self, name: str) -> InMemory:
        return self._phases.setdefault(name, InMemory())


class OnDisk:
    """In a folder that every worker sees; `writes` is true of the first worker alone, the others read."""

    stay = True

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self._writes = writes

    def phase(self, name: str) -> OnDisk:
        return OnDisk(self.folder / name, writes=self._writes)

    def note(self, data: Mapping[str, Any]) -> None:
        """Raises DiskFull."""
        if self._writes:
            write_json(self.folder / _DATA, data, self.folder)

    def noted(self) -> dict[str, Any]:
        """What `note` was told last; empty where it was told nothing, or the run is done."""
        path = self.folder / _DATA
        return read_json(path) if path.is_file() else {}

    def last(self) -> Saved | None:
        found = self._newest("last")
        if found is None:
            return None
        facts = json.loads((found / "state.json").read_text(encoding="utf-8"))
        return Saved(_number(found), _read(found / "weights.safetensors"), _read(found / "optimiser.safetensors"), facts)

    def save(self, saved: Saved) -> None:
        """Raises DiskFull; the checkpoint before stays."""
        with self._replacing("last", saved.step) as stage:
            if stage is not None:
                _write(stage / "weights.safetensors", saved.weights)
                _write(stage / "optimiser.safetensors", saved.optimiser)
                (stage / "state.json").write_text(json.dumps(dict(saved.facts)), encoding="utf-8")

    def best(self) -> tuple[int, dict[str, Tensor]] | None:
        found = self._newest("best")
        return None if found is None else (_number(found), _read(found / "weights.safetensors"))

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Raises DiskFull; the best one before stays."""
        with self._replacing("best", step) as stage:
            if stage is not None:
                _write(stage / "weights.safetensors", weights)

    def done(self) -> tuple[Trained, dict[str, Tensor]] | None:
        folder = self.folder / "done"
        if not folder.is_dir():
            return None
        trained = Trained.from_dict(json.loads((folder / "trained.json").read_text(encoding="utf-8")))
        return trained, _read(folder / "weights.safetensors")

    def finish(self, trained: Trained, weights: Mapping[str, Tensor]) -> None:
        """The result; what it was made by is not needed any more and goes."""
        if not self._writes:
            return
        with self._staged("done") as stage:
            _write(stage / "weights.safetensors", weights)
            (stage / "trained.json").write_text(json.dumps(trained.to_dict()), encoding="utf-8")
        for kind in ("last", "best"):
            for old in self._all(kind):
                shutil.rmtree(old, ignore_errors=True)
        (self.folder / _DATA).unlink(missing_ok=True)

    def _all(self, kind: str) -> list[Path]:
        """Whole ones, oldest first."""
        found = [p for p in self.folder.glob(f"{kind}-*") if p.name.removeprefix(f"{kind}-").isdigit()]
        return sorted(found, key=_number)

    def _newest(self, kind: str) -> Path | None:
        return next(reversed(self._all(kind)), None)

    @contextmanager
    def _replacing(self, kind: str, step: int) -> Iterator[Path | None]:
        """A folder to write into, which then stands for all of its kind; None where another worker writes."""
        if not self._writes:
            yield None
            return
        before = self._all(kind)
        with self._staged(f"{kind}-{step}") as stage:
            yield stage
        for old in before:
            if _number(old) != step:
                shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def _staged(self, name: str) -> Iterator[Path]:
        target, stage = self.folder / name, self.folder / f"{name}{_PART}"
        with disk_full_is_said(self.folder, "writing a checkpoint of a fine-tuning"):
            shutil.rmtree(stage, ignore_errors=True)
            try:
                stage.mkdir(parents=True)
                yield stage
                sync_tree(stage)
                shutil.rmtree(target, ignore_errors=True)  # the same step again, after a restart
                stage.rename(target)
                sync(self.folder)
            finally:
                shutil.rmtree(stage, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # it says the operating system's error in words
        raise OSError(str(error)) from None


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors
