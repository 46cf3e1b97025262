"""The routes of those who operate and review: status, metrics, deployments, shadows, the review queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import Response

from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.door.middleware import principal_of, request_id
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.http.common import Name, Provider, ready
from raystore.serve.operate.operator import Operator
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.watch.merging import CONTENT_TYPE, exposition
from raystore.serve.watch.status import Canary, Serving, StatusAnswer, status
from raystore.serve.wire import operate as wire
from raystore.serve.wire.common import Moment


def add_operate_routes(router: APIRouter, provider: Provider, operator: Operator) -> None:
    def serving(deployment: str) -> Orchestrator:
        """What answers now. DeploymentNotFound: the deployment is none of this service, though the store may have it."""
        found = ready(provider)
        found.deployment(deployment)
        return found

    @router.get("/status", response_model=StatusAnswer, summary="What answers, how it is doing, what was lost")
    async def state() -> Any:
        found = ready(provider)
        return status(await operator.told(), [_serving(each.record) for each in found.live.values()])

    @router.get("/deployments", response_model=wire.DeploymentList, summary="The deployments")
    async def deployments(request: Request) -> Any:
        live = ready(provider).live
        return {
            "deployments": [_facts(live[name].record) for name in sorted(live)],
            "request_id": request_id(request.scope),
        }

    @router.get("/deployments/{deployment}", response_model=wire.DeploymentFacts, summary="One deployment")
    async def deployment_(deployment: Name) -> Any:
        return _facts(serving(deployment).deployment(deployment).record)

    @router.post(
        "/deployments/{deployment}/promote",
        response_model=wire.PromotedAnswer,
        summary="Let a shadow or canary answer",
        description="Every replica follows within some seconds; no request fails.",
    )
    async def promote(deployment: Name, body: wire.PromoteRequest, request: Request) -> Any:
        among = await _relations(serving(deployment), body.labels)
        done = await operator.promote(body.head, deployment, body.gate, body.labels, body.since, among)
        return {**done.model_dump(mode="json"), "request_id": request_id(request.scope)}

    @router.post(
        "/deployments/{deployment}/rollback",
        response_model=wire.PromotedAnswer,
        summary="Let what answered before answer again",
        description="Sent again it brings the later head back, unless `to` names the record.",
    )
    async def rollback(deployment: Name, body: wire.RollbackRequest, request: Request) -> Any:
        serving(deployment)
        done = await operator.rollback(deployment, body.to)
        return {**done.model_dump(mode="json"), "request_id": request_id(request.scope)}

    @router.get("/shadow/{deployment}", response_model=wire.ShadowAnswer, summary="Shadows beside the live head")
    async def shadow(
        deployment: Name,
        request: Request,
        labels: Annotated[wire.Labels | None, Query(description=wire.LABELS)] = None,
        since: Moment | None = None,
    ) -> Any:
        among = await _relations(serving(deployment), labels)
        reports = await operator.ask("reports", deployment, labels=labels, since=since, among=among)
        shown = [{**each.model_dump(mode="json"), "metrics": each.metrics()} for each in reports]
        return {"deployment": deployment, "reports": shown, "request_id": request_id(request.scope)}

    @router.get("/review/{deployment}", response_model=wire.ReviewAnswer, summary="What waits for a person's label")
    async def review(
        deployment: Name, request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 50, order: wire.Order = "oldest"
    ) -> Any:
        serving(deployment)
        return {"items": await operator.ask("items", deployment, limit, order), "request_id": request_id(request.scope)}

    @router.post("/review/{deployment}/claim", response_model=wire.ReviewAnswer, summary="Items for one reviewer alone")
    async def claim(deployment: Name, body: wire.ClaimRequest, request: Request) -> Any:
        serving(deployment)
        items = await operator.ask("claim", deployment, _reviewer(request, body.reviewer), body.n, body.minutes, body.order)
        return {"items": items, "request_id": request_id(request.scope)}

    @router.post("/review/{deployment}", response_model=wire.LabelledAnswer, summary="Labels that a person gives")
    async def label(deployment: Name, body: wire.ReviewRequest, request: Request) -> Any:
        serving(deployment)
        labels = [(each.id, each.label) for each in body.labels]
        done = await operator.ask("label", deployment, _reviewer(request, body.reviewer), labels, body.allow_new)
        return {**done.model_dump(mode="json"), "request_id": request_id(request.scope)}

    @router.post("/review/{deployment}/release", response_model=wire.ReleasedAnswer, summary="Give claimed items back")
    async def release(deployment: Name, body: wire.ReleaseRequest, request: Request) -> Any:
        serving(deployment)
        released = await operator.ask("release", deployment, _reviewer(request, body.reviewer))
        return {"released": released, "request_id": request_id(request.scope)}


async def _relations(found: Orchestrator, labels: str | None) -> list[str]:
    """Where this service lets labels come from: the collections and tables that it serves, and its deployments' review tables. It looks
    at the store's folders, so not in the event loop; where no labels are asked for, not at all."""
    if labels is None:
        return []
    served = await asyncio.to_thread(lambda: [*found.collections.names(), *found.table_names()])
    return [*served, *(live.record.review.table for live in found.live.values() if live.record.review)]


def _reviewer(request: Request, named: str | None) -> str:
    """The name of the key, or `token:` and that of the token's holder; where nobody is asked for one, who the request names."""
    principal = principal_of(request.scope)
    if principal.kind != "local":
        if named not in (None, principal.name, principal.who):
            raise InvalidRequestError([("body.reviewer", "is another than the key's: leave it out")])
        return principal.who
    return named or principal.who


def add_metrics_route(app: FastAPI, operator: Operator, security: Sequence[Any]) -> None:
    @app.get(
        "/metrics",
        dependencies=security,
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        summary="Metrics in Prometheus's text format",
    )
    async def metrics() -> Response:
        return Response(exposition((await operator.told()).series), media_type=CONTENT_TYPE)


def _serving(record: DeploymentRecord) -> Serving:
    canary = record.canary
    return Serving(
        name=record.name,
        number=record.number,
        head=record.head,
        encoder=record.encoder,
        shadows=[each.head for each in record.shadow],
        canary=Canary(head=canary.head, percent=canary.percent) if canary else None,
    )


def _facts(record: DeploymentRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "number": record.number,
        "head": record.head,
        "encoder": record.encoder,
        "shadows": [each.head for each in record.shadow],
        "canary": record.canary.head if record.canary else None,
        "log": record.log.collection if record.log else None,
        "review": record.review.table if record.review else None,
        "why": record.why,
    }
