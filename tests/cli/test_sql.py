"""sql: as a table, CSV, Parquet, JSON, and what would be done."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq

from tests.cli.conftest import Cli, Studied


def test_csv_goes_to_standard_output_and_to_a_file(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    query = "SELECT product, count(*) AS n FROM items GROUP BY 1 ORDER BY 1"
    shown = cli("--store", studied.root, "sql", query, "--format", "csv")
    assert (shown.code, shown.out.splitlines()[0], len(shown.out.splitlines())) == (0, '"product","n"', 4)
    said = cli("--store", studied.root, "sql", query, "--out", tmp_path / "n.csv")
    assert (said.code, said.out) == (0, f"3 rows to {tmp_path / 'n.csv'}\n")
    assert (tmp_path / "n.csv").read_text() == shown.out
    rows = list(csv.DictReader(shown.out.splitlines()))
    assert sum(int(row["n"]) for row in rows) == 240


def test_parquet_is_written_batch_by_batch_in_the_place_of_what_was_there(cli: Cli, tmp_path: Path) -> None:
    import raystore

    raystore.open(tmp_path / "store")
    out = tmp_path / "numbers.parquet"
    out.write_bytes(b"an older file")
    query = "SELECT range AS n, [range] AS list FROM range(300000)"
    said = cli("--store", tmp_path / "store", "--json", "sql", query, "--out", out)
    assert said.json == {"file": str(out), "format": "parquet", "rows": 300_000, "columns": ["n", "list"]}
    file = pq.ParquetFile(out)
    assert (file.metadata.num_rows, file.metadata.num_row_groups > 1) == (300_000, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["numbers.parquet", "store"]


def test_a_query_that_fails_half_way_leaves_the_file_that_was_there(cli: Cli, tmp_path: Path) -> None:
    import raystore

    raystore.open(tmp_path / "store")
    out = tmp_path / "numbers.csv"
    out.write_text("older")
    query = "SELECT CASE WHEN range < 250000 THEN range ELSE error('too far') END AS n FROM range(300000)"
    said = cli("--store", tmp_path / "store", "sql", query, "--out", out)
    assert (said.code, said.err.split(":")[0]) == (2, "SqlRefused")
    assert (out.read_text(), sorted(p.name for p in tmp_path.iterdir())) == ("older", ["numbers.csv", "store"])


def test_a_table_shows_the_first_rows_and_counts_a_million_more_at_most(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    few = cli(*store, "sql", "SELECT id FROM items ORDER BY id", "--limit", "2").out.splitlines()
    assert [line.strip() for line in few] == ["id", "━━━━━", "i-000", "i-001", "... 238 more rows (--limit)"]
    assert cli(*store, "sql", "SELECT 1 AS a", "--limit", "0").out.splitlines()[-1] == "... 1 more rows (--limit)"
    many = cli(*store, "sql", "SELECT range AS n FROM range(3000000)", "--limit", "1").out.splitlines()
    assert many[-1] == "... more than 1,000,000 more rows (--limit)"


def test_as_of_reads_tables_as_they_were_and_explain_runs_nothing(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    first = cli(*store, "--json", "table", "versions", "labels").json[-1]
    changed = "SELECT count(*) AS n FROM labels WHERE label = 'login' AND item < 'i-012'"
    assert cli(*store, "--json", "sql", changed).json == [{"n": 12}]
    then = cli(*store, "--json", "sql", changed, "--as-of", first["published_at"]).json
    assert then[0]["n"] < 12
    before = cli(*store, "sql", changed, "--as-of", "2020-01-01")
    assert (before.code, before.err.split(":")[0]) == (3, "TableNotFound")
    plan = cli(*store, "sql", "SELECT id FROM items ORDER BY similarity(tiny, 'a card') DESC LIMIT 3", "--explain")
    assert plan.code == 0
    assert plan.out.startswith("raystore: 1 text or image encoded; one scan of the vectors of 240 rows of 'items'")
    assert set(cli(*store, "--json", "sql", "SELECT 1", "--explain").json) == {"plan"}


def test_options_that_do_not_fit_each_other_are_refused(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    says = {
        ("--format", "parquet"): "--format parquet needs --out FILE",
        ("--format", "table", "--out", "a.csv"): "--out writes csv or parquet; a table is for looking at",
        ("--explain", "--as-of", "2026-01-01"): "--explain runs nothing: it goes without --format, --out and --as-of",
    }
    for options, problem in says.items():
        said = cli(*store, "sql", "SELECT 1", *options)
        assert (said.code, said.err) == (2, f"InvalidArguments: sql: {problem}.\n")
    said = cli(*store, "sql", "SELECT [1] AS a, {'b': 1} AS c, 1 AS d", "--format", "csv")
    assert said.err == (
        "InvalidArguments: sql: column 'a' is list<l: int32>, which CSV cannot hold: CAST it, or write Parquet; "
        "column 'c' is struct<b: int32>, which CSV cannot hold: CAST it, or write Parquet.\n"
    )
