"""The standard health service (grpc.health.v1.Health), which probes of Kubernetes and load balancers ask.

Its two messages hold one field each, so they are written here by hand: generated code would stand in the way of whoever has
`grpcio-health-checking` in the same process. Nobody is asked for a key.
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


def asked_service(request: bytes) -> str | None:
    """The service that a HealthCheckRequest names (field 1, a string); None where the bytes are none."""
    if not request:
        return ""
    # A name of ours fits into one length byte; a longer one is of no service here.
    if len(request) >= 2 and request[0] == 0x0A and request[1] == len(request) - 2 < 128:
        return request[2:].decode("utf-8", "replace")
    return None


def health_handlers(services: frozenset[str], is_ready: Callable[[], bool]) -> Any:
    """`services` beside the whole server, whose name is empty."""

    def state(request: bytes) -> bytes:
        if asked_service(request) not in {"", *services}:
            return SERVICE_UNKNOWN
        return SERVING if is_ready() else NOT_SERVING

    async def check(request: bytes, context: Any) -> bytes:
        found = state(request)
        if found == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of that name is here.")
        return found

    async def watch(request: bytes, _: Any) -> AsyncIterator[bytes]:
        told = b""
        while True:
            now = state(request)
            if now != told:
                yield now
                told = now
            await asyncio.sleep(_LOOK_S)

    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    return grpc.method_handlers_generic_handler(NAME, handlers)
