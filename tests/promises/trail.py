"""What content could leave behind: the places that are searched for it, what was said, and output at its loudest.

Two modules send content through every door (`test_protected_path.py`, `test_protected_images.py`), each with marks of
its own that stand nowhere else in the world, and then search the bytes of everything here with `search.py`.
"""

from __future__ import annotations

import logging
import os
import pickle
import resource
import secrets
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.promises.search import files_holding, spellings_in

KEPT = f"kq{secrets.token_hex(9)}"  # in kept columns, which may be stored
CONTROL = f"cq{secrets.token_hex(9)}"
TOO_LONG = 100_001  # characters of a text that is refused
_TEMPORARY = ("rs-", "core", "plasma", "ray", "haproxy", "tmp")  # what Ray, Serve, Pillow and raystore name theirs after
# Pillow writes what it finds in a file at level DEBUG; the others say what they load and run.
_LIBRARIES = ("PIL", "transformers", "sentence_transformers", "openvino", "nncf", "ray", "raystore", "lance", "torch")


def new_mark() -> str:
    return f"zq{secrets.token_hex(9)}"


@dataclass
class Trail:
    """What the doors left behind, and what they said. `mark` stands in every canary."""

    store: Path
    sources: Path
    output: Path
    started: float
    mark: str = field(default_factory=new_mark)
    messages: list[bytes] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    core_limits: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)

    def canary(self, number: int) -> str:
        self.used.add(number)
        return f"{self.mark}{number:02d}"

    def text(self, number: int, length: int = 0) -> str:
        """A text that says the canary at its beginning, in the middle and at its end."""
        canary = self.canary(number)
        words = f"{canary} the card never arrived {canary} hello wörld {canary}"
        return words if length <= len(words) else f"{words} {'x ' * ((length - 2 * len(words)) // 2)}{words}"

    def fails(self, call: Callable[[], object], *kinds: type[BaseException]) -> None:
        """The call fails with one of these, and its error is kept in every form that one can leave a process in."""
        with pytest.raises(kinds) as caught:
            call()
        error: BaseException | None = caught.value
        self.say("".join(traceback.format_exception(error)))
        while error is not None:
            self.say(f"{error} {error!r} {vars(error)}")
            self.messages.append(pickle.dumps(error))
            error = error.__cause__ or error.__context__

    def say(self, message: str) -> None:
        self.messages.append(message.encode("utf-8", "surrogateescape"))

    def said_with(self, mark: str) -> list[bytes]:
        """The beginnings of the messages that hold the mark."""
        return [message[:300] for message in self.messages if spellings_in([message], mark)]

    @property
    def session(self) -> Path:
        import ray

        return Path(ray._private.worker._global_node.get_session_dir_path())

    @property
    def places(self) -> list[Path]:
        """Folders and files where something could have been left; the session holds Ray's, Serve's and spill files."""
        here = [path for path in Path.cwd().glob("core*") if path.is_file()]
        temporary = Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm")
        new = [
            path
            for folder in dict.fromkeys(temporary)
            for path in folder.iterdir()
            if path.name.startswith(_TEMPORARY) and path.name != "ray"
            if changed(path) >= self.started
        ]
        return [self.store, self.session, self.output, *here, *new]

    def found(self, mark: str) -> dict[str, dict[str, set[str]]]:
        """By place, the files that hold the mark."""
        return {str(place): found for place in self.places if (found := files_holding(place, mark))}

    def remove_core_files(self) -> None:
        for core in Path.cwd().glob("core*"):  # as large as the worker was
            if core.is_file() and changed(core) >= self.started:
                core.unlink()


def changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def loudest_output_to(path: Path) -> Iterator[None]:
    """Standard output, standard error, every warning and every Python log record, at every level, in one file."""
    files = path.open("ab", buffering=0), path.open("a", encoding="utf-8")
    with files[0] as raw, files[1] as text, warnings.catch_warnings(), ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            stack.callback(stream.flush)
        for fd in (1, 2):
            before = os.dup(fd)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, fd)
            os.dup2(raw.fileno(), fd)
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        stack.callback(logging.captureWarnings, False)
        handler = logging.StreamHandler(text)
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        for name in ("", *_LIBRARIES):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.DEBUG)
        for name in ("httpx", "httpcore.http11", "httpcore.connection"):
            client = logging.getLogger(name)  # the caller's own, which logs the addresses it asks for
            stack.callback(setattr, client, "disabled", False)
            client.disabled = True
        yield


def allow_core_files() -> None:
    """Let Ray's processes, and the workers they start, write core files, as on a machine set up for debugging."""
    for process in psutil.Process().children(recursive=True):
        hard = resource.prlimit(process.pid, resource.RLIMIT_CORE)[1]
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (hard, hard))
