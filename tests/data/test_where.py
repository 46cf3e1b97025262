from __future__ import annotations

from datetime import UTC, date, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.collection import CollectionTable
from raystore.data.where import parse_where
from raystore.errors import SqlRefused
from tests.data.toy import make_log

GRAMMAR = "It may hold column, comparison, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT and literals"
COLUMNS = ["id", "product", "price", "n", "paid", "due", "time"]

# --- a random predicate selects the same rows in Lance and in DuckDB ---------------------------------------------------

TEXTS = ["", "card", "loan", "it's", "50%", "a_b", "Größe", "x\\y", "CARD"]
NUMBERS = [-5, 0, 3, 7]
DATES = [date(2026, 1, 1), date(2026, 11, 20)]


def literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value:%Y-%m-%d %H:%M:%S}'"
    if isinstance(value, date):
        return f"DATE '{value}'"
    return str(value).upper()


VALUES: dict[str, list] = {
    "product": TEXTS,
    "price": [-1.5, 0.0, 2.25, 1e3, 7],
    "n": NUMBERS,
    "due": DATES,
    "time": [datetime(2026, 1, 1), datetime(2026, 6, 1, 12, 30), datetime(2026, 11, 20)],
}
ORDERED = sorted(VALUES)
operators = st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">="])


@st.composite
def simple(draw: st.DrawFn) -> str:
    column = draw(st.sampled_from(ORDERED))
    value = st.sampled_from(VALUES[column]).map(literal)
    kind = draw(st.sampled_from(["compare", "flip", "in", "between", "null", "like", "paid", "columns"]))
    no = draw(st.sampled_from(["", "NOT "]))
    if kind == "compare":
        return f"{column} {draw(operators)} {draw(value)}"
    if kind == "flip":
        return f"{draw(value)} {draw(operators)} {column}"
    if kind == "in":
        return f"{column} {no}IN ({', '.join(draw(st.lists(value, min_size=1, max_size=3)))})"
    if kind == "between":
        return f"{column} {no}BETWEEN {draw(value)} AND {draw(value)}"
    if kind == "null":
        return f"{column} IS {no}NULL"
    if kind == "like":
        pattern = draw(st.sampled_from(["%", "c%", "%a%", "_oan", "it''s", "", "Gr__e", "%o%"]))
        return f"product {no}LIKE '{pattern}'"
    if kind == "columns":
        return f"price {draw(operators)} n"
    return f"{no}paid" if draw(st.booleans()) else f"paid IS {no}TRUE"


predicates = st.recursive(
    simple(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda t: f"{t[0]} {t[1]} {t[2]}"),
        inner.map(lambda p: f"({p})"),
        inner.map(lambda p: f"NOT ({p})"),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[CollectionTable, pa.Table]:
    """A collection with nulls in every column, and the same rows as one Arrow table."""
    from tests.data.toy import make_store, make_tickets

    columns = {"product": "string", "price": "float64", "n": "int64", "paid": "bool", "due": "date"}
    table = make_tickets(make_store(tmp_path_factory.mktemp("where") / "store"), columns)
    rng = np.random.default_rng(5)

    def one(values: list) -> object:
        return None if rng.random() < 0.2 else values[rng.integers(len(values))]

    rows = [
        {
            "id": f"row-{i}",
            "text": "hello",
            **{name: one(VALUES[name]) for name in ("product", "price", "n", "due")},
            "paid": one([True, False]),
            "time": VALUES["time"][i % 3].replace(tzinfo=UTC),
        }
        for i in range(120)
    ]
    make_log(table).log(rows[:70])
    make_log(table).log(rows[70:])
    return table, table.to_arrow(COLUMNS)


@settings(max_examples=100, deadline=None)
@given(where=predicates)
def test_a_predicate_selects_the_rows_that_duckdb_selects(both: tuple[CollectionTable, pa.Table], where: str) -> None:
    table, rows = both
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows", rows)
    wanted = connection.sql(f"SELECT id FROM rows WHERE {where}").to_arrow_table().column("id").to_pylist()
    assert table.to_arrow(["id"], where=where).column("id").to_pylist() == wanted
    assert table.count(where) == len(wanted)


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "filter"),
    [
        ("product = 'card'", "`product` = 'card'"),
        ("product = 'it''s'", "`product` = 'it''s'"),
        ("n IN (1, -2)", "`n` IN (1, -2)"),
        ("n BETWEEN 1 AND 2", "`n` BETWEEN 1 AND 2"),
        ("NOT paid OR n IS NULL", "((NOT `paid`) OR `n` IS NULL)"),
        ("product NOT LIKE 'c%'", "(NOT `product` LIKE 'c%')"),
        ("time >= TIMESTAMP '2026-01-01'", "`time` >= CAST('2026-01-01' AS TIMESTAMP)"),
        ("due < DATE '2026-01-01' -- and so on", "`due` < CAST('2026-01-01' AS DATE)"),
        ("\"product\" = 'x'", "`product` = 'x'"),
    ],
)
def test_a_predicate_is_written_anew(text: str, filter: str) -> None:
    assert parse_where(text, COLUMNS) == filter


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("length(product) > 2", "LENGTH"),
        ("upper(product) = 'X'", "UPPER"),
        ("n + 1 = 2", "ADD"),
        ("product || 'x' = 'y'", "DPIPE"),
        ("n IN (SELECT 1)", "IN"),
        ("EXISTS (SELECT 1)", "EXISTS"),
        ("(SELECT 1) = 1", "SUBQUERY"),
        ("product ILIKE 'c%'", "ILIKE"),
        ("regexp_matches(product, 'x')", "REGEXPLIKE"),
        ("read_text('/etc/passwd') = ''", "ANONYMOUS"),
        ("CAST(n AS VARCHAR) = '1'", "CAST"),
        ("CASE WHEN paid THEN TRUE END", "CASE"),
        ("t.product = 'card'", "COLUMN"),
        ("product = $1", "PLACEHOLDER"),
        ("n BETWEEN SYMMETRIC 1 AND 2", "BETWEEN"),
        ("n IN price", "IN"),
        ("time = TIMESTAMPTZ '2026-01-01 00:00:00+05'", "CAST"),
        ("product = ?", "PLACEHOLDER"),
        ("n IS DISTINCT FROM 1", "NULLSAFENEQ"),
        ("1", "LITERAL"),
        ("'card'", "LITERAL"),
        ("NULL", "NULL"),
        ("*", "STAR"),
        ("product LIKE 'a' ESCAPE 'b'", "ESCAPE"),
    ],
)
def test_what_is_outside_the_grammar_is_refused_by_name(text: str, kind: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        parse_where(text, COLUMNS)
    assert str(refused.value) == (
        f"this SQL was not run: the where= predicate holds {kind}, which is outside its grammar. "
        f"{GRAMMAR}; ask for the rest in store.sql()."
    )


@pytest.mark.parametrize(
    "text",
    ["product =", "product = 'card", "= 1", "product = 'a'; DROP TABLE t", "(n = 1", "AND", "   ", "n = 1)", "SELECT 1"],
)
def test_what_does_not_parse_is_refused(text: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        parse_where(text, COLUMNS)
    assert str(refused.value) == f"this SQL was not run: the where= predicate does not parse. {GRAMMAR}."


@pytest.mark.parametrize("text", ["(" * 5000 + "n = 1" + ")" * 5000, " OR ".join(["n = 1"] * 5000), "NOT " * 5000 + "paid"])
def test_what_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        parse_where(text, COLUMNS)
    assert str(refused.value) == (
        "this SQL was not run: the where= predicate is nested too deep. Write long chains of OR as IN (...)."
    )


def test_a_long_list_is_no_deep_nest(both: tuple[CollectionTable, pa.Table]) -> None:
    listed = ", ".join(f"'row-{i}'" for i in range(0, 10_000, 60))
    assert both[0].to_arrow(["id"], where=f"id IN ({listed})").column("id").to_pylist() == ["row-0", "row-60"]


@pytest.mark.parametrize("name", ["colour", "_payload", "_added", "vec_ab12ab12ab12", "_rowid", "Product"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(both: tuple[CollectionTable, pa.Table], name: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        both[0].to_arrow(["id"], where=f'"{name}" = 1')
    assert str(refused.value) == (
        f"this SQL was not run: the where= predicate names the column '{name}', which is not there. "
        "The columns are: due, id, n, paid, price, product, subject, tenant, time."
    )


@pytest.mark.parametrize(
    "where",
    [
        "n = 'three'",
        "product > 3",
        "paid = 'card'",
        "time > TIMESTAMP 'soon'",
        "due = DATE '2026-13-01'",
        "n",
        "n LIKE 'a%'",
    ],
)
def test_types_that_do_not_meet_are_refused_with_the_types_there_are(
    both: tuple[CollectionTable, pa.Table], where: str
) -> None:
    with pytest.raises(SqlRefused) as refused:
        both[0].count(where)
    assert str(refused.value) == (
        "this SQL was not run: the where= predicate compares what cannot be compared. The columns and their types: "
        "id string, subject string, tenant string, time timestamp[us, tz=UTC], product string, price double, n int64, "
        "paid bool, due date32[day]."
    )
