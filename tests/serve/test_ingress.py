"""One replica of the orchestrator in this process, without Ray: what lives across changes in place, and is shared by HTTP and gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx

from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.raystore_pb2_grpc import OrchestratorStub
from raystore.serve.run.ingress import Ingress
from raystore.serve.run.proxy import free_port
from raystore.serve.spec.app import AppSpec
from tests.serve.conftest import Served, recorded

NAME = "in-place"


def config_of(served: Served, head: str, **more: Any) -> dict[str, Any]:
    spec = AppSpec.model_validate(more)
    record = recorded(served.rooms, NAME, head)
    return {
        "spec": spec.model_dump(mode="json", by_alias=True),
        "records": {NAME: record.model_dump(mode="json", by_alias=True)},
    }


def test_a_promotion_gives_nobody_a_new_allowance_and_http_and_grpc_share_it(served: Served) -> None:
    port = free_port()
    file: dict[str, Any] = {"rates": {"requests_per_s": 0.001, "burst": 3}, "grpc": {"port": port}}

    async def run() -> list[object]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        front = httpx.ASGITransport(ingress.__serve_build_asgi_app__())
        async with (
            httpx.AsyncClient(transport=front, base_url="http://127.0.0.1:8000") as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            stub, found = OrchestratorStub(channel), list[object]()

            async def ask() -> None:
                answer = (await http.post(f"/v1/predict/{NAME}", json={"text": "the card"})).json()
                found.append(answer["lineage"]["head"] if "lineage" in answer else answer["error"]["type"])
                try:
                    sent = pb.PredictRequest(deployment=NAME, items=[pb.PredictItem(text="the card")])
                    found.append((await stub.Predict(sent)).lineage.head)
                except grpc.aio.AioRpcError as error:
                    found.append(error.code())

            await ingress.reconfigure(config_of(served, "refunds@1", **file))
            await ask()
            await ingress.reconfigure(config_of(served, "refunds@2", **file))
            await ask()
            await ingress.reconfigure(config_of(served, "refunds@2", **file, collections=["tickets"]))
            await ask()
            await ingress._end()
            return found

    assert asyncio.run(run()) == [
        "refunds@1", "refunds@1", "refunds@2", grpc.StatusCode.RESOURCE_EXHAUSTED, "RateExceeded", grpc.StatusCode.RESOURCE_EXHAUSTED,
    ]  # fmt: skip
