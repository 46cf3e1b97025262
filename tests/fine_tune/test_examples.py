"""From a spec to the three sides in memory, and back to the items of given rows."""

from __future__ import annotations

import csv
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raystore.fine_tune.examples.rows as rows_module
from raystore.data.readers import Reference
from raystore.data.snapshots.split import side
from raystore.errors import JobFailed
from raystore.fine_tune.examples.items import stream_items
from raystore.fine_tune.examples.plan import plan_data
from raystore.fine_tune.examples.read import read_sides
from raystore.fine_tune.examples.reader import ItemReader
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Examples, Sides
from tests.fine_tune.example_files import IMAGE, image_reader, passport, text_part, text_reader, tokenizer_json, write
from tests.pictures import PICTURES, png

WORDS = ("zebra", "quiet", "invoice", "harbour", "velvet", "monkey", "tax", "window", "jazz", "pillow", "fog", "needle")
PARTS = ("train", "val", "test")
GREEN = png((20, 220, 20))


def text(i: int) -> str:
    """A sentence that is no near-duplicate of another number's."""
    return " ".join(WORDS[(i * step + i // 12) % 12] + str(i * step) for step in (1, 5, 7))


def rows(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"q-{i}", "text": text(i), "label": f"l {i % 3}", "who": f"p-{i // 2}"} | more for i in range(n)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.parquet", rows(120))


@pytest.fixture
def spec(data: Path) -> DataSpec:
    return plan_data(data, text="text", label="label", id="id", subject="who")


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Test files: two rows beside which all of the data may be train."""
    found = [{"id": f"t-{i}", "text": text(500 + i), "label": label, "who": "t"} for i, label in enumerate(("l 1", "a b"))]
    return write(tmp_path / "held.parquet", found)


def items_of(spec: DataSpec, rows: Examples | Any) -> list[Any]:
    found: dict[int, Any] = {}
    for places, items in stream_items(spec, rows):
        found |= dict(zip(places.tolist(), items, strict=True))
    return [found[place] for place in range(len(found))]


def tokens(content: Any) -> list[list[int]]:
    """The ids of each item without its padding."""
    found = content.inputs(np.arange(len(content)))
    return [ids[mask == 1].tolist() for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True)]


def same_examples(one: Examples, other: Examples) -> bool:
    contents = zip(one.views, other.views, strict=True)
    columns = zip((one.labels, one.entities, one.places), (other.labels, other.entities, other.places), strict=True)
    return (
        one.ids == other.ids
        and all(np.array_equal(a, b) for a, b in columns)  # type: ignore[arg-type]
        and all(tokens(a) == tokens(b) for a, b in contents)
    )


def parts(sides: Sides) -> list[Examples]:
    return [sides.train, sides.val, sides.test]


def test_every_row_stands_on_the_side_of_its_entity_with_its_tokens_and_label(spec: DataSpec) -> None:
    sides = read_sides(spec, text_reader(max_tokens=64))
    assert sum(map(len, parts(sides))) == 120
    assert not sides.leaks.removed
    assert not sides.set_aside
    assert repr(sides.train) == f"Examples({len(sides.train)} rows of text, 3 classes)"
    for name, part in zip(PARTS, parts(sides), strict=True):
        assert len(part)
        numbers = [int(id_.removeprefix("q-")) for id_ in part.ids]
        assert {side(f"p-{i // 2}", spec.split) for i in numbers} == {name}
        assert part.labels.tolist() == [i % 3 for i in numbers]
        assert part.classes == ("l 0", "l 1", "l 2")
        assert part.places is not None
        assert part.places.tolist() == [[0, i] for i in numbers]
    owners = [set(part.entities.tolist()) for part in parts(sides)]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]


def test_two_processes_read_the_same(spec: DataSpec) -> None:
    sent = pickle.loads(pickle.dumps(spec))
    one, other = read_sides(spec, text_reader()), read_sides(sent, text_reader())
    assert all(same_examples(a, b) for a, b in zip(parts(one), parts(other), strict=True))
    assert (one.digest, one.leaks) == (other.digest, other.leaks)


def test_sides_stay_in_their_process(spec: DataSpec) -> None:
    sides = read_sides(spec, text_reader())
    for thing in (sides, sides.train):
        with pytest.raises(TypeError, match="examples stay in the process that read them: send the DataSpec"):
            pickle.dumps(thing)


def test_test_files_are_the_test_side_whole_and_ids_may_stand_in_both(data: Path, tmp_path: Path) -> None:
    held = [row | {"text": text(500 + i)} for i, row in enumerate(rows(9))]
    spec = plan_data(data, text="text", label="label", id="id", test=write(tmp_path / "test.parquet", held))
    sides = read_sides(spec, text_reader())
    assert sides.test.ids == tuple(f"q-{i}" for i in range(9))
    assert len(sides.train) + len(sides.val) == 120
    assert len(sides.val)
    assert sides.test.places is not None
    assert sides.test.places[:, 0].tolist() == [1] * 9


def test_training_cuts_texts_where_99_of_100_end_by_default(tmp_path: Path, held: Path) -> None:
    long = [*rows(300), {"id": "long", "text": "word " * 30, "label": "l 1", "who": "p-0"}]
    path = write(tmp_path / "long.parquet", long)
    spec = plan_data(path, text="text", label="label", id="id", test=held, split={"train": 1.0})
    whole, cut = (read_sides(spec, text_reader(max_tokens=limit)).train.views[0] for limit in (64, None))
    assert whole.lengths().max() == 64
    assert cut.lengths().max() == np.quantile(whole.lengths(), 0.99, method="inverted_cdf") < 64
    assert read_sides(spec, text_reader(max_tokens=8)).train.views[0].lengths().max() == 8


def test_rows_that_cannot_be_used_are_set_aside_with_reasons_that_quote_nothing(tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"label": None}, "the label is null"),
        ({"label": "  "}, "the label is null"),
        ({"text": None}, "the text is null"),
        ({"text": " "}, "the text is empty"),
        ({"text": "a" * 100_001}, "the text has 100001 characters, over the limit of 100000"),
        ({"id": None}, "the id is null"),
        ({"id": "q-0"}, "the id stands in an earlier row"),
    ]
    found = rows(8) + [
        {"id": f"b-{i}", "text": text(90 + i), "label": "l 0", "who": "w"} | b for i, (b, _) in enumerate(bad)
    ]
    path = write(tmp_path / "bad.parquet", found)
    held = write(tmp_path / "held.parquet", [{"id": "t-0", "text": text(500), "label": "l 1"}])
    spec = plan_data(path, text="text", label="label", id="id", test=held, split={"train": 1.0})
    sides = read_sides(spec, text_reader())
    assert len(sides.train) == 8
    assert [(row, reason) for _, row, _, reason in sides.set_aside] == [
        (8 + i, reason) for i, (_, reason) in enumerate(bad)
    ]
    assert [id_ for *_, id_, _ in sides.set_aside] == ["b-0", "b-1", "b-2", "b-3", "b-4", None, "q-0"]


def test_broken_lines_of_text_files_are_set_aside(tmp_path: Path, held: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["text", "label", "who"], [text(1), "a b", ""], [text(2)], [text(3), "ü", "p"], [text(4), "", "p"]]
        )
    spec = plan_data(path, text="text", label="label", subject="who", test=held, split={"train": 1.0})
    sides = read_sides(spec, text_reader())
    assert sides.train.ids == ("rows:0", "rows:2")
    assert sides.train.classes == ("a b", "ü")
    assert sides.train.entities.tolist() == [0, 1]  # an empty subject is none: the row is its own
    reasons = [(row, reason) for _, row, _, reason in sides.set_aside]
    assert reasons == [
        (1, "the row has 1 fields, the header 3"),
        (3, "the label is null"),
        (0, "its label is in no row of the data"),
    ]


def test_test_rows_of_a_label_that_the_data_lacks_are_set_aside(data: Path, tmp_path: Path) -> None:
    held = [{"id": "t-0", "text": text(700), "label": "l 1"}, {"id": "t-1", "text": text(701), "label": "new"}]
    spec = plan_data(data, text="text", label="label", id="id", test=write(tmp_path / "test.parquet", held))
    sides = read_sides(spec, text_reader())
    assert sides.test.ids == ("t-0",)
    assert sides.set_aside == [(str(tmp_path / "test.parquet"), 1, "t-1", "its label is in no row of the data")]


def test_the_digest_follows_the_data_and_not_its_file(spec: DataSpec, tmp_path: Path) -> None:
    def digest(found: list[dict[str, Any]], **options: Any) -> str:
        path = write(tmp_path / "again.parquet", found)
        again = plan_data(path, text="text", label="label", id="id", subject="who")
        return read_sides(again, text_reader(), **options).digest

    one = read_sides(spec, text_reader()).digest
    assert len(one) == 64
    assert digest(rows(120)) == one
    changed = rows(120)
    for column, value in (("text", "something else"), ("label", "l 2"), ("id", "other"), ("who", "nobody")):
        assert digest([changed[0] | {column: value}, *changed[1:]]) != one
    assert digest(rows(120), key=b"k" * 32) != one


def test_pairs_without_labels_are_each_their_own_class(tmp_path: Path) -> None:
    found = [{"id": str(i), "q": text(i), "a": text(1000 + i)} for i in range(40)]
    path = write(tmp_path / "pairs.parquet", found)
    sides = read_sides(plan_data(path, text="q", pair="a", id="id"), text_reader(max_tokens=64))
    assert sides.train.classes == ()
    assert sides.train.labels.tolist() == list(range(len(sides.train)))
    assert [len(view) for view in sides.train.views] == [len(sides.train)] * 2
    expected = [text_reader(max_tokens=64).collector("text") for _ in range(2)]
    for collector, column in zip(expected, "qa", strict=True):
        collector.add([found[int(id_)][column] for id_ in sides.train.ids], [])
    assert [tokens(view) for view in sides.train.views] == [tokens(c.finish(np.arange(9))) for c in expected]


def test_pictures_with_their_texts_are_read_and_a_damaged_picture_takes_its_text_along(tmp_path: Path) -> None:
    pictures = [*PICTURES, b"no image at all", PICTURES[0][:60]]
    found = [{"id": str(i), "image": picture, "text": text(i)} for i, picture in enumerate(pictures)]
    other = {"id": "t", "image": GREEN, "text": text(500)}
    base = passport(text_part(), IMAGE)
    data, held = write(tmp_path / "p.parquet", found), write(tmp_path / "t.parquet", [other])
    spec = plan_data(data, image="image", text="text", id="id", test=held, split={"train": 1.0}, passport=base)
    sides = read_sides(spec, ItemReader(base, tokenizer_json()))
    assert [view.modality for view in sides.train.views] == ["image", "text"]
    assert [len(view) for view in sides.train.views] == [6, 6]
    assert sides.train.views[0].inputs(np.arange(6))["pixel_values"].shape == (6, 3, 16, 16)
    assert [(row, reason) for _, row, _, reason in sides.set_aside] == [
        (6, "the image is no image file"),
        (7, "the image is cut off"),
    ]


def test_a_folder_of_class_folders_is_read(tmp_path: Path) -> None:
    for i, picture in enumerate(PICTURES):
        folder = tmp_path / "photos" / ("red" if i < 3 else "blue one")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(picture)
    (tmp_path / "held" / "red").mkdir(parents=True)
    (tmp_path / "held" / "red" / "0.png").write_bytes(GREEN)
    spec = plan_data(tmp_path / "photos", label="folder", test=tmp_path / "held", split={"train": 1.0})
    sides = read_sides(spec, image_reader(augment=("flip",)))
    assert sides.train.ids == ("blue one/3.png", "blue one/4.png", "blue one/5.png", "red/0.png", "red/1.png", "red/2.png")
    assert sides.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert items_of(spec, sides.train) == [PICTURES[i] for i in (3, 4, 5, 0, 1, 2)]


def test_labels_with_parents_have_codes_of_their_own(tmp_path: Path) -> None:
    found = [row | {"above": "even" if i % 3 != 1 else "odd"} for i, row in enumerate(rows(30))]
    spec = plan_data(write(tmp_path / "h.parquet", found), text="text", label="label", parent="above", id="id")
    parents = read_sides(spec, text_reader()).train.parents
    assert parents is not None
    assert parents.tolist() == [0, 1, 0]


def test_the_items_of_rows_are_read_again_in_their_order(spec: DataSpec) -> None:
    sides = read_sides(spec, text_reader())
    for part in parts(sides):
        assert items_of(spec, part) == [text(int(id_.removeprefix("q-"))) for id_ in part.ids]
    few = sides.train.take(np.array([7, 0, 7, 3]))
    assert items_of(spec, few) == [text(int(id_.removeprefix("q-"))) for id_ in few.ids]
    blocks = list(stream_items(spec, sides.train, block_rows=50))
    assert len(blocks) == 3
    assert [item for _, items in blocks for item in items] == items_of(spec, sides.train)
    assert np.array_equal(np.concatenate([places for places, _ in blocks]), np.arange(len(sides.train)))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 29)), max_size=40), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_items_come_back_whatever_rows_are_asked_for(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, int]], block_rows: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "items"
    folder.mkdir(exist_ok=True)
    paths = [folder / "a.parquet", folder / "b.parquet"]
    if not paths[1].exists():
        for path in paths:
            write(path, [{"id": f"{path.stem}-{i}", "text": f"{path.stem} {i}", "label": str(i % 2)} for i in range(30)])
    whole = plan_data(paths, text="text", label="label", id="id")
    cut = [
        Reference(r.path, r.kind, start, 10, start, start + 10, r.row_group)
        for r in whole.references
        for start in (20, 0, 10)
    ]
    spec = DataSpec(tuple(cut), whole.columns, whole.split, whole.sources, classes=whole.classes)
    found: dict[int, Any] = {}
    for places, items in stream_items(spec, np.array(asked, np.int64).reshape(-1, 2), block_rows=block_rows):
        assert len(items) <= block_rows or len(set(asked)) < len(asked)
        found |= dict(zip(places.tolist(), items, strict=True))
    assert [found[i] for i in range(len(asked))] == [f"{'ab'[source]} {row}" for source, row in asked]


def test_a_file_that_changed_or_is_gone_is_refused(spec: DataSpec, data: Path) -> None:
    os.utime(data, (1, 1))
    with pytest.raises(JobFailed) as caught:
        read_sides(spec, text_reader())
    assert str(caught.value) == (
        f"reading '{data}' to learn from failed: the file changed since the run was planned. "
        "Restore it, or start a new run on what there is now."
    )
    data.unlink()
    with pytest.raises(JobFailed, match="the file is gone"):
        items_of(spec, np.array([[0, 0]]))


def test_an_unforeseen_error_is_told_without_its_words() -> None:
    def work() -> None:
        raise ValueError("a row said: my secret")

    with pytest.raises(JobFailed) as caught:
        rows_module.without_words("reading 'x' to learn from", work)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None
    assert str(caught.value).startswith("reading 'x' to learn from failed: ValueError at test_examples.py:")


def test_every_picture_alike_but_for_its_colour_stays(tmp_path: Path) -> None:
    found = [{"id": str(i), "image": png((40 * (i % 6), 250 - 30 * i, 30 * i)), "label": str(i % 2)} for i in range(8)]
    path, test = write(tmp_path / "p.parquet", found[:6]), write(tmp_path / "t.parquet", found[6:])
    spec = plan_data(path, image="image", label="label", id="id", test=test)
    assert read_sides(spec, image_reader()).leaks.removed == 0


def test_real_questions_are_read_guarded_and_counted(datasets: Path) -> None:
    folder = datasets / "trec6"
    spec = plan_data(
        folder / "train.parquet", text="text", label="label", parent=None, id="id", test=folder / "test.parquet"
    )
    sides = read_sides(spec, text_reader())
    assert len(sides.test) == 500
    assert len(sides.train) + len(sides.val) + sides.leaks.removed == 5_452
    assert sides.leaks.train["same"] + sides.leaks.val["same"] >= 11
    shown = items_of(spec, sides.test.take(np.arange(5)))
    assert all(isinstance(item, str) and item for item in shown)
