"""A training's points where people look for them: a CSV file always, TensorBoard where it is installed.

On Ray Train the same writers are called by its own callback, in fit.py, which is told of no end: so every point is on the disk when
the call returns. Cost: a line a point, and a sync of TensorBoard's file.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from raystore.fine_tune.loop.points import Point, Report
from raystore.layout import disk_full_is_said

_COLUMNS = [f.name for f in fields(Point)]
_SHOWN = ("loss", "learning_rate", "variance", "rank", "val_accuracy", "val_precision")
_PHASES = ("pretrain", "train")
_DOING = "writing the curve of a fine-tuning"


class CsvLog:
    """`points.csv`. A run that goes on from an earlier step replaces the lines that came after it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._points = read_points(path)
        self._is_whole = False  # a kill or a full disk may have left half a line, which nothing may be appended to

    def __call__(self, point: Point) -> None:
        """Raises DiskFull; the lines before stay."""
        before = [p for p in self._points if _place(p) < _place(point)]
        appends = self._is_whole and len(before) == len(self._points)
        self._points, self._is_whole = [*before, point], False
        with disk_full_is_said(self._path.parent, _DOING):
            if appends:
                with self._path.open("a", encoding="utf-8", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerow(_cells(point))
            else:
                self._write_whole()
        self._is_whole = True

    def _write_whole(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(_COLUMNS)
                writer.writerows(_cells(point) for point in self._points)
            os.replace(part, self._path)
        finally:
            part.unlink(missing_ok=True)


class TensorBoardLog:
    """An event file that TensorBoard shows, written by tensorboardX.

    Its SummaryWriter is not used: that hands events to a thread, which keeps the last ones of a process that is killed, and which a
    full disk ends, after which the training would wait for it for ever.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]

        self._folder = folder
        with disk_full_is_said(folder, _DOING):
            folder.mkdir(parents=True, exist_ok=True)
            # Its own name holds the second alone, and whoever goes on from a checkpoint may begin in the same.
            self._writer = EventsWriter(str(folder / "events"), f".{len(list(folder.iterdir()))}")

    def __call__(self, point: Point) -> None:
        """Raises DiskFull."""
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboardX.summary import scalar  # type: ignore[import-untyped]

        with disk_full_is_said(self._folder, _DOING):
            for name in _SHOWN:
                if (value := getattr(point, name)) is not None:
                    said = scalar(f"{point.phase}/{name}", value)
                    self._writer.write_event(Event(wall_time=time.time(), step=point.step, summary=said))
            self._writer.flush()

    def close(self) -> None:
        """Raises DiskFull."""
        with disk_full_is_said(self._folder, _DOING):
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
