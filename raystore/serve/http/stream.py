"""POST /v1/predict/{deployment}/stream: a line of JSON each way for each item. What a stream is stands in `answer/streaming.py`; this
cuts a body into lines, and writes the answer's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from raystore.errors import BodyTooLarge, ItemsUnusable, RaystoreError
from raystore.serve.answer.asked import Asked
from raystore.serve.answer.streaming import LINES, Line, Stream
from raystore.serve.door.admission import Admission, limits_of
from raystore.serve.door.auth import Door, check_evidence
from raystore.serve.door.middleware import asked, principal_of, request_id
from raystore.serve.door.problems import InvalidRequestError, answer_error, answer_invalid, answer_unknown
from raystore.serve.http.common import Name, Provider, ready
from raystore.serve.http.errors import body_problems, error_body
from raystore.serve.http.predict import content_type, request_schema, to_asked, who
from raystore.serve.spec.app import Limits
from raystore.serve.wire.predict import PredictItem, PredictOptions

log = logging.getLogger("raystore.serve")
NDJSON = "application/x-ndjson"
ABOUT = (
    'A line of JSON for each item, as in `items`, and a line back for each, in order: `{"line": 0, "prediction": {...}}` or '
    '`{"line": 0, "error": {...}}`; the last one is `{"done": 2, "failed": 0, ...}`. Lines are answered as they come. Ids that '
    "are not given are the request's id and the line. A stream that is ended before its sender ends it says why in the last line: "
    '`{"done": 2, ..., "error": {...}}`.'
)


def add_stream_route(router: APIRouter, provider: Provider, limits: Limits, door: Door, admission: Admission) -> None:
    @router.post(
        "/predict/{deployment}/stream",
        responses={200: {"content": {NDJSON: {"schema": {"$ref": "#/components/schemas/StreamLine"}}}}},
        response_class=Response,
        openapi_extra=request_schema(PredictItem, NDJSON),
        summary="Predict line by line",
        description=ABOUT,
    )
    async def stream(deployment: Name, request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
        id_, allowed = request_id(request.scope), limits_of(principal_of(request.scope), limits)
        if content_type(request) != NDJSON:
            raise InvalidRequestError([("body", f"expected {NDJSON} as content-type")])
        check_evidence(principal_of(request.scope), options.evidence)
        ready(provider).deployment(deployment)  # a wrong name is an answer of its own, not a line
        one: Stream[bytes | int] = Stream(
            found=lambda: ready(provider),
            route=request.scope["route"].path,
            deployment=deployment,
            options=options.model_dump(),
            who=who(request.scope),
            request_id=id_,
            admission=admission,
            again=partial(door.let_in, *asked(request.scope)),
            read=partial(_asked, id_=id_, fingerprint=options.fingerprint, limits=allowed),
            size=lambda line: line if isinstance(line, int) else len(line),
        )
        groups = _lines(request.stream(), allowed.max_body_bytes)
        return _Lines(_written(one, groups, id_, request.scope["state"]), limits.stream_idle_s)


class _Lines(Response):
    """An answer that goes out while its request comes in. Starlette's own would read the request too, to see its sender leave.

    Args:
        lines: of the answer, those together that go out together.
        idle_s: how long they may take to go out. Who does not read them is left, with the answer unfinished.
    """

    media_type = NDJSON

    def __init__(self, lines: AsyncGenerator[bytes, None], idle_s: float) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines
        self._idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI calls it
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._lines) as lines:
            with suppress(ClientDisconnect):
                async for body in lines:
                    try:
                        async with asyncio.timeout(self._idle_s):
                            await send({"type": "http.response.body", "body": body, "more_body": True})
                    except TimeoutError:
                        return
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lines(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[list[bytes | int]]:
    """The lines of a body as they come, together those that came together; of one with more than `most` bytes their number alone."""
    parts: list[bytes] = []  # of the line that has not ended
    size = 0

    def ended() -> bytes | int:
        nonlocal size
        line = b"".join(parts) if size <= most else size
        parts.clear()
        size = 0
        return line

    async for chunk in chunks:
        lines: list[bytes | int] = []
        *ends, rest = chunk.split(b"\n")
        for part in ends:
            parts.append(part)
            size += len(part)
            lines.append(ended())
        size += len(rest)
        if size <= most:
            parts.append(rest)
        else:
            parts.clear()
        for start in range(0, len(lines), LINES):
            yield lines[start : start + LINES]
    if size:
        yield [ended()]


async def _written(
    stream: Stream[bytes | int], groups: AsyncIterator[list[bytes | int]], id_: str, state: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """The lines of the answer as they are sent; the last one counts, and says why the stream was ended, where it was."""
    end: dict[str, Any] = {}
    try:
        async for lines in stream.answers(groups):
            state["items"] = stream.done
            yield b"".join(to_json(_shown(line, id_)) + b"\n" for line in lines)
    except ClientDisconnect:
        raise
    except Exception as error:  # noqa: BLE001 - its text may quote the request, so it must not travel on
        end = {"error": _error(error, id_)}
        state["error"] = end["error"]["type"]
        if not isinstance(error, RaystoreError):
            log.error("request %s failed with %s", id_, type(error).__name__)
    counts = {"done": stream.done, "failed": stream.failed, "lineage": stream.lineage, "request_id": id_}
    yield to_json({**counts, **end}) + b"\n"


def _shown(line: Line, id_: str) -> dict[str, Any]:
    if line.error is not None:
        return {"line": line.number, "error": _error(line.error, id_)}
    return {"line": line.number, "prediction": line.prediction}


def _asked(number: int, line: bytes | int, *, id_: str, fingerprint: str | None, limits: Limits) -> Asked | None:
    if isinstance(line, int):
        raise BodyTooLarge(what="the line", found=line, limit=limits.max_body_bytes)
    if not line.strip():
        return None
    try:
        item = PredictItem.model_validate_json(line)
    except ValidationError as error:
        raise body_problems(error, "line") from None
    contents = {} if item.text is None else {"line.text": item.text}
    if item.vector is not None and fingerprint is None:
        problem = "expected with vector, so that it is clear which encoder made it"
        raise InvalidRequestError([("query.fingerprint", problem)])
    [found] = to_asked([item], contents, f"{id_}-{number}", limits)
    return found


def _error(error: Exception, id_: str) -> dict[str, Any]:
    if isinstance(error, ItemsUnusable):  # the one item of a line
        error = InvalidRequestError([("line.text", reason) for _, reason in error.problems])
    if isinstance(error, InvalidRequestError):
        return error_body(answer_invalid(error.problems, id_))
    if isinstance(error, RaystoreError):
        return error_body(answer_error(error, id_))
    return error_body(answer_unknown(error, id_))
