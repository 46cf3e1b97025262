"""Takes a place for each request, and reads its body whole before the routes see it: so many bytes at most, within its time.

What is over a limit is answered 413, 408 or 503 and not kept. A stream, which is answered line by line, reads its own body and bounds
each line (`answer/streaming.py`). Parses nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raystore.errors import BodyTooLarge, RaystoreError
from raystore.serve.door.admission import Admission, limits_of
from raystore.serve.door.middleware import principal_of, request_id
from raystore.serve.door.problems import answer_error

# How much of a body that is too large is read, and for how long, so that its sender gets to see the answer.
_DRAIN_BYTES = 2**26
_DRAIN_S = 10.0
_STREAM = re.compile(r"/v1/predict/[^/]+/stream")


class Bodies:
    """Of requests under /v1; health and metrics are always answered, and read no body.

    The limit of bytes holds with and without a Content-Length: bytes are counted as they come. The rest of a body that is over is read
    and dropped first: a connection that is closed on unread bytes is reset, and then the answer is lost with it.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self.app = app
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        try:
            self.admission.enter()
        except RaystoreError as error:
            await answer_error(error, request_id(scope))(scope, receive, send)
            return
        try:
            if _STREAM.fullmatch(scope["path"]) is not None:
                await self._stream(scope, receive, send)
            else:
                await self._whole(scope, receive, send)
        finally:
            self.admission.leave()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.admission.open_stream()
        except RaystoreError as error:
            await answer_error(error, request_id(scope))(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.admission.close_stream()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = limits_of(principal_of(scope), self.admission.limits)
        declared, within_s = _said(scope, limits.deadline_s)
        scope["state"]["until"] = time.monotonic() + within_s
        try:
            async with self.admission.coming(within_s):
                body = await self._read(declared, limits.max_body_bytes, receive)
        except RaystoreError as error:
            response = answer_error(error, request_id(scope))
            response.headers["connection"] = "close"  # the rest of it is not read
            await response(scope, receive, send)
            return
        except ClientDisconnect:  # there is nobody to answer
            return
        await self.app(scope, _replayed(body, receive), send)

    async def _read(self, declared: int, most: int, receive: Receive) -> bytes:
        """The body. Raises BodyTooLarge, and ClientDisconnect where its sender left."""
        if declared > most:
            await _drain(receive)
            raise _too_large(declared, most)
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > most:
                if more:
                    await _drain(receive)
                raise _too_large(size, most)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _said(scope: Scope, deadline_s: float) -> tuple[int, float]:
    """The length that a request declares, 0 without; and the seconds it is given, which its header may make fewer."""
    declared = 0
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            declared = int(value[:19])
        elif name == b"x-raystore-deadline-ms" and value.isdigit() and len(value) < 10:
            deadline_s = min(deadline_s, int(value) / 1e3)
    return declared, deadline_s


def _too_large(found: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(what="the body of this request", found=found, limit=limit)


def _replayed(body: bytes, receive: Receive) -> Receive:
    delivered = False

    async def replay() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _drain(receive: Receive) -> None:
    size = 0
    more = True
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while more and size < _DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
