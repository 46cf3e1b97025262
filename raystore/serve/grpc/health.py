"""The standard health service (grpc.health.v1.Health), which probes of Kubernetes and load balancers ask.

Its two messages hold one field each, so they are written here by hand: generated code would stand in the way of whoever has
`grpcio-health-checking` in the same process. Nobody is asked for a key, so few may
watch at once, and one look each half second is for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

NAME = "grpc.health.v1.Health"
# HealthCheckResponse: field 1, an enum.
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_LOOK_S = 0.5
_WATCHING = 64  # calls of Watch that a server has open at most


def asked_service(request: bytes) -> str | None:
    """The service that a HealthCheckRequest names (field 1, a string); None where the bytes are none."""
    if not request:
        return ""
    # A name of ours fits into one length byte; a longer one is of no service here.
    if len(request) >= 2 and request[0] == 0x0A and request[1] == len(request) - 2 < 128:
        return request[2:].decode("utf-8", "replace")
    return None


class _Watched:
    """Looks for all who watch, as long as somebody does."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._watching = 0
        self._looking: asyncio.Task[None] | None = None
        self.ready = False  # at the last look
        self.changed = asyncio.Event()  # set once that is no longer so; then another one stands here

    def begin(self) -> bool:
        """Whether there is a place for one more; to be given back by `end`."""
        if self._watching >= _WATCHING:
            return False
        self._watching += 1
        if self._looking is None:
            self.ready = self._is_ready()
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return True

    def end(self) -> None:
        self._watching -= 1
        if self._watching == 0 and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._is_ready() != self.ready:
                changed, self.changed = self.changed, asyncio.Event()
                self.ready = not self.ready
                changed.set()


def health_handlers(services: frozenset[str], is_ready: Callable[[], bool]) -> Any:
    """`services` beside the whole server, whose name is empty."""

    def state(request: bytes, ready: bool) -> bytes:
        if asked_service(request) not in {"", *services}:
            return SERVICE_UNKNOWN
        return SERVING if ready else NOT_SERVING

    async def check(request: bytes, context: Any) -> bytes:
        found = state(request, is_ready())
        if found == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of that name is here.")
        return found

    watched = _Watched(is_ready)

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        if not watched.begin():
            message = f"{_WATCHING} calls watch already. Ask Check instead, or try again later."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        told = b""
        try:
            while True:
                changed, now = watched.changed, state(request, watched.ready)
                if now != told:
                    yield now
                    told = now
                await changed.wait()
        finally:
            watched.end()

    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    return grpc.method_handlers_generic_handler(NAME, handlers)
