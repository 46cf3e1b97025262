"""A lane: a bounded queue, and a thread that works off what it holds, in batches. Whoever puts something in never waits.

Rows to be logged behind the answer, what is told to the recording process, and each shadow have one: so what is slow is late
alone. What a lane cannot take, and what failed, is dropped and counted by whoever made it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from raystore.errors import DiskFull, LeaseLost, RaystoreError, WriterBlocked

log = logging.getLogger("raystore.serve")

T = TypeVar("T")
_TRIES = 4
RETRY_S = 0.5  # and twice as long each time


def patiently(write: Callable[[], object], *, retry_s: float = RETRY_S) -> None:
    """Write, and again where another writer or the disk was in the way: nothing was written then, and nothing is wrong with it."""
    for tried in range(1, _TRIES + 1):
        try:
            write()
            return
        except (WriterBlocked, LeaseLost, DiskFull):
            if tried == _TRIES:
                raise
        time.sleep(retry_s * 2 ** (tried - 1))


def _one(_: object) -> int:
    return 1


class Lane(Generic[T]):
    def __init__(
        self,
        name: str,
        work: Callable[[list[T]], None],
        *,
        most: int,
        dropped: Callable[[Sequence[T], str], None],
        batch: int = 1,
        pause_s: float = 0.0,
        size: Callable[[T], int] = _one,
    ) -> None:
        """
        Args:
            name: of its thread, and of the lane in the log.
            work: called with one batch after another; may take long, and raise.
            most: what may wait, in the units of `size`; a thing that is larger by itself is taken where nothing else waits.
            dropped: told what was given up and why: "full", "closed", or the type of an error.
            batch: what one call of `work` gets at most; one thing at least.
            pause_s: the least time between the starts of two calls, so that each carries many things.
            size: of a thing; 1 each by default.
        """
        self._name = name
        self._work = work
        self.most = most
        self._dropped = dropped
        self._batch = batch
        self._pause_s = pause_s
        self._size = size
        self._waiting: deque[T] = deque()
        self._held = 0
        self._busy = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"raystore-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """What waits, in the units of `size`."""
        return self._held

    def put(self, *things: T) -> None:
        refused: list[T] = []
        with self._changed:
            for thing in things:
                size = self._size(thing)
                if self._closing or (self._held and self._held + size > self.most):
                    refused.append(thing)
                    continue
                self._waiting.append(thing)
                self._held += size
            closing = self._closing
            self._changed.notify_all()
        if refused:
            self._dropped(refused, "closed" if closing else "full")

    def drain(self, wait_s: float) -> bool:
        """Whether everything that was put in was worked off within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, wait_s)

    def close(self, wait_s: float = 0.0) -> None:
        """Take nothing more; work off what was put in, for so long at most, and drop what waits then. What it is at then goes on in
        its thread, which keeps no process alive."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._busy, wait_s)
            left = list(self._waiting)
            self._waiting.clear()
            self._held = 0
            self._changed.notify_all()
        if left:
            self._dropped(left, "closed")

    def _taken(self) -> list[T]:
        """The next batch; empty when the lane is closed. The caller holds the lock."""
        self._changed.wait_for(lambda: self._waiting or self._closing)
        batch: list[T] = []
        n = 0
        while self._waiting and (not batch or n + self._size(self._waiting[0]) <= self._batch):
            batch.append(self._waiting.popleft())
            n += self._size(batch[-1])
        self._held -= n
        self._busy = bool(batch)
        self._changed.notify_all()
        return batch

    def _run(self) -> None:
        while True:
            with self._changed:
                batch = self._taken()
            if not batch:
                return
            started = time.monotonic()
            try:
                self._work(batch)
            except Exception as error:  # noqa: BLE001 - of a table, a shadow, a remote call: counted, and never fatal
                # A raystore error's sentence holds no content; another one's may.
                log.warning(
                    "%s failed: %s", self._name, error if isinstance(error, RaystoreError) else type(error).__name__
                )
                self._dropped(batch, type(error).__name__)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                rest = self._pause_s - (time.monotonic() - started)
                if rest > 0 and self._held < self._batch:
                    self._changed.wait_for(lambda: self._closing or self._held >= self._batch, rest)
