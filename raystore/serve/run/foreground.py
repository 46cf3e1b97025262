"""A service that a process holds until it is told to end."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from raystore.serve.run.deploy import Running, deploy
from raystore.serve.spec.app import AppSpec
from raystore.session import start_ray

log = logging.getLogger("raystore")


def serve_app(root: str | Path, spec: AppSpec, *, started: Callable[[Running], None] | None = None) -> None:
    """Deploy and block until SIGTERM or SIGINT, then end Serve; where another process began the application, change it and return.
    `started` is called with the Running. Main thread only."""
    start_ray("ray.serve")  # before its handlers are replaced
    running: Running | None = None
    with interrupted_by_sigterm():
        try:
            running = deploy(root, spec)
            if started is not None:
                started(running)
            if not running.elsewhere:
                running.wait()
        except KeyboardInterrupt:
            log.info("stopping, when requests under way are answered")
        finally:
            try:
                if running is not None:
                    running.stop()
            except KeyboardInterrupt:
                log.info("stopping at once")


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as SIGINT does. After Ray was started, which puts its own handler on SIGTERM: that one ends
    the process at once and leaves the proxy running. Main thread only."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
