from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.encoders.passport import ImagePart, Passport, TextPart
from raystore.errors import InvalidArguments
from raystore.fine_tune.examples.plan import plan_data
from tests.pictures import PICTURES

ROWS = [
    {
        "id": f"q-{i}",
        "body": f"what the customer said {i}",
        "topic": f"größe {i % 3}",
        "above": "x" if i % 3 else "y",
        "who": i % 4,
    }
    for i in range(12)
]
TEXT = TextPart(pooling="mean", tokenizer="0" * 64, max_length=16)
IMAGE = ImagePart(pooling="pooler", resize="exact", size=(8, 8), kernel="bilinear", rescale=1 / 255)


def passport(**parts: Any) -> Passport:
    return Passport(weights="0" * 64, architecture="Toy", config="0" * 64, dim=4, **parts)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.parquet", ROWS)


def problems(*args: Any, **options: Any) -> list[str]:
    with pytest.raises(InvalidArguments) as caught:
        plan_data(*args, **options)
    assert caught.value.call == "fine_tune"
    return list(caught.value.problems)


def test_a_plan_names_classes_in_order_with_their_rows_and_parents(data: Path) -> None:
    spec = plan_data(data, text="body", label="topic", parent="above", id="id", subject="who", passport=passport(text=TEXT))
    assert spec.classes == ("größe 0", "größe 1", "größe 2")
    assert spec.class_rows == (4, 4, 4)
    assert spec.parents == ("y", "x", "x")
    assert spec.split == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert (spec.n_learned, spec.is_pairs, spec.columns.views) == (3, False, (("body", "text"),))


def test_a_plan_holds_no_content_and_comes_back_from_pickle(data: Path, tmp_path: Path) -> None:
    pool = write(tmp_path / "pool.parquet", [{"body": "something secret"}])
    spec = plan_data(data, text="body", label="topic", id="id", pool=pool)
    text = json.dumps(spec.record())
    assert json.loads(text)["columns"]["label"] == "topic"
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert b"customer" not in pickle.dumps(spec)
    assert "secret" not in text


def test_beside_test_files_val_is_split_off_and_test_gets_no_fraction(data: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.parquet", ROWS[:3])
    assert plan_data(data, text="body", label="topic", test=test).split == {"train": 0.9, "val": 0.1}
    split = {"train": 0.8, "val": 0.1, "test": 0.1}
    assert problems(data, text="body", label="topic", test=test, split=split) == [
        "split= gives a fraction to test, and the test files (test=) are that side already"
    ]


def test_without_test_files_some_of_the_data_has_to_go_to_test(data: Path) -> None:
    for split in ({"train": 0.8, "val": 0.2}, {"train": 1.0, "val": 0.0, "test": 0}):
        assert problems(data, text="body", label="topic", split=split) == [
            "split= gives nothing to test, where the proof is measured: give test a fraction, or test= files"
        ]


def test_what_is_out_of_scope_stands_behind_the_classes_and_is_none_of_them(data: Path, tmp_path: Path) -> None:
    spec = plan_data(data, text="body", label="topic", parent="above", id="id", out_of_scope="größe 1")
    assert (spec.classes, spec.n_learned) == (("größe 0", "größe 2", "größe 1"), 2)
    assert (spec.class_rows, spec.parents) == ((4, 4, 0), ("y", "x", ""))
    test = write(tmp_path / "test.parquet", [*ROWS[:3], ROWS[0] | {"topic": "a stranger"}])
    beside = plan_data(data, text="body", label="topic", test=test, out_of_scope="a stranger")
    assert (beside.classes, beside.n_learned) == (("größe 0", "größe 1", "größe 2", "a stranger"), 3)


def test_a_misspelt_label_out_of_scope_is_refused_with_the_labels_there_are(data: Path, tmp_path: Path) -> None:
    assert problems(data, text="body", label="topic", out_of_scope="grösse 1") == [
        "out_of_scope= is 'grösse 1', which no row has as its label in column 'topic'; there are: 'größe 0', 'größe 1', 'größe 2'"
    ]
    assert problems(data, text="body", pair="topic", out_of_scope="größe 1") == [
        "out_of_scope= is one of the labels, and label= names no column of them"
    ]


def test_integers_and_truth_values_are_labels_and_fractions_are_not(tmp_path: Path) -> None:
    rows = [{"t": "a", "n": 1, "b": True, "f": 0.5}, {"t": "b", "n": 2, "b": False, "f": 1.5}]
    data = write(tmp_path / "numbers.parquet", rows)
    assert plan_data(data, text="t", label="n").classes == ("1", "2")
    assert plan_data(data, text="t", label="b").classes == ("false", "true")
    assert problems(data, text="t", label="f") == [
        f"'{data}': column 'f' (label=) is float64, expected strings, integers or truth values"
    ]


def test_a_folder_of_class_folders_needs_only_its_label_named(tmp_path: Path) -> None:
    for i, picture in enumerate(PICTURES):
        folder = tmp_path / "photos" / ("red" if i < 3 else "blue one")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(picture)
    spec = plan_data(tmp_path / "photos", label="folder", passport=passport(image=IMAGE))
    assert spec.classes == ("blue one", "red")
    assert (spec.columns.image, spec.columns.id) == ("image", "name")


def test_pairs_need_no_labels_and_a_picture_stands_before_its_text(tmp_path: Path) -> None:
    pairs = write(
        tmp_path / "pairs.parquet", [{"q": "a", "a": "b", "i": PICTURES[0]}, {"q": "c", "a": "d", "i": PICTURES[1]}]
    )
    assert plan_data(pairs, text="q", pair="a").columns.views == (("q", "text"), ("a", "text"))
    spec = plan_data(pairs, text="q", image="i", passport=passport(text=TEXT, image=IMAGE))
    assert (spec.columns.views, spec.is_pairs, spec.classes) == ((("i", "image"), ("q", "text")), True, ())


def test_data_of_one_class_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "one.parquet", [{"t": "a", "l": "x"}, {"t": "b", "l": "x"}, {"t": "c", "l": None}])
    assert problems(data, text="t", label="l") == [
        "column 'l' (label=) holds one label in all of 2 rows, and what is one class cannot be told apart: two classes or more are "
        "needed"
    ]


def test_data_without_any_label_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "none.parquet", [{"t": "a", "l": None}, {"t": "b", "l": " "}])
    assert problems(data, text="t", label="l") == ["column 'l' (label=) holds no label in any of 2 rows"]


def test_a_class_with_two_parents_and_one_without_are_both_said(tmp_path: Path) -> None:
    rows = [("a", "p"), ("a", "q"), ("b", "p"), ("c", None)]
    data = write(tmp_path / "torn.parquet", [{"t": "x", "l": label, "p": parent} for label, parent in rows])
    assert problems(data, text="t", label="l", parent="p") == [
        "column 'p' (parent=): there is one class with several parents, expected one of each",
        "column 'p' (parent=): there is one class without a parent",
    ]


def test_test_files_without_a_known_label_are_refused(data: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.parquet", [{"body": "a", "topic": "another"}])
    assert problems(data, text="body", label="topic", test=test) == [
        "no row of the test files (test=) has a label that the data has"
    ]


def test_a_base_of_another_modality_is_refused_by_name(data: Path) -> None:
    said = problems(data, text="body", label="topic", passport=passport(image=IMAGE), base="encoder photos@0123456789ab")
    assert said == ["encoder photos@0123456789ab takes no texts (text=): name a column with image="]


def test_everything_that_is_wrong_with_the_arguments_is_said_at_once(data: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.parquet"
    said = problems(data, image="body", pair="id", parent="nothing", test=missing, split={"train": 0.5}, pool=data)
    assert said == [
        f"no file matches '{missing}' (test=)",
        "split=: the fractions sum to 0.5, expected 1",
        "pair= stands beside text=; pictures with their texts are named image= and text=",
        "parent= needs label=: it is the class above a class",
        f"'{data}': column 'body' (image=) is string, expected the bytes of image files",
        f"'{data}' has no column 'nothing' (parent=); it has: id, body, topic, above, who",
    ]


def test_a_column_cannot_be_content_and_label_and_a_file_not_data_and_test(data: Path) -> None:
    assert problems(data, text="body", label="body", test=data) == [
        "column 'body' is named as text= and as label=",
        f"'{data}' is given as data and as test=",
    ]


def test_three_columns_are_no_pair(data: Path) -> None:
    said = problems(data, text="body", pair="topic", image="who", label="above")
    assert said == [
        "expected one pair, of text= and pair= or of image= and text=, found three columns",
        f"'{data}': column 'who' (image=) is int64, expected the bytes of image files",
    ]


def test_what_is_learned_from_and_by_which_label_have_to_be_said(data: Path) -> None:
    assert problems(data) == [
        "which column is to be learned from? Name it with text= or image=",
        "label= is missing: the column that holds each row's class (of folders of images, 'folder')",
    ]


def test_the_pool_may_be_the_data_s_own_files(data: Path) -> None:
    spec = plan_data(data, text="body", label="topic", pool=data)
    assert (len(spec.sources), len(spec.pool)) == (1, 1)


def test_files_of_one_name_need_ids(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "rows.parquet", ROWS)
    said = problems([tmp_path / "a" / "rows.parquet", tmp_path / "b" / "rows.parquet"], text="body", label="topic")
    assert said == ["two data files have the same name, and without id= ids are made of file names and row numbers"]
