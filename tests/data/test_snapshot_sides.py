from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.catalog import Catalog
from raystore.data.snapshots.snapshot import SnapshotRecord, freeze, rebuild
from raystore.data.snapshots.split import SIDES, side
from raystore.errors import InvalidArguments, SnapshotRefused
from tests.data.freezing import day, engine_of, log_tickets, spring
from tests.data.toy import make_store

SQL = "SELECT id, n % 2 AS label FROM tickets"
BY_ROW = "SELECT id, n % 2 AS label, id AS entity FROM tickets"


def take(catalog: Catalog, sql: str = SQL, **options: Any) -> SnapshotRecord:
    return freeze(catalog, engine_of(catalog), "parted", sql, **options)


def sides(snapshot: SnapshotRecord) -> dict[str, str]:
    rows = snapshot.rows()
    return dict(zip(rows.column("id").to_pylist(), rows.column("split").to_pylist(), strict=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Sixty tickets a day apart, of twenty customers in turn."""
    catalog = Catalog(make_store(tmp_path_factory.mktemp("sides") / "store"))
    log_tickets(catalog, spring())
    return catalog


# --- by time -----------------------------------------------------------------------------------------------------------


def test_rows_stand_before_between_and_from_the_cuts_on(root: Catalog) -> None:
    split = {"by": "time", "val": day(20).isoformat(), "test": day(40)}
    snapshot = take(root, BY_ROW, split=split)
    assert sides(snapshot) == {f"t-{i:02}": "train" if i < 20 else "val" if i < 40 else "test" for i in range(60)}
    assert snapshot.spec["split"] == {
        "by": "time", "column": "time", "val": "2026-03-21T00:00:00Z", "test": "2026-04-10T00:00:00Z",
    }  # fmt: skip
    assert rebuild(engine_of(root), snapshot).same


def test_an_entity_stands_where_its_first_row_does_and_its_later_rows_are_left_out(root: Catalog) -> None:
    snapshot = take(root, split={"by": "time", "val": "2026-03-11", "test": "2026-03-16"})
    # Customer c-00 first wrote on day 0, c-10 on day 10, c-15 on day 15; each again 20 and 40 days later.
    assert sides(snapshot) == {
        **{f"t-{i:02}": "train" for i in range(10)},
        **{f"t-{i:02}": "val" for i in range(10, 15)},
        **{f"t-{i:02}": "test" for i in range(60) if i % 20 >= 15},
    }
    assert snapshot.spec["left_out"] == {"their entity stands on an earlier side": 30}


def test_fractions_cut_at_the_rows_in_order_of_time(root: Catalog) -> None:
    split = {"by": "time", "train": 0.5, "val": 0.25, "test": 0.25}
    snapshot = take(root, BY_ROW, split=split)
    assert snapshot.spec["counts"] == {"train": 30, "val": 15, "test": 15}
    assert snapshot.spec["split"] == {
        "by": "time", "column": "time", "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
        "val": "2026-03-31T00:00:00Z", "test": "2026-04-15T00:00:00Z",
    }  # fmt: skip
    assert take(root, BY_ROW, split={"by": "time", "train": 0.8, "test": 0.2}).spec["counts"] == {
        "train": 48,
        "val": 0,
        "test": 12,
    }
    assert take(root, BY_ROW, split={"by": "time"}).spec["counts"] == {"train": 48, "val": 6, "test": 6}
    assert take(root, BY_ROW, split={"by": "time", "train": 1}).spec["counts"] == {"train": 60, "val": 0, "test": 0}


def test_rows_of_one_time_stand_on_one_side(root: Catalog) -> None:
    sql = "SELECT id, n % 2 AS label, id AS entity, date_trunc('month', time) AS month FROM tickets"
    snapshot = take(root, sql, split={"by": "time", "column": "month", "train": 0.6, "test": 0.4})
    assert snapshot.spec["counts"] == {"train": 31, "val": 0, "test": 29}
    with pytest.raises(SnapshotRefused, match=r"was not taken: no row stands on train\.$"):
        take(root, sql, split={"by": "time", "column": "month", "train": 0.3, "test": 0.7})


def test_rows_without_a_time_are_left_out_and_counted(root: Catalog) -> None:
    sql = "SELECT id, n % 2 AS label, id AS entity, CASE WHEN n > 4 THEN time END AS seen FROM tickets"
    snapshot = take(root, sql, split={"by": "time", "column": "seen", "test": "2026-04-01"})
    assert snapshot.spec["left_out"] == {"they have no time to split by": 5}
    assert len(sides(snapshot)) == 55


# --- by group ----------------------------------------------------------------------------------------------------------


def test_a_group_stands_on_the_side_its_hash_says(root: Catalog) -> None:
    sql = "SELECT id, n % 2 AS label, 'shop ' || (n % 20 // 2) AS shop FROM tickets"
    split = {"by": "group", "column": "shop", "train": 0.5, "test": 0.5}
    snapshot = take(root, sql, split=split)
    assert sides(snapshot) == {f"t-{i:02}": side(f"shop {i % 20 // 2}", {"train": 0.5, "test": 0.5}) for i in range(60)}
    assert snapshot.spec["split"] == {
        "by": "group", "column": "shop", "fractions": {"train": 0.5, "val": 0.0, "test": 0.5}, "salt": "raystore-split-1",
    }  # fmt: skip


def test_a_group_may_be_a_column_of_the_collection(root: Catalog) -> None:
    snapshot = take(root, split={"by": "group", "column": "subject"})
    assert sides(snapshot) == sides(take(root))


def test_rows_without_a_group_are_left_out_and_counted(root: Catalog) -> None:
    sql = "SELECT id, n % 2 AS label, id AS entity, CASE WHEN n > 6 THEN n END AS shop FROM tickets"
    snapshot = take(root, sql, split={"by": "group", "column": "shop"})
    assert snapshot.spec["left_out"] == {"they have no group": 7}


# --- refused -----------------------------------------------------------------------------------------------------------

REFUSED = {
    "entities in two groups": (
        "SELECT id, n % 2 AS label, n // 10 AS shop FROM tickets", {"by": "group", "column": "shop"},
        "20 entities stand in two groups of 'shop' ('c-00', 'c-01', 'c-02' and 17 more); leave them out, or split by entity",
    ),
    "a group that is not there": (
        SQL, {"by": "group", "column": "shop"},
        "the group to split by is 'shop': its SQL gives no column 'shop', and neither has collection 'tickets'",
    ),
    "a group of floats": (
        "SELECT id, n % 2 AS label, n / 2 AS shop FROM tickets", {"by": "group", "column": "shop"},
        "the group to split by is 'shop', which is double, expected text or integers",
    ),
    "a time that is none": (
        SQL, {"by": "time", "column": "n", "test": "2026-04-01"},
        "the time to split by is 'n', which is int64, expected a time (CAST it AS TIMESTAMP)",
    ),
    "sides beside a rule": (
        "SELECT id, n % 2 AS label, 'train' AS split FROM tickets", {"by": "time"},
        "its SQL gives a column 'split', and split= says by time; it gives: id, label, split",
    ),
    "no given sides": (
        SQL, "given", "its SQL gives no column 'split', which split='given' takes the sides from; it gives: id, label",
    ),
    "a row without a given side": (
        "SELECT id, n % 2 AS label, CASE WHEN n > 4 THEN 'train' END AS split FROM tickets", "given",
        "5 rows have no side in column split, and split='given' gives them none",
    ),
    "nothing before the first cut": (
        SQL, {"by": "time", "test": "2020-01-01"}, "no row stands on train",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_splits_that_the_rows_do_not_allow_are_refused(root: Catalog, reason: str) -> None:
    sql, split, problem = REFUSED[reason]
    with pytest.raises(SnapshotRefused) as refused:
        take(root, sql, split=split)
    assert str(refused.value) == f"snapshot 'parted' was not taken: {problem}."


def test_fractions_that_sum_to_more_than_one_are_refused(root: Catalog) -> None:
    with pytest.raises(InvalidArguments) as refused:
        take(root, split={"train": 0.8, "val": 0.2, "test": 0.2})
    assert str(refused.value) == "snapshot('parted'): the fractions sum to 1.2, expected 1."


def test_given_sides_are_taken_as_they_are(root: Catalog) -> None:
    side = "CASE WHEN n % 20 < 9 THEN 'train' WHEN n % 20 < 12 THEN 'val' ELSE 'test' END"
    sql = f"SELECT id, n % 2 AS label, {side} AS split FROM tickets"
    snapshot = take(root, sql, split="given")
    assert Counter(sides(snapshot).values()) == {"train": 27, "val": 9, "test": 24}
    assert snapshot.spec["split"] == {"by": "given"}


# --- the law -----------------------------------------------------------------------------------------------------------

splits = st.sampled_from(
    [
        None,
        {"train": 0.5, "test": 0.5},
        {"by": "group", "column": "entity", "train": 0.4, "val": 0.3, "test": 0.3},
        {"by": "time", "train": 0.4, "val": 0.3, "test": 0.3},
        {"by": "time", "column": "seen", "val": "2026-03-10", "test": "2026-03-20"},
    ]
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30)), min_size=60, max_size=60), splits)
def test_no_entity_ever_stands_on_two_sides(root: Catalog, drawn: list[tuple[int, int]], split: Any) -> None:
    listed = ", ".join(f"('t-{i:02}', 'e-{e}', TIMESTAMP '{day(d):%Y-%m-%d}')" for i, (e, d) in enumerate(drawn))
    sql = f"SELECT t.id, n AS label, v.entity, v.seen FROM tickets t JOIN (VALUES {listed}) v(id, entity, seen) ON v.id = t.id"
    try:
        snapshot = take(root, sql, split=split, task="number")
    except SnapshotRefused:
        return  # all entities fell outside train
    of: dict[str, set[str]] = {}
    for row in snapshot.rows().to_pylist():
        of.setdefault(row["entity"], set()).add(row["split"])
    assert all(len(found) == 1 for found in of.values())
    assert set().union(*of.values()) <= set(SIDES)
    counts = snapshot.spec["counts"]
    assert sum(counts.values()) + sum(snapshot.spec["left_out"].values()) == 60


def test_times_of_any_zone_are_compared_in_utc(root: Catalog) -> None:
    cut = datetime.fromisoformat("2026-04-01T00:00:00+10:00")
    assert sides(take(root, BY_ROW, split={"by": "time", "test": cut}))["t-31"] == "test"
    assert sides(take(root, BY_ROW, split={"by": "time", "test": cut}))["t-30"] == "train"
