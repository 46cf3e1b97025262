"""A stream's items to its lines: what came together is predicted together, and answered in order.

While one part is predicted the next is read, up to its bound; then gRPC's own flow control holds the sender.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from raystore.errors import RaystoreError
from raystore.serve.answer.asked import Asked
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.calls import Call
from raystore.serve.grpc.messages import lineage, parse, prediction, stream_item, stream_options
from raystore.serve.grpc.refusals import refusal_of
from raystore.serve.http.common import Provider, ready
from raystore.serve.spec.app import Limits
from raystore.serve.wire.predict import PredictOptions

_LINES = 64  # predicted together
_END = object()


class Streams:
    """Answers PredictStream."""

    def __init__(self, provider: Provider, limits: Limits) -> None:
        self._provider = provider
        self._limits = limits

    async def __call__(self, call: Call, sent: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        found = ready(self._provider)
        first = await anext(aiter(sent), None)
        message = parse(pb.StreamRequest, first or b"")
        if message.WhichOneof("what") != "options":
            raise InvalidRequestError([("options", "expected in the first message, and items in those behind it")])
        call.deployment = found.deployment(message.options.deployment).record.name
        one = _Stream(found, call, stream_options(message.options), self._limits)
        async with aclosing(_together(sent)) as parts:
            async for part in parts:
                for line in await one.answers(part):
                    yield line.SerializeToString()
        yield one.done().SerializeToString()


class _Stream:
    def __init__(self, found: Orchestrator, call: Call, options: PredictOptions, limits: Limits) -> None:
        self._found = found
        self._call = call
        self._options = options
        self._limits = limits
        self._line = 0
        self._failed = 0
        self._lineage: Any = None

    async def answers(self, messages: list[bytes]) -> list[pb.StreamAnswer]:
        """A line for each, in order."""
        start, good = self._line, list[tuple[int, Asked]]()
        self._line += len(messages)
        self._call.items = self._line
        said: dict[int, pb.StreamLine] = {}
        for number, data in enumerate(messages, start):
            try:
                good.append((number, self._asked(number, data)))
            except (InvalidRequestError, RaystoreError) as error:
                said[number] = self._wrong(number, error)
        said |= await self._predicted(good)
        self._failed += sum(line.WhichOneof("said") == "error" for line in said.values())
        return [pb.StreamAnswer(line=said[number]) for number in range(start, self._line)]

    def done(self) -> pb.StreamAnswer:
        found = pb.StreamDone(done=self._line, failed=self._failed, request_id=self._call.request_id)
        if self._lineage is not None:
            found.lineage.CopyFrom(lineage(self._lineage))
        return pb.StreamAnswer(done=found)

    def _asked(self, number: int, data: bytes) -> Asked:
        message = parse(pb.StreamRequest, data)
        if message.WhichOneof("what") != "item":
            raise InvalidRequestError([("item", "expected in every message but the first")])
        return stream_item(message.item, f"{self._call.request_id}-{number}", self._options.fingerprint, self._limits)

    async def _predicted(self, good: list[tuple[int, Asked]]) -> dict[int, pb.StreamLine]:
        """The lines of those items by number: together, or one by one where together one of them fails."""
        if not good:
            return {}
        try:
            answer = await self._found.predict(
                self._call.deployment,
                [asked for _, asked in good],
                fingerprint=self._options.fingerprint,
                top=self._options.top,
                evidence=self._options.evidence,
                who=self._call.principal.name,
                request_id=self._call.request_id,
                until=time.monotonic() + self._limits.deadline_s,
            )
        except RaystoreError as error:
            if len(good) == 1:
                return {good[0][0]: self._wrong(good[0][0], error)}
        else:
            self._lineage = answer["lineage"]
            told = zip(good, answer["predictions"], strict=True)
            return {number: pb.StreamLine(line=number, prediction=prediction(each)) for (number, _), each in told}
        lines: dict[int, pb.StreamLine] = {}
        for one in good:
            lines |= await self._predicted([one])
        return lines

    def _wrong(self, number: int, error: BaseException) -> pb.StreamLine:
        refusal = refusal_of(error, self._call.request_id)
        told = {name: str(refusal.body[name]) for name in ("type", "message", "request_id")}
        return pb.StreamLine(line=number, error=pb.Error(**told, json=refusal.json))


async def _together(sent: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    """The messages as they come; those that came while the last part was answered, in one list."""
    queue: asyncio.Queue[Any] = asyncio.Queue(_LINES)

    async def read() -> None:
        try:
            async for message in sent:
                await queue.put(message)
            await queue.put(_END)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            await queue.put(error)

    reading = asyncio.ensure_future(read())
    try:
        while True:
            part = [await queue.get()]
            while not queue.empty() and len(part) < _LINES:
                part.append(queue.get_nowait())
            last = part[-1] if part[-1] is _END or isinstance(part[-1], Exception) else None
            messages = part[:-1] if last is not None else part
            if messages:
                yield messages
            if isinstance(last, Exception):
                raise last
            if last is not None:
                return
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
