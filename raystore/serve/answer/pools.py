"""Threads for what blocks, apart by what it waits for: whoever waits for one thing in vain keeps nobody from another.

A pool starts its threads as they are needed, so one that nobody uses costs nothing. Knows nothing of what runs in them.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor

_THREADS = 16


class Pools:
    """Of one process. Encoders, the routes of HTTP and the door have threads of their own besides."""

    def __init__(self) -> None:
        self.logs = _pool("log")  # rows that are durable before the answer
        self.grpc = _pool("grpc")
        self.asks = _pool("ask")  # operators' questions to the process that keeps predictions
        self.changes = _pool("change")  # promotions, and the way back
        self.tells = _pool("tell")  # metrics and status
        self._heads: dict[str, Executor] = {}
        self._lock = threading.Lock()

    def heads(self, deployment: str) -> Executor:
        """Those in which the heads of a deployment are asked, here or in another process; the same each time."""
        with self._lock:
            found = self._heads.get(deployment)
            if found is None:
                found = self._heads[deployment] = _pool(f"head-{deployment}")
            return found


def _pool(name: str) -> Executor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix=f"raystore-{name}")
