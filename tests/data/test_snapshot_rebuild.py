from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.query.engine import SqlEngine
from raystore.data.snapshots.label_rule import define_rule
from raystore.data.snapshots.snapshot import SnapshotRecord, freeze, open_snapshot, rebuild, refresh
from raystore.data.tables.table import register_table
from raystore.errors import SnapshotRefused
from tests.data.freezing import day, engine_of, log_tickets, register_events, spring
from tests.data.toy import ToyEncoder

SQL = "SELECT t.id, o.outcome AS label, o.at, t.n + 1 AS weight FROM tickets t JOIN outcomes o ON o.ticket = t.id"
EVERY_RULE: dict[str, Any] = {
    "label": "last",
    "split": {"by": "time", "train": 0.6, "val": 0.2, "test": 0.2},
    "features": {"plan": "accounts.plan"},
    "cap": 9,
    "minimum": 4,
    "weights": "balanced",
    "as_of": "2026-06-01",
}


def outcomes(n: int = 60) -> list[dict[str, Any]]:
    rows = [{"ticket": f"t-{i:02}", "outcome": ["refund", "none", "other"][i % 3], "at": day(i)} for i in range(n)]
    rows += [{"ticket": "t-05", "outcome": "rare", "at": day(90)}, {"ticket": "t-06", "outcome": "none", "at": day(90)}]
    return rows


def take(catalog: Catalog, sql: str = SQL, **options: Any) -> SnapshotRecord:
    return freeze(catalog, engine_of(catalog), "kept", sql, **{**EVERY_RULE, **options})


def erase(catalog: Catalog, *ids: str) -> None:
    listed = ", ".join(f"'{i}'" for i in ids)
    CollectionTable.open(catalog.layout, "tickets").rows.dataset().delete(f"id IN ({listed})")


@pytest.fixture
def shop(catalog: Catalog) -> Catalog:
    log_tickets(catalog, [{**row, "subject": f"c-{row['id']}"} for row in spring()])
    register_table(catalog, "outcomes", outcomes(), id="ticket", time="at")
    register_events(
        catalog, "accounts", [{"customer": f"c-t-{i:02}", "at": day(0), "plan": f"p{i % 4}"} for i in range(60)]
    )
    return catalog


def test_a_snapshot_of_every_rule_is_rebuilt_to_the_same_hash_after_everything_changed(shop: Catalog) -> None:
    snapshot = take(shop)
    assert snapshot.spec["too_small"] == {"rare": 1}
    assert snapshot.spec["conflicts"] == 1 + 0 * len(snapshot.classes) or snapshot.spec["conflicts"] == 2
    log_tickets(shop, [{"id": f"t-{i}", "subject": f"c-{i}", "time": day(i % 60), "n": i} for i in range(60, 90)])
    register_table(
        shop, "outcomes", [{"ticket": f"t-{i}", "outcome": "none", "at": day(i)} for i in range(90)], id="ticket", time="at"
    )
    register_events(shop, "accounts", [{"customer": "c-t-00", "at": day(0), "plan": "changed"}])
    again = rebuild(engine_of(shop), snapshot)
    assert (again.hash, again.same, again.erased, again.n_erased) == (snapshot.hash, True, [], 0)
    assert again.rows.equals(snapshot.rows())
    assert repr(again) == f"<rebuilt: the same rows; hash {snapshot.hash[:12]}>"
    assert snapshot.hash[:12] in again._repr_html_()


def test_rows_that_were_erased_are_named_and_the_others_are_the_same(shop: Catalog) -> None:
    """Caps, cuts and weights are those of the day it was frozen: an erased row moves no other."""
    snapshot = take(shop)
    frozen = snapshot.rows()
    gone = frozen.filter(frozen.column("split").to_numpy(zero_copy_only=False) == "train").column("id").to_pylist()[:5]
    erase(shop, *gone, "t-55")
    again = rebuild(engine_of(shop), snapshot)
    held = set(frozen.column("id").to_pylist())
    assert again.erased == sorted({*gone, "t-55"} & held)
    assert again.n_erased == len(again.erased)
    assert again.same
    assert again.hash != snapshot.hash
    left = [row for row in frozen.to_pylist() if row["id"] not in again.erased]
    assert again.rows.to_pylist() == left
    assert repr(again).startswith(f"<rebuilt: the same rows less {again.n_erased} that were erased; hash ")


def test_a_snapshot_that_an_erase_rewrote_counts_the_rows_it_no_longer_names(shop: Catalog) -> None:
    snapshot = take(shop)
    rows = snapshot.rows()
    first, second = rows.column("id").to_pylist()[:2]
    erase(shop, first, second)
    pq.write_table(rows.slice(1), snapshot.folder / "rows.parquet")
    again = rebuild(engine_of(shop), snapshot)
    assert (again.erased, again.n_erased, again.same) == ([second], 2, True)


def test_a_snapshot_of_which_everything_was_erased_is_said_to_be_empty(shop: Catalog) -> None:
    snapshot = take(shop)
    ids = snapshot.rows().column("id").to_pylist()
    CollectionTable.open(shop.layout, "tickets").rows.dataset().delete("true")
    again = rebuild(engine_of(shop), snapshot)
    assert (again.erased, again.same, again.rows.num_rows) == (ids, True, 0)


def test_an_erased_row_that_its_table_still_labels_is_left_out(shop: Catalog) -> None:
    sql = "SELECT o.ticket AS id, o.outcome AS label, o.at FROM outcomes o LEFT JOIN tickets t ON o.ticket = t.id"
    snapshot = take(shop, sql, cap=None)
    erase(shop, "t-02")
    again = rebuild(engine_of(shop), snapshot)
    assert (again.erased, again.same) == (["t-02"], True)
    with pytest.raises(SnapshotRefused, match=r"1 ids are not in collection 'tickets' \('t-02'\)\.$"):
        take(shop, sql, cap=None)


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("gone", ["t-00", "t-19", "t-45"])
def test_an_entity_stays_on_its_side_when_its_first_row_is_erased(catalog: Catalog, gone: str, rewritten: bool) -> None:
    """Customer c-00 has a row on train and two on later sides, which its erased first row must not bring in."""
    log_tickets(catalog, spring())
    sql = "SELECT id, n % 2 AS label FROM tickets"
    split = {"by": "time", "val": "2026-03-11", "test": "2026-03-26"}
    snapshot = freeze(catalog, engine_of(catalog), "parted", sql, split=split)
    erase(catalog, gone)
    if rewritten:
        rows = snapshot.rows()
        kept = rows.filter([id_ != gone for id_ in rows.column("id").to_pylist()])
        pq.write_table(kept, snapshot.folder / "rows.parquet")
    again = rebuild(engine_of(catalog), snapshot)
    held = gone != "t-45"  # which was left out, as its customer stands on train
    assert (again.same, again.n_erased) == (True, 1 if held else 0)


def test_a_rebuild_reads_the_encoder_that_its_sql_meant_then(catalog: Catalog) -> None:
    log_tickets(catalog, spring())
    asked: list[str] = []

    engine = SqlEngine(catalog, lambda name: asked.append(name) or ToyEncoder())  # type: ignore[func-returns-value]
    sql = "SELECT id, CASE WHEN similarity(toy, 'eee') > 0 THEN n % 2 ELSE 2 END AS label FROM tickets"
    snapshot = freeze(catalog, engine, "near", sql)
    fingerprint = ToyEncoder().fingerprint
    assert snapshot.encoders == snapshot.spec["encoders"] == {"toy": fingerprint}
    assert asked[0] == "toy"
    asked.clear()
    assert rebuild(engine, snapshot).same
    assert set(asked) == {fingerprint}
    assert freeze(catalog, engine, "plain", "SELECT id, n % 2 AS label FROM tickets").encoders == {}


def test_a_rebuild_that_gives_other_rows_says_so(shop: Catalog) -> None:
    snapshot = take(shop)
    snapshot.spec["sql"] = SQL + " WHERE t.n <> 7"
    again = rebuild(engine_of(shop), snapshot)
    assert not again.same
    assert again.erased == []
    assert repr(again).startswith("<rebuilt: other rows; hash ")


# --- refresh -----------------------------------------------------------------------------------------------------------


def test_a_refresh_takes_todays_data_by_the_same_rules_under_the_next_number(shop: Catalog) -> None:
    define_rule(shop, "newest", "last")
    snapshot = take(shop, label="newest", notes="for March")
    assert refresh(shop, engine_of(shop), snapshot).label == snapshot.label
    define_rule(shop, "newest", "first")
    rows = [*outcomes(), *({"ticket": f"t-{i:02}", "outcome": "other", "at": day(95)} for i in range(30))]
    register_table(shop, "outcomes", rows, id="ticket", time="at")
    new = refresh(shop, engine_of(shop), snapshot)
    assert (new.number, new.versions["outcomes"]) == (2, 2)
    assert new.spec["as_of"] > snapshot.spec["as_of"]
    same = ("sql", "params", "task", "label", "features", "cap", "minimum", "weights", "notes")
    assert {k: new.spec[k] for k in same} == {k: snapshot.spec[k] for k in same}
    assert new.spec["split"]["fractions"] == snapshot.spec["split"]["fractions"]
    assert open_snapshot(shop, "kept@1").hash == snapshot.hash
    assert rebuild(engine_of(shop), snapshot).same


@pytest.mark.parametrize(
    "split", [{"train": 1}, {"by": "group", "column": "n"}, {"by": "time", "val": "2026-04-01", "test": "2026-04-15"}, None]
)
def test_a_refresh_of_the_same_data_makes_no_number_whatever_the_split(shop: Catalog, split: Any) -> None:
    snapshot = take(shop, split=split, cap=None, features=None)
    again = refresh(shop, engine_of(shop), snapshot)
    assert (again.number, again.hash) == (snapshot.number, snapshot.hash)


def test_another_rule_or_note_with_the_same_rows_is_another_snapshot(shop: Catalog) -> None:
    first = take(shop, minimum=None, cap=None)
    assert take(shop, minimum=None, cap=60).number == 2
    assert take(shop, minimum=None, cap=60, notes="no cap was met").number == 3
    assert take(shop, minimum=None, cap=60).number == 3
    assert first.hash == open_snapshot(shop, "kept").hash
