"""Work on an index while searches go on: folding rows into it, publishing shards that were written again.

It runs in a process of its own: a search then waits for no lock of this interpreter, and a thread that is inside FAISS when
the interpreter ends would abort it. There is one at a time, it ends with this process, and it may be killed at any time:
what it does is published at its end or not at all. A failure is logged and never raised into a search.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

from raystore.errors import RaystoreError
from raystore.index.live.base import mend
from raystore.index.live.fold import fold_index
from raystore.index.manifest import read_manifest
from raystore.index.source import open_source
from raystore.layout import Layout

log = logging.getLogger("raystore")

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from raystore.index.live.upkeep import main; main(*sys.argv[2:])"
_FAILED, _NOTHING = 1, 3  # exit codes
_AGAIN_S = {0: 0.0, _NOTHING: 10.0}  # it waits so long after what came out: nothing where another process is at it
_AGAIN_FAILED_S = 60.0
_NICE = 10  # searches go first


class Upkeep:
    """The background process of one index. Safe to use from many threads."""

    def __init__(self, layout: Layout, collection: str, fingerprint: str) -> None:
        self._index = (str(layout.root.resolve()), collection, fingerprint)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._not_before = 0.0
        self._mended: set[int] = set()

    def fold(self) -> None:
        """Begin to fold, unless something is going on or has just failed."""
        self._start("fold")

    def mend(self, number: int, problems: Mapping[int, str]) -> None:
        """Begin to write the bad shards of that index again, once."""
        if number not in self._mended and self._start("mend", str(number), json.dumps(dict(problems))):
            self._mended.add(number)

    def stop(self) -> None:
        """End what is going on."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _start(self, task: str, *arguments: str) -> bool:
        with self._lock:
            if self._process is not None or time.monotonic() < self._not_before:
                return False
            paths = json.dumps([path for path in sys.path if path])
            self._process = process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, paths, task, *self._index, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the searches
            )
        weakref.finalize(self, _end, process)
        threading.Thread(target=_await, args=(weakref.ref(self), process, self._index[1], task), daemon=True).start()
        return True

    def ended(self, process: subprocess.Popen[str], code: int) -> bool:
        """Whether it ended by itself; another may then begin."""
        with self._lock:
            if self._process is not process:
                return False
            self._process = None
            self._not_before = time.monotonic() + _AGAIN_S.get(code, _AGAIN_FAILED_S)
            return True


def _await(upkeep: weakref.ref[Upkeep], process: subprocess.Popen[str], collection: str, task: str) -> None:
    _, said = process.communicate()
    mine = upkeep()
    if mine is not None and mine.ended(process, process.returncode) and process.returncode not in _AGAIN_S:
        lines = said.strip().splitlines()
        reason = lines[-1] if lines and process.returncode == _FAILED else f"its process ended with {process.returncode}"
        log.warning("collection '%s': the %s of its index failed and is tried again: %s", collection, task, reason)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def main(task: str, root: str, collection: str, fingerprint: str, *arguments: str) -> None:
    """What the process runs."""
    os.nice(_NICE)
    layout = Layout(Path(root))
    try:
        source = open_source(root, collection)
        if task == "fold":
            done = fold_index(source, layout, collection, fingerprint)
            sys.exit(_NOTHING if done is None else 0)
        number, problems = int(arguments[0]), {int(shard): said for shard, said in json.loads(arguments[1]).items()}
        mend(source, layout, number, read_manifest(layout, collection, fingerprint, number), problems)
    except RaystoreError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(_FAILED)
    except (OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"{type(error).__name__}\n")  # what another library says may quote a row
        sys.exit(_FAILED)
