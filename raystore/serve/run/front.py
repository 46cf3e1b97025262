"""What Serve hands requests to, for as long as a replica lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Front:
    """The application of the moment. Serve asks for one before it configures the replica, and never again."""

    def __init__(self, present: Callable[[], ASGIApp | None], end: Callable[[], Awaitable[None]]) -> None:
        self._present = present
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        app = self._present()
        assert app is not None  # a replica is configured before it is sent requests
        await app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                await self._end()
            await send({"type": f"{kind}.complete"})
