"""How many requests there were in the last minutes, from what each process counted since it was last heard. Knows no HTTP and no Ray.

Rises are taken process by process: a total over all of them jumps whenever one is heard of first, or anew after the process that adds
them up has ended. Costs some 0.1 ms each time a process is heard.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from raystore.serve.watch import table
from raystore.serve.watch.merging import Series, merge
from raystore.serve.watch.metrics import Value

WINDOWS_S = {"1m": 60.0, "5m": 300.0}
_EVERY_S = 5.0
_COUNTED = (table.REQUESTS.name, table.REQUEST_SECONDS.name)


class Window(NamedTuple):
    """What rose of late. `seconds` is what it covers: some more than its name says, and less right after the start."""

    seconds: float
    rises: Series


class _Part:
    """What rose from a moment on until the next part begins."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.rises: Series = {}


class History:
    """The rises of the last five minutes, in parts of some seconds. Its owner lets one thread in at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._heard = clock()
        self._parts = deque([_Part(self._started)])

    @property
    def up_s(self) -> float:
        return self._clock() - self._started

    def add(self, before: Series, now: Series) -> None:
        """Take up how much a process counted between two snapshots."""
        present = self._clock()
        if self._heard - self._parts[-1].begun >= _EVERY_S:
            self._parts.append(_Part(self._heard))
            while len(self._parts) > 1 and self._parts[1].begun <= present - max(WINDOWS_S.values()):
                self._parts.popleft()
        self._heard = present
        last = self._parts[-1]
        last.rises = merge([last.rises, _rises(before, now)])

    def windows(self) -> dict[str, Window]:
        return {name: self._window(seconds) for name, seconds in WINDOWS_S.items()}

    def _window(self, seconds: float) -> Window:
        now = self._clock()
        first = max((i for i, part in enumerate(self._parts) if part.begun <= now - seconds), default=0)
        parts = list(self._parts)[first:]
        return Window(now - parts[0].begun, merge(part.rises for part in parts))


def _rises(before: Series, now: Series) -> Series:
    """Of each counter of requests how much it rose, where it did."""
    found: Series = {}
    for name in _COUNTED:
        earlier = before.get(name, {})
        risen = {labels: _less(value, earlier.get(labels)) for labels, value in now.get(name, {}).items()}
        found[name] = {
            labels: value for labels, value in risen.items() if (value[-1] if isinstance(value, list) else value)
        }
    return found


def _less(value: Value, before: Value | None) -> Value:
    if isinstance(value, list):
        return [a - b for a, b in zip(value, before, strict=True)] if isinstance(before, list) else value
    return value - before if isinstance(before, float | int) else value
