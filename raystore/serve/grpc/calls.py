"""What every call passes through: its id, the door, the limits on calls, its deadline, and how it fails.

Messages are handed on as bytes: nothing of a call is read before the door let it in. gRPC would answer an unknown exception with
its text, and log it; so they end here. Knows no message.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc

from raystore.access import Principal
from raystore.errors import BodyTooLarge, RaystoreError
from raystore.serve.answer.streaming import Again
from raystore.serve.answer.timer import Timer
from raystore.serve.door.admission import Admission, limits_of
from raystore.serve.door.auth import Door
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.grpc.refusals import Refusal, refusal_of
from raystore.serve.watch.finished import Finished, Teller
from raystore.serve.wire.common import REQUEST_ID

log = logging.getLogger("raystore.serve")


@dataclass
class Call:
    """One call, let in. What is known of it when it ends is told on."""

    route: str
    request_id: str
    principal: Principal
    again: Again  # the door, asked as at first
    until: float  # time.monotonic()
    deployment: str = ""  # one that exists
    items: int = 0
    timer: Timer = field(default_factory=Timer)  # of a call with one message each way


Messages = AsyncGenerator[bytes, None]
Handler = Callable[[Call, AsyncIterator[bytes]], Messages]


class Calls:
    """Wraps handlers: `unary` of (call, bytes) -> bytes, `stream` of (call, messages as bytes) -> messages as bytes."""

    def __init__(self, door: Door, admission: Admission, tellers: Sequence[Teller]) -> None:
        self._door = door
        self._admission = admission
        self._tellers = tellers

    def unary(self, route: str, path: str, handle: Callable[[Call, bytes], Awaitable[bytes]]) -> Any:
        """The handler of a method with one message each way; `path` is the HTTP route whose verb it asks for.

        To gRPC the request is a stream of one message: a lone one it would read itself, before anybody is asked, and wait for it
        for ever.
        """
        admission = self._admission

        async def one(call: Call, sent: AsyncIterator[bytes]) -> Messages:
            async with admission.coming(call.until - time.monotonic()):
                data = await anext(sent, None)
            if data is None:
                raise InvalidRequestError([("request", "expected a message")])
            yield await handle(call, data)

        async def answer(sent: AsyncIterator[bytes], context: Any) -> bytes:
            answers = [each async for each in self._answered(route, path, one, sent, context)]
            return answers[0]  # a refused call never gets here

        return grpc.stream_unary_rpc_method_handler(answer)

    def stream(self, route: str, path: str, handle: Handler) -> Any:
        """The handler of a method with any number of messages each way."""
        admission = self._admission

        async def many(call: Call, sent: AsyncIterator[bytes]) -> Messages:
            admission.open_stream()
            try:
                async with aclosing(handle(call, sent)) as messages:
                    async for message in messages:
                        yield message
            finally:
                admission.close_stream()

        async def answers(sent: AsyncIterator[bytes], context: Any) -> Messages:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            async with aclosing(self._answered(route, path, many, sent, context)) as messages:
                async for message in messages:
                    leaving = loop.call_later(admission.limits.stream_idle_s, task.cancel)  # who does not read is left
                    try:
                        yield message
                    finally:
                        leaving.cancel()

        return grpc.stream_stream_rpc_method_handler(answers)

    async def _answered(
        self,
        route: str,
        path: str,
        handle: Handler,
        sent: AsyncIterator[bytes],
        context: Any,
    ) -> Messages:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        id_ = metadata.get("x-request-id", "")
        id_ = id_ if REQUEST_ID.fullmatch(id_) else uuid.uuid4().hex
        at, started = time.time(), time.perf_counter()
        await context.send_initial_metadata((("x-request-id", id_),))
        call: Call | None = None
        refusal: Refusal | None = None
        again = partial(self._door.let_in, path, "POST", metadata.get("authorization"))
        try:
            principal = await again()
            self._admission.enter()
            try:
                call = Call(route, id_, principal, again, self._until(context))
                async with aclosing(handle(call, self._counted(call, sent))) as messages:
                    async for message in messages:
                        yield message
            finally:
                self._admission.leave()
        except asyncio.CancelledError:
            refusal = Refusal(499, {"type": "Cancelled", "message": "the caller is gone.", "request_id": id_})
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote the request, so it must not travel on
            refusal = refusal_of(error, id_)
            if refusal.status == 500 and not isinstance(error, RaystoreError):
                log.error("request %s failed with %s", id_, type(error).__name__)
        finally:
            self._tell(route, id_, call, refusal, at, time.perf_counter() - started, metadata.get("traceparent"))
        if refusal is not None:
            await context.abort(refusal.code, refusal.sentence, refusal.metadata)

    async def _counted(self, call: Call, sent: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        most = limits_of(call.principal, self._admission.limits).max_body_bytes
        async for message in sent:
            self._door.debit(call.principal, len(message))
            if len(message) > most:  # gRPC itself knows the service's limit alone
                raise BodyTooLarge(what="the message", found=len(message), limit=most)
            yield message

    def _until(self, context: Any) -> float:
        most, left = self._admission.limits.deadline_s, context.time_remaining()
        return time.monotonic() + min(most, left if left is not None else most)

    def _tell(
        self,
        route: str,
        id_: str,
        call: Call | None,
        refusal: Refusal | None,
        at: float,
        seconds: float,
        parent: str | None,
    ) -> None:
        finished = Finished(
            request_id=id_,
            method="POST",
            route=route,
            status=200 if refusal is None else refusal.status,
            started_at=at,
            seconds=seconds,
            deployment=call.deployment if call is not None else "",
            stages=tuple(call.timer.stages) if call is not None else (),
            items=call.items if call is not None else 0,
            key=call.principal.who if call is not None else None,
            error=None if refusal is None else str(refusal.body["type"]),
            traceparent=parent,
        )
        for tell in self._tellers:
            tell(finished)
