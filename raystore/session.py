"""The one place that joins or starts Ray, and the table of what runs inline.

`workers=0` is inline, `workers>=1` is Ray. Whoever passes nothing gets the choice of the table below, and
the choice is said. Ray is imported only when a job needs it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any

from raystore.errors import JobFailed, RaystoreError
from raystore.settings import setting

log = logging.getLogger("raystore")


@dataclass(frozen=True)
class InlineBelow:
    """Sizes under which a job runs in the calling process, without a Ray start."""

    embed_rows: int = 2_000
    head_rows: int = 200_000
    index_rows: int = 1_000_000
    pairs_rows: int = 200_000


INLINE_BELOW = InlineBelow()

# What a local Ray may keep in shared memory. Jobs hand references and counts through it, never content,
# and shards read their vectors from the collection, so a small store suffices.
OBJECT_STORE_BYTES = 256 * 2**20

# What is larger than this in an actor call goes to the object store: a request body must not (found there, in shared memory, with
# Serve's own proxy and Ray's defaults, 100 kB for a value and 10 MB for all of a call; docs/LOG.md).
INLINE_CALL_BYTES = 64 * 2**20
_INLINE_DEFAULTS = {"max_direct_call_object_size": 100 * 2**10, "task_rpc_inlined_bytes_limit": 10 * 2**20}
INLINE_CALLS = dict.fromkeys(_INLINE_DEFAULTS, INLINE_CALL_BYTES)

_CONNECT_S = 10.0  # for a connection to the address of a cluster

_address: str | None = None


def use_cluster(address: str) -> None:
    """Run this process's jobs on the Ray cluster at `address` from now on (`raystore.open(..., ray=address)`)."""
    global _address  # one process joins one Ray
    _address = address


def choose_workers(asked: int | None, size: int, inline_below: int, job: str) -> int:
    """How many workers a job gets: what was asked, else 0 below the table's size and every core from it on."""
    if asked is not None:
        return asked
    chosen = 0 if size < inline_below else max(1, os.cpu_count() or 1)
    log.info("%s: %s items, %s", job, size, "inline" if chosen == 0 else f"{chosen} Ray workers")
    return chosen


def has_ray() -> bool:
    """Whether this process runs on a Ray already, or was told of one: then a job costs no start."""
    ray: Any = sys.modules.get("ray")
    return bool(_address or setting("RAYSTORE_RAY") or (ray is not None and ray.is_initialized()))


def inline_problem(system_config: Mapping[str, Any], head: str = "it") -> str | None:
    """What is wrong with the Ray of this configuration, where it would put request bodies into its object store."""
    least = min(int(system_config.get(name, default)) for name, default in _INLINE_DEFAULTS.items())
    if least >= INLINE_CALL_BYTES:
        return None
    return (
        f"this Ray puts what is over {least} bytes of a call into its object store, where request bodies must not be: "
        f"start {head} with --system-config='{json.dumps(INLINE_CALLS)}'"
    )


@contextmanager
def interrupt_waits() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is left, and let it take effect there.

    An interrupt that arrives while Ray is imported or started is often swallowed (docs/LOG.md), and a job that was to be
    interrupted then was seen to hang on a lock of `logging`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # interrupts arrive in the main thread only
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])


def start_ray(*libraries: str, num_cpus: int | None = None, num_gpus: int | None = None) -> Any:
    """The ray module, joined to the cluster this process is in already, the one it was told of, or a new local one.

    A new one listens on loopback only, sends no usage statistics, and starts no dashboard. It has the CPUs and GPUs of
    this machine, unless other numbers are given. `libraries` ("ray.data") are imported too.
    Cost: 3 to 9 s for a new local Ray, nothing when already joined. A Ctrl-C takes effect when it is up.

    Raises:
        JobFailed: it was told of a cluster that cannot be joined.
    """
    with interrupt_waits():
        ray = _started_ray(num_cpus, num_gpus)
        for library in libraries:
            import_module(library)
        return ray


def _started_ray(num_cpus: int | None, num_gpus: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this Ray turns the loopback address given below back into the machine's, and listens on every interface.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Ray's C++ side writes remarks on its own library's use of it to our standard error; its log files keep the rest.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return ray
    address = _address or setting("RAYSTORE_RAY") or None
    if address:
        _join(ray, address)
        return ray
    temp = setting("RAYSTORE_RAY_TMP") or os.path.join(tempfile.gettempdir(), "ray")  # short: sockets stand in it
    with _quiet_start():
        start = partial(
            ray.init,
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=temp,
            _node_ip_address="127.0.0.1",
            # By default workers run at niceness 15: any other program of the machine would take the cores from a service, and half of
            # a core's time from a job.
            _system_config={**INLINE_CALLS, "worker_niceness": 0},
        )
        on_a_busy_machine(start)
        # The raylet's remarks on actors that end come over another way than log_to_driver=False closes, and on
        # standard output, where they would stand in the middle of --json.
        ray._private.worker._worker_logs_enabled = False
    return ray


def on_a_busy_machine(start: Callable[[], object]) -> None:
    """Start Ray; once more where its node was not there within the 30 s that Ray gives it. What the first try left ends with this
    process."""
    try:
        start()
    except Exception as error:  # Ray raises nothing more precise
        if "timed out during startup" not in str(error):
            raise
        log.warning("Ray was not up within 30 s, on a busy machine perhaps; it is started once more")
        start()


def _join(ray: Any, address: str) -> None:
    """Return when this process is in the cluster at the address. JobFailed where nothing answers there, or it lets nobody in."""
    try:
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon and port.isdecimal():  # else a word of Ray's own, as "auto"
            # Ray waits two minutes for a port where nobody listens, and then ends the process.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, OverflowError, SystemExit, ray.exceptions.RayError) as error:
        raise JobFailed(
            job=f"joining the Ray at '{address}'",
            reason=f"nothing answers there, or it asks for a token ({type(error).__name__})",
            advice=f"Look whether it runs (ray status --address {address}); where it asks for a token set RAY_AUTH_MODE=token, with "
            "the token in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token.",
        ) from None


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep two remarks of a Ray start from the terminal; whatever else is written to standard error is passed on after it."""
    with warnings.catch_warnings(), tempfile.TemporaryFile() as kept:
        # Ray starts its processes by fork and exec at once, which cannot hurt Lance.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            kept.seek(0)
            for line in kept.read().decode("utf-8", "replace").splitlines(keepends=True):
                if "Set ray log level from environment variable" not in line:
                    sys.stderr.write(line)


def root_cause(error: BaseException, job: str, advice: str) -> RaystoreError:
    """The raystore error a Ray worker raised, or a JobFailed that says what kind of failure it was.

    The text of a foreign exception is not repeated: it may quote what the worker was reading.
    """
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for candidate in (seen, cause):
            if isinstance(candidate, RaystoreError) and type(candidate).__module__ == "raystore.errors":
                return candidate
        seen = cause if isinstance(cause, BaseException) and cause is not seen else seen.__cause__
    return JobFailed(job=job, reason=f"a worker ended with {type(error).__name__}", advice=advice)


def thread_count(workers: int) -> int:
    """Threads each of `workers` processes may use so that together they fill the machine and no more."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))


def no_core_files() -> None:
    """From now on a crash of this process leaves no copy of its memory on a disk: it holds what is being encoded."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def shutdown_ray() -> None:
    """End the Ray this process joined, if any; a cluster that was joined by address goes on without us."""
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
