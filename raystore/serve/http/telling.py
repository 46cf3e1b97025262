"""Tells metrics, log and traces of every request that was answered: names, numbers and times, as `Finished` has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raystore.serve.door.middleware import request_id
from raystore.serve.door.routes import template_of
from raystore.serve.watch.finished import Finished, Teller

_ERROR_BYTES = 2**16
# Requests that a deployment answers; reports and reviews about it take their own time, and are none of its figures.
_ANSWERED_BY_IT = frozenset({"/v1/predict/{deployment}", "/v1/predict/{deployment}/stream"})


class Telling:
    """Stands just inside the outermost, so that what the door refuses is told too."""

    def __init__(self, app: ASGIApp, tellers: Sequence[Teller], deployments: Callable[[], Container[str]]) -> None:
        """
        Args:
            deployments: those there are: another name in a path is the client's own, and no label.
        """
        self.app = app
        self._tellers = tellers
        self._deployments = deployments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        at, started = time.time(), time.perf_counter()
        status = 500
        error: str | None = None

        async def sending(message: Message) -> None:
            nonlocal status, error
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= 400 and error is None:
                error = _error_type(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self._tell(scope, status, error, at, time.perf_counter() - started)

    def _tell(self, scope: Scope, status: int, error: str | None, at: float, seconds: float) -> None:
        state = scope["state"]
        route, name = template_of(scope["method"], scope["path"])
        if (matched := scope.get("route")) is not None:
            route = str(matched.path)
        principal = state.get("principal")
        timer = state.get("timer")
        finished = Finished(
            request_id=request_id(scope),
            method=scope["method"],
            route=route,
            status=status,
            started_at=at,
            seconds=seconds,
            deployment=name if route in _ANSWERED_BY_IT and name in self._deployments() else "",
            stages=tuple(timer.stages) if timer is not None else (),
            items=state.get("items", 0),
            key=None if principal is None else principal.who,
            error=error or state.get("error"),
            traceparent=Headers(scope=scope).get("traceparent"),
        )
        for tell in self._tellers:
            tell(finished)


def _error_type(body: bytes) -> str | None:
    """The type that an error's body names."""
    if not body or len(body) > _ERROR_BYTES:
        return None
    try:
        found: Any = from_json(body)
        return str(found["error"]["type"])
    except (ValueError, KeyError, TypeError):
        return None
