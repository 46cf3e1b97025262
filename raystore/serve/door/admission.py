"""How many requests a replica takes at once, and how long each may last. What is over is answered 503 before its body is read.

Without it requests would queue in memory until every answer comes too late. Knows no orchestrator.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from raystore.errors import Overloaded
from raystore.serve.door.middleware import request_id
from raystore.serve.door.problems import answer_error

DEADLINE = "x-raystore-deadline-ms"


class Admission:
    """Counts the requests under /v1; health and metrics are always answered."""

    def __init__(self, app: ASGIApp, most: int, deadline_s: float, changed: Callable[[int], None] = lambda _: None) -> None:
        """
        Args:
            most: requests under way.
            deadline_s: the longest a request may last; one may ask for less in its header.
            changed: told how many are under way.
        """
        self.app = app
        self.most = most
        self.deadline_s = deadline_s
        self._changed = changed
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        if self._under_way >= self.most:
            response = answer_error(Overloaded(limit=self.most), request_id(scope))
            await response(scope, receive, send)
            return
        scope["state"]["until"] = time.monotonic() + self._seconds(scope)
        self._under_way += 1
        self._changed(self._under_way)
        try:
            await self.app(scope, receive, send)
        finally:
            self._under_way -= 1
            self._changed(self._under_way)

    def _seconds(self, scope: Scope) -> float:
        asked = Headers(scope=scope).get(DEADLINE, "")
        return (
            min(self.deadline_s, int(asked) / 1e3)
            if asked.isascii() and asked.isdigit() and len(asked) < 10
            else self.deadline_s
        )
