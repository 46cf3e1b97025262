from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.errors import StoreNotFound, StoreUnusable
from raystore.layout import Layout
from raystore.secret import keyed_digest, load_store_key, make_store_key
from tests.data.children import Child


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(open_root(tmp_path / "store", create=True)[0])


# --- records -----------------------------------------------------------------------------------------------------------


def test_the_highest_number_is_the_present_and_the_lower_ones_are_history(catalog: Catalog) -> None:
    assert catalog.alias("encoder", "minilm") is None
    assert catalog.set_alias("encoder", "minilm", {"fingerprint": "a"}) == 1
    assert catalog.set_alias("encoder", "minilm", {"fingerprint": "b"}) == 2
    folder = catalog.layout.aliases("encoder", "minilm")
    number, record = catalog.latest(folder) or (0, {})
    assert (number, record["fingerprint"]) == (2, "b")
    assert (catalog.record(folder, 1) or {})["fingerprint"] == "a"
    assert catalog.record(folder, 3) is None
    assert catalog.alias_names("encoder") == ["minilm"]
    assert record["published_at"].endswith("Z")


def test_the_tenth_record_comes_after_the_ninth(catalog: Catalog) -> None:
    for i in range(1, 12):
        assert catalog.set_alias("head", "refunds", {"n": i}) == i
    assert (catalog.alias("head", "refunds") or {})["n"] == 11


def test_writers_that_race_get_distinct_numbers_and_none_is_lost(catalog: Catalog) -> None:
    folder, got, gate = catalog.layout.aliases("head", "refunds"), [], threading.Barrier(8)

    def work(worker: int) -> None:
        mine = Catalog(catalog.layout)
        gate.wait()
        for i in range(5):
            got.append((mine.put(folder, {"by": [worker, i]}), [worker, i]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(number for number, _ in got) == list(range(1, 41))
    assert all((catalog.record(folder, number) or {})["by"] == by for number, by in got)


# --- the root of a store -----------------------------------------------------------------------------------------------


def unusable(root: object, create: bool = True) -> str:
    with pytest.raises(StoreUnusable) as refused:
        open_root(root, create=create)
    return str(refused.value)


def test_a_new_folder_becomes_a_store_and_stays_one(tmp_path: Path) -> None:
    layout, about = open_root(tmp_path / "deep" / "störe", create=True)
    assert about["format"] == 1
    assert open_root(str(layout.root), create=False) == (layout, about)
    assert len(load_store_key(layout, about["key_id"])) == 32


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    assert open_root(tmp_path, create=True)[0].store_file.is_file()


def test_a_store_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    make_store_key(layout)
    layout.tmp.mkdir()
    with pytest.raises(StoreNotFound):
        open_root(tmp_path, create=False)
    _, about = open_root(tmp_path, create=True)
    assert load_store_key(layout, about["key_id"])


def test_a_store_that_is_not_there_is_not_made_unasked(tmp_path: Path) -> None:
    root = tmp_path / "no store"
    with pytest.raises(StoreNotFound) as missing:
        open_root(root, create=False)
    assert str(missing.value) == (
        f"no store at '{root}': nothing is there. Make one with raystore.open(root) on a folder that is empty or does not exist."
    )
    assert not root.exists()


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    for name in ("thesis.tex", "b", "a", "z"):
        (tmp_path / name).touch()
    assert unusable(tmp_path) == (
        f"cannot open a store at '{tmp_path}': a folder that is no store (no store.json) and holds 'a', 'b', 'thesis.tex'. "
        "Name an empty or new folder, or the store's own root."
    )
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "thesis.tex", "z"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert unusable(path) == f"cannot open a store at '{path}': a file. Name a folder."


@pytest.mark.parametrize("root", ["s3://bucket/store", "gs://b", "az://b/c"])
def test_an_object_store_address_is_refused(root: str) -> None:
    assert unusable(root) == (
        f"cannot open a store at '{root}': an object-store address, and raystore has not been tested on one yet. "
        "Use a local folder, or a file system that all nodes mount."
    )


def test_a_store_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"format": 2, "key_id": "x", "more": true}')
    assert unusable(tmp_path) == (
        f"cannot open a store at '{tmp_path}': a store of format 2, newer than this raystore's 1. Upgrade: pip install -U raystore"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "new", "key_id": "x"}', '{"format": 1}', "\xff", "null"])
def test_a_store_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_bytes(text.encode("latin-1"))
    assert unusable(tmp_path) == (
        f"cannot open a store at '{tmp_path}': a store.json that cannot be read. "
        'It is one line of JSON like {"format": 1, "key_id": "..."}; restore it from a backup.'
    )


def test_two_processes_open_one_new_root_at_once_and_both_write(tmp_path: Path) -> None:
    root = tmp_path / "new"
    children = [Child("log_rows", root, *(f"{name}-{i}" for i in range(5)), "shared") for name in "abc"]
    for child in children:
        assert child.says() == "ready"
    for child in children:
        child.tell()
    keys = {child.says() for child in children}
    assert [child.ends() for child in children] == [0, 0, 0]
    layout, about = open_root(root, create=False)
    assert keys == {about["key_id"]}
    found = CollectionTable.open(layout, "tickets").to_arrow(["id"]).column("id").to_pylist()
    assert sorted(found) == sorted([*(f"{name}-{i}" for name in "abc" for i in range(5)), "shared"])


def test_openers_of_one_new_root_agree_on_the_key(tmp_path: Path) -> None:
    for attempt in range(10):
        root, found, gate = tmp_path / str(attempt), [], threading.Barrier(6)

        def work(root: Path = root, found: list = found, gate: threading.Barrier = gate) -> None:
            gate.wait()
            found.append(open_root(root, create=True)[1]["key_id"])

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 6
        assert len(set(found)) == 1


# --- the store's key ---------------------------------------------------------------------------------------------------


def test_the_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    path = layout.keys / f"{make_store_key(layout)}.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.keys.stat().st_mode) == 0o700


def test_the_key_may_lie_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_KEY_DIR", str(tmp_path / "safe"))
    layout, about = open_root(tmp_path / "store", create=True)
    assert not layout.keys.exists()
    assert os.listdir(tmp_path / "safe") == [f"{about['key_id']}.key"]
    key = load_store_key(layout, about["key_id"])
    monkeypatch.delenv("RAYSTORE_KEY_DIR")
    with pytest.raises(StoreUnusable) as lost:
        load_store_key(layout, about["key_id"])
    assert str(lost.value) == (
        f"cannot open a store at '{layout.root}': no readable store key at '{layout.keys}/{about['key_id']}.key'. "
        "Restore that file from a backup, or set RAYSTORE_KEY_DIR to the folder that holds it."
    )
    assert len(key) == 32


def test_no_two_lists_of_parts_have_one_digest() -> None:
    parts = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"", b"abc"), (b"abc", b""), ()]
    digests = {keyed_digest(b"k", *p) for p in parts} | {keyed_digest(b"l", *p) for p in parts}
    assert len(digests) == 2 * len(parts)


def test_the_store_file_is_one_line_of_json_that_a_person_can_restore(tmp_path: Path) -> None:
    layout, about = open_root(tmp_path / "store", create=True)
    layout.store_file.write_text(json.dumps({"format": 1, "key_id": about["key_id"]}))
    assert open_root(layout.root, create=False)[1] == about
