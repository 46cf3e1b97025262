from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from raystore.access import Principal, Verb
from raystore.data.collection import CollectionTable
from raystore.data.snapshots.export import export
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.data.snapshots.to_ray import to_ray
from raystore.errors import AlreadyExists, InvalidArguments, NotAllowed, PassportMismatch
from raystore.layout import Layout
from tests.data.frozen import frozen
from tests.data.toy import OtherEncoder, ToyEncoder, make_log

FINGERPRINT = ToyEncoder.fingerprint
SIDES = ["train", "train", "val", "test", "train", "test"]
LABELS = ["refund", "none", "none", "refund", "wäre", "none"]
ROWS: list[dict[str, Any]] = [
    {"id": f"t'{i}", "label": label, "split": side, "entity": f"c-{i}", "weight": 1.0 + i, "price": float(i)}
    for i, (label, side) in enumerate(zip(LABELS, SIDES, strict=True))
]


@pytest.fixture
def filled(tickets: CollectionTable) -> CollectionTable:
    make_log(tickets).log([{"id": row["id"], "text": "e" * (i + 1)} for i, row in enumerate(ROWS)])
    return tickets


@pytest.fixture
def snapshot(tmp_path: Path) -> SnapshotRecord:
    return frozen(tmp_path / "snapshots", ROWS)


def erase(table: CollectionTable, id_: str) -> None:
    table.rows.dataset().delete(f"id = '{id_.replace(chr(39), chr(39) * 2)}'")


def test_parquet_has_one_file_a_side_and_the_spec(
    filled: CollectionTable, snapshot: SnapshotRecord, tmp_path: Path
) -> None:
    target = export(snapshot, filled, tmp_path / "out" / "it's ä")
    assert sorted(p.name for p in target.iterdir()) == ["spec.json", "test.parquet", "train.parquet", "val.parquet"]
    for side in ("train", "val", "test"):
        found = pq.read_table(target / f"{side}.parquet").to_pylist()
        assert found == [row for row in snapshot.rows().to_pylist() if row["split"] == side]
    spec = json.loads((target / "spec.json").read_text("utf-8"))
    assert spec["hash"] == snapshot.hash
    assert spec["exported"] == {
        "snapshot": "refunds@1",
        "rows": {"train": 3, "val": 1, "test": 2},
        "left_out": {"erased": 0, "without a vector": 0},
        "encoder": None,
    }
    assert sorted(p.name for p in target.parent.iterdir()) == [target.name]


def test_erased_rows_and_rows_without_a_vector_are_left_out_and_counted(
    filled: CollectionTable, snapshot: SnapshotRecord, tmp_path: Path
) -> None:
    erase(filled, "t'0")
    filled.rows.dataset().update({f"vec_{FINGERPRINT[:12]}": "NULL"}, where="id = 't''1'")
    target = export(snapshot, filled, tmp_path / "out", fingerprint=FINGERPRINT)
    exported = json.loads((target / "spec.json").read_text("utf-8"))["exported"]
    assert (exported["rows"], exported["left_out"]) == (
        {"train": 1, "val": 1, "test": 2},
        {"erased": 1, "without a vector": 1},
    )
    assert exported["encoder"] == FINGERPRINT
    rows = duckdb.sql(f"SELECT id, vector FROM '{target}/test.parquet' ORDER BY id").fetchall()
    assert [id_ for id_, _ in rows] == ["t'3", "t'5"]
    np.testing.assert_array_equal(
        np.array([v for _, v in rows], np.float32), filled.vectors_of(["t'3", "t'5"], FINGERPRINT)
    )
    assert str(pq.read_schema(target / "test.parquet").field("vector").type) == "list<element: float>"


@pytest.mark.parametrize("with_vectors", [False, True])
def test_hugging_face_loads_the_folder(
    filled: CollectionTable, snapshot: SnapshotRecord, tmp_path: Path, with_vectors: bool
) -> None:
    import datasets

    folder = export(
        snapshot, filled, tmp_path / "hf", format="huggingface", fingerprint=FINGERPRINT if with_vectors else None
    )
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 3, "validation": 1, "test": 2}
    label = loaded["train"].features["label"]
    assert label.names == ["none", "refund", "wäre"]
    for name, side in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = [row for row in snapshot.rows().to_pylist() if row["split"] == side]
        found = loaded[name].to_list()
        assert [label.int2str(row["label"]) for row in found] == [row["label"] for row in expected]
        for column in ("id", "entity", "weight", "price"):
            assert [row[column] for row in found] == [row[column] for row in expected]
        if with_vectors:
            vectors = filled.vectors_of([row["id"] for row in expected], FINGERPRINT)
            np.testing.assert_array_equal(np.array([row["vector"] for row in found], np.float32), vectors)


@pytest.mark.parametrize(
    ("task", "labels"), [("labels", [["a", "b"], [], ["b"], ["a"], ["c"], ["b"]]), ("number", [1.5, 2, 3, 4, 5, 6])]
)
def test_hugging_face_loads_several_labels_and_numbers(
    filled: CollectionTable, tmp_path: Path, task: str, labels: list[Any]
) -> None:
    import datasets

    rows = [{**row, "label": label} for row, label in zip(ROWS, labels, strict=True)]
    folder = export(frozen(tmp_path / "s", rows, task=task), filled, tmp_path / "hf", format="huggingface")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    expected = [row["label"] for row in rows if row["split"] == "train"]
    if task == "labels":
        names = loaded.features["label"].feature.names
        assert [[names[code] for code in row] for row in loaded["label"]] == expected
    else:
        assert list(loaded["label"]) == expected


def test_the_card_says_what_the_snapshot_is(filled: CollectionTable, snapshot: SnapshotRecord, tmp_path: Path) -> None:
    folder = export(snapshot, filled, tmp_path / "hf", format="huggingface")
    card = (folder / "README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["pretty_name"] == "refunds@1"
    assert [f["split"] for f in head["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert f"| content hash | {snapshot.hash} |" in card
    assert "| versions | tickets 3 |" in card
    assert "| rows | 3 train, 1 validation, 2 test |" in card
    assert "```sql\nSELECT id, label FROM tickets WHERE label <> '`'\n```" in card
    assert "| wäre | 1 |" in card


def test_a_side_without_rows_has_no_file(filled: CollectionTable, tmp_path: Path) -> None:
    import datasets

    snapshot = frozen(tmp_path / "s", [{**row, "split": "train"} for row in ROWS])
    folder = export(snapshot, filled, tmp_path / "hf", format="huggingface")
    assert [p.name for p in (folder / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert list(datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))) == ["train"]


def test_vectors_are_for_whoever_may_read_them(filled: CollectionTable, snapshot: SnapshotRecord, tmp_path: Path) -> None:
    service = Principal("service", frozenset(Verb) - {Verb.VECTORS})
    for call in (
        lambda: export(snapshot, filled, tmp_path / "out", fingerprint=FINGERPRINT, principal=service),
        lambda: to_ray(snapshot, filled, fingerprint=FINGERPRINT, principal=service),
    ):
        with pytest.raises(NotAllowed) as refused:
            call()
        assert (refused.value.principal, refused.value.verb) == ("service", "vectors")
    assert not (tmp_path / "out").exists()
    assert export(snapshot, filled, tmp_path / "out", principal=service).is_dir()


def test_a_target_that_holds_something_is_left_alone(
    filled: CollectionTable, snapshot: SnapshotRecord, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    export(snapshot, filled, target)  # empty: it is used
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    with pytest.raises(AlreadyExists) as refused:
        export(snapshot, filled, target)
    assert str(refused.value) == f"folder '{target}' exists already. Name a new or an empty folder."
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before


def test_an_export_that_fails_leaves_nothing(filled: CollectionTable, tmp_path: Path) -> None:
    snapshot = frozen(tmp_path / "s", [{**row, "place": {"x": 1.0}} for row in ROWS])
    with pytest.raises(InvalidArguments) as refused:
        export(snapshot, filled, tmp_path / "out" / "hf", format="huggingface")
    assert str(refused.value) == (
        "export of refunds@1: its column 'place' is struct<x: double>, which a Hugging Face folder cannot hold; CAST it in the SQL."
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_said(
    filled: CollectionTable, snapshot: SnapshotRecord, layout: Layout, tmp_path: Path
) -> None:
    photos = CollectionTable.create(layout, "photos", {FINGERPRINT: 3})
    with pytest.raises(InvalidArguments) as refused:
        export(snapshot, photos, tmp_path / "out")
    assert str(refused.value) == (
        "export of refunds@1: it is a snapshot of collection 'tickets', the collection given is 'photos'."
    )
    with pytest.raises(InvalidArguments, match="format is 'csv', expected parquet or huggingface"):
        export(snapshot, filled, tmp_path / "out", format="csv")  # type: ignore[arg-type]
    with pytest.raises(PassportMismatch):
        export(snapshot, filled, tmp_path / "out", fingerprint=OtherEncoder.fingerprint)
    named = frozen(tmp_path / "s", [{**row, "vector": 1.0} for row in ROWS])
    with pytest.raises(InvalidArguments, match="it has a column 'vector', which is what the vectors are called"):
        export(named, filled, tmp_path / "out", fingerprint=FINGERPRINT)
    with pytest.raises(InvalidArguments, match="side is 'dev', expected train, val, test or None for all"):
        to_ray(snapshot, filled, side="dev")


@pytest.mark.ray
def test_a_ray_dataset_holds_the_rows_that_are_left_and_their_vectors(
    filled: CollectionTable, snapshot: SnapshotRecord, ray_session: object
) -> None:
    erase(filled, "t'0")
    rows = to_ray(snapshot, filled, side="train", fingerprint=FINGERPRINT)
    found = {row["id"]: row for row in rows.take_all()}
    assert sorted(found) == ["t'1", "t'4"]
    vectors = filled.vectors_of(["t'1", "t'4"], FINGERPRINT)
    np.testing.assert_array_equal(np.stack([found[i]["vector"] for i in sorted(found)]), vectors)
    batch = next(iter(rows.iter_batches(batch_format="numpy")))
    assert (batch["vector"].shape, batch["vector"].dtype) == ((2, 3), np.float32)
    assert sorted(row["id"] for row in to_ray(snapshot, filled).take_all()) == [f"t'{i}" for i in range(1, 6)]
