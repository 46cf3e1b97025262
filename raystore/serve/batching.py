"""Texts of concurrent requests, encoded together: whoever gets the turn takes everyone's texts along.

Nobody waits for a batch to fill: a lone request is encoded at once, and what arrives meanwhile makes the next
batch. One batch runs at a time, so encoder threads never compete. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from raystore.data.log import TextEncoder
from raystore.vectors import Vectors, mark

MAX_BATCH = 256


class BatchingEncoder:
    """An encoder that many threads may call; a TextEncoder itself."""

    def __init__(self, encoder: TextEncoder, max_batch: int = MAX_BATCH) -> None:
        self._encoder = encoder
        self._max_batch = max_batch
        self._waiting: list[_Job] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def dim(self) -> int:
        return self._encoder.dim

    @property
    def max_chars(self) -> int:
        return self._encoder.max_chars

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, d) unit rows in the order of `texts`."""
        mine = _Job(texts)
        with self._lock:
            self._waiting.append(mine)
        while True:
            with self._turn:
                if mine.error is not None:
                    raise mine.error
                if mine.vectors is not None:
                    return mine.vectors
                self._encode_batch()

    def _encode_batch(self) -> None:
        """Encode the jobs at the head of the queue, one at least, up to `max_batch` texts."""
        with self._lock:
            jobs = [self._waiting.pop(0)]
            while self._waiting and sum(len(j.texts) for j in jobs) + len(self._waiting[0].texts) <= self._max_batch:
                jobs.append(self._waiting.pop(0))
        try:
            vectors = self._encoder.encode([text for job in jobs for text in job.texts])
        except BaseException as error:  # noqa: BLE001 - its caller is handed it and raises it
            if len(jobs) == 1:
                jobs[0].error = error
            for job in jobs if len(jobs) > 1 else ():  # one request's failure is not another's
                self._encode_alone(job)
            return
        ends = np.cumsum([len(job.texts) for job in jobs])
        for job, end in zip(jobs, ends, strict=True):
            job.vectors = mark(vectors[end - len(job.texts) : end], self._encoder.fingerprint)

    def _encode_alone(self, job: _Job) -> None:
        try:
            job.vectors = mark(self._encoder.encode(job.texts), self._encoder.fingerprint)
        except BaseException as error:  # noqa: BLE001 - its caller is handed it and raises it
            job.error = error


class _Job:
    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.vectors: Vectors | None = None
        self.error: BaseException | None = None
