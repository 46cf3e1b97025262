"""PredictStream: an item a message, a line back for each. `answer/streaming.py` has what a stream is; this reads and writes messages.

While one group is predicted the next is read, up to its bound; then gRPC's own flow control holds the sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from raystore.serve.answer.asked import Asked
from raystore.serve.answer.streaming import LINES, Line, Stream
from raystore.serve.door.admission import Admission
from raystore.serve.door.auth import check_evidence
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.calls import Call, Messages
from raystore.serve.grpc.messages import lineage, parse, prediction, stream_item, stream_options
from raystore.serve.grpc.refusals import refusal_of
from raystore.serve.http.common import Provider, ready
from raystore.serve.spec.app import Limits

_END = object()


class Streams:
    """Answers PredictStream."""

    def __init__(self, provider: Provider, limits: Limits, admission: Admission) -> None:
        self._provider = provider
        self._limits = limits
        self._admission = admission

    async def __call__(self, call: Call, sent: AsyncIterator[bytes]) -> Messages:
        found = ready(self._provider)
        async with self._admission.coming(self._limits.deadline_s):
            first = await anext(sent, None)
        message = parse(pb.StreamRequest, first or b"")
        if message.WhichOneof("what") != "options":
            raise InvalidRequestError([("options", "expected in the first message, and items in those behind it")])
        call.deployment = found.deployment(message.options.deployment).record.name
        options = stream_options(message.options)
        check_evidence(call.principal, options.evidence)
        one: Stream[bytes] = Stream(
            found=lambda: ready(self._provider),
            route=call.route,
            deployment=call.deployment,
            options=options.model_dump(),
            who=call.principal.who,
            request_id=call.request_id,
            admission=self._admission,
            again=call.again,
            read=partial(_asked, id_=call.request_id, fingerprint=options.fingerprint, limits=self._limits),
            size=len,
        )
        async with aclosing(_together(sent, self._limits.max_body_bytes)) as groups:
            async for lines in one.answers(groups):
                call.items = one.done
                for line in lines:
                    yield pb.StreamAnswer(line=_shown(line, call.request_id)).SerializeToString()
        done = pb.StreamDone(done=one.done, failed=one.failed, request_id=call.request_id)
        if one.lineage is not None:
            done.lineage.CopyFrom(lineage(one.lineage))
        yield pb.StreamAnswer(done=done).SerializeToString()


def _asked(number: int, data: bytes, *, id_: str, fingerprint: str | None, limits: Limits) -> Asked:
    message = parse(pb.StreamRequest, data)
    if message.WhichOneof("what") != "item":
        raise InvalidRequestError([("item", "expected in every message but the first")])
    return stream_item(message.item, f"{id_}-{number}", fingerprint, limits)


def _shown(line: Line, id_: str) -> pb.StreamLine:
    if line.prediction is not None:
        return pb.StreamLine(line=line.number, prediction=prediction(line.prediction))
    assert line.error is not None
    refusal = refusal_of(line.error, id_)
    told = {name: str(refusal.body[name]) for name in ("type", "message", "request_id")}
    return pb.StreamLine(line=line.number, error=pb.Error(**told, json=refusal.json))


async def _together(sent: AsyncIterator[bytes], most: int) -> AsyncGenerator[list[bytes], None]:
    """The messages as they come; those that came while the last group was answered, in one list. So many bytes wait at most, or one
    message."""
    queue: asyncio.Queue[Any] = asyncio.Queue(LINES)
    held = 0  # bytes that wait
    taken = asyncio.Event()

    async def read() -> None:
        nonlocal held
        try:
            async for message in sent:
                while held and held + len(message) > most:
                    taken.clear()
                    await taken.wait()
                held += len(message)
                await queue.put(message)
            await queue.put(_END)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            await queue.put(error)

    reading = asyncio.ensure_future(read())
    try:
        while True:
            part = [await queue.get()]
            while not queue.empty() and len(part) < LINES:
                part.append(queue.get_nowait())
            last = part[-1] if part[-1] is _END or isinstance(part[-1], Exception) else None
            messages = part[:-1] if last is not None else part
            held -= sum(map(len, messages))
            taken.set()
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
