from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import product
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import SqlRefused
from raystore.serve.rules.condition import compile_condition
from raystore.serve.rules.facts import AFTER, BEFORE, Stage
from raystore.serve.rules.like import like

NOTHING = dict.fromkeys((*BEFORE, *AFTER))


def facts(known: dict[str, Any]) -> dict[str, Any]:
    """Names of facts as facts, all others as columns."""
    columns = {name: value for name, value in known.items() if name not in NOTHING}
    return {**NOTHING, **{name: value for name, value in known.items() if name in NOTHING}, "columns": columns}


def said(condition: str, stage: Stage = "after", **known: Any) -> bool | None:
    """What the condition says where these facts and columns are known."""
    return compile_condition(condition, stage)(facts(known))


def said_of(condition: str, rows: Sequence[dict[str, Any]]) -> list[bool | None]:
    says = compile_condition(condition, "after")
    return [says(facts(row)) for row in rows]


# --- a random condition says of a random row what DuckDB says: true, false or null -------------------------------------

TEXTS = ["", "card", "loan", "it's", "50%", "a_b", "Größe", "x\\y", "CARD", "aab", "a\nb", "😀"]
VALUES: dict[str, list[Any]] = {
    "text": TEXTS,
    "product": TEXTS,
    "confidence": [-1.5, 0.0, -0.0, 0.3, 2.25, 1e3, 7.0, float("nan"), float("inf")],
    "n": [-5, 0, 3, 7],
    "abstained": [True, False],
    "paid": [True, False],
    "due": [date(2026, 1, 1), date(2026, 11, 20)],
    "time": [
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 6, 1, 12, 30, tzinfo=UTC),
        datetime(2026, 11, 20, tzinfo=UTC),
    ],
}
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("text", "product")),
        ("confidence", pa.float64()),
        ("n", pa.int64()),
        *((name, pa.bool_()) for name in ("abstained", "paid")),
        ("due", pa.date32()),
        ("time", pa.timestamp("us", "UTC")),
    ]
)
LIKE_KIND = [["text", "product"], ["confidence", "n"], ["abstained", "paid"], ["due", "time"]]
SIGNS = ["=", "!=", "<>", "<", "<=", ">", ">="]
signs = st.sampled_from(SIGNS)
patterns = st.text("ab%_", max_size=6) | st.sampled_from(["%", "c%", "%a%", "_oan", "it's", "Gr__e", "x\\y", "%\n%", "_"])


def written(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value:%Y-%m-%d %H:%M:%S}'"
    if isinstance(value, date):
        return f"DATE '{value}'"
    return str(value).upper()


def duckdb_says(conditions: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[list[bool | None]]:
    """Of each condition, what DuckDB says of each row."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows", pa.Table.from_pylist(list(rows), schema=SCHEMA))
    asked = ", ".join(f"CAST(({condition}) AS BOOLEAN) AS c{i}" for i, condition in enumerate(conditions))
    return [column.to_pylist() for column in connection.sql(f"SELECT {asked} FROM rows").to_arrow_table().columns]


@pytest.mark.parametrize("kind", LIKE_KIND, ids=lambda kind: kind[0])
def test_every_comparison_with_a_constant_or_another_column_is_duckdbs(kind: list[str]) -> None:
    known = dict.fromkeys(
        written(value) for name in kind for value in [*VALUES[name], None] if str(value) not in ("nan", "inf")
    )
    conditions = [f"{kind[0]} {sign} {kind[1]}" for sign in SIGNS]
    for name in kind:
        conditions += [f"{name} {sign} {constant}" for sign in SIGNS for constant in known]
        conditions += [f"{constant} {sign} {name}" for sign in SIGNS for constant in known]
        conditions += [f"{name} IN ({one}, {other})" for one in known for other in known]
        conditions += [f"{name} BETWEEN {one} AND {other}" for one in known for other in known]
    pairs = [(one, other) for one in (*VALUES[kind[0]], None) for other in (*VALUES[kind[1]], None)]
    rows = [{**dict.fromkeys(VALUES), kind[0]: one, kind[1]: other} for one, other in pairs]
    for condition, wanted in zip(conditions, duckdb_says(conditions, rows), strict=True):
        assert said_of(condition, rows) == wanted, condition


@st.composite
def simple(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(LIKE_KIND))
    column, other = draw(st.sampled_from(kind)), draw(st.sampled_from(kind))
    known = [value for name in kind for value in VALUES[name] if str(value) not in ("nan", "inf")]
    constant = st.sampled_from([*known, None]).map(written)
    form = draw(st.sampled_from(["compare", "flip", "in", "between", "is", "like", "flag", "columns"]))
    no = draw(st.sampled_from(["", "NOT "]))
    if form == "compare":
        return f"{column} {draw(signs)} {draw(constant)}"
    if form == "flip":
        return f"{draw(constant)} {draw(signs)} {column}"
    if form == "in":
        return f"{column} {no}IN ({', '.join(draw(st.lists(constant, min_size=1, max_size=3)))})"
    if form == "between":
        return f"{column} {no}BETWEEN {draw(constant)} AND {draw(constant)}"
    if form == "is":
        return f"{column} IS {no}NULL"
    if form == "like":
        return f"{draw(st.sampled_from(LIKE_KIND[0]))} {no}LIKE {written(draw(patterns))}"
    if form == "columns":
        return f"{column} {draw(signs)} {other}"
    flag = draw(st.sampled_from(LIKE_KIND[2]))
    return draw(st.sampled_from([f"{no}{flag}", f"{flag} IS {no}TRUE", f"{flag} IS {no}FALSE"]))


conditions = st.recursive(
    simple(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"NOT ({one})"),
    ),
    max_leaves=6,
)
rows = st.lists(
    st.fixed_dictionaries({name: st.sampled_from([*values, None]) for name, values in VALUES.items()}),
    min_size=5,
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(conditions, min_size=4, max_size=8), rows)
def test_a_condition_says_of_a_row_what_duckdb_says(conditions: list[str], rows: list[dict[str, Any]]) -> None:
    as_json = [{**row, "due": row["due"] and str(row["due"])} for row in rows]  # where there are no dates, only texts
    for condition, wanted in zip(conditions, duckdb_says(conditions, rows), strict=True):
        assert said_of(condition, rows) == wanted
        assert said_of(condition, as_json) == wanted


def test_like_is_duckdbs_on_all_short_patterns_and_texts() -> None:
    patterns = ["".join(each) for n in range(5) for each in product("ab%_", repeat=n)]
    texts = ["".join(each) for n in range(5) for each in product("a\nb", repeat=n)]
    connection = duckdb.connect()
    connection.register("patterns", pa.table({"i": range(len(patterns)), "pattern": patterns}))
    connection.register("texts", pa.table({"j": range(len(texts)), "text": texts}))
    query = "SELECT text LIKE pattern AS alike FROM patterns, texts ORDER BY i, j"
    wanted = connection.sql(query).to_arrow_table().column("alike").to_pylist()
    assert [matches(text) for matches in map(like, patterns) for text in texts] == wanted


def test_a_pattern_of_many_runs_costs_no_power_of_a_long_text() -> None:
    assert not like("%a%a%a%a%a%b%")("a" * 200_000)
    assert not like("%a_a%a_a%a_a%b")("a" * 200_000)


# --- what SQL leaves to the store's types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "condition",
    [
        "n > 3",
        "n = '3'",
        "n",
        "n LIKE '3%'",
        "paid = 1",
        "name = 3",
        "name < TRUE",
        "n = time",
        "many = 1",
        "name < DATE '2026-01-01'",
    ],
)
def test_values_of_two_kinds_that_cannot_be_compared_make_null(condition: str) -> None:
    known: dict[str, Any] = {
        "n": "7" if condition == "n > 3" else 7,
        "paid": True,
        "name": "ada",
        "many": [1],
        "time": datetime(2026, 1, 1),
    }
    assert said(condition, **known) is None
    assert said(f"NOT ({condition})", **known) is None


def test_a_text_is_read_as_a_time_where_it_is_compared_with_one() -> None:
    assert said("due < DATE '2026-02-01'", due="2026-01-31") is True
    assert said("due < TIMESTAMP '2026-01-31 12:00:00'", due="2026-01-31T12:00:00+01:00") is True
    assert said("time > due", time=datetime(2026, 2, 1), due="2026-01-31") is True
    assert said("due < DATE '2026-02-01'", due="soon") is None


def test_times_without_a_zone_are_utc_and_others_are_the_moment_that_they_are() -> None:
    noon = "time = TIMESTAMP '2026-01-31 12:00:00'"
    assert said(noon, time=datetime(2026, 1, 31, 12)) is True
    assert said(noon, time=datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))) is True
    assert said(noon, time=datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1)))) is False


def test_a_column_that_the_request_does_not_have_is_null() -> None:
    assert said("product = 'card'") is None
    assert said("product IS NULL") is True
    assert said("product != 'card'") is None


def test_a_name_in_double_quotes_is_the_column_and_not_the_fact() -> None:
    both = {**NOTHING, "key": "web", "columns": {"key": "spare", "label": "blue"}}
    assert compile_condition("key = 'web' AND \"key\" = 'spare'", "before")(both) is True
    assert compile_condition("\"label\" = 'blue'", "before")(both) is True


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.datetimes().map(str)
    | st.just("0001-01-01T00:00:00+14:00")
)


@settings(deadline=None)
@given(conditions, st.fixed_dictionaries(dict.fromkeys(VALUES, anything)))
def test_nothing_that_is_sent_makes_a_condition_raise(condition: str, sent: dict[str, Any]) -> None:
    assert said(condition, **sent) in (True, False, None)


# --- what is refused when it is compiled --------------------------------------------------------------------------------

HOLDS = "It may hold column, comparison, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT and literals"


@pytest.mark.parametrize(
    ("condition", "stage", "reason", "advice"),
    [
        ("chars >", "before", "its condition does not parse", f"{HOLDS}."),
        (
            "chars IN ()",
            "before",
            "its condition holds IN, which is outside its grammar",
            f"{HOLDS}; ask for the rest in a hook (call:).",
        ),
        (
            "length(text) > 3",
            "before",
            "its condition holds LENGTH, which is outside its grammar",
            f"{HOLDS}; ask for the rest in a hook (call:).",
        ),
        (
            "(" * 1500 + "chars > 1" + ")" * 1500,
            "after",
            "its condition is nested too deep",
            "Write long chains of OR as IN (...).",
        ),
        (
            "confidnece < 0.5",
            "after",
            "its condition names 'confidnece', which is no fact: did you mean 'confidence'? Otherwise a column of that name is "
            'written "confidnece", in double quotes',
            "",
        ),
        (
            "labels = 'a'",
            "after",
            "its condition names 'labels', which is no fact: did you mean 'label'? Otherwise a column of that name is written "
            '"labels", in double quotes',
            "",
        ),
        (
            "product = 'x' OR Tenant = 'a'",
            "before",
            "its condition names 'Tenant', which is no fact: did you mean 'tenant'? Otherwise a column of that name is written "
            '"Tenant", in double quotes',
            "",
        ),
        (
            "confidence < 0.5",
            "before",
            "its condition names 'confidence', which is known only after the head has spoken; a column of that name is written "
            '"confidence", in double quotes',
            "",
        ),
        (
            "text LIKE 'a%'",
            "shadow after",
            "its condition names 'text', which is gone when shadow rules are looked at, after the answer",
            "",
        ),
        (
            "time > TIMESTAMP 'soon'",
            "before",
            "its condition has a TIMESTAMP that is none",
            "Write it as TIMESTAMP '2026-01-31 12:30:00', in UTC.",
        ),
        (
            "time > TIMESTAMP '2026-01-01 00:00:00+05'",
            "before",
            "its condition has a TIMESTAMP that is none",
            "Write it as TIMESTAMP '2026-01-31 12:30:00', in UTC.",
        ),
        (
            "time > DATE '2026-13-01'",
            "before",
            "its condition has a DATE that is none",
            "Write it as DATE '2026-01-31', in UTC.",
        ),
    ],
)
def test_a_condition_that_cannot_be_is_refused_with_the_reason(
    condition: str, stage: Stage, reason: str, advice: str
) -> None:
    with pytest.raises(SqlRefused) as refused:
        compile_condition(condition, stage)
    assert (refused.value.reason, refused.value.advice) == (reason, advice)


@pytest.mark.parametrize("name", ["product", "country", "amount", "channel", "language", "customer"])
def test_a_name_that_is_like_no_fact_is_a_column(name: str) -> None:
    assert said(f"{name} = 'x'", **{name: "x"}) is True
