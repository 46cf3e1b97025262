"""What a query's text means: parameters, JSON, and names in whatever letters, as DuckDB alone reads them."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.data.query.dialect import spaced
from raystore.data.query.rewrite import Relation, parse_query, parse_statement, places, relations, unknown_names
from raystore.errors import SqlRefused

KNOWN = {"tickets", "outcomes"}
PARAMS = {"a": 1, "b": "x,$y", "c_2": 3.5, "é": None}
VALUES = st.sampled_from(
    [
        *(f"${name}" for name in PARAMS),
        "'$a,$b'",
        "'it''s $a,$'",
        "e'\\'$a,$b'",
        "$$x,$a,$b$$",
        "$t$y,$a,$$,$b$t$",
        '"q$,$"',
        "x$y",
        "x$a/*$a,$b /* ' */ $c */",
        "$a::VARCHAR",
        "[$a,$a][1]",
        "{'k':$b,'l':$b}",
        "$b||$b",
        "coalesce($é,$c_2)",
        "1 IN($a,$c_2)",
        "list_transform([$a,$a],lambda v:v+$a)",
    ]
)
BETWEEN = st.sampled_from([",", " , ", ",\n", ",--$a,'$b\n", '/* $a,"$b */,', ","])


@given(st.lists(st.tuples(VALUES, BETWEEN), min_size=1, max_size=6))
def test_a_query_with_parameters_means_what_duckdb_alone_reads(parts: list[tuple[str, str]]) -> None:
    values = "".join(value + between for value, between in parts)
    sql = f'SELECT {values}0 FROM (SELECT 5 AS x$y, 6 AS x$a, 7 AS "q$,$")'
    used = {k: v for k, v in PARAMS.items() if k in duckdb.extract_statements(sql)[0].named_parameters}
    wanted = duckdb.execute(sql, used or None).fetchall()
    assert duckdb.execute(spaced(sql), used or None).fetchall() == wanted
    assert duckdb.execute(parse_query(sql).sql("duckdb"), used or None).fetchall() == wanted


@given(st.text("$'\"ab1 ,-/*\\\nE", max_size=30))
def test_whatever_the_text_nothing_but_spaces_is_added_to_it(sql: str) -> None:
    said = spaced(sql)
    assert said.replace(" ", "") == sql.replace(" ", "")
    assert spaced(said) == said


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT $1,$2", [1, 2]),
        ("SELECT $a,$b, $a,$c", {"a": 1, "b": 2, "c": 3}),
        ("SELECT 2 IN ($a,$b),coalesce($a,$b)", {"a": 1, "b": 2}),
    ],
)
def test_parameters_with_only_punctuation_between_them_are_each_their_own(sql: str, params: object) -> None:
    wanted = duckdb.execute(sql, params).fetchall()
    assert duckdb.execute(parse_query(sql).sql("duckdb"), params).fetchall() == wanted


@pytest.mark.parametrize(
    "path",
    [
        "j->'a'->2->>'b'",
        "j->'a'->2->'b.c'",
        "j->'a'->-1->'$.b'",
        "j->c->n->>'b'",
        "j->>'k'='v'",
        "json_extract(json_extract(j,'a'),'$[2].b')",
        "j->'/a/0'",
    ],
)
def test_json_is_read_by_key_number_and_path_as_duckdb_reads_it(path: str) -> None:
    row = """SELECT '{"a":[1,2,{"b":5,"b.c":7}],"k":"v"}'::JSON AS j, 'a' AS c, 2 AS n"""
    sql = f"SELECT {path} FROM ({row})"
    wanted = duckdb.execute(sql).fetchall()
    assert wanted[0][0] is not None
    assert duckdb.execute(parse_query(sql).sql("duckdb")).fetchall() == wanted


@pytest.mark.parametrize(("sql", "kind"), [(None, "NoneType"), (b"SELECT 1", "bytes"), (3, "int")])
def test_what_is_no_text_is_no_query(sql: object, kind: str) -> None:
    for parse in (parse_query, parse_statement):
        with pytest.raises(SqlRefused) as refused:
            parse(sql)  # type: ignore[operator]
        assert str(refused.value) == f"this SQL was not run: it is a {kind}, expected a SELECT as a string."


def test_relations_are_found_whatever_letters_their_names_stand_in() -> None:
    query = parse_query("SELECT * FROM TICKETS AT (VERSION => 2), \"Outcomes\" x, nearest(Tickets, toy, 'a', 3)")
    assert [p.relation for p in places(query, KNOWN.__contains__)] == [
        Relation("tickets", 2),
        Relation("outcomes", None),
        Relation("tickets", None),
    ]
    query = parse_query("WITH Mine AS (FROM Nobody) SELECT knn_label(toy, 'Outcomes.outcome') FROM MINE")
    assert unknown_names(query, KNOWN.__contains__) == ["nobody"]
    assert set(relations(query, KNOWN.__contains__)) == {Relation("outcomes", None)}
