"""Texts and images of concurrent requests, encoded together, by a few threads that do nothing else.

A lone request is encoded at once. Where requests come densely, a batch waits a few milliseconds for as many as the batch before
had: their senders were answered together, and send the next ones almost together. A request beyond a batch's limits is encoded in
slices, and those who came meanwhile have their turn between two. Callers wait in a thread (`encode`) or in an event loop
(`encode_soon`), until the deadline of what they work at (`deadline.py`). Knows no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np

from raystore.encoders.bridged import Bridge
from raystore.encoders.items import Encoded, Item
from raystore.encoders.passport import Passport
from raystore.errors import ItemsUnusable
from raystore.serve.answer.deadline import waited_until
from raystore.serve.answer.jobs import Job, LargeJob, slices_of, tokens_of
from raystore.serve.answer.timer import Timer
from raystore.serve.spec.app import Batch
from raystore.vectors import Vectors, mark

# Where nothing came for so long, the next request is a lone one again.
_LULL_S = 0.05
_LONG_AGO = float("-inf")


class ServedEncoder(Protocol):
    """An encoder with its model in memory."""

    @property
    def passport(self) -> Passport: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_chars(self) -> int: ...
    @property
    def at_once(self) -> int: ...  # batches
    def encode_each(self, items: Sequence[Item]) -> Encoded: ...
    def count_tokens(self, texts: Sequence[str]) -> int: ...


class BatchingEncoder:
    """An encoder that many threads and event loops may call; to `RowLog` it is an encoder like any other."""

    def __init__(
        self,
        encoder: ServedEncoder,
        batch: Batch | None = None,
        *,
        turns: int = 1,
        seen: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """
        Args:
            batch: what is encoded at once, and how long a batch waits for more.
            turns: batches under way at once.
            seen: told of each batch: items, tokens (estimated, padding included), seconds.
        """
        self.passport = encoder.passport
        self.fingerprint = encoder.fingerprint
        self.label = encoder.label
        self.dim = encoder.dim
        self.max_chars = encoder.max_chars
        self.count_tokens = encoder.count_tokens
        self.bridge: Bridge | None = getattr(encoder, "bridge", None)  # of an encoder that is one
        self._encoder = encoder
        self._limits = batch or Batch()
        text = encoder.passport.text
        self._max_tokens = text.max_length if text is not None else 0  # the model reads no more of a text
        self._seen = seen
        self._waiting: deque[Job] = deque()
        self._lock = threading.Lock()
        self._idle: list[threading.Condition] = []  # threads with nothing to do
        self._gathering: list[threading.Condition] = []  # threads that wait for more requests
        self._expected = 1  # requests of the last batch
        self._last = 0.0
        self._closing = False
        self._turns = turns
        self._is_here = not getattr(encoder, "tells_batches", False)
        self._running = 0  # threads
        self._busy = 0  # of them, those that encode

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Let the threads end; what waits, and what still comes, is encoded all the same."""
        with self._lock:
            self._closing = True
            while self._idle:
                self._idle.pop().notify()

    def encode(self, items: Sequence[Item], *, timer: Timer | None = None) -> Vectors:
        """(n, dim) unit rows in the order of `items`.

        Args:
            timer: told how long they waited for their batch.

        Raises:
            ItemsUnusable: some have no vector; they are named. DeadlineMissed. And what the encoder raises.
        """
        return self._whole(self.encode_each(items, timer=timer), len(items))

    def encode_each(self, items: Sequence[Item], *, timer: Timer | None = None) -> Encoded:
        """The vectors of the items that have one, and why the others have none; what other callers send changes neither."""
        done = threading.Event()
        job = self._job(items, done.set)
        self._put(job)
        if not done.wait(job.left):
            raise job.missed()
        return job.outcome(timer)

    async def encode_soon(self, items: Sequence[Item], *, timer: Timer | None = None) -> Vectors:
        """As `encode`, for a caller in an event loop, which goes on meanwhile."""
        return self._whole(await self.each_soon(items, timer=timer), len(items))

    async def each_soon(self, items: Sequence[Item], *, timer: Timer | None = None) -> Encoded:
        """As `encode_each`, for a caller in an event loop."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not waiting.done():
                waiting.set_result(None)

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

        job = self._job(items, tell)
        self._put(job)
        left = job.left  # the encoder may be busy for longer than that
        leaving = None if left is None else loop.call_at(loop.time() + left, finish)
        try:
            await waiting
        except asyncio.CancelledError:
            job.until = _LONG_AGO  # its caller is gone: what was not begun is dropped
            raise
        finally:
            if leaving is not None:
                leaving.cancel()
        if not job.done:
            raise job.missed()
        return job.outcome(timer)

    def _whole(self, encoded: Encoded, n: int) -> Vectors:
        if encoded.problems:
            raise ItemsUnusable(call=f"encode with {self.label}", n_items=n, problems=sorted(encoded.problems.items()))
        if n == 1:  # numpy's copies let go of Python's lock and wait for it again
            return mark(encoded.vectors, self.fingerprint)
        vectors = np.empty((n, self.dim), dtype=np.float32)
        vectors[encoded.places] = encoded.vectors
        return mark(vectors, self.fingerprint)

    def _job(self, items: Sequence[Item], told: Callable[[], object]) -> Job:
        n, limits = len(items), self._limits
        longest = max((tokens_of(item, self._max_tokens) for item in items), default=0)
        if n > 1 and (n > limits.max_items or n * longest > limits.max_tokens):
            return LargeJob(items, slices_of(items, self._max_tokens, limits), told, self.fingerprint, self._put)
        return Job(items, longest, told)

    def _put(self, job: Job) -> None:
        """Behind all that wait."""
        with self._lock:
            self._waiting.append(job)
            if self._gathering:
                self._gathering[-1].notify()
            elif self._idle:
                self._idle.pop().notify()
            elif self._running < self._turns:
                self._running += 1
                threading.Thread(target=self._run, name=f"raystore-encode-{self.label}", daemon=True).start()

    def _run(self) -> None:
        mine = threading.Condition(self._lock)
        while True:
            with self._lock:
                while not self._waiting:
                    if self._closing:
                        self._running -= 1
                        return
                    # The last that was busy is woken first: a lone caller's requests stay with one thread, and its caches.
                    self._idle.append(mine)
                    mine.wait()
                if time.monotonic() - self._last > _LULL_S:
                    self._expected = 1
                elif len(self._waiting) < self._expected:
                    self._gathering.append(mine)
                    mine.wait_for(lambda: len(self._waiting) >= self._expected, self._limits.wait_ms / 1e3)
                    self._gathering.remove(mine)
                jobs, tokens = self._taken()
                self._expected = max(1, len(jobs))
                self._busy += 1
                if self._waiting and self._idle:
                    self._idle.pop().notify()
            try:
                if jobs:
                    self._encode_together(jobs, tokens)
            except Exception as error:  # noqa: BLE001 - of an encoder whose answer is none, of whoever counts: nobody waits for ever
                for job in jobs:
                    if not job.done:
                        job.fail(error)
            finally:
                with self._lock:
                    self._busy -= 1
                self._last = time.monotonic()

    def _taken(self) -> tuple[list[Job], int]:
        """The jobs at the head of the queue, one at least, up to the limits, and their tokens; without those nobody waits for. Of many
        no more than a fair part, where others are idle and take the rest at once; a call to another process carries all."""
        jobs: list[Job] = []
        items = longest = 0
        share = -(-len(self._waiting) // (self._turns - self._busy)) if self._is_here else len(self._waiting)
        now = time.monotonic()
        while self._waiting:
            job = self._waiting[0]
            if job.until is not None and now > job.until:
                self._waiting.popleft()
                job.fail(job.missed())
                continue
            n, most = items + len(job.items), max(longest, job.tokens)
            if jobs and (len(jobs) == share or n > self._limits.max_items or n * most > self._limits.max_tokens):
                break
            job.waited_s += now - job.queued
            jobs.append(self._waiting.popleft())
            items, longest = n, most
        return jobs, items * longest

    def _encode_together(self, jobs: Sequence[Job], tokens: int) -> None:
        started = time.monotonic()
        ends = [job.until for job in jobs if job.until is not None]
        try:
            with waited_until(max(ends) if len(ends) == len(jobs) else None):  # an encoder in another process looks at it
                encoded = self._encoder.encode_each([item for job in jobs for item in job.items])
        except BaseException as error:  # noqa: BLE001 - its caller is handed it and raises it
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            for job in jobs:  # one request's failure is not another's
                if job.left == 0:
                    job.fail(job.missed())
                else:
                    self._encode_together([job], len(job.items) * job.tokens)
            return
        if self._seen is not None:
            self._seen(sum(len(job.items) for job in jobs), tokens, time.monotonic() - started)
        if len(jobs) == 1:
            jobs[0].finish(encoded)
            return
        encoded = self._in_order(encoded)
        start = 0
        for job in jobs:
            end = start + len(job.items)
            job.finish(self._part(encoded, start, end))
            start = end

    def _in_order(self, encoded: Encoded) -> Encoded:
        order = np.argsort(encoded.places)  # once for all: a look for each job's own would cost each of them as much
        return Encoded(mark(encoded.vectors[order], self.fingerprint), encoded.places[order], encoded.problems)

    def _part(self, encoded: Encoded, start: int, end: int) -> Encoded:
        """What became of the items from `start` to before `end`, their places counted from `start`."""
        first, last = np.searchsorted(encoded.places, (start, end)).tolist()
        return Encoded(
            vectors=mark(encoded.vectors[first:last], self.fingerprint),
            places=encoded.places[first:last] - start,
            problems={place - start: reason for place, reason in encoded.problems.items() if start <= place < end},
        )
