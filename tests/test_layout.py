from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from raystore.errors import DiskFull, InvalidName
from raystore.layout import (
    Layout,
    check_name,
    disk_full_is_said,
    names,
    numbers,
    publish,
    read_json,
    staging,
    sync_tree,
    vector_column,
    write_json,
)


def test_every_path_lies_under_the_root() -> None:
    layout = Layout(Path("/r"))
    paths = [getattr(layout, name) for name in vars(Layout) if isinstance(vars(Layout)[name], property)]
    paths += [layout.aliases("encoder", "x"), layout.encoder("ab" * 32), layout.rows("x"), layout.set_aside("x")]
    paths += [
        layout.collection_fence("x"),
        layout.table("x"),
        layout.table_fence("x"),
        layout.snapshots("x"),
        layout.heads("x"),
        layout.head_notes("x", 1),
    ]
    paths += [layout.indexes("x", "ab" * 32), layout.deployment("x"), layout.encoders(), layout.snapshots(), layout.heads()]
    assert all(p.is_relative_to("/r") for p in paths)
    assert len({*paths}) == len(paths)


def test_looking_at_a_layout_makes_nothing(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "store")
    assert numbers(layout.heads("x")) == []
    assert names(layout.collections) == []
    assert not layout.root.exists()


def test_twelve_digits_of_the_fingerprint_stand_in_paths_and_columns() -> None:
    assert vector_column("0123456789abcdef" * 4) == "vec_0123456789ab"
    assert Layout(Path("/r")).indexes("t", "0123456789abcdef" * 4) == Path("/r/indexes/t/0123456789ab")


@pytest.mark.parametrize("name", ["a", "refunds_2", "a" * 63])
def test_plain_names_are_themselves(name: str) -> None:
    assert check_name("a table", name) == name


@pytest.mark.parametrize("name", ["", "A", "1a", "_a", "a-b", "a b", "a.b", "../a", "a/b", "a" * 64, "ä", "a\n", 5, None])
def test_other_names_are_refused_with_the_rule(name: object) -> None:
    with pytest.raises(InvalidName) as refused:
        check_name("a table", name)
    assert str(refused.value) == (
        f"'{name}' is no name for a table: expected 1 to 63 characters, a small letter first, "
        "then small letters, digits or '_'."
    )


def test_some_names_may_hold_dashes() -> None:
    assert check_name("an encoder", "all-mini", dashes=True) == "all-mini"
    with pytest.raises(InvalidName, match="then small letters, digits, '_' or '-'"):
        check_name("an encoder", "-mini", dashes=True)


def test_numbers_are_those_of_files_and_folders_alike(tmp_path: Path) -> None:
    for name in ("1.json", "10.json", "x.json", "²", "٣.json", "-1.json"):
        (tmp_path / name).touch()
    (tmp_path / "2").mkdir()
    assert numbers(tmp_path) == [1, 2, 10]


def test_json_is_written_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"ü": 1}, tmp_path / "tmp")
    write_json(path, {"ü": 2}, tmp_path / "tmp")
    assert read_json(path) == {"ü": 2}
    assert os.listdir(tmp_path / "tmp") == []


def test_exclusive_json_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    write_json(path, {"n": 1}, tmp_path / "tmp", exclusive=True)
    with pytest.raises(FileExistsError):
        write_json(path, {"n": 2}, tmp_path / "tmp", exclusive=True)
    assert read_json(path) == {"n": 1}
    assert os.listdir(tmp_path / "tmp") == []


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1}, tmp_path / "tmp")
    with pytest.raises(TypeError):
        write_json(path, {"n": object()}, tmp_path / "tmp")
    assert read_json(path) == {"n": 1}
    assert os.listdir(tmp_path / "tmp") == []


def test_publishers_that_race_get_different_numbers(tmp_path: Path) -> None:
    got: list[int] = []
    gate = threading.Barrier(8)

    def work(worker: int) -> None:
        for i in range(5):
            with staging(tmp_path / "tmp") as stage:
                (stage / "x.json").write_text(json.dumps([worker, i]))
                gate.wait()
                got.append(publish(stage, tmp_path / "heads"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == list(range(1, 41)) == numbers(tmp_path / "heads")
    found = sorted(json.loads((tmp_path / "heads" / str(n) / "x.json").read_text()) for n in got)
    assert found == [[w, i] for w in range(8) for i in range(5)]
    assert os.listdir(tmp_path / "tmp") == []


def test_a_stage_that_fails_is_gone(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), staging(tmp_path / "tmp") as stage:
        stage.read_bytes()
    assert os.listdir(tmp_path / "tmp") == []


def test_a_tree_is_synced_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x")
    sync_tree(tmp_path)


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as full, disk_full_is_said(tmp_path, "writing rows"), Path("/dev/full").open("w") as disk:
        disk.write("x")
    assert str(full.value) == (
        f"no space left on the disk of '{tmp_path}' while writing rows. What was acknowledged before is safe, "
        "the rest was not written. Free space and repeat the call; it goes on where it stopped."
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "quota"),
        OSError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_by_number_and_by_words(error: OSError) -> None:
    with pytest.raises(DiskFull), disk_full_is_said(Path("/r"), "writing"):
        raise error


def test_other_errors_pass() -> None:
    for error in (FileNotFoundError("x"), ValueError("No space left")):
        with pytest.raises(type(error)), disk_full_is_said(Path("/r"), "writing"):
            raise error
