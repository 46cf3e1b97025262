"""What every training on Ray Train needs around it: RAY, shared by heads and encoders.

Early deaths are tried again, Ctrl-C ends a training at once, and a failure arrives as one of raystore's errors.
Knows no head and no encoder.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from raystore.errors import JobFailed, RaystoreError
from raystore.session import root_cause

log = logging.getLogger("raystore")

MAX_FAILURES = 2  # of workers, in one training
GROUP_TIMEOUT_S = 600  # a worker that waits longer for the others has lost them
_ABORT_S = 10
_ADVICE = "Run it again; if it stays so, train with workers=0 to see the error in this process."


def cpu_share(workers: int) -> float:
    """The CPUs that each of `workers` reserves: a share of one where there are fewer, so that the group can always start."""
    import ray

    cores = ray.cluster_resources().get("CPU", 1.0)
    return min(1.0, int(100 * cores / workers) / 100) or 0.01


def run_again_after_early_deaths(run: Callable[[int], Any]) -> Any:
    """What `run(attempt)` returned, tried again where a worker died before its group was wholly up.

    Ray Train (2.60) replaces a worker that dies later (`max_failures`), but its controller still asks the workers a few
    questions after it has started the loop, and takes a death at that moment (3 of 4 runs of a worker that died at once)
    for a failure of its own, which no setting makes it try again.
    """
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import ControllerError

    for attempt in range(MAX_FAILURES):
        try:
            return run(attempt)
        except ControllerError as error:
            if not isinstance(error.controller_failure, RayActorError):
                raise
            log.warning("A training worker died while its group started; starting the group again.")
    return run(MAX_FAILURES)


@contextmanager
def interruptible(trainer: Any) -> Iterator[None]:
    """Let a Ctrl-C during `fit` end the training and arrive as KeyboardInterrupt.

    Ray Train (2.60) puts a handler of its own on SIGINT that ends the process with exit code 0, and leaves it there: every
    later Ctrl-C of the process was swallowed.
    """
    import ray

    controllers: list[Any] = []
    trainer._register_sigint_handler = controllers.append
    ours = signal.getsignal(signal.SIGINT)
    try:
        yield
    except KeyboardInterrupt:
        for controller in controllers:
            # It lets its workers and their places go before it ends.
            with suppress(ray.exceptions.RayError):  # its own end arrives as one
                ray.get(controller.abort.remote(), timeout=_ABORT_S)
            ray.kill(controller)
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not ours:
            signal.signal(signal.SIGINT, ours)


def cause_of(error: BaseException, job: str) -> RaystoreError:
    """The raystore error behind a failed training, or a JobFailed that names the kind of the worker's own."""
    first: RaystoreError | None = None
    for candidate in _inner_errors(error):
        cause = root_cause(candidate, job, _ADVICE)
        if not isinstance(cause, JobFailed):
            return cause
        first = first or cause
    return first or root_cause(error, job, _ADVICE)


def _inner_errors(error: BaseException) -> Iterator[BaseException]:
    """What the workers raised, out of Ray Train's wrappers, by rank."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    for _, failure in sorted(failures.items()):
        inner = getattr(failure, "_base_exc", None)
        yield inner if isinstance(inner, BaseException) else failure
    if isinstance(controller := getattr(error, "controller_failure", None), BaseException):
        yield controller
