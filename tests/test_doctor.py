"""A damaged file becomes a broken line with its sentence, and the rest is examined all the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import raystore
from raystore.doctor import Check, examine
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.store import Store
from tests.cli.conftest import Cli, command_line  # noqa: F401  the fixture `cli`

WORDS = ("card", "money", "blue")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store with one of everything, its model beside it. Copied by each test, never changed."""
    folder = tmp_path_factory.mktemp("doctor")
    model = shutil.copytree(tiny_model, folder / "model")
    store = raystore.open(folder / "store")
    store.encoders.register("tiny", model=str(model))
    tickets = store.create_collection("tickets", encoder="tiny")
    tickets.log([{"id": f"t-{i}", "text": f"the {WORDS[i % 3]} {i}"} for i in range(60)])
    store.register_table("outcomes", [{"item": f"t-{i}", "label": WORDS[i % 3]} for i in range(60)], id="item")
    snapshot = store.snapshot("refunds", "SELECT t.id, o.label FROM tickets t JOIN outcomes o ON o.item = t.id")
    for _ in range(2):
        store.train_head("refunds", snapshot=snapshot, workers=0)
    tickets.build_index(shards=2, workers=0)
    Rooms(store.root).record("triage", DeploymentSpec.model_validate({"head": "refunds@2", "log": "tickets"}))
    return folder


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Store:
    shutil.copytree(whole / "store", tmp_path / "store")
    return raystore.open(tmp_path / "store")


def examined(store: Store) -> dict[str, Check]:
    return {check.what: check for check in examine(store.root, with_ray=False)}


HELD = [
    *("encoder tiny", "collection tickets", "index tickets@1", "table outcomes", "snapshot refunds@1"),
    *("head refunds@1", "head refunds@2", "deployment triage"),
]


def test_a_healthy_store_is_all_ok(store: Store, cli: Cli) -> None:
    found = examined(store)
    assert [check for check in found.values() if not check.ok] == []
    assert [what for what in found if what.split()[0] not in ("store", "raystore") and " " in what] == HELD
    fingerprint = store.encoders["tiny"].label
    assert found["encoder tiny"].found.startswith(f"{fingerprint}: weights hold, worst golden cosine ")
    assert found["collection tickets"].found.startswith("60 rows, version ")
    assert found["index tickets@1"].found == "digests hold; exact, 2 shards, 60 rows"
    assert found["table outcomes"].found == "version 1, 60 rows"
    assert found["snapshot refunds@1"].found == "hash holds; 60 rows of tickets, 3 classes"
    assert found["deployment triage"].found == "answers with head refunds@2, logs to tickets"
    said = cli("--store", store.root, "doctor", "--no-ray")
    assert (said.code, "BROKEN" in said.out, said.err) == (0, False, "")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def _shard(store: Store) -> Path:
    return next(store.layout.indexes("tickets", store.encoders["tiny"].fingerprint).rglob("shard-*1.vectors"))


def _golden(store: Store) -> Path:
    return store.layout.encoder(store.encoders["tiny"].fingerprint) / "golden.safetensors"


def _passport(store: Store) -> Path:
    return store.layout.encoder(store.encoders["tiny"].fingerprint) / "passport.json"


def _shorter_snapshot(store: Store) -> None:
    import pyarrow.parquet as pq

    path = store.layout.snapshots("refunds") / "1" / "rows.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


Damage = tuple[str, Callable[[Store], None], str]  # what breaks, how, and its sentence
HEAD_1: Damage = (
    "head refunds@1",
    lambda s: _flip(s.layout.heads("refunds") / "1" / "head.safetensors"),
    "head.safetensors has SHA-256",
)
NO_REPORT: Damage = (
    "head refunds@2",
    lambda s: (s.layout.heads("refunds") / "2" / "report.json").unlink(),
    "report.json is missing",
)
FEWER_ROWS: Damage = (
    "snapshot refunds@1",
    _shorter_snapshot,
    "the rows of snapshot refunds@1 no longer have the hash they were frozen with",
)
CUT_ROWS: Damage = (
    "snapshot refunds@1",
    lambda s: _cut(s.layout.snapshots("refunds") / "1" / "rows.parquet"),
    "it cannot be read (ArrowInvalid). Restore it from a backup.",
)
NO_SPEC: Damage = (
    "snapshot refunds@1",
    lambda s: (s.layout.snapshots("refunds") / "1" / "spec.json").unlink(),
    "spec.json' is missing. Restore it from a backup.",
)
SHARD: Damage = ("index tickets@1", lambda s: _flip(_shard(s)), "of its block 0 is ")
NO_SHARD: Damage = ("index tickets@1", lambda s: _shard(s).unlink(), "is unusable: it is missing")
MANIFEST: Damage = (
    "index tickets@1",
    lambda s: _cut(_shard(s).parent / "manifest.json"),
    "manifest.json' cannot be read. Build the index again: collection.build_index().",
)
GOLDEN: Damage = ("encoder tiny", lambda s: _flip(_golden(s)), "golden")
NO_GOLDEN: Damage = ("encoder tiny", lambda s: _golden(s).unlink(), "golden")
NO_ROWS: Damage = (
    "collection tickets",
    lambda s: shutil.rmtree(s.layout.rows("tickets") / "data"),
    "Restore it from a backup.",
)
NO_TABLE: Damage = (
    "table outcomes",
    lambda s: shutil.rmtree(s.layout.table("outcomes") / "data"),
    "Restore it from a backup.",
)
RECORD: Damage = (
    "deployment triage",
    lambda s: _cut(s.layout.deployment("triage") / "1.json"),
    "it cannot be read (JSONDecodeError). Restore it from a backup.",
)
ITS_HEAD: Damage = ("deployment triage", lambda s: None, "report.json is missing")  # the deployment's head is @2


@pytest.mark.parametrize(
    "damages",
    [
        [GOLDEN],
        [SHARD, NO_TABLE, FEWER_ROWS, HEAD_1, RECORD],
        [NO_GOLDEN, NO_ROWS, NO_SHARD, CUT_ROWS, NO_REPORT, ITS_HEAD],
        [MANIFEST, NO_SPEC],
    ],
    ids=lambda damages: ", ".join(what for what, _, _ in damages),
)
def test_what_is_damaged_is_broken_and_the_rest_is_examined(store: Store, cli: Cli, damages: list[Damage]) -> None:
    for _, damage, _ in damages:
        damage(store)
    said = cli("--store", store.root, "--json", "doctor", "--no-ray")
    found = {row["what"]: row for row in said.json}
    assert (said.code, said.err) == (1, "")
    assert [what for what, row in found.items() if not row["ok"]] == [what for what, _, _ in damages]
    assert set(HELD) <= set(found)
    for what, _, sentence in damages:
        assert sentence in found[what]["found"]


def test_a_damaged_passport_breaks_all_that_stands_on_it_and_nothing_else(store: Store) -> None:
    _cut(_passport(store))
    found = examined(store)
    assert {what for what, check in found.items() if not check.ok} >= {"encoder tiny", "index tickets@1"}
    assert all(found[what].ok for what in ("collection tickets", "table outcomes", "snapshot refunds@1", "head refunds@1"))


def test_a_removed_model_folder_breaks_the_encoder_alone(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole / "model", tmp_path / "model")
    store = raystore.open(tmp_path / "store")
    store.encoders.register("tiny", model=str(tmp_path / "model"))
    store.create_collection("tickets", encoder="tiny").log([{"id": "a", "text": "a card"}])
    assert all(check.ok for check in examine(store.root, with_ray=False))
    shutil.rmtree(tmp_path / "model")
    found = examined(raystore.open(store.root))
    assert [what for what, check in found.items() if not check.ok] == ["encoder tiny"]
    assert str(tmp_path / "model") in found["encoder tiny"].found


def test_an_encoder_that_no_name_means_any_more_is_examined_too(store: Store, tiny_model: Path) -> None:
    old = store.encoders["tiny"].fingerprint[:12]
    store.encoders.register("tiny", model=str(tiny_model), max_length=8)
    found = examined(store)
    assert found[f"encoder {old}"].ok
    assert found["encoder tiny"].ok
    assert found["collection tickets"].ok


def test_no_store_and_an_unusable_one(tmp_path: Path, cli: Cli) -> None:
    checks = list(examine(tmp_path / "nothing", with_ray=False))
    assert (checks[-1].what, checks[-1].ok) == ("store", True)
    assert checks[-1].found.startswith("none yet at")
    (tmp_path / "letter.txt").write_text("dear")
    said = cli("--store", tmp_path, "doctor", "--no-ray", "--json")
    assert (said.code, said.json[-1]["ok"]) == (1, False)
    assert "a folder that is no store" in said.json[-1]["found"]


@pytest.mark.ray
def test_ray_is_seen(ray_session: object, tmp_path: Path) -> None:
    found = {check.what: check for check in examine(tmp_path / "nothing")}["ray"]
    assert found.ok
    assert "1 nodes, 8 CPUs, " in found.found
