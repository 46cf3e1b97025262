"""Texts and images of concurrent requests, encoded together: whoever gets the turn takes everyone's items along.

Nobody waits for a batch to fill: a lone request is encoded at once, and what arrives meanwhile makes the next
batch. One batch runs at a time, so encoder threads never compete. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from raystore.encoders.bridged import Bridge
from raystore.encoders.items import Encoded, Item
from raystore.encoders.passport import Passport
from raystore.errors import ItemsUnusable
from raystore.vectors import Vectors, mark

MAX_BATCH = 256


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
    def encode_each(self, items: Sequence[Item]) -> Encoded: ...
    def count_tokens(self, texts: Sequence[str]) -> int: ...


class BatchingEncoder:
    """An encoder that many threads may call; to `RowLog` it is an encoder like any other."""

    def __init__(self, encoder: ServedEncoder, max_batch: int = MAX_BATCH) -> None:
        self.passport = encoder.passport
        self.fingerprint = encoder.fingerprint
        self.label = encoder.label
        self.dim = encoder.dim
        self.max_chars = encoder.max_chars
        self.count_tokens = encoder.count_tokens
        self.bridge: Bridge | None = getattr(encoder, "bridge", None)  # of an encoder that is one
        self._encoder = encoder
        self._max_batch = max_batch
        self._waiting: list[_Job] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def encode(self, items: Sequence[Item]) -> Vectors:
        """(n, dim) unit rows in the order of `items`. Raises ItemsUnusable where some have no vector, and names them."""
        encoded = self.encode_each(items)
        if encoded.problems:
            problems = sorted(encoded.problems.items())
            raise ItemsUnusable(call=f"encode with {self.label}", n_items=len(items), problems=problems)
        vectors = np.empty((len(items), self.dim), dtype=np.float32)
        vectors[encoded.places] = encoded.vectors
        return mark(vectors, self.fingerprint)

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        """The vectors of the items that have one, and why the others have none; what other callers send changes neither."""
        mine = _Job(items)
        with self._lock:
            self._waiting.append(mine)
        while True:
            with self._turn:
                if mine.error is not None:
                    raise mine.error
                if mine.encoded is not None:
                    return mine.encoded
                self._encode_batch()

    def _encode_batch(self) -> None:
        """Encode the jobs at the head of the queue, one at least, up to `max_batch` items."""
        with self._lock:
            jobs = [self._waiting.pop(0)]
            while self._waiting and sum(len(j.items) for j in jobs) + len(self._waiting[0].items) <= self._max_batch:
                jobs.append(self._waiting.pop(0))
        try:
            encoded = self._encoder.encode_each([item for job in jobs for item in job.items])
        except BaseException as error:  # noqa: BLE001 - its caller is handed it and raises it
            if len(jobs) == 1:
                jobs[0].error = error
            for job in jobs if len(jobs) > 1 else ():  # one request's failure is not another's
                self._encode_alone(job)
            return
        start = 0
        for job in jobs:
            job.encoded = self._part(encoded, start, start + len(job.items))
            start += len(job.items)

    def _part(self, encoded: Encoded, start: int, end: int) -> Encoded:
        """What became of the items from `start` to before `end`, their places counted from `start`."""
        mine = (encoded.places >= start) & (encoded.places < end)
        return Encoded(
            vectors=mark(encoded.vectors[mine], self.fingerprint),
            places=encoded.places[mine] - start,
            problems={place - start: reason for place, reason in encoded.problems.items() if start <= place < end},
        )

    def _encode_alone(self, job: _Job) -> None:
        try:
            job.encoded = self._encoder.encode_each(job.items)
        except BaseException as error:  # noqa: BLE001 - its caller is handed it and raises it
            job.error = error


class _Job:
    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.encoded: Encoded | None = None
        self.error: BaseException | None = None
