"""The routes over collections and encoders: log, search, embeddings, SQL, models. They translate; the orchestrator answers."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.types import Scope

from raystore.serve.answer.timer import Timer
from raystore.serve.door.admission import limits_of
from raystore.serve.door.middleware import principal_of, request_id
from raystore.serve.http.common import ModelName, Name, Provider, Threads, fields_named, ready
from raystore.serve.spec.app import Limits
from raystore.serve.wire import log as log_wire
from raystore.serve.wire import openai as openai_wire
from raystore.serve.wire import search as search_wire
from raystore.serve.wire import sql as sql_wire
from raystore.serve.wire.common import CONTENT, ROW_CONTENT
from raystore.serve.wire.content import read_items, read_rows
from raystore.vectors import Matrix


def add_routes(router: APIRouter, provider: Provider, limits: Limits, threads: Threads) -> None:
    @router.post(
        "/collections/{collection}/log",
        response_model=log_wire.LogAnswer,
        summary="Embed rows and keep the embeddings",
        description=ROW_CONTENT,
    )
    async def log(collection: Name, body: log_wire.LogRequest, request: Request) -> Any:
        found, id_ = ready(provider), request_id(request.scope)
        timer, until = _timed(request.scope)

        def answer() -> Any:
            rows = read_rows([row.row() for row in body.rows], limits_of(principal_of(request.scope), limits))
            return found.collections.log(collection, rows, fingerprint=body.fingerprint, request_id=id_, timer=timer)

        return await threads.run(answer, until)

    @router.post(
        "/collections/{collection}/search",
        response_model=search_wire.SearchAnswer,
        summary="Find the nearest rows",
        description=CONTENT,
    )
    async def search(collection: Name, body: search_wire.SearchRequest, request: Request) -> Any:
        found, id_ = ready(provider), request_id(request.scope)
        timer, until = _timed(request.scope)

        def answer() -> Any:
            item = next(iter(read_items(body.contents, limits_of(principal_of(request.scope), limits))), None)
            with fields_named(list(body.contents)):
                options = body.model_dump(exclude={"text"})
                return found.collections.search(collection, item=item, **options, request_id=id_, timer=timer)

        return await threads.run(answer, until)

    @router.post(
        "/embeddings",
        responses={200: {"model": openai_wire.EmbeddingsAnswer}},
        response_class=Response,
        summary="Encode texts and images, in OpenAI's shape",
        description=CONTENT,
    )
    async def embeddings(body: openai_wire.EmbeddingsRequest, request: Request) -> Response:
        found, id_ = ready(provider), request_id(request.scope)
        timer, until = _timed(request.scope)

        def answer() -> Any:
            items = read_items(body.contents, limits_of(principal_of(request.scope), limits))
            with fields_named(list(body.contents)):
                vectors, encoder, tokens = found.embed(items, body.model, dimensions=body.dimensions, timer=timer)
            packed = [_base64(row) if body.encoding_format == "base64" else row.tolist() for row in vectors]
            said = {
                "object": "list",
                "data": [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(packed)],
                "model": encoder.label,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "fingerprint": encoder.fingerprint,
                "request_id": id_,
            }
            # Written as it is: to check some 10,000 numbers again against the model takes longer than to encode a text.
            return Response(to_json(said), media_type="application/json")

        return await threads.run(answer, until)

    @router.post(
        "/sql",
        response_model=sql_wire.SqlAnswer,
        summary="Ask in SQL: one SELECT over collections and tables",
        description=sql_wire.ABOUT,
        responses={200: {"content": {sql_wire.ARROW: {}}}},
    )
    async def sql(body: sql_wire.SqlRequest, request: Request) -> Any:
        found, id_ = ready(provider), request_id(request.scope)
        form = sql_wire.form_of(request.headers.get("accept", ""))

        def answer() -> Response:
            rows, seconds = found.sql(body.sql, body.params, limit=body.limit, form=form)
            return sql_wire.respond(rows, form, request_id=id_, seconds=seconds)

        return await threads.run(answer, request.scope["state"].get("until"))

    @router.get("/models", response_model=openai_wire.ModelList, summary="List the encoders, in OpenAI's shape")
    async def models() -> Any:
        found = ready(provider)
        return {"data": await threads.run(found.models)}

    @router.get(
        "/models/{model}", response_model=openai_wire.ModelCard, summary="One encoder, by name, label or fingerprint"
    )
    async def model(model: ModelName) -> Any:
        found = ready(provider)
        return await threads.run(lambda: found.model(model))


def _timed(scope: Scope) -> tuple[Timer, float | None]:
    """The timer of a request, whose stages are told on, and its deadline."""
    state = scope["state"]
    state["timer"] = timer = Timer()
    return timer, state.get("until")


def _base64(row: Matrix) -> str:
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode("ascii")
