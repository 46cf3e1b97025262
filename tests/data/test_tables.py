from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.fence import Fence
from raystore.data.query.engine import SqlEngine
from raystore.data.tables import table as tables_module
from raystore.data.tables.table import SourceTable, open_table, refresh_table, register_table, table_names, table_versions
from raystore.errors import AlreadyExists, InvalidArguments, InvalidName, LeaseLost, TableNotFound
from tests.data.toy import make_tickets

CANARY = "canary-8c1f"
EXPECTED = (
    "a path, a database file or connection with query=, an Arrow table or reader, a pandas or Polars DataFrame, "
    "a DuckDB relation or a list of dicts"
)
ROWS = [{"ticket": "a", "outcome": "refund"}, {"ticket": "b", "outcome": "none"}]


def rows_of(table: SourceTable) -> list[dict]:
    return table.to_arrow().to_pylist()


def refusal(catalog: Catalog, data: object, **keys: object) -> str:
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", data, **keys)
    return str(refused.value)


def test_a_table_is_its_rows_and_its_keys(catalog: Catalog) -> None:
    table = register_table(catalog, "outcomes", ROWS, id="ticket")
    assert (table.version, table.n_rows, table.id, table.subject) == (1, 2, "ticket", None)
    assert table.columns == {"ticket": "string", "outcome": "string"}
    assert rows_of(table) == ROWS
    assert table_names(catalog) == ["outcomes"]
    assert repr(table) == "<table outcomes version 1: 2 rows, ticket, outcome>"


def test_only_the_chosen_columns_are_kept_beside_the_keys(catalog: Catalog, tmp_path: Path) -> None:
    data = [{"ticket": "a", "body": CANARY, "outcome": "refund"}]
    table = register_table(catalog, "outcomes", data, id="ticket", columns=["outcome"])
    assert rows_of(table) == [{"ticket": "a", "outcome": "refund"}]
    files = [p for p in catalog.layout.root.rglob("*") if p.is_file()]
    assert [p for p in files if CANARY.encode() in p.read_bytes()] == []
    assert refusal(catalog, data, columns=["topic"]) == (
        "register_table('outcomes'): there is no column 'topic' (columns=); there are: ticket, body, outcome."
    )


def test_a_new_version_holds_exactly_its_data_and_the_old_one_stays(catalog: Catalog) -> None:
    newer = [{"ticket": "b", "outcome": "refund"}, {"ticket": "c", "outcome": "none"}]
    register_table(catalog, "outcomes", ROWS, id="ticket")
    assert register_table(catalog, "outcomes", newer, id="ticket").version == 2
    third = register_table(catalog, "outcomes", newer[:1], id="ticket")
    assert third.version == 3
    assert [rows_of(open_table(catalog, "outcomes", n)) for n in (1, 2, 3)] == [ROWS, newer, newer[:1]]
    assert rows_of(open_table(catalog, "outcomes")) == newer[:1]


def test_the_same_data_makes_no_new_version(catalog: Catalog, tmp_path: Path) -> None:
    register_table(catalog, "outcomes", ROWS, id="ticket")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet", row_group_size=1)
    same: list[object] = [ROWS, pd.DataFrame(ROWS), pa.Table.from_pylist(ROWS), tmp_path / "t.parquet"]
    assert [register_table(catalog, "outcomes", data, id="ticket").version for data in same] == [1] * 4
    assert register_table(catalog, "outcomes", ROWS, id="ticket", subject="ticket").version == 2
    assert register_table(catalog, "outcomes", ROWS[::-1], id="ticket", subject="ticket").version == 3


def test_every_kind_of_input_gives_the_same_table(catalog: Catalog, tmp_path: Path) -> None:
    rows = [
        {"ticket": "a", "n": 1, "score": 1.5, "closed": True, "day": date(2026, 1, 2), "at": datetime(2026, 1, 2, 3)},
        {"ticket": "b", "n": 2, "score": None, "closed": False, "day": None, "at": None},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(
        "ticket,n,score,closed,day,at\na,1,1.5,true,2026-01-02,2026-01-02 03:00:00\nb,2,,false,,\n"
    )
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    inputs = {
        "rows": rows,
        "arrow": table,
        "views": table.set_column(0, "ticket", table.column("ticket").cast(pa.string_view())),
        "coded": table.set_column(0, "ticket", table.column("ticket").dictionary_encode()),
        "pandas": pd.DataFrame(rows),
        "parquet": tmp_path / "t.parquet",
        "csv": str(tmp_path / "t.csv"),
        "jsonl": [tmp_path / "t.jsonl"],
    }
    for name, data in inputs.items():
        found = rows_of(register_table(catalog, name, data, id="ticket"))
        assert found == rows, name


def test_rows_of_several_files_become_one_table(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ticket,n\na,1\n")
    (tmp_path / "b.csv").write_text("ticket,note\nb,late\n")
    found = rows_of(register_table(catalog, "outcomes", tmp_path, id="ticket"))
    assert found == [{"ticket": "a", "n": 1, "note": None}, {"ticket": "b", "n": None, "note": "late"}]


def test_a_late_row_of_another_type_makes_a_column_of_text(catalog: Catalog, tmp_path: Path) -> None:
    numbers = "".join(f"{i},{i}\n" for i in range(30_000))
    (tmp_path / "t.csv").write_text(f"ticket,n\n{numbers}late,x\n")
    table = register_table(catalog, "outcomes", tmp_path / "t.csv", id="ticket")
    assert table.columns == {"ticket": "string", "n": "string"}
    assert rows_of(table)[-1] == {"ticket": "late", "n": "x"}


def test_json_values_of_several_types_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"ticket": "a", "n": 1, "none": null}\n{"ticket": "b", "n": "x"}\n')
    assert refusal(catalog, path) == f"register_table('outcomes'): column 'n' of '{path}' holds values of several types."
    path.write_text('{"ticket": "a", "none": null}\n')
    assert rows_of(register_table(catalog, "outcomes", path)) == [{"ticket": "a", "none": None}]


def test_a_key_that_only_some_rows_have_is_a_column(catalog: Catalog) -> None:
    found = rows_of(
        register_table(catalog, "outcomes", [{"ticket": "a"}, {"ticket": "b", "outcome": "refund"}], id="ticket")
    )
    assert found == [{"ticket": "a", "outcome": None}, {"ticket": "b", "outcome": "refund"}]


def test_integer_keys_become_strings_so_that_they_join(catalog: Catalog) -> None:
    table = register_table(
        catalog, "outcomes", pa.table({"t": pa.array([7, None], pa.int32()), "c": [1, 2]}), id="t", subject="c"
    )
    assert rows_of(table) == [{"t": "7", "c": "1"}, {"t": None, "c": "2"}]


def test_a_column_may_be_added_and_left_out_again(catalog: Catalog) -> None:
    wide = [{"ticket": "a", "outcome": "x", "note": "late"}]
    register_table(catalog, "outcomes", ROWS, id="ticket")
    assert rows_of(register_table(catalog, "outcomes", wide, id="ticket")) == wide
    third = register_table(catalog, "outcomes", [{"ticket": "a"}], id="ticket")
    assert rows_of(third) == [{"ticket": "a"}]
    assert [rows_of(open_table(catalog, "outcomes", n)) for n in (1, 2)] == [ROWS, wide]
    found = SqlEngine(catalog, lambda name: None).run("SELECT * FROM outcomes AT (VERSION => 2)").to_dicts()
    assert found == wide


def test_a_column_that_changed_its_type_is_refused_and_the_old_version_stays(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", [{"ticket": "a", "n": 1, "m": 1}], id="ticket")
    said = refusal(catalog, [{"ticket": "a", "n": "one", "m": 1.5}], id="ticket")
    assert said == (
        "register_table('outcomes'): column 'n' is string, but was int64 in earlier versions; "
        "column 'm' is double, but was int64 in earlier versions; register it under a new name, or cast the columns."
    )
    assert rows_of(open_table(catalog, "outcomes")) == [{"ticket": "a", "n": 1, "m": 1}]


def test_everything_wrong_with_the_columns_is_said_at_once(catalog: Catalog) -> None:
    table = pa.table(
        {"_row": [1], "a.b": [1], "Note": ["x"], "note": ["y"], "span": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}
    )
    assert refusal(catalog, table, id="ticket") == (
        "register_table('outcomes'): there is no column 'ticket'; there are: _row, a.b, Note, note, span; "
        "column '_row' starts with '_', which is reserved; "
        "column 'a.b' holds a '.', which is reserved; "
        "columns 'Note' and 'note' differ in case only or not at all, which SQL does not tell apart; "
        "column 'span' is month_day_nano_interval, which a table cannot keep."
    )
    twice = pa.table([["x"], ["y"]], names=["ticket", "ticket"])
    assert "columns 'ticket' and 'ticket' differ in case only or not at all" in refusal(catalog, twice, id="ticket")
    assert refusal(catalog, [{"ticket": 1.5}], id="ticket") == (
        "register_table('outcomes'): key column 'ticket' is double, expected strings or integers."
    )
    assert table_names(catalog) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (7, f"data is int, expected {EXPECTED}"),
        ({"ticket": ["a"]}, f"data is dict, expected {EXPECTED}"),
        ([], "the list is empty, it names no file"),
        ([{"n": 1}, {"n": CANARY}], "column 'n' holds values of several types"),
        ([{1: "x"}], "a column's name is int, expected a string"),
    ],
)
def test_data_that_is_no_table_is_refused_without_quoting_it(catalog: Catalog, data: object, problem: str) -> None:
    assert refusal(catalog, data) == f"register_table('outcomes'): {problem}."


@pytest.mark.parametrize(("name", "kind"), [("t.parquet", "ArrowInvalid"), ("t.jsonl", "InvalidInputException")])
def test_a_file_that_cannot_be_read_is_refused_without_quoting_it(
    catalog: Catalog, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_text(f'{{"a": {CANARY}\n' * 3)
    assert refusal(catalog, tmp_path / name) == f"register_table('outcomes'): '{tmp_path / name}' cannot be read ({kind})."


def test_names_are_shared_with_collections(catalog: Catalog) -> None:
    make_tickets(catalog.layout)
    with pytest.raises(AlreadyExists) as taken:
        register_table(catalog, "tickets", ROWS)
    assert str(taken.value) == "collection 'tickets' exists already. Collections and tables share one SQL namespace."
    register_table(catalog, "outcomes", ROWS)
    with pytest.raises(AlreadyExists) as taken:
        CollectionTable.create(catalog.layout, "outcomes", {"ab" * 32: 3})
    assert str(taken.value) == "table 'outcomes' exists already. Collections and tables share one SQL namespace."
    with pytest.raises(InvalidName):
        register_table(catalog, "My table", ROWS)


def test_a_table_or_version_that_is_not_there_is_said_with_those_that_are(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", ROWS)
    register_table(catalog, "outcomes", ROWS[:1])
    with pytest.raises(TableNotFound) as missing:
        open_table(catalog, "refunds")
    assert str(missing.value) == f"no table 'refunds' in store '{catalog.layout.root}'. It has: 'outcomes'."
    with pytest.raises(TableNotFound) as missing:
        open_table(catalog, "outcomes", 3)
    assert str(missing.value) == (
        f"no table 'outcomes version 3' in store '{catalog.layout.root}'. It has: 'outcomes version 1', 'outcomes version 2'."
    )


@pytest.mark.parametrize("announced", [0, 1, 2])
def test_a_version_that_was_written_but_never_announced_is_cleared_by_the_next_writer(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, announced: int
) -> None:
    versions = [[{"ticket": "a", "n": i}, {"ticket": f"only-{i}", "n": i}] for i in range(announced)]
    for rows in versions:
        register_table(catalog, "outcomes", rows, id="ticket")

    def crash(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "set_alias", crash)
        with pytest.raises(KeyboardInterrupt):
            register_table(catalog, "outcomes", [{"ticket": "crashed", "n": 99, "odd": "a column of a type"}], id="ticket")
    for n, rows in enumerate(versions, 1):
        assert rows_of(open_table(catalog, "outcomes", n)) == rows
    after = [{"ticket": "a", "n": 7, "odd": 7}]
    assert register_table(catalog, "outcomes", after, id="ticket").version == announced + 1
    for n, rows in enumerate([*versions, after], 1):
        assert rows_of(open_table(catalog, "outcomes", n)) == rows
    assert open_table(catalog, "outcomes").dataset().count_rows("ticket = 'crashed'") == 0


@pytest.mark.parametrize("announced", [0, 1])
@pytest.mark.parametrize("moment", ["before the rows", "before the commit", "before the record"])
def test_a_writer_that_lost_its_lease_announces_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, announced: int, moment: str
) -> None:
    """It is overtaken where it stands, by a writer that finishes; then it goes on."""
    if announced:
        register_table(catalog, "outcomes", ROWS, id="ticket")
    writing = "write_rows" if moment == "before the rows" else "commit_rows"
    write = getattr(tables_module, writing)
    other = [{"ticket": "other", "outcome": "x"}]
    fence = catalog.layout.table_fence("outcomes")

    def overtake() -> None:
        monkeypatch.setattr(tables_module, writing, write)
        # As another process would: past the queue of this one's threads, and without waiting for the first lease.
        monkeypatch.setattr(tables_module, "Fence", lambda _: Fence(fence / ".." / fence.name))
        register_table(catalog, "outcomes", other, id="ticket")

    def stalled(*arguments: object) -> object:
        if moment != "before the record":
            overtake()
        done = write(*arguments)
        if moment == "before the record":
            overtake()
        return done

    monkeypatch.setattr(tables_module, writing, stalled)
    monkeypatch.setattr(tables_module, "Fence", lambda folder: Fence(folder, lease_s=0.0))
    with pytest.raises(LeaseLost):
        register_table(catalog, "outcomes", [{"ticket": "late", "outcome": "y"}], id="ticket")
    found = open_table(catalog, "outcomes")
    assert found.version == announced + 1
    assert rows_of(found) == other
    again = register_table(catalog, "outcomes", [{"ticket": "late", "outcome": "y"}], id="ticket")
    assert (again.version, rows_of(again)) == (announced + 2, [{"ticket": "late", "outcome": "y"}])


# --- append ----------------------------------------------------------------------------------------------------------------


def test_an_appended_version_holds_the_rows_before_and_these(catalog: Catalog) -> None:
    more = [{"ticket": "c", "outcome": "refund"}]
    register_table(catalog, "outcomes", ROWS, id="ticket")
    second = register_table(catalog, "outcomes", more, mode="append")
    assert (second.version, second.n_rows, second.id, rows_of(second)) == (2, 3, "ticket", [*ROWS, *more])
    third = register_table(catalog, "outcomes", ROWS, mode="append")
    assert (third.version, rows_of(third)) == (3, [*ROWS, *more, *ROWS])
    fourth = register_table(catalog, "outcomes", more, id="ticket")
    fifth = register_table(catalog, "outcomes", ROWS, mode="append")
    assert [rows_of(open_table(catalog, "outcomes", n)) for n in range(1, 6)] == [
        ROWS,
        [*ROWS, *more],
        [*ROWS, *more, *ROWS],
        more,
        [*more, *ROWS],
    ]
    assert (fourth.version, fifth.n_rows) == (4, 3)
    assert SqlEngine(catalog, lambda name: None).run("SELECT count(*) AS n FROM outcomes AT (VERSION => 3)").to_dicts() == [
        {"n": 5}
    ]


def test_the_same_append_right_away_again_makes_no_version(catalog: Catalog) -> None:
    more = [{"ticket": "c", "outcome": "refund"}]
    assert [register_table(catalog, "outcomes", ROWS, id="ticket", mode="append").version for _ in range(2)] == [1, 1]
    assert [register_table(catalog, "outcomes", more, mode="append").version for _ in range(2)] == [2, 2]
    files = list((catalog.layout.table("outcomes") / "data").iterdir())
    assert register_table(catalog, "outcomes", pd.DataFrame(more), mode="append").version == 2
    assert list((catalog.layout.table("outcomes") / "data").iterdir()) == files
    assert register_table(catalog, "outcomes", ROWS, mode="append").version == 3
    assert register_table(catalog, "outcomes", more, mode="append").version == 4
    assert register_table(catalog, "outcomes", more, id="ticket").version == 5  # which holds these rows alone


def test_an_append_may_add_columns_and_leave_some_out(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", ROWS[:1], id="ticket")
    table = register_table(catalog, "outcomes", [{"ticket": "b", "note": "late"}], mode="append")
    assert table.columns == {"ticket": "string", "outcome": "string", "note": "string"}
    assert rows_of(table) == [
        {"ticket": "a", "outcome": "refund", "note": None},
        {"ticket": "b", "outcome": None, "note": "late"},
    ]
    assert rows_of(open_table(catalog, "outcomes", 1)) == ROWS[:1]


def test_an_append_keeps_the_keys_and_the_chosen_columns_of_the_table(catalog: Catalog) -> None:
    body = [{"ticket": 7, "at": "2026-01-02", "outcome": "refund", "body": CANARY}]
    register_table(catalog, "outcomes", body, id="ticket", time="at", columns=["outcome"])
    table = register_table(catalog, "outcomes", [{**body[0], "ticket": 8}], mode="append")
    assert table.columns == {"ticket": "string", "at": "timestamp[us, tz=UTC]", "outcome": "string"}
    assert refusal(catalog, body, mode="append", id="outcome", subject="ticket") == (
        "register_table('outcomes'): id='outcome', but the table's id column is 'ticket': an append keeps it; "
        "subject='ticket', but the table's subject column is None: an append keeps it."
    )
    assert refusal(catalog, [{"outcome": "refund"}], mode="append") == (
        "register_table('outcomes'): there is no column 'ticket'; there are: outcome; "
        "there is no column 'at'; there are: outcome."
    )
    assert refusal(catalog, [{**body[0], "outcome": 1}], mode="append") == (
        "register_table('outcomes'): column 'outcome' is int64, but was string in earlier versions; "
        "register it under a new name, or cast the columns."
    )
    assert refusal(catalog, body, mode="merge") == "register_table('outcomes'): mode is 'replace' or 'append'."
    assert open_table(catalog, "outcomes") == table


# --- refresh ---------------------------------------------------------------------------------------------------------------


def test_a_table_is_read_again_from_its_files_with_the_same_keys_and_columns(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ticket,at,outcome,body\n01,2026-01-02,refund,x\n")
    first = register_table(catalog, "outcomes", tmp_path / "*.csv", id="ticket", time="at", columns=["outcome"])
    again = refresh_table(catalog, "outcomes")
    assert again == replace(first, known_until=again.known_until)
    (tmp_path / "b.csv").write_text("ticket,at,outcome,body\n02,2026-01-03,none,x\n")
    second = refresh_table(catalog, "outcomes")
    assert (second.version, second.id, second.time, second.source) == (2, "ticket", "at", first.source)
    assert [row["ticket"] for row in rows_of(second)] == ["01", "02"]
    assert list(second.columns) == ["ticket", "at", "outcome"]
    for name in "ab":
        (tmp_path / f"{name}.csv").unlink()
    with pytest.raises(InvalidArguments) as refused:
        refresh_table(catalog, "outcomes")
    assert str(refused.value) == f"refresh_table('outcomes'): no file matches '{tmp_path}/*.csv'."


def test_a_query_is_asked_again_of_its_file_and_of_a_connection_handed_in(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE outcomes AS SELECT 'a' AS ticket, 'refund' AS outcome")
    connection.commit()
    register_table(catalog, "by_file", path, query="SELECT * FROM outcomes", id="ticket")
    register_table(catalog, "by_connection", connection, query="outcomes", id="ticket")
    connection.execute("INSERT INTO outcomes VALUES ('b', 'none')")
    connection.commit()
    assert rows_of(refresh_table(catalog, "by_file")) == ROWS
    with pytest.raises(InvalidArguments) as refused:
        refresh_table(catalog, "by_connection")
    assert str(refused.value) == (
        "refresh_table('by_connection'): it was registered from a query over a connection (sqlite3), which no record keeps: "
        "hand one in as connection=."
    )
    assert rows_of(refresh_table(catalog, "by_connection", connection=connection)) == ROWS
    with pytest.raises(InvalidArguments) as refused:
        refresh_table(catalog, "by_file", connection=connection)
    assert str(refused.value) == (
        "refresh_table('by_file'): connection= is for a table that was registered from one; it was registered from database."
    )
    connection.close()


def test_rows_of_memory_and_of_several_calls_cannot_be_read_again(catalog: Catalog, tmp_path: Path) -> None:
    register_table(catalog, "outcomes", pd.DataFrame(ROWS), id="ticket")
    with pytest.raises(InvalidArguments) as refused:
        refresh_table(catalog, "outcomes")
    assert str(refused.value) == (
        "refresh_table('outcomes'): it was registered from memory (pandas DataFrame): hand the data to register_table."
    )
    (tmp_path / "t.csv").write_text("ticket,outcome\nc,none\n")
    register_table(catalog, "outcomes", tmp_path / "t.csv", mode="append")
    with pytest.raises(InvalidArguments) as refused:
        refresh_table(catalog, "outcomes")
    assert str(refused.value) == (
        "refresh_table('outcomes'): version 2 holds the rows of several calls, so there is no one place to read it again "
        "from: append what is new (mode='append'), or register all of it anew."
    )


def test_a_refresh_looks_where_the_data_was_found_last(catalog: Catalog, tmp_path: Path) -> None:
    """The file moved: registered from its new place with the same rows it makes no version, and is still found there."""
    register_table(catalog, "outcomes", ROWS, id="ticket")
    path = tmp_path / "t.csv"
    path.write_text("ticket,outcome\na,refund\nb,none\n")
    moved = register_table(catalog, "outcomes", path, id="ticket")
    assert (moved.version, moved.source) == (1, {"kind": "files", "paths": [str(path)]})
    path.write_text("ticket,outcome\na,refund\n")
    assert rows_of(refresh_table(catalog, "outcomes")) == ROWS[:1]
    assert open_table(catalog, "outcomes", 1).source == {"kind": "files", "paths": [str(path)]}


# --- versions in time --------------------------------------------------------------------------------------------------------


def test_a_table_is_read_as_it_was_at_a_time(catalog: Catalog) -> None:
    versions = [register_table(catalog, "outcomes", ROWS[:n], id="ticket") for n in (1, 2)]
    at = [datetime.fromisoformat(v.published_at) for v in versions]
    assert at[0] < at[1]
    step = timedelta(microseconds=1)
    assert [open_table(catalog, "outcomes", as_of=t).version for t in (at[0], at[1] - step, at[1])] == [1, 1, 2]
    elsewhere = at[0].astimezone(timezone(timedelta(hours=5)))
    assert open_table(catalog, "outcomes", as_of=elsewhere) == versions[0]
    assert open_table(catalog, "outcomes", as_of=at[0].replace(tzinfo=None)) == versions[0]
    with pytest.raises(TableNotFound) as missing:
        open_table(catalog, "outcomes", as_of=at[0] - step)
    assert str(missing.value) == (
        f"no table 'outcomes as of {(at[0] - step).isoformat()}' in store '{catalog.layout.root}'. "
        f"It has: 'outcomes version 1, published {versions[0].published_at}'."
    )
    with pytest.raises(InvalidArguments) as refused:
        open_table(catalog, "outcomes", 1, at[0])
    assert str(refused.value) == "table('outcomes'): table 'outcomes' is read at a version or as of a time, not both."


def test_versions_are_listed_with_what_each_brought(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", ROWS, id="ticket")
    table = register_table(catalog, "outcomes", [{"ticket": "c", "n": 1}], mode="append")
    found = table.versions()
    assert found == table_versions(catalog, "outcomes")
    assert [(v["version"], v["mode"], v["rows"], v["added"]) for v in found] == [(1, "replace", 2, 2), (2, "append", 3, 1)]
    assert [v["columns"] for v in found] == [open_table(catalog, "outcomes", n).columns for n in (1, 2)]
    assert found[1]["published_at"] == table.published_at
    with pytest.raises(TableNotFound):
        table_versions(catalog, "refunds")


def test_a_table_shows_its_columns_and_keys_in_a_notebook(catalog: Catalog) -> None:
    rows = [{"ticket": "a", "at": "2026-01-02", "a<b": 1}]
    table = register_table(catalog, "outcomes", rows, id="ticket", subject="ticket", time="at")
    shown = table._repr_html_()
    assert "<tr><td>ticket</td><td>string</td><td>id, subject</td></tr>" in shown
    assert "<tr><td>at</td><td>timestamp[us, tz=UTC]</td><td>time</td></tr>" in shown
    assert "<tr><td>a&lt;b</td><td>int64</td><td></td></tr>" in shown
    assert "<b>outcomes</b> version 1: 1 rows, published 20" in shown
    assert list(table.to_pandas().columns) == ["ticket", "at", "a<b"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 3), max_size=3)), min_size=1, max_size=6))
def test_every_version_stays_what_it_was_whatever_comes_after(calls: list[tuple[bool, list[int]]]) -> None:
    with TemporaryDirectory() as folder:
        catalog = Catalog(open_root(folder, create=True)[0])
        expected: list[list[int]] = []
        last: tuple[bool, list[int]] | None = None
        for append, values in calls:
            rows = pa.table({"n": pa.array(values, pa.int64())})
            table = register_table(catalog, "outcomes", rows, mode="append" if append else "replace")
            is_known = last == (append, values) or (last == (True, values) and len(expected) == 1 and not append)
            if not is_known:
                expected.append([*expected[-1], *values] if append and expected else values)
                last = (append, values)
            assert table.version == len(expected)
        found = [open_table(catalog, "outcomes", n).to_arrow().column("n").to_pylist() for n in range(1, len(expected) + 1)]
        assert found == expected


def test_a_call_with_a_wrong_mode_says_what_else_is_wrong(catalog: Catalog) -> None:
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", [{"id": "a"}], id="idd", columns=["q"], mode="upsert")  # type: ignore[arg-type]
    assert str(refused.value) == (
        "register_table('outcomes'): mode is 'replace' or 'append'; there is no column 'idd'; there are: id; "
        "there is no column 'q' (columns=); there are: id."
    )
    assert table_names(catalog) == []
