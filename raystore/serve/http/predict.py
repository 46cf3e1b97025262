"""POST /v1/predict/{deployment}: JSON, or an image as it is.

The hot route: path, query and body are read here and the answer is written by pydantic's serializer, past FastAPI's machinery, which
takes as long as all the rest of the event loop's work on a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.params import Depends
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.types import Scope

from raystore.encoders.images import BadImage, ImageLimits, check_image
from raystore.errors import BodyTooLarge
from raystore.serve.answer.asked import Asked, item_ids
from raystore.serve.answer.timer import Timer
from raystore.serve.door.admission import limits_of
from raystore.serve.door.auth import check_evidence
from raystore.serve.door.middleware import principal_of, request_id
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.http.common import NAME, Name, Provider, fields_named, ready
from raystore.serve.http.errors import body_problems
from raystore.serve.spec.app import Limits
from raystore.serve.wire.common import CONTENT
from raystore.serve.wire.content import read_items
from raystore.serve.wire.predict import PredictAnswer, PredictItem, PredictOptions, PredictRequest

JSON = "application/json"
_NAME = re.compile(NAME)
_NO_OPTIONS = PredictOptions()
ABOUT = (
    f"{CONTENT} An image may also be the whole body, with its own content type (`image/png`); options then stand in the query. "
    "An item may bring a `vector` that was made where it arose, with the `fingerprint` of its encoder, in place of content."
)


def request_schema(model: type[PredictRequest | PredictItem], kind: str) -> dict[str, Any]:
    """What the OpenAPI document says of a body that FastAPI does not read."""
    content: dict[str, Any] = {kind: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if model is PredictRequest:
        content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


class _PredictRoute(APIRoute):
    """As FastAPI describes it, and called without FastAPI: by the name in the path and the options in the query."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handler(request: Request) -> Response:
            name = request.path_params["deployment"]
            if _NAME.fullmatch(name) is None:
                raise InvalidRequestError([("path.deployment", f"string should match pattern '{NAME}'")])
            options = _in_query(request) if request.scope["query_string"] else _NO_OPTIONS
            answer: Response = await self.endpoint(name, request, options)
            return answer

        return handler


def add_predict_route(router: APIRouter, provider: Provider, limits: Limits, security: Sequence[Depends]) -> None:
    """Onto the application's own router: a router that is included looks at each request twice."""

    async def predict(deployment: Name, request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
        timer, allowed = Timer(), limits_of(principal_of(request.scope), limits)
        found, id_ = ready(provider), request_id(request.scope)
        body = await request.body()
        kind = content_type(request)
        if kind.startswith("image/"):
            asked, paths = [_image(body, id_, allowed)], ["body"]
        elif kind == JSON:
            options, asked, paths = _read(body, id_, allowed)
        else:  # what a page in a browser can send to any address without being allowed to, too
            raise InvalidRequestError([("body", f"expected {JSON}, or an image with its type, as content-type")])
        check_evidence(principal_of(request.scope), options.evidence)
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

    router.add_api_route(
        "/v1/predict/{deployment}",
        predict,
        methods=["POST"],
        route_class_override=_PredictRoute,
        dependencies=security,
        responses={200: {"model": PredictAnswer}},
        response_class=Response,
        openapi_extra=request_schema(PredictRequest, "application/json"),
        summary="Predict a label for each text, image or vector",
        description=ABOUT,
    )


def _in_query(request: Request) -> PredictOptions:
    try:
        return PredictOptions.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise body_problems(error, "query") from None


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def who(scope: Scope) -> str:
    """The name of who asks, as the door found it."""
    return principal_of(scope).who


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


def to_asked(
    items: Sequence[PredictItem | PredictRequest], contents: dict[str, str], id_: str, limits: Limits
) -> list[Asked]:
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
