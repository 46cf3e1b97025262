"""Several encoders in one collection, through the store: real models, on this process and on Ray; what is named and what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import raystore
from raystore.collection import Collection
from raystore.encoders.bridged import publish_bridge
from raystore.encoders.items import Item
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.records import KIND
from raystore.encoders.together import load_together, open_together
from raystore.encoders.vector_map import VectorMap
from raystore.errors import InvalidArguments, PassportMismatch
from raystore.layout import vector_column
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.read import parse_spec
from raystore.store import Store
from tests.data.test_dual import parquet, some


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store that knows three encoders of texts and holds nothing else."""
    store = raystore.open(tmp_path_factory.mktemp("dual") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    store.encoders.register("mini", model=str(tiny_model), max_length=4)
    return store.root


@pytest.fixture
def store(tmp_path: Path, registered: Path) -> Store:
    return raystore.open(shutil.copytree(registered, tmp_path / "store"))


@pytest.fixture
def both(store: Store) -> Collection:
    return store.create_collection("both", encoder=["tiny", "short"])


def held(collection: Collection, name: str) -> list[list[float] | None]:
    column = vector_column(collection._store.encoder(name).fingerprint)
    return collection.to_arrow([column]).column(0).to_pylist()


def test_embed_writes_vectors_of_every_encoder_and_says_so(both: Collection, store: Store, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(12))
    report = both.embed(path, text="text", id="id", workers=0)
    prints = tuple(store.encoder(name).fingerprint for name in ("tiny", "short"))
    assert (report.added, report.fingerprint, report.fingerprints) == (12, prints[0], prints)
    assert str(report).startswith("both: 12 rows embedded with 2 encoders, 0 known already; ")
    for name in ("tiny", "short"):
        np.testing.assert_allclose(held(both, name), store.encoder(name).encode(some(12)), atol=1e-5)
    (job,) = both.jobs()
    assert job["encoder"] == ", ".join(store.encoder(name).label for name in ("tiny", "short"))
    assert (job["fingerprint"], job["fingerprints"]) == (prints[0], list(prints))
    assert sum(job["encoded_by"].values()) == 12


def test_encoders_are_named_alone_or_together(both: Collection, store: Store, tmp_path: Path) -> None:
    both.add_encoder("mini", workers=0)
    one, two = (parquet(tmp_path / f"{name}.parquet", some(4)) for name in ("one", "two"))
    both.embed(one, text="text", id="id", id_prefix="one/", encoder="short", workers=0)
    both.embed(two, text="text", id="id", id_prefix="two/", encoder=["mini", "tiny", "mini"], workers=0)
    counted = {name: sum(v is not None for v in held(both, name)) for name in ("tiny", "short", "mini")}
    assert counted == {"tiny": 4, "short": 4, "mini": 4}
    assert both.embed(one, text="text", id="id", id_prefix="one/", workers=0).filled == 4
    with pytest.raises(InvalidArguments) as refused:
        both.embed(one, text="text", id="id", encoder=[], workers=0)
    assert str(refused.value) == "embed into 'both': encoder= names none: leave it out for all."
    store.create_collection("other", encoder="tiny")
    with pytest.raises(PassportMismatch):
        store.collection("other").embed(one, text="text", id="id", encoder=["tiny", "short"], workers=0)


def test_encoders_that_do_not_take_the_content_are_left_out_and_refused_where_they_are_named(
    store: Store, tiny_vit: Path, tmp_path: Path
) -> None:
    photos = store.encoders.register("photos", model=str(tiny_vit))
    mixed = store.create_collection("mixed", encoder=["photos", "tiny"])
    path = parquet(tmp_path / "t.parquet", some(3))
    report = mixed.embed(path, text="text", id="id", workers=0)
    assert report.fingerprints == (store.encoder("tiny").fingerprint,)
    assert held(mixed, "photos") == [None] * 3
    problem = f"encoder {photos.label} takes no texts (text=): name a column with image="
    with pytest.raises(InvalidArguments) as refused:
        mixed.embed(path, text="text", id="id", encoder=["tiny", "photos"], workers=0)
    assert str(refused.value) == f"embed into 'mixed': {problem}."
    with pytest.raises(InvalidArguments) as refused:
        store.create_collection("pictures", encoder="photos").embed(path, text="text", id="id", workers=0)
    assert str(refused.value) == f"embed into 'pictures': {problem}."


def test_a_dry_run_measures_what_the_job_would_do(both: Collection, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(20))
    dim = both.encoder("tiny").dim
    assert both.embed(path, text="text", id="id", dry_run=True).vector_bytes == 20 * 2 * dim * 4
    assert both.embed(path, text="text", id="id", encoder="tiny", dry_run=True).vector_bytes == 20 * dim * 4
    assert len(both) == 0


def test_a_job_record_from_before_there_were_several_is_read(both: Collection, tmp_path: Path) -> None:
    both.embed(parquet(tmp_path / "t.parquet", some(2)), text="text", id="id", workers=0)
    file = both._store.layout.jobs("both") / "1.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "fingerprints"}))
    assert both.jobs()[0]["fingerprints"] == []


def test_a_collection_for_no_encoder_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArguments) as refused:
        store.create_collection("none", encoder=[])
    assert str(refused.value) == "create_collection('none'): encoder= names none."


def forward_bridge(store: Store) -> str:
    """A bridge from tiny to short by a map that turns nothing, under the name 'bridged'."""
    tiny, short = store.encoder("tiny"), store.encoder("short")
    turn = VectorMap("procrustes", np.eye(tiny.dim, dtype=np.float32), np.zeros(tiny.dim, np.float32))
    facts = {"pairs": 0, "seed": 0, "fidelity": {}}
    passport = publish_bridge(store.layout, tiny.passport, short.passport, turn, "forward", facts, short.card)
    store.catalog.set_alias(KIND, "bridged", {"fingerprint": passport.fingerprint, "source": {}})
    return passport.fingerprint


def test_a_forward_bridge_and_its_encoder_are_loaded_and_run_once(
    both: Collection, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridged = forward_bridge(store)
    both._table.add_encoder(bridged, both.encoder().dim)
    encode, given = LoadedEncoder._encode, []

    def counted(self: LoadedEncoder, items: Sequence[Item]) -> object:
        given.append((self.label, len(items)))
        return encode(self, items)

    loaded = load_together(both.encoders)
    assert loaded[bridged] is loaded[store.encoder("short").fingerprint]
    assert open_together(store.layout, both._table.fingerprints).keys() == loaded.keys()
    monkeypatch.setattr(LoadedEncoder, "_encode", counted)
    both.embed(parquet(tmp_path / "t.parquet", some(12)), text="text", id="id", workers=0)
    both.log([{"id": "logged", "text": "hello world"}])
    items = [n for _, n in given if n in (12, 1)]
    assert items == [12, 12, 1, 1]  # by tiny and by short; the rest are golden inputs
    assert held(both, "bridged") == held(both, "short")
    running = Rooms(store.root).orchestrator(parse_spec({}, "test"), threads=1)
    running.collections.log("both", [{"id": "served", "text": "hello world"}], request_id="r")
    assert None not in held(both, "bridged")
    running.close()


def test_a_bridge_alone_encodes_with_the_encoder_that_it_leads_to(store: Store, tmp_path: Path) -> None:
    bridged = forward_bridge(store)
    alone = store.create_collection("alone", encoder=["tiny", bridged])
    alone.embed(parquet(tmp_path / "t.parquet", some(5)), text="text", id="id", workers=0)
    np.testing.assert_allclose(held(alone, "bridged"), store.encoder("short").encode(some(5)), atol=1e-5)


@pytest.mark.ray
def test_ray_workers_write_what_this_process_does(
    both: Collection, store: Store, tmp_path: Path, ray_session: object
) -> None:
    half, path = parquet(tmp_path / "h.parquet", some(10)), parquet(tmp_path / "t.parquet", some(30))
    both.embed(half, text="text", id="id", encoder="tiny", workers=0)
    report = both.embed(path, text="text", id="id", workers=2)
    assert (report.added, report.filled, report.known, report.workers > 0) == (20, 10, 0, True)
    rows = dict(zip(both.to_arrow(["id"]).column("id").to_pylist(), range(30), strict=True))
    order = [rows[f"r{i}"] for i in range(30)]
    for name in ("tiny", "short"):
        found = held(both, name)
        np.testing.assert_allclose([found[i] for i in order], store.encoder(name).encode(some(30)), atol=1e-4)
