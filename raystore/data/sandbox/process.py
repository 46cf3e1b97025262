"""SQL of people who may read and nothing else: each query runs in a process of its own, which is ended with it.

A process takes 0.25 s to load its libraries, so one waits ready; it serves one query and another takes its place.
The service never parses the query: the process reads it (`reader.py`) after it has closed itself in
(`jail.py`). It is started with no environment, no file open but two pipes, in an empty folder, in a session of
its own, which is killed whole when the answer is there or the time is up. Nothing of a query or a row is logged.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raystore.catalog import Catalog
from raystore.data.sandbox import frames
from raystore.data.sandbox.relations import folders, shown
from raystore.errors import DeadlineMissed, JobFailed, QueryBusy, QueryRefused, QueryStopped

_START_S = 60.0
_ABOUT_BYTES = 2**22  # columns and versions, as JSON
_BODY_SLACK = 2**22  # an Arrow stream's schema and padding
# malloc's and Arrow's pools reserve address space by the thread, which is what is limited here.
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "LANCE_CPU_THREADS": "1",
    "LANCE_IO_THREADS": "4",
}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
    "from raystore.data.sandbox.jail import enter; enter()\n"
    "from raystore.data.sandbox.child import main; main(int(sys.argv[2]))"
)
_OF_TIME = {-signal.SIGXCPU, -signal.SIGALRM}


@dataclass(frozen=True)
class SandboxLimits:
    """What one query may use; `memory_mb` beside the libraries, `at_once` queries in this process."""

    timeout_s: float = 10.0
    memory_mb: int = 1024
    max_rows: int = 10_000
    max_bytes: int = 2**24
    at_once: int = 2


@dataclass(frozen=True)
class Rows:
    """A query's answer: `body` is a JSON array of rows, or an Arrow stream, as the process wrote it."""

    columns: list[dict[str, str]]
    body: bytes
    row_count: int
    truncated: bool
    versions: dict[str, int]


class SqlSandbox:
    """Runs queries over some relations of a store. Safe in many threads; `close` it, or let it go."""

    def __init__(self, catalog: Catalog, limits: SandboxLimits) -> None:
        self.limits = limits
        self._catalog = catalog
        self._places = threading.BoundedSemaphore(limits.at_once)
        self._lock = threading.Lock()
        self._spare: _Process | None = None
        self._closed = False

    def run(
        self,
        sql: str,
        params: Mapping[str, Any],
        *,
        collections: Sequence[str],
        tables: Sequence[str] = (),
        limit: int,
        form: Literal["json", "arrow"] = "json",
        until: float | None = None,
    ) -> Rows:
        """The query's first rows, at most `limit` and the limits' `max_rows` and `max_bytes`.

        Args:
            params: by name; texts, numbers, booleans, null and lists of them.
            collections, tables: the relations that may be read.
            until: the time.monotonic() after which nobody waits for it.

        Raises:
            QueryRefused: it is no SELECT over these relations, does not bind, or failed at a value.
            QueryStopped: it met the limit of time or memory, or one row is over `max_bytes`.
            QueryBusy: as many queries are running as may.
            DeadlineMissed: `until` came first.
            JobFailed: no process could be started.

        Cost: the query's own, and some 30 ms; 0.25 s more for the first, and where queries come faster than spares start.
        """
        if not self._places.acquire(blocking=False):
            raise QueryBusy(limit=self.limits.at_once)
        try:
            lying = folders(self._catalog.layout, collections, tables)
            request = {
                "sql": sql,
                "params": dict(params),
                "folders": {name: str(folder) for name, folder in lying.items()},
                "limit": min(limit, self.limits.max_rows),
                "form": form,
                "limits": asdict(self.limits),
            }
            process = self._ready()
            try:
                return self._answer(process, request, frozenset(collections), until)
            finally:
                process.end()
        finally:
            self._places.release()
            self._prepare()

    def close(self) -> None:
        """End the process that waits; queries that run end by themselves."""
        with self._lock:
            self._closed, spare, self._spare = True, self._spare, None
        if spare is not None:
            spare.end()

    def _prepare(self) -> None:
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = _Process(self.limits.memory_mb)

    def _ready(self) -> _Process:
        """A process that waits for its query: the spare, or a new one where it is taken or died."""
        with self._lock:
            spare, self._spare = self._spare, None
        for process in (spare, None):
            process = process or _Process(self.limits.memory_mb)
            if process.is_ready():
                return process
            process.end()
        raise JobFailed(job="SQL", reason="its process did not start", advice="Run 'raystore doctor'.")

    def _answer(self, process: _Process, request: Mapping[str, Any], collections: Set[str], until: float | None) -> Rows:
        began = time.monotonic()
        longest = began + self.limits.timeout_s
        deadline = min(longest, until) if until is not None else longest
        try:
            frames.send(process.stdin, json.dumps(request).encode(), deadline)
            about = json.loads(frames.receive(process.stdout, deadline, max_bytes=_ABOUT_BYTES))
            if isinstance(about, list):  # the relations it reads; else it is refused already
                known = [self._shown(name, version, request["folders"], collections) for name, version in about]
                frames.send(process.stdin, json.dumps(known).encode(), deadline)
                about = json.loads(frames.receive(process.stdout, deadline, max_bytes=_ABOUT_BYTES))
            body = frames.receive(process.stdout, deadline, max_bytes=self.limits.max_bytes + _BODY_SLACK)
        except frames.FrameLateError:
            if deadline < longest:
                given_s = max(0.0, round(deadline - began, 3))
                raise DeadlineMissed(deadline_s=given_s, stage="while the query ran") from None
            raise self._too_long() from None
        except (frames.FrameLostError, json.JSONDecodeError, UnicodeDecodeError):
            code = process.end()
            if code in _OF_TIME:
                raise self._too_long() from None
            how = signal.Signals(-code).name if -code in signal.valid_signals() else f"code {code}"
            raise QueryStopped(reason=f"its process ended with {how}, as it does where memory runs out") from None
        if about.get("error") == QueryRefused.__name__:
            raise QueryRefused(reason=str(about["facts"]["reason"]), advice=str(about["facts"]["advice"]))
        if "error" in about:
            raise QueryStopped(reason=str(about["facts"]["reason"]))
        return Rows(about["columns"], body, int(about["row_count"]), bool(about["truncated"]), dict(about["versions"]))

    def _shown(self, name: object, version: object, served: Mapping[str, str], collections: Set[str]) -> dict[str, Any]:
        if not isinstance(name, str) or name not in served or not isinstance(version, int | None):
            raise frames.FrameLostError  # it asks for what it was not told of
        return shown(self._catalog, name, version, collection=name in collections)

    def _too_long(self) -> QueryStopped:
        return QueryStopped(reason=f"it ran longer than {self.limits.timeout_s:g} s")


class _Process:
    """One process from its start to its end; it ends with this object at the latest."""

    def __init__(self, memory_mb: int) -> None:
        keep = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        folder = tempfile.mkdtemp(prefix="raystore-sql-")
        paths = json.dumps([path for path in sys.path if path])
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _BOOT, paths, str(memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT | keep,
                cwd=folder,
                start_new_session=True,
            )
        except OSError:
            shutil.rmtree(folder)
            raise
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self.stdin, self.stdout = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self._finish = weakref.finalize(self, _end, self._popen, folder)

    def is_ready(self) -> bool:
        """Wait until it has loaded its libraries; False where it did not."""
        try:
            return frames.receive(self.stdout, time.monotonic() + _START_S, max_bytes=64) == b"ready"
        except (frames.FrameLostError, frames.FrameLateError):
            return False

    def end(self) -> int:
        """Its exit code, as subprocess counts them; kills it and all it started."""
        self._finish()
        return int(self._popen.returncode or 0)


def _end(popen: subprocess.Popen[bytes], folder: str) -> None:
    if popen.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    shutil.rmtree(folder, ignore_errors=True)
