"""A head as an event loop asks it: at once where it takes microseconds, in a thread where it searches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

from raystore.serve.answer.deadline import present_until, run_within
from raystore.serve.answer.served import Predicted
from raystore.train.heads import Head
from raystore.train.source import Task
from raystore.vectors import Vectors

# Multiply-adds that an event loop does itself: about a millisecond.
_AT_ONCE = 2**24


class InlineHead:
    """A head in this process."""

    def __init__(self, head: Head, threads: Executor) -> None:
        self.head = head
        self._threads = threads
        size = sum(array.size for array in head.arrays.values())
        self._slow = head.kind in ("knn", "neighbours")
        self._rows_at_once = max(1, _AT_ONCE // max(size, 1))

    @property
    def task(self) -> Task:
        return self.head.task

    @property
    def classes(self) -> Sequence[str]:
        return self.head.classes

    async def ask(self, vectors: Vectors) -> Predicted:
        """See `Head.predict`. DeadlineMissed."""
        if self._slow or len(vectors) > self._rows_at_once:
            call = partial(self.head.predict, vectors)
            return await run_within(self._threads, call, present_until(), leaving="while its head was asked")
        return self.head.predict(vectors)
