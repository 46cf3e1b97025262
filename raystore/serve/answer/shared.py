"""What the orchestrators of one process share: encoders in memory, and the lanes of logs.

Another orchestrator is made where the file changed in what one is made with; requests under way end with the one they began with. So
what outlasts it stands here, once in a process: an encoder loaded by either is both's, and a row that either puts into a lane is
logged by the newest, or counted as dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from raystore.serve.answer.batching import ServedEncoder
from raystore.serve.answer.keeping import Dropped, Row, log_lane, take_in_lane
from raystore.serve.lane import Lane

Commit = Callable[[str, Sequence[Row]], object]  # to a collection, durably: rows of one fingerprint


TakeIn = Callable[[str], object]  # a collection's journal


class Shared:
    """`loaded` is changed under `loading` alone. `commit` and `take_in` are the newest orchestrator's."""

    def __init__(self, commit: Commit, take_in: TakeIn, dropped: Dropped) -> None:
        self.loaded: dict[str, ServedEncoder] = {}  # by fingerprint
        self.loading = threading.Lock()
        self.commit = commit
        self.take_in = take_in
        self._dropped = dropped
        self._lanes: dict[str, Lane[Row]] = {}
        self._journals: dict[str, Lane[None]] = {}
        self._opening = threading.Lock()
        self._drained = False

    @property
    def lanes(self) -> dict[str, Lane[Row]]:
        """By collection, as they are now."""
        return self._lanes.copy()

    @property
    def journals(self) -> list[str]:
        """The collections whose journal is taken in here."""
        return list(self._journals)

    def put(self, collection: str, rows: Sequence[Row], most: int) -> None:
        """Let these wait to be logged; `most` of a lane that is opened now."""
        lane = self._lanes.get(collection)
        if lane is None:
            with self._opening:
                lane = self._lanes.get(collection)
                if lane is None:
                    lane = log_lane(collection, most, lambda rows: self.commit(collection, rows), self._dropped)
                    if self._drained:
                        lane.close()
                    self._lanes[collection] = lane
        lane.put(*rows)

    def appended(self, collection: str) -> None:
        """Have what waits in its journal taken in soon."""
        lane = self._journals.get(collection)
        if lane is None:
            with self._opening:
                lane = self._journals.get(collection)
                if lane is None:
                    lane = take_in_lane(collection, lambda: self.take_in(collection))
                    if self._drained:
                        lane.close()
                    self._journals[collection] = lane
        lane.put(None)

    def drain(self, wait_s: float) -> None:
        """Log what waits, for so long at most; what comes later is dropped and counted, and rows of a journal wait for another
        process."""
        until = time.monotonic() + wait_s
        with self._opening:
            self._drained = True
            lanes: list[Lane[Any]] = [*self._lanes.values(), *self._journals.values()]
        for lane in lanes:
            lane.close(max(0.0, until - time.monotonic()))
