"""What every call passes through: its id, the door, the limit on calls under way, its deadline, and how it fails.

Messages are handed on as bytes: nothing of a call is parsed before the door let it in. gRPC would answer an unknown exception with
its text, and log it; so they end here. Knows no message.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import grpc

from raystore.access import Principal
from raystore.errors import Overloaded
from raystore.serve.door.auth import Door
from raystore.serve.grpc.refusals import Refusal, refusal_of
from raystore.serve.spec.app import Limits
from raystore.serve.watch.finished import Finished, Teller

log = logging.getLogger("raystore.serve")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Call:
    """One call, let in. What is known of it when it ends is told on."""

    request_id: str
    principal: Principal
    until: float  # time.monotonic()
    deployment: str = ""  # one that exists
    items: int = 0


class Calls:
    """Wraps handlers: `unary` of (call, bytes) -> bytes, `stream` of (call, messages as bytes) -> messages as bytes."""

    def __init__(self, door: Door, limits: Limits, threads: Executor, tellers: Sequence[Teller]) -> None:
        self._door = door
        self._limits = limits
        self._threads = threads
        self._tellers = tellers
        self._under_way = 0

    def unary(self, route: str, path: str, handle: Callable[[Call, bytes], Awaitable[bytes]]) -> Any:
        """The handler of a method with one message each way; `path` is the HTTP route whose verb it asks for."""

        async def answer(data: bytes, context: Any) -> bytes:
            async def messages() -> AsyncIterator[bytes]:
                yield data

            async def one(call: Call, sent: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
                async for each in sent:
                    yield await handle(call, each)

            answers = [each async for each in self._answered(route, path, one, messages(), context)]
            return answers[0]  # a refused call never gets here

        return grpc.unary_unary_rpc_method_handler(answer)

    def stream(self, route: str, path: str, handle: Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]]) -> Any:
        """The handler of a method with any number of messages each way."""

        async def answers(sent: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for each in self._answered(route, path, handle, sent, context):
                yield each

        return grpc.stream_stream_rpc_method_handler(answers)

    async def _answered(
        self,
        route: str,
        path: str,
        handle: Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]],
        sent: AsyncIterator[bytes],
        context: Any,
    ) -> AsyncIterator[bytes]:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        id_ = metadata.get("x-request-id", "")
        id_ = id_ if _REQUEST_ID.fullmatch(id_) else uuid.uuid4().hex
        at, started = time.time(), time.perf_counter()
        await context.send_initial_metadata((("x-request-id", id_),))
        call: Call | None = None
        refusal: Refusal | None = None
        self._under_way += 1
        try:
            if self._under_way > self._limits.max_requests:
                raise Overloaded(limit=self._limits.max_requests)
            principal = await self._admitted(path, metadata.get("authorization"))
            call = Call(id_, principal, self._until(context))
            async for message in handle(call, self._counted(call, sent)):
                yield message
        except asyncio.CancelledError:
            refusal = Refusal(499, {"type": "Cancelled", "message": "the caller is gone.", "request_id": id_})
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote the request, so it must not travel on
            refusal = refusal_of(error, id_)
            if refusal.status >= 500 and refusal.body["type"] == type(error).__name__:
                log.error("request %s failed with %s", id_, type(error).__name__)
        finally:
            self._under_way -= 1
            self._tell(route, id_, call, refusal, at, time.perf_counter() - started, metadata.get("traceparent"))
        if refusal is not None:
            await context.abort(refusal.code, refusal.sentence, refusal.metadata)

    async def _admitted(self, path: str, authorization: str | None) -> Principal:
        known = self._door.admit_known(path, "POST", authorization)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._door.admit, path, "POST", authorization)

    async def _counted(self, call: Call, sent: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in sent:
            self._door.debit(call.principal, len(message))
            yield message

    def _until(self, context: Any) -> float:
        left = context.time_remaining()
        return time.monotonic() + min(self._limits.deadline_s, left if left is not None else self._limits.deadline_s)

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
            items=call.items if call is not None else 0,
            key=call.principal.name if call is not None else None,
            error=None if refusal is None else str(refusal.body["type"]),
            traceparent=parent,
        )
        for tell in self._tellers:
            tell(finished)
