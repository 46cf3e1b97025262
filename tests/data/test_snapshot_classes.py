from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raystore.catalog import Catalog
from raystore.data.snapshots.snapshot import SCHEMA, SnapshotRecord, freeze, rebuild
from raystore.errors import InvalidArguments, SnapshotRefused
from tests.data.freezing import engine_of, log_tickets, spring
from tests.data.toy import make_store

# 60 tickets: 'few' 3 of them, 'some' 12, 'most' 45; an entity each.
SQL = "SELECT id, id AS entity, CASE WHEN n < 3 THEN 'few' WHEN n < 15 THEN 'some' ELSE 'most' END AS label FROM tickets"
TRAIN = {"train": 1}


def take(catalog: Catalog, sql: str = SQL, **options: Any) -> SnapshotRecord:
    return freeze(catalog, engine_of(catalog), "classed", sql, **{"split": TRAIN, **options})


def refusal(catalog: Catalog, sql: str = SQL, **options: Any) -> str:
    with pytest.raises(SnapshotRefused) as refused:
        take(catalog, sql, **options)
    return str(refused.value).removeprefix("snapshot 'classed' was not taken: ").removesuffix(".")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    catalog = Catalog(make_store(tmp_path_factory.mktemp("classes") / "store"))
    log_tickets(catalog, spring())
    return catalog


# --- minimum, cap, weights ---------------------------------------------------------------------------------------------


def test_classes_with_fewer_rows_than_the_minimum_are_left_out_and_counted(root: Catalog) -> None:
    snapshot = take(root, minimum=4)
    assert snapshot.spec["classes"] == {"most": 45, "some": 12}
    assert snapshot.spec["left_out"] == {"their class has fewer than 4 rows": 3}
    assert snapshot.spec["too_small"] == {"few": 3}
    assert take(root, minimum=3).spec["too_small"] == {}


def test_a_cap_keeps_the_rows_of_a_class_whose_ids_hash_lowest_on_train_alone(root: Catalog) -> None:
    snapshot = take(root, cap=10)
    assert snapshot.spec["classes"] == {"few": 3, "most": 10, "some": 10}
    assert snapshot.spec["left_out"] == {"their class has more than 10 rows on train": 37}
    ids = sorted(
        (f"t-{i:02}" for i in range(15, 60)), key=lambda i: hashlib.sha256(b"raystore-cap-1\0" + i.encode()).hexdigest()
    )
    assert [i for i in snapshot.rows().column("id").to_pylist() if i >= "t-15"] == sorted(ids[:10])
    halves = take(root, split={"train": 0.5, "test": 0.5})
    capped = take(root, split={"train": 0.5, "test": 0.5}, cap=2)
    assert capped.spec["counts"]["test"] == halves.spec["counts"]["test"]
    assert capped.spec["by_class"]["most"]["train"] == 2
    assert rebuild(engine_of(root), capped).same


def test_a_smaller_cap_keeps_a_part_of_what_a_larger_one_keeps(root: Catalog) -> None:
    kept = [set(take(root, cap=cap).rows().column("id").to_pylist()) for cap in (1, 5, 20, 100)]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert len(kept[3]) == 60


def test_balanced_weights_are_those_of_scikit_learn_times_the_sqls_own(root: Catalog) -> None:
    from sklearn.utils.class_weight import compute_sample_weight

    sql = SQL.replace(" FROM", ", n + 1 AS weight FROM")
    split = {"train": 0.7, "test": 0.3}
    plain, balanced = take(root, sql, split=split), take(root, sql, split=split, weights="balanced")
    rows, weighed = plain.rows().to_pylist(), balanced.rows().to_pylist()
    train = [i for i, row in enumerate(rows) if row["split"] == "train"]
    factors = compute_sample_weight("balanced", [rows[i]["label"] for i in train])
    assert [weighed[i]["weight"] for i in train] == pytest.approx(
        [rows[i]["weight"] * f for i, f in zip(train, factors, strict=True)]
    )
    assert all(a["weight"] == b["weight"] for a, b in zip(rows, weighed, strict=True) if a["split"] == "test")
    assert balanced.hash != plain.hash


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cap": 0}, "cap=0 is no number of rows from 1 on"),
        ({"minimum": 2.5}, "minimum=2.5 is no number of rows from 1 on"),
        ({"cap": True}, "cap=True is no number of rows from 1 on"),
        ({"weights": "equal"}, "weights='equal', expected 'balanced' or None (the SQL's column weight is used in any case)"),
        ({"task": "ranking"}, "task='ranking' is none, expected classes, labels, number"),
        ({"task": "number", "cap": 3}, "cap= is about classes, task='number' has none of its own"),
        ({"task": "labels", "weights": "balanced"}, "weights= is about classes, task='labels' has none of its own"),
        (
            {"task": "number", "label": "majority"},
            "label='majority' makes classes, expected first, last or 'sql: ...' with task='number'",
        ),
        (
            {"label": 3},
            "label= is a int, expected first, last, majority, any, 'any:VALUE', 'sql: EXPRESSION' "
            "or 'EVENTS within 30 days of t.time'",
        ),
        ({"params": [1]}, "params= is a list, expected a mapping: $name in the SQL, {'name': value} here"),
        ({"params": {"x": float("nan")}}, "parameter 'x' is nan, which the spec cannot keep"),
        ({"features": ["x"]}, "features= is a list, expected a mapping like {'plan': 'accounts.plan'}"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_refused(root: Catalog, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        take(root, **options)
    assert str(refused.value) == f"snapshot('classed'): {problem}."


# --- classes -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_classes_are_counted_one_by_one(tmp_path: Any) -> None:
    catalog = Catalog(make_store(tmp_path / "store"))
    log_tickets(catalog, [{"id": f"t-{i:05}"} for i in range(10_000)])
    snapshot = take(catalog, "SELECT id, id AS label FROM tickets")
    assert len(snapshot.classes) == len(snapshot.spec["by_class"]) == 10_000
    assert snapshot.spec["by_class"]["t-00007"] == {"train": 1, "val": 0, "test": 0}
    assert "and 9,970 more classes with 9,970 rows" in snapshot.report()
    said = refusal(catalog, "SELECT id, id AS label FROM tickets", split=None)
    assert said.endswith("; give them more entities, leave them out (minimum=1 does), or raise train")
    assert "classes have no row in train ('t-" in said
    kept = take(catalog, "SELECT id, id AS label FROM tickets", split=None, minimum=1)
    absent = kept.spec["not_in_train"]
    assert kept.spec["left_out"] == {"their class has no row on train": len(absent)}
    assert len(kept.classes) == kept.spec["counts"]["train"] == 10_000 - len(absent)
    assert set(kept.classes).isdisjoint(absent)
    assert f"classes without a row on train: '{min(absent)}' (1), " in kept.report()
    assert rebuild(engine_of(catalog), kept).same


def test_one_class_and_a_class_with_one_row(root: Catalog) -> None:
    assert refusal(root, "SELECT id, 'same' AS label FROM tickets") == "train holds one class only ('same')"
    lone = "SELECT id, CASE n WHEN 7 THEN 'lone' ELSE (n % 2)::VARCHAR END AS label, {} AS split FROM tickets"
    said = refusal(root, lone.format("CASE WHEN n % 20 = 7 THEN 'test' ELSE 'train' END"), split="given")
    assert (
        said
        == "1 classes have no row in train ('lone'); give them more entities, leave them out (minimum=1 does), or raise train"
    )
    assert take(root, lone.format("'train'"), split="given").spec["classes"]["lone"] == 1
    assert take(
        root, lone.format("CASE WHEN n % 20 = 7 THEN 'test' ELSE 'train' END"), split="given", minimum=2
    ).classes == ["0", "1"]


FLOATS = {
    "n / 2": "its labels are double, expected text, integers or booleans; CASE or width_bucket makes classes of them; "
    "task='number' predicts them as they are",
    "CAST(n AS DECIMAL(9, 1))": "its labels are decimal128(9, 1), expected text, integers or booleans; "
    "all are near whole numbers: CAST(label AS INTEGER) makes classes of them; task='number' predicts them as they are",
    "CAST(n AS DOUBLE) * 0.1 * 10": "its labels are double, expected text, integers or booleans; "
    "all are near whole numbers: CAST(label AS INTEGER) makes classes of them; task='number' predicts them as they are",
    "CASE WHEN n < 3 THEN 'nan'::DOUBLE ELSE n END": "its labels are double, expected text, integers or booleans; "
    "3 of them are NaN; the others are near whole numbers: CAST(label AS INTEGER) makes classes of them; "
    "task='number' predicts them as they are",
    "[n]": "its labels are list<l: int64>, expected text, integers or booleans; task='labels' takes lists",
    "time": "its labels are timestamp[us, tz=UTC], expected text, integers or booleans (CAST them in the SQL)",
}


@pytest.mark.parametrize("label", FLOATS)
def test_labels_that_are_no_classes_are_refused_with_what_to_do(root: Catalog, label: str) -> None:
    assert refusal(root, f"SELECT id, {label} AS label FROM tickets").replace("element", "l") == FLOATS[label]


# --- several labels a row, and numbers ---------------------------------------------------------------------------------


def test_a_row_may_have_several_labels_or_none(root: Catalog) -> None:
    sql = "SELECT id, list_filter(['b', CASE n % 2 WHEN 0 THEN 'a' END, 'b'], lambda x: x IS NOT NULL AND n > 5) AS label FROM tickets"
    snapshot = take(root, sql, task="labels")
    rows = snapshot.rows()
    assert rows.schema.field("label").type == pa.list_(pa.string())
    assert not rows.schema.field("label").nullable
    assert rows.column("label").to_pylist()[4:8] == [[], [], ["a", "b"], ["b"]]
    assert snapshot.spec["classes"] == {"a": 27, "b": 54}
    assert snapshot.spec["counts"] == {"train": 60, "val": 0, "test": 0}
    assert snapshot.task == "labels"
    assert rebuild(engine_of(root), snapshot).same


def test_labels_are_gathered_from_rows_by_an_expression(root: Catalog) -> None:
    sql = "SELECT id, unnest(['x', 'y', (n % 3)::VARCHAR]) AS label FROM tickets"
    snapshot = take(root, sql, task="labels", label="sql: list(label)")
    assert snapshot.rows().column("label").to_pylist()[4] == ["1", "x", "y"]
    assert snapshot.spec["conflicts"] is None
    assert "conflicts" not in snapshot.report()


def test_the_report_of_numbers_has_their_range_by_side(root: Catalog) -> None:
    snapshot = take(root, "SELECT id, n * 0.5 AS label FROM tickets", task="number")
    labels = np.sort(snapshot.rows()["label"].to_numpy())
    lines = [line.split() for line in snapshot.report().splitlines()]
    assert ["side", "rows", "min", "median", "max"] in lines
    middle = float(np.median(labels))
    assert ["train", str(len(labels)), *(f"{x:.6g}" for x in (labels[0], middle, labels[-1]))] in lines


def test_numbers_are_kept_as_they_are(root: Catalog) -> None:
    snapshot = take(root, "SELECT id, n / 2 AS label FROM tickets", task="number")
    assert snapshot.rows().column("label").to_pylist()[:3] == [0.0, 0.5, 1.0]
    assert (snapshot.classes, snapshot.spec["classes"], snapshot.spec["by_class"]) == ([], {}, {})
    assert "numbers" in repr(snapshot)
    assert take(root, "SELECT id, unnest([n, n + 1]) AS label FROM tickets", task="number", label="sql: avg(label)").hash
    assert rebuild(engine_of(root), snapshot).same


OTHER_TASKS = {
    "text for numbers": ("'x'", "number", "its labels are string, expected numbers with task='number'"),
    "NaN": (
        "CASE WHEN n < 4 THEN 'nan'::DOUBLE WHEN n < 5 THEN 'inf'::DOUBLE ELSE n END", "number",
        "5 labels are NaN or infinite ('t-00', 't-01', 't-02' and 2 more); leave them out: WHERE isfinite(label)",
    ),
    "no number": ("CASE WHEN n > 0 THEN n END", "number", "1 rows have no label ('t-00'); leave them out: WHERE label IS NOT NULL"),
    "text for lists": (
        "'x'", "labels", "its labels are string, expected a list of text a row with task='labels', as list(label) gives",
    ),
    "a null inside": (
        "['a', CASE WHEN n > 1 THEN 'b' END]", "labels",
        "2 lists of labels hold a null ('t-00', 't-01'); list_filter takes them out",
    ),
    "no label at all": ("CAST([] AS VARCHAR[])", "labels", "no row has a label"),
}  # fmt: skip


@pytest.mark.parametrize("reason", OTHER_TASKS)
def test_labels_that_do_not_fit_the_task_are_refused(root: Catalog, reason: str) -> None:
    label, task, problem = OTHER_TASKS[reason]
    assert refusal(root, f"SELECT id, {label} AS label FROM tickets", task=task) == problem


# --- the report --------------------------------------------------------------------------------------------------------


def test_the_report_shows_classes_by_side_what_was_left_out_and_conflicts(root: Catalog) -> None:
    split = "CASE WHEN n % 20 < 15 THEN 'train' ELSE 'test' END"
    sql = f"SELECT id, {split} AS split, CASE WHEN n < 3 THEN '<few>' ELSE 'n ' || n % 2 END AS label, n AS at FROM tickets"
    sql += f" UNION ALL SELECT id, {split}, 'n 0', -1 FROM tickets WHERE n = 15"
    snapshot = take(root, sql, split="given", label="last", minimum=4)
    assert snapshot.report().splitlines() == [
        f"Snapshot {snapshot.label}: 57 rows of 'tickets' (42 train, 0 val, 15 test), hash {snapshot.hash[:12]}",
        "",
        "class  rows  train  share  val  share  test  share",
        "n 1      29     20  47.6%    0      -     9  60.0%",
        "n 0      28     22  52.4%    0      -     6  40.0%",
        "",
        "left out: 3 rows: their class has fewer than 4 rows",
        "classes left out: '<few>' (3)",
        "conflicts: 1 ids had several different labels",
    ]
    html = snapshot._repr_html_()
    assert f"Snapshot {snapshot.label}: 57 rows of" in html
    assert "&lt;few&gt;" in html
    assert "<few>" not in html


def test_the_spec_counts_rows_by_class_and_side(root: Catalog) -> None:
    snapshot = take(root, split={"train": 0.6, "val": 0.2, "test": 0.2}, minimum=4)
    rows = snapshot.rows().to_pylist()
    found = Counter((row["label"], row["split"]) for row in rows)
    assert snapshot.spec["by_class"] == {c: {s: found[c, s] for s in ("train", "val", "test")} for c in ("most", "some")}
    assert snapshot.rows().schema == SCHEMA
