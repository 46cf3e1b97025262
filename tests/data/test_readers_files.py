"""Which sources are found, and URLs of every kind."""

from __future__ import annotations

import csv
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.data.readers import SOURCES, find_files, open_input, plan, read
from raystore.data.readers.files import filesystem, holds_password, join, suffix
from raystore.errors import InvalidArguments


def found(paths: object, root: str | Path) -> list[str]:
    return [path.removeprefix(f"{root}/") for path in find_files(paths, "embed", SOURCES)]


def refused(paths: object) -> str:
    with pytest.raises(InvalidArguments) as error:
        find_files(paths, "embed", SOURCES)
    return str(error.value)


# --- local -------------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "deep" / "1.jpg").touch()
    (tmp_path / "photos" / "notes.txt").touch()
    assert found(tmp_path / "photos", tmp_path) == ["photos"]
    assert found(str(tmp_path / "photos") + "/", tmp_path) == ["photos"]
    assert found(str(tmp_path / "ph*"), tmp_path) == ["photos"]


def test_a_folder_of_other_sources_is_those_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.ARROW", "c.feather", "d.ipc", "e.tar", "f.csv", "._a.parquet", ".hidden.csv", "notes.txt"):
        (tmp_path / name).touch()
    lance.write_dataset(pa.table({"n": [1]}), tmp_path / "g.lance")
    assert found(tmp_path, tmp_path) == ["a.parquet", "b.ARROW", "c.feather", "d.ipc", "e.tar", "f.csv", "g.lance"]
    assert found(tmp_path / "g.lance", tmp_path) == ["g.lance"]
    assert [Path(path).name for path in find_files(tmp_path, "make a table")] == ["a.parquet", "f.csv"]


def test_images_beside_other_sources_are_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").touch()
    (tmp_path / "labels.csv").touch()
    assert refused(tmp_path) == (
        f"embed: '{tmp_path}' holds images and other sources ('labels.csv'): "
        "name the others by a pattern, or name folders that hold nothing but images."
    )
    assert found([tmp_path / "*.csv", tmp_path / "cats"], tmp_path) == ["labels.csv", "cats"]
    assert [Path(path).name for path in find_files(tmp_path, "make a table")] == ["labels.csv"]


def test_everything_that_is_no_source_is_said_at_once(tmp_path: Path) -> None:
    for name in ("notes.txt", "x.tar.gz", "y.TGZ", "1.jpg", "2.jpg", "file.lance"):
        (tmp_path / name).touch()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "z.tar.zst").touch()
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / name for name in ("notes.txt", "x.tar.gz", "y.TGZ", "*.jpg", "shards", "empty")]
    packed = "is compressed, so no part of it can be read alone: unpack it to a folder or a plain .tar"
    assert refused(paths) == (
        f"embed: '{tmp_path}/notes.txt' is none of .parquet, .pq, .csv, .tsv, .jsonl, .ndjson, .arrow, .feather, .ipc, .lance, "
        f".tar or a folder of images; '{tmp_path}/x.tar.gz' {packed}; '{tmp_path}/y.TGZ' {packed}; "
        f"'{tmp_path}/*.jpg' names image files: name the folder they lie in; '{tmp_path}/shards/z.tar.zst' {packed}; "
        f"no file matches '{tmp_path}/empty'."
    )


def test_a_folder_whose_name_ends_like_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.tar").mkdir()
    (tmp_path / "photos.tar" / "1.jpg").write_bytes(b"one")
    (file,), _ = plan(find_files(tmp_path / "photos.tar", "embed", SOURCES), 1, "embed")
    assert (file.kind, file.n_rows) == ("images", 1)


def test_a_file_url_is_the_local_path_it_names(tmp_path: Path) -> None:
    (tmp_path / "a b.csv").write_text("id,text\n1,x\n")
    for url in (
        f"file://{tmp_path}/a%20b.csv",
        f"file://localhost{tmp_path}/a b.csv",
        f"file://{tmp_path}/*.csv",
        f"file://{tmp_path}",
    ):
        assert find_files(url, "embed") == [str(tmp_path / "a b.csv")]
    assert refused("file://elsewhere/a.csv") == (
        "embed: 'file://elsewhere/a.csv' cannot be opened: a file:// URL names a path on this machine, file:///folder/file."
    )


def test_a_source_has_a_size_and_a_time(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,text\n1,x\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    (file,), _ = plan([str(path)], 1, "test")
    assert (file.size_bytes, file.modified) == (12, "2023-11-14T22:13:20.000000+00:00")


# --- URLs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's filesystem in memory, which stands for any that pyarrow does not know."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def put(system: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.pipe(path, content)


def test_files_folders_and_patterns_behind_a_url_are_found(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("b.csv", "a.parquet", "notes.txt", ".hidden.csv", "more/c.csv", "mere/d.csv"):
        put(memory, f"/bucket/data/{name}", b"")
    root = "memory://bucket/data"
    assert found(root, root) == ["a.parquet", "b.csv"]
    assert found(f"{root}/b.csv", root) == ["b.csv"]
    assert found(f"{root}/*.csv", root) == ["b.csv"]
    assert found([f"{root}/m[eo]re/*.csv", f"{root}/more/c.csv"], root) == ["mere/d.csv", "more/c.csv"]
    assert found("memory://bucket/*/*.parquet", root) == ["a.parquet"]
    assert refused([f"{root}/no.csv", f"{root}/*.jsonl", f"{root}/notes.txt"]) == (
        f"embed: no file matches '{root}/no.csv'; no file matches '{root}/*.jsonl'; '{root}/notes.txt' is none of .parquet, .pq, "
        ".csv, .tsv, .jsonl, .ndjson, .arrow, .feather, .ipc, .lance, .tar or a folder of images."
    )


def test_every_kind_of_file_behind_a_url_is_read_as_a_local_one_is(
    memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    table = pa.table({"id": [str(i) for i in range(40)], "text": [f"wörd {i}" for i in range(40)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=9)
    for name, make in (("t.arrow", pa.ipc.new_file), ("t.ipc", pa.ipc.new_stream)):
        with make(tmp_path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([table.column_names, *zip(*table.to_pydict().values(), strict=True)])
    (tmp_path / "t.jsonl").write_text(
        "".join(f'{{"id": "{i}", "text": "wörd {i}"}}\n' for i in range(40)), encoding="utf-8"
    )
    for path in sorted(tmp_path.iterdir()):
        put(memory, f"/data/{path.name}", path.read_bytes())
    files, references = plan(find_files("memory://data", "embed", SOURCES), 1, "embed")
    assert [file.path.rpartition("/")[2] for file in files] == ["t.arrow", "t.csv", "t.ipc", "t.jsonl", "t.parquet"]
    for file in files:
        blocks = [block for r in references if r.path == file.path for block in read(r, ["text"], 6)]
        assert [text for block in blocks for text in block.columns["text"]] == table.column("text").to_pylist()
        assert file.size_bytes == (tmp_path / file.path.rpartition("/")[2]).stat().st_size


def test_folders_and_tars_of_images_behind_a_url_are_read(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2 %20?.jpg", "b/.3.jpg"):
        put(memory, f"/photos/{name}", name.encode())
    (tmp_path / "1.jpg").write_bytes(b"in a tar")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "1.jpg", "cats/1.jpg")
    put(memory, "/shards/t.tar", (tmp_path / "t.tar").read_bytes())
    files, references = plan(find_files(["memory://photos", "memory://shards"], "embed", SOURCES), 1, "embed")
    assert [(file.kind, file.n_rows) for file in files] == [("images", 2), ("tar", 1)]
    names, images = [], []
    for slice_ in references:
        for block in read(slice_, ["name", "image"], 10):
            names += block.columns["name"]
            images += block.columns["image"]
            assert block.unreadable == {}
    assert names == ["a/1.jpg", "b/2 %20?.jpg", "cats/1.jpg"]
    assert images == [b"a/1.jpg", b"b/2 %20?.jpg", b"in a tar"]


def test_pyarrows_own_filesystems_are_read_with_names_quoted_in_their_urls() -> None:
    # pyarrow's filesystem in memory goes the way of s3, gs and abfs; the one made for the first URL serves the others.
    system, inner = filesystem("mock://bucket/photos/a")
    system.create_dir(inner, recursive=True)
    for name in ("a/1 %20?.jpg", "b ü.jpg"):
        with system.open_output_stream(f"photos/{name}") as file:
            file.write(name.encode())
    with system.open_output_stream("t 1.csv") as file:
        file.write(b"id,text\n1,x\n")
    assert found("mock://bucket/*.csv", "mock://bucket") == ["t%201.csv"]
    _, references = plan(find_files(["mock://bucket/ph*", "mock://bucket/t%201.csv"], "embed", SOURCES), 1, "embed")
    blocks = [block for slice_ in references for block in read(slice_, ["name", "image", "text"], 10)]
    assert blocks[0].columns["name"] == ["a/1 %20?.jpg", "b ü.jpg"]
    assert blocks[0].columns["image"] == [b"a/1 %20?.jpg", "b ü.jpg".encode()]
    assert blocks[1].columns["text"] == ["x"]


def test_an_image_that_vanished_behind_a_url_is_an_unreadable_row(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("1.jpg", "2.jpg"):
        put(memory, f"/photos/{name}", b"x")
    _, (slice_,) = plan(["memory://photos"], 1, "embed")
    memory.rm("/photos/2.jpg")
    (block,) = read(slice_, ["name", "image"], 10)
    assert (block.columns["name"], block.unreadable) == (["1.jpg", None], {1: "the file is gone since the job was planned"})


def test_urls_that_cannot_be_opened_are_refused_with_what_is_missing() -> None:
    assert refused(["nowhere://a/b.csv", "s3://user:secret@bucket/t.csv"]) == (
        "embed: 'nowhere://a/b.csv' cannot be opened: neither pyarrow nor fsspec has a filesystem for nowhere://; "
        "a URL holds a password, which the job's records would keep: put it into the environment."
    )
    assert refused("sftp://host/t.csv") == (
        "embed: 'sftp://host/t.csv' cannot be opened: SFTPFileSystem requires \"paramiko\" to be installed."
    )


@pytest.mark.parametrize(
    ("url", "holds"),
    [
        ("s3://user:secret@bucket/a", True),
        ("abfs://container@account.dfs.core.windows.net/a", False),
        ("hdfs://host:8020/a@b:c", False),
        ("/local/user:x@y", False),
    ],
)
def test_a_password_in_a_url_is_seen(url: str, holds: bool) -> None:
    assert holds_password(url) is holds


def test_a_urls_options_are_no_part_of_its_name() -> None:
    assert suffix("s3://bucket/photos/t.TAR?region=eu-west-1") == ".tar"
    assert join("s3://bucket/a?region=eu-west-1", "b c/1 %.jpg") == "s3://bucket/a/b%20c/1%20%25.jpg?region=eu-west-1"
    assert join("memory://bucket/a", "b c%.jpg") == "memory://bucket/a/b c%.jpg"


def test_a_missing_file_is_a_file_not_found(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for path in (str(tmp_path / "no.csv"), "memory://no/no.csv"):
        with pytest.raises(FileNotFoundError):
            open_input(path)
