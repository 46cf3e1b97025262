from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import raystore
from raystore.encoders.records import find_fingerprint
from raystore.errors import EncoderNotFound, HeadNotFound, InvalidArguments, SnapshotNotFound
from raystore.impact import Dependent, Impact, impact
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.store import Store

SQL = "SELECT t.id, o.label FROM tickets t JOIN outcomes o ON o.item = t.id"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Store:
    """Encoders tiny and short, collection tickets of both with an index over tiny's vectors, snapshots labels@1 and @2,
    heads refunds@1 (live) and @2 on tiny, deployment triage of refunds@1, and an empty collection of tiny."""
    store = raystore.open(tmp_path_factory.mktemp("impact") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=4)
    tickets = store.create_collection("tickets", encoder="tiny")
    store.create_collection("empty", encoder="tiny")
    tickets.log([{"id": f"t-{i}", "text": f"{'card' if i % 2 else 'money'} {i}"} for i in range(40)])
    tickets.build_index()
    for more in (40, 38):
        store.register_table("outcomes", [{"item": f"t-{i}", "label": "ab"[i % 2]} for i in range(more)], id="item")
        store.train_head("refunds", snapshot=store.snapshot("labels", SQL), workers=0)
    store.heads.set_alias("refunds", "live", 1)
    Rooms(store.root).record("triage", DeploymentSpec.model_validate({"head": "refunds@live", "log": "tickets"}))
    return store


def tree(found: Impact) -> list[str]:
    """The tree without the facts in brackets."""
    return [line.partition(" (")[0] for line in str(found).splitlines()]


def test_what_stands_on_an_encoder_is_a_tree(store: Store) -> None:
    label = store.encoders["tiny"].label
    assert tree(impact(store.catalog, "tiny")) == [
        f"encoder {label}",
        "├─ collection empty",
        "└─ collection tickets",
        "   ├─ index tickets@1",
        "   ├─ snapshot labels@1",
        "   │  └─ head refunds@1",
        "   │     └─ deployment triage@1",
        "   └─ snapshot labels@2",
        "      └─ head refunds@2",
    ]


def test_an_encoder_is_found_by_object_name_label_and_fingerprint(store: Store) -> None:
    encoder = store.encoders["tiny"]
    for thing in (encoder, encoder.label, encoder.fingerprint, encoder.fingerprint[:12]):
        assert str(impact(store.catalog, thing)) == str(impact(store.catalog, "tiny"))


def test_the_facts_name_what_each_stands_on(store: Store) -> None:
    found = impact(store.catalog, "tiny")
    label, passport = store.encoders["tiny"].label, store.encoders["tiny"].passport
    assert found.facts[0] == {
        "noun": "encoder", "name": label, "on": None, "fingerprint": passport.fingerprint, "class": "torch-fp32",
    }  # fmt: skip
    assert found["collection"] == [
        {"noun": "collection", "name": "empty", "on": f"encoder {label}", "rows": 0, "with a vector": 0},
        {"noun": "collection", "name": "tickets", "on": f"encoder {label}", "rows": 40, "with a vector": 40},
    ]
    version = store.collection("tickets").version
    assert found["index"] == [
        {"noun": "index", "name": "tickets@1", "on": "collection tickets", "rows": 40, "kind": "exact", "version": version}
    ]
    assert found["head"][0] == {
        "noun": "head", "name": "refunds@1", "on": "snapshot labels@1", "aliases": "live", "kind": "linear", "encoder": label,
    }  # fmt: skip
    assert found["deployment"] == [{"noun": "deployment", "name": "triage@1", "on": "head refunds@1", "log": "tickets"}]
    assert found["publication"] == []
    assert json.loads(json.dumps(found.facts)) == found.facts


def test_what_stands_on_a_snapshot_and_on_a_head(store: Store) -> None:
    assert tree(impact(store.catalog, "labels@1")) == [
        "snapshot labels@1",
        "└─ head refunds@1",
        "   └─ deployment triage@1",
    ]
    assert tree(impact(store.catalog, "labels")) == ["snapshot labels@2", "└─ head refunds@2"]
    assert str(impact(store.catalog, store.snapshots["labels"])) == str(impact(store.catalog, "labels@2"))
    label = store.encoders["tiny"].label
    expected = f"head refunds@1 (aliases: live, kind: linear, encoder: {label})\n└─ deployment triage@1 (log: tickets)"
    for thing in ("refunds@live", "refunds@1", store.heads["refunds@1"]):
        assert str(impact(store.catalog, thing)) == repr(impact(store.catalog, thing)) == expected


def test_where_nothing_stands_that_is_said(store: Store) -> None:
    assert tree(impact(store.catalog, "short"))[1:] == ["nothing stands on it"]
    assert tree(impact(store.catalog, "refunds"))[1:] == ["nothing stands on it"]


@pytest.mark.parametrize(
    ("thing", "error", "sentence"),
    [
        (
            "nobody",
            EncoderNotFound,
            r"no encoder 'nobody' in the encoders, heads and snapshots\. It has: 'short', 'tiny', 'refunds', 'labels'\.",
        ),
        ("refunds@9", HeadNotFound, r"no head 'refunds@9' in store .* It has: 'refunds@live', 'refunds@2', 'refunds@1'\."),
        ("labels@9", SnapshotNotFound, r"no snapshot 'labels@9' in store .* It has: 'labels@2', 'labels@1'\."),
        (
            "tickets",
            InvalidArguments,
            "^impact: 'tickets' is a collection: what stands on it is asked of its encoder, its snapshots or heads.$",
        ),
        (7, InvalidArguments, "impact: nothing stands on int, expected an encoder, a snapshot, a head, or a name."),
    ],
)
def test_what_is_none_of_these_is_said(store: Store, thing: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        impact(store.catalog, thing)


def test_a_notebook_gets_a_table(store: Store) -> None:
    page = impact(store.catalog, "tiny")._repr_html_()
    assert "What stands on encoder tiny@" in page
    assert "deployment</td>" in page
    assert "head refunds@1</td>" in page
    assert "with a vector: 40" in page


def test_copies_that_hold_vectors_or_predictions_are_listed(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(store.root, root)
    copy = raystore.open(root)
    of = {"collection": "tickets", "columns": None, "labels": {}}
    told = {**of, "uri": "/exports/a", "fingerprint": copy.encoders["tiny"].fingerprint, "predictions": {}}
    copy.catalog.set_alias("publication", "tickets-a", told)
    told = {**of, "uri": "/exports/b", "fingerprint": None, "predictions": {"refunds": "refunds@1"}}
    copy.catalog.set_alias("publication", "tickets-b", told)
    copy.catalog.set_alias("publication", "tickets-c", {**told, "uri": "/exports/c", "predictions": {}})
    assert impact(copy.catalog, "tiny")["publication"] == [
        {"noun": "publication", "name": "/exports/a", "on": "collection tickets", "holds": "vectors"},
        {"noun": "publication", "name": "/exports/b", "on": "head refunds@1", "of": "tickets", "holds": "predictions"},
    ]
    assert tree(impact(copy.catalog, "refunds@1"))[-1] == "└─ publication /exports/b"


def test_snapshots_whose_sql_calls_an_encoder_stand_on_it_with_heads_of_any_other(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(store.root, root)
    copy = raystore.open(root)
    tickets = copy.collection("tickets")
    tickets.add_encoder("short", workers=0)
    tickets.log([{"id": f"new-{i}", "text": f"{'card' if i % 2 else 'money'} {i}"} for i in range(40)])
    near = copy.snapshot(
        "near",
        "SELECT id, right(id, 1) IN ('1', '3', '5', '7', '9') AS label FROM tickets WHERE similarity(short, 'card') > -2",
    )
    copy.train_head("close", snapshot=near, encoder="tiny", workers=0)
    fingerprint = copy.encoders["short"].fingerprint
    assert near.encoders == {"short": fingerprint}
    found = impact(copy.catalog, "short")
    assert tree(found)[1:] == ["└─ collection tickets", "   └─ snapshot near@1", "      └─ head close@1"]
    assert found["snapshot"][0]["uses it"] == "in its SQL"
    assert "uses it" not in impact(copy.catalog, "tiny")["snapshot"][0]
    assert copy.lineage("near")["snapshot"]["encoders"] == f"short@{fingerprint[:12]}"
    assert "encoders" not in copy.lineage("labels")["snapshot"]
    (copy.layout.snapshots("labels") / "2" / "spec.json").write_text("{")
    assert impact(copy.catalog, "short").unreadable == ["snapshot labels@2"]


def test_derived_encoders_stand_on_their_base_with_what_stands_on_them(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(store.root, root)
    copy = raystore.open(root)
    base, other = (find_fingerprint(copy.catalog, name) for name in ("tiny", "short"))
    about = copy.layout.encoder(other) / "passport.json"
    told = json.loads(about.read_text())
    told["card"]["derived_from"] = base  # as a derived encoder's folder has it
    about.write_text(json.dumps(told))
    copy.create_collection("brief", encoder="short")
    assert tree(impact(copy.catalog, "tiny"))[-2:] == [
        f"└─ encoder {copy.encoders['short'].label}",
        "   └─ collection brief",
    ]
    assert impact(copy.catalog, "tiny")["encoder"][0]["on"] == f"encoder {copy.encoders['tiny'].label}"


def test_what_cannot_be_read_is_named_and_the_rest_is_found(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(store.root, root)
    copy = raystore.open(root)
    (copy.layout.heads("refunds") / "2" / "head.json").write_text("{")
    index = copy.layout.indexes("tickets", find_fingerprint(copy.catalog, "tiny")) / "1" / "manifest.json"
    index.write_text("{")
    (copy.layout.encoder(find_fingerprint(copy.catalog, "short")) / "passport.json").write_text("{")
    found = impact(copy.catalog, "tiny")
    other = copy.layout.encoder(find_fingerprint(store.catalog, "short")).name
    assert found.unreadable == ["head refunds@2", f"encoder {other}", "index tickets@1"]
    assert str(found).splitlines()[-3:] == [f"could not be read: {what}" for what in found.unreadable]
    assert [fact["name"] for fact in found["head"]] == ["refunds@1"]
    assert f"Could not be read: head refunds@2, encoder {other}, index tickets@1." in found._repr_html_()


def test_a_head_whose_snapshot_is_gone_still_stands_on_its_encoder(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(store.root, root)
    copy = raystore.open(root)
    shutil.rmtree(copy.layout.snapshots("labels"))
    found = impact(copy.catalog, "tiny")
    assert [(fact["name"], fact["on"]) for fact in found["head"]] == [
        ("refunds@1", f"encoder {copy.encoders['tiny'].label}"),
        ("refunds@2", f"encoder {copy.encoders['tiny'].label}"),
    ]
    assert found["snapshot"] == []


def test_a_tree_keeps_its_lines_apart() -> None:
    leaf = Dependent("head", "c@1", {})
    top = Dependent("encoder", "a", {}, [Dependent("snapshot", "b@1", {"rows": 2}, [leaf]), Dependent("head", "d@1", {})])
    assert str(Impact(top)) == "encoder a\n├─ snapshot b@1 (rows: 2)\n│  └─ head c@1\n└─ head d@1"
