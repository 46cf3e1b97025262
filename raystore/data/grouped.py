"""Writes of concurrent callers, grouped: a commit or a sync costs the same for one caller's rows as for those of many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

Outcome = TypeVar("Outcome")


class Grouped(Generic[Outcome]):
    """Writes of concurrent callers, grouped: whoever gets to write takes everyone's rows along.

    While one write runs, the callers that arrive wait for the next, which takes all of them. `write` returns an outcome a group.
    """

    def __init__(self, write: Callable[[Sequence[pa.Table]], Sequence[Outcome]]) -> None:
        self._write = write
        self._queue: list[_Waiting[Outcome]] = []
        self._queue_lock = threading.Lock()
        self._turn = threading.Lock()

    def submit(self, rows: pa.Table) -> Outcome:
        """The outcome of these rows; what `write` raised is raised to each caller of the group, the same object."""
        mine = _Waiting[Outcome](rows)
        with self._queue_lock:
            self._queue.append(mine)
        with self._turn:
            if mine.outcome is None and mine.error is None:
                self._write_queue()
        if mine.error is not None:
            raise mine.error
        assert mine.outcome is not None
        return mine.outcome

    def _write_queue(self) -> None:
        with self._queue_lock:
            group, self._queue = self._queue, []
        try:
            outcomes = self._write([waiting.rows for waiting in group])
        except BaseException as error:  # noqa: BLE001  handed to every caller of the group, who raises it
            for waiting in group:
                waiting.error = error
            return
        for waiting, outcome in zip(group, outcomes, strict=True):
            waiting.outcome = outcome


class _Waiting(Generic[Outcome]):
    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
