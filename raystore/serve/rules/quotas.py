"""How often each value of a column has asked lately, in memory of fixed size.

A window is cut into eight parts and each value has a count for every part: never more than `requests` of a value in any window of
that length, and each is forgotten at most an eighth of a window late. Values are kept as keyed digests, the key in this process
alone. The 50,000 values that asked last are known (16 MB); one that fell out starts anew. Safe in many threads; 4 us a take.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

_PARTS = 8
_MOST_VALUES = 50_000


class Windows:
    """The counts of one quota in this replica."""

    def __init__(
        self, requests: int, window_s: float, *, share: float, clock: Callable[[], float], most: int = _MOST_VALUES
    ) -> None:
        """
        Args:
            share: what this replica takes of the quota: one by the number of replicas. Where that is less than one request, one
                passes in a window that is longer by as much, so the quota holds on average.
            most: values that are known at once.
        """
        mine = requests * share
        self.requests = max(1, math.floor(mine + 1e-9))
        self.window_s = window_s if mine >= 1 else window_s / mine
        self._part_s = self.window_s / _PARTS
        self._clock = clock
        self._most = most
        self._key = secrets.token_bytes(16)
        # By digest: the newest part that was counted, then the counts of the last nine, each at its number's remainder.
        self._counts: OrderedDict[bytes, list[int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, value: object) -> float:
        """0.0 where the request is within the quota, which counts it; else the seconds after which one would be."""
        digest = self._digest(value)
        with self._lock:
            now = self._clock()
            part = int(now // self._part_s)
            counts = self._at(digest, part)
            if sum(counts) - counts[0] < self.requests:
                counts[1 + part % (_PARTS + 1)] += 1
                return 0.0
            oldest = next(p for p in range(part - _PARTS, part + 1) if counts[1 + p % (_PARTS + 1)])
            return max((oldest + _PARTS + 1) * self._part_s - now, 0.001)

    def give_back(self, value: object) -> None:
        """Uncount the newest request of this value."""
        with self._lock:
            counts = self._counts.get(self._digest(value))
            if counts is None:
                return
            for part in range(counts[0], counts[0] - _PARTS - 1, -1):
                place = 1 + part % (_PARTS + 1)
                if counts[place]:
                    counts[place] -= 1
                    return

    def _at(self, digest: bytes, part: int) -> list[int]:
        """The counts of a value, what is too old left out."""
        counts = self._counts.get(digest)
        if counts is None:
            counts = self._counts[digest] = [part] + [0] * (_PARTS + 1)
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)
            return counts
        self._counts.move_to_end(digest)
        for passed in range(counts[0] + 1, min(part, counts[0] + _PARTS + 1) + 1):
            counts[1 + passed % (_PARTS + 1)] = 0
        counts[0] = part
        return counts

    def _digest(self, value: object) -> bytes:
        told = f"{type(value).__name__} {value}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(told, digest_size=16, key=self._key).digest()
