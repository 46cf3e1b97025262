"""What the orchestrators of one process share: encoders in memory, and the lanes of logs that are not required.

Another orchestrator is made where the file changed in what one is made with; requests under way end with the one they began with. So
what outlasts it stands here, once in a process: an encoder loaded by either is both's, and a row that either puts into a lane is
logged by the newest, or counted as dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from raystore.serve.answer.batching import ServedEncoder
from raystore.serve.answer.keeping import Dropped, Row, log_lane
from raystore.serve.lane import Lane

Commit = Callable[[str, Sequence[Row]], object]  # to a collection, durably: rows of one fingerprint


class Shared:
    """`loaded` is changed under `loading` alone. `commit` is the newest orchestrator's."""

    def __init__(self, commit: Commit, dropped: Dropped) -> None:
        self.loaded: dict[str, ServedEncoder] = {}  # by fingerprint
        self.loading = threading.Lock()
        self.commit = commit
        self._dropped = dropped
        self._lanes: dict[str, Lane[Row]] = {}
        self._opening = threading.Lock()
        self._drained = False

    @property
    def lanes(self) -> dict[str, Lane[Row]]:
        """By collection, as they are now."""
        return self._lanes.copy()

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

    def drain(self, wait_s: float) -> None:
        """Log what waits, for so long at most; what comes later is dropped and counted."""
        until = time.monotonic() + wait_s
        with self._opening:
            self._drained = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close(max(0.0, until - time.monotonic()))
