"""Verbs on source tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.cli.conftest import Cli


def test_a_table_from_a_file_grows_by_refresh_and_append_and_keeps_its_versions(cli: Cli, tmp_path: Path) -> None:
    store, file = ("--store", tmp_path / "store"), tmp_path / "refunds.csv"
    file.write_text("item,at,amount\na,2026-01-01T00:00:00,1.5\n")
    register = ("table", "register", "refunds", file, "--id", "item", "--time", "at")
    assert cli(*store, *register).out == "<table refunds version 1: 1 rows, item, at, amount>\n"
    same = "<table refunds version 1: 1 rows, item, at, amount>; the data is what it was, so there is no new version\n"
    assert (cli(*store, *register).out, cli(*store, "table", "refresh", "refunds").out) == (same, same)
    file.write_text("item,at,amount\na,2026-01-01T00:00:00,1.5\nb,2026-01-02T00:00:00,2.5\n")
    refreshed = cli(*store, "--json", "table", "refresh", "refunds").json
    assert (refreshed["version"], refreshed["rows"], refreshed["new"]) == (2, 2, True)
    (tmp_path / "more.jsonl").write_text('{"item": "c", "at": "2026-01-03T00:00:00", "amount": 3.5}\n')
    appended = cli(*store, "--json", "table", "register", "refunds", tmp_path / "more.jsonl", "--append").json
    assert (appended["version"], appended["rows"], appended["new"]) == (3, 3, True)
    versions = cli(*store, "--json", "table", "versions", "refunds").json
    assert [(v["version"], v["mode"], v["rows"], v["added"]) for v in versions] == [
        (3, "append", 3, 1),
        (2, "replace", 2, 2),
        (1, "replace", 1, 1),
    ]
    shown = cli(*store, "table", "versions", "refunds").out.splitlines()
    assert shown[0].split(" ┃ ")[:4] == ["version", "mode   ", "rows", "added"]
    assert len(shown) == 5
    refused = cli(*store, "table", "refresh", "refunds")
    assert (refused.code, refused.err) == (
        2,
        "InvalidArguments: refresh_table('refunds'): version 3 holds the rows of several calls, so there is no one place to read it "
        "again from: append what is new (mode='append'), or register all of it anew.\n",
    )


def test_show_says_schema_keys_and_where_it_came_from(cli: Cli, tmp_path: Path) -> None:
    store, file = ("--store", tmp_path / "store"), tmp_path / "refunds.csv"
    file.write_text("item,at,amount\na,2026-01-01T00:00:00,1.5\n")
    assert cli(*store, "table", "register", "refunds", file, "--id", "item", "--time", "at").code == 0
    shown = cli(*store, "--json", "table", "show", "refunds").json
    assert shown["keys"] == {"id": "item", "subject": None, "time": "at"}
    assert shown["columns"] == {"item": "string", "at": "timestamp[us, tz=UTC]", "amount": "double"}
    assert shown["source"] == {"kind": "files", "paths": [str(file)]}
    lines = cli(*store, "table", "show", "refunds", "--version", "1").out.splitlines()
    assert lines[0].startswith("refunds version 1: 1 rows, 20")
    assert lines[1] == f"from {file}"
    assert [line.replace(" ", "") for line in lines[5:]] == [
        "item│string│id",
        "at│timestamp[us,tz=UTC]│time",
        "amount│double│",
    ]
    early = cli(*store, "table", "show", "refunds", "--as-of", "2020-01-01")
    assert early.code == 3
    assert early.err.startswith("TableNotFound: no table 'refunds as of 2020-01-01T00:00:00+00:00' in store")


def test_a_database_file_is_read_by_a_query_and_refreshed_by_it(cli: Cli, tmp_path: Path) -> None:
    store, file = ("--store", tmp_path / "store"), tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript("CREATE TABLE t (item TEXT, paid REAL); INSERT INTO t VALUES ('a', 1.5), ('b', 2.5)")
    query = "SELECT item, paid FROM t WHERE paid > 2"
    made = cli(*store, "--json", "table", "register", "paid", file, "--query", query, "--id", "item").json
    assert (made["rows"], made["new"]) == (1, True)
    assert cli(*store, "table", "show", "paid").out.splitlines()[1] == f"from {file}, by {query}"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO t VALUES ('c', 3.5)")
    assert cli(*store, "table", "refresh", "paid").out == "<table paid version 2: 2 rows, item, paid>\n"
