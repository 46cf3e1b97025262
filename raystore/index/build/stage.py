"""A folder under tmp/ in which long work goes on where it was killed: a plan, a record a finished part, a lock.

    tmp/<name>-<digest of the arguments>/   lock, plan.json, files/, 0.json, 1.json, ..., work-<n>-<uuid>/

Who asks for the same work with the same arguments gets the same folder, finds the plan (what was pinned when the work
began) and the parts that are done, and does the rest. The lock is the kernel's, so it ends with its process, however
that ends. A part is written in a folder of its own and stands in `files` before its record does. Knows nothing of indexes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from raystore.errors import InvalidArguments, JobFailed
from raystore.layout import read_json, sync, write_json

KEPT_S = 86_400.0  # work that nobody took up for so long is given up


@dataclass(frozen=True)
class Stage:
    """The folder of one piece of work, locked by whoever holds this."""

    folder: Path

    @property
    def files(self) -> Path:
        """What was finished; the caller publishes it by a rename."""
        return self.folder / "files"

    def plan(self) -> dict[str, Any] | None:
        """What was pinned when the work began, None where it begins now."""
        path = self.folder / "plan.json"
        return read_json(path) if path.exists() else None

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Pin the plan; what an earlier one left is gone."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        self.files.mkdir()
        write_json(self.folder / "plan.json", plan, self.folder)

    def finished(self) -> dict[int, dict[str, Any]]:
        """The records of the parts that are done, by number."""
        found = [path for path in self.folder.glob("*.json") if path.stem.isdigit()]
        return {int(path.stem): read_json(path) for path in sorted(found, key=lambda path: int(path.stem))}

    def forget(self, part: int) -> None:
        """The part is to be done again."""
        (self.folder / f"{part}.json").unlink(missing_ok=True)


@contextmanager
def part_folder(stage: Path, part: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """An empty folder to write one part into, and a record to fill in; when the block ends the files stand in the stage's
    `files`, and then the record beside them. For any process: the stage's holder need not be this one."""
    work = stage / f"work-{part}-{uuid.uuid4().hex[:12]}"
    work.mkdir()
    record: dict[str, Any] = {}
    try:
        yield work, record
        for file in sorted(work.iterdir()):
            sync(file)
            os.replace(file, stage / "files" / file.name)
        sync(stage / "files")
        write_json(stage / f"{part}.json", record, stage)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def resumable(tmp: Path, name: str, arguments: Mapping[str, Any], job: str) -> Iterator[Stage]:
    """The stage of this work, locked; gone after the block, but kept for the next call where the block fails with parts done.

    Work of this name that nobody took up for a day is removed first.

    Raises:
        JobFailed: a live process is doing this very work.
    """
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:16]
    folder = tmp / f"{name}-{digest}"
    _sweep(tmp, name)
    with _locked(folder) as lock:
        if lock is None:
            raise JobFailed(
                job=job,
                reason="another process is at the very same work",
                advice="Wait for it to end, or end it: the next call goes on from where it was.",
            )
        stage = Stage(folder)
        try:
            yield stage
        except BaseException as error:
            if isinstance(error, InvalidArguments) or not stage.finished():  # what was refused is refused again
                shutil.rmtree(folder, ignore_errors=True)
            else:
                os.utime(folder / "lock")
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[IO[str] | None]:
    """The folder's lock, held; None where a live process has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / "lock").open("a+", encoding="utf-8")
        except FileNotFoundError:  # its holder finished in this moment and took the folder away
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            try:
                same = os.path.samestat(os.fstat(file.fileno()), (folder / "lock").stat())
            except FileNotFoundError:
                same = False
            if same:
                yield file
                return


def _sweep(tmp: Path, name: str) -> None:
    for folder in tmp.glob(f"{name}-*"):
        try:
            abandoned = time.time() - (folder / "lock").stat().st_mtime > KEPT_S
        except OSError:
            continue
        if abandoned:
            with _locked(folder) as lock:
                if lock is not None:
                    shutil.rmtree(folder, ignore_errors=True)
