"""The HTTP face of an orchestrator: a FastAPI application that runs under uvicorn, a test client or Ray Serve.

Routes translate; the orchestrator answers. What blocks runs in threads of this application's own, so that /healthz stays quick
meanwhile. No route calls the network, and no page names an address.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from raystore import __version__, access
from raystore.serve.door.admission import Admission
from raystore.serve.door.auth import Door
from raystore.serve.door.bodies import Bodies
from raystore.serve.door.middleware import LOOPBACK_NAMES, HostCheck, KeyCheck, LastResort
from raystore.serve.door.routes import PUBLIC, verb_of
from raystore.serve.http.common import Provider, Threads
from raystore.serve.http.docs_page import docs_page
from raystore.serve.http.errors import handle_errors
from raystore.serve.http.operate import add_metrics_route, add_operate_routes
from raystore.serve.http.predict import add_predict_route
from raystore.serve.http.routes import add_routes
from raystore.serve.http.stream import add_stream_route
from raystore.serve.http.telling import Telling
from raystore.serve.operate.operator import Operator
from raystore.serve.spec.app import AppSpec
from raystore.serve.watch import table
from raystore.serve.watch.finished import Teller, tell_metrics
from raystore.serve.watch.metrics import Metrics
from raystore.serve.wire.common import ErrorAnswer, Health, Readiness
from raystore.serve.wire.predict import PredictItem, PredictRequest, StreamLine

_STATUSES = (401, 403, 404, 408, 409, 413, 422, 429, 503, 504)
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in _STATUSES}


def make_app(
    provider: Provider,
    spec: AppSpec,
    door: Door | None = None,
    metrics: Metrics | None = None,
    tellers: Sequence[Teller] = (),
    operator: Operator | None = None,
    admission: Admission | None = None,
    threads: Threads | None = None,
) -> FastAPI:
    """The application.

    Args:
        provider: the orchestrator, or None while it is not ready (then /readyz and the routes answer 503).
        spec: host (loopback decides whether the Host header is checked) and limits; the rest is not read.
        door: who may do what; None lets everybody in, which only fits loopback.
        metrics: of this process, where requests are counted.
        tellers: who else is told of every request that was answered.
        operator: what stands behind the routes of those who operate; without it there are none.
        admission: how many at once; without it, one for this application alone.
        threads: where its routes block; without them, threads of its own.
    """
    door = door or Door(None)
    metrics = metrics or Metrics("ingress")
    metrics.set(table.IN_FLIGHT_LIMIT, spec.limits.max_requests)
    admission = admission or Admission(spec.limits, partial(metrics.set, table.IN_FLIGHT))
    app = FastAPI(title="raystore", version=__version__, docs_url=None, redoc_url=None, responses=_ERRORS)
    handle_errors(app)
    security = [Security(HTTPBearer(auto_error=False, description="An API key of the store."))] if door.demands_key else []
    add_predict_route(app.router, provider, spec.limits, security)  # the first that is looked at
    _add_status_routes(app, provider)
    router = APIRouter(prefix="/v1")  # here, so that a route knows its whole path, which metrics name it by
    add_stream_route(router, provider, spec.limits, door, admission)
    add_routes(router, provider, spec.limits, threads or Threads())
    if operator is not None:
        add_operate_routes(router, provider, operator)
        add_metrics_route(app, operator, security)
    app.include_router(router, dependencies=security)
    _describe(app, PredictRequest, PredictItem, StreamLine)
    # Added from the inside out.
    app.add_middleware(Bodies, admission=admission)
    app.add_middleware(KeyCheck, door=door)
    app.add_middleware(HostCheck, allowed=LOOPBACK_NAMES if access.is_loopback(spec.host) else ())
    known = lambda: found.live if (found := provider()) else ()  # noqa: E731
    app.add_middleware(Telling, tellers=[tell_metrics(metrics), *tellers], deployments=known)
    app.add_middleware(LastResort, tls=spec.tls is not None)
    return app


def _describe(app: FastAPI, *models: type[BaseModel]) -> None:
    """Put into the OpenAPI document the models of bodies that FastAPI does not read itself, and the verb that each route asks for."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document["components"]["schemas"]
            for model in models:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                for name, part in schema.pop("$defs", {}).items():
                    schemas.setdefault(name, part)
                schemas.setdefault(model.__name__, schema)
            for path, methods in document["paths"].items():
                for method, operation in methods.items() if path not in PUBLIC else ():
                    if (verb := verb_of(method.upper(), path)) is not None:
                        operation["x-verb"] = verb.value
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_status_routes(app: FastAPI, provider: Provider) -> None:
    @app.get("/healthz", response_model=Health, summary="The process answers", responses={})
    async def healthz() -> Any:
        return {"status": "ok"}

    @app.get("/readyz", response_model=Readiness, summary="Encoders and heads are loaded")
    async def readyz() -> Any:
        found = provider()
        if found is None:
            return JSONResponse({"status": "starting", "deployments": {}}, status_code=503)
        live = {name: d.record for name, d in found.live.items()}
        facts = {n: {"number": r.number, "head": r.head, "fingerprint": r.fingerprint} for n, r in live.items()}
        failed = {name: {"number": number, "error": error} for name, (number, error) in found.failed.items()}
        return {"status": "ok", "deployments": facts, "failed": failed}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))
