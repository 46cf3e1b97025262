"""Sentences of a log that would be written for each request: once in a while, with how often it would have been."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

_EVERY_S = 10.0
_MOST = 1_000  # kinds that are told apart at once


class Sparse:
    """Writes the first of a kind at once, and then one each ten seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[Hashable, tuple[float, int]] = {}  # when it was last written, and how often not since
        self._lock = threading.Lock()

    def error(self, kind: Hashable, sentence: str) -> None:
        now = self._clock()
        with self._lock:
            at, left_out = self._told.get(kind, (-_EVERY_S, 0))
            if now - at < _EVERY_S:
                self._told[kind] = at, left_out + 1
                return
            if len(self._told) >= _MOST:
                self._told.clear()
            self._told[kind] = now, 0
        self._log.error("%s%s", sentence, f" (and {left_out} times more before)" if left_out else "")
