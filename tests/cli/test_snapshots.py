"""Verbs on snapshots."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.cli.conftest import Cli, Studied

SQL = "SELECT t.id, t.product AS label FROM items t"


def test_create_takes_every_rule_and_shows_the_classes(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    store = ("--store", studied.root)
    (tmp_path / "plans.csv").write_text("item,at,plan\ni-000,2025-12-01,gold\ni-001,2025-12-01,free\n")
    assert cli(*store, "table", "register", "plans", tmp_path / "plans.csv", "--id", "item", "--time", "at").code == 0
    create = (
        "snapshot", "create", "ruled", "--sql", "SELECT id, label FROM (SELECT id, product AS label FROM items) WHERE id < $last",
        "--param", "last=i-200", "--label", "majority", "--cap", "20", "--minimum", "5", "--weights", "balanced",
        "--feature", "plan=plans.plan", "--split", ".5,.25,.25",
    )  # fmt: skip
    made = cli(*store, "--json", *create).json
    assert (made["snapshot"], made["new"], made["weights"]) == ("ruled@1", True, "balanced")
    assert {sides["train"] for sides in made["by_class"].values()} == {20}
    assert sum(made["counts"].values()) + sum(made["left_out"].values()) == 200
    assert (made["label"]["rule"], made["features"], made["minimum"]) == ("majority", {"plan": "plans.plan"}, 5)
    rows = pq.read_table(studied.root / "snapshots" / "ruled" / "1" / "rows.parquet").select(["id", "plan"]).to_pylist()
    plans = {row["id"]: row["plan"] for row in rows}
    assert {i: p for i, p in plans.items() if p is not None} == {
        i: p for i, p in (("i-000", "gold"), ("i-001", "free")) if i in plans
    }


def test_event_labels_by_time_leave_out_what_is_still_open(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    store = ("--store", studied.root)
    (tmp_path / "refund.csv").write_text("item,at\n" + "".join(f"i-{i:03},2026-02-20\n" for i in range(0, 240, 2)))
    assert cli(*store, "table", "register", "refund", tmp_path / "refund.csv", "--id", "item", "--time", "at").code == 0
    create = ("snapshot", "create", "events", "--sql", "SELECT t.id, t.id AS entity, t.time FROM items t")
    said = cli(
        *(*store, *create, "--label", "refund within 30 days of t.time", "--as-of", "2026-03-20"),
        *("--split", "time:2026-02-01,2026-02-10"),
    )
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Snapshot events@1: ")
    assert "rows: the window had not closed" in said.out
    shown = cli(*store, "snapshot", "show", "events").out
    assert "by: time, column: time, test: 2026-02-10T00:00:00Z, val: 2026-02-01T00:00:00Z" in shown
    assert shown.splitlines()[-1] == "Its classes by side: raystore snapshot report events@1"


def test_the_same_rows_again_make_no_number_and_that_is_said(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    create = ("snapshot", "create", "again", "--sql", SQL)
    assert cli(*store, *create).out.startswith("Snapshot again@1: 240 rows of 'items'")
    again = cli(*store, *create).out.splitlines()
    assert again[0] == "The same rows by the same rules: again@1 stays the newest."
    refreshed = cli(*store, "--json", "snapshot", "refresh", "again").json
    assert (refreshed["snapshot"], refreshed["new"]) == ("again@1", False)


def test_report_counts_classes_by_side(cli: Cli, studied: Studied) -> None:
    told = cli("--store", studied.root, "--json", "snapshot", "report", "topics@1").json
    assert set(told["by_class"]) == {"card", "login", "money"}
    assert sum(told["counts"].values()) == 240
    lines = cli("--store", studied.root, "snapshot", "report", "topics@1").out.splitlines()
    assert lines[2].split() == ["class", "rows", "train", "share", "val", "share", "test", "share"]


def test_diff_names_rows_that_were_relabelled(cli: Cli, studied: Studied) -> None:
    found = cli("--store", studied.root, "--json", "snapshot", "diff", "topics@1", "topics@2").json
    n = found["counts"]["relabelled"]
    assert (found["counts"]["in"], found["counts"]["out"], found["counts"]["moved"], n > 0) == (0, 0, 0, True)
    assert all(to == "login" for _, to, _ in found["relabelled"])
    shown = cli("--store", studied.root, "snapshot", "diff", "topics@1", "topics@2").out
    assert shown.startswith(f"topics@1 (240 rows) -> topics@2 (240 rows): {n} changes\n")


def test_rebuild_names_what_was_erased_and_ends_with_one_where_the_rows_differ(cli: Cli, studied: Studied) -> None:
    import raystore

    store = ("--store", studied.root)
    assert cli(*store, "collection", "create", "small", "--encoder", "tiny", "--column", "kind=string").code == 0
    rows = "".join(json.dumps({"id": f"s-{i}", "text": f"the card {i}", "kind": "ab"[i % 2]}) + "\n" for i in range(20))
    assert cli(*store, "log", "small", stdin=rows).code == 0
    sql = "SELECT id, kind AS label FROM small"
    assert cli(*store, "snapshot", "create", "small", "--sql", sql, "--split", "1,0,0").code == 0
    whole = cli(*store, "snapshot", "rebuild", "small")
    assert (whole.code, whole.out.split(";")[0]) == (0, "the same rows")
    raystore.open(studied.root).collection("small").table.rows.dataset().delete("id = 's-7'")
    rebuilt = cli(*store, "snapshot", "rebuild", "small")
    assert rebuilt.code == 0
    assert rebuilt.out.splitlines()[0].split(";")[0] == "the same rows, less 1 that were erased"
    assert rebuilt.out.splitlines()[1] == "erased: s-7"
    as_json = cli(*store, "--json", "snapshot", "rebuild", "small").json
    assert (as_json["same"], as_json["erased"], as_json["n_erased"]) == (True, ["s-7"], 1)
    spec = studied.root / "snapshots" / "small" / "1" / "spec.json"
    spec.write_text(spec.read_text().replace(sql, "SELECT id, 'c' AS label FROM small"))
    other = cli(*store, "snapshot", "rebuild", "small")
    assert (other.code, other.out.split(",")[0]) == (1, "other rows than were frozen")


def test_leaks_are_listed_and_are_no_failure(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    found = cli(*store, "--json", "snapshot", "leaks", "topics", "--threshold", "0.5", "--limit", "2")
    assert (found.code, len(found.json["pairs"]), sum(found.json["n_pairs"].values()) > 2) == (0, 2, True)
    shown = cli(*store, "snapshot", "leaks", "topics", "--threshold", "0.5", "--limit", "2")
    assert shown.code == 0
    assert shown.out.startswith("topics@2: 0 entities and 0 ids on two sides, ")


def test_drift_raises_the_alarm_and_ends_with_one_where_asked(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    for name, product in (("cards", "card"), ("logins", "login")):
        sql = f"SELECT id, CASE WHEN price > 0 THEN 'dear' ELSE 'cheap' END AS label FROM items WHERE product = '{product}'"
        assert cli(*store, "snapshot", "create", name, "--sql", sql).code == 0
    shown = cli(*store, "snapshot", "drift", "cards", "logins")
    assert (shown.code, shown.out.split(" (")[0]) == (0, "ALARM: logins@1")
    failed = cli(*store, "--json", "snapshot", "drift", "cards", "logins", "--fail-on-drift")
    assert (failed.code, failed.json["alarm"]) == (1, True)
    same = cli(*store, "--json", "snapshot", "drift", "cards", "cards", "--fail-on-drift")
    assert (same.code, same.json["alarm"]) == (0, False)


def test_export_writes_parquet_with_vectors_and_a_hugging_face_folder(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    store = ("--store", studied.root)
    said = cli(*store, "snapshot", "export", "topics@1", tmp_path / "out", "--vectors")
    assert said.out == f"topics@1 to {tmp_path / 'out'}: spec.json, test.parquet, train.parquet, val.parquet\n"
    assert pq.read_schema(tmp_path / "out" / "train.parquet").names[-1] == "vector"
    other = cli(*store, "--json", "snapshot", "export", "topics@1", tmp_path / "hf", "--format", "huggingface").json
    assert "README.md" in other["files"]
    again = cli(*store, "snapshot", "export", "topics@1", tmp_path / "hf")
    assert again.code == 4
    assert again.err == f"AlreadyExists: folder '{tmp_path / 'hf'}' exists already. Name a new or an empty folder.\n"


def test_a_rule_is_kept_under_a_name_and_used_by_it(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    said = cli(*store, "snapshot", "rule", "mostly", "majority")
    assert said.out == "mostly@1: raystore snapshot create ... --label mostly\n"
    assert cli(*store, "--json", "snapshot", "rule", "mostly", "last").json == {"rule": "mostly@2", "expression": "last"}
    made = cli(*store, "--json", "snapshot", "create", "named", "--sql", SQL, "--label", "mostly@1").json
    assert (made["label"]["named"], made["label"]["rule"]) == ("mostly@1", "majority")
