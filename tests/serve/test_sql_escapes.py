"""What a hostile analyst tries over POST /v1/sql. An attempt goes over HTTP to a process of its own; of those that are refused
as they are read, before anything of them runs, one of each kind does, and all are read here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import duckdb
import httpx
import pytest

from raystore.data.sandbox.child import connect
from raystore.data.sandbox.functions import FUNCTIONS, OF_VECTORS, TABLE_FUNCTIONS
from raystore.data.sandbox.reader import QueryReader
from raystore.errors import QueryRefused
from tests.serve.sql_service import CANARY, LIMITS, SqlService, make_sql_store, serving

pytestmark = pytest.mark.model  # a service and its processes: seconds, not milliseconds

SECRETS = (CANARY, "root:x", "key_id", "0.3535")
FUNCTION = "which SQL over HTTP does not have"
NOT_SERVED = "it reads from what is not served here"
ANOTHER = "it is another statement"
MORE = "it is more than a SELECT of columns"
NO_COLUMN = "Referenced column ? not found"
# The attempt, and what its refusal says. {root} is the store's folder.
REFUSED = {
    # files
    "read_csv": ("SELECT * FROM read_csv('/etc/passwd')", FUNCTION),
    "read_text": ("SELECT content FROM read_text('{root}/store.json')", FUNCTION),
    "read_blob of the key": ("SELECT * FROM read_blob('{root}/keys/*')", FUNCTION),
    "read_json": ("SELECT * FROM read_json_auto('{root}/store.json')", FUNCTION),
    "read_parquet": ("SELECT * FROM read_parquet('{root}/snapshots/*/*/rows.parquet')", FUNCTION),
    "parquet_scan": ("SELECT * FROM parquet_scan('x')", FUNCTION),
    "parquet_metadata": ("SELECT * FROM parquet_metadata('x')", FUNCTION),
    "sniff_csv": ("SELECT * FROM sniff_csv('/etc/passwd')", FUNCTION),
    "glob": ("SELECT * FROM glob('{root}/keys/*')", FUNCTION),
    "seq_scan": ("SELECT * FROM seq_scan('tickets')", FUNCTION),
    "arrow_scan of a pointer": ("SELECT * FROM arrow_scan(4096, 4096, 4096)", FUNCTION),
    "replacement scan": ("SELECT * FROM '/etc/passwd'", NOT_SERVED),
    "replacement scan of a parquet file": ("FROM 'x.parquet'", NOT_SERVED),
    "replacement scan in double quotes": ('SELECT * FROM "/etc/passwd.csv"', NOT_SERVED),
    "a python variable": ("SELECT * FROM request", NOT_SERVED),
    "copy to": ("COPY (SELECT * FROM tickets) TO '/tmp/out.csv'", ANOTHER),
    "copy from": ("COPY tickets FROM '/etc/passwd'", ANOTHER),
    "export database": ("EXPORT DATABASE '/tmp/out'", ANOTHER),
    "import database": ("IMPORT DATABASE '/tmp/out'", ANOTHER),
    "attach a file": ("ATTACH '/tmp/x.db' AS x", ANOTHER),
    "attach memory": ("ATTACH ':memory:' AS x", ANOTHER),
    # network and extensions
    "http": ("SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')", FUNCTION),
    "http replacement scan": ("FROM 'https://127.0.0.1/x.parquet'", NOT_SERVED),
    "s3": ("FROM 's3://bucket/x.parquet'", NOT_SERVED),
    "install": ("INSTALL httpfs", ANOTHER),
    "load": ("LOAD '/tmp/evil.duckdb_extension'", ANOTHER),
    "scan of another engine": ("SELECT * FROM sqlite_scan('x.db', 't')", FUNCTION),
    # settings, secrets, environment
    "set": ("SET enable_external_access = true", ANOTHER),
    "reset": ("RESET lock_configuration", ANOTHER),
    "set variable": ("SET VARIABLE x = 1", ANOTHER),
    "getvariable": ("SELECT getvariable('x')", FUNCTION),
    "current_setting": ("SELECT current_setting('home_directory')", FUNCTION),
    "settings": ("SELECT * FROM duckdb_settings()", FUNCTION),
    "pragma": ("PRAGMA database_list", ANOTHER),
    "pragma as a table": ("SELECT * FROM pragma_database_list", NOT_SERVED),
    "secrets": ("SELECT * FROM duckdb_secrets()", FUNCTION),
    "which_secret": ("SELECT * FROM which_secret('s3://x', 's3')", FUNCTION),
    "create secret": ("CREATE SECRET s (TYPE s3)", None),
    "getenv": ("SELECT getenv('RAYSTORE_TEST_CANARY')", FUNCTION),
    "write_log": ("SELECT write_log('x')", FUNCTION),
    "call": ("CALL enable_logging()", None),
    "sleep": ("SELECT sleep_ms(100000)", FUNCTION),
    "user and version": ("SELECT current_user, version()", FUNCTION),
    # catalogs
    "information_schema": ("SELECT * FROM information_schema.tables", "it reads from a schema"),
    "duckdb_tables": ("SELECT * FROM duckdb_tables", NOT_SERVED),
    "duckdb_views, where the real relations' names are": ("SELECT sql FROM duckdb_views()", FUNCTION),
    "sqlite_master": ("SELECT * FROM sqlite_master", NOT_SERVED),
    "pg_catalog": ("SELECT * FROM pg_catalog.pg_class", "it reads from a schema"),
    "pg functions": ("SELECT pg_get_viewdef(1)", FUNCTION),
    "show tables": ("SHOW TABLES", None),
    "show inside a select": ("SELECT * FROM (SHOW ALL TABLES)", MORE),
    "describe": ("DESCRIBE tickets", MORE),
    "summarize": ("SUMMARIZE tickets", MORE),
    "describe inside a select": ("SELECT * FROM (DESCRIBE tickets)", MORE),
    "the name of the inner view": ("SELECT * FROM _relation_0, tickets", NOT_SERVED),
    "the name of the raw relation": ("SELECT _payload FROM _raw_relation_0, tickets", NOT_SERVED),
    "the raw relation by schema": ("SELECT * FROM temp._raw_relation_0, tickets", "it reads from a schema"),
    "the raw relation by catalog": ("SELECT * FROM memory.main._raw_relation_0, tickets", "it reads from a schema"),
    # other statements
    "create table": ("CREATE TABLE x AS SELECT 1", ANOTHER),
    "insert": ("INSERT INTO tickets VALUES (1)", ANOTHER),
    "delete": ("DELETE FROM tickets", ANOTHER),
    "update": ("UPDATE tickets SET product = 'x'", ANOTHER),
    "drop": ("DROP TABLE tickets", ANOTHER),
    "insert inside a WITH": ("WITH x AS (INSERT INTO tickets VALUES (1) RETURNING *) FROM x", MORE),
    "macro": ("CREATE MACRO f(x) AS TABLE FROM read_text(x)", ANOTHER),
    "prepare": ("PREPARE p AS SELECT 1", ANOTHER),
    "execute": ("EXECUTE p", ANOTHER),
    "explain analyze": ("EXPLAIN ANALYZE SELECT 1", ANOTHER),
    "two statements": ("SELECT 1; SELECT 2", "it holds 2 statements"),
    "a second statement behind a comment": ("SELECT 1 /* ; */ ; -- x\nDROP TABLE tickets", None),
    "nothing": (" -- SELECT 1", None),
    "a nul byte": ("SELECT 1\0; DROP TABLE tickets", None),
    # SQL inside SQL
    "query": ("FROM query('SELECT * FROM duckdb_settings()')", FUNCTION),
    "query_table": ("FROM query_table('salaries')", FUNCTION),
    "serialized sql": ("SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))", FUNCTION),
    "serialized plan": ("SELECT json_serialize_plan('FROM duckdb_settings()')", FUNCTION),
    "substrait": ("SELECT * FROM from_substrait('x'::BLOB)", FUNCTION),
    "a function hidden in a lambda": ("SELECT list_transform([1], lambda x: current_setting('threads'))", FUNCTION),
    "a function as a method": ("SELECT 'threads'.current_setting()", FUNCTION),
    "a function in quotes": ("SELECT \"current_setting\"('threads')", FUNCTION),
    "a function in other letters": ("SELECT * FROM ReAd_TeXt('/etc/passwd')", FUNCTION),
    "a function behind comments": ("SELECT * FROM read_text/**/ --\n ('/etc/passwd')", FUNCTION),
    "a function of a schema": ("SELECT system.main.current_setting('threads')", FUNCTION),
    "a function in ORDER BY": ("SELECT 1 ORDER BY getenv('HOME')", FUNCTION),
    "a function in LIMIT": ("SELECT 1 LIMIT (SELECT count(*) FROM glob('/*'))", FUNCTION),
    "a function in a window": ("SELECT sum(1) OVER (ORDER BY current_setting('threads'))", FUNCTION),
    "a function in a PIVOT": ("SELECT * FROM (PIVOT tickets ON product IN ('a') USING write_log(id))", FUNCTION),
    "aggregate states": ("SELECT finalize('x'::BLOB)", FUNCTION),
    # relations and columns that are not the analyst's
    "a table that is not served": ("SELECT * FROM salaries", NOT_SERVED),
    "a collection that is not served": ("SELECT * FROM private", NOT_SERVED),
    "in a subquery": ("SELECT (SELECT max(salary) FROM salaries)", NOT_SERVED),
    "in quotes": ('SELECT * FROM "SALARIES"', NOT_SERVED),
    "hidden columns": ("SELECT _payload FROM tickets", NO_COLUMN),
    "hidden columns by their table": ("SELECT t._added FROM tickets t", None),
    "hidden columns of a table": ("SELECT _until FROM outcomes", NO_COLUMN),
    "vectors": ("SELECT vec_ffffffffffff FROM tickets", NO_COLUMN),
    "vectors by similarity": ("SELECT similarity(minilm, 'x') FROM tickets", "similarity() reads vectors"),
    "vectors by nearest": ("SELECT * FROM nearest(tickets, minilm, 'x', 10)", "nearest() reads vectors"),
    "row ids": ("SELECT rowid FROM tickets", None),
    "columns by pattern": ("SELECT COLUMNS('_.*|vec_.*') FROM tickets", None),
    "a part called like a relation": ("WITH tickets AS (FROM salaries) FROM tickets", "has the name of 'tickets'"),
    "a part called like a catalog view, out of its scope": (
        "SELECT * FROM (WITH duckdb_settings AS (SELECT 1) FROM duckdb_settings), duckdb_settings",
        None,
    ),
    "time travel to a moment": ("FROM tickets AT (TIMESTAMP => now())", "other than a version number"),
    "time travel by an expression": ("FROM tickets AT (VERSION => (SELECT 1))", "other than a version number"),
}  # fmt: skip
# Of the refused, those that DuckDB itself refuses when it is to run them, or that are not text to begin with ...
RUN = {name for name, (_, reason) in REFUSED.items() if reason in (None, NO_COLUMN)}
# ... and of those that are refused as they are read, one of each reason.
AS_READ = {str(reason): name for name, (_, reason) in REFUSED.items() if name not in RUN}
# Legal SQL that asks for more than there is.
STOPPED = {
    "repeat": ("SELECT length(repeat('x', 4000000000))", "256 MiB of memory"),
    "md5 of repeat": ("SELECT md5(repeat('z', 1000000000))", "256 MiB of memory"),
    "repeat of repeat": ("SELECT repeat(repeat(repeat('x', 10000), 10000), 10)", None),
    "lpad": ("SELECT lpad('x', 2000000000, 'y')", None),
    "a list too long": ("SELECT len(range(1000000000))", "256 MiB of memory"),
    "an aggregate too large": ("SELECT len(list(i)) FROM range(1000000000) t(i)", None),
    "a sort that would spill": ("SELECT md5(i::TEXT) m FROM range(100000000) t(i) ORDER BY m LIMIT 1 OFFSET 50000000", None),
    "a cross join": ("SELECT count(*) FROM range(10000000) a, range(10000000) b", "2 s"),
    "endless recursion": ("WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 0 FROM r) SELECT max(a) FROM r", None),
    "doubling recursion": (
        "WITH RECURSIVE r AS (SELECT 'x' AS a UNION ALL SELECT a || a FROM r) SELECT max(length(a)) FROM r", None,
    ),
    "exponential parts": (
        "WITH a AS (SELECT 1 FROM range(100)), b AS (FROM a, a x), c AS (FROM b, b x), d AS (FROM c, c x) SELECT count(*) FROM d",
        None,
    ),
    "a heavy lambda": ("SELECT list_reduce(range(20000000), lambda a, b: (a * 31 + b) % 1000003)", None),
    "one row too wide": ("SELECT repeat('x', 1000000)", "one row of its result is over 200,000 bytes"),
}  # fmt: skip
# Nested so deep, or of so many parts, that reading is the attack: refused or stopped, and either is well.
ENDED = {
    "parentheses": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "subqueries": "SELECT " + "(SELECT " * 5_000 + "1" + ")" * 5_000,
    "operators": "SELECT 1" + " + 1" * 16_000,
    "negations": "SELECT " + "NOT " * 16_000 + "true",
    "lists": "SELECT " + "[" * 20_000 + "]" * 20_000,
    "cases": "SELECT " + "CASE WHEN true THEN " * 2_500 + "1" + " END" * 2_500,
    "joins": "SELECT 1 FROM tickets t0" + "".join(f", tickets t{i}" for i in range(1, 3_000)),
    "a type": "SELECT NULL::" + "STRUCT(a " * 5_000 + "INT" + ")" * 5_000,
    "a regular expression": "SELECT regexp_matches(repeat('a', 100000), '(((a{1,1000}){1,1000}){1,1000})*b')",
    "a pattern": "SELECT repeat('a', 100000) LIKE '" + "%a" * 10_000 + "b'",
    "json": "SELECT '" + "[" * 30_000 + "'::JSON",
    "an error that quotes": f"SELECT error('{CANARY}')",
    "a surrogate": "SELECT '\ud800'",
}
# Attempts that are answered, with nothing but what is the analyst's own.
HARMLESS = {
    "a part called like a catalog view": ("WITH duckdb_settings AS (SELECT 1) FROM duckdb_settings", [[1]]),
    "a part called like the inner view": ("WITH _relation_0 AS (SELECT 1 AS a) SELECT a FROM _relation_0, outcomes LIMIT 1", [[1]]),
    "quoting tricks": ("""SELECT 'it''s', "id", $$; DROP TABLE tickets --$$ FROM outcomes WHERE id = 'r1' -- '; ATTACH 'x'""",
                       [["it's", "r1", "; DROP TABLE tickets --"]]),
    "names that need quotes": ('SELECT 1 AS "a"" FROM read_text(\'/etc/passwd\') --"', [[1]]),
    "all columns": ("SELECT len(struct_keys(t)) FROM outcomes t LIMIT 1", [[2]]),
    "huge results": ("SELECT count(*) FROM (SELECT * FROM range(100000))", [[100_000]]),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlService]:
    root = tmp_path_factory.mktemp("escapes") / "store"
    make_sql_store(root)
    os.environ["RAYSTORE_TEST_CANARY"] = CANARY
    try:
        with serving(root, sql={**LIMITS, "timeout_s": 2}) as service:
            yield service
    finally:
        del os.environ["RAYSTORE_TEST_CANARY"]


@pytest.fixture(scope="module")
def answers(service: SqlService) -> dict[str, httpx.Response]:
    """Every attempt's answer, several asked at once; after each the service still answers."""

    def attempt(sql: str) -> httpx.Response:
        answer = service.post(sql.replace("{root}", str(service.root)))
        assert service.client.get("/healthz").json() == {"status": "ok"}
        return answer

    refused = [REFUSED[name][0] for name in (*RUN, *AS_READ.values())]
    attempts = refused + [sql for sql, _ in (*STOPPED.values(), *HARMLESS.values())] + list(ENDED.values())
    with ThreadPoolExecutor(LIMITS["at_once"]) as pool:
        return dict(zip(attempts, pool.map(attempt, attempts), strict=True))


def check(answer: httpx.Response, status: int, *kinds: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    assert not [secret for secret in SECRETS if secret in answer.text]
    if status == 200:
        return ""
    assert answer.json()["error"]["type"] in kinds
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("attempt", sorted({*RUN, *AS_READ.values()}))
def test_an_attempt_is_refused(answers: dict[str, httpx.Response], attempt: str) -> None:
    sql, reason = REFUSED[attempt]
    assert (reason or "this SQL was not run: ") in check(answers[sql], 422, "QueryRefused")


@pytest.fixture(scope="module")
def reader() -> QueryReader:
    return QueryReader(connect(256))


@pytest.mark.parametrize("attempt", sorted(REFUSED.keys() - RUN))
def test_an_attempt_is_refused_as_it_is_read(reader: QueryReader, attempt: str) -> None:
    sql, reason = REFUSED[attempt]
    with pytest.raises(QueryRefused, match=re.escape(str(reason))) as refused:
        reader.read(sql, frozenset({"tickets", "outcomes"}), limit=500)
    assert not [secret for secret in SECRETS if secret in str(refused.value)]


@pytest.mark.parametrize("attempt", STOPPED)
def test_a_query_that_asks_for_too_much_is_stopped(answers: dict[str, httpx.Response], attempt: str) -> None:
    sql, limit = STOPPED[attempt]
    assert (limit or "this SQL was stopped: ") in check(answers[sql], 422, "QueryStopped")


@pytest.mark.parametrize("attempt", ENDED)
def test_a_query_that_is_itself_the_weight_ends(answers: dict[str, httpx.Response], attempt: str) -> None:
    answer = answers[ENDED[attempt]]
    if answer.status_code == 200:  # read and answered within the limits, as the longest of them may be
        check(answer, 200)
    else:
        check(answer, 422, "QueryRefused", "QueryStopped", "InvalidRequest")


@pytest.mark.parametrize("attempt", HARMLESS)
def test_an_attempt_that_is_legal_sees_nothing_but_its_own(answers: dict[str, httpx.Response], attempt: str) -> None:
    sql, rows = HARMLESS[attempt]
    check(answers[sql], 200)
    assert answers[sql].json()["rows"] == rows


def test_the_service_answers_as_before_after_all_of_them(service: SqlService, answers: dict[str, httpx.Response]) -> None:
    assert len(answers) > 50
    assert service.rows("SELECT count(*), sum(amount) FROM tickets") == [[1000, 249750.0]]


def test_no_function_is_allowed_by_a_wrong_name_and_none_of_the_dangerous_is() -> None:
    with duckdb.connect() as connection:
        found = connection.execute("SELECT function_name FROM duckdb_functions()").fetchall()
    known = {str(name).lower() for (name,) in found}
    assert FUNCTIONS - known == {"->"}  # DuckDB's own name for it, which it does not list
    assert not FUNCTIONS & OF_VECTORS
    assert TABLE_FUNCTIONS < FUNCTIONS
    prefixes = (
        "read_",
        "duckdb_",
        "pragma_",
        "pg_",
        "has_",
        "current_s",
        "parquet_",
        "json_execute",
        "json_serialize",
        "__internal",
    )
    assert [name for name in sorted(FUNCTIONS) if name.startswith(prefixes) and name != "pg_typeof"] == []
