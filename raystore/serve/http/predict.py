"""POST /v1/predict/{deployment}: JSON, or an image as it is; and /stream, a line each way for each item.

The hot route: the body is read by pydantic's own parser and the answer written by its serializer, past FastAPI's machinery, which
costs as much as a head.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from raystore.encoders.images import BadImage, ImageLimits, check_image
from raystore.errors import BodyTooLarge, ItemsUnusable, RaystoreError
from raystore.serve.answer.asked import Asked, item_ids
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.answer.timer import Timer
from raystore.serve.door.middleware import request_id
from raystore.serve.door.problems import InvalidRequestError, answer_error, answer_invalid
from raystore.serve.http.common import Name, Provider, fields_named, ready
from raystore.serve.http.errors import body_problems, error_body
from raystore.serve.spec.app import Limits
from raystore.serve.wire.common import CONTENT
from raystore.serve.wire.content import read_items
from raystore.serve.wire.predict import PredictAnswer, PredictItem, PredictOptions, PredictRequest

JSON, NDJSON = "application/json", "application/x-ndjson"
_LINES = 64  # of a stream that are predicted together
ABOUT = (
    f"{CONTENT} An image may also be the whole body, with its own content type (`image/png`); options then stand in the query. "
    "An item may bring a `vector` that was made where it arose, with the `fingerprint` of its encoder, in place of content."
)
STREAM = (
    'A line of JSON for each item, as in `items`, and a line back for each, in order: `{"line": 0, "prediction": {...}}` or '
    '`{"line": 0, "error": {...}}`; the last one is `{"done": 2, "failed": 0, ...}`. Lines are answered as they come. Ids that '
    "are not given are the request's id and the line."
)


def request_schema(model: type[PredictRequest | PredictItem], kind: str) -> dict[str, Any]:
    """What the OpenAPI document says of a body that FastAPI does not read."""
    content: dict[str, Any] = {kind: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if model is PredictRequest:
        content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def add_predict_routes(router: APIRouter, provider: Provider, limits: Limits) -> None:
    @router.post(
        "/predict/{deployment}",
        responses={200: {"model": PredictAnswer}},
        response_class=Response,
        openapi_extra=request_schema(PredictRequest, "application/json"),
        summary="Predict a label for each text, image or vector",
        description=ABOUT,
    )
    async def predict(deployment: Name, request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
        timer = Timer()
        found, id_ = ready(provider), request_id(request.scope)
        body = await request.body()
        kind = content_type(request)
        if kind.startswith("image/"):
            asked, paths = [_image(body, id_, limits)], ["body"]
        elif kind == JSON:
            options, asked, paths = _read(body, id_, limits)
        else:  # what a page in a browser can send to any address without being allowed to, too
            raise InvalidRequestError([("body", f"expected {JSON}, or an image with its type, as content-type")])
        state = request.scope["state"]
        state["timer"], state["items"] = timer, len(asked)
        with fields_named(paths):
            answer = await found.predict(
                deployment,
                asked,
                **_options(options),
                who=who(request.scope),
                request_id=id_,
                until=state.get("until"),
                timer=timer,
            )
        return Response(to_json(answer), media_type="application/json")

    @router.post(
        "/predict/{deployment}/stream",
        responses={200: {"content": {NDJSON: {"schema": {"$ref": "#/components/schemas/StreamLine"}}}}},
        response_class=Response,
        openapi_extra=request_schema(PredictItem, NDJSON),
        summary="Predict line by line",
        description=STREAM,
    )
    async def stream(deployment: Name, request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
        found, id_ = ready(provider), request_id(request.scope)
        if content_type(request) != NDJSON:
            raise InvalidRequestError([("body", f"expected {NDJSON} as content-type")])
        found.deployment(deployment)  # a wrong name is an answer of its own, not a line
        reader = _Stream(found, deployment, options, limits, request.scope, id_)
        return _Lines(reader.answers(_lines(request.stream(), limits)), media_type=NDJSON)


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def who(scope: Scope) -> str:
    """The name of who asks, as the door found it."""
    name: str = scope["state"]["principal"].name
    return name


def _options(options: PredictOptions) -> dict[str, Any]:
    return {"fingerprint": options.fingerprint, "top": options.top, "evidence": options.evidence}


def _read(body: bytes, id_: str, limits: Limits) -> tuple[PredictOptions, list[Asked], list[str]]:
    """The options and items of a JSON body, and the fields that the items' contents came in."""
    try:
        sent = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise body_problems(error) from None
    items = sent.asked
    if len(items) > limits.max_items:
        raise BodyTooLarge(what="body.items", found=len(items), limit=limits.max_items, unit="items")
    contents = sent.contents
    return sent, to_asked(items, contents, id_, limits), list(contents)


def to_asked(items: Sequence[PredictItem], contents: dict[str, str], id_: str, limits: Limits) -> list[Asked]:
    """The items with their images decoded as far as their headers; `contents` are theirs that have one, in order."""
    read = iter(read_items(contents, limits))
    return [
        Asked(
            id=own,
            item=None if item.text is None else next(read),
            vector=item.vector,
            subject=item.subject,
            tenant=item.tenant,
            time=item.time,
            columns=item.columns,
        )
        for own, item in zip(item_ids(id_, [item.id for item in items]), items, strict=True)
    ]


def _image(body: bytes, id_: str, limits: Limits) -> Asked:
    if len(body) > limits.max_image_bytes:
        raise BodyTooLarge(what="body", found=len(body), limit=limits.max_image_bytes)
    try:
        check_image(body, ImageLimits(limits.max_image_bytes, limits.max_image_pixels, limits.max_image_frames))
    except BadImage as error:
        raise InvalidRequestError([("body", error.reason)]) from None
    return Asked(id=id_, item=body)


class _Lines(Response):
    """An answer that goes out while its request comes in. Starlette's own would read the request too, to see its sender leave."""

    def __init__(self, lines: AsyncIterator[bytes], media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI calls it
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(ClientDisconnect):
            async for line in self._lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lines(chunks: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[list[bytes | int]]:
    """The lines of a body as they come, together those that came together; of one that is too long its bytes alone."""
    parts: list[bytes] = []  # of the line that has not ended
    size = 0

    def ended() -> bytes | int:
        nonlocal size
        line = b"".join(parts) if size <= limits.max_body_bytes else size
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
        if size <= limits.max_body_bytes:
            parts.append(rest)
        else:
            parts.clear()
        for start in range(0, len(lines), _LINES):
            yield lines[start : start + _LINES]
    if size:
        yield [ended()]


class _Stream:
    """One stream's lines, answered in order."""

    def __init__(
        self, found: Orchestrator, deployment: str, options: PredictOptions, limits: Limits, scope: Scope, id_: str
    ) -> None:
        self._found = found
        self._deployment = deployment
        self._options = options
        self._limits = limits
        self._who = who(scope)
        self._state = scope["state"]
        self._id = id_
        self._line = 0
        self._failed = 0

    async def answers(self, lines: AsyncIterator[list[bytes | int]]) -> AsyncIterator[bytes]:
        lineage: Any = None
        async for together in lines:
            numbered = [(self._line + i, line) for i, line in enumerate(together)]
            self._line += len(together)
            self._state["items"] = self._line
            good: list[tuple[int, Asked]] = []
            said: dict[int, dict[str, Any]] = {}
            for number, line in numbered:
                if isinstance(line, bytes) and not line.strip():
                    continue
                try:
                    good.append((number, self._asked(number, line)))
                except (InvalidRequestError, RaystoreError) as error:
                    said[number] = {"line": number, "error": self._error(error)}
            found, lineage_now = await self._predicted(good)
            lineage = lineage_now or lineage
            said |= found
            for number in sorted(said):
                self._failed += "error" in said[number]
                yield to_json(said[number]) + b"\n"
        done = {"done": self._line, "failed": self._failed, "lineage": lineage, "request_id": self._id}
        yield to_json(done) + b"\n"

    def _asked(self, number: int, line: bytes | int) -> Asked:
        if isinstance(line, int):
            raise BodyTooLarge(what="the line", found=line, limit=self._limits.max_body_bytes)
        try:
            item = PredictItem.model_validate_json(line)
        except ValidationError as error:
            raise body_problems(error, "line") from None
        contents = {} if item.text is None else {"line.text": item.text}
        if item.vector is not None and self._options.fingerprint is None:
            raise InvalidRequestError(
                [("query.fingerprint", "expected with vector, so that it is clear which encoder made it")]
            )
        [asked] = to_asked([item], contents, f"{self._id}-{number}", self._limits)
        return asked

    async def _predicted(self, good: list[tuple[int, Asked]]) -> tuple[dict[int, dict[str, Any]], Any]:
        """The lines of those items, by number, and the lineage; together, or one by one where together one of them fails."""
        if not good:
            return {}, None
        try:
            answer = await self._found.predict(
                self._deployment,
                [asked for _, asked in good],
                **_options(self._options),
                who=self._who,
                request_id=self._id,
                until=time.monotonic() + self._limits.deadline_s,
            )
        except RaystoreError as error:
            if len(good) == 1:
                return {good[0][0]: {"line": good[0][0], "error": self._error(error)}}, None
            each = [await self._predicted([one]) for one in good]
            return {k: v for found, _ in each for k, v in found.items()}, next((x for _, x in each if x), None)
        lines = {
            number: {"line": number, "prediction": prediction}
            for (number, _), prediction in zip(good, answer["predictions"], strict=True)
        }
        return lines, answer["lineage"]

    def _error(self, error: InvalidRequestError | RaystoreError) -> dict[str, Any]:
        if isinstance(error, ItemsUnusable):  # the one item of a line
            error = InvalidRequestError([("line.text", reason) for _, reason in error.problems])
        if isinstance(error, InvalidRequestError):
            return error_body(answer_invalid(error.problems, self._id))
        return error_body(answer_error(error, self._id))
