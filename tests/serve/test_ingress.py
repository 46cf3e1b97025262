"""One replica of the orchestrator in this process, without Ray: what lives across changes in place, and is shared by HTTP and gRPC."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from raystore.errors import EncoderNotFound
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.raystore_pb2_grpc import OrchestratorStub
from raystore.serve.run.follow import Follower
from raystore.serve.run.ingress import Ingress
from raystore.serve.run.proxy import free_port
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.deployment import HeadSpec
from raystore.serve.spec.records import DeploymentRecord
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


def whole_config(records: dict[str, DeploymentRecord], **more: Any) -> dict[str, Any]:
    return {
        "spec": AppSpec.model_validate(more).model_dump(mode="json", by_alias=True),
        "records": {name: record.model_dump(mode="json", by_alias=True) for name, record in records.items()},
    }


def test_a_deployment_that_cannot_be_taken_up_keeps_no_other_back(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """As after a promotion to a head whose encoder does not load."""
    rooms = served.rooms
    good, hurt = (recorded(rooms, name, "refunds@1") for name in ("t-good", "t-hurt"))
    gone = recorded(rooms, "t-hurt", "refunds@2").model_copy(update={"fingerprint": "0" * 64})
    newer = recorded(rooms, "t-good", "refunds@2")

    def told(of: Ingress) -> Any:
        return series_of(of._metrics.snapshot()).get(table.DEPLOYMENT_FAILED.name, {})

    async def run() -> list[Any]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        front = httpx.ASGITransport(ingress.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=front, base_url="http://127.0.0.1:8000") as http:
            answers = []
            ingress._follower._newest = lambda records: dict(records)  # type: ignore[method-assign]
            for records in ({"t-good": good, "t-hurt": hurt}, {"t-good": newer, "t-hurt": gone}, {"t-good": newer}):
                await ingress.reconfigure(whole_config(records))
                ready = (await http.get("/readyz")).json()
                heads = {name: facts["head"] for name, facts in ready["deployments"].items()}
                answered = (await http.post("/v1/predict/t-good", json={"text": "x"})).status_code
                answers.append((heads, ready["failed"], answered, told(ingress)))
            fresh = Ingress(str(served.root), 1, {}, {}, None)
            fresh._follower._newest = lambda records: dict(records)  # type: ignore[method-assign]
            await fresh.reconfigure(whole_config({"t-good": newer, "t-hurt": gone}))
            assert fresh._orchestrator is not None
            answers.append((sorted(fresh._orchestrator.live), fresh._orchestrator.failed, told(fresh)))
            alone = Ingress(str(served.root), 1, {}, {}, None)
            alone._follower._newest = lambda records: dict(records)  # type: ignore[method-assign]
            with pytest.raises(EncoderNotFound):  # nothing would answer: Serve is told why
                await alone.reconfigure(whole_config({"t-hurt": gone}))
            for each in (ingress, fresh):
                await each._end()
            return answers

    with caplog.at_level(logging.ERROR):
        answers = asyncio.run(run())
    failed = {"t-hurt": {"number": gone.number, "error": "EncoderNotFound"}}
    assert answers == [
        ({"t-good": "refunds@1", "t-hurt": "refunds@1"}, {}, 200, {}),
        ({"t-good": "refunds@2", "t-hurt": "refunds@1"}, failed, 200, {("t-hurt", str(gone.number)): 1}),
        ({"t-good": "refunds@2"}, {}, 200, {}),
        (["t-good"], {"t-hurt": (gone.number, "EncoderNotFound")}, {("t-hurt", str(gone.number)): 1}),
    ]
    assert f"number {gone.number} of deployment t-hurt is not taken up: no encoder" in caplog.text


def test_only_the_newest_number_that_is_not_taken_up_is_told_and_none_once_it_is(served: Served) -> None:
    rooms = served.rooms
    good = recorded(rooms, "t-numbers", "refunds@1")
    gone = good.model_copy(update={"fingerprint": "0" * 64})
    tried = [good, *(each.model_copy(update={"number": n}) for n, each in ((2, gone), (2, gone), (3, gone), (4, good)))]

    async def run() -> list[list[tuple[str, ...]]]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        ingress._follower._newest = lambda records: dict(records)  # type: ignore[method-assign]
        found = []
        for record in tried:
            await ingress.reconfigure(whole_config({"t-numbers": record}))
            found.append(list(series_of(ingress._metrics.snapshot()).get(table.DEPLOYMENT_FAILED.name, {})))
        await ingress._end()
        return found

    two, three = ("t-numbers", "2"), ("t-numbers", "3")
    assert asyncio.run(run()) == [[], [two], [two], [three], []]


def test_a_replica_loads_nothing_that_is_to_run_elsewhere(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A record is published before the replicas stand that know where its parts run."""
    rooms = served.rooms
    here = recorded(rooms, "t-own", "refunds@1")
    own = recorded(rooms, "t-own", "refunds@2").model_copy(update={"own": HeadSpec(name="refunds@2", own=True)})

    async def run() -> list[Any]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        ingress._follower._newest = lambda records: dict(records)  # type: ignore[method-assign]
        front = httpx.ASGITransport(ingress.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=front, base_url="http://127.0.0.1:8000") as http:
            for record in (here, own):
                await ingress.reconfigure(whole_config({"t-own": record}))
            ready = (await http.get("/readyz")).json()
        await ingress._end()
        return [ready["deployments"]["t-own"]["head"], ready["failed"]]

    assert asyncio.run(run()) == ["refunds@1", {"t-own": {"number": own.number, "error": "JobFailed"}}]
    assert (
        f"number {own.number} of deployment t-own is not taken up: serving 't-own' failed: its encoder or head is a deployment of "
        "its own that this replica cannot ask. Replicas that can are on their way, or deploy the file again." in caplog.text
    )


def test_where_nothing_answers_yet_a_replica_loads_what_it_cannot_ask(served: Served) -> None:
    own = recorded(served.rooms, "t-alone", "refunds@2")

    async def run() -> str:
        ingress = Ingress(str(served.root), 1, {}, {}, None, colocate=False)
        await ingress.reconfigure(whole_config({"t-alone": own}))
        assert ingress._orchestrator is not None
        found = ingress._orchestrator.live["t-alone"].record.head
        await ingress._end()
        return found

    assert asyncio.run(run()) == "refunds@2"


def test_an_encoder_elsewhere_is_sent_as_many_batches_as_the_file_that_is_taken_up_has_cores_for(served: Served) -> None:
    async def run() -> list[int]:
        handle = SimpleNamespace(snapshot=SimpleNamespace(remote=lambda: None))
        ingress = Ingress(str(served.root), 1, {served.fingerprint: handle}, {}, None)
        ingress._wait_for_others = lambda: None  # type: ignore[method-assign]
        turns = []
        for encoder in ({"cpus": 4, "replicas": 2}, {"cpus": 4, "gpu": 1}):
            await ingress.reconfigure(config_of(served, "refunds@1", encoders={"tiny": encoder}))
            assert ingress._orchestrator is not None
            turns.append(ingress._orchestrator.encoder(served.fingerprint)._turns)
        await ingress._end()
        return turns

    assert asyncio.run(run()) == [8, 1]


def test_promotions_make_no_application_and_no_threads(served: Served) -> None:
    """FastAPI keeps every application in its caches, routes, threads and all."""

    async def run() -> tuple[set[int], set[int]]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        apps, threads = set(), set()
        for turn in range(4):
            await ingress.reconfigure(config_of(served, f"refunds@{1 + turn % 2}"))
            apps.add(id(ingress._app))
        for queue in (100, 200):
            await ingress.reconfigure(config_of(served, "refunds@1", recording={"queue": queue}))
            threads.add(id(ingress._blocking))
        await ingress._end()
        return apps, threads

    apps, threads = asyncio.run(run())
    assert (len(apps), len(threads)) == (1, 1)


def test_a_quota_is_shared_anew_where_there_may_be_more_replicas(served: Served) -> None:
    rules = {"before": [{"name": "calm", "quota": {"requests": 8, "window_s": 3600}}]}

    async def run() -> list[int]:
        ingress = Ingress(str(served.root), 1, {}, {}, None)
        front = httpx.ASGITransport(ingress.__serve_build_asgi_app__())
        passed = []
        async with httpx.AsyncClient(transport=front, base_url="http://127.0.0.1:8000") as http:
            record = recorded(served.rooms, "t-quota", "refunds@1", rules=rules)
            for most in (2, 8):
                await ingress.reconfigure(whole_config({"t-quota": record}, replicas={"min": 1, "max": most}))
                answers = [(await http.post("/v1/predict/t-quota", json={"text": "x"})).status_code for _ in range(9)]
                passed.append(answers.count(200))
        await ingress._end()
        return passed

    assert asyncio.run(run()) == [4, 1]


def test_what_cannot_be_taken_up_is_tried_again_ever_more_rarely(served: Served) -> None:
    tries: list[float] = []
    enough = threading.Event()

    def changed(records: dict[str, DeploymentRecord]) -> dict[str, DeploymentRecord]:
        tries.append(time.monotonic())
        if len(tries) == 6:
            enough.set()
        return {} if len(tries) < 6 else records

    follower = Follower(served.rooms.catalog, changed, look_s=0.01)
    follower.follow({NAME: recorded(served.rooms, NAME, "refunds@1")})
    assert enough.wait(60)
    waits = [after - before for before, after in pairwise(tries)]
    assert all(wait >= pause for wait, pause in zip(waits[1:], (0.02, 0.04, 0.08, 0.16), strict=True))
    time.sleep(0.5)
    assert len(tries) == 6, "all is taken up"
