from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.query.engine import SqlEngine
from raystore.data.snapshots.snapshot import (
    SCHEMA,
    SnapshotRecord,
    content_hash,
    freeze,
    open_snapshot,
    rebuild,
    snapshot_names,
)
from raystore.data.snapshots.split import SALT, side
from raystore.data.tables.table import register_table
from raystore.errors import (
    DiskFull,
    InvalidArguments,
    InvalidName,
    SnapshotNotFound,
    SnapshotRefused,
    SqlRefused,
    TableNotFound,
)
from tests.data.toy import ToyEncoder, make_log, make_store, make_tickets

DEFAULT = {"train": 0.8, "val": 0.1, "test": 0.1}
SQL = "SELECT t.id, o.outcome AS label FROM tickets t JOIN outcomes o ON o.ticket = t.id"
N = 60


def ticket_rows(n: int = N) -> list[dict]:
    return [
        {"id": f"t-{i}", "subject": f"c-{i // 3}" if i % 10 else None, "text": "e" * (i % 5 + 1), "n": i} for i in range(n)
    ]


def outcome_rows(n: int = N) -> list[dict]:
    return [{"ticket": f"t-{i}", "outcome": ["refund", "none"][i // 3 % 2]} for i in range(n)]


def make_engine(catalog: Catalog) -> SqlEngine:
    return SqlEngine(catalog, lambda name: ToyEncoder())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with both tables, made once; each test gets a copy."""
    catalog = Catalog(make_store(tmp_path_factory.mktemp("filled") / "store"))
    make_log(make_tickets(catalog.layout)).log(ticket_rows(), add_columns=True)
    register_table(catalog, "outcomes", outcome_rows(), id="ticket")
    return catalog.layout.root


@pytest.fixture
def engine(catalog: Catalog, filled: Path) -> SqlEngine:
    shutil.copytree(filled, catalog.layout.root, dirs_exist_ok=True)
    return make_engine(catalog)


def take(catalog: Catalog, engine: SqlEngine, sql: str = SQL, **options: object) -> SnapshotRecord:
    return freeze(catalog, engine, "refunds", sql, **options)


def refusal(catalog: Catalog, engine: SqlEngine, sql: str, **options: object) -> str:
    with pytest.raises(SnapshotRefused) as refused:
        take(catalog, engine, sql, **options)
    assert snapshot_names(catalog) == []
    return str(refused.value)


# --- what a snapshot is ------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_ids_labels_and_sides_sorted_by_id(catalog: Catalog, engine: SqlEngine) -> None:
    snapshot = take(catalog, engine)
    rows = snapshot.rows()
    assert rows.schema == SCHEMA
    found = rows.to_pylist()
    assert [r["id"] for r in found] == sorted(f"t-{i}" for i in range(N))
    subjects = {r["id"]: r["subject"] or r["id"] for r in ticket_rows()}
    for row in found:
        assert row["entity"] == subjects[row["id"]]
        assert row["split"] == side(row["entity"], DEFAULT)
        assert row["weight"] == 1.0
    spec = snapshot.spec
    assert (spec["collection"], spec["sql"], spec["params"]) == ("tickets", SQL, {})
    assert spec["split"] == {"by": "entity", "fractions": DEFAULT, "salt": SALT}
    assert (spec["task"], spec["label"], spec["features"], spec["left_out"]) == ("classes", {"rule": None}, {}, {})
    assert (snapshot.label, snapshot.task, snapshot.versions) == ("refunds@1", "classes", spec["versions"])
    assert spec["versions"] == {"tickets": CollectionTable.open(catalog.layout, "tickets").version, "outcomes": 1}
    assert spec["counts"] == {s: sum(r["split"] == s for r in found) for s in ("train", "val", "test")}
    assert sum(spec["classes"].values()) == N
    assert snapshot.classes == ["none", "refund"]
    assert sorted(p.name for p in snapshot.folder.iterdir()) == ["rows.parquet", "spec.json"]
    assert repr(snapshot).startswith("<snapshot refunds@1: ")


def test_no_entity_stands_on_two_sides(catalog: Catalog, engine: SqlEngine) -> None:
    rows = take(catalog, engine, split={"train": 0.5, "test": 0.5}).rows().to_pylist()
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["entity"], set()).add(row["split"])
    assert {len(s) for s in sides.values()} == {1}
    assert {r["split"] for r in rows} == {"train", "test"}


def test_entity_weight_and_split_may_come_from_the_sql(catalog: Catalog, engine: SqlEngine) -> None:
    sql = """SELECT id, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END AS label, n // 20 AS entity, n + 0.5 AS weight,
             CASE n // 20 WHEN 0 THEN 'train' WHEN 1 THEN 'test' END AS split FROM tickets"""
    rows = {r["id"]: r for r in take(catalog, engine, sql).rows().to_pylist()}
    assert (rows["t-5"]["entity"], rows["t-5"]["weight"], rows["t-5"]["split"]) == ("0", 5.5, "train")
    assert (rows["t-25"]["entity"], rows["t-25"]["split"]) == ("1", "test")
    assert rows["t-45"]["split"] == side("2", DEFAULT)


@pytest.mark.parametrize(
    ("label", "wanted"),
    [("n % 2", ["0", "1"]), ("n % 2 = 0", ["false", "true"]), ("(n % 2)::VARCHAR || 'ä'", ["0ä", "1ä"])],
)
def test_labels_may_be_integers_booleans_and_text(
    catalog: Catalog, engine: SqlEngine, label: str, wanted: list[str]
) -> None:
    assert take(catalog, engine, f"SELECT id, {label} AS label FROM tickets").classes == wanted


def test_parameters_and_similarity_stand_in_a_snapshot(catalog: Catalog, engine: SqlEngine) -> None:
    sql = "SELECT id, n % 2 AS label FROM tickets WHERE n < $most AND similarity(toy, $q) > 0.99"
    snapshot = take(catalog, engine, sql, params={"most": 40, "q": "eee"})
    assert snapshot.spec["params"] == {"most": 40, "q": "eee"}
    assert 0 < snapshot.rows().num_rows < 40
    assert rebuild(engine, snapshot).same


def test_the_sql_of_a_snapshot_is_read_as_that_of_a_query(catalog: Catalog, engine: SqlEngine) -> None:
    sql = (
        "SELECT T.id, outcome AS label FROM TICKETS T JOIN Outcomes O ON O.ticket = T.id "
        "WHERE outcome IN($a,$b)AND similarity(TOY,$q)> -2"
    )
    plain = (
        "SELECT t.id, outcome AS label FROM tickets t JOIN outcomes o ON o.ticket = t.id "
        "WHERE outcome IN ($a, $b) AND similarity(toy, $q) > -2"
    )
    params = {"a": "refund", "b": "none", "q": "ee"}
    assert take(catalog, engine, sql, params=params).rows() == take(catalog, engine, plain, params=params).rows()
    with pytest.raises(SqlRefused) as refused:
        take(catalog, engine, None)
    assert str(refused.value) == "this SQL was not run: it is a NoneType, expected a SELECT as a string."
    with pytest.raises(SqlRefused) as refused:
        take(catalog, engine, "SELECT id, CAST(id AS INT) AS label FROM tickets")
    assert str(refused.value) == (
        "this SQL was not run: DuckDB stopped at a value (Conversion Error). "
        "TRY_CAST and try() make NULL of values that do not fit: WHERE TRY_CAST(...) IS NULL finds their rows."
    )


# --- the same again ----------------------------------------------------------------------------------------------------


def test_the_same_sql_gives_the_same_snapshot_and_no_new_number(catalog: Catalog, engine: SqlEngine) -> None:
    first = take(catalog, engine)
    assert take(catalog, make_engine(catalog)).number == first.number == 1
    assert take(catalog, engine, SQL + " ORDER BY hash(t.id)").hash == first.hash
    assert take(catalog, engine, split={"train": 0.7, "test": 0.3}).number == 3
    assert open_snapshot(catalog, "refunds@1").hash == first.hash


def test_the_hash_does_not_hang_on_the_order_rows_were_added_in(
    catalog: Catalog, engine: SqlEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Catalog(make_store(tmp_path_factory.mktemp("other") / "store"))
    log = make_log(make_tickets(other.layout, {"n": "int64"}))
    rows = ticket_rows()
    random.Random(7).shuffle(rows)
    for start in range(0, N, 7):
        log.log(rows[start : start + 7])
    register_table(other, "outcomes", outcome_rows()[::-1], id="ticket")
    assert take(other, make_engine(other)).hash == take(catalog, engine).hash


@pytest.mark.parametrize(("threads", "memory"), [(1, "1GB"), (4, "32MB")])
def test_the_hash_does_not_hang_on_threads_or_memory(
    catalog: Catalog, engine: SqlEngine, monkeypatch: pytest.MonkeyPatch, threads: int, memory: str
) -> None:
    snapshot = take(catalog, engine)
    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda config: connect(config={**config, "threads": threads}))
    monkeypatch.setattr("raystore.data.snapshots.work.MEMORY", memory)
    assert rebuild(make_engine(catalog), snapshot).hash == snapshot.hash


def test_a_full_disk_is_said_and_nothing_is_frozen(
    catalog: Catalog, engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, table: str, select: str) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    monkeypatch.setattr("raystore.data.snapshots.work.Work.step", full)
    with pytest.raises(DiskFull, match="while working on more rows than fit the memory"):
        take(catalog, engine)
    assert snapshot_names(catalog) == []


def test_another_process_in_another_time_zone_gives_the_same_hash(catalog: Catalog, engine: SqlEngine) -> None:
    sql = "SELECT id, CAST(TIMESTAMP '2026-01-01' < time AS VARCHAR) || (n % 2) AS label FROM tickets"
    snapshot = take(catalog, engine, sql)
    code = """
import sys
from pathlib import Path
from raystore.catalog import Catalog
from raystore.data.snapshots.snapshot import open_snapshot, rebuild
from raystore.data.query.engine import SqlEngine
from raystore.layout import Layout
catalog = Catalog(Layout(Path(sys.argv[1])))
print(rebuild(SqlEngine(catalog, lambda name: None), open_snapshot(catalog, "refunds")).hash)
"""
    for zone, seed in (("Asia/Tokyo", "7"), ("America/Lima", "8")):
        environment = {**os.environ, "TZ": zone, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(catalog.layout.root)]
        root = Path(__file__).parent.parent.parent
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=root, timeout=60)
        assert found.stdout.strip() == snapshot.hash


def test_a_snapshot_is_rebuilt_to_the_same_hash_after_appends_and_a_replaced_table(
    catalog: Catalog, engine: SqlEngine
) -> None:
    snapshot = take(catalog, engine)
    log = make_log(CollectionTable.open(catalog.layout, "tickets"))
    for i in range(N, N + 20):
        log.log([{"id": f"t-{i}", "text": "later", "n": i}])
    changed = [{"ticket": f"t-{i}", "outcome": "none"} for i in range(N + 20)]
    register_table(catalog, "outcomes", changed, id="ticket")
    again = rebuild(make_engine(catalog), snapshot)
    assert again.same
    assert again.hash == snapshot.hash
    assert again.rows.equals(snapshot.rows())
    new = take(catalog, engine, "SELECT id, n % 2 AS label FROM tickets")
    assert (new.number, new.rows().num_rows) == (2, N + 20)
    assert open_snapshot(catalog, "refunds@1").rows().num_rows == N


def test_a_rebuild_of_a_snapshot_whose_rows_are_gone_names_them(catalog: Catalog, engine: SqlEngine) -> None:
    snapshot = take(catalog, engine)
    CollectionTable.open(catalog.layout, "tickets").rows.dataset().delete("id = 't-7'")
    again = rebuild(make_engine(catalog), snapshot)
    assert (again.same, again.erased, again.n_erased) == (True, ["t-7"], 1)
    assert again.hash == content_hash(again.rows) != snapshot.hash
    assert again.rows.num_rows == N - 1


# --- names -------------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_found_by_name_and_number(catalog: Catalog, engine: SqlEngine) -> None:
    take(catalog, engine)
    take(catalog, engine, split={"train": 0.6, "test": 0.4})
    assert open_snapshot(catalog, "refunds").number == 2
    assert open_snapshot(catalog, "refunds@1").number == 1
    assert snapshot_names(catalog) == ["refunds"]


@pytest.mark.parametrize(
    "reference", ["friday", "refunds@2", "refunds@0", "refunds@x", "refunds@²", "../refunds", "", "refunds@1@1"]
)
def test_a_snapshot_that_is_not_there_is_said_with_those_that_are(
    catalog: Catalog, engine: SqlEngine, reference: str
) -> None:
    take(catalog, engine)
    with pytest.raises(SnapshotNotFound) as missing:
        open_snapshot(catalog, reference)
    has = "refunds@1" if reference.startswith("refunds@") else "refunds"
    assert str(missing.value) == f"no snapshot '{reference}' in store '{catalog.layout.root}'. It has: '{has}'."


# --- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = {
    "no rows": (f"{SQL} WHERE t.n > 1000", "its SQL gives no rows"),
    "no columns": (
        "SELECT n AS x, id AS ticket FROM tickets",
        "its SQL gives no column 'id'; its SQL gives no column 'label'; it gives: x, ticket",
    ),
    "two ids": (
        "SELECT t.id, o.ticket AS id, outcome AS label FROM tickets t JOIN outcomes o ON o.ticket = t.id",
        "its SQL gives 2 columns 'id'; it gives: id, id, label",
    ),
    "repeated ids": (
        f"{SQL} UNION ALL {SQL} WHERE n < 2 OR n = 5",
        "3 ids stand more than once ('t-0', 't-1', 't-5'); "
        "say which label an id gets, with label='last', 'majority' or another rule",
    ),
    "the clock": (
        f"{SQL} WHERE t.time < now()",
        "its SQL asks the clock (now), so it gives other rows tomorrow; write $as_of, the snapshot's moment",
    ),
    "chance": (
        f"{SQL} ORDER BY random() LIMIT 40",
        "its SQL draws at random (random()), so it cannot be made again; choose rows by hash(id)",
    ),
    "text for weights": (
        "SELECT id, n % 2 AS label, 'heavy' AS weight FROM tickets",
        "its weights are string, expected numbers (CAST them AS DOUBLE in the SQL)",
    ),
    "two times": (
        "SELECT id, n % 2 AS label, time, time AS time FROM tickets",
        "its SQL gives 2 columns 'time'; it gives: id, label, time, time",
    ),
    "null ids": (
        "SELECT CASE WHEN n > 3 THEN id END AS id, n % 2 AS label FROM tickets",
        "4 rows have no id",
    ),
    "null labels": (
        "SELECT id, CASE WHEN n > 3 THEN n % 2 END AS label FROM tickets ORDER BY n",
        "4 rows have no label ('t-0', 't-1', 't-2' and 1 more); leave them out: WHERE label IS NOT NULL",
    ),
    "strange ids": (
        "SELECT 'x' || id AS id, n % 2 AS label FROM tickets WHERE n < 2 ORDER BY n",
        "2 ids are not in collection 'tickets' ('xt-0', 'xt-1')",
    ),
    "bad weights": (
        "SELECT id, n % 2 AS label, CASE n WHEN 0 THEN NULL WHEN 1 THEN -1 WHEN 2 THEN 'inf'::DOUBLE "
        "WHEN 3 THEN 'nan'::DOUBLE ELSE 1 END AS weight FROM tickets",
        "4 weights are null, negative or not finite",
    ),
    "a strange split": (
        "SELECT id, n % 2 AS label, CASE WHEN n < 9 THEN 'holdout' END AS split FROM tickets",
        "its column split holds 'holdout', expected train, val, test or null",
    ),
    "an entity on two sides": (
        "SELECT id, n % 2 AS label, n // 30 AS entity, CASE WHEN n < 40 THEN 'train' ELSE 'test' END AS split FROM tickets",
        "1 entities stand on two sides of the given split ('1')",
    ),
    "classes missing from train": (
        "SELECT id, n // 20 AS label, id AS entity, CASE WHEN n // 20 = 1 THEN 'train' ELSE 'test' END AS split FROM tickets",
        "2 classes have no row in train ('0', '2'); give them more entities, leave them out (minimum=1 does), or raise train; "
        "train holds one class only ('1')",
    ),
    "one class": ("SELECT id, 'same' AS label FROM tickets", "train holds one class only ('same')"),
    "no collection": (
        "SELECT ticket AS id, outcome AS label FROM outcomes",
        "its SQL reads 0 collections (none), expected exactly one",
    ),
}


def test_a_relation_that_is_not_there_is_named_as_in_sql(catalog: Catalog, engine: SqlEngine) -> None:
    with pytest.raises(TableNotFound, match=r"^no table 'ticket' in store '.*'\. It has: .*'tickets'"):
        freeze(catalog, engine, "x", "SELECT t.id, 1 AS label FROM ticket t")


@pytest.mark.parametrize("reason", REFUSED)
def test_rows_that_are_no_training_set_are_refused_by_name(catalog: Catalog, engine: SqlEngine, reason: str) -> None:
    sql, problems = REFUSED[reason]
    assert refusal(catalog, engine, sql) == f"snapshot 'refunds' was not taken: {problems}."


def test_a_snapshot_samples_one_collection(catalog: Catalog, engine: SqlEngine) -> None:
    CollectionTable.create(catalog.layout, "mails", {ToyEncoder.fingerprint: 3})
    said = refusal(catalog, engine, "SELECT t.id, m.id AS label FROM tickets t, mails m")
    assert said == (
        "snapshot 'refunds' was not taken: its SQL reads 2 collections ('mails', 'tickets'), expected exactly one."
    )


def test_parameters_are_values_and_never_sql(catalog: Catalog, engine: SqlEngine) -> None:
    hostile = "x' OR true; DROP TABLE tickets; --"
    sql = "SELECT id, CASE WHEN n < 30 THEN $label ELSE 'none' END AS label FROM tickets WHERE id <> $label"
    snapshot = take(catalog, engine, sql, params={"label": hostile})
    assert snapshot.classes == ["none", hostile]
    assert rebuild(make_engine(catalog), snapshot).same
    assert refusal_of(catalog, engine, "SELECT id, n % 2 AS label FROM tickets WHERE id = $label", {"label": hostile}) == (
        "snapshot 'injected' was not taken: its SQL gives no rows."
    )


def refusal_of(catalog: Catalog, engine: SqlEngine, sql: str, params: dict) -> str:
    with pytest.raises(SnapshotRefused) as refused:
        freeze(catalog, engine, "injected", sql, params=params)
    return str(refused.value)


def test_null_entities_fall_back_to_the_subject_and_the_id(catalog: Catalog, engine: SqlEngine) -> None:
    sql = "SELECT id, n % 2 AS label, CASE WHEN n % 4 = 0 THEN 'own' END AS entity FROM tickets"
    found = {r["id"]: r["entity"] for r in take(catalog, engine, sql).rows().to_pylist()}
    assert (found["t-8"], found["t-7"], found["t-10"]) == ("own", "c-2", "t-10")


def test_a_collection_with_the_name_of_a_keyword_can_be_sampled(catalog: Catalog, engine: SqlEngine) -> None:
    make_log(CollectionTable.create(catalog.layout, "order", {ToyEncoder.fingerprint: 3})).log(
        ticket_rows(), add_columns=True
    )
    assert take(catalog, engine, 'SELECT id, n % 2 AS label FROM "order"').rows().num_rows == N


def test_arguments_that_cannot_be_are_refused_at_once(catalog: Catalog, engine: SqlEngine) -> None:
    with pytest.raises(InvalidArguments) as refused:
        take(catalog, engine, SQL, split={"train": 0.5}, params={"a": object(), "b": 1, "c": [1]})
    assert str(refused.value) == (
        "snapshot('refunds'): the fractions sum to 0.5, expected 1; "
        "parameter 'a' is object, expected a string, a number or a boolean (CAST it in the SQL); "
        "parameter 'c' is list, expected a string, a number or a boolean (CAST it in the SQL)."
    )
    with pytest.raises(InvalidName):
        freeze(catalog, engine, "Re funds", SQL)
    with pytest.raises(SqlRefused):
        take(catalog, engine, "DROP TABLE tickets")
    with pytest.raises(TableNotFound):
        take(catalog, engine, "SELECT t.id, x.label FROM tickets t, nowhere x")
    assert snapshot_names(catalog) == []
    assert list(catalog.layout.tmp.iterdir()) == []
