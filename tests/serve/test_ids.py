"""One length of ids for all: what `log` takes is predicted, logged, reviewed and found, over HTTP and gRPC alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from raystore.data import rows
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.recording.recorder import Recorder
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.metrics import Metrics
from raystore.serve.wire.common import MAX_ID_CHARS
from tests.serve.conftest import Served, make_store
from tests.serve.serving import Service, Serving
from tests.serve.test_grpc import serving, stub_of, told

TEXT = "the card never arrived"
LONGEST = "ü'" * (MAX_ID_CHARS // 2)
OVER = LONGEST + "x"
TOO_LONG = f"string should have at most {MAX_ID_CHARS} characters"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """A store of its own: other tests count the rows of theirs."""
    return make_store(tmp_path_factory.mktemp("ids") / "a store", tiny_model)


@pytest.fixture(scope="module")
def recorder(served: Served) -> Iterator[Recorder]:
    recorder = Recorder(served.rooms, Watch(), Metrics("recording"))
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def service(served: Served, recorder: Recorder) -> Service:
    deployments: dict[str, dict[str, Any]] = {
        "id-kept": {"head": "refunds@2", "log": "kept"},
        "id-looked": {"head": "refunds@2", "review": {"table": "id_reviewed", "sample": 1}},
    }
    tell = lambda seen: recorder.take([seen])  # noqa: E731
    service = Serving(served.rooms).serve(deployments, tell=tell, operating=True)
    recorder.update({name: live.record for name, live in service.orchestrator.live.items()})
    return service


def test_the_wire_takes_ids_as_long_as_a_collection_does() -> None:
    assert MAX_ID_CHARS == rows.MAX_ID_CHARS


def test_the_longest_id_is_logged_predicted_found_and_reviewed(service: Service, recorder: Recorder) -> None:
    logged = service.client.post("/v1/collections/tickets/log", json={"rows": [{"id": LONGEST, "text": "a long world"}]})
    assert (logged.status_code, logged.json()["added"]) == (200, 1)
    found = service.client.post("/v1/collections/tickets/search", json={"id": LONGEST, "k": 1})
    assert [hit["id"] for hit in found.json()["hits"]] == [LONGEST]
    answer = service.ask("id-kept", {"id": LONGEST, "text": TEXT, "subject": LONGEST, "tenant": LONGEST})
    assert (answer["predictions"][0]["id"], answer["logged"]) == (LONGEST, [LONGEST])
    assert service.ask("id-looked", {"id": LONGEST, "text": TEXT})["predictions"][0]["review"]
    assert recorder.drain(60)
    url = "/v1/review/id-looked"
    assert [each["id"] for each in service.client.get(url).json()["items"]] == [LONGEST]
    done = service.client.post(url, json={"reviewer": "ann", "labels": [{"id": LONGEST, "label": "card"}]})
    assert (done.status_code, done.json()["added"]) == (200, 1)


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("/v1/collections/tickets/log", {"rows": [{"id": OVER, "text": TEXT}]}, "body.rows[0].id"),
        ("/v1/predict/id-kept", {"id": OVER, "text": TEXT}, "body.id"),
        ("/v1/predict/id-kept", {"items": [{"id": OVER, "text": TEXT}]}, "body.items[0].id"),
        ("/v1/review/id-looked", {"reviewer": "ann", "labels": [{"id": OVER, "label": "card"}]}, "body.labels[0].id"),
    ],
)
def test_an_id_beyond_it_is_refused_everywhere_alike(service: Service, url: str, body: Any, field: str) -> None:
    answer = service.client.post(url, json=body)
    assert (answer.status_code, answer.json()["error"]["problems"]) == (422, [{"field": field, "reason": TOO_LONG}])
    assert "ü" not in answer.text


def test_grpc_takes_and_refuses_the_same(service: Service) -> None:
    def item(id_: str) -> pb.PredictRequest:
        return pb.PredictRequest(deployment="id-kept", items=[pb.PredictItem(id=id_, text=TEXT)])

    def row(id_: str) -> pb.LogRequest:
        return pb.LogRequest(collection="tickets", rows=[pb.LogRow(id=id_, text=TEXT)])

    mine = LONGEST.replace("ü", "g")
    with serving(lambda: service.orchestrator, AppSpec()) as address, stub_of(address) as stub:
        assert stub.Log(row(mine)).added == 1
        assert [each.id for each in stub.Predict(item(mine)).predictions] == [mine]
        for call, sent, field in (
            (stub.Log, row(OVER), "request.rows[0].id"),
            (stub.Predict, item(OVER), "request.items[0].id"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(sent)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert told(caught.value)["problems"] == [{"field": field, "reason": TOO_LONG}]
            assert "ü" not in str(caught.value.details())
        head = pb.StreamRequest(options=pb.StreamOptions(deployment="id-kept"))
        both = [pb.StreamRequest(item=pb.PredictItem(id=id_, text=TEXT)) for id_ in (mine, OVER)]
        good, bad, _ = stub.PredictStream(iter([head, *both]))
    assert good.line.prediction.id == mine
    assert bad.line.error.message == f"1 field of this request is wrong: item.id: {TOO_LONG}."


def test_a_line_of_a_stream_has_the_same_length(service: Service) -> None:
    lines = "".join(f'{{"id": "{id_}", "text": "{TEXT}"}}\n' for id_ in (LONGEST.replace("ü", "s"), OVER)).encode()
    answer = service.client.post(
        "/v1/predict/id-kept/stream", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    assert f"line.id: {TOO_LONG}" in answer.text.splitlines()[1]
    assert '"failed":1' in answer.text.splitlines()[2]
