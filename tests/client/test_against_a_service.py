"""Both clients against raystore's own service, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pytest

from raystore.client import AsyncClient, Client
from raystore.errors import ServiceRefused
from raystore.serve.http.app import make_app
from raystore.serve.operate.operator import Operator
from raystore.serve.spec.app import AppSpec
from raystore.serve.watch.merger import Merger
from raystore.serve.watch.metrics import Metrics
from tests.client.service import running
from tests.pictures import PICTURES
from tests.serve.conftest import Served, durable, make_house, recorded
from tests.serve.serving import told


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model: object) -> Served:
    return make_house(tmp_path_factory.mktemp("client"), tiny_model)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url(house: Served) -> Iterator[str]:
    rooms = house.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    records = {
        "triage": recorded(rooms, "triage", "refunds@2", log="kept"),
        "looks": recorded(rooms, "looks", "colours"),
    }
    orchestrator.update(rooms.live(records))
    operator = Operator(rooms, partial(told, Merger(), Metrics("ingress")))
    with running(make_app(lambda: orchestrator, AppSpec(), operator=operator)) as url:
        yield url


def test_texts_images_and_vectors_are_predicted(url: str, house: Served) -> None:
    with Client(url) as client:
        answer = client.predict(
            "triage", "return the money", subject="c-9", columns={"product": "card"}, top=1, request_id="one"
        )
        assert [p.label for p in answer.predictions] == ["money"]  # type: ignore[union-attr]
        assert (answer.request_id, answer.logged) == ("one", ["one"])
        vectors = house.rooms.encoders.get("tiny").encode(["red and blue", "the card never arrived"])
        by_vector = client.predict("triage", items=[{"vector": vectors[0], "id": "a"}, vectors[1]])
        assert [(p.id == "a", p.label) for p in by_vector.predictions] == [(True, "colour"), (False, "card")]  # type: ignore[union-attr]
        assert client.predict("triage", vectors[0]).fingerprint == house.fingerprint
        assert len(client.predict("looks", items=PICTURES).predictions) == len(PICTURES)


def test_a_prediction_sent_again_by_its_id_is_logged_once(url: str, house: Served) -> None:
    with Client(url) as client:
        for _ in range(2):
            client.predict("triage", "a card", request_id="again")
    kept = durable(house.rooms.layout, "kept").rows.dataset().to_table(columns=["id"]).column("id").to_pylist()
    assert kept.count("again") == 1


def test_rows_are_logged_and_found(url: str, house: Served) -> None:
    with Client(url) as client:
        rows = [
            {"id": "by-client-1", "text": "hello blue world", "product": "other"},
            {"id": "by-client-2", "text": "a card"},
        ]
        assert (client.log("tickets", rows).added, client.log("tickets", rows).known) == (2, 2)
        found = client.search("tickets", "hello blue world", k=1, columns=["product"])
        assert [(hit.id, hit.columns) for hit in found.hits] == [("by-client-1", {"product": "other"})]
        vector = house.rooms.encoders.get("tiny").encode(["hello blue world"])[0]
        assert client.search("tickets", vector, k=1).hits[0].id == "by-client-1"


def test_embeddings_are_those_of_the_encoder(url: str, house: Served) -> None:
    with Client(url) as client:
        found = client.embeddings("tiny", ["hello world", "a card"])
    expected = house.rooms.encoders.get("tiny").encode(["hello world", "a card"])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert (found.fingerprint, found.model) == (house.fingerprint, house.label)


def test_a_stream_of_texts_is_predicted_line_by_line(url: str) -> None:
    texts = ["return the money", "  ", "the card never arrived"] * 50
    with Client(url) as client:
        lines = list(
            client.predict_stream("triage", ({"text": t, "id": f"s-{i}"} for i, t in enumerate(texts)), window=40, top=1)
        )
    assert [line.line for line in lines] == list(range(150))
    assert [line.prediction.id for line in lines if line.prediction] == [f"s-{i}" for i in range(150) if i % 3 != 1]
    assert {line.error.type for line in lines if line.error} == {"InvalidRequest"}


def test_a_shadow_report_is_asked_for_with_labels_and_from_a_time_on(url: str) -> None:
    async def run() -> dict[str, Any]:
        async with AsyncClient(url) as client:
            return await client.shadow("triage", since="2026-11-01T12:00")

    with Client(url) as client:
        since = datetime(2026, 11, 1, tzinfo=UTC)
        for found in (client.shadow("triage", labels="kept.subject", since=since), asyncio.run(run())):
            assert (found["deployment"], found["reports"]) == ("triage", [])
        with pytest.raises(ServiceRefused) as caught:
            client.shadow("triage", labels="no table", since="yesterday")
        assert {each["field"] for each in caught.value.details["problems"]} == {"query.labels", "query.since"}


def test_many_calls_of_one_async_client_are_answered_side_by_side(url: str) -> None:
    async def run() -> list[str]:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(
                *(client.predict("triage", t) for t in ["return the money", "red and blue"] * 10)
            )
            streamed = [line async for line in client.predict_stream("triage", ["the card never arrived"])]
            assert streamed[0].prediction is not None
            return [answer.predictions[0].label for answer in answers]  # type: ignore[union-attr]

    assert asyncio.run(run()) == ["money", "colour"] * 10


def test_what_the_service_refuses_arrives_with_its_facts(url: str) -> None:
    with Client(url) as client:
        with pytest.raises(ServiceRefused) as caught:
            client.predict("nobody", "x", request_id="mine")
        assert (caught.value.status_code, caught.value.type, caught.value.request_id) == (404, "DeploymentNotFound", "mine")
        assert caught.value.details == {"existing": ["looks", "triage"]}
        with pytest.raises(ServiceRefused) as caught:
            client.predict("triage", items=["a", " "])
        assert caught.value.details["problems"] == [{"field": "body.items[1].text", "reason": "is empty"}]
        with pytest.raises(ServiceRefused) as caught:
            list(client.predict_stream("nobody", ["x"]))
        assert caught.value.type == "DeploymentNotFound"
