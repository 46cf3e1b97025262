"""Folders and tars of image files."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.readers import Block, Reference, SourceFile, plan, read, reference
from raystore.data.readers import images as images_module
from tests.data.test_readers import read_all, refusal

EVERY = ["image", "name", "folder"]


def picture(name: str) -> bytes:
    """Bytes that tell which file they were in; no reader looks into an image."""
    return b"\xff\xd8" + os.fsencode(name)


def make_folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name))
    return root


def make_tar(path: Path, names: Sequence[str], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(picture(name))
            tar.addfile(member, io.BytesIO(picture(name)))
    return path


def one_slice(path: Path) -> tuple[SourceFile, Reference]:
    (file,), (slice_,) = plan([str(path)], 1, "test")
    return file, slice_


def blocks(slice_: Reference, columns: list[str] = EVERY, rows: int = 100, size: int = 10**6) -> list[Block]:
    return list(read(slice_, columns, rows, size))


# --- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_its_images_with_their_names_and_first_folders(tmp_path: Path) -> None:
    make_folder(tmp_path, ["b/2.PNG", "a/deep/1.jpeg", "0.jpg", "a b/ü [1].webp", "notes.txt", "b/list.csv", "z/1.tif"])
    values, unreadable = read_all(tmp_path, EVERY)
    assert values["name"] == ["0.jpg", "a/deep/1.jpeg", "a b/ü [1].webp", "b/2.PNG", "z/1.tif"]
    assert values["folder"] == [None, "a", "a b", "b", "z"]
    assert values["image"] == [picture(name) for name in values["name"]]
    assert unreadable == {}
    file, slice_ = one_slice(tmp_path)
    assert (file.kind, file.columns) == ("images", {"image": "binary", "name": "string", "folder": "string"})
    assert file.size_bytes == sum(len(picture(name)) for name in values["name"])
    assert file.modified is not None
    assert (slice_.first, slice_.last, slice_.n_rows) == ("0.jpg", "z/1.tif", 5)


def test_hidden_files_and_folders_and_thumbs_are_skipped(tmp_path: Path) -> None:
    shown = ["a.jpg", "x/b.gif"]
    make_folder(tmp_path, [*shown, "._a.jpg", ".hidden.png", ".git/c.jpg", "x/._b.gif", "x/Thumbs.db", ".jpg"])
    assert read_all(tmp_path, ["name"])[0]["name"] == shown


def test_links_to_files_are_files_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", ["a.jpg", "sub/b.jpg"])
    (root / "c.jpg").symlink_to(root / "a.jpg")
    (root / "sub" / "circle").symlink_to(root)
    assert read_all(root, ["name"])[0]["name"] == ["a.jpg", "c.jpg", "sub/b.jpg"]


def test_a_pipe_that_is_named_like_an_image_is_not_opened(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a.jpg"])
    os.mkfifo(tmp_path / "b.jpg")
    assert read_all(tmp_path, EVERY)[0]["name"] == ["a.jpg"]


def test_a_link_that_leads_nowhere_is_an_unreadable_row(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a.jpg", "c.jpg"])
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nothing")
    values, unreadable = read_all(tmp_path, EVERY)
    assert values["name"] == ["a.jpg", "b.jpg", "c.jpg"]
    assert values["image"] == [picture("a.jpg"), None, picture("c.jpg")]
    assert unreadable == {1: "the file cannot be read (FileNotFoundError)"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_an_unreadable_row(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "b.jpg").chmod(0)
    assert read_all(tmp_path, EVERY)[1] == {1: "the file cannot be read (PermissionError)"}


def test_a_file_that_vanished_is_an_unreadable_row_and_moves_no_other(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    _, slice_ = one_slice(tmp_path)
    (tmp_path / "b.jpg").unlink()
    (block,) = blocks(slice_)
    assert block.columns["name"] == ["a.jpg", "c.jpg", None]
    assert block.columns["image"] == [picture("a.jpg"), picture("c.jpg"), None]
    assert block.unreadable == {2: "the file is gone since the job was planned"}


def test_a_file_added_since_planning_moves_no_other_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MIN_SLICE_IMAGES", 2)
    monkeypatch.setattr(reference, "MAX_SLICE_ROWS", 2)
    make_folder(tmp_path, ["b.jpg", "d.jpg", "f.jpg", "h.jpg"])
    _, slices = plan([str(tmp_path)], 1, "test")
    make_folder(tmp_path, ["a.jpg", "e.jpg", "z.jpg"])
    assert [block.columns["name"] for s in slices for block in read(s, ["name"], 9)] == [
        ["b.jpg", "d.jpg"],
        ["f.jpg", "h.jpg"],
    ]


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MAX_IMAGE_BYTES", 1_000)
    (make_folder(tmp_path / "photos", ["a.jpg"]) / "b.jpg").write_bytes(b"x" * 1_234)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "photos", "photos")
    for path in (tmp_path / "photos", tmp_path / "t.tar"):
        values, unreadable = read_all(path, EVERY)
        assert values["image"] == [picture("a.jpg"), None]
        assert unreadable == {1: "the image is 1,234 bytes, at most 1,000 are read"}


def test_a_name_that_is_not_utf8_is_a_row_like_any_other(tmp_path: Path) -> None:
    make_folder(tmp_path, ["a\udcff.jpg", "b.jpg"])
    values, unreadable = read_all(tmp_path, EVERY)
    assert values["name"] == ["a\udcff.jpg", "b.jpg"]
    assert values["image"] == [b"\xff\xd8a\xff.jpg", picture("b.jpg")]
    assert unreadable == {}


def test_names_alone_open_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nothing")
    assert read_all(tmp_path, ["name", "folder"]) == ({"name": ["a.jpg"], "folder": [None]}, {})


def test_a_folder_with_an_unreadable_folder_below_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, ["a.jpg", "b/c.jpg"])

    def scandir(path: str) -> object:  # root may list every folder
        if str(path).endswith("/b"):
            raise PermissionError(13, "not allowed")
        return real(path)

    real = os.scandir
    monkeypatch.setattr("raystore.data.readers.files.os.scandir", scandir)
    assert refusal(tmp_path) == f"embed into 'tickets': '{tmp_path}' cannot be read as images (PermissionError)."


# --- tars --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_its_images_with_their_names_and_first_folders(tmp_path: Path, form: int) -> None:
    names = ["0.jpg", "./a/1.png", "b/" + "x" * 60 + "/" + "y" * 70 + ".jpg", "ü/2.jpg"]
    other = ["a/1.txt", "._0.jpg", "a/._1.png", ".git/x.jpg", "./.hidden/y.jpg", "Thumbs.db"]
    values, unreadable = read_all(make_tar(tmp_path / "t.tar", [*other, *names], form), EVERY)
    assert values["name"] == ["0.jpg", "a/1.png", names[2], "ü/2.jpg"]
    assert values["folder"] == [None, "a", "b", "ü"]
    assert values["image"] == [picture(name) for name in names]
    assert unreadable == {}
    file, slice_ = one_slice(tmp_path / "t.tar")
    assert (file.kind, file.n_rows, file.size_bytes) == ("tar", 4, (tmp_path / "t.tar").stat().st_size)
    assert slice_.start > 0


def test_names_that_lead_out_of_a_tar_are_only_names(tmp_path: Path) -> None:
    names = ["../../etc/a.jpg", "/etc/b.jpg", "x/../c.jpg"]
    values, _ = read_all(make_tar(tmp_path / "t.tar", names), EVERY)
    assert values["name"] == names
    assert values["folder"] == ["etc", "etc", "x"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.tar"]


def test_a_name_in_a_tar_that_is_not_utf8_is_a_row_like_any_other(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        values, _ = read_all(make_tar(tmp_path / "t.tar", ["a\udcff.jpg", "b.jpg"], form), EVERY)
        assert values["name"] == ["a\udcff.jpg", "b.jpg"]


def test_members_that_are_no_regular_files_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("odd.jpg")
            member.type, member.linkname = kind, "../secret.jpg"
            tar.addfile(member)
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    assert read_all(path, EVERY)[0] == {"image": [b"abc"], "name": ["a.jpg"], "folder": [None]}


@pytest.mark.parametrize("cut", [100, 512, 3 * 512 - 1, 3 * 512, 3 * 512 + 100, 4 * 512])
def test_a_tar_that_breaks_off_is_refused_wherever_it_does(tmp_path: Path, cut: int) -> None:
    path = make_tar(tmp_path / "t.tar", ["a.jpg", "b.jpg", "c.jpg"], tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    assert refusal(path) == f"embed into 'tickets': '{path}' cannot be read as tar (ReadError)."
    # Two blocks a member, so the end mark begins behind the sixth; the rest of the file is padding.
    path.write_bytes(whole[: 7 * 512])
    assert read_all(path, ["name"])[0]["name"] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_tar_that_is_cut_off_behind_the_planning_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "t.tar", ["a.jpg", "b.jpg", "c.jpg"], tarfile.USTAR_FORMAT)
    _, slice_ = one_slice(path)
    path.write_bytes(path.read_bytes()[: 3 * 512])
    (block,) = blocks(slice_)
    assert block.columns["name"] == ["a.jpg", None, None]
    assert block.columns["image"] == [picture("a.jpg"), None, None]
    assert block.unreadable == dict.fromkeys([1, 2], "the tar breaks off before this member")


@pytest.mark.parametrize("content", [b"", b"no tar", b"no tar " * 200, b"\x1f\x8b" + b"x" * 2_000])
def test_a_file_that_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    assert refusal(path) == f"embed into 'tickets': '{path}' cannot be read as tar (ReadError)."


def test_a_broken_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "t.tar", ["a.jpg", "b.jpg", "c.jpg"], tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[2 * 512 : 2 * 512 + 8] = b"\xffbroken\xff"
    path.write_bytes(content)
    assert refusal(path) == f"embed into 'tickets': '{path}' cannot be read as tar (ReadError)."


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 8 * 512 - 1), value=st.integers(0, 255), cut=st.integers(0, 8 * 512))
def test_a_damaged_tar_is_refused_or_read_and_never_more_than_that(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: int
) -> None:
    path = make_tar(tmp_path_factory.mktemp("t") / "t.tar", ["a.jpg", "b/" + "y" * 120 + ".jpg"])
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content if place % 2 else content[:cut])
    try:
        read_all(path, EVERY)
    except ValueError as error:
        assert str(error) == f"test: '{path}' cannot be read as tar (ReadError)."  # noqa: PT017


def test_an_empty_tar_and_an_empty_folder_have_no_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w"):
        pass
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "t.tar", tmp_path / "empty"):
        (file,), references = plan([str(path)], 1, "test")
        assert (file.n_rows, references) == (0, [])


# --- both --------------------------------------------------------------------------------------------------------------

part = st.text(st.sampled_from("ab.ü -"), min_size=1, max_size=3).filter(lambda p: not p.startswith("."))
names = st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), max_size=25, unique=True)


@settings(max_examples=60, deadline=None)
@given(stems=names, step=st.integers(1, 5), block=st.integers(1, 9), columns=st.sampled_from([EVERY, ["name"], ["image"]]))
def test_slices_of_folders_and_tars_give_every_image_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, stems: list[str], step: int, block: int, columns: list[str]
) -> None:
    root = tmp_path_factory.mktemp("i")
    # A folder's own name ends otherwise than an image's, so that no path is a folder and a file.
    files = [stem + ".jpg" for stem in stems]
    make_folder(root / "photos", files)
    (root / "photos").mkdir(exist_ok=True)
    make_tar(root / "t.tar", files)
    by_parts = sorted(files, key=lambda name: name.split("/"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "MIN_SLICE_IMAGES", step)
        patch.setattr(reference, "MAX_SLICE_ROWS", 2 * step)
        for path, wanted in ((root / "photos", by_parts), (root / "t.tar", files)):
            values, unreadable = read_all(path, columns, workers=2, batch_rows=block)
            assert unreadable == {}
            expected = {
                "image": [picture(name) for name in wanted],
                "name": wanted,
                "folder": [name.split("/")[0] if "/" in name else None for name in wanted],
            }
            assert values == {column: expected[column] for column in columns}


def test_a_block_ends_before_its_images_pass_the_bytes_asked_for(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, size in zip("abcdefg", (40, 40, 40, 500, 1, 1, 98), strict=True):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(b"x" * size)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for path in sorted((tmp_path / "photos").iterdir()):
            tar.add(path, path.name)
    for path in (tmp_path / "photos", tmp_path / "t.tar"):
        _, slice_ = one_slice(path)
        assert [(b.first_row, b.n_rows) for b in blocks(slice_, ["image"], 100, 100)] == [(0, 2), (2, 1), (3, 1), (4, 3)]
        assert [b.n_rows for b in blocks(slice_, ["name"], 100, 100)] == [7]
        assert [b.n_rows for b in blocks(slice_, ["image"], 2, 10**6)] == [2, 2, 2, 1]


def test_references_to_images_stay_small_however_many_there_are(tmp_path: Path) -> None:
    files = [f"class {i % 7}/{i:06}.jpg" for i in range(2_500)]
    make_folder(tmp_path / "photos", files)
    make_tar(tmp_path / "t.tar", files)
    sizes = {tmp_path / "photos": [625] * 4, tmp_path / "t.tar": [640, 640, 640, 580]}  # a tar is cut at every 64th member
    for path, rows in sizes.items():
        _, references = plan([str(path)], 1, "test")
        lines = [json.dumps(dataclasses.asdict(r)) for r in references]
        assert [r.n_rows for r in references] == rows
        assert max(map(len, lines)) < 500
        assert [Reference(**json.loads(line)) for line in lines] == references
        assert sum(b.n_rows for r in references for b in read(r, ["image"], 1_024)) == 2_500
