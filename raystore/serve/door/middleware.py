"""What a request passes before and after the routes, as plain ASGI: request id, host, key, headers, last resort. Its body: `bodies.py`.

Nothing here parses a body. Nothing of a request is logged but its type of failure. Knows no orchestrator.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raystore.access import Principal
from raystore.errors import RaystoreError
from raystore.serve.door.auth import Door
from raystore.serve.door.problems import answer, answer_error, answer_unknown
from raystore.serve.wire.common import REQUEST_ID

log = logging.getLogger("raystore.serve")

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_PORT = re.compile(r":\d+$")
_YEAR = (b"strict-transport-security", b"max-age=31536000")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_NOTHING = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_DOCS = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")


def request_id(scope: Scope) -> str:
    """The caller's own, where it sent one that may stand in logs; else one that was made."""
    found: str = scope["state"]["request_id"]
    return found


def _own_id(sent: Sequence[str]) -> str | None:
    return sent[0] if len(sent) == 1 and REQUEST_ID.fullmatch(sent[0]) else None


def asked(scope: Scope) -> tuple[str, str, str]:
    """What the door asks by: path, method, Authorization. Several such headers are one list (RFC 9110), which is no key: who is between
    us and the caller may have read another of them."""
    sent = b", ".join([value for name, value in scope["headers"] if name == b"authorization"])
    return scope["path"], scope["method"], sent.decode("latin-1")


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
        self.headers = [*_HEADERS, _YEAR] if tls else _HEADERS
        self._ours = frozenset(name for name, _ in (*self.headers, _NOTHING, (b"x-request-id", b"")))

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
                policy = _DOCS if scope["path"] == "/docs" else _NOTHING
                own = [header for header in message.get("headers", ()) if header[0] not in self._ours]
                message["headers"] = [*own, *self.headers, policy, (b"x-request-id", id_.encode("latin-1"))]
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            principal = await self.door.let_in(*asked(scope))
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
