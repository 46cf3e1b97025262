"""What a request passes before and after the routes, as plain ASGI: request id, host, key, size, headers, last resort.

Nothing here parses a body. Nothing of a request is logged but its type of failure. Knows no orchestrator.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raystore.errors import BodyTooLarge, RaystoreError
from raystore.serve.auth import Door
from raystore.serve.problems import answer, answer_error, answer_unknown

log = logging.getLogger("raystore.serve")

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# How much of a body that is too large is read, and for how long, so that its sender gets to see the answer.
_DRAIN_BYTES = 2**26
_DRAIN_S = 10.0
_PORT = re.compile(r":\d+$")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_DOCS = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def request_id(scope: Scope) -> str:
    found: str = scope["state"]["request_id"]
    return found


class LastResort:
    """Outermost: gives the request its id, adds the headers, and turns what nobody caught into a bare 500.

    Starlette answers unknown exceptions and then raises them again, and the server prints them, content and all;
    so they end here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        scope["state"]["request_id"] = id_ = uuid.uuid4().hex
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers["content-security-policy"] = _DOCS if scope["path"] == "/docs" else _NOTHING
                headers["x-request-id"] = id_
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - its text may quote the request, so it must not travel on
            log.error("request %s failed with %s", id_, type(error).__name__)
            if not started:
                await answer_unknown(error, id_)(scope, receive, sending)


class HostCheck:
    """On loopback only the machine's own names are served, so that no web page reaches it by rebinding its own name."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self.app = app
        self.allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.allowed:
            host = _PORT.sub("", Headers(scope=scope).get("host", "")).lower()
            if host not in self.allowed:
                message = "the Host header names no address of this service"
                await answer(421, "WrongHost", f"{message}.", request_id(scope))(scope, receive, send)
                return
        await self.app(scope, receive, send)


class KeyCheck:
    """Asks the door before anything of the body is read."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self.door.admit(scope["path"], Headers(scope=scope).get("authorization"))
            except RaystoreError as error:
                await answer_error(error, request_id(scope))(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Reads the body whole, up to the limit, before the routes see it; what is over is answered 413 and not kept.

    Holds with and without a Content-Length: bytes are counted as they come. The rest of a body that is over is read
    and dropped first: a connection that is closed on unread bytes is reset, and then the answer is lost with it.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self.max_bytes:
            await self._refuse(int(declared), True, scope, receive, send)
            return
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the client is gone: there is nobody to answer
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.max_bytes:
                await self._refuse(size, more, scope, receive, send)
                return
        body = b"".join(parts)
        parts.clear()  # else it would be held twice while it is answered
        delivered = False

        async def replay() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _refuse(self, found: int, more: bool, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLarge(what="the body of this request", found=found, limit=self.max_bytes)
        response = answer_error(error, request_id(scope))
        response.headers["connection"] = "close"  # much more than that stays unread
        if more:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await _drain(receive)
        await response(scope, receive, send)


async def _drain(receive: Receive) -> None:
    size = 0
    more = True
    while more and size < _DRAIN_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
