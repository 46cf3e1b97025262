"""A lane: a bounded queue, and a thread that works off what it holds, in batches. Whoever puts something in never waits.

Rows to be logged behind the answer, what is told to the recording process, and each shadow have one: so what is slow is late
alone. What a lane cannot take, and what failed, is dropped and counted by whoever made it. It is bounded by number and by bytes, for
what waits may hold images; so is a batch. Weighing a thing costs some 0.1 us a value.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from raystore.errors import DiskFull, LeaseLost, RaystoreError, WriterBlocked

log = logging.getLogger("raystore.serve")

T = TypeVar("T")
_TRIES = 4
RETRY_S = 0.5  # and twice as long each time
MOST_BYTES = 64 * 2**20  # that wait in a lane
_BATCH_BYTES = 8 * 2**20


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


def weight(values: Iterable[object]) -> int:
    """The bytes of memory that values of a request take: texts, images, numbers. What a container holds is not counted."""
    return sum(map(sys.getsizeof, values))


def _one(_: object) -> int:
    return 1


def _nothing(_: object) -> int:
    return 0


def _no_rest(_: float) -> float:
    return 0.0


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
        bytes_of: Callable[[T], int] = _nothing,
        most_bytes: int = MOST_BYTES,
        batch_bytes: int = _BATCH_BYTES,
        rest: Callable[[float], float] = _no_rest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: of its thread, and of the lane in the log.
            work: called with one batch after another; may take long, and raise where nothing of the batch was done.
            most: what may wait, in the units of `size`; a thing that is larger by itself is taken where nothing else waits.
            dropped: told what was given up and why: "full", "closed", or the type of an error.
            batch: what one call of `work` gets at most; one thing at least.
            pause_s: the least time between the starts of two calls, so that each carries many things.
            size: of a thing; 1 each by default.
            bytes_of: the memory a thing takes; by default none, and the lane is bounded by `most` alone.
            most_bytes, batch_bytes: what may wait, and what a call gets, as `most` and `batch` say it.
            rest: how many seconds nothing is done after a call that took so many, however much waits.
            clock: by which a call is timed for that; `time.thread_time` counts no time in which it sleeps.
        """
        self._name = name
        self._work = work
        self.most = most
        self._dropped = dropped
        self._batch = batch
        self._pause_s = pause_s
        self._size = size
        self._bytes_of = bytes_of
        self._most_bytes = most_bytes
        self._batch_bytes = batch_bytes
        self._rest = rest
        self._clock = clock
        self._waiting: deque[tuple[T, int, int]] = deque()  # with its size and its bytes
        self._held = self._held_bytes = 0
        self._busy = False
        self._closing = False
        self._awaited = 0  # who wait until all is done: no pause is made meanwhile
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"raystore-{name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """What waits, in the units of `size`."""
        return self._held

    def put(self, *things: T) -> None:
        refused: list[T] = []
        with self._changed:
            was_empty = not self._waiting
            for thing in things:
                size, n_bytes = self._size(thing), self._bytes_of(thing)
                over = self._held + size > self.most or self._held_bytes + n_bytes > self._most_bytes
                if self._closing or (self._waiting and over):
                    refused.append(thing)
                    continue
                self._waiting.append((thing, size, n_bytes))
                self._held += size
                self._held_bytes += n_bytes
            closing = self._closing
            if was_empty or self._is_full:  # to wake the lane's thread each time would cost whoever puts something in
                self._changed.notify_all()
        if refused:
            self._dropped(refused, "closed" if closing else "full")

    def drain(self, wait_s: float) -> bool:
        """Whether everything that was put in was worked off within that time; without pauses."""
        with self._changed:
            self._awaited += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._waiting and not self._busy, wait_s)
            self._awaited -= 1
            return done

    def close(self, wait_s: float = 0.0) -> None:
        """Take nothing more; work off what was put in, for so long at most, and drop what waits then. What it is at then goes on in
        its thread, which keeps no process alive."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._busy, wait_s)
            left = [thing for thing, _, _ in self._waiting]
            self._waiting.clear()
            self._held = self._held_bytes = 0
            self._changed.notify_all()
        if left:
            self._dropped(left, "closed")

    def _taken(self) -> list[T]:
        """The next batch; empty when the lane is closed. The caller holds the lock."""
        self._changed.wait_for(lambda: self._waiting or self._closing)
        batch: list[T] = []
        n = n_bytes = 0
        while self._waiting:
            thing, size, of_it = self._waiting[0]
            if batch and (n + size > self._batch or n_bytes + of_it > self._batch_bytes):
                break
            batch.append(thing)
            self._waiting.popleft()
            n, n_bytes = n + size, n_bytes + of_it
        self._held -= n
        self._held_bytes -= n_bytes
        self._busy = bool(batch)
        self._changed.notify_all()
        return batch

    @property
    def _is_full(self) -> bool:
        """Whether a whole batch waits."""
        return self._held >= self._batch or self._held_bytes >= self._batch_bytes

    def _run(self) -> None:
        while True:
            with self._changed:
                batch = self._taken()
            if not batch:
                return
            started, begun = time.monotonic(), self._clock()
            try:
                self._work(batch)
            except Exception as error:  # noqa: BLE001 - of a table, a shadow, a remote call: counted, and never fatal
                # A raystore error's sentence holds no content; another one's may.
                log.warning(
                    "%s failed: %s", self._name, error if isinstance(error, RaystoreError) else type(error).__name__
                )
                self._dropped(batch, type(error).__name__)
            rest_s = self._rest(self._clock() - begun)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if rest_s > 0:
                    self._changed.wait_for(lambda: self._closing or self._awaited, rest_s)
                pause_s = self._pause_s - (time.monotonic() - started)
                if pause_s > 0:
                    self._changed.wait_for(lambda: self._closing or self._awaited or self._is_full, pause_s)
