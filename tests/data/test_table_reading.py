"""Every kind of source, each a real one, and what becomes of bad ones."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import adbc_driver_sqlite.dbapi as adbc
import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from raystore.catalog import Catalog
from raystore.data.tables.table import SourceTable, register_table, table_names
from raystore.errors import InvalidArguments

CANARY = "canary-8c1f"
AT = datetime(2026, 1, 2, 3, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {"ticket": "a", "n": 1, "score": 1.5, "seen": "2026-01-02T03:00:00+00:00"},
    {"ticket": "b", "n": None, "score": -2.25, "seen": "2026-01-02"},
    {"ticket": "c", "n": 3, "score": None, "seen": None},
]
KEPT = [{**row, "seen": at} for row, at in zip(ROWS, (AT, datetime(2026, 1, 2, tzinfo=UTC), None), strict=True)]


def rows_of(table: SourceTable) -> list[dict]:
    return table.to_arrow().to_pylist()


def refusal(catalog: Catalog, data: object, **more: Any) -> str:
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", data, **more)
    assert table_names(catalog) == []
    assert CANARY not in str(refused.value)
    return str(refused.value).removeprefix("register_table('outcomes'): ")


def arrow() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def in_duckdb(folder: Path) -> Path:
    with duckdb.connect(str(folder / "shop.duckdb")) as connection:
        rows = arrow()
        connection.register("given", rows)
        connection.execute("CREATE TABLE outcomes AS SELECT * FROM given")
    return folder / "shop.duckdb"


def in_sqlite(folder: Path) -> Path:
    connection = sqlite3.connect(folder / "shop.db")
    connection.execute("CREATE TABLE outcomes (ticket TEXT, n INTEGER, score REAL, seen TEXT)")
    connection.executemany("INSERT INTO outcomes VALUES (:ticket, :n, :score, :seen)", ROWS)
    connection.commit()
    connection.close()
    return folder / "shop.db"


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[dict[str, tuple[object, dict[str, str]]]]:
    """The same rows in every form: what to hand in, and with what."""
    pq.write_table(arrow(), tmp_path / "t.parquet", row_group_size=2)
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        pd.DataFrame(ROWS).astype({"n": "Int64"}).to_csv(tmp_path / f"t.{suffix}", index=False, sep=mark)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "parts").mkdir()
    for place, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row], schema=arrow().schema), tmp_path / "parts" / f"{place}.parquet")
    database, lite = in_duckdb(tmp_path), in_sqlite(tmp_path)
    selected = {"query": "SELECT ticket, n, score, seen FROM outcomes ORDER BY ticket"}
    named = {"query": "outcomes"}
    memory = duckdb.connect()
    memory.register("outcomes", arrow())
    open_sqlite = sqlite3.connect(lite)
    open_adbc = adbc.connect(str(lite))
    table = arrow()
    yield {
        "dicts": (ROWS, {}),
        "arrow": (table, {}),
        "reader": (table.to_reader(max_chunksize=2), {}),
        "dataset": (pads.dataset(tmp_path / "t.parquet"), {}),
        "batch": (table.to_batches()[0], {}),
        "pandas": (pd.DataFrame(ROWS).astype({"n": "Int64"}), {}),
        "pandas_objects": (pd.DataFrame(ROWS).astype({"n": "Int64", "ticket": object, "seen": object}), {}),
        "polars": (pl.DataFrame(ROWS), {}),
        "polars_categories": (pl.DataFrame(ROWS).with_columns(pl.col("ticket").cast(pl.Categorical)), {}),
        "polars_lazy": (pl.scan_parquet(tmp_path / "t.parquet"), {}),
        "parquet": (tmp_path / "t.parquet", {}),
        "parquet_folder": (str(tmp_path / "parts"), {}),
        "parquet_pattern": ([tmp_path / "parts" / "[0-2].parquet"], {}),
        "csv": (tmp_path / "t.csv", {}),
        "tsv": (str(tmp_path / "t.tsv"), {}),
        "jsonl": (tmp_path / "t.jsonl", {}),
        "duckdb_file": (database, selected),
        "duckdb_file_table": (str(database), named),
        "duckdb_connection": (memory, selected),
        "duckdb_relation": (memory.sql(selected["query"]), {}),
        "sqlite_file": (lite, selected),
        "sqlite_file_table": (lite, {"query": "main.outcomes"}),
        "dbapi": (open_sqlite, selected),
        "dbapi_table": (open_sqlite, named),
        "adbc": (open_adbc, selected),
    }
    for connection in (open_sqlite, open_adbc, memory):
        connection.close()


def test_every_kind_of_source_gives_the_same_table_and_digest(
    catalog: Catalog, sources: dict[str, tuple[object, dict[str, str]]]
) -> None:
    found = {}
    for name, (data, query) in sources.items():
        table = register_table(catalog, name, data, id="ticket", time="seen", **query)
        assert rows_of(table) == KEPT, name
        found[name] = (table.columns, catalog.alias("table", name)["digest"])
    assert found == dict.fromkeys(sources, found["arrow"])


def test_where_a_table_came_from_is_kept_as_far_as_it_can_be(
    catalog: Catalog, sources: dict[str, tuple[object, dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def source(name: str) -> object:
        data, query = sources[name]
        return register_table(catalog, name, data, **query).source

    query = sources["dbapi"][1]["query"]
    assert source("parquet_pattern") == {"kind": "files", "paths": [f"{tmp_path}/parts/[0-2].parquet"]}
    assert register_table(catalog, "relative", "t.csv").source == {"kind": "files", "paths": [f"{tmp_path}/t.csv"]}
    assert source("duckdb_file") == {"kind": "database", "path": f"{tmp_path}/shop.duckdb", "query": query}
    assert source("dbapi") == {"kind": "connection", "driver": "sqlite3", "query": query}
    assert source("adbc") == {"kind": "connection", "driver": "adbc_driver_sqlite", "query": query}
    assert source("duckdb_connection") == {"kind": "connection", "driver": "duckdb", "query": query}
    assert source("pandas") == {"kind": "memory", "type": "pandas DataFrame"}
    assert source("polars_lazy") == {"kind": "memory", "type": "polars LazyFrame"}
    assert source("dicts") == {"kind": "memory", "type": "list"}


# --- databases -----------------------------------------------------------------------------------------------------------


def test_types_of_a_dbapi_column_are_those_of_all_its_rows(catalog: Catalog, tmp_path: Path) -> None:
    """SQLite gives every row the type it likes: nothing for 5,000 rows, then integers, then a float."""
    connection = sqlite3.connect(tmp_path / "x.sqlite")
    connection.execute("CREATE TABLE t (id, late, none)")
    connection.executemany("INSERT INTO t VALUES (?, ?, NULL)", [(i, None if i < 5_000 else i) for i in range(9_000)])
    connection.execute("INSERT INTO t VALUES (9000, 0.5, NULL)")
    table = register_table(catalog, "outcomes", connection, query="t", id="id")
    assert table.columns == {"id": "string", "late": "double", "none": "string"}
    late = table.to_arrow().column("late").to_pylist()
    assert (late[4_999], late[5_000], late[-1], len(late)) == (None, 5000.0, 0.5, 9_001)
    connection.execute("INSERT INTO t VALUES (9001, ?, NULL)", (CANARY,))
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", connection, query="t", id="id")
    assert str(refused.value) == "register_table('outcomes'): column 'late' holds values of several types."
    connection.close()


def test_values_of_drivers_that_arrow_has_no_plain_type_for_are_kept(catalog: Catalog) -> None:
    """A cursor of another driver: the few methods of DBAPI that are used, since no such driver is at hand."""
    number = UUID(int=7)

    class Cursor:
        description = (("key", None), ("price", None), ("day", None))

        def __init__(self) -> None:
            self.left = [(number, Decimal("1.50"), date(2026, 1, 2)), (None, Decimal("120.125"), None)]

        def execute(self, query: str) -> None:
            assert query == "SELECT * FROM prices"

        def fetchmany(self, size: int) -> list[tuple]:
            rows, self.left = self.left[:1], self.left[1:]
            return rows

        def close(self) -> None: ...

    class Connection:
        def cursor(self) -> Cursor:
            return Cursor()

    table = register_table(catalog, "prices", Connection(), query="prices", id="key", time="day")
    assert rows_of(table) == [
        {"key": str(number), "price": Decimal("1.500"), "day": datetime(2026, 1, 2, tzinfo=UTC)},
        {"key": None, "price": Decimal("120.125"), "day": None},
    ]


def test_only_the_chosen_columns_of_a_query_are_written_anywhere(catalog: Catalog, tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t AS SELECT 'a' AS ticket, ? AS body, 'refund' AS outcome", (CANARY,))
    table = register_table(catalog, "outcomes", connection, query="SELECT * FROM t", id="ticket", columns=["outcome"])
    connection.close()
    assert rows_of(table) == [{"ticket": "a", "outcome": "refund"}]
    files = [p for p in catalog.layout.root.rglob("*") if p.is_file()]
    assert [p for p in files if CANARY.encode() in p.read_bytes()] == []


def test_a_database_without_a_query_is_refused_with_the_tables_it_has(catalog: Catalog, tmp_path: Path) -> None:
    for path in (in_duckdb(tmp_path), in_sqlite(tmp_path)):
        said = f"query= must name a table of '{path}' or be a SELECT; it has: 'outcomes'."
        assert refusal(catalog, path) == said
    connection = sqlite3.connect(":memory:")
    assert refusal(catalog, connection) == "a connection needs query=, a SELECT or a table's name."
    connection.close()


def test_what_is_no_database_is_said(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert refusal(catalog, path, query="t") == f"'{path}' cannot be opened (FileNotFoundError)."
    path.write_text(CANARY * 9)
    assert refusal(catalog, path, query="t") == f"'{path}' is neither a DuckDB nor a SQLite file, which query= is for."
    assert refusal(catalog, ROWS, query="t") == "query= is for a database file or a connection, and data is list."
    assert refusal(catalog, "s3://bucket/x.db", query="t") == (
        "a database is read from a path of this machine, not from a URL."
    )


def test_a_duckdb_file_that_this_program_writes_to_is_read_through_its_connection(catalog: Catalog, tmp_path: Path) -> None:
    path = in_duckdb(tmp_path)
    with duckdb.connect(str(path)) as writing:
        assert refusal(catalog, path, query="outcomes") == (
            f"'{path}' cannot be opened (ConnectionException): where this program has it open to write, hand in that "
            "connection; where another one has, it must close it first."
        )
        assert register_table(catalog, "outcomes", writing, query="outcomes").n_rows == 3


@pytest.mark.parametrize("kind", ["duckdb", "sqlite", "dbapi", "adbc"])
def test_a_query_that_fails_is_refused_in_the_databases_words_about_the_query_alone(
    catalog: Catalog, tmp_path: Path, kind: str
) -> None:
    lite = in_sqlite(tmp_path)
    openers: dict[str, Callable[[], Any]] = {
        "duckdb": lambda: in_duckdb(tmp_path),
        "sqlite": lambda: lite,
        "dbapi": lambda: sqlite3.connect(lite),
        "adbc": lambda: adbc.connect(str(lite)),
    }
    data = openers[kind]()
    said = refusal(catalog, data, query="SELECT nope FROM outcomes")
    assert said == {
        "duckdb": 'the query cannot be run (BinderException): Binder Error: Referenced column "nope" not found in FROM clause!.',
        "adbc": "the query cannot be run (ProgrammingError): no such column: nope.",
    }.get(kind, "the query cannot be run (OperationalError): no such column: nope.")
    assert "no such table: DROP TABLE outcomes" in refusal(catalog, data, query="DROP TABLE outcomes") or kind == "duckdb"
    if not isinstance(data, Path):
        data.close()


def test_an_error_while_rows_are_read_does_not_quote_them(catalog: Catalog, tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    bad = f"SELECT 'x' AS ticket UNION ALL SELECT CAST(X'FF{CANARY.encode().hex()}' AS TEXT)"
    assert refusal(catalog, connection, query=bad) == "the query's rows cannot be read (OperationalError)."
    connection.close()
    with duckdb.connect() as memory:
        memory.execute(
            "CREATE TABLE t AS SELECT i, CASE WHEN i = 90000 THEN $1 ELSE '1' END AS n FROM range(99999) r(i)", [CANARY]
        )
        said = refusal(catalog, memory, query="SELECT i, n::INT AS n FROM t")
    assert said.startswith("the query's rows cannot be read (")


def test_columns_of_a_query_with_one_name_are_refused(catalog: Catalog) -> None:
    connection = sqlite3.connect(":memory:")
    said = refusal(catalog, connection, query="SELECT 1 AS a, 2 AS a, 3 AS b")
    connection.close()
    assert said == "columns 'a' and 'a' differ in case only or not at all, which SQL does not tell apart."


# --- files ---------------------------------------------------------------------------------------------------------------


def test_key_columns_of_a_csv_are_kept_as_they_are_written(catalog: Catalog, tmp_path: Path) -> None:
    """'007' joins the collection's id '007', which the same file was embedded under."""
    (tmp_path / "a.csv").write_text("ticket,customer,n\n007,01,7\n010,02,1\n")
    (tmp_path / "b.csv").write_text("ticket,n\n011,2\n")
    table = register_table(catalog, "outcomes", tmp_path, id="ticket", subject="customer")
    assert rows_of(table) == [
        {"ticket": "007", "customer": "01", "n": 7},
        {"ticket": "010", "customer": "02", "n": 1},
        {"ticket": "011", "customer": None, "n": 2},
    ]


def test_a_column_without_a_value_in_one_file_takes_the_type_of_the_others(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ticket,n,x\na,,\n")
    (tmp_path / "b.csv").write_text("ticket,n,x\nb,1,\n")
    (tmp_path / "c.jsonl").write_text('{"ticket": "c", "n": null, "x": 0.5}\n{"ticket": "d", "n": 2.5, "x": null}\n')
    pq.write_table(pa.table({"ticket": ["e"], "n": pa.nulls(1)}), tmp_path / "d.parquet")
    pq.write_table(pa.table({"ticket": ["f"], "n": pa.array([3], pa.int32())}), tmp_path / "e.parquet")
    for name in ("empty.csv", "empty.jsonl"):
        (tmp_path / name).touch()
    table = register_table(catalog, "outcomes", tmp_path)
    assert table.columns == {"ticket": "string", "n": "double", "x": "double"}
    assert [row["n"] for row in rows_of(table)] == [None, 1.0, None, 2.5, None, 3.0]


def test_files_whose_columns_do_not_go_together_are_refused_by_name(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"ticket,n\na,{CANARY}\n")
    (tmp_path / "b.jsonl").write_text('{"ticket": "c", "n": 2.5}\n')
    said = f"column 'n' is double in '{tmp_path}/b.jsonl', but string in '{tmp_path}/a.csv'."
    assert refusal(catalog, tmp_path) == said
    assert register_table(catalog, "outcomes", tmp_path, columns=["ticket"]).n_rows == 2


def test_files_fit_the_columns_that_the_table_has_where_they_can(catalog: Catalog, tmp_path: Path) -> None:
    """What a file looks like hangs on the rows it happens to hold; what the table has is known."""
    first = [{"ticket": "a", "code": "x1", "price": 1.5, "day": date(2026, 1, 2), "n": 1}]
    register_table(catalog, "outcomes", first, id="ticket")
    (tmp_path / "t.csv").write_text("ticket,code,price,day,n\n7,007,2,,\n")
    (tmp_path / "t.jsonl").write_text('{"ticket": 8, "code": 8, "price": 3, "day": null, "n": null}\n')
    for name in ("t.csv", "t.jsonl"):
        register_table(catalog, "outcomes", tmp_path / name, mode="append")
    table = register_table(catalog, "outcomes", [{"ticket": "9", "price": 4}], mode="append")
    assert rows_of(table)[1:] == [
        {"ticket": "7", "code": "007", "price": 2.0, "day": None, "n": None},
        {"ticket": "8", "code": "8", "price": 3.0, "day": None, "n": None},
        {"ticket": "9", "code": None, "price": 4.0, "day": None, "n": None},
    ]


def test_a_file_with_two_columns_of_one_name_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    said = "columns 'n' and '{}' differ in case only or not at all, which SQL does not tell apart."
    (tmp_path / "t.csv").write_text("ticket,n,n\na,1,2\n")
    assert refusal(catalog, tmp_path / "t.csv", id="ticket") == said.format("n")
    pq.write_table(pa.table([["a"], [1], [2]], names=["ticket", "n", "n"]), tmp_path / "t.parquet")
    assert refusal(catalog, tmp_path / "t.parquet", id="ticket") == said.format("n")
    assert refusal(catalog, tmp_path / "t.parquet", columns=["ticket"]) == said.format("n")
    frame = pd.DataFrame([["a", 1, 2]], columns=["ticket", "n", "n"])
    assert refusal(catalog, frame, id="ticket") == said.format("n")


def test_empty_files_and_files_of_columns_alone(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    assert refusal(catalog, tmp_path / "t.csv") == f"'{tmp_path}/t.csv' is empty."
    (tmp_path / "t.csv").write_text("ticket,outcome\n")
    table = register_table(catalog, "outcomes", tmp_path / "t.csv", id="ticket")
    assert (table.n_rows, table.columns, rows_of(table)) == (0, {"ticket": "string", "outcome": "string"}, [])
    again = register_table(catalog, "outcomes", [{"ticket": "a", "outcome": "x"}], id="ticket")
    assert (again.version, rows_of(again)) == (2, [{"ticket": "a", "outcome": "x"}])


def test_a_parquet_file_that_breaks_off_is_refused_and_leaves_nothing(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"ticket": [f"{i}-{CANARY}" for i in range(50_000)]}), path, row_group_size=10_000)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 5_000] = bytes(5_000)
    path.write_bytes(whole)
    said = refusal(catalog, path)
    assert said.startswith(f"'{path}' cannot be read (")
    assert list(catalog.layout.table("outcomes").glob("data/*")) == []


def test_urls_are_read_whatever_the_format(catalog: Catalog) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/tables/t.csv", b"ticket,n\na,1\n")
    files.pipe("/tables/t.jsonl", b'{"ticket": "a", "n": 1}\n')
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"ticket": ["a"], "n": [1]}), sink)
    files.pipe("/tables/t.parquet", sink.getvalue().to_pybytes())
    for kind in ("csv", "jsonl", "parquet"):
        assert rows_of(register_table(catalog, kind, f"memory://tables/t.{kind}")) == [{"ticket": "a", "n": 1}], kind


# --- values --------------------------------------------------------------------------------------------------------------


def test_nan_stays_what_it_is_but_in_pandas_where_it_means_nothing_there(catalog: Catalog) -> None:
    rows = [{"ticket": "a", "x": float("nan")}, {"ticket": "b", "x": None}]
    kept = register_table(catalog, "outcomes", rows).to_arrow().column("x")
    assert (kept.null_count, str(kept[0])) == (1, "nan")
    frame = register_table(catalog, "frame", pd.DataFrame({"x": [1.0, float("nan")]})).to_arrow().column("x")
    assert frame.to_pylist() == [1.0, None]
    said = "key column 'x' is double, expected strings or integers"
    with pytest.raises(InvalidArguments, match=said):
        register_table(catalog, "keyed", pd.DataFrame({"x": [1, None]}), id="x")


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([{"n": 1, "m": 1}, {"n": CANARY, "m": 2}], "n"),
        ([{"n": 2**70}], "n"),
        ([{"n": {"a": 1}}, {"n": [1]}], "n"),
    ],
)
def test_values_of_several_types_are_refused_by_column(catalog: Catalog, rows: list[dict], names: str) -> None:
    said = f"column '{names}' holds values of several types."
    assert refusal(catalog, rows) == said
    assert refusal(catalog, pd.DataFrame(rows).astype(object)) == said


def test_columns_of_a_frame_need_names(catalog: Catalog) -> None:
    assert refusal(catalog, pd.DataFrame([[1, 2]])) == "a column's name is int, expected a string."
    assert refusal(catalog, pa.table({"": [1]})) == "a column has no name."


def test_a_lazy_frame_that_fails_says_so_without_its_rows(catalog: Catalog) -> None:
    frame = pl.LazyFrame({"n": ["1", CANARY]}).with_columns(pl.col("n").cast(pl.Int64, strict=True))
    assert refusal(catalog, frame) == "the lazy frame cannot be read (InvalidOperationError)."
    missing = pl.LazyFrame({"n": [1]}).select("m")
    assert refusal(catalog, missing) == "the lazy frame cannot be collected (ColumnNotFoundError)."


def test_nested_and_coded_columns_come_out_plain(catalog: Catalog) -> None:
    frame = pl.DataFrame({"tags": [["x", "y"], None], "who": [{"name": "a", "n": 1}, {"name": None, "n": 2}]})
    table = register_table(catalog, "outcomes", frame)
    assert table.columns == {"tags": "list<item: string>", "who": "struct<name: string, n: int64>"}
    assert rows_of(table) == frame.to_dicts()
    coded = frame.with_columns(pl.col("tags").cast(pl.List(pl.Categorical)))
    assert [register_table(catalog, "outcomes", data).version for data in (frame.to_dicts(), coded)] == [1, 1]


def test_whatever_speaks_arrows_stream_interface_is_read(catalog: Catalog) -> None:
    class Stranger:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return arrow().__arrow_c_stream__(requested_schema)

    assert rows_of(register_table(catalog, "outcomes", Stranger(), time="seen")) == KEPT


def test_an_index_with_a_name_is_a_column_and_one_without_is_none(catalog: Catalog) -> None:
    rows = [{"ticket": "a", "day": 1, "n": 5}, {"ticket": "b", "day": 2, "n": 6}]
    whole = pd.DataFrame(rows)
    table = register_table(catalog, "by_ticket", whole.set_index("ticket"), id="ticket")
    assert table.to_arrow().to_pylist() == [{k: row[k] for k in ("ticket", "day", "n")} for row in rows]
    several = register_table(catalog, "by_both", whole.set_index(["ticket", "day"]))
    assert several.to_arrow().to_pylist() == rows
    assert list(register_table(catalog, "by_place", whole).columns) == ["ticket", "day", "n"]
    kept = whole.set_index("ticket", drop=False)
    assert list(register_table(catalog, "kept", kept).columns) == ["ticket", "day", "n"]
