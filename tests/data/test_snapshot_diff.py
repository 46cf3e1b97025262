from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.snapshots.diff import KINDS, SnapshotDiff, diff
from raystore.errors import InvalidArguments
from tests.data.frozen import frozen

BEFORE = [
    {"id": "a", "label": "refund"},
    {"id": "b", "label": "refund"},
    {"id": "c", "label": "none"},
    {"id": "d", "label": "none", "split": "test"},
    {"id": "e", "label": "none"},
]
AFTER = [
    {"id": "b", "label": "none", "split": "val"},
    {"id": "c", "label": "none", "weight": 2.0},
    {"id": "d", "label": "none", "split": "train"},
    {"id": "e", "label": "none"},
    {"id": "f", "label": "<late>"},
]


@pytest.fixture
def changed(tmp_path: Path) -> SnapshotDiff:
    return diff(frozen(tmp_path, BEFORE), frozen(tmp_path, AFTER, number=2))


def test_a_diff_counts_and_lists_what_came_went_and_changed(changed: SnapshotDiff) -> None:
    assert (changed.a, changed.b, changed.rows, changed.same_hash) == ("refunds@1", "refunds@2", (5, 5), False)
    assert changed.counts == {"in": 1, "out": 1, "relabelled": 1, "moved": 2, "reweighted": 1, "features": 0}
    assert changed.ids == {
        "in": ["f"],
        "out": ["a"],
        "relabelled": ["b"],
        "moved": ["b", "d"],
        "reweighted": ["c"],
        "features": [],
    }
    assert changed.relabelled == [("refund", "none", 1)]
    assert changed.moved == [("test", "train", 1), ("train", "val", 1)]
    assert changed


def test_a_diff_says_it_by_class(changed: SnapshotDiff) -> None:
    nothing = dict.fromkeys(("before", "after", "in", "out", "gained", "lost", "moved", "reweighted"), 0)
    assert changed.by_class == {
        "<late>": nothing | {"after": 1, "in": 1},
        "none": nothing | {"before": 3, "after": 4, "gained": 1, "moved": 2, "reweighted": 1},
        "refund": nothing | {"before": 2, "out": 1, "lost": 1, "moved": 1},
    }


def test_a_diff_reads_as_text_as_html_and_as_json(changed: SnapshotDiff) -> None:
    assert str(changed).splitlines()[:4] == [
        "refunds@1 (5 rows) -> refunds@2 (5 rows): 6 changes",
        "",
        "change      rows  first ids",
        "in             1  f",
    ]
    assert "from    to    rows\nrefund  none     1" in str(changed)
    assert "&lt;late&gt;</td>" in changed._repr_html_()
    assert "<late>" not in changed._repr_html_()
    assert json.loads(json.dumps(changed.to_dict()))["moved"] == [["test", "train", 1], ["train", "val", 1]]


def test_a_snapshot_does_not_differ_from_itself(tmp_path: Path) -> None:
    snapshot = frozen(tmp_path, [{"id": "a", "label": "x", "weight": float("nan")}, {"id": "b", "label": "y"}])
    same = diff(snapshot, snapshot)
    assert not same
    assert str(same).startswith("refunds@1 (2 rows) -> refunds@1 (2 rows): the same content\n")


def test_lists_are_bounded_and_counts_are_not(tmp_path: Path) -> None:
    rows = [{"id": f"t-{i}", "label": "x"} for i in range(50)]
    found = diff(frozen(tmp_path, rows[:1]), frozen(tmp_path, rows, number=2), limit=2)
    assert (found.counts["in"], found.ids["in"]) == (49, ["t-1", "t-10"])


def test_labels_of_a_multi_label_row_have_no_order(tmp_path: Path) -> None:
    before = frozen(
        tmp_path, [{"id": "a", "label": ["x", "y"]}, {"id": "b", "label": ["x"]}, {"id": "c", "label": []}], task="labels"
    )
    after = [{"id": "a", "label": ["y", "x"]}, {"id": "b", "label": ["x", "z"]}, {"id": "c", "label": ["x"]}]
    found = diff(before, frozen(tmp_path, after, number=2, task="labels"))
    assert found.ids["relabelled"] == ["b", "c"]
    assert {label: (row["before"], row["after"], row["gained"], row["lost"]) for label, row in found.by_class.items()} == {
        "x": (2, 3, 1, 0),
        "y": (1, 1, 0, 0),
        "z": (0, 1, 1, 0),
    }
    assert found.relabelled == []


def test_numbers_that_changed_are_relabelled_and_have_no_classes(tmp_path: Path) -> None:
    before = frozen(tmp_path, [{"id": "a", "label": 1.0}, {"id": "b", "label": 2.0}], task="number")
    found = diff(before, frozen(tmp_path, [{"id": "a", "label": 1.5}, {"id": "b", "label": 2.0}], number=2, task="number"))
    assert found.ids["relabelled"] == ["a"]
    assert (found.by_class, found.relabelled) == ({}, [])


def test_features_that_changed_are_counted_one_by_one(tmp_path: Path) -> None:
    before = [{"id": i, "label": "x", "plan": "free", "age": float("nan"), "gone": None} for i in "abc"]
    after: list[dict[str, Any]] = [
        {"id": i, "label": "x", "plan": "paid" if i == "a" else "free", "age": float("nan"), "new": i} for i in "abc"
    ]
    after[2]["new"] = None
    found = diff(frozen(tmp_path, before), frozen(tmp_path, after, number=2))
    assert found
    assert found.features == {"plan": 1, "age": 0, "gone": 0, "new": 2}
    assert (found.counts["features"], found.ids["features"]) == (2, ["a", "b"])
    assert found.to_dict()["features"] == found.features
    assert "feature  rows\nplan        1\nnew         2" in str(found)


def test_snapshots_of_different_collections_and_tasks_are_not_compared(tmp_path: Path) -> None:
    one = frozen(tmp_path, [{"id": "a", "label": "x"}])
    other = frozen(tmp_path, [{"id": "a", "label": 1.0}], name="prices", task="number", collection="photos")
    with pytest.raises(InvalidArguments) as refused:
        diff(one, other, limit=-1)
    assert str(refused.value) == (
        "diff of refunds@1 and prices@1: refunds@1 is of collection 'tickets' and prices@1 of 'photos'; "
        "the labels of refunds@1 are classes and those of prices@1 number; limit is -1, expected 0 or more."
    )


ROWS = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.fixed_dictionaries({
        "label": st.sampled_from(["x", "y", "ü"]),
        "split": st.sampled_from(["train", "val", "test"]),
        "weight": st.sampled_from([1.0, 2.0]),
        "plan": st.sampled_from(["free", "paid", None]),
    }),
    max_size=8,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(before=ROWS, after=ROWS)
def test_a_diff_is_what_dictionaries_say(
    before: dict[str, Any], after: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    one, other = ([{"id": i, **row} for i, row in rows.items()] for rows in (before, after))
    found = diff(frozen(folder, one), frozen(folder, other, number=2))
    both = before.keys() & after.keys()

    def differing(column: str) -> set[str]:
        return {i for i in both if before[i][column] != after[i][column]}

    wanted = [
        after.keys() - before.keys(),
        before.keys() - after.keys(),
        *map(differing, ("label", "split", "weight", "plan")),
    ]
    assert found.ids == {kind: sorted(ids, key=str.encode) for kind, ids in zip(KINDS, wanted, strict=True)}
    labels = [Counter(row["label"] for row in rows.values()) for rows in (before, after)]
    assert {label: (row["before"], row["after"]) for label, row in found.by_class.items()} == {
        label: (labels[0][label], labels[1][label]) for label in labels[0] | labels[1]
    }
    for row in found.by_class.values():
        assert row["after"] - row["before"] == row["in"] - row["out"] + row["gained"] - row["lost"]
