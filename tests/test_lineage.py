from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

import raystore
from raystore.data.snapshots.split import iso
from raystore.errors import DeploymentNotFound, HeadNotFound, InvalidArguments, SnapshotNotFound
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.store import Store

SQL = "SELECT t.id, o.label\nFROM tickets t JOIN outcomes o ON o.item = t.id"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Store:
    store = raystore.open(tmp_path_factory.mktemp("lineage") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    tickets = store.create_collection("tickets", encoder="tiny")
    tickets.log([{"id": f"t-{i}", "text": f"{'card' if i % 2 else 'money'} {i}"} for i in range(40)])
    for more in (40, 38):  # two versions of the labels, two snapshots, two heads
        store.register_table("outcomes", [{"item": f"t-{i}", "label": "ab"[i % 2]} for i in range(more)], id="item")
        store.train_head("refunds", snapshot=store.snapshot("labels", SQL), workers=0)
    Rooms(store.root).record("triage", DeploymentSpec.model_validate({"head": "refunds@1"}))
    return store


def nouns(store: Store, thing: object) -> list[tuple[str, str]]:
    return [(link["noun"], link["name"]) for link in store.lineage(thing).facts]


def test_a_deployment_leads_to_head_snapshot_collection_and_encoder(store: Store) -> None:
    assert nouns(store, "triage") == [
        ("deployment", "triage@1"),
        ("head", "refunds@1"),
        ("snapshot", "labels@1"),
        ("collection", "tickets"),
        ("encoder", store.encoders["tiny"].label),
    ]


def test_a_prediction_leads_to_the_head_that_made_it_and_not_to_the_present_one(store: Store) -> None:
    answer = {"predictions": [], "lineage": {"deployment": "triage", "number": 7, "head": "refunds@2"}}
    assert nouns(store, answer)[:3] == [("deployment", "triage@7"), ("head", "refunds@2"), ("snapshot", "labels@2")]


def test_heads_and_snapshots_by_object_name_and_number(store: Store) -> None:
    assert nouns(store, store.heads["refunds@1"]) == nouns(store, "refunds@1")
    assert nouns(store, "refunds")[0] == ("head", "refunds@2")
    assert nouns(store, store.snapshots["labels"]) == nouns(store, "labels@2")
    assert nouns(store, "labels@1") == [("snapshot", "labels@1"), ("collection", "tickets")]


def test_the_links_hold_sql_versions_hash_and_fingerprint(store: Store) -> None:
    found = store.lineage("refunds@1")
    assert found["snapshot"]["sql"] == SQL
    assert found["snapshot"]["versions"] == f"outcomes version 1, tickets version {store.collection('tickets').version}"
    assert found["snapshot"]["hash"] == store.snapshots["labels@1"].hash[:12]
    assert found["encoder"]["fingerprint"] == store.encoders["tiny"].fingerprint
    assert found["head"]["accuracy"] == round(store.heads["refunds@1"].report.accuracy, 4)


def test_the_snapshot_tells_how_its_rows_were_made(store: Store) -> None:
    asked = {"label": "majority", "features": {"at": "tickets.id"}, "split": {"train": 0.7, "test": 0.3}}
    moment = datetime.now(UTC)
    link = store.lineage(store.snapshot("made", SQL, as_of=moment, **asked))["snapshot"]
    assert {key: link[key] for key in ("label", "features", "split", "as_of")} == {
        "label": "majority",
        "features": "at from tickets.id",
        "split": "by entity, train 0.7, val 0, test 0.3",
        "as_of": iso(moment),
    }
    assert link["sql"] == SQL
    assert not {"label", "features", "as_of"} & store.lineage("labels@1")["snapshot"].keys()


def test_a_head_is_shown_with_the_aliases_that_mean_it(store: Store) -> None:
    assert "aliases" not in store.lineage("refunds@2")["head"]
    for alias in ("live", "safe"):
        store.heads.set_alias("refunds", alias, 1)
    found = store.lineage("refunds@live")
    assert (found["head"]["name"], found["head"]["aliases"]) == ("refunds@1", "live, safe")
    page = found._repr_html_()
    assert "Lineage of head refunds@1" in page
    assert "live, safe" in page
    assert "text-align:right" not in page  # numbers among words read best beside them
    for alias in ("live", "safe"):
        store.heads.drop_alias("refunds", alias)


def test_it_is_drawn_as_a_tree(store: Store) -> None:
    lines = str(store.lineage("labels@1")).splitlines()
    assert lines[0] == "snapshot labels@1"
    assert lines[-3:] == [
        f"   sql: {' '.join(SQL.split())}",
        "   split: by entity, train 0.8, val 0.1, test 0.1",
        "└─ collection tickets",
    ]
    assert repr(store.lineage("labels@1")) == "\n".join(lines)


@pytest.mark.parametrize(
    "thing, error, sentence",
    [
        (
            "nobody",
            DeploymentNotFound,
            "no deployment 'nobody' in the deployments, heads and snapshots. It has: 'triage', 'refunds', 'labels'.",
        ),
        ("refunds@9", HeadNotFound, r"no head 'refunds@9' in store '.*'\. It has: 'refunds@2', 'refunds@1'\."),
        ("labels@9", SnapshotNotFound, r"no snapshot 'labels@9' in store '.*'\. It has: 'labels@2', 'labels@1'\."),
        (7, InvalidArguments, "lineage: int has no lineage, expected a prediction, a head, a snapshot, or a name."),
        (
            {"lineage": {}},
            InvalidArguments,
            "lineage: the mapping is no /v1/predict answer: its 'lineage' names no deployment, head and number.",
        ),
        ({}, InvalidArguments, "lineage: the mapping is no /v1/predict answer"),
    ],
)
def test_what_has_no_lineage_is_said(store: Store, thing: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        store.lineage(thing)
