from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import raystore.data.publish.publish as publishing
from raystore.access import Principal, Verb
from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.publish.parts import Predictions
from raystore.data.publish.publish import Published, publications, publish, republish_all
from raystore.data.tables.table import SourceTable, register_table
from raystore.errors import (
    AlreadyExists,
    ExtraNotInstalled,
    InvalidArguments,
    NotAllowed,
    PassportMismatch,
    RaystoreError,
    WriterBlocked,
)
from raystore.layout import Layout
from tests.data.toy import OtherEncoder, ToyEncoder, make_log, make_store, make_tickets, some_rows

COLUMNS = {"product": "string", "price": "float64", "n": "int64", "paid": "bool", "due": "date"}


def log(table: CollectionTable, *ids: str) -> None:
    make_log(table).log([{"id": i, "subject": f"c-{i}", "text": "e" * len(i), "product": f"p-{i}"} for i in ids])


def erase(table: CollectionTable, *ids: str) -> None:
    table.rows.dataset().delete(f"id IN ({', '.join(repr(i) for i in ids)})")


def outcomes(catalog: Catalog, **by_id: str) -> SourceTable:
    return register_table(catalog, "outcomes", [{"ticket": i, "outcome": o} for i, o in by_id.items()], id="ticket")


def lengths(head: str = "lengths@1") -> Predictions:
    """A head that predicts the length of an id; of ids with an "x" it says nothing."""

    def of(ids: Sequence[str]) -> pa.Table:
        known = [i for i in ids if "x" not in i]
        return pa.table(
            {"id": pa.array(known, pa.string()), "label": pa.array([f"{head}:{len(i)}" for i in known], pa.string())}
        )

    return Predictions(head, ToyEncoder.fingerprint, of)


def ids_in(folder: Path, what: str = "rows", column: str = "id") -> list[str]:
    """As a warehouse reads: by a glob, and each id as often as it stands there."""
    rows = duckdb.sql(
        f"SELECT {column} FROM read_parquet('{str(folder).replace(chr(39), chr(39) * 2)}/{what}/*.parquet')"
    ).fetchall()
    return sorted(i for (i,) in rows)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "Bernds 'lake' ü"


def test_a_copy_holds_the_rows_in_types_that_warehouses_read(tickets: CollectionTable, folder: Path) -> None:
    made = datetime(2026, 11, 20, 12, tzinfo=UTC)
    make_log(tickets).log(
        [
            {"id": "a", "subject": "c", "time": made, "text": "e"}
            | {"product": "card", "price": 1.5, "n": 2, "paid": True, "due": made.date()}
        ]
    )
    log(tickets, "b")
    done = publish(tickets, str(folder))
    assert (done.added, done.gone, done.manifest, done.rows) == (2, 0, 1, {"rows": 2})
    read = pads.dataset(str(folder / "rows")).to_table().sort_by("id")
    assert read.to_pylist() == tickets.to_arrow().sort_by("id").to_pylist()
    assert {f.name: str(f.type) for f in read.schema} == {
        "id": "string", "subject": "string", "tenant": "string", "time": "timestamp[us, tz=UTC]", "product": "string",
        "price": "double", "n": "int64", "paid": "bool", "due": "date32[day]",
    }  # fmt: skip
    assert ids_in(folder) == ["a", "b"]
    assert sorted(p.name for p in folder.iterdir()) == ["_manifests", "rows"]


def test_the_manifest_lists_the_files_and_what_they_hold(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a", "b")
    publish(tickets, str(folder))
    told = json.loads((folder / "_manifests" / "1.json").read_text("utf-8"))
    (file,) = told["folders"]["rows"]["files"]
    whole = (folder / file["path"]).read_bytes()
    assert (file["bytes"], file["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert (file["ids"], file["rows"], file["first"], file["last"]) == (2, 2, 0, tickets.version)
    assert (told["version"], told["source"]["collection"]) == (tickets.version, "tickets")


def test_new_rows_come_as_a_new_file_and_old_files_stay(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a", "b")
    publish(tickets, str(folder))
    before = files_of(folder / "rows")
    log(tickets, "c")
    done = publish(tickets, str(folder))
    assert (done.added, len(done.written), done.removed, done.manifest) == (1, 1, [], 2)
    after = files_of(folder / "rows")
    assert before.items() <= after.items()
    assert ids_in(folder) == ["a", "b", "c"]


def test_a_call_without_news_changes_nothing(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a")
    publish(tickets, str(folder))
    before = files_of(folder)
    done = publish(tickets, str(folder))
    assert files_of(folder) == before
    assert (done.manifest, done.written, done.removed) == (1, [], [])
    assert "0 rows came, 0 left, 0 files written, 0 removed" in str(done)


def test_erased_rows_leave_in_the_same_call_and_their_bytes_with_them(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a", "b-secret")
    publish(tickets, str(folder))
    log(tickets, "c")
    publish(tickets, str(folder))
    erase(tickets, "b-secret")
    done = publish(tickets, str(folder))
    assert (done.gone, len(done.written), done.removed) == (1, 1, [])
    assert ids_in(folder) == ["a", "c"]
    assert not any(b"b-secret" in content for content in files_of(folder).values())


def test_an_erased_row_that_comes_again_stands_once(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a", "b")
    publish(tickets, str(folder))
    erase(tickets, "a")
    log(tickets, "a")
    done = publish(tickets, str(folder))
    assert (done.gone, done.added) == (1, 1)
    assert ids_in(folder) == ["a", "b"]


def test_small_files_are_merged(tickets: CollectionTable, folder: Path) -> None:
    for n in range(20):
        log(tickets, f"t-{n:02}")
        publish(tickets, str(folder))
    assert len(list((folder / "rows").iterdir())) < 10
    assert ids_in(folder) == [f"t-{n:02}" for n in range(20)]
    assert len(list((folder / "_manifests").iterdir())) == 20


def test_a_large_collection_comes_in_several_files(
    tickets: CollectionTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "FILE_ROWS", 4)
    for n in range(6):
        log(tickets, *(f"t-{n}{i}" for i in range(2)))
    done = publish(tickets, str(folder))
    assert len(done.written) == 3
    assert len(ids_in(folder)) == 12


def test_columns_may_be_chosen_and_added_later(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a")
    publish(tickets, str(folder), columns=["product"])
    assert pq.read_schema(next((folder / "rows").iterdir())).names == ["id", "product"]
    publish(tickets, str(folder))
    make_log(tickets).log([{"id": "b", "text": "e", "shop": "ü"}], add_columns=True)
    done = publish(tickets, str(folder))
    assert len(done.written) == 2
    for file in (folder / "rows").iterdir():
        assert pq.read_schema(file).names == [*tickets.visible]
    assert {r["id"]: r["shop"] for r in pads.dataset(str(folder / "rows")).to_table().to_pylist()} == {"a": None, "b": "ü"}


def test_vectors_are_lists_of_floats_for_whoever_may_read_them(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a", "bb")
    service = Principal("service", frozenset(Verb) - {Verb.VECTORS})
    with pytest.raises(NotAllowed):
        publish(tickets, str(folder), vectors=True, principal=service)
    assert not folder.exists()
    publish(tickets, str(folder), vectors=True)
    rows = duckdb.sql(
        f"SELECT id, vector, typeof(vector) FROM '{str(folder).replace(chr(39), chr(39) * 2)}/rows/*.parquet'"
    ).fetchall()
    assert {kind for *_, kind in rows} == {"FLOAT[]"}
    found = {i: np.array(v, np.float32) for i, v, _ in rows}
    np.testing.assert_array_equal(
        np.stack([found["a"], found["bb"]]), tickets.vectors_of(["a", "bb"], ToyEncoder.fingerprint)
    )
    publish(tickets, str(folder), principal=service)
    assert "vector" not in pads.dataset(str(folder / "rows")).schema.names


def test_vectors_that_come_late_come_to_the_copy(tickets: CollectionTable, folder: Path) -> None:
    other = OtherEncoder()
    tickets.rows.commit([some_rows(["a", "b"])], refuse_differing=True)
    tickets.add_encoder(other.fingerprint, 3)
    publish(tickets, str(folder), vectors=True, fingerprint=other.fingerprint)

    def vectors() -> dict[str, Any]:
        return {r["id"]: r["vector"] for r in pads.dataset(str(folder / "rows")).to_table().to_pylist()}

    assert vectors() == {"a": None, "b": None}
    column = next(f.name for f in tickets.schema if f.name.startswith("vec_cd34"))
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(3, np.float32)), 3)
    tickets.fill(
        pa.table({"id": ["b"], "_payload": pa.array([b"p" * 32], pa.binary(32)), column: values}), other.fingerprint
    )
    publish(tickets, str(folder), vectors=True, fingerprint=other.fingerprint)
    assert vectors() == {"a": None, "b": [1.0, 1.0, 1.0]}
    assert publish(tickets, str(folder), vectors=True, fingerprint=other.fingerprint).written == []


def test_labels_follow_their_table_and_the_rows(tickets: CollectionTable, catalog: Catalog, folder: Path) -> None:
    log(tickets, "a", "b")
    publish(tickets, str(folder), labels={"outcomes": outcomes(catalog, a="refund", z="none")})
    read = f"SELECT ticket, outcome FROM '{str(folder).replace(chr(39), chr(39) * 2)}/labels/outcomes/*.parquet' ORDER BY 1"
    assert duckdb.sql(read).fetchall() == [("a", "refund")]  # z is nobody's row
    newer = outcomes(catalog, a="none", b="refund", z="none")
    done = publish(tickets, str(folder), labels={"outcomes": newer})
    assert [path.split("/")[0] for path in done.written] == ["labels"]
    assert duckdb.sql(read).fetchall() == [("a", "none"), ("b", "refund")]
    log(tickets, "z")
    erase(tickets, "a")
    publish(tickets, str(folder), labels={"outcomes": newer})
    assert duckdb.sql(read).fetchall() == [("b", "refund"), ("z", "none")]
    done = publish(tickets, str(folder))
    assert all(path.startswith("labels/") for path in done.removed)
    assert not (folder / "labels" / "outcomes").exists()


def test_predictions_follow_their_head_and_the_rows(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a", "x")

    def read() -> list[Any]:
        where = str(folder).replace("'", "''")
        return duckdb.sql(f"SELECT id, label FROM '{where}/predictions/lengths/*.parquet' ORDER BY 1").fetchall()

    publish(tickets, str(folder), predictions={"lengths": lengths()})
    assert read() == [("a", "lengths@1:1")]
    log(tickets, "bb")
    done = publish(tickets, str(folder), predictions={"lengths": lengths()})
    assert len(done.written) == 2
    assert read() == [("a", "lengths@1:1"), ("bb", "lengths@1:2")]
    erase(tickets, "a")
    publish(tickets, str(folder), predictions={"lengths": lengths("lengths@2")})
    assert read() == [("bb", "lengths@2:2")]


def test_a_head_that_answers_something_else_is_refused(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a")
    twice = Predictions("odd@1", ToyEncoder.fingerprint, lambda ids: pa.table({"id": [*ids, *ids]}))
    with pytest.raises(InvalidArguments) as refused:
        publish(tickets, str(folder), predictions={"odd": twice})
    assert str(refused.value) == "publish 'tickets': odd@1 predicted ids that it was not asked for, or one twice."
    nothing = Predictions("odd@1", ToyEncoder.fingerprint, lambda ids: list(ids))  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidArguments, match="odd@1 gave list, expected an Arrow table with a column 'id'"):
        publish(tickets, str(folder), predictions={"odd": nothing})
    publish(tickets, str(folder))
    assert ids_in(folder) == ["a"]


def test_a_file_that_somebody_took_away_is_written_again(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a")
    publish(tickets, str(folder))
    next((folder / "rows").iterdir()).unlink()
    done = publish(tickets, str(folder))
    assert len(done.written) == 1
    assert ids_in(folder) == ["a"]


def test_an_empty_collection_shows_its_columns(tickets: CollectionTable, folder: Path) -> None:
    publish(tickets, str(folder))
    assert ids_in(folder) == []
    assert pads.dataset(str(folder / "rows")).schema.names == tickets.visible
    log(tickets, "a")
    publish(tickets, str(folder))
    assert ids_in(folder) == ["a"]
    erase(tickets, "a")
    publish(tickets, str(folder))
    assert ids_in(folder) == []


def test_a_folder_that_holds_something_else_is_left_alone(
    tickets: CollectionTable, layout: Layout, catalog: Catalog, folder: Path
) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(AlreadyExists) as refused:
        publish(tickets, str(folder))
    assert str(refused.value) == (
        f"folder 'file://{folder}' exists already. Name a new or an empty folder, or the one this collection is published to."
    )
    assert publications(catalog, "tickets") == []
    (folder / "notes.txt").unlink()
    publish(tickets, str(folder))
    photos = CollectionTable.create(layout, "photos", {ToyEncoder.fingerprint: 3})
    with pytest.raises(InvalidArguments, match=r"holds collection 'tickets' of store key .*; name another one"):
        publish(photos, str(folder))


def test_a_copy_of_another_store_is_left_alone(tickets: CollectionTable, folder: Path, tmp_path: Path) -> None:
    log(tickets, "a")
    publish(tickets, str(folder))
    stranger = make_tickets(make_store(tmp_path / "other"))
    with pytest.raises(InvalidArguments, match="holds collection 'tickets' of store key"):
        publish(stranger, str(folder))
    assert ids_in(folder) == ["a"]


def test_what_cannot_be_published_is_said(tickets: CollectionTable, catalog: Catalog, folder: Path, layout: Layout) -> None:
    bare = register_table(catalog, "bare", [{"x": 1}])
    with pytest.raises(InvalidArguments) as refused:
        publish(tickets, str(folder), columns=["color"], labels={"bare": bare})
    assert str(refused.value) == (
        f"publish 'tickets': there is no column 'color'; there are: {', '.join(tickets.visible)}; "
        "table 'bare' has no id column to join by; register it with id=."
    )
    with pytest.raises(PassportMismatch):
        publish(tickets, str(folder), vectors=True, fingerprint=OtherEncoder.fingerprint)
    odd = CollectionTable.create(layout, "odd", {ToyEncoder.fingerprint: 3}, {"vector": "string"})
    with pytest.raises(InvalidArguments, match="the collection has a column 'vector'"):
        publish(odd, str(folder), vectors=True)
    publish(odd, str(folder), vectors=True, columns=["time"])


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("s3://b/x", ExtraNotInstalled, "addresses of s3:// need s3fs. Install it: pip install s3fs"),
        ("gs://b/x", ExtraNotInstalled, "addresses of gs:// need gcsfs. Install it: pip install gcsfs"),
        (
            "nope://x",
            InvalidArguments,
            "publish: no file system is known for nope://; name a folder, or an address that fsspec knows.",
        ),
    ],
)
def test_an_address_that_nobody_here_can_open_is_refused(
    tickets: CollectionTable, monkeypatch: pytest.MonkeyPatch, uri: str, error: type[RaystoreError], said: str
) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(error) as refused:
        publish(tickets, uri)
    assert str(refused.value) == said


def test_progress_counts_the_rows_that_are_read(tickets: CollectionTable, catalog: Catalog, folder: Path) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    log(tickets, "a", "b", "c")
    publish(tickets, str(folder), labels={"outcomes": outcomes(catalog, a="x")}, progress=tell)
    assert told == [(3, 6), (6, 6)]
    told.clear()
    publish(tickets, str(folder), labels={"outcomes": outcomes(catalog, a="x")}, progress=tell)
    assert told == []


def test_one_call_publishes_at_a_time(tickets: CollectionTable, folder: Path) -> None:
    log(tickets, "a")
    refused = []

    def of(ids: Sequence[str]) -> pa.Table:
        if ids:
            with pytest.raises(WriterBlocked) as caught:
                publish(tickets, str(folder))
            refused.append(str(caught.value))
        return lengths().of(ids)

    publish(tickets, str(folder), predictions={"lengths": Predictions("lengths@1", ToyEncoder.fingerprint, of)})
    assert refused == [
        f"waited 0.0 s to write to 'file://{folder}', held by another call that publishes there. Nothing was written. "
        "Repeat the call; if it stays so, end that process."
    ]
    publish(tickets, str(folder))


def test_an_address_in_memory_is_kept_current_too(tickets: CollectionTable) -> None:
    """A file system that is no disk: what an object store needs is the same calls."""
    uri = f"memory://{uuid.uuid4().hex}/lake"
    log(tickets, "a", "b")
    assert publish(tickets, uri).uri == uri.replace("memory://", "memory:///")
    log(tickets, "c")
    erase(tickets, "a")
    publish(tickets, uri)
    publish(tickets, uri)
    files, root = fsspec.core.url_to_fs(uri)
    found = [i for path in files.glob(f"{root}/rows/*.parquet") for i in pq.read_table(files.open(path))["id"].to_pylist()]
    assert sorted(found) == ["b", "c"]
    assert sorted(Path(p).name for p in files.ls(root, detail=False)) == ["_manifests", "rows"]


# --- what an erase needs ------------------------------------------------------------------------------------------------


@pytest.fixture
def twice(tickets: CollectionTable, catalog: Catalog, tmp_path: Path) -> tuple[Path, Path]:
    log(tickets, "a", "b")
    one, other = tmp_path / "one", tmp_path / "other"
    publish(tickets, str(one), columns=["product"], labels={"outcomes": outcomes(catalog, a="x", b="y")})
    publish(tickets, str(other), vectors=True, predictions={"lengths": lengths()})
    return one, other


def test_a_store_knows_where_its_collections_are_published(
    twice: tuple[Path, Path], tickets: CollectionTable, catalog: Catalog
) -> None:
    found = {p.uri: p for p in publications(catalog, "tickets")}
    assert set(found) == {f"file://{path}" for path in twice}
    one, other = (found[f"file://{path}"] for path in twice)
    assert (one.columns, one.labels, one.fingerprint) == (("product",), {"outcomes": "outcomes"}, None)
    assert (other.columns, other.predictions, other.fingerprint) == (None, {"lengths": "lengths@1"}, ToyEncoder.fingerprint)
    assert publications(catalog, "photos") == []
    numbers = list(catalog.layout.aliases("publication").glob("*/2.json"))
    publish(tickets, str(twice[0]), columns=["product"], labels={"outcomes": outcomes(catalog, a="x", b="y")})
    assert list(catalog.layout.aliases("publication").glob("*/2.json")) == numbers == []


@pytest.mark.parametrize("with_head", [True, False])
def test_all_copies_lose_an_erased_row_in_one_call(
    twice: tuple[Path, Path], tickets: CollectionTable, catalog: Catalog, with_head: bool
) -> None:
    one, other = twice
    log(tickets, "c")
    erase(tickets, "a")
    done = republish_all(catalog, "tickets", predictions={"lengths@1": lengths()}.get if with_head else None)
    assert [type(d) for d in done] == [Published, Published]
    assert ids_in(one) == ids_in(other) == ["b", "c"]
    assert ids_in(one, "labels/outcomes", "ticket") == ["b"]
    assert ids_in(other, "predictions/lengths") == (["b", "c"] if with_head else ["b"])
    publish(tickets, str(other), vectors=True, predictions={"lengths": lengths()})
    assert ids_in(other, "predictions/lengths") == ["b", "c"]
    assert all(done.written == [] for done in republish_all(catalog, "tickets"))


def test_a_lost_file_of_predictions_is_made_again_by_whoever_can(
    twice: tuple[Path, Path], tickets: CollectionTable, catalog: Catalog
) -> None:
    _, other = twice
    next((other / "predictions" / "lengths").iterdir()).unlink()
    erase(tickets, "a")
    republish_all(catalog, "tickets")
    assert ids_in(other, "predictions/lengths") == []
    publish(tickets, str(other), vectors=True, predictions={"lengths": lengths()})
    assert ids_in(other, "predictions/lengths") == ["b"]
