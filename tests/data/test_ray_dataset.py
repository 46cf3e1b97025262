"""Rows of a caller's own Ray Dataset: only where content is kept, and then like those of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raystore
from raystore.collection import Collection
from raystore.errors import InvalidArguments

pytestmark = pytest.mark.ray
CANARY = "canary-8c1f"


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> raystore.Store:
    store = raystore.open(tmp_path / "a store")
    store.encoders.register("tiny", model=str(tiny_model))
    return store


@pytest.fixture
def kept(store: raystore.Store) -> Collection:
    return store.create_collection("kept", encoder="tiny", keep_source=True)


@pytest.fixture
def rows(ray_session: Any) -> Any:
    import ray.data

    return ray.data.from_items([{"key": n, "body": f"card {n}" if n % 50 else "", "n": n * n} for n in range(300)])


@pytest.mark.parametrize("pool", [{"workers": 0}, {"workers": 1}, {"gpu_workers": 1}], ids=str)
def test_a_dataset_is_embedded_and_its_content_kept(kept: Collection, rows: Any, pool: dict[str, int]) -> None:
    report = kept.embed(rows, text="body", id="key", keep=["n"], **pool)
    assert (report.read, report.added, report.files, report.reasons) == (300, 294, 0, {"the text is empty": 6})
    assert kept.get(["7"])[0]["n"] == 49
    assert kept.source(["7", "299"]) == ["card 7", "card 299"]
    assert kept.set_aside().column("source").to_pylist() == ["a Ray Dataset"] * 6
    again = kept.embed(rows, text="body", id="key", keep=["n"], **pool)
    assert (again.added, again.known) == (0, 294)


def test_a_collection_that_keeps_no_content_refuses_a_dataset_with_the_reason(store: raystore.Store, rows: Any) -> None:
    plain = store.create_collection("plain", encoder="tiny")
    for trial in (False, True):
        with pytest.raises(InvalidArguments) as refused:
            plain.embed(rows, text="body", id="key", dry_run=trial)
        assert str(refused.value) == (
            "embed into 'plain': the blocks of a Ray Dataset, and so the content, lie in Ray's object store, and this "
            "collection keeps no content: embed the files it was read from, or make a collection with keep_source=True."
        )
    assert (len(plain), plain.jobs()) == (0, [])


def test_a_dataset_needs_a_column_of_ids_and_one_way_through(kept: Collection, rows: Any) -> None:
    with pytest.raises(InvalidArguments, match="name the column of ids with id="):
        kept.embed(rows, text="body")
    with pytest.raises(InvalidArguments, match="'a Ray Dataset' has no column 'text' \\(text=\\); it has: key, body, n"):
        kept.embed(rows, text="text", id="key")
    with pytest.raises(InvalidArguments, match="give workers= or gpu_workers=, not both"):
        kept.embed(rows, text="body", id="key", workers=1, gpu_workers=1)
    assert len(kept) == 0


def test_a_dataset_is_tried_without_writing(kept: Collection, rows: Any) -> None:
    version = kept.version
    found = kept.embed(rows, text="body", id="key", dry_run=True)
    assert (found.rows, found.known) == (300, 0)
    assert 16 < found.sampled <= 256
    assert (kept.version, kept.jobs()) == (version, [])


def test_the_choice_is_made_once(store: raystore.Store, kept: Collection) -> None:
    assert store.create_collection("kept", encoder="tiny", keep_source=True, exist_ok=True).keeps_source
    store.create_collection("plain", encoder="tiny")
    with pytest.raises(InvalidArguments) as refused:
        store.create_collection("plain", encoder="tiny", keep_source=True, exist_ok=True)
    assert str(refused.value) == (
        "create_collection('plain'): collection 'plain' is there and keeps no content; that is chosen when a collection is made."
    )
