"""What a request passes before and after the routes, as plain ASGI: request id, host, key, size, headers, last resort.

Nothing here parses a body. Nothing of a request is logged but its type of failure. Knows no orchestrator.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raystore.access import Principal
from raystore.errors import BodyTooLarge, RaystoreError
from raystore.serve.door.auth import Door
from raystore.serve.door.problems import answer, answer_error, answer_unknown

log = logging.getLogger("raystore.serve")

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# How much of a body that is too large is read, and for how long, so that its sender gets to see the answer.
_DRAIN_BYTES = 2**26
_DRAIN_S = 10.0
_PORT = re.compile(r":\d+$")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Threads that look up keys and tokens that are not known yet. Apart from those that encode, so that neither waits for the other.
_ASKING = 8
_STREAM = re.compile(r"/v1/predict/[^/]+/stream")
_YEAR = "max-age=31536000"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_DOCS = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def request_id(scope: Scope) -> str:
    """The caller's own, where it sent one that may stand in logs; else one that was made."""
    found: str = scope["state"]["request_id"]
    return found


def _own_id(sent: Sequence[str]) -> str | None:
    return sent[0] if len(sent) == 1 and _REQUEST_ID.fullmatch(sent[0]) else None


def principal_of(scope: Scope) -> Principal:
    """Who asks, as the door found."""
    found: Principal = scope["state"]["principal"]
    return found


class LastResort:
    """Outermost: gives the request its id, adds the headers, and turns what nobody caught into a bare 500.

    Starlette answers unknown exceptions and then raises them again, and the server prints them, content and all;
    so they end here. Of what is no HTTP, only the server's own start and stop go further.

    With `tls`, browsers are told to come back by TLS alone.
    """

    def __init__(self, app: ASGIApp, tls: bool = False) -> None:
        self.app = app
        self.headers = {**_HEADERS, "strict-transport-security": _YEAR} if tls else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there is no such route, and nothing further in asks who it is
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        scope["state"]["request_id"] = id_ = _own_id(Headers(scope=scope).getlist("x-request-id")) or uuid.uuid4().hex
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
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
    """Asks the door before anything of the body is read, and counts the body's bytes as they are."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self.door = door
        self._threads = ThreadPoolExecutor(_ASKING, thread_name_prefix="raystore-door")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            principal = await self._admitted(scope)
        except RaystoreError as error:
            await answer_error(error, request_id(scope))(scope, receive, send)
            return
        scope["state"]["principal"] = principal

        async def counting() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self.door.debit(principal, len(message.get("body", b"")))
            return message

        await self.app(scope, counting, send)

    async def _admitted(self, scope: Scope) -> Principal:
        """Who is known is let in at once; for others files or a provider are asked, in a thread."""
        # Several headers are one list (RFC 9110), which is no key: who is between us and the caller may have read another of them.
        authorization = ", ".join(Headers(scope=scope).getlist("authorization"))
        asked = scope["path"], scope["method"], authorization
        known = self.door.admit_known(*asked)
        if known is not None:
            return known
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.door.admit, *asked)


class BodyLimit:
    """Reads the body whole, up to the limit, before the routes see it; what is over is answered 413 and not kept. A route that is
    answered line by line reads its own body, and bounds each line.

    Holds with and without a Content-Length: bytes are counted as they come. The rest of a body that is over is read
    and dropped first: a connection that is closed on unread bytes is reset, and then the answer is lost with it.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _STREAM.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > self.max_bytes:
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
