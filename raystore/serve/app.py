"""The HTTP face of an orchestrator: a FastAPI application that runs under uvicorn, a test client or Ray Serve.

Routes translate; the orchestrator answers. Encoding blocks, so it runs in a few threads of this application's own,
and /healthz stays quick meanwhile. No route calls the network, and no page names an address.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, Path, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from raystore import __version__, access
from raystore.errors import ItemsUnusable, RaystoreError
from raystore.serve import openai_wire, search_wire, sql_wire, wire
from raystore.serve.auth import Door
from raystore.serve.content import read_items, read_rows
from raystore.serve.middleware import LOOPBACK_NAMES, BodyLimit, HostCheck, KeyCheck, LastResort, request_id
from raystore.serve.orchestrator import Orchestrator
from raystore.serve.problems import InvalidRequestError, answer, answer_error, answer_invalid, field_problems
from raystore.serve.spec import AppSpec, Limits
from raystore.vectors import Matrix

T = TypeVar("T")
Provider = Callable[[], Orchestrator | None]
Name = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
ModelName = Annotated[str, Path(min_length=1, max_length=200)]

# Requests that may wait for the encoder at once; they share its batches, so more threads only wait.
_THREADS = 16
_STATUSES = (401, 403, 404, 409, 413, 422, 503)
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": wire.ErrorAnswer} for status in _STATUSES}


class _Threads:
    """Where blocking calls run, so that the event loop stays free."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="raystore-serve")

    async def run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def make_app(provider: Provider, spec: AppSpec, door: Door | None = None) -> FastAPI:
    """The application.

    Args:
        provider: the orchestrator, or None while it is not ready (then /readyz and the routes answer 503).
        spec: host (loopback decides whether the Host header is checked) and limits; the rest is not read.
        door: who may do what; None lets everybody in, which only fits loopback.
    """
    door = door or Door(None)
    app = FastAPI(title="raystore", version=__version__, docs_url=None, redoc_url=None, responses=_ERRORS)
    _handle_errors(app)
    _add_status_routes(app, provider)
    security = [Security(HTTPBearer(auto_error=False, description="An API key of the store."))] if door.demands_key else []
    app.include_router(_routes(provider, spec.limits, _Threads()), prefix="/v1", dependencies=security)
    # Added from the inside out.
    app.add_middleware(BodyLimit, max_bytes=spec.limits.max_body_bytes)
    app.add_middleware(KeyCheck, door=door)
    app.add_middleware(HostCheck, allowed=LOOPBACK_NAMES if access.is_loopback(spec.host) else ())
    app.add_middleware(LastResort)
    return app


def _routes(provider: Provider, limits: Limits, threads: _Threads) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/predict/{deployment}",
        response_model=wire.PredictAnswer,
        summary="Predict a label for each text or image",
        description=wire.CONTENT,
    )
    async def predict(deployment: Name, body: wire.PredictRequest, request: Request) -> Any:
        ready, id_ = _ready(provider), request_id(request.scope)

        def answer() -> Any:
            items = read_items(body.contents, limits)
            with _fields_named(list(body.contents)):
                return ready.predict(deployment, items, top=body.top, request_id=id_)

        return await threads.run(answer)

    @router.post(
        "/collections/{collection}/log",
        response_model=wire.LogAnswer,
        summary="Embed rows and keep the embeddings",
        description=wire.ROW_CONTENT,
    )
    async def log(collection: Name, body: wire.LogRequest, request: Request) -> Any:
        ready, id_ = _ready(provider), request_id(request.scope)

        def answer() -> Any:
            rows = read_rows([row.row() for row in body.rows], limits)
            return ready.log(collection, rows, fingerprint=body.fingerprint, request_id=id_)

        return await threads.run(answer)

    @router.post(
        "/collections/{collection}/search",
        response_model=search_wire.SearchAnswer,
        summary="Find the nearest rows",
        description=wire.CONTENT,
    )
    async def search(collection: Name, body: search_wire.SearchRequest, request: Request) -> Any:
        ready, id_ = _ready(provider), request_id(request.scope)

        def answer() -> Any:
            item = next(iter(read_items(body.contents, limits)), None)
            with _fields_named(list(body.contents)):
                return ready.search(collection, item=item, **body.model_dump(exclude={"text"}), request_id=id_)

        return await threads.run(answer)

    @router.post(
        "/embeddings",
        response_model=openai_wire.EmbeddingsAnswer,
        summary="Encode texts and images, in OpenAI's shape",
        description=wire.CONTENT,
    )
    async def embeddings(body: openai_wire.EmbeddingsRequest, request: Request) -> Any:
        ready, id_ = _ready(provider), request_id(request.scope)

        def answer() -> Any:
            items = read_items(body.contents, limits)
            with _fields_named(list(body.contents)):
                vectors, encoder, tokens = ready.embed(items, body.model, dimensions=body.dimensions)
            packed = [_base64(row) if body.encoding_format == "base64" else row.tolist() for row in vectors]
            return {
                "data": [{"index": i, "embedding": embedding} for i, embedding in enumerate(packed)],
                "model": encoder.label,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "fingerprint": encoder.fingerprint,
                "request_id": id_,
            }

        return await threads.run(answer)

    @router.post(
        "/sql",
        response_model=sql_wire.SqlAnswer,
        summary="Ask in SQL: one SELECT over collections and tables",
        description=sql_wire.ABOUT,
        responses={200: {"content": {sql_wire.ARROW: {}}}},
    )
    async def sql(body: sql_wire.SqlRequest, request: Request) -> Any:
        ready, id_ = _ready(provider), request_id(request.scope)
        form = sql_wire.form_of(request.headers.get("accept", ""))

        def answer() -> Response:
            rows, seconds = ready.sql(body.sql, body.params, limit=body.limit, form=form)
            return sql_wire.respond(rows, form, request_id=id_, seconds=seconds)

        return await threads.run(answer)

    @router.get("/models", response_model=openai_wire.ModelList, summary="List the encoders, in OpenAI's shape")
    async def models() -> Any:
        ready = _ready(provider)
        return {"data": await threads.run(ready.models)}

    @router.get(
        "/models/{model}", response_model=openai_wire.ModelCard, summary="One encoder, by name, label or fingerprint"
    )
    async def model(model: ModelName) -> Any:
        ready = _ready(provider)
        return await threads.run(lambda: ready.model(model))

    return router


def _add_status_routes(app: FastAPI, provider: Provider) -> None:
    @app.get("/healthz", response_model=wire.Health, summary="The process answers", responses={})
    async def healthz() -> Any:
        return {"status": "ok"}

    @app.get("/readyz", response_model=wire.Readiness, summary="Encoders and heads are loaded")
    async def readyz() -> Any:
        ready = provider()
        if ready is None:
            return JSONResponse({"status": "starting", "deployments": {}}, status_code=503)
        live = {name: d.record for name, d in ready.live.items()}
        facts = {n: {"number": r.number, "head": r.head, "fingerprint": r.fingerprint} for n, r in live.items()}
        return {"status": "ok", "deployments": facts}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))


class _NotReadyError(Exception):
    """The orchestrator is still loading."""


def _ready(provider: Provider) -> Orchestrator:
    ready = provider()
    if ready is None:
        raise _NotReadyError
    return ready


@contextmanager
def _fields_named(paths: Sequence[str]) -> Iterator[None]:
    """Where items turn out to be unusable, the answer names the fields they came in."""
    try:
        yield
    except ItemsUnusable as error:
        raise InvalidRequestError([(paths[place], reason) for place, reason in error.problems]) from None


def _base64(row: Matrix) -> str:
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode("ascii")


def _handle_errors(app: FastAPI) -> None:
    """Every error in the one shape. FastAPI's own answers quote the input; these do not."""

    @app.exception_handler(RaystoreError)
    async def ours(request: Request, error: RaystoreError) -> Response:
        return answer_error(error, request_id(request.scope))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer_invalid(field_problems(error.errors(), _FIELDS), request_id(request.scope))

    @app.exception_handler(InvalidRequestError)
    async def refused(request: Request, error: InvalidRequestError) -> Response:
        return answer_invalid(error.problems, request_id(request.scope))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        answered = answer(error.status_code, phrase.replace(" ", ""), f"{phrase.lower()}.", request_id(request.scope))
        answered.headers.update(error.headers or {})
        return answered

    @app.exception_handler(_NotReadyError)
    async def not_ready(request: Request, _: _NotReadyError) -> Response:
        return answer(503, "NotReady", "the service is still loading. Try again.", request_id(request.scope))


def _wire_fields() -> frozenset[str]:
    """Every field name a request may have: what an error's path may show."""
    models = (
        wire.PredictRequest,
        wire.LogRequest,
        wire.LogRow,
        search_wire.SearchRequest,
        openai_wire.EmbeddingsRequest,
        sql_wire.SqlRequest,
    )
    return frozenset({"body", "path", "deployment", "collection"}.union(*(m.model_fields for m in models)))


_FIELDS = _wire_fields()


def docs_page(openapi: dict[str, Any]) -> str:
    """The OpenAPI document as one plain page: no script, no address."""
    schemas = openapi["components"]["schemas"]

    def example(content: dict[str, Any]) -> str:
        ref = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        examples = schemas.get(ref.rsplit("/", 1)[-1], {}).get("examples", [])
        return f"<pre>{html.escape(json.dumps(examples[0], indent=2))}</pre>" if examples else ""

    parts = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}.</p>"
            )
            if about := operation.get("description"):
                parts.append(f"<p>{html.escape(about)}</p>")
            if sent := example(operation.get("requestBody", {}).get("content", {})):
                parts.append(f"<p>Send</p>{sent}")
            if received := example(operation["responses"]["200"].get("content", {})):
                parts.append(f"<p>Answer</p>{received}")
    errors = example({"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}})
    style = "body{font:16px/1.5 sans-serif;max-width:52rem;margin:2rem auto}pre{background:#f4f4f4;padding:.7rem}"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>raystore</title><style>{style}</style>"
        f"<h1>raystore {html.escape(openapi['info']['version'])}</h1><p>The document itself: <a href='/openapi.json'>"
        f"/openapi.json</a>. The examples are invented.</p>{''.join(parts)}<h2>Errors</h2>{errors}</html>"
    )
