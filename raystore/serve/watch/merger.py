"""The metrics of all processes, as they are heard of: sums that never fall. Knows no HTTP and no Ray.

A process that ended keeps what it counted and loses its gauges, so a total never falls because a replica was replaced.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from raystore.serve.watch.history import History, Window
from raystore.serve.watch.merging import Series, bounded, counts_of, merge, series_of
from raystore.serve.watch.metrics import Snapshot

_SILENT_S = 15.0  # processes are heard of every 2 s
_GONE = 64  # processes that ended and could still be heard of again
_FOLDED = 4_096  # ids of those whose counts are summed up for good


class Told(NamedTuple):
    """What all processes tell together: their metrics, how the counters of requests rose of late, and for how long this is added up."""

    series: Series
    windows: dict[str, Window]
    up_s: float


class Merger:
    """The newest snapshot of each process, and the counts of those that ended. Safe in many threads.

    Memory is bounded by how many processes there are: what ended longer ago is one sum, with as many series as one process may have.
    """

    def __init__(self, silent_s: float = _SILENT_S, clock: Callable[[], float] = time.monotonic) -> None:
        """`silent_s`: who sends nothing for so long counts as ended, until it sends again."""
        self._silent_s = silent_s
        self._clock = clock
        self._live: dict[str, tuple[Snapshot, float]] = {}
        self._gone: OrderedDict[str, Snapshot] = OrderedDict()  # by the process's id
        self._folded: Series = {}
        self._folded_ids: OrderedDict[str, None] = OrderedDict()
        self._history = History(clock)
        self._lock = threading.Lock()

    def put(self, source: str, snapshot: Snapshot) -> None:
        """The newest of `source`. Where another process had that name before, that one has ended. What is old changes nothing."""
        with self._lock:
            if snapshot["id"] in self._folded_ids:
                return  # it was taken for ended long ago, and its counts are in the sum
            present = self._live.get(source)
            if present is not None and present[0]["id"] != snapshot["id"]:
                self._end(source)
                present = None
            earlier = present[0] if present is not None else self._gone.pop(snapshot["id"], None)
            newer = earlier is None or snapshot["n"] > earlier["n"]
            if newer:
                self._rise(earlier, snapshot)
            if newer or present is None:
                self._live[source] = (snapshot if newer or earlier is None else earlier, self._clock())

    def end(self, source: str, snapshot: Snapshot) -> None:
        """The process ends, and this is its last: its counts stay, its gauges do not."""
        self.put(source, snapshot)
        with self._lock:
            self._end(source)

    def told(self) -> Told:
        with self._lock:
            silent_since = self._clock() - self._silent_s
            for source in [source for source, (_, heard) in self._live.items() if heard < silent_since]:
                self._end(source)
            ended = [counts_of(series_of(snapshot)) for snapshot in self._gone.values()]
            series = merge([self._folded, *ended, *(series_of(snapshot) for snapshot, _ in self._live.values())])
            return Told(series, self._history.windows(), self._history.up_s)

    def _rise(self, earlier: Snapshot | None, now: Snapshot) -> None:
        """A process's first snapshot counts from its begin. One that is heard of later was there before: nobody knows since when."""
        series = series_of(now)
        if earlier is not None:
            self._history.add(series_of(earlier), series)
        else:
            self._history.add({} if now["n"] == 1 else series, series)

    def _end(self, source: str) -> None:
        ended = self._live.pop(source, None)
        if ended is None:
            return
        self._gone[ended[0]["id"]] = ended[0]
        while len(self._gone) > _GONE:
            id_, snapshot = self._gone.popitem(last=False)
            self._folded = bounded(merge([self._folded, counts_of(series_of(snapshot))]))
            self._folded_ids[id_] = None
        while len(self._folded_ids) > _FOLDED:
            self._folded_ids.popitem(last=False)
