"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def soon(look: Callable[[], T], within_s: float = 60) -> T:
    """What `look` returned when it was true at last; fails where it is not within that time, far more than it takes."""
    until = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < until, f"not within {within_s} s"
        time.sleep(0.02)
    return found
