"""What DuckDB's parser sees of a query, read in this process: legal SQL stays legal, and no word of a query comes back."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.data.sandbox.child import connect
from raystore.data.sandbox.reader import QueryReader
from raystore.errors import QueryRefused

SERVED = frozenset({"t"})
SHOWN = """
CREATE TEMP VIEW _relation_0 AS
SELECT 'a' AS id, 'p' AS product, 1.5 AS amount, [1, 2] AS l, {'a': 1, 'b': 'x'} AS s, now() AS time, '{"a":1}' AS j
"""
LEGAL = [
    "SELECT ARRAY(SELECT 1), (id, product), product = ANY(SELECT 'a'), current_date, INTERVAL (l[1]) DAY, try(1/0) FROM t",
    "SELECT j->'a', j->>'a', s.a, not true, -amount, id is null, id IS DISTINCT FROM product, l @> [1], id ^@ 'b', 2 ** 2 FROM t",
    "SELECT 5 // 2, 5 & 1, ~1, id !~ 'x', id ILIKE 'a', id GLOB 'b', 'a' || 'b', id NOT LIKE 'x', id LIKE 'a%' ESCAPE '!' FROM t",
    "SELECT position('a' in id), substring('a' from 1 for 2), trim(both 'a' from id), coalesce(id, product), if(true, 1, 2) FROM t",
    "SELECT date_trunc('day', time), extract(year from time), time::date, time + INTERVAL 3 DAY, time at time zone 'UTC' FROM t",
    "SELECT count(*), count(distinct id), max_by(id, amount), quantile_cont(amount, 0.5), sum(amount) FILTER (WHERE amount > 1) FROM t",
    "SELECT string_agg(id, ',' ORDER BY id), product FROM t GROUP BY ALL HAVING count(*) > 0 ORDER BY ALL",
    "SELECT x, i FROM t, unnest(l) u(x), range(3) r(i), generate_series(1, 2) g(j2)",
    "SELECT lag(amount) OVER (PARTITION BY product ORDER BY time), row_number() OVER w FROM t WINDOW w AS (ORDER BY time)",
    "SELECT 1e5, 'a' in ('a', 'b'), l[-1:], format('{}', id), exists(from t), cast(l as int[]), x'00', 1.5::decimal(10, 2) FROM t",
    "FROM t SELECT id UNION ALL FROM t SELECT product EXCEPT SELECT 'z' INTERSECT SELECT 'p' ORDER BY 1 LIMIT 3",
    "SELECT * EXCLUDE (l) REPLACE (upper(id) AS id) FROM t",
    "SELECT COLUMNS('.*o.*') FROM t",
    "SELECT id.upper(), t.id, t FROM t",
    "SELECT list_transform(l, lambda x: x + 1), [x * 2 for x in l if x > 1] FROM t",
    "WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r WHERE a < 5) SELECT * FROM r",
    "WITH a AS (SELECT 1 x), b AS MATERIALIZED (SELECT x + 1 y FROM a) SELECT a.x, B.y FROM A JOIN b ON true",
    "WITH a(q) AS (SELECT 1) SELECT w FROM a AS z(w) WHERE w = 1",
    "SELECT * FROM t USING SAMPLE 10%",
    "SELECT * FROM (PIVOT t ON product IN ('p', 'q') USING sum(amount) GROUP BY id)",
    "UNPIVOT (SELECT id, amount a, amount b FROM t) ON a, b INTO NAME n VALUE v",
    "SELECT product, grouping(product), count(*) FROM t GROUP BY ROLLUP(product)",
    "SELECT DISTINCT ON (product) id FROM t ORDER BY product, time DESC",
    "SELECT * FROM t a ASOF JOIN t b ON a.id = b.id AND a.time >= b.time",
    "SELECT * FROM t a SEMI JOIN t b ON a.id = b.id",
    "SELECT (SELECT max(amount) FROM t x WHERE x.product = t.product) FROM t",
    'SELECT id AS "group", 1 AS "a b" FROM t ORDER BY "a b" LIMIT 10%',
    "SELECT CASE WHEN amount > 1 THEN 'x' ELSE 'y' END, amount BETWEEN 1 AND 2, id SIMILAR TO 'a.*' FROM t",
    "VALUES (1, 2), (3, 4)",
    "TABLE t",
    "SELECT json_extract(j, '$.a'), to_json(s), md5(id), regexp_replace(id, 'a', 'b', 'g'), split_part('a,b', ',', 1) FROM t",
]


@pytest.fixture(scope="module")
def reader() -> QueryReader:
    connection = connect(256)
    connection.execute(SHOWN)
    return QueryReader(connection)


@pytest.mark.parametrize("sql", LEGAL)
def test_what_analysts_write_is_read_and_runs(reader: QueryReader, sql: str) -> None:
    reading = reader.read(sql, SERVED, limit=5)
    assert reader.connection.sql(reading.text).to_arrow_reader(100).read_all().num_columns
    assert {asked.name for asked in reading.relations} <= SERVED


def test_what_runs_names_nothing_but_views_and_parts_of_our_own(reader: QueryReader) -> None:
    reading = reader.read(
        "WITH q AS (FROM t) SELECT q.id FROM q JOIN t AT (VERSION => 2) USING (id) WHERE id = $Who", SERVED, limit=5
    )
    assert reading.text == (
        "WITH _part_q AS (SELECT * FROM _relation_1 AS t) SELECT q.id FROM (_part_q AS q INNER JOIN _relation_0 AS t USING (id)) "
        "WHERE (id = $Who) LIMIT 5"
    )
    assert [(asked.view, asked.name, asked.version) for asked in reading.relations] == [
        ("_relation_0", "t", 2),
        ("_relation_1", "t", None),
    ]
    assert reading.parameters == {"who"}


def test_a_limit_of_the_querys_own_is_kept(reader: QueryReader) -> None:
    assert reader.read("FROM t LIMIT 100", SERVED, limit=5).text.endswith(" LIMIT 100")
    assert reader.read("FROM t OFFSET 3", SERVED, limit=5).text.endswith(" LIMIT 5 OFFSET 3")


_words = st.text("qzxjkäß0179", min_size=6, max_size=12).map(lambda word: "qz" + word)
_PLACES = [
    "SELECT '{}'::INT FROM t GROUP BY 1",
    'SELECT "{}" FROM t',
    "SELECT {} FROM t",
    "SELECT {}(id) FROM t",
    "SELECT * FROM {}",
    'SELECT * FROM "{}".t',
    "SELECT {} {} {}",
    "SELECT s['{}'] FROM t",
    "SELECT struct_extract(s, '{}') FROM t",
    "SELECT COLUMNS('{}') FROM t",
    "SELECT id, '{}' FROM t GROUP BY product",
    "SELECT CAST(id AS {}) FROM t",
    "SELECT sum('{}', 1) FROM t",
    "SELECT date_trunc('{}', time) FROM t",
    "SELECT strptime('2020', '%{}') FROM t",
    "SELECT t.{} FROM t",
    "SELECT * EXCLUDE ({}) FROM t",
    "SELECT $${}",
]


@given(st.sampled_from(_PLACES), _words)
def test_no_word_of_a_query_comes_back_in_its_refusal(reader: QueryReader, place: str, word: str) -> None:
    assert word.lower() not in told(reader, place.replace("{}", word)).lower()


def told(reader: QueryReader, sql: str) -> str:
    """What the query's sender is told; of errors of other kinds, only the kind."""
    try:
        reader.connection.sql(reader.read(sql, SERVED, limit=5).text).to_arrow_reader(10).read_all()
    except QueryRefused as refused:
        return str(refused)
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        return reader.said(error, sql, SERVED)
    except duckdb.Error as error:
        return type(error).__name__
    return ""
