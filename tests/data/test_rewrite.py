from __future__ import annotations

from datetime import UTC, datetime

import pytest

from raystore.data.query.rewrite import (
    Relation,
    calls_of,
    parse_query,
    parse_statement,
    place_of,
    places,
    relations,
    replace_table,
    unknown_names,
)
from raystore.errors import SqlRefused

KNOWN = {"tickets", "outcomes"}


def found(sql: str) -> set[tuple[str, int | None]]:
    return {(r.name, r.version) for r in relations(parse_query(sql), KNOWN.__contains__)}


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT 1", set()),
        ("SELECT * FROM tickets", {("tickets", None)}),
        ("FROM tickets", {("tickets", None)}),
        ('SELECT * FROM "tickets" AS x', {("tickets", None)}),
        ("SELECT * FROM tickets AT (VERSION => 3) x, tickets y", {("tickets", 3), ("tickets", None)}),
        ("SELECT * FROM tickets WHERE id IN (SELECT ticket FROM outcomes)", {("tickets", None), ("outcomes", None)}),
        ("WITH x AS (SELECT * FROM outcomes) SELECT * FROM x", {("outcomes", None)}),
        ("SELECT * FROM range(3)", set()),
        ("SELECT * FROM main.tickets", set()),
        ("SELECT tickets FROM outcomes", {("outcomes", None)}),
    ],
)
def test_the_relations_of_a_query_are_found(sql: str, wanted: set) -> None:
    assert found(sql) == wanted


def test_names_that_are_nobodys_are_found() -> None:
    query = parse_query(
        "WITH x AS (SELECT 1) SELECT * FROM x, nobody, tickets, range(3), 'a.csv', information_schema.tables"
    )
    assert unknown_names(query, KNOWN.__contains__) == ["nobody"]


@pytest.mark.parametrize("name", ["tickets", "TICKETS", '"tickets"'])
def test_a_part_named_like_a_collection_is_refused_since_it_would_mean_two_things(name: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        found(f"WITH {name} AS (SELECT * FROM tickets WHERE n > 3) SELECT * FROM tickets")
    plain = name.strip('"')
    assert str(refused.value) == (
        f"this SQL was not run: its part WITH {plain} has the name of a collection or table. Give it another name."
    )


def test_a_place_keeps_the_name_the_query_knows_it_by() -> None:
    query = parse_query("SELECT tickets.id, x.id FROM tickets AT (VERSION => 2), tickets x")
    for tables in relations(query, KNOWN.__contains__).values():
        for table in tables:
            replace_table(table, "view")
    assert query.sql("duckdb") == 'SELECT tickets.id, x.id FROM view AS "tickets", view AS x'


def test_a_call_ranks_the_nearest_collection_around_it() -> None:
    sql = "SELECT (SELECT max(similarity(toy, 'a')) FROM tickets AT (VERSION => 1)) FROM tickets t WHERE similarity(toy, 'b') > 0"
    query = parse_query(sql)
    standing = places(query, KNOWN.__contains__)
    calls = calls_of(query, ["similarity"])
    found = {
        node.expressions[1].this: place_of(node, "similarity", "", standing, {"tickets"}.__contains__).relation
        for _, node in calls
    }
    assert found == {"a": Relation("tickets", 1), "b": Relation("tickets", None)}


def test_a_qualifier_that_an_inner_relation_has_taken_is_refused() -> None:
    query = parse_query("SELECT (SELECT similarity(t.toy, 'a') FROM outcomes t) FROM tickets t")
    standing = places(query, KNOWN.__contains__)
    with pytest.raises(SqlRefused) as refused:
        place_of(calls_of(query, ["similarity"])[0][1], "similarity", "t", standing, {"tickets"}.__contains__)
    assert str(refused.value) == (
        "this SQL was not run: similarity() has nothing to rank: 't' is no collection of this query. "
        "Put the collection of its vectors into FROM."
    )


def test_relations_that_only_functions_name_are_found_too() -> None:
    sql = "SELECT knn_label(toy, 'outcomes.outcome') FROM nearest(tickets, toy, 'a', 3) AT (VERSION => 2)"
    assert {r: [t.alias for t in tables] for r, tables in relations(parse_query(sql), KNOWN.__contains__).items()} == {
        Relation("tickets", 2): ["nearest"],
        Relation("outcomes", None): [],
    }
    assert unknown_names(parse_query(sql), {"outcomes"}.__contains__) == ["tickets"]
    assert unknown_names(parse_query(sql), {"tickets"}.__contains__) == ["outcomes"]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("'2026-11-01'", datetime(2026, 11, 1, tzinfo=UTC)),
        ("TIMESTAMP '2026-11-01 09:30:00'", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("'2026-11-01T09:30:00+02:00'", datetime(2026, 11, 1, 7, 30, tzinfo=UTC)),
    ],
)
def test_a_relation_may_be_asked_for_as_of_a_time(text: str, time: datetime) -> None:
    (relation,) = relations(parse_query(f"FROM tickets AT (TIMESTAMP => {text}) x"), KNOWN.__contains__)
    assert relation == Relation("tickets", None, time)


def test_explain_is_told_from_a_query() -> None:
    assert parse_statement("EXPLAIN SELECT 1 AS one")[1]
    assert not parse_statement("SELECT 1 AS one")[1]
    for sql, said in (
        ("EXPLAIN ANALYZE SELECT 1", "it is an EXPLAIN ANALYZE, expected EXPLAIN and a SELECT."),
        (
            "EXPLAIN DELETE FROM tickets",
            "it is a DELETE statement, expected a SELECT. SQL reads; rows are written with log, embed and register_table.",
        ),
    ):
        with pytest.raises(SqlRefused) as refused:
            parse_statement(sql)
        assert str(refused.value) == f"this SQL was not run: {said}"
