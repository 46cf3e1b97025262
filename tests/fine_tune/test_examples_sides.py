"""Which rows of a spec stand on which side, which stand on none, and whether a run on that can be proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.data.snapshots.split import side
from raystore.errors import InvalidArguments
from raystore.fine_tune.examples.plan import plan_data
from raystore.fine_tune.examples.read import read_pool, read_sides
from raystore.fine_tune.examples.reader import ItemReader
from raystore.fine_tune.examples.types import ids_by_reason
from tests.fine_tune.example_files import IMAGE, passport, text_part, text_reader, tokenizer_json, write
from tests.fine_tune.test_examples import parts, rows, text
from tests.pictures import PICTURES, png

STRANGE = "its label is out of scope, and the test files are the test side"
STRANGE_KIN = "its label is out of scope, and other rows of its entity stand on train or val"


def strangers(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"o-{i}", "text": text(300 + i), "label": "a stranger", "who": f"o-{i}"} for i in range(start, start + n)
    ]


def entity_on(name: str, split: dict[str, float] | Any) -> str:
    return next(f"p-{i}" for i in range(1_000, 2_000) if side(f"p-{i}", split) == name)


def said(spec: Any) -> str:
    with pytest.raises(InvalidArguments) as caught:
        read_sides(spec, text_reader())
    return str(caught.value)


def test_rows_out_of_scope_are_all_on_test_where_that_side_is_split_off(tmp_path: Path) -> None:
    data = write(tmp_path / "data.parquet", [*rows(90), *strangers(20)])
    spec = plan_data(data, text="text", label="label", id="id", out_of_scope="a stranger")
    sides = read_sides(spec, text_reader())
    for part in (sides.train, sides.val):
        assert part.classes == ("l 0", "l 1", "l 2")
        assert set(part.labels.tolist()) == {0, 1, 2}
        assert not [id_ for id_ in part.ids if id_.startswith("o-")]
    assert sides.test.classes == ("l 0", "l 1", "l 2", "a stranger")
    assert [id_ for id_ in sides.test.ids if id_.startswith("o-")] == [f"o-{i}" for i in range(20)]
    assert (sides.test.labels == 3).sum() == 20
    assert sides.set_aside == []
    assert sum(map(len, parts(sides))) == 110


def test_beside_test_files_rows_out_of_scope_of_the_data_are_set_aside_and_counted(tmp_path: Path) -> None:
    data = write(tmp_path / "data.parquet", [*rows(30), *strangers(25)])
    held = write(tmp_path / "held.parquet", [{"id": "t", "text": text(600), "label": "l 1"}, *strangers(2, start=100)])
    spec = plan_data(data, text="text", label="label", id="id", test=held, out_of_scope="a stranger")
    sides = read_sides(spec, text_reader())
    assert sides.test.ids == ("t", "o-100", "o-101")
    assert len(sides.train) + len(sides.val) == 30
    assert sides.set_aside == [(str(data), 30 + i, f"o-{i}", STRANGE) for i in range(25)]
    assert sides.ids_by_reason == {STRANGE: [f"o-{i}" for i in range(20)]}


def test_an_entity_that_is_learned_from_takes_none_of_its_rows_out_of_scope_to_test(tmp_path: Path) -> None:
    found = [*rows(90), *(row | {"who": "p-2"} for row in strangers(2)), *strangers(2, start=5)]
    data = write(tmp_path / "data.parquet", found)
    spec = plan_data(data, text="text", label="label", id="id", subject="who", out_of_scope="a stranger")
    assert side("p-2", spec.split) == "train"
    sides = read_sides(spec, text_reader())
    assert sides.set_aside == [(str(data), 90, "o-0", STRANGE_KIN), (str(data), 91, "o-1", STRANGE_KIN)]
    assert [id_ for id_ in sides.test.ids if id_.startswith("o-")] == ["o-5", "o-6"]
    owners = [set(part.entities.tolist()) for part in parts(sides)]
    assert not owners[2] & (owners[0] | owners[1])


def test_parents_of_what_is_learned_name_no_class_out_of_scope(tmp_path: Path) -> None:
    found = [row | {"above": "even" if i % 3 != 1 else "odd"} for i, row in enumerate(rows(60))]
    data = write(tmp_path / "h.parquet", found + [row | {"above": None} for row in strangers(5)])
    spec = plan_data(data, text="text", label="label", parent="above", id="id", out_of_scope="a stranger")
    train = read_sides(spec, text_reader()).train
    assert train.parents is not None
    assert (train.classes, train.parents.tolist()) == (("l 0", "l 1", "l 2"), [0, 1, 0])


def test_a_test_side_without_a_row_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    split = {"train": 0.8, "val": 0.1, "test": 0.1}
    one = [row | {"who": entity_on("train", split)} for row in [*rows(10), {"id": "n", "text": text(50), "label": None}]]
    spec = plan_data(write(tmp_path / "one.parquet", one), text="text", label="label", id="id", subject="who")
    assert said(spec) == (
        "fine_tune: no row stands on test, where the proof is measured; 10 stand on train, 0 on val, 1 set aside (the label is null): "
        "give test= files, a larger share to test in split=, or more rows."
    )


def test_test_files_of_which_no_row_can_be_used_are_said_with_the_reason(tmp_path: Path) -> None:
    data = write(tmp_path / "data.parquet", rows(20))
    bad = [
        {"id": "t-0", "text": " ", "label": "l 1"},
        {"id": "t-1", "text": "", "label": "l 1"},
        {"id": "t-2", "text": text(9)},
    ]
    spec = plan_data(data, text="text", label="label", id="id", test=write(tmp_path / "held.parquet", bad))
    assert said(spec) == (
        "fine_tune: no row of the test files (test=) can be used, 3 set aside (mostly: the text is empty)."
    )


def test_one_example_a_class_without_test_files_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    found = [row | {"label": f"l {i}"} for i, row in enumerate(rows(40))]
    spec = plan_data(write(tmp_path / "ones.parquet", found), text="text", label="label", id="id")
    fell = [side(row["id"], spec.split) for row in found]
    assert said(spec) == (
        "fine_tune: no row on test has a label that a row on train has "
        f"({fell.count('train')} classes on train, {fell.count('test')} on test): "
        "give test= files, a larger share to test in split=, or more rows of each class."
    )


def test_test_files_of_classes_that_train_has_no_row_of_are_said(tmp_path: Path) -> None:
    found = [row | {"label": "rare" if i == 7 else "often" if i % 2 else "seldom"} for i, row in enumerate(rows(20))]
    data = write(tmp_path / "data.parquet", found)
    twin = {"id": "t", "text": found[7]["text"], "label": "rare"}
    spec = plan_data(data, text="text", label="label", id="id", test=write(tmp_path / "held.parquet", [twin]))
    assert said(spec) == (
        "fine_tune: no row on test has a label that a row on train has (2 classes on train, 1 on test): "
        "give test= files of the classes on train."
    )


def test_data_that_stands_in_test_whole_is_said_to_leave_nothing_to_train_on(tmp_path: Path) -> None:
    data, held = write(tmp_path / "data.parquet", rows(6)), write(tmp_path / "held.parquet", rows(6))
    spec = plan_data(data, text="text", label="label", id="id", test=held)
    assert said(spec) == "fine_tune: no row is left to train on: 0 stand on val, 6 on test, 6 removed as leaks."


def test_a_caption_that_stands_in_test_takes_its_picture_along(tmp_path: Path) -> None:
    found = [{"id": str(i), "image": picture, "text": text(i)} for i, picture in enumerate(PICTURES)]
    held = [
        {"id": "t-0", "image": png((20, 220, 20)), "text": text(4).upper()},
        {"id": "t-1", "image": PICTURES[2], "text": text(90)},
    ]
    base = passport(text_part(), IMAGE)
    spec = plan_data(
        write(tmp_path / "p.parquet", found), image="image", text="text", id="id", passport=base, split={"train": 1.0},
        test=write(tmp_path / "t.parquet", held),
    )  # fmt: skip
    sides = read_sides(spec, ItemReader(base, tokenizer_json()))
    assert sides.train.ids == ("0", "1", "3", "5")
    assert sides.leaks.train == {"entity": 0, "same": 2, "near": 0}
    assert sides.ids_by_reason == {"its content stands in test": ["2", "4"]}


def test_a_pair_turned_round_is_the_same_pair(tmp_path: Path) -> None:
    found = [{"id": str(i), "q": text(i), "a": text(100 + i)} for i in range(8)]
    held = [{"id": "t", "q": found[3]["a"], "a": found[3]["q"]}, {"id": "u", "q": text(300), "a": text(400)}]
    spec = plan_data(
        write(tmp_path / "p.parquet", found), text="q", pair="a", id="id", split={"train": 1.0},
        test=write(tmp_path / "t.parquet", held),
    )  # fmt: skip
    assert [row for _, row, *_ in read_sides(spec, text_reader()).leaks.rows] == [3]


def test_rows_with_two_labels_are_named_and_stay(tmp_path: Path) -> None:
    found = [*rows(12), {"id": "again", "text": text(4).upper(), "label": "l 0"}]
    held = write(tmp_path / "held.parquet", [{"id": "t", "text": text(600), "label": "l 1"}])
    spec = plan_data(
        write(tmp_path / "d.parquet", found), text="text", label="label", id="id", test=held, split={"train": 1.0}
    )
    sides = read_sides(spec, text_reader())
    assert (len(sides.train), sides.leaks.two_labels, sides.leaks.removed) == (13, 2, 0)
    assert sides.ids_by_reason == {"its content stands in train with another label too": ["q-4", "again"]}


def test_a_row_without_an_id_is_named_by_its_file_and_place() -> None:
    reason = "the id is null"
    found = [("a/b/x.parquet", i, None if i else "one", reason) for i in range(30)]
    assert ids_by_reason(found, most=3) == {reason: ["one", "row 1 of x.parquet", "row 2 of x.parquet"]}


def test_a_pool_is_unlabelled_and_holds_nothing_of_val_or_test(tmp_path: Path) -> None:
    data = write(tmp_path / "data.parquet", rows(120))
    sides = read_sides(plan_data(data, text="text", label="label", id="id"), text_reader())
    twins = [text(int(part.ids[0].removeprefix("q-"))).upper() + "!" for part in (sides.val, sides.test)]
    pool = write(tmp_path / "pool.parquet", [{"text": each} for each in (text(900), *twins, text(901), None)])
    found = read_pool(plan_data(data, text="text", label="label", id="id", pool=pool), text_reader())
    assert (found.ids, found.labels.tolist(), found.classes) == (("pool:0", "pool:3"), [-1, -1], ())
    assert found.removed == {"entity": 0, "same": 2, "near": 0}
    assert found.ids_by_reason == {
        "the text is null": ["pool:4"],
        "its content stands in val or test": ["pool:1", "pool:2"],
    }
    both = plan_data(data, text="text", label="label", id="id", pool=data)
    assert len(read_pool(both, text_reader())) == len(sides.train)


def test_rows_of_a_pool_whose_entity_stands_in_val_or_test_are_left_out(tmp_path: Path) -> None:
    found = [*rows(120), *(row | {"who": "p-2"} for row in strangers(1))]
    data = write(tmp_path / "data.parquet", found)
    named: dict[str, Any] = {"text": "text", "label": "label", "id": "id", "subject": "who", "out_of_scope": "a stranger"}
    split = plan_data(data, **named).split
    who = [entity for entity in dict.fromkeys(row["who"] for row in found) if side(entity, split) != "train"]
    asked = [{"text": text(900 + i), "who": entity} for i, entity in enumerate(["p-2", who[0], "nobody", who[-1]])]
    pool = read_pool(plan_data(data, pool=write(tmp_path / "pool.parquet", asked), **named), text_reader())
    # p-2 is learned from: its row out of scope stands nowhere.
    assert pool.ids == ("pool:0", "pool:2")
    assert pool.removed == {"entity": 2, "same": 0, "near": 0}
    assert pool.ids_by_reason == {"its entity stands in val or test": ["pool:1", "pool:3"]}
    plain = write(tmp_path / "plain.parquet", [{"text": each["text"]} for each in asked])
    assert len(read_pool(plan_data(data, pool=plain, **named), text_reader())) == 4


def test_a_pool_of_first_halves_is_sought_among_both_halves_of_test(tmp_path: Path) -> None:
    found = [{"id": str(i), "q": text(i), "a": text(100 + i)} for i in range(20)]
    held = write(tmp_path / "t.parquet", [{"id": "t", "q": text(300), "a": text(400)}])
    pool = write(tmp_path / "pool.parquet", [{"q": text(each)} for each in (300, 400, 500)])
    data = write(tmp_path / "p.parquet", found)
    spec = plan_data(data, text="q", pair="a", id="id", split={"train": 1.0}, test=held, pool=pool)
    read = read_pool(spec, text_reader())
    assert read.ids == ("pool:2",)
    assert np.array_equal(read.labels, [-1])
