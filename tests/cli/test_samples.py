"""Items of the user's own files, for verbs that measure."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from raystore.cli.samples import parse_prices, read_sample
from raystore.errors import InvalidArguments


def csv(folder: Path, name: str, rows: list[str]) -> str:
    (folder / name).write_text("body,label\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def test_a_sample_lies_all_over_the_files(tmp_path: Path) -> None:
    one = csv(tmp_path, "one.csv", [f"a{i},x" for i in range(100)])
    two = csv(tmp_path, "two.csv", [f"b{i},y" for i in range(100)])
    found = read_sample([one, two], content="body", label="label", limit=20, call="bench")
    assert found.items == [f"a{i}" for i in range(0, 100, 10)] + [f"b{i}" for i in range(0, 100, 10)]
    assert found.labels == ["x"] * 10 + ["y"] * 10
    assert read_sample([one], content="body", label=None, limit=1_000, call="bench").labels is None


def test_large_files_are_read_at_places_all_over_them(tmp_path: Path) -> None:
    big = csv(tmp_path, "big.csv", [f"t{i},x" for i in range(60_000)])
    items = read_sample([big], content="body", label=None, limit=40, call="bench").items
    assert items is not None
    numbers = [int(str(item)[1:]) for item in items]
    assert len(numbers) == 40
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert numbers[-1] > 40_000


def test_rows_without_content_or_label_and_small_classes_are_left_out(tmp_path: Path) -> None:
    rows = [f"a{i},x" for i in range(5)] + [f"b{i},y" for i in range(4)] + [",x", "c,"]
    found = read_sample([csv(tmp_path, "f.csv", rows)], content="body", label="label", limit=100, call="bench")
    assert (found.items, found.labels) == ([f"a{i}" for i in range(5)], ["x"] * 5)
    assert found.left_out == 1  # has no content


def test_images_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "empty.png").touch()
    found = read_sample([str(tmp_path)], content="image", label=None, limit=100, call="bench")
    assert (len(found.items or []), found.left_out) == (4, 1)


def test_a_folder_of_images_has_its_folders_names_as_labels(tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / "photos" / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    found = read_sample([str(tmp_path / "photos")], content="image", label="folder", limit=100, call="bench")
    assert found.labels == ["cats"] * 6 + ["dogs"] * 6
    assert found.items is not None
    assert all(isinstance(item, bytes) and item.startswith(b"\x89PNG") for item in found.items)


def test_nothing_usable_is_said_without_a_row(tmp_path: Path) -> None:
    file = csv(tmp_path, "f.csv", ["SECRET,x"])
    for label, said in (
        (None, "the sample holds 1 usable rows, expected at least 2"),
        ("label", "no class has 5 rows or more in the sample: take more rows, or leave the label out"),
    ):
        with pytest.raises(InvalidArguments) as caught:
            read_sample([file], content="body", label=label, limit=10, call="bench")
        assert str(caught.value) == f"bench: {said}."


def test_prices_are_read_as_people_write_them() -> None:
    assert parse_prices(["cpu=0.20/h", "gpu=3"], "bench") == {"cpu": 0.2, "gpu": 3.0}
    assert parse_prices([], "bench") == {}
    with pytest.raises(InvalidArguments) as caught:
        parse_prices(["cpu", "gpu=-1/h", "cpu=nan", "tpu=1/h"], "bench")
    assert str(caught.value) == "bench: " + "; ".join(
        f"'{bad}' is no price, expected one like cpu=0.20/h or gpu=3/h" for bad in ("cpu", "gpu=-1/h", "cpu=nan", "tpu=1/h")
    ) + "."  # fmt: skip
