"""The folder of a run under way: one process in it at a time, and gone when nobody needs it any more.

The lock is the system's, so it ends with its process, however that ends. A folder is renamed before it is removed: who asks for the
same work at that moment begins in a new one, of which nothing is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raystore.errors import JobFailed

KEPT_S = 7 * 86_400.0  # a run that was killed or stopped, and that nobody took up for so long, is given up


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """This process alone is in the folder. Those beside it that were given up are removed.

    Raises:
        JobFailed: another process is in it.
    """
    with _locked(folder) as alone:
        if not alone:
            raise JobFailed(
                job="fine-tuning", reason="another process trains the same at this moment", advice="Wait for it."
            )
        for other in folder.parent.iterdir():
            if _given_up(other):
                forget(other)
        yield


def forget(folder: Path) -> None:
    """Remove it with all that is in it, unless a process is in it."""
    if not folder.is_dir():
        return
    with _locked(folder) as alone:
        if alone:
            gone = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _given_up(folder: Path) -> bool:
    """Whether nothing was written into it for so long."""
    try:
        written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # somebody removes it, or it is no folder
        return False
    return time.time() - written > KEPT_S


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder's lock is ours for the block."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / "lock").open("a")
        except FileNotFoundError:  # its holder took the folder away in this moment
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                same = os.path.samestat(os.fstat(file.fileno()), (folder / "lock").stat())
            except FileNotFoundError:
                same = False
            if same:
                yield True
                return
