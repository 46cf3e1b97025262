"""Every error in the one shape. FastAPI's own answers quote the input; these do not."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from raystore.errors import RaystoreError
from raystore.serve.door.middleware import request_id
from raystore.serve.door.problems import InvalidRequestError, answer, answer_error, answer_invalid, field_problems
from raystore.serve.http.common import NotReadyError
from raystore.serve.wire import log, openai, operate, predict, search, sql

_MODELS = (
    predict.PredictRequest,
    predict.PredictItem,
    log.LogRequest,
    log.LogRow,
    search.SearchRequest,
    openai.EmbeddingsRequest,
    sql.SqlRequest,
    operate.PromoteRequest,
    operate.RollbackRequest,
    operate.ClaimRequest,
    operate.ReviewRequest,
    operate.ReviewLabel,
)
# Every field name a request may have: what an error's path may show.
FIELDS = frozenset(
    {"body", "path", "query", "deployment", "collection", "if", "limit"}.union(*(m.model_fields for m in _MODELS))
)


def handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RaystoreError)
    async def ours(request: Request, error: RaystoreError) -> Response:
        return answer_error(error, request_id(request.scope))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer_invalid(field_problems(error.errors(), FIELDS), request_id(request.scope))

    @app.exception_handler(InvalidRequestError)
    async def refused(request: Request, error: InvalidRequestError) -> Response:
        return answer_invalid(error.problems, request_id(request.scope))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's, of a body that is no UTF-8
            return answer_invalid([("body", "is no JSON")], request_id(request.scope))
        phrase = HTTPStatus(error.status_code).phrase
        answered = answer(error.status_code, phrase.replace(" ", ""), f"{phrase.lower()}.", request_id(request.scope))
        answered.headers.update(error.headers or {})
        return answered

    @app.exception_handler(NotReadyError)
    async def not_ready(request: Request, _: NotReadyError) -> Response:
        return answer(503, "NotReady", "the service is still loading. Try again.", request_id(request.scope))


def body_problems(error: ValidationError, place: str = "body") -> InvalidRequestError:
    """What a model found wrong in a body that no route of FastAPI's read; `place` is where it stood."""
    found = [{**each, "loc": (place, *each["loc"])} for each in error.errors(include_input=False, include_url=False)]
    model = next((each for each in _MODELS if each.__name__ == error.title), None)

    def fields_at(where: Sequence[int | str]) -> Sequence[str]:
        here = predict.PredictItem if "items" in where else model
        return list(here.model_fields) if here is not None else ()

    return InvalidRequestError(field_problems(found, FIELDS | {place}, fields_at))


def error_body(answered: Response) -> dict[str, Any]:
    """What stands under "error" of an answer, for a line of a stream."""
    body: dict[str, Any] = from_json(bytes(answered.body))["error"]
    return body
