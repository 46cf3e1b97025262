"""One replica of the orchestrator in this process, without Ray: what lives across changes in place, and is shared by HTTP and gRPC."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import grpc
import httpx

from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.raystore_pb2_grpc import OrchestratorStub
from raystore.serve.run.ingress import Ingress
from raystore.serve.run.proxy import free_port
from raystore.serve.spec.app import AppSpec
from raystore.serve.watch import table
from raystore.serve.watch.merging import series_of
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


def test_what_the_proxy_refused_is_counted_as_if_the_replica_had(served: Served) -> None:
    class Refused:
        """Of a node whose HAProxy refused three requests; the real one: test_balancer.py."""

        def limit(self, most: int) -> None:
            pass

        def shed(self) -> dict[str, int]:
            return {f"predict/{NAME}": 2, "predict/made-up": 1, "sql": 4}

    async def run() -> dict[str, Any]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        ingress._balancer = Refused()  # type: ignore[assignment]
        await ingress.reconfigure(config_of(served, "refunds@1"))
        ingress._count_shed()
        found = series_of(ingress._metrics.snapshot())
        await ingress._end()
        return found

    found = asyncio.run(run())
    assert found[table.REQUESTS.name] == {("/v1/predict/{deployment}", NAME, "503"): 2, ("other", "", "503"): 5}
    assert found[table.ERRORS.name] == {("/v1/predict/{deployment}", "Overloaded"): 2, ("other", "Overloaded"): 5}


def test_a_change_that_is_not_grpcs_leaves_its_calls_and_connections_alone(served: Served) -> None:
    file: dict[str, Any] = {"grpc": {"port": free_port()}}

    async def run() -> list[bool]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        servers = []
        for head, more in (
            ("refunds@1", {}),
            ("refunds@2", {"collections": ["tickets"]}),
            ("refunds@2", {"limits": {"deadline_s": 9}}),
        ):
            await ingress.reconfigure(config_of(served, head, **file, **more))
            servers.append(ingress._grpc)
        await ingress._end()
        return [one is other for one, other in pairwise(servers)]

    assert asyncio.run(run()) == [True, False]
