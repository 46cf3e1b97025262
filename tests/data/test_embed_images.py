"""Images through a job: folders, tars and columns of bytes, with tiny real models."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.data import job as job_module
from raystore.errors import InvalidArguments, InvalidRows
from raystore.layout import vector_column
from raystore.store import Store
from tests.pictures import PICTURES, png, save_clip, save_vit

CANARY = b"canary-3f7a"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store that knows a text model, an image model and one of both."""
    folder = tmp_path_factory.mktemp("images")
    store = raystore.open(folder / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("vit", model=str(save_vit(folder / "vit")))
    store.encoders.register("clip", model=str(save_clip(folder / "clip", tiny_model)))
    return store.root


@pytest.fixture
def store(tmp_path: Path, registered: Path) -> Store:
    return raystore.open(shutil.copytree(registered, tmp_path / "store"))


@pytest.fixture
def photos(store: Store) -> Collection:
    return store.create_collection("photos", encoder="vit")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in two class folders, and three files that are no pictures."""
    folder = tmp_path / "it's phötos"
    for n, picture in enumerate(PICTURES):
        path = folder / ("red" if n < 3 else "blue") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    (folder / "red" / "page.jpg").write_bytes(b"<html>" + CANARY + b"</html>")
    (folder / "red" / "empty.png").write_bytes(b"")
    (folder / "blue" / "cut.png").write_bytes(PICTURES[0][: len(PICTURES[0]) // 2])
    return folder


NAMES = ["red/0.png", "red/1.png", "red/2.png", "blue/3.png", "blue/4.png", "blue/5.png"]


def assert_nowhere(root: Path, canary: bytes) -> None:
    assert [str(p) for p in root.rglob("*") if p.is_file() and canary in p.read_bytes()] == []


def vectors(collection: Collection, name: str) -> dict[str, list[float] | None]:
    column = vector_column(collection._store.encoder(name).fingerprint)
    rows = collection.to_arrow(["id", column])
    return dict(zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True))


def test_a_folder_of_images_is_embedded_and_what_is_no_image_is_set_aside(
    photos: Collection, store: Store, folder: Path
) -> None:
    report = photos.embed(folder, keep=["folder"], workers=0)
    assert (report.read, report.added, report.set_aside, report.filled) == (9, 6, 3, 0)
    rows = {row["id"]: row["folder"] for row in photos.to_arrow().to_pylist()}
    assert rows == {name: name.split("/")[0] for name in NAMES}
    found = vectors(photos, "vit")
    np.testing.assert_allclose([found[name] for name in NAMES], store.encoder("vit").encode(PICTURES), atol=1e-5)
    aside = {row["id"]: row["reason"] for row in photos.set_aside().to_pylist()}
    assert aside.keys() == {"red/page.jpg", "red/empty.png", "blue/cut.png"}
    assert aside["red/empty.png"] == "the image is empty"
    assert all(reason.startswith("the image ") for reason in aside.values())
    assert_nowhere(store.root, CANARY)
    again = photos.embed(folder, keep=["folder"], workers=0)
    assert (again.added, again.known, again.set_aside) == (0, 6, 3)


def test_a_tar_gives_the_rows_of_its_folder(photos: Collection, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted(folder.rglob("*.*")):
            tar.add(path, str(path.relative_to(folder)))
    photos.embed(tmp_path / "photos.tar", workers=0)
    assert sorted(vectors(photos, "vit")) == sorted(NAMES)
    again = photos.embed(folder, workers=0, check=True)
    assert (again.added, again.known, again.set_aside) == (0, 6, 3)


def test_a_column_of_bytes_is_embedded_and_other_values_are_set_aside(photos: Collection, tmp_path: Path) -> None:
    photo = pa.array([PICTURES[0], None, b"", PICTURES[1]], pa.binary())
    pq.write_table(pa.table({"n": [1, 2, 3, 4], "photo": photo, "title": list("abcd")}), tmp_path / "p.parquet")
    report = photos.embed(tmp_path / "p.parquet", image="photo", id="n", keep=["title"], workers=0)
    assert (report.added, report.reasons) == (2, {"the image is empty": 1, "the image is null": 1})
    assert photos.jobs()[0]["columns"] == {
        "text": None, "image": "photo", "id": "n", "subject": None, "tenant": None, "time": None, "keep": ["title"],
    }  # fmt: skip


def test_columns_that_the_encoder_does_not_take_are_refused(store: Store, photos: Collection, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"photo": pa.array([PICTURES[0]], pa.binary()), "title": ["a"]}), path)
    vit, tiny = store.encoder("vit").label, store.encoder("tiny").label
    texts = store.create_collection("texts", encoder="tiny")
    for collection, options, problem in (
        (photos, {"text": "title"}, f"encoder {vit} takes no texts (text=): name a column with image="),
        (texts, {"image": "photo"}, f"encoder {tiny} takes no images (image=): name a column with text="),
        (photos, {"image": "photo", "text": "title"}, "expected exactly one of text= and image=, found both"),
        (photos, {}, "which column is to be embedded? Name it with text= or image="),
        (photos, {"image": "title"}, f"'{path}': column 'title' (image=) is string, expected the bytes of image files"),
        (photos, {"image": "photo", "keep": ["photo"]},
         f"'{path}': column 'photo' is binary, which a collection cannot keep; "
         "column 'photo' is the image; it is embedded and never kept (keep=)"),
        (photos, {"image": "photo", "subject": "photo"},
         f"'{path}': column 'photo' is binary, which a collection cannot keep (subject=); "
         "column 'photo' is the image; it is embedded and never kept (subject=)"),
        (texts, {"text": "title", "id": "title"}, "column 'title' is the text; it is embedded and never kept (id=)"),
        (texts, {"text": "title", "tenant": "photo"},
         f"'{path}': column 'photo' is binary, which a collection cannot keep (tenant=)"),
    ):  # fmt: skip
        with pytest.raises(InvalidArguments) as refused:
            collection.embed(path, workers=0, **options)
        assert str(refused.value) == f"embed into '{collection.name}': {problem}."
    assert (photos.jobs(), texts.jobs()) == ([], [])


def test_texts_and_images_of_one_space_share_a_collection_and_find_each_other(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    both = store.create_collection("both", encoder="clip")
    both.embed(folder, workers=0)
    (tmp_path / "t.csv").write_text("body\nhello world\nmoney is blue\n")
    both.embed(tmp_path / "t.csv", text="body", workers=0)
    assert len(both) == 8
    expected = np.asarray(store.encoder("clip").encode(["hello world"]) @ np.array(list(vectors(both, "clip").values())).T)
    assert both.search("hello world", k=8).scores[0] == pytest.approx(sorted(expected[0], reverse=True), abs=1e-5)
    report = both.add_encoder("vit", workers=0)
    assert (report.filled, report.left, report.other) == (6, 2, [str(tmp_path / "t.csv")])
    assert "; 1 of the files hold what this encoder does not take; " in str(report)
    found = vectors(both, "vit")
    assert [found[name] is None for name in (*NAMES, "t:0", "t:1")] == [False] * 6 + [True] * 2


def test_logged_images_get_a_vector_of_every_encoder_that_takes_them(store: Store) -> None:
    both = store.create_collection("both", encoder="clip")
    both.add_encoder("vit")
    both.log([{"id": "p", "image": PICTURES[0]}, {"id": "t", "text": "hello world"}])
    assert {i: v is None for i, v in vectors(both, "clip").items()} == {"p": False, "t": False}
    assert {i: v is None for i, v in vectors(both, "vit").items()} == {"p": False, "t": True}
    np.testing.assert_allclose(vectors(both, "vit")["p"], store.encoder("vit").encode(PICTURES[:1])[0], atol=1e-5)
    assert both.log([{"id": "p", "image": PICTURES[0]}]).known == 1
    assert "image" not in both.columns
    with pytest.raises(InvalidRows) as refused:
        both.log([{"id": "a", "text": "x"}, {"id": "b", "image": CANARY * 20}, {"id": "c", "image": b""}])
    assert [(row, id_, reason) for row, id_, reason in refused.value.problems] == [(2, "c", "the image is empty")]
    with pytest.raises(InvalidRows) as refused:
        both.log([{"id": "a", "text": "x"}, {"id": "b", "image": CANARY * 20}])
    assert [(row, id_) for row, id_, _ in refused.value.problems] == [(1, "b")]
    assert CANARY.decode() not in str(refused.value)
    photos = store.create_collection("photos", encoder="vit")
    with pytest.raises(InvalidRows) as refused:
        photos.log([{"id": "a", "text": "x"}])
    assert refused.value.problems == [(0, "a", "its text is not what the collection embeds: images")]
    assert (len(both), len(photos)) == (2, 0)


def test_a_batch_of_images_ends_before_it_is_too_many_bytes(
    photos: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [png((10 * n, 0, 0), (64, 64)) for n in range(8)]
    monkeypatch.setattr(job_module, "BATCH_BYTES", 2 * len(pictures[0]))
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"id": [f"{n}" for n in range(8)], "photo": pa.array(pictures, pa.binary())}), path)
    done: list[int] = []
    photos.embed(path, image="photo", id="id", workers=0, progress=lambda n, _: done.append(n))
    steps = np.diff(done)
    assert len(photos) == 8
    assert steps[steps > 0].max() <= 3
