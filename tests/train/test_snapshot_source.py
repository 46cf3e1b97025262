from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.errors import HeadCorrupt, InvalidArguments, PassportMismatch
from raystore.layout import vector_column
from raystore.train.fit import train_head
from raystore.train.heads import Head
from raystore.train.registry import Heads
from raystore.train.snapshot_source import SnapshotSource
from raystore.train.source import SPLITS, Task
from tests.data.frozen import frozen

from .examples import MAKERS, NAMED

FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
OTHER = "a81e00000000" + "1" * 52
N = 90


@dataclass
class World:
    """A collection of `N` rows with vectors, and a snapshot of them; every third entity has two rows."""

    catalog: Catalog
    table: CollectionTable
    record: SnapshotRecord
    vectors: dict[str, np.ndarray]
    labels: dict[str, Any]

    def source(self, fingerprint: str = FINGERPRINT) -> SnapshotSource:
        root, folder = str(self.catalog.layout.root), str(self.record.folder)
        task = self.record.spec["task"]
        return SnapshotSource(root, "tickets", fingerprint, folder, tuple(NAMED[task]), task)

    def erase(self, *ids: str) -> None:
        listed = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in ids)
        self.table.rows.dataset().delete(f"id IN ({listed})")

    def ids(self, split: str) -> list[str]:
        return [row["id"] for row in self.record.rows().to_pylist() if row["split"] == split]

    def train(self, **changes: Any) -> Head:
        call: dict[str, Any] = {
            "name": "refunds",
            "kind": "knn",
            "classes": NAMED[self.record.spec["task"]],
            "source": self.source(),
            "fingerprint": FINGERPRINT,
            "encoder_label": "minilm@5f3c1a2b9d0e",
            "snapshot": {"name": "refunds", "number": 1, "hash": self.record.hash},
            "task": self.record.spec["task"],
        }
        return train_head(self.catalog.layout, **{**call, **changes})


def world(tmp_path: Path, task: Task = "classes") -> World:
    layout, _ = open_root(tmp_path / "store", create=True)
    made = MAKERS[task](N, seed=3)
    ids = [f"t-{i} 'ä'" for i in range(N)]
    table = CollectionTable.create(layout, "tickets", {FINGERPRINT: 16, OTHER: 16})
    rows = {
        "id": pa.array(ids),
        "_payload": pa.array([b"x" * 32] * N, pa.binary(32)),
        vector_column(FINGERPRINT): vector_array(made.vectors),
    }
    table.rows.commit([pa.table(rows)], refuse_differing=True)
    named = NAMED[task]
    labels: list[Any] = made.labels.tolist()
    if task == "classes":
        labels = [named[i] for i in made.labels]
    elif task == "labels":
        labels = [[named[j] for j in np.flatnonzero(row)] for row in made.labels]
    split = ["train"] * 60 + ["val"] * 15 + ["test"] * 15
    given = [
        {"id": id_, "label": label, "split": s, "entity": f"e-{i // 2 if i % 6 < 2 else i + N}", "weight": 1.0 + i % 2}
        for i, (id_, label, s) in enumerate(zip(ids, labels, split, strict=True))
    ]
    record = frozen(layout.snapshots(), given, task=task)
    return World(
        Catalog(layout), table, record, dict(zip(ids, made.vectors, strict=True)), dict(zip(ids, made.labels, strict=True))
    )


@pytest.mark.parametrize("task", ["classes", "labels", "number"])
def test_rows_come_with_their_labels_vectors_and_weights_in_the_order_of_their_ids(tmp_path: Path, task: Task) -> None:
    here = world(tmp_path, task)
    source = here.source()
    for split in SPLITS:
        ids, found = source.ids(split), source.load(split, 0, 1)
        assert ids == here.ids(split)
        np.testing.assert_array_equal(found.vectors, np.stack([here.vectors[i] for i in ids]))
        np.testing.assert_array_equal(found.labels, np.stack([here.labels[i] for i in ids]))
        np.testing.assert_array_equal(found.labels, source.labels(split))
        assert found.weights.tolist() == [1.0 + int(i.split()[0][2:]) % 2 for i in ids]
    assert source.erased == 0


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_slices_together_are_every_row_that_is_left_once(tmp_path: Path, world_size: int) -> None:
    here = world(tmp_path)
    gone = [*here.ids("train")[3:9], here.ids("test")[0]]
    here.erase(*gone)
    source = here.source()
    assert source.erased == 7
    assert (len(source.labels("train")), len(source.ids("test")), len(source.entities("val"))) == (54, 14, 15)
    assert not set(gone) & set(source.ids("train"))
    parts = [source.load("train", rank, world_size) for rank in range(world_size)]
    together = np.concatenate([part.vectors for part in parts])
    left = np.stack([here.vectors[i] for i in source.ids("train")])
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(left, axis=0))


def test_entities_have_equal_codes_where_they_are_equal_in_all_splits(tmp_path: Path) -> None:
    here = world(tmp_path)
    entity = {row["id"]: row["entity"] for row in here.record.rows().to_pylist()}
    codes = {i: c for s in SPLITS for i, c in zip(here.source().ids(s), here.source().entities(s).tolist(), strict=True)}
    assert len(set(codes.values())) == len(set(entity.values())) < N
    assert len({(codes[i], entity[i]) for i in codes}) == len(set(entity.values()))


def test_it_travels_without_the_rows_it_has_read(tmp_path: Path) -> None:
    source = world(tmp_path).source()
    before = len(pickle.dumps(source))
    source.labels("train")
    assert len(pickle.dumps(source)) == before
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_stranger_encoder_and_rows_that_lack_a_vector_are_refused(tmp_path: Path) -> None:
    here = world(tmp_path)
    with pytest.raises(PassportMismatch, match="collection 'tickets' expects 5f3c1a2b9d0e"):
        here.source("ff" * 32).load("train", 0, 1)
    here.erase(here.ids("train")[0])
    with pytest.raises(InvalidArguments) as refused:
        here.train(kind="linear", source=here.source(OTHER))
    name = f"{here.record.folder.parent.name}@{here.record.folder.name}"
    assert str(refused.value) == (
        f"snapshot '{name}': 89 of 90 rows of the snapshot have no vector of a81e00000000; "
        "collection.add_encoder('a81e00000000') fills them."
    )


def test_a_head_learns_from_the_rest_and_says_how_many_are_gone(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.erase(*here.ids("train")[:5])
    head = here.train(kind="linear")
    assert head.record.settings["erased"] == 5
    assert head.report.n == {"train": 55, "val": 15, "test": 15}


@pytest.mark.parametrize("task", ["classes", "labels", "number"])
def test_a_knn_head_keeps_no_vector_and_reads_its_rows_when_it_is_first_used(tmp_path: Path, task: Task) -> None:
    here = world(tmp_path, task)
    made = here.train()
    folder = here.catalog.layout.heads("refunds") / "1"
    assert (folder / "head.safetensors").stat().st_size < 100
    asked = MAKERS[task](20, seed=8).vectors
    read = Heads(here.catalog).get("refunds").predict(asked)
    for a, b in zip(made.predict(asked), read, strict=True):
        np.testing.assert_array_equal(np.array(a, dtype=object), np.array(b, dtype=object))


def test_an_erased_row_leaves_a_knn_head(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.train(options={"k": 1})
    id_ = here.ids("train")[0]
    before = Heads(here.catalog).get("refunds").scores(here.vectors[id_][None])
    here.erase(id_)
    after = Heads(here.catalog).get("refunds").scores(here.vectors[id_][None])
    assert not np.array_equal(before, after) or here.labels[id_] in after.argmax(axis=1)
    near = Heads(here.catalog).get("refunds")._neighbours
    assert here.vectors[id_].tolist() not in near.examples.vectors.tolist()


def test_a_knn_head_whose_rows_are_all_gone_says_so(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.train()
    here.erase(*here.ids("train"))
    with pytest.raises(HeadCorrupt) as refused:
        Heads(here.catalog).get("refunds").predict(np.ones((1, 16), np.float32))
    assert str(refused.value) == (
        "head 'refunds@1' is unusable: its 60 training rows were erased from the collection, and a kNN head is its rows. "
        "It was not loaded. Train it again, on a snapshot of the rows there are now."
    )


def test_where_too_little_is_left_to_learn_from_it_is_said_that_rows_were_erased(tmp_path: Path) -> None:
    here = world(tmp_path)
    train = here.ids("train")
    here.erase(*(i for i in train if here.labels[i] != here.labels[train[0]]))
    left = len(here.source().ids("train"))
    with pytest.raises(InvalidArguments) as refused:
        here.train(kind="linear")
    assert str(refused.value) == (
        "train_head: the train split holds one class only, so there is nothing to tell apart "
        f"({60 - left} rows of the snapshot were erased since)."
    )
    here.erase(*train)
    with pytest.raises(InvalidArguments) as refused:
        here.train(kind="linear")
    assert str(refused.value) == "train_head: the train split has no rows (60 rows of the snapshot were erased since)."
