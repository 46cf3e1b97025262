"""A newer encoder asks what an older one left behind: searches and heads through a bridge, in Python and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import raystore
from raystore.collection import Collection
from raystore.encoders.bridged import read_bridge
from raystore.errors import InvalidArguments, InvalidRows, PassportMismatch, SqlRefused
from raystore.migrate.bridge import Bridged
from raystore.serve.answer.loading import Rooms
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import deployment_records
from raystore.store import Store
from raystore.train.fit import train_head
from raystore.train.source import ArraySource, Examples
from raystore.vectors import Vectors
from tests.serve.conftest import durable, recorded

WORDS = ("card", "money", "blue", "hello", "world", "text", "sentence", "limit")
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]
GONE = [f"gone {i}" for i in range(4)]
N_ROWS = len(TEXTS) + len(GONE)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Store:
    """Encoders `old` (16 numbers) and `new` (32), a collection with 128 rows of both and 4 of the old one alone, a head of the old
    one, and the bridge between them."""
    made = raystore.open(tmp_path_factory.mktemp("through") / "store")
    old = made.encoders.register("old", tiny_model, dimensions=16)
    made.encoders.register("new", tiny_model)
    tickets = made.create_collection("tickets", encoder=["old", "new"])
    tickets.log([{"id": f"t-{i}", "text": text} for i, text in enumerate(TEXTS)])
    lone = old.encode(["money money money", "card card card", "hello limit", "blue world blue"])
    tickets.log([{"id": id_, "vector": v} for id_, v in zip(GONE, lone, strict=True)], fingerprint=old.fingerprint)
    made.create_collection("kept", encoder="new")
    made.create_collection("unrelated", encoder=made.encoders.register("strange", tiny_model, max_length=8))
    labels = np.array([WORDS.index(text.split()[0]) % 2 for text in TEXTS], np.int64)
    examples = Examples(np.asarray(old.encode(TEXTS)), labels, np.ones(len(TEXTS), np.float32))
    train_head(
        made.layout,
        name="topics",
        kind="linear",
        classes=["even", "odd"],
        source=ArraySource({"train": examples, "val": examples, "test": examples}),
        fingerprint=old.fingerprint,
        encoder_label=old.label,
        snapshot={"name": "topics", "number": 1, "hash": "ab" * 32},
    )
    made.build_bridge("crossed", "old", "new", collection="tickets", kinds=["low-rank"])
    return made


@pytest.fixture(scope="module")
def tickets(store: Store) -> Collection:
    return store.collection("tickets")


def asked(store: Store, text: str) -> Vectors:
    """What the back bridge asks the old space with."""
    back = store.encoder("crossed-back")
    return read_bridge(store.layout, back.fingerprint, back.label).as_target(back.encode([text]))


def test_building_it_loads_no_model_and_says_what_it_reached(store: Store) -> None:
    made = store.build_bridge("crossed", "old", store.encoder("new"), collection="tickets", kinds=["low-rank"])
    assert isinstance(made, Bridged)
    assert (made.forward, made.back) == (store.encoder("crossed"), store.encoder("crossed-back"))
    assert made.forward._loaded is None
    assert (made.back_fidelity.n, made.back_fidelity.kind) == (len(TEXTS), "low-rank")
    assert made.back_fidelity.recall > 0.5


def test_a_new_query_finds_old_rows_through_the_bridge_and_the_answer_says_so(store: Store, tickets: Collection) -> None:
    found = tickets.search("money money card", k=5, through="crossed-back")
    old = store.encoder("old")
    assert found.fingerprint == old.fingerprint
    assert found.ids == tickets.search(vector=asked(store, "money money card"), k=5, encoder="old").ids
    assert found.bridged is not None
    assert found.bridged["encoder"] == store.encoder("crossed-back").label
    assert set(found.bridged["fidelity"]) == {"kind", "pairs", "n", "gallery", "recall", "kept", "cosine"}
    assert f"asked through {store.encoder('crossed-back').label}, encoder {old.fingerprint[:12]}" in repr(found)
    assert tickets.search("money money card", k=5, encoder="old").bridged is None


def test_vectors_of_the_new_encoder_cross_and_those_of_the_old_stay(store: Store, tickets: Collection) -> None:
    text = "hello blue card"
    whole = tickets.search(text, k=4, through="crossed-back").ids
    for vector in (store.encoder("new").encode([text]), np.asarray(store.encoder("new").encode([text]))):
        assert tickets.search(vector=vector, k=4, through="crossed-back").ids == whole
    true = store.encoder("old").encode([text])
    assert tickets.search(vector=true, through="crossed-back").ids == tickets.search(vector=true, encoder="old").ids
    liked = tickets.search(text, like=["t-3"], k=4, through="crossed-back")
    assert "t-3" not in liked.ids[0]


def test_what_cannot_be_asked_through_a_bridge_is_refused(store: Store, tickets: Collection) -> None:
    with pytest.raises(InvalidArguments) as item:
        tickets.search(item="t-1", through="crossed-back")
    assert item.value.problems == ["item= has a vector of the encoder that is searched: leave through= out"]
    with pytest.raises(InvalidArguments) as none:
        tickets.search("money", through="new")
    label = store.encoder("new").label
    assert none.value.problems == [f"encoder {label} is no bridge between two encoders; build one with build_bridge"]
    with pytest.raises(PassportMismatch):
        store.collection("unrelated").search("money", through="crossed-back")
    with pytest.raises(PassportMismatch):
        tickets.search("money", encoder="new", through="crossed-back")


def test_rows_whose_content_is_gone_are_found_in_the_new_space(store: Store, tickets: Collection) -> None:
    from raystore.migrate.bridge import bridge_rows, bridged_ids

    forward = store.encoder("crossed")
    report = bridge_rows(store.layout, tickets.table, forward)
    assert (report.bridged, report.copied, report.left) == (4, len(TEXTS), 0)
    found = tickets.search("money money money", k=len(TEXTS) + 4, encoder="crossed")
    assert set(GONE) <= set(found.ids[0])
    assert found.bridged == read_bridge(store.layout, forward.fingerprint, forward.label).said
    assert {hit["id"] for hit in found.to_dicts() if hit["bridged"]} == set(GONE)
    assert (
        f", 4 of 132 rows bridged, at recall@10 {found.bridged['fidelity']['recall']:.1%} among {len(TEXTS)}, encoder"
        in repr(found)
    )
    columns = tickets.search("money money money", k=5, encoder="crossed", columns=["subject"]).to_dicts()
    assert [hit["bridged"] for hit in columns] == [id_ in GONE for id_ in found.ids[0][:5]]
    true = tickets.search("money money money", k=5, encoder="crossed", where="id LIKE 't-%'")
    assert (true.bridged, true.bridged_hits) == (None, [[False] * 5])
    assert tickets.search("money money money", k=5, encoder="new").bridged_hits is None
    assert tickets.recommend(["t-1"], k=N_ROWS, encoder="crossed").bridged == found.bridged
    tickets.log([{"id": "new row", "text": "money card money"}])
    assert bridged_ids(tickets.table, forward.fingerprint, ["new row", GONE[0]]).tolist() == [False, True]
    own, copy = (
        np.asarray(tickets.table.vectors_of(["new row"], store.encoder(n).fingerprint)) for n in ("new", "crossed")
    )
    assert (own == copy).all()


def test_a_bridges_own_vectors_are_not_logged_for_its_column_says_which_were_mapped(
    store: Store, tickets: Collection
) -> None:
    forward, new = store.encoder("crossed"), store.encoder("new")
    crossed = read_bridge(store.layout, forward.fingerprint).cross(store.encoder("old").encode(["money"]))
    for vectors in (crossed, forward.encode(["money"])):
        with pytest.raises(InvalidRows) as refused:
            tickets.log([{"id": "mapped", "vector": vectors}], fingerprint=forward.fingerprint)
        assert str(refused.value) == (
            "1 of 1 rows for collection 'tickets' cannot be written: row 0: fingerprint= is a bridge's, "
            f"{forward.fingerprint[:12]}, which says nothing of whether a vector is true or was mapped: give the own vectors of the "
            f"encoder that it leads to, with fingerprint='{new.fingerprint}', or the content. Nothing was written."
        )


def test_sql_says_of_each_row_whether_its_vector_was_bridged(store: Store, tickets: Collection) -> None:
    found = store.sql("SELECT id FROM tickets WHERE bridged(crossed) ORDER BY id").to_dicts()
    assert [row["id"] for row in found] == GONE
    nearest = "SELECT n.id, bridged(n.crossed) AS mapped FROM nearest(tickets, crossed, 'money money money', 40) n ORDER BY n.rank"
    assert [row["mapped"] for row in store.sql(nearest).to_dicts()] == [
        row["id"] in GONE for row in store.sql(nearest).to_dicts()
    ]
    assert store.sql("SELECT count(*) AS n FROM tickets WHERE bridged(new)").to_dicts() == [{"n": 0}]
    before = store.sql("SELECT count(*) AS n FROM tickets AT (VERSION => 2) WHERE bridged(crossed)").to_dicts()
    assert before == [{"n": 0}]
    with pytest.raises(SqlRefused) as refused:
        store.sql("SELECT bridged('crossed') FROM tickets")
    assert str(refused.value) == (
        "this SQL was not run: bridged() was called otherwise than it is defined. Write bridged(encoder); an encoder with '-' in "
        "its name stands in double quotes."
    )


# --- serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rooms(store: Store) -> Rooms:
    return Rooms(store.root)


@pytest.fixture
def client(rooms: Rooms) -> Iterator[TestClient]:
    spec = AppSpec.model_validate({"deployments": {
        "topics": {"head": "topics", "through": "crossed-back", "log": "kept"}, "before": {"head": "topics"},
    }})  # fmt: skip
    orchestrator = rooms.orchestrator(spec, threads=1)
    orchestrator.update(rooms.live(rooms.records(spec)))
    with TestClient(make_app(lambda: orchestrator, spec), base_url="http://127.0.0.1") as client:
        yield client
    orchestrator.close()


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_old_head_goes_on_serving_through_the_bridge(client: TestClient, store: Store) -> None:
    text = "money blue card"
    answer = post(client, "predict/topics", text=text)
    head = store.heads.get("topics")
    true = head.predict(asked(store, text))
    assert answer["predictions"][0]["label"] == true.labels[0]
    assert answer["predictions"][0]["confidence"] == pytest.approx(float(true.confidence[0]), abs=1e-3)
    assert answer["fingerprint"] == store.encoder("old").fingerprint
    assert answer["bridged"]["encoder"] == store.encoder("crossed-back").label
    assert answer["bridged"]["fidelity"]["pairs"] == len(TEXTS)
    assert post(client, "predict/before", text=text)["bridged"] is None


def test_what_is_logged_of_a_prediction_through_a_bridge_is_its_true_vector(client: TestClient, store: Store) -> None:
    (id_,) = post(client, "predict/topics", text="hello world card")["logged"]
    new = store.encoder("new")
    kept = durable(store.layout, "kept").vectors_of([id_], new.fingerprint)
    np.testing.assert_allclose(np.asarray(kept), np.asarray(new.encode(["hello world card"])), atol=1e-3)


def test_a_search_over_http_names_its_bridge(client: TestClient, store: Store, tickets: Collection) -> None:
    where = "id NOT IN ('new row')"  # that another test logs
    body = {"k": 3, "where": where, "through": "crossed-back"}
    found = post(client, "collections/tickets/search", text="money money card", **body)
    assert [hit["id"] for hit in found["hits"]] == tickets.search(
        "money money card", k=3, where=where, through="crossed-back"
    ).ids[0]
    assert (found["fingerprint"], found["bridged"]["fidelity"]["kind"]) == (store.encoder("old").fingerprint, "low-rank")
    new = store.encoder("new")
    vector = new.encode(["money money card"])[0].tolist()
    by_vector = post(client, "collections/tickets/search", vector=vector, fingerprint=new.fingerprint, **body)
    assert [hit["id"] for hit in by_vector["hits"]] == [hit["id"] for hit in found["hits"]]
    refused = client.post("/v1/collections/tickets/search", json={"text": "a", "through": "new"})
    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "InvalidArguments"
    both = client.post("/v1/collections/tickets/search", json={"id": "t-1", "through": "crossed-back"})
    assert both.status_code == 422


def test_a_search_over_http_says_which_hits_were_bridged_and_how_well_that_finds(
    client: TestClient, store: Store, tickets: Collection
) -> None:
    forward = store.encoder("crossed")
    body = {"text": "money money money", "k": 1_000, "fingerprint": forward.fingerprint}
    found = post(client, "collections/tickets/search", **body)
    assert {hit["id"] for hit in found["hits"] if hit["bridged"]} == set(GONE)
    assert found["bridged"] == read_bridge(store.layout, forward.fingerprint, forward.label).said
    true = post(client, "collections/tickets/search", **body, where="id LIKE 't-%'")
    assert (true["bridged"], {hit["bridged"] for hit in true["hits"]}) == (None, {False})
    plain = post(client, "collections/tickets/search", text="money", fingerprint=store.encoder("new").fingerprint)
    assert (plain["bridged"], {hit["bridged"] for hit in plain["hits"]}) == (None, {False})
    row = {"id": "mapped", "vector": forward.encode(["money"])[0].tolist()}
    refused = client.post("/v1/collections/tickets/log", json={"rows": [row], "fingerprint": forward.fingerprint})
    assert (refused.status_code, "which says nothing of whether a vector is true or was mapped" in refused.text) == (
        422,
        True,
    )


def test_a_record_says_through_what_a_head_is_asked(rooms: Rooms, store: Store) -> None:
    first = recorded(rooms, "recorded", "topics", through="crossed-back")
    assert first == recorded(rooms, "recorded", "topics", through="crossed-back")
    assert first.through is not None
    assert (first.reads, first.fingerprint) == (store.encoder("crossed-back").fingerprint, store.encoder("old").fingerprint)
    assert deployment_records(rooms.catalog)["recorded"] == first
    plain = recorded(rooms, "recorded", "topics")
    assert (plain.number, plain.through, plain.reads) == (first.number + 1, None, plain.fingerprint)


def test_a_bridge_that_leads_elsewhere_serves_no_head_of_this_encoder(rooms: Rooms, store: Store) -> None:
    with pytest.raises(PassportMismatch) as wrong:
        recorded(rooms, "wrong", "topics", through="crossed")
    old, new = store.encoder("old"), store.encoder("new")
    assert wrong.value.expected == f"{old.label} ({old.fingerprint})"
    assert wrong.value.found == f"through='crossed', a bridge that leads to {new.fingerprint}"
    with pytest.raises(PassportMismatch):
        recorded(rooms, "wrong", "topics", through="crossed-back", log="unrelated")
