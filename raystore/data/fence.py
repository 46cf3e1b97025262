"""One hand commits at a time: a lease with a growing token, and a check at the very moment of the commit.

A writer takes the lease by creating the file `<token>.json` with the next number; creating is exclusive, so
one writer wins. It commits inside `Lease.committing()`, which Lance calls around the commit itself
(`commit_lock`): there a short file lock is taken and the token must still be the highest. So a writer that was
stopped and outlived its lease finds a higher token and commits nothing, however late it wakes up.

    killed    its process is gone (same host) or its lease runs out: the next writer goes on at once, or after `lease_s`
    stopped   the lease runs out; the late commit is refused. Stopped inside the commit itself, or between commits,
              it still holds the file lock: then, on this host, it is killed, since it can neither be waited for nor
              overtaken safely
    cut off   (another host) its lease runs out

`between_commits` takes the file lock without a lease, for a moment: a journal is written then (`journal.py`).
The wall clock decides only who waits how long, never whether a commit is safe.
Knows nothing of Lance, rows or ids. Cost: about 0.3 ms when nobody else writes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from raystore.errors import LeaseLost, WriterBlocked

log = logging.getLogger("raystore")

_KEPT_TOKENS = 8  # old token files kept, so that a waiter with a stale listing meets a name that exists
_OWNER_BYTES = 512  # of the file that says who is inside a commit: host, process, when it began; spaces fill it up
_MOMENT_S = 0.0005  # between two tries to get into the lock of commits
_PATIENCE_S = 2.0  # with who is inside it
_threads: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def _started(pid: int) -> str | None:
    """When the process began, in kernel ticks: tells a process from a later one with its number. None: it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] in "ZX" else after_name[19]


def _stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), **_process(os.getpid())}


@cache
def _process(pid: int) -> dict[str, Any]:
    return {"pid": pid, "started": _started(pid)}  # of this process: neither changes, and to read them takes 50 us


def _is_gone(holder: dict[str, Any]) -> bool:
    """True when the holder is known to be dead: a process of this host that no longer runs."""
    return holder.get("host") == socket.gethostname() and _started(int(holder["pid"])) != holder.get("started")


def _described(holder: dict[str, Any] | None) -> str:
    return f"process {holder['pid']} on {holder['host']}" if holder and holder["host"] else "an unknown process"


class Lease:
    """The right to commit, until it runs out or is released."""

    def __init__(self, folder: Path, token: int, lease_s: float, wait_s: float) -> None:
        self.folder = folder
        self.token = token
        self.lease_s = lease_s
        self.wait_s = wait_s
        self._renew_at = time.monotonic() + lease_s / 3
        self.raised: BaseException | None = None  # around the last commit: Lance reports it as a plain OSError

    @contextmanager
    def committing(self, version: int) -> Iterator[None]:  # noqa: ARG002  Lance passes the version it is about to write
        """Around the commit itself. Raises LeaseLost if another writer took over, and WriterBlocked if one stays inside its commit."""
        self.raised = None
        try:
            with _inside(self.folder, time.monotonic() + self.wait_s, self.lease_s):
                highest = _tokens(self.folder)[-1]
                if highest != self.token:
                    raise LeaseLost(folder=str(self.folder.parent), token=self.token, found=highest)
                yield
        except BaseException as error:
            self.raised = error
            raise

    def renew(self) -> None:
        """Count the lease from now, for work that outlasts one. Does nothing until a third has passed: call it often.

        Raises:
            LeaseLost: another writer took over; going on is in vain.
        """
        if time.monotonic() >= self._renew_at:
            highest = _tokens(self.folder)[-1]
            if highest != self.token:
                raise LeaseLost(folder=str(self.folder.parent), token=self.token, found=highest)
            part = _token_file(self.folder, self.lease_s)
            os.replace(part, self.folder / f"{self.token}.json")
            self._renew_at = time.monotonic() + self.lease_s / 3

    def release(self) -> None:
        """Let the next writer in at once. Where that cannot be said (a full disk), the lease runs out by itself."""
        with suppress(OSError):
            (self.folder / f"{self.token}.released").touch()


class Fence:
    """The writer fence of one table.

    Args:
        folder: where the tokens live, on the file system that holds the table.
        lease_s: how long a holder may go without finishing before another takes over.
        wait_s: how long to wait for the lease before WriterBlocked.
    """

    def __init__(self, folder: Path, *, lease_s: float = 10.0, wait_s: float = 60.0) -> None:
        self.folder = folder
        self.lease_s = lease_s
        self.wait_s = wait_s

    @contextmanager
    def hold(self, lease_s: float | None = None) -> Iterator[Lease]:
        """The lease, released at the end. Threads of one process queue up here first.

        Args:
            lease_s: for this once, instead of the fence's own.

        Raises:
            WriterBlocked: nobody let go within `wait_s`.
        """
        deadline = time.monotonic() + self.wait_s
        turn = _threads[str(self.folder)]
        if not turn.acquire(timeout=self.wait_s):
            raise WriterBlocked(
                folder=str(self.folder.parent), waited_s=self.wait_s, holder="another thread of this process"
            )
        try:
            lease = self._acquire(deadline, self.lease_s if lease_s is None else lease_s)
            try:
                yield lease
            finally:
                lease.release()
        finally:
            turn.release()

    def _acquire(self, deadline: float, lease_s: float) -> Lease:
        self.folder.mkdir(parents=True, exist_ok=True)
        pause_s = 0.002
        while True:
            tokens = _tokens(self.folder)
            last = tokens[-1] if tokens else 0
            holder = self._holder(last)
            if holder is None or _is_gone(holder) or time.time() > float(holder["expires"]):
                if self._create(last + 1, lease_s) and _tokens(self.folder)[-1] == last + 1:
                    lease = Lease(self.folder, last + 1, lease_s, self.wait_s)
                    try:
                        self._clear_commit(deadline)
                    except WriterBlocked:
                        lease.release()
                        raise
                    self._sweep(lease.token)
                    return lease
                continue
            if time.monotonic() > deadline:
                raise WriterBlocked(folder=str(self.folder.parent), waited_s=self.wait_s, holder=_described(holder))
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  jitter
            pause_s = min(pause_s * 1.5, 0.03)

    def _holder(self, token: int) -> dict[str, Any] | None:
        """Who holds this token; None when it is free."""
        if token == 0 or (self.folder / f"{token}.released").exists():
            return None
        path = self.folder / f"{token}.json"
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:  # torn by a power cut: no holder outlives one, but wait the lease out all the same
            return {"host": "", "pid": 0, "started": None, "expires": path.stat().st_mtime + self.lease_s}
        return record

    def _create(self, token: int, lease_s: float) -> bool:
        part = _token_file(self.folder, lease_s)
        try:
            os.link(part, self.folder / f"{token}.json")
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    @contextmanager
    def between_commits(self) -> Iterator[None]:
        """Nobody commits meanwhile, and nobody else is in here; without a lease, and for a moment only. Raises WriterBlocked."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
        with _inside(self.folder, time.monotonic() + self.wait_s, self.lease_s):
            yield

    def _clear_commit(self, deadline: float) -> None:
        """Wait until no earlier holder is inside its commit; whoever enters after this finds our token.

        Our own lease starts to count before this: being overtaken here is found at the commit, like anywhere else.
        """
        with _inside(self.folder, deadline, self.lease_s):
            pass

    def _sweep(self, token: int) -> None:
        for name in os.listdir(self.folder):
            number, _, kind = name.partition(".")
            if kind in ("json", "released") and int(number) < token - _KEPT_TOKENS:
                (self.folder / name).unlink(missing_ok=True)


def _token_file(folder: Path, lease_s: float) -> Path:
    """A lease of this process that runs from now, under a name that is no token yet."""
    part = folder / f".{uuid.uuid4().hex}"
    try:
        part.write_text(json.dumps({**_me(), "expires": time.time() + lease_s}), encoding="utf-8")
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _tokens(folder: Path) -> list[int]:
    return sorted(int(name[:-5]) for name in os.listdir(folder) if name.endswith(".json"))


def _lock_file(folder: Path) -> BinaryIO:
    return os.fdopen(os.open(folder / "commit.lock", os.O_RDWR | os.O_CREAT, 0o666), "r+b")


@contextmanager
def _inside(folder: Path, deadline: float, lease_s: float) -> Iterator[None]:
    """In the lock of commits. Who was stopped in it, on this host, is killed when that lasts longer than the patience.

    Raises:
        WriterBlocked: somebody stayed in it until the deadline.
    """
    began, patience_s = time.monotonic(), min(_PATIENCE_S, lease_s)
    with _lock_file(folder) as file:
        while not _locked(file):
            inside = _commit_owner(folder)
            if time.monotonic() > began + patience_s and inside and inside["host"] == socket.gethostname():
                pid = int(inside["pid"])
                if _stopped(pid) and _started(pid) == inside["started"]:
                    log.warning("killing process %s: it was stopped inside a commit to %s", pid, folder.parent)
                    # Another user's process cannot be killed: it is waited for like any other, until the deadline.
                    with suppress(PermissionError):
                        os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                waited_s = time.monotonic() - began
                raise WriterBlocked(folder=str(folder.parent), waited_s=waited_s, holder=_described(inside))
            time.sleep(_MOMENT_S)
        try:
            _say_owner(file, json.dumps(_me()))
            yield
        finally:
            _say_owner(file, "")  # or who is stopped elsewhere would be taken for one who is stopped in here
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a copy that a fork made


def _say_owner(file: BinaryIO, who: str) -> None:
    # Written over in place: ext4 holds up whoever cuts a file to nothing that is being written back, some 2 ms.
    os.pwrite(file.fileno(), who.encode().ljust(_OWNER_BYTES), 0)


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process ends, however it ends
    except BlockingIOError:
        return False
    return True


def _commit_owner(folder: Path) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = json.loads((folder / "commit.lock").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner
