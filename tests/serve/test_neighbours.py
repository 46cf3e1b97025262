"""A head that asks the labelled rows of a collection, behind the orchestrator like any other."""

from __future__ import annotations

from starlette.testclient import TestClient

from raystore.data.collection import CollectionTable
from raystore.data.log import RowLog
from raystore.impact import impact
from raystore.lineage import trace
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from raystore.train.classify.register import Classifiers, register_classifier
from tests.serve.conftest import CARD, COLOUR, MONEY, Served, recorded


def test_a_deployment_of_neighbours_learns_from_rows_that_are_logged_forgets_erased_ones_and_names_where_it_asks(
    served: Served,
) -> None:
    rooms = served.rooms
    encoder = rooms.encoders.get(served.fingerprint)
    desk = CollectionTable.create(rooms.layout, "desk", {encoder.fingerprint: encoder.dim}, {"topic": "string"})
    log = RowLog(desk, encoder.load(threads=1), rooms.store_key)
    log.log([{"id": t, "text": t, "topic": "card" if t in CARD else "money"} for t in [*CARD, *MONEY]])
    opened = rooms.opened("desk").searcher(encoder.fingerprint)
    made = Classifiers(rooms.catalog, desk).get(opened, encoder, labels="topic", k=3)
    head = register_classifier(rooms.layout, "by-rows", made, encoder.label)
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    live = rooms.live({"desk": recorded(rooms, "desk", "by-rows")})
    orchestrator.update(live)
    assert rooms.head("by-rows").asks is not None
    with TestClient(make_app(lambda: orchestrator, AppSpec()), base_url="http://127.0.0.1:8000") as client:
        ask = {"text": COLOUR[0], "top": 5}
        before = client.post("/v1/predict/desk", json=ask).json()
        assert before["predictions"][0]["label"] in ("card", "money")
        assert before["lineage"] == {
            "deployment": "desk",
            "number": 1,
            "head": "by-rows@1",
            "snapshot": None,
            "voters": {"collection": "desk", "labels": "topic"},
            "encoder": served.label,
            "fingerprint": served.fingerprint,
        }
        log.log([{"id": t, "text": t, "topic": "colour"} for t in COLOUR])
        (after,) = client.post("/v1/predict/desk", json=ask).json()["predictions"]
        assert (after["label"], after["probabilities"][0]["label"]) == ("colour", "colour")
        assert {p["label"] for p in after["probabilities"]} == {"card", "money", "colour"}
        desk.rows.dataset().delete("topic = 'colour'")
        (erased,) = client.post("/v1/predict/desk", json=ask).json()["predictions"]
        assert erased["label"] in ("card", "money")
        assert {p["label"]: p["probability"] for p in erased["probabilities"]}["colour"] == 0
    assert [link["noun"] for link in trace(rooms.catalog, before).facts] == ["deployment", "head", "collection", "encoder"]
    assert trace(rooms.catalog, head)["collection"]["labels"] == "topic"
    (below,) = [d for d in impact(rooms.catalog, encoder).top.below if (d.noun, d.name) == ("collection", "desk")]
    assert [(d.noun, d.name) for d in below.below] == [("head", "by-rows@1")]
    assert [(d.noun, d.name) for d in below.below[0].below] == [("deployment", "desk@1")]
