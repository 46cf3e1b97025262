from __future__ import annotations

from typing import Any

import pytest

from raystore.catalog import Catalog
from raystore.data.query.rewrite import parse_query
from raystore.data.snapshots.event_label import EventRule
from raystore.data.snapshots.label_rule import LabelRule, define_rule, parse_rule, resolve_rule, rule_names
from raystore.data.snapshots.repeatable import unrepeatable
from raystore.data.snapshots.snapshot import SnapshotRecord, freeze
from raystore.errors import InvalidArguments, InvalidName, SnapshotRefused
from tests.data.freezing import day, engine_of, log_tickets, spring

EXPECTED = "expected first, last, majority, any, 'any:VALUE', 'sql: EXPRESSION' or 'EVENTS within 30 days of t.time'"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("first", LabelRule("first", kind="first")),
        (" majority ", LabelRule("majority", kind="majority")),
        ("any:it's", LabelRule("any:it's", kind="value", value="it's")),
        ("sql: arg_max(label, at)", LabelRule("sql: arg_max(label, at)", kind="sql", value="arg_max(label, at)")),
        (
            "refund within 30 days of t.time",
            LabelRule("refund within 30 days of t.time", kind="event", event=EventRule("refund", 30 * 86_400, "t.time")),
        ),
        (
            "Refund WITHIN 1 week OF closed_at where amount > 5 AND kind = 'a b'",
            LabelRule(
                "Refund WITHIN 1 week OF closed_at where amount > 5 AND kind = 'a b'",
                kind="event",
                event=EventRule("refund", 604_800, "closed_at", "amount > 5 AND kind = 'a b'"),
            ),
        ),
    ],
)
def test_a_rule_is_read_from_its_text(text: str, rule: LabelRule) -> None:
    assert parse_rule(text) == (rule, [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("best of three", f"label='best of three' is no rule, {EXPECTED}"),
        ("sql: max(label))", "the expression of the label rule does not parse as one SQL expression"),
        ("sql:", "the expression of the label rule does not parse as one SQL expression"),
        ("sql: label; DROP TABLE x", "the expression of the label rule does not parse as one SQL expression"),
        (
            "sql: (SELECT max(label) FROM tickets)",
            "the label rule holds a query, a window or a parameter, expected an aggregate over the rows of an id",
        ),
        (
            "sql: max(label) OVER ()",
            "the label rule holds a query, a window or a parameter, expected an aggregate over the rows of an id",
        ),
        ("sql: max(t.label)", "the label rule names a column otherwise than by its plain name"),
        (
            "sql: max(label) || now()",
            "the label rule asks the clock (now), so it gives other rows tomorrow; write $as_of, the snapshot's moment",
        ),
        (
            "sql: max(label) || random()",
            "the label rule draws at random (random()), so it cannot be made again; choose rows by hash(id)",
        ),
        (
            "refund within 0 days of t.time",
            "the window of the label rule is '0' long, expected a whole number from 1 to 1,000,000",
        ),
        (
            "refund within 3 years of t.time",
            "the window of the label rule is in 'years', expected minutes, hours, days or weeks",
        ),
    ],
)
def test_a_text_that_is_no_rule_says_why(text: str, problem: str) -> None:
    assert parse_rule(text)[1] == [problem]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT now()",
        "SELECT 1 WHERE current_date > d",
        "SELECT today()",
        "SELECT current_timestamp",
        "SELECT localtimestamp",
        "SELECT age(born) FROM t",
    ],
)
def test_a_query_that_asks_the_clock_is_known(sql: str) -> None:
    (problem,) = unrepeatable(parse_query(sql))
    assert problem.startswith("asks the clock (")


@pytest.mark.parametrize(
    "sql", ["SELECT random()", "SELECT uuid()", "SELECT gen_random_uuid()", "SELECT * FROM t USING SAMPLE 5 ROWS"]
)
def test_a_query_that_draws_at_random_is_known(sql: str) -> None:
    (problem,) = unrepeatable(parse_query(sql))
    assert problem.startswith("draws at random (")


ORDER = "hangs on the order of rows: "


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT id FROM t LIMIT 5", "LIMIT without ORDER BY; write ORDER BY a unique key, like id"),
        ("SELECT id FROM t FETCH FIRST 5 ROWS ONLY", "LIMIT without ORDER BY; write ORDER BY a unique key, like id"),
        ("SELECT id FROM t ORDER BY 'x' OFFSET 5", "OFFSET without ORDER BY; write ORDER BY a unique key, like id"),
        (
            "SELECT * FROM (SELECT id FROM t UNION ALL SELECT id FROM u LIMIT 5) ORDER BY id",
            "LIMIT without ORDER BY; write ORDER BY a unique key, like id",
        ),
        ("SELECT DISTINCT ON (id) id, a FROM t", "DISTINCT ON without ORDER BY; write ORDER BY a unique key, like id"),
        ("SELECT t.id FROM t POSITIONAL JOIN u", "POSITIONAL JOIN; join by a key"),
        (
            "SELECT id FROM t QUALIFY row_number() OVER (PARTITION BY id) = 1",
            "row_number() without ORDER BY in its OVER; write OVER (... ORDER BY a unique key)",
        ),
        (
            "SELECT first_value(a) OVER w FROM t WINDOW w AS (PARTITION BY id)",
            "first_value() without ORDER BY in its OVER; write OVER (... ORDER BY a unique key)",
        ),
        (
            "SELECT lag(a) OVER (ORDER BY 1) FROM t",
            "lag() without ORDER BY in its OVER; write OVER (... ORDER BY a unique key)",
        ),
        (
            "SELECT sum(a) OVER (ROWS 1 PRECEDING) FROM t",
            "a frame of ROWS without ORDER BY in its OVER; write OVER (ORDER BY a unique key ROWS ...)",
        ),
        ("SELECT any_value(a) FROM t", "any_value() without ORDER BY in it; write min() or max()"),
        ("SELECT arbitrary(a) FROM t", "arbitrary() without ORDER BY in it; write min() or max()"),
        ("SELECT first(a) FILTER (b) FROM t", "first() without ORDER BY in it; write arg_min() by a unique key"),
        ("SELECT last(a) OVER (PARTITION BY b) FROM t", "last() without ORDER BY in it; write arg_max() by a unique key"),
        (
            "SELECT listagg(DISTINCT a, ',') FROM t",
            "string_agg() without ORDER BY in it; write string_agg(x ORDER BY a unique key)",
        ),
        ("SELECT list(a) FROM t", "list() without ORDER BY in it; write list(x ORDER BY a unique key)"),
        ("SELECT array_agg(a)[1] FROM t", "list() without ORDER BY in it; write list(x ORDER BY a unique key)"),
        (
            "SELECT mode(a) FROM t",
            "mode() without ORDER BY in it; write label='majority', or mode(x ORDER BY x), where the smallest of several wins",
        ),
        ("SELECT max_by(a, 1) FROM t", "arg_max() by a constant; write a column that is unique among the rows of an id"),
        ("SELECT approx_quantile(a, 0.5) FROM t", "approx_quantile(); write quantile_disc()"),
    ],
)
def test_a_query_that_hangs_on_the_order_of_rows_is_known(sql: str, problem: str) -> None:
    assert unrepeatable(parse_query(sql)) == [ORDER + problem]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM t ORDER BY id LIMIT 5",
        "SELECT id FROM t ORDER BY 1 LIMIT 5",
        "SELECT id FROM t ORDER BY ALL LIMIT 5",
        "SELECT id FROM t ORDER BY hash(id) LIMIT 5 OFFSET 2",
        "(SELECT id FROM t ORDER BY id) LIMIT 5",
        "SELECT DISTINCT ON (id) id, a FROM t ORDER BY id, b",
        "SELECT DISTINCT id FROM t",
        "SELECT id FROM t QUALIFY row_number() OVER (PARTITION BY id ORDER BY b) = 1",
        "SELECT lag(a) OVER w, last(a) OVER (w) FROM t WINDOW w AS (PARTITION BY id ORDER BY b)",
        "SELECT sum(a) OVER (PARTITION BY id), count(*) OVER () FROM t",
        "SELECT first(a ORDER BY b), any_value(a ORDER BY b), mode(a ORDER BY a), string_agg(DISTINCT a, ',' ORDER BY a) FROM t",
        "SELECT list(a ORDER BY a)[1], list_sort(list(a)), len(list(a) FILTER (b)) FROM t",
        "SELECT arg_max(a, b), arg_min(a, b, 3), max(a), quantile_disc(a, 0.5), age(a, b) FROM t",
    ],
)
def test_a_query_that_says_its_order_is_left_alone(sql: str) -> None:
    assert unrepeatable(parse_query(sql)) == []


def test_a_list_that_is_taken_as_a_set_has_no_order() -> None:
    assert unrepeatable(parse_query("SELECT id, list(DISTINCT a) FILTER (b) AS label FROM t GROUP BY id"), sets=True) == []
    assert parse_rule("sql: list(label)")[1] == []
    assert parse_rule("sql: list(label)[1]")[1] == [
        f"the label rule {ORDER}list() without ORDER BY in it; write list(x ORDER BY a unique key)"
    ]


@pytest.mark.parametrize("call", ["txid_current()", "getvariable('x')", "current_setting('threads')"])
def test_a_query_that_asks_the_session_is_known(call: str) -> None:
    name = call.partition("(")[0]
    assert unrepeatable(parse_query(f"SELECT {call} FROM t")) == [
        f"asks the session ({name}()), so it gives other rows in another; write a parameter, $name, and params="
    ]


def test_a_query_that_does_neither_is_left_alone() -> None:
    assert (
        unrepeatable(parse_query("SELECT id, hash(id), $as_of - INTERVAL 3 MONTH, nowhere FROM now_and_then ORDER BY 1"))
        == []
    )


# --- names -------------------------------------------------------------------------------------------------------------


def test_a_rule_is_kept_under_a_name_in_numbered_versions(catalog: Catalog) -> None:
    assert define_rule(catalog, "outcome", "last") == "outcome@1"
    assert define_rule(catalog, "outcome", " last ") == "outcome@1"
    assert define_rule(catalog, "outcome", "sql: min(label)") == "outcome@2"
    assert rule_names(catalog) == ["outcome"]
    assert resolve_rule(catalog, "outcome") == (LabelRule("sql: min(label)", "outcome@2", "sql", "min(label)"), [])
    assert resolve_rule(catalog, "outcome@1") == (LabelRule("last", "outcome@1", "last"), [])


def test_names_that_cannot_be_and_texts_that_are_no_rule_are_refused(catalog: Catalog) -> None:
    with pytest.raises(InvalidName):
        define_rule(catalog, "Out come", "last")
    with pytest.raises(InvalidArguments) as refused:
        define_rule(catalog, "any", "other@1")
    assert str(refused.value) == (
        f"define_rule('any'): 'any' is a rule of its own; label='other@1' is no rule, {EXPECTED}."
    )
    assert rule_names(catalog) == []


@pytest.mark.parametrize("label", ["nothing", "outcome@7", "outcome@0"])
def test_a_rule_that_is_not_there_is_said_with_those_that_are(catalog: Catalog, label: str) -> None:
    define_rule(catalog, "outcome", "last")
    said = f"label='{label}' is no rule, {EXPECTED}, or a rule defined before ('outcome')"
    assert resolve_rule(catalog, label)[1] == [said]


# --- several rows an id ------------------------------------------------------------------------------------------------

# Of t-00 to t-19, each id has the labels a (first), b, b (last, later by two days).
SQL = """SELECT t.id, v.label, v.at, v.flag FROM tickets t,
         (VALUES ('a', TIMESTAMP '2026-03-01', false), ('b', TIMESTAMP '2026-03-02', true), ('b', TIMESTAMP '2026-03-03', false))
         v(label, at, flag) WHERE t.n < 18
         UNION ALL SELECT id, 'c', TIMESTAMP '2026-03-04', false FROM tickets WHERE n >= 16"""
PLENTY = {"train": 1}


def take(catalog: Catalog, sql: str = SQL, **options: Any) -> SnapshotRecord:
    if not (catalog.layout.rows("tickets")).exists():
        log_tickets(catalog, spring(20))
    return freeze(catalog, engine_of(catalog), "labelled", sql, **{"split": PLENTY, **options})


def labels(snapshot: SnapshotRecord) -> dict[str, Any]:
    rows = snapshot.rows()
    return dict(zip(rows.column("id").to_pylist(), rows.column("label").to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("first", ("a", "a", "c")),
        ("last", ("b", "c", "c")),
        ("majority", ("b", "b", "c")),
        ("any:a", ("true", "true", "false")),
        ("sql: min(label)", ("a", "a", "c")),
        ("sql: arg_max(label, at)", ("b", "c", "c")),
        ("sql: CASE WHEN count(*) > 3 THEN 'many' ELSE 'few' END", ("few", "many", "few")),
        ("sql: max(n_of(at))", None),
    ],
)
def test_a_rule_makes_one_label_of_the_rows_of_an_id(catalog: Catalog, label: str, wanted: tuple[str, ...] | None) -> None:
    if wanted is None:
        with pytest.raises(SnapshotRefused) as refused:
            take(catalog, label=label)
        assert str(refused.value) == (
            "snapshot 'labelled' was not taken: the label rule cannot be run: DuckDB says: "
            "Catalog Error: Scalar Function with name n_of does not exist!."
        )
        return
    snapshot = take(catalog, label=label)
    found = labels(snapshot)
    assert (found["t-00"], found["t-16"], found["t-19"]) == wanted
    assert len(found) == 20
    assert snapshot.spec["label"] == {"rule": label}
    assert snapshot.spec["conflicts"] == (None if "count" in label else 18)


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("majority", "label"),
        ("sql: arg_max(outcome, at)", '"outcome"'),
        ("sql: CAST(arg_min(outcome || kind, at) FILTER (flag) AS VARCHAR)", '"outcome" || "kind"'),
        ("sql: first(outcome ORDER BY at)", '"outcome"'),
        ("sql: any_value(outcome ORDER BY at)", '"outcome"'),
        ("sql: CASE WHEN bool_or(label = 'a') THEN 'a' ELSE 'b' END", "label"),
        ("sql: max(count(*))", None),
        ("sql: count(*)", None),
    ],
)
def test_a_rule_says_what_it_chooses_from_where_it_can_be_told(rule: str, chosen: str | None) -> None:
    assert parse_rule(rule)[0].chooses == chosen


def test_conflicts_are_of_the_column_that_the_rule_chooses_and_otherwise_not_counted(catalog: Catalog) -> None:
    sql = SQL.replace("v.label, v.at", "v.label AS outcome, v.at").replace("SELECT id, 'c'", "SELECT id, 'c' AS outcome")
    snapshot = take(catalog, sql, label="sql: arg_max(outcome, at)")
    assert snapshot.spec["conflicts"] == 18
    assert snapshot.report().endswith("conflicts: 18 ids had several different labels")
    counted = take(catalog, sql, label="sql: CASE WHEN count(*) > 3 THEN 'many' ELSE 'few' END")
    assert counted.spec["conflicts"] is None
    assert counted.report().endswith("conflicts: not counted, since the label rule names no column that it chooses from")


def test_any_asks_booleans(catalog: Catalog) -> None:
    snapshot = take(catalog, SQL.replace("v.label", "v.flag AS label").replace("'c'", "false"), label="any")
    assert labels(snapshot)["t-00"] == "true"
    assert labels(snapshot)["t-19"] == "false"
    with pytest.raises(SnapshotRefused) as refused:
        take(catalog, label="any")
    assert str(refused.value) == (
        "snapshot 'labelled' was not taken: label='any' takes booleans, its labels are string; 'any:VALUE' asks for one of them."
    )


def test_ties_go_to_the_smallest_label_whatever_the_order(catalog: Catalog) -> None:
    both = "SELECT id, unnest(['b', 'a', 'c', 'a', 'b']) AS label, {at} AS at FROM tickets WHERE n < 10"
    rest = " UNION ALL SELECT id, 'd', 1 FROM tickets WHERE n >= 10"
    for rule in ("first", "last", "majority"):
        for order in ("", " ORDER BY hash(label, id)"):
            sql = f"SELECT * FROM ({both.format(at=1)}{rest}){order}"
            assert labels(take(catalog, sql, label=rule))["t-03"] == "a"


def test_a_rule_by_name_stands_in_the_spec_and_stays_what_it_was(catalog: Catalog) -> None:
    define_rule(catalog, "outcome", "first")
    snapshot = take(catalog, label="outcome")
    assert snapshot.spec["label"] == {"rule": "first", "named": "outcome@1"}
    define_rule(catalog, "outcome", "last")
    assert take(catalog, label="outcome@1").label == snapshot.label
    assert take(catalog, label="outcome").spec["label"] == {"rule": "last", "named": "outcome@2"}


REFUSED = {
    "several rows without a rule": (
        SQL, {}, "18 ids stand more than once ('t-00', 't-01', 't-02' and 15 more); "
        "say which label an id gets, with label='last', 'majority' or another rule",
    ),
    "no at": (
        "SELECT id, 'a' AS label FROM tickets", {"label": "last"},
        "its SQL gives no column 'at', by which label='last' orders the rows of an id; it gives: id, label",
    ),
    "text for at": (
        "SELECT id, 'a' AS label, 'now' AS at FROM tickets", {"label": "first"},
        "its column at is string, expected a time or a number (CAST it AS TIMESTAMP in the SQL)",
    ),
    "null at": (
        "SELECT id, 'a' AS label, CASE WHEN n > 1 THEN n END AS at FROM tickets", {"label": "first"},
        "2 rows have no at ('t-00', 't-01'), by which label='first' orders the rows of an id",
    ),
    "several entities": (
        "SELECT id, 'a' AS label, unnest(['x', 'y']) AS entity FROM tickets", {"label": "majority"},
        "20 ids have several values of 'entity' ('t-00', 't-01', 't-02' and 17 more); choose one an id in the SQL",
    ),
    "no aggregate": (
        "SELECT id, 'a' AS label FROM tickets", {"label": "sql: label"},
        "the label rule cannot be run: DuckDB says: Binder Error: column \"label\" must appear in the GROUP BY clause or must be "
        "part of an aggregate function",
    ),
    "null from the rule": (
        SQL, {"label": "sql: max(label) FILTER (flag)"},
        "2 rows have no label ('t-18', 't-19'); leave them out: WHERE label IS NOT NULL",
    ),
    "a value of a row in the rule's error": (
        "SELECT id, 'secret' AS label FROM tickets", {"label": "sql: max(CAST(label AS INTEGER))"},
        "the label rule cannot be run: DuckDB says: ConversionException",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_rows_that_a_rule_cannot_gather_are_refused(catalog: Catalog, reason: str) -> None:
    sql, options, problem = REFUSED[reason]
    with pytest.raises(SnapshotRefused) as refused:
        take(catalog, sql, **options)
    assert str(refused.value) == f"snapshot 'labelled' was not taken: {problem}."


def test_a_label_in_the_rule_is_text_and_no_sql(catalog: Catalog) -> None:
    snapshot = take(
        catalog, "SELECT id, CASE WHEN n < 9 THEN 'a'' OR true' ELSE 'b' END AS label FROM tickets", label="any:a' OR true"
    )
    assert (labels(snapshot)["t-00"], labels(snapshot)["t-19"]) == ("true", "false")


def test_the_day_of_a_label_may_be_a_date(catalog: Catalog) -> None:
    sql = "SELECT id, v.label, v.at FROM tickets, (VALUES ('a', DATE '2026-03-09'), ('b', DATE '2026-03-08')) v(label, at) WHERE n < 9"
    sql += " UNION ALL SELECT id, 'b', DATE '2026-03-01' FROM tickets WHERE n >= 9"
    assert labels(take(catalog, sql, label="last"))["t-00"] == "a"
    assert day(8).date().isoformat() == "2026-03-09"
