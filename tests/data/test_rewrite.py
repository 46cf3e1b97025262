from __future__ import annotations

import pytest

from raystore.data.rewrite import Relation, parse_query, relations, replace_table, similarity_calls, unknown_names
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
    sql = "SELECT (SELECT max(similarity(toy, 'a')) FROM tickets AT (VERSION => 1)) FROM tickets t WHERE similarity(toy, item('b')) > 0"
    query = parse_query(sql)
    places = relations(query, KNOWN.__contains__)
    calls = similarity_calls(query, places, {"tickets"}.__contains__, None)
    assert {(c.relation, c.encoder, c.text, c.item) for _, _, c in calls} == {
        (Relation("tickets", 1), "toy", "a", None),
        (Relation("tickets", None), "toy", None, "b"),
    }
