"""A training's points where people look for them: a CSV file always, TensorBoard where it is installed.

On Ray Train the same writers are called by its own callback, in fit.py. Cost: a line a point.
"""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from raystore.fine_tune.loop.points import Point, Report

_COLUMNS = [f.name for f in fields(Point)]
_SHOWN = ("loss", "learning_rate", "variance", "rank", "val_accuracy", "val_precision")
_PHASES = ("pretrain", "train")


class CsvLog:
    """`points.csv`. A run that goes on from an earlier step replaces the lines that came after it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._points = read_points(path)

    def __call__(self, point: Point) -> None:
        again = bool(self._points) and _place(point) <= _place(self._points[-1])
        if again:
            self._points = [p for p in self._points if _place(p) < _place(point)]
        self._points.append(point)
        if again or not self._path.exists():
            self._write_whole()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(_cells(point))

    def _write_whole(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(_cells(point) for point in self._points)
        os.replace(part, self._path)


class TensorBoardLog:
    """Event files that TensorBoard shows, written by tensorboardX."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        self._writer = SummaryWriter(str(folder), flush_secs=5)

    def __call__(self, point: Point) -> None:
        for name in _SHOWN:
            if (value := getattr(point, name)) is not None:
                self._writer.add_scalar(f"{point.phase}/{name}", value, point.step)

    def close(self) -> None:
        self._writer.close()


class Logs:
    """Every log of a run's folder, and who else wants to hear. To be closed."""

    def __init__(self, folder: Path, *also: Report) -> None:
        self._all: list[Report] = [CsvLog(folder / "points.csv"), *also]
        self._board = TensorBoardLog(folder / "tensorboard") if has_tensorboard() else None
        if self._board is not None:
            self._all.append(self._board)

    def __call__(self, point: Point) -> None:
        for each in self._all:
            each(point)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def has_tensorboard() -> bool:
    return importlib.util.find_spec("tensorboardX") is not None


def read_points(path: Path) -> list[Point]:
    """What `CsvLog` wrote, in order; a last line that is not whole yet is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows: Sequence[dict[str, str]] = list(csv.DictReader(whole.splitlines()))
    return [Point.from_dict({name: _value(name, cell) for name, cell in row.items()}) for row in rows]


def _place(point: Point) -> tuple[int, int]:
    return _PHASES.index(point.phase), point.step


def _cells(point: Point) -> list[Any]:
    values = point.to_dict()
    return ["" if values[name] is None else values[name] for name in _COLUMNS]


def _value(name: str, cell: str) -> Any:
    if name == "phase":
        return cell
    if cell == "":
        return None
    return int(cell) if name in ("step", "steps", "rows") else float(cell)
