from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.snapshots.event_label import event_where
from raystore.data.snapshots.snapshot import SnapshotRecord, freeze, rebuild
from raystore.data.snapshots.split import moment
from raystore.data.tables.table import open_table, refresh_table, register_table
from raystore.errors import InvalidArguments, SnapshotRefused, SqlRefused
from tests.data.freezing import DAY, day, engine_of, log_tickets, register_events, spring
from tests.data.toy import ToyEncoder, some_rows

SQL = "SELECT t.id FROM tickets t"
RULE = "refund within 7 days of t.time"
LATER = "2026-06-01"  # all windows of spring() have closed
TRAIN = {"train": 1}
SECOND = timedelta(seconds=1)


def refunds(*customers_and_days: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"customer": c, "at": day(d), "amount": 5 + i} for i, (c, d) in enumerate(customers_and_days)]


def take(catalog: Catalog, sql: str = SQL, **options: Any) -> SnapshotRecord:
    given = {"label": RULE, "as_of": LATER, "split": TRAIN, **options}
    return freeze(catalog, engine_of(catalog), "refunds", sql, **given)


def labels(snapshot: SnapshotRecord) -> dict[str, str]:
    rows = snapshot.rows()
    return dict(zip(rows.column("id").to_pylist(), rows.column("label").to_pylist(), strict=True))


def positives(snapshot: SnapshotRecord) -> list[str]:
    return [i for i, label in labels(snapshot).items() if label == "refund"]


@pytest.fixture
def shop(catalog: Catalog) -> Catalog:
    """Tickets t-00 to t-59, a day apart, of customers c-00 to c-19 in turn; c-03 got a refund on day 5."""
    log_tickets(catalog, spring())
    register_events(catalog, "refund", refunds(("c-03", 5)))
    return catalog


# --- what the label is -------------------------------------------------------------------------------------------------


def test_an_item_is_labelled_by_whether_an_event_of_its_subject_follows_within_the_window(shop: Catalog) -> None:
    snapshot = take(shop)  # c-03 wrote on days 3, 23 and 43
    assert positives(snapshot) == ["t-03"]
    assert snapshot.spec["classes"] == {"no_refund": 59, "refund": 1}
    assert snapshot.spec["label"] == {"rule": RULE, "complete_to": "2026-06-01T00:00:00Z"}
    assert snapshot.versions == {"tickets": CollectionTable.open(shop.layout, "tickets").version, "refund": 1}
    assert snapshot.spec["left_out"] == {}
    assert rebuild(engine_of(shop), snapshot).same


@pytest.mark.parametrize(
    ("at", "is_refund"),
    [
        (day(3) - SECOND, False),  # before
        (day(3), False),  # at the same moment is not after
        (day(3) + timedelta(microseconds=1), True),
        (day(10), True),  # the end of the window belongs to it
        (day(10) + timedelta(microseconds=1), False),
    ],
)
def test_only_events_strictly_after_the_item_and_up_to_the_windows_end_count(
    catalog: Catalog, at: Any, is_refund: bool
) -> None:
    log_tickets(catalog, spring(6))
    register_events(catalog, "refund", [{"customer": "c-03", "at": at}, {"customer": "c-05", "at": day(5.5)}])
    assert ("t-03" in positives(take(catalog))) == is_refund


@pytest.mark.parametrize(("window", "last"), [("30 minutes", 30), ("2 hours", 120), ("1 days", 1_440), ("1 week", 10_080)])
def test_windows_are_in_minutes_hours_days_and_weeks(catalog: Catalog, window: str, last: int) -> None:
    log_tickets(catalog, [{"id": f"t-{i}", "subject": f"c-{i}", "time": day(0)} for i in range(3)])
    late = [(f"c-{i}", (last + i - 1) / 1_440) for i in range(3)]
    register_events(catalog, "refund", refunds(*late))
    assert positives(take(catalog, label=f"refund within {window} of t.time")) == ["t-0", "t-1"]


def test_a_window_that_has_not_closed_leaves_the_row_out_and_never_labels_it(shop: Catalog) -> None:
    snapshot = take(shop, as_of=day(30).isoformat())
    assert sorted(labels(snapshot)) == [f"t-{i:02}" for i in range(24)]  # day 23 + 7 = day 30
    assert snapshot.spec["left_out"] == {
        "the window had not closed": 7,
        "their time is after the snapshot's moment": 29,  # the SQL does not see them
    }


def test_an_early_event_does_not_let_a_row_in_before_its_window_closes(catalog: Catalog) -> None:
    log_tickets(catalog, spring(20))
    register_events(catalog, "refund", refunds(("c-01", 2), ("c-10", 10.5)))
    snapshot = take(catalog, as_of=day(15).isoformat())
    assert positives(snapshot) == ["t-01"]
    assert "t-10" not in labels(snapshot)


def test_without_as_of_events_are_known_until_their_table_was_registered(catalog: Catalog) -> None:
    """A table that nobody brought up to date says nothing of what came after it."""
    log_tickets(catalog, spring(20))
    register_events(catalog, "refund", refunds(("c-01", 2)))
    snapshot = take(catalog, as_of=None)
    published = open_table(catalog, "refund").published_at
    assert moment(snapshot.spec["label"]["complete_to"]) == moment(published) < moment(snapshot.spec["as_of"])
    recent = moment(published) - timedelta(days=7) + timedelta(seconds=30)
    log_tickets(catalog, [{"id": "recent", "subject": "c-50", "time": recent}])
    again = take(catalog, as_of=None)
    assert "recent" not in labels(again)
    assert again.number == snapshot.number


def known_until(snapshot: SnapshotRecord) -> datetime:
    return moment(snapshot.spec["label"]["complete_to"])


def test_events_registered_in_a_later_version_count_as_of_a_moment_between_the_versions(shop: Catalog) -> None:
    """The version published before the moment does not know what happened after it was published."""
    now = datetime.now(UTC)
    log_tickets(shop, [{"id": f"n-{i}", "subject": f"d-{i}", "time": now - 8 * DAY} for i in range(3)])
    between = datetime.now(UTC)
    register_events(shop, "refund", [*refunds(("c-03", 5)), {"customer": "d-1", "at": now - 5 * DAY}])
    snapshot = take(shop, as_of=between)
    assert (positives(snapshot), snapshot.versions["refund"]) == (["n-1", "t-03"], 2)
    assert known_until(snapshot) == between
    counted = "SELECT count(*) AS n FROM refund"
    engine = engine_of(shop)
    assert engine.run(counted, as_of=between).to_dicts() == [{"n": 2}]
    assert engine.run(counted, as_of=day(6)).to_dicts() == [{"n": 1}]
    assert engine.run(f"{counted} AT (TIMESTAMP => '{day(6).isoformat()}')").to_dicts() == [{"n": 1}]


def test_a_moment_does_not_say_that_events_are_known_until_then(catalog: Catalog) -> None:
    now = datetime.now(UTC)
    log_tickets(catalog, [{"id": f"t-{i}", "subject": f"c-{i}", "time": now - i * DAY} for i in range(20)])
    register_events(catalog, "refund", [{"customer": "c-9", "at": now - 8 * DAY}])
    registered = moment(open_table(catalog, "refund").published_at)
    log_tickets(catalog, [{"id": "edge", "subject": "c-30", "time": datetime.now(UTC) - 7 * DAY}])
    snapshot = take(catalog, as_of=datetime.now(UTC))
    assert known_until(snapshot) == registered
    assert snapshot.spec["left_out"]["the window had not closed"] == 8
    assert "edge" not in labels(snapshot)


def test_a_refresh_that_finds_the_same_events_closes_the_windows_until_then(catalog: Catalog, tmp_path: Path) -> None:
    log_tickets(catalog, spring(20))
    (tmp_path / "refund.csv").write_text("customer,at\nc-01,2026-03-03\n")
    first = register_table(catalog, "refund", tmp_path / "refund.csv", subject="customer", time="at")
    log_tickets(catalog, [{"id": "edge", "subject": "c-30", "time": datetime.now(UTC) - 7 * DAY}])
    assert "edge" not in labels(take(catalog, as_of=None))
    again = refresh_table(catalog, "refund")
    assert (again.version, again.published_at) == (1, first.published_at)
    assert moment(again.known_until) > moment(first.known_until) == moment(first.published_at)
    snapshot = take(catalog, as_of=None)
    assert known_until(snapshot) == moment(again.known_until)
    assert labels(snapshot)["edge"] == "no_refund"
    third = register_table(catalog, "refund", tmp_path / "refund.csv", subject="customer", time="at")
    assert moment(third.known_until) > moment(again.known_until)
    assert rebuild(engine_of(catalog), snapshot).same


def test_a_collection_of_events_is_known_until_it_was_last_written_to(catalog: Catalog) -> None:
    before = datetime.now(UTC)
    log_tickets(catalog, spring(40))
    after = datetime.now(UTC)
    recent = [{"id": f"r-{i}", "subject": f"d-{i}", "time": before - 21 * DAY + i * DAY} for i in range(2)]
    log_tickets(catalog, recent)
    snapshot = take(catalog, label="tickets within 3 weeks of t.time", as_of=None)
    assert after <= known_until(snapshot) <= datetime.now(UTC)
    assert known_until(snapshot) < moment(snapshot.spec["as_of"])
    assert snapshot.spec["left_out"] == {"the window had not closed": 1}
    earlier = take(catalog, label="tickets within 3 weeks of t.time", as_of=LATER)
    assert known_until(earlier) == moment(LATER)


def test_rows_that_a_given_moment_hides_are_counted(catalog: Catalog) -> None:
    table = log_tickets(catalog, spring(30)[4:])
    table.rows.commit([some_rows([f"x-{i}" for i in range(4)])], refuse_differing=False)
    sql = "SELECT id, coalesce(n, 0) % 2 AS label FROM tickets"
    timeless = "they have no time, so they cannot be seen as of a moment"
    snapshot = take(catalog, sql, label=None, as_of=day(20).isoformat())
    assert snapshot.spec["left_out"] == {"their time is after the snapshot's moment": 9, timeless: 4}
    assert f"left out: 4 rows: {timeless}" in snapshot.report()
    assert take(catalog, sql, label=None, as_of=None).spec["left_out"] == {}
    with pytest.raises(SnapshotRefused) as refused:
        take(catalog, sql, label=None, as_of="2026-02-01")
    assert str(refused.value) == (
        "snapshot 'refunds' was not taken: its SQL gives no rows; of the collection it did not see 26: their time is after the "
        f"snapshot's moment; of the collection it did not see 4: {timeless}."
    )


def test_the_same_rows_as_of_another_moment_are_another_snapshot(shop: Catalog) -> None:
    first, other = take(shop), take(shop, as_of="2026-07-01")
    assert (first.hash, first.number) == (other.hash, other.number - 1)
    assert other.spec["as_of"] == "2026-07-01T00:00:00Z"
    assert take(shop, as_of="2026-07-01").number == other.number


def test_rows_without_a_time_or_a_subject_are_left_out_and_counted(catalog: Catalog) -> None:
    rows = spring(10)
    rows[1]["subject"] = None
    log_tickets(catalog, rows)
    register_events(catalog, "refund", refunds(("c-05", 6)))
    sql = "SELECT id, CASE WHEN n NOT IN (2, 3) THEN time END AS seen_at FROM tickets"
    snapshot = take(catalog, sql, label="refund within 7 days of seen_at")
    assert snapshot.spec["left_out"] == {"they have no subject": 1, "they have no time": 2}
    assert len(labels(snapshot)) == 7


def test_the_time_may_be_any_column_the_sql_gives_or_the_collection_keeps(shop: Catalog) -> None:
    late = "SELECT id, time - INTERVAL 40 DAY AS opened_at, CAST(time AS DATE) AS opened_on FROM tickets"
    assert positives(take(shop, late, label="refund within 7 days of opened_at")) == ["t-43"]
    assert positives(take(shop, late, label="refund within 3 days of opened_on")) == ["t-03"]
    assert positives(take(shop, "SELECT x.id FROM tickets x", label="refund within 7 days of x.time")) == ["t-03"]
    assert positives(take(shop, "SELECT id FROM tickets", label="refund within 7 days of time")) == ["t-03"]
    assert positives(take(shop, "SELECT id FROM tickets", label="refund within 7 days of tickets.time")) == ["t-03"]


def test_a_predicate_chooses_among_the_events(shop: Catalog) -> None:
    register_events(shop, "refund", refunds(("c-03", 5), ("c-04", 6), ("c-05", 7)))
    assert positives(take(shop, label=f"{RULE} where amount >= 6 and amount != 7")) == ["t-04"]


def test_events_join_by_id_where_their_table_has_no_subject(catalog: Catalog) -> None:
    log_tickets(catalog, spring(10))
    rows = [{"ticket": "t-04", "at": day(5)}, {"ticket": "t-05", "at": day(20)}]
    register_table(catalog, "refund", rows, id="ticket", time="at")
    assert positives(take(catalog)) == ["t-04"]


def test_a_collection_can_be_the_events(catalog: Catalog) -> None:
    """Another ticket of the same customer within three weeks; the item itself is not after itself."""
    log_tickets(catalog, spring(40))
    snapshot = take(catalog, label="tickets within 3 weeks of t.time")
    assert snapshot.spec["classes"] == {"no_tickets": 20, "tickets": 20}
    assert [i for i, label in labels(snapshot).items() if label == "tickets"] == [f"t-{i:02}" for i in range(20)]


# --- what changes no snapshot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("customer", "at"),
    [
        ("c-07", 92.5),  # after the moment
        ("c-07", 16),  # after the windows of its tickets, on days 7, 27 and 47
        ("c-07", 6.9),  # before its first item
        ("c-07", 7),  # at its first item
        ("c-99", 8),  # of nobody
        (None, 8),
    ],
)
def test_a_planted_event_that_does_not_count_changes_no_hash(shop: Catalog, customer: str | None, at: float) -> None:
    before = take(shop)
    register_events(shop, "refund", [*refunds(("c-03", 5)), {"customer": customer, "at": day(at), "amount": 1}])
    after = take(shop)
    assert (after.hash, after.number) == (before.hash, before.number)
    register_events(shop, "refund", [*refunds(("c-03", 5)), {"customer": "c-07", "at": day(8), "amount": 1}])
    assert take(shop).hash != before.hash


def test_a_future_event_changes_nothing_that_the_sql_itself_counts(shop: Catalog) -> None:
    sql = "SELECT t.id, count(r.at) AS label FROM tickets t LEFT JOIN refund r ON r.customer = t.subject GROUP BY t.id"
    options = {"label": None, "as_of": day(60).isoformat()}
    before = take(shop, sql, **options)
    register_events(shop, "refund", refunds(("c-03", 5), ("c-03", 61), ("c-04", 70)))
    assert take(shop, sql, **options).hash == before.hash
    register_events(shop, "refund", refunds(("c-03", 5), ("c-03", 59)))
    assert take(shop, sql, **options).hash != before.hash


def test_a_later_row_of_the_collection_changes_nothing(shop: Catalog) -> None:
    options = {"as_of": day(40).isoformat()}
    before = take(shop, **options)
    log_tickets(shop, [{"id": "later", "subject": "c-03", "time": day(41), "n": 0}])
    after = take(shop, **options)
    assert after.hash == before.hash


def test_the_order_of_rows_and_events_changes_nothing(shop: Catalog, tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.data.toy import make_store

    events = refunds(*((f"c-{i % 20:02}", i * 0.7) for i in range(80)))
    register_events(shop, "refund", events)
    wanted = take(shop, features={"amount": "refund.amount"})
    other = Catalog(make_store(tmp_path_factory.mktemp("other") / "store"))
    shuffled, rows = list(events), spring()
    random.Random(3).shuffle(shuffled)
    random.Random(4).shuffle(rows)
    for start in range(0, len(rows), 11):
        log_tickets(other, rows[start : start + 11])
    register_events(other, "refund", shuffled)
    assert take(other, features={"amount": "refund.amount"}).hash == wanted.hash


# --- features ----------------------------------------------------------------------------------------------------------


def plans(*rows: tuple[str, float, str | None]) -> list[dict[str, Any]]:
    return [{"customer": c, "at": day(d), "plan": p, "seats": len(p or "")} for c, d, p in rows]


@pytest.fixture
def accounts(shop: Catalog) -> Catalog:
    register_events(
        shop, "accounts", plans(("c-03", -9, "free"), ("c-03", 23, "paid"), ("c-03", 24, None), ("c-04", 5, "paid"))
    )
    return shop


def feature(snapshot: SnapshotRecord, name: str = "plan") -> dict[str, Any]:
    rows = snapshot.rows()
    return dict(zip(rows.column("id").to_pylist(), rows.column(name).to_pylist(), strict=True))


def test_a_feature_is_the_latest_value_at_or_before_the_items_time(accounts: Catalog) -> None:
    snapshot = take(accounts, features={"plan": "accounts.plan", "seats": "accounts.seats"})
    found = feature(snapshot)
    assert (found["t-03"], found["t-23"], found["t-43"]) == ("free", "paid", None)
    assert (found["t-04"], found["t-24"], found["t-05"]) == (None, "paid", None)
    assert feature(snapshot, "seats")["t-43"] == 0
    assert snapshot.rows().column_names == ["id", "entity", "label", "split", "weight", "plan", "seats"]
    assert snapshot.spec["features"] == {"plan": "accounts.plan", "seats": "accounts.seats"}
    assert snapshot.versions["accounts"] == 1
    assert snapshot.hash != take(accounts).hash
    assert rebuild(engine_of(accounts), snapshot).same


def test_a_planted_later_row_changes_no_feature(accounts: Catalog) -> None:
    features = {"plan": "accounts.plan"}
    before = take(accounts, features=features)
    rows = plans(("c-03", -9, "free"), ("c-03", 23, "paid"), ("c-03", 24, None), ("c-04", 5, "paid"))
    register_events(accounts, "accounts", [*rows, *plans(("c-03", 43.001, "later"), ("c-04", 99, "later"))])
    assert take(accounts, features=features).hash == before.hash
    register_events(accounts, "accounts", [*rows, *plans(("c-03", 43, "seen"))])
    assert take(accounts, features=features).hash != before.hash


def test_features_stand_beside_labels_of_the_sql_too(accounts: Catalog) -> None:
    sql = "SELECT id, n % 2 AS label FROM tickets"
    snapshot = take(accounts, sql, label=None, features={"plan": "accounts.plan"})
    assert feature(snapshot)["t-23"] == "paid"
    other = "SELECT id, n % 2 AS label, time - INTERVAL 20 DAY AS time FROM tickets"
    assert feature(take(accounts, other, label=None, features={"plan": "accounts.plan"}))["t-23"] == "free"


def test_of_several_rows_at_one_time_the_greatest_is_taken(accounts: Catalog) -> None:
    rows = plans(("c-05", 1, "b"), ("c-05", 1, "c"), ("c-05", 1, "a"))
    for order in (rows, rows[::-1]):
        register_events(accounts, "accounts", order)
        assert feature(take(accounts, features={"plan": "accounts.plan"}))["t-05"] == "c"


def test_feature_columns_keep_text_numbers_booleans_and_times(catalog: Catalog) -> None:
    import pyarrow as pa

    log_tickets(catalog, spring(4))
    rows = {
        "customer": ["c-01"], "at": [day(0)], "text": ["x"], "small": pa.array([7], pa.int8()), "real": pa.array([0.5], pa.float32()),
        "flag": [True], "due": [day(3)], "on": [day(3).date()], "kind": pa.array(["a"]).dictionary_encode(), "none": pa.nulls(1),
    }  # fmt: skip
    register_events(catalog, "accounts", pa.table(rows))
    names = [name for name in rows if name not in ("customer", "at")]
    sql = "SELECT id, n % 2 AS label FROM tickets"
    snapshot = take(catalog, sql, label=None, features={name: f"accounts.{name}" for name in names})
    found = snapshot.rows().to_pylist()[1]
    assert [found[name] for name in names] == ["x", 7, 0.5, True, day(3), day(3).date(), "a", None]
    assert [str(snapshot.rows().schema.field(name).type) for name in names] == [
        "string", "int64", "double", "bool", "timestamp[us, tz=UTC]", "date32[day]", "string", "string",
    ]  # fmt: skip


# --- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = {
    "a table without a time": ({"label": "plain within 7 days of t.time", "as_of": None}, (
        "table 'plain' has no time; register it with time=, the column that says when a row happened"
    )),
    "a table without a key": ({"label": "keyless within 7 days of t.time"}, (
        "table 'keyless' has no key; register it with subject= or id="
    )),
    "a time that is not there": ({"label": "refund within 7 days of t.closed_at"}, (
        "the item's time is 't.closed_at': its SQL gives no column 'closed_at', and neither has collection 'tickets'"
    )),
    "a time of another table": ({"label": "refund within 7 days of x.time"}, (
        "the item's time is 'x.time': its SQL gives no column 'time', and neither has collection 'tickets'"
    )),
    "a time that is none": ({"label": "refund within 7 days of t.n"}, (
        "the item's time is 't.n', which is int64, expected a time (CAST it AS TIMESTAMP)"
    )),
    "a label beside the rule": ({"sql": "SELECT id, 'x' AS label FROM tickets"}, (
        "its SQL gives a column 'label', which the label rule is to make; it gives: id, label"
    )),
    "a feature that is not there": ({"features": {"x": "refund.nothing"}}, (
        "'refund' has no column 'nothing' for a feature; it has: customer, at, amount"
    )),
    "a feature of a list": ({"features": {"x": "lists.held"}}, (
        "'lists.held' is list<l: int64>, expected text, numbers, booleans or times of a feature"
    )),
    "every window open": ({"as_of": day(6).isoformat()}, None),
    "no event at all": ({"label": "refund within 7 days of t.time where amount > 99"}, "train holds one class only ('no_refund')"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_events_and_features_that_cannot_be_are_refused(shop: Catalog, reason: str) -> None:
    options, problem = REFUSED[reason]
    register_table(shop, "plain", [{"customer": "c-01", "x": 1}], subject="customer")
    register_events(shop, "keyless", refunds(("c-01", 1)), subject=None)
    register_events(shop, "lists", [{"customer": "c-01", "at": day(1), "held": [1, 2]}])
    options = dict(options)
    with pytest.raises(SnapshotRefused) as refused:
        take(shop, options.pop("sql", SQL), **options)
    if problem is None:
        assert "no row is left, of " in str(refused.value)
        assert " the window had not closed" in str(refused.value)
    else:
        assert str(refused.value) == f"snapshot 'refunds' was not taken: {problem}."


def test_a_rule_over_events_that_are_not_there_names_the_tables(shop: Catalog) -> None:
    from raystore.errors import TableNotFound

    with pytest.raises(TableNotFound, match=r"^no table 'chargeback' in store "):
        take(shop, label="chargeback within 7 days of t.time")


def test_a_predicate_outside_the_small_grammar_is_refused(shop: Catalog) -> None:
    for where in ("amount > (SELECT 1)", "amount > 1; DROP TABLE refund", "read_text('x') = 'y'", "secret = 1"):
        with pytest.raises(SqlRefused):
            take(shop, label=f"{RULE} where {where}")
    assert event_where("amount >= 6 AND kind = 'a \"b\"'", ["amount", "kind"]) == '"amount" >= 6 AND "kind" = \'a "b"\''


def test_features_are_named_like_columns_and_come_from_a_table(shop: Catalog) -> None:
    features = {
        "label": "refund.amount",
        "x y": "refund.amount",
        "_a": "refund.amount",
        "ok": "refund",
        "B": "a.b",
        "b": "a.b",
    }
    with pytest.raises(InvalidArguments) as refused:
        take(shop, features=features)
    named = "letters, digits and '_', and none of id, entity, label, split, weight"
    assert str(refused.value) == (
        f"snapshot('refunds'): 'label' is no name for a feature: {named}; 'x y' is no name for a feature: {named}; "
        f"'_a' is no name for a feature: {named}; feature 'ok' is of 'refund', expected 'table.column'; "
        "the feature 'b' differs from another in case only, which SQL does not tell apart."
    )


# --- the moment --------------------------------------------------------------------------------------------------------


def test_the_sql_may_ask_for_the_snapshots_moment(shop: Catalog) -> None:
    sql = "SELECT id, n % 2 AS label FROM tickets WHERE time > $as_of - INTERVAL 10 DAY"
    snapshot = take(shop, sql, label=None, as_of="2026-03-31")
    assert sorted(labels(snapshot)) == [f"t-{i}" for i in range(21, 31)]
    assert snapshot.spec["params"] == {}
    assert rebuild(engine_of(shop), snapshot).same


def test_tables_are_read_at_their_version_of_that_moment(catalog: Catalog) -> None:
    import time
    from datetime import UTC, datetime

    log_tickets(catalog, spring(10))
    register_table(
        catalog, "outcomes", [{"ticket": f"t-{i:02}", "is": "old" if i % 2 else "new"} for i in range(10)], id="ticket"
    )
    time.sleep(1.1)
    then = datetime.now(UTC)
    time.sleep(1.1)
    register_table(
        catalog, "outcomes", [{"ticket": f"t-{i:02}", "is": "new" if i % 2 else "old"} for i in range(10)], id="ticket"
    )
    sql = 'SELECT t.id, o."is" AS label FROM tickets t JOIN outcomes o ON o.ticket = t.id'
    past, present = take(catalog, sql, label=None, as_of=then), take(catalog, sql, label=None, as_of=None)
    assert (past.versions["outcomes"], present.versions["outcomes"]) == (1, 2)
    assert (labels(past)["t-00"], labels(present)["t-00"]) == ("new", "old")
    with pytest.raises(SnapshotRefused) as refused:
        take(catalog, sql, label=None, as_of="2026-03-31")
    assert str(refused.value) == (
        "snapshot 'refunds' was not taken: table 'outcomes' was not there on 2026-03-31T00:00:00Z, and its rows have no time; "
        "register it with time=, or take a later as_of."
    )


@pytest.mark.parametrize(
    ("as_of", "problem"),
    [
        ("yesterday", "as_of='yesterday' is no moment, expected a moment like '2026-03-01' or '2026-03-01T12:00:00Z'"),
        (20260301, "as_of= is a int, expected a moment like '2026-03-01' or '2026-03-01T12:00:00Z'"),
        ("2126-03-01", "as_of=2126-03-01T00:00:00Z lies in the future, of which nothing is known"),
    ],
)
def test_a_moment_that_cannot_be_is_refused(catalog: Catalog, as_of: Any, problem: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        take(catalog, as_of=as_of)
    assert str(refused.value) == f"snapshot('refunds'): {problem}."


def test_the_collection_of_the_events_may_be_another_one(shop: Catalog) -> None:
    from tests.data.toy import make_log

    calls = CollectionTable.create(shop.layout, "calls", {ToyEncoder.fingerprint: 3})
    make_log(calls).log([{"id": "k-1", "subject": "c-09", "time": day(10), "text": "e"}])
    snapshot = take(shop, label="calls within 7 days of t.time")
    assert [i for i, label in labels(snapshot).items() if label == "calls"] == ["t-09"]
    assert snapshot.versions["calls"] == calls.version


def test_events_that_ended_longer_than_a_window_before_they_count_as_complete_are_pointed_at(
    shop: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    stale = take(shop)  # the one refund was on day 5
    said = (
        f"'refund' holds no event since {day(5):%Y-%m-%d %H:%M}, and counts as complete until 2026-06-01 00:00 UTC; "
        "if its data ends earlier, rows since are negative by mistake: give as_of="
    )
    assert stale.spec["stale_events"] == said
    assert f"snapshot 'refunds': {said}" in caplog.messages
    assert f"look at this: {said}" in stale.report()
    caplog.clear()
    assert "stale_events" not in take(shop, as_of=day(12)).spec
    assert caplog.messages == []
