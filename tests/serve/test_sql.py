"""POST /v1/sql: what an analyst gets."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from raystore.access import ApiKeys, Verb
from raystore.catalog import Catalog
from raystore.data.sandbox.process import SandboxLimits, SqlSandbox
from raystore.layout import Layout
from raystore.serve.answer.loading import Rooms
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from raystore.serve.wire import sql as sql_wire
from tests.serve.sql_service import CANARY, LIMITS, SqlService, make_sql_store, serving

pytestmark = pytest.mark.model  # a service and its processes: seconds, not milliseconds

ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlService]:
    root = tmp_path_factory.mktemp("sql") / "a store"
    make_sql_store(root)
    with serving(root) as service:
        yield service


def error(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_a_query_is_answered_with_columns_rows_and_versions(service: SqlService) -> None:
    sql = (
        "SELECT product, count(*) AS n, max(amount) AS most FROM tickets "
        "WHERE time >= $since::TIMESTAMPTZ AND product IN $products GROUP BY product ORDER BY product"
    )
    answer = service.post(sql, {"since": "2020-01-01", "products": ["card", "plain"]})
    body = answer.json()
    assert body["request_id"] == answer.headers["x-request-id"]
    assert 0 < body["seconds"] < 60
    assert {k: v for k, v in body.items() if k not in ("request_id", "seconds")} == {
        "columns": [
            {"name": "product", "type": "VARCHAR"},
            {"name": "n", "type": "BIGINT"},
            {"name": "most", "type": "DOUBLE"},
        ],
        "rows": [["card", 500, 499.0], ["plain", 500, 499.5]],
        "row_count": 2,
        "truncated": False,
        "versions": {"tickets": body["versions"]["tickets"]},
    }
    sql_wire.SqlAnswer.model_validate(body)


def test_all_columns_are_the_visible_ones(service: SqlService) -> None:
    answer = service.post("FROM tickets t JOIN outcomes o USING (id) ORDER BY id").json()
    names = [column["name"] for column in answer["columns"]]
    assert names == ["id", "subject", "tenant", "time", "product", "amount", "label"]
    assert answer["rows"][0] == ["r1", "c-1", None, "2023-11-14T22:13:21+00:00", "plain", 0.5, "good"]


def test_relations_are_read_at_the_version_asked_for(service: SqlService) -> None:
    sql = (
        "SELECT old.label, new.label FROM outcomes AS old AT (VERSION => 1) JOIN outcomes AS new USING (id) WHERE id = 'r2'"
    )
    answer = service.post(sql).json()
    assert (answer["rows"], answer["versions"]) == ([["bad", "good"]], {"outcomes": 2})
    assert service.rows("SELECT count(*) FROM tickets AT (VERSION => 1)") == [[0]]
    gone = error(service.post("FROM outcomes AT (VERSION => 9)"))
    assert gone["message"] == "this SQL was not run: 'outcomes' has no such version."


def test_an_arrow_stream_holds_the_same_rows_and_the_facts(service: SqlService) -> None:
    answer = service.post("SELECT id, time FROM tickets ORDER BY id", accept=f"{ARROW};q=0.9, text/html", limit=3)
    assert answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()
    assert table["id"].to_pylist() == ["r0", "r1", "r10"]
    facts = json.loads(table.schema.metadata[b"raystore"])
    assert (facts["truncated"], facts["row_count"], list(facts["versions"])) == (True, 3, ["tickets"])


def test_rows_are_cut_at_the_limit_asked_for_and_at_the_services_own(service: SqlService) -> None:
    for limit, expected in ((3, 3), (500, 500), (100_000, 500)):
        answer = service.post("SELECT id FROM tickets", limit=limit).json()
        assert (answer["row_count"], len(answer["rows"]), answer["truncated"]) == (expected, expected, True)
    exact = service.post("SELECT id FROM tickets LIMIT 3", limit=3).json()
    assert (exact["row_count"], exact["truncated"]) == (3, False)


def test_rows_are_cut_at_the_limit_of_bytes(service: SqlService) -> None:
    sql = "SELECT repeat('ä', 1000) AS x FROM range(400)"
    answer = service.post(sql)
    assert len(answer.content) <= LIMITS["max_bytes"] + 1000
    assert answer.json()["truncated"]
    assert 80 < answer.json()["row_count"] < 100
    table = pa.ipc.open_stream(io.BytesIO(service.post(sql, accept=ARROW).content)).read_all()
    assert 40 < len(table) < 100
    whole = error(service.post("SELECT repeat('ä', 200000) AS x"))
    assert whole == {
        "type": "QueryStopped",
        "message": "this SQL was stopped: one row of its result is over 200,000 bytes. Ask for less: filter, group, or LIMIT.",
        "request_id": whole["request_id"],
    }


def test_what_json_has_no_word_for_is_text(service: SqlService) -> None:
    sql = """
        SELECT 1::HUGEINT << 70, 'NaN'::FLOAT, '-inf'::DOUBLE, 1.50::DECIMAL(9, 2), 'ab'::BLOB, DATE '2026-01-02', TIME '03:04:05',
               TIMESTAMP_NS '2026-01-02 03:04:05.000000007', 'infinity'::TIMESTAMP IS NOT NULL, [1, NULL],
               {'a': NULL::INT, 'b': [true]}, MAP {'k': 1.5::DOUBLE}, '5b6cbbd2-7a3b-4c3f-8a7e-0e8f5a7b9c1d'::UUID, '{"a":1}'::JSON,
               NULL
    """
    (row,) = service.rows(sql)
    assert row == [
        2**70,
        "NaN",
        "-Infinity",
        "1.50",
        "YWI=",
        "2026-01-02",
        "03:04:05",
        "2026-01-02 03:04:05.000000007",
        True,
        [1, None],
        {"a": None, "b": [True]},
        [["k", 1.5]],
        "5b6cbbd2-7a3b-4c3f-8a7e-0e8f5a7b9c1d",
        '{"a":1}',
        None,
    ]


def test_parameters_are_values_and_never_sql(service: SqlService) -> None:
    hostile = "x'; DROP TABLE tickets; SELECT * FROM read_text('/etc/passwd') --"
    assert service.rows("SELECT $text, $n + 1, $f, $b, $z", {"text": hostile, "n": 1, "f": 0.5, "b": True, "z": None}) == [
        [hostile, 2, 0.5, True, None]
    ]
    assert error(service.post("SELECT $a, $b", {"b": 1, "c": 2}))["message"] == (
        "this SQL was not run: of its parameters, 1 were not given and 1 that were given are not in it."
    )
    assert error(service.post("SELECT ?"))["message"] == (
        "this SQL was not run: it has parameters by position. Write them by name: $product."
    )


# What an analyst mistypes, and what helps: the place or the names of the store, never the query's own words.
MISTAKES = {
    "SELECT (": "it does not parse (line 1, column 8).",
    "SELECT\n id\n FROM nowhere": "it reads from what is not served here (line 3, column 7). There are: 'outcomes', 'tickets'.",
    f'SELECT "{CANARY}" FROM outcomes': (
        "DuckDB says: Referenced column ? not found in FROM clause. Columns of its relations: 'id', 'label'."
    ),
    f"SELECT id FROM outcomes WHERE label = {CANARY.split('-')[0]}": (
        "DuckDB says: Referenced column ? not found in FROM clause. Columns of its relations: 'id', 'label'."
    ),
    f"SELECT label, '{CANARY}' FROM outcomes GROUP BY id": (
        'DuckDB says: column "label" must appear in the GROUP BY clause or must be part of an aggregate function.'
    ),
    f"SELECT '{CANARY}'::INT": (
        "DuckDB stopped at a value (ConversionException). TRY_CAST and try() turn values that do not fit into NULL."
    ),
    "SELECT product::INT FROM tickets": (
        "DuckDB stopped at a value (ConversionException). TRY_CAST and try() turn values that do not fit into NULL."
    ),
    f"SELECT sum('{CANARY}', 2)": None,
    f"SELECT canary_51c9('{CANARY}')": (
        "it calls a function that is unknown, which SQL over HTTP does not have (line 1, column 8)."
    ),
    f"SELECT struct_extract({{'a': 1}}, '{CANARY}')": None,
    f"SELECT COLUMNS('{CANARY}' || 'x') FROM outcomes": None,
    f"SELECT COLUMNS('{CANARY}') FROM outcomes": None,
    "SELECT id FROM tickets, outcomes": "DuckDB says: Ambiguous reference to column name \"id\" (use: 'tickets.id' or 'outcomes.id').",
    f"WITH outcomes AS (SELECT '{CANARY}') FROM outcomes": (
        "a part of it (WITH) has the name of 'outcomes'. Give it another name."
    ),
    f"SELECT similarity(minilm, '{CANARY}') FROM tickets": (
        "similarity() reads vectors (line 1, column 8), and SQL over HTTP sees none. Search: POST /v1/collections/NAME/search. "
        "similarity() in SQL is for the Python and command-line side."
    ),
}


def test_mistakes_are_explained_without_the_querys_words(
    service: SqlService, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), ThreadPoolExecutor(LIMITS["at_once"]) as pool:
        answers = dict(zip(MISTAKES, pool.map(service.post, MISTAKES), strict=True))
    for sql, sentence in MISTAKES.items():
        found = error(answers[sql])
        assert (answers[sql].status_code, found["type"]) == (422, "QueryRefused"), (sql, found)
        assert sentence is None or found["message"] == f"this SQL was not run: {sentence}", sql
        assert "DuckDB says" in found["message"] or sentence is not None, (sql, found)
    seen = capfd.readouterr()
    for place in (*(a.text for a in answers.values()), *(r.getMessage() for r in caplog.records), seen.out, seen.err):
        assert "canary" not in place.lower()


def test_a_request_that_does_not_fit_is_refused_before_any_process(service: SqlService) -> None:
    for body in ({}, {"sql": ""}, {"sql": "SELECT 1", "limit": 0}, {"sql": "SELECT 1", "params": {"a": {"b": CANARY}}}):
        answer = service.client.post("/v1/sql", json=body)
        assert (answer.status_code, error(answer)["type"]) == (422, "InvalidRequest")
        assert CANARY not in answer.text
    huge = service.client.post("/v1/sql", json={"sql": "SELECT 1 --" + "x" * 70_000})
    assert huge.status_code == 422


def test_more_queries_than_may_run_at_once_are_asked_to_wait(service: SqlService) -> None:
    slow = {"sql": "SELECT count(*) FROM range(10000000) a, range(1000000) b"}
    with ThreadPoolExecutor(LIMITS["at_once"]) as pool:
        waiting = [pool.submit(service.client.post, "/v1/sql", json=slow) for _ in range(LIMITS["at_once"])]
        time.sleep(1)
        busy = service.client.post("/v1/sql", json={"sql": "SELECT 1"})
        assert service.client.get("/healthz").status_code == 200
        ended = [w.result() for w in waiting]
    assert (busy.status_code, busy.headers["retry-after"], error(busy)["message"]) == (
        503,
        "1",
        "3 SQL queries run here at once, and as many are running. Try again.",
    )
    assert [error(e)["message"] for e in ended] == [
        "this SQL was stopped: it ran longer than 3 s. Ask for less: filter, group, or LIMIT."
    ] * LIMITS["at_once"]
    assert service.rows("SELECT 1") == [[1]]


def test_a_query_runs_no_longer_than_somebody_waits_for_it(service: SqlService) -> None:
    slow = {"sql": "SELECT count(*) FROM range(10000000) a, range(1000000) b"}
    late = service.client.post("/v1/sql", json=slow, headers={"x-raystore-deadline-ms": "500"})
    assert (late.status_code, error(late)["type"]) == (504, "DeadlineMissed")
    assert error(late)["message"].endswith(" s, and they ran out while the query ran. Nothing was answered.")
    assert service.rows("SELECT 1") == [[1]]


def test_a_key_needs_the_verb_sql(service: SqlService) -> None:
    rooms, spec = Rooms(service.root), AppSpec(host="0.0.0.0")
    keys = ApiKeys(rooms.layout, rooms.store_key)
    allowed, other = keys.create("analyst", frozenset({Verb.SQL})), keys.create("searcher", frozenset({Verb.SEARCH}))
    client = TestClient(make_app(lambda: service.orchestrator, spec, rooms.door(spec)))

    def ask(headers: dict[str, str]) -> Any:
        return client.post("/v1/sql", json={"sql": "SELECT 1 AS one"}, headers=headers)

    assert ask({}).status_code == 401
    refused = ask({"authorization": f"Bearer {other}"})
    assert (refused.status_code, error(refused)["message"]) == (
        403,
        "key 'searcher' lacks the verb 'sql'. Ask for a key that has it.",
    )
    assert ask({"authorization": f"Bearer {allowed}"}).json()["rows"] == [[1]]


def test_no_table_is_served_unless_it_is_named(service: SqlService) -> None:
    assert not AppSpec().serves_table("outcomes")
    assert AppSpec(tables="all").serves_table("outcomes")
    assert not AppSpec(tables=["outcomes"]).serves_table("salaries")


def test_a_process_that_waits_ends_with_its_sandbox_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    make_sql_store(tmp_path / "store")
    sandbox = SqlSandbox(Catalog(Layout(tmp_path / "store")), SandboxLimits())
    assert sandbox.run("SELECT 1", {}, collections=[], limit=1).body == b"[[1]]"
    spare = sandbox._spare
    assert spare is not None
    os.kill(spare._popen.pid, 9)  # the spare dies while it waits: the next query gets another process
    assert sandbox.run("SELECT 2", {}, collections=[], limit=1).body == b"[[2]]"
    last = sandbox._spare
    assert last is not None
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(last._popen.pid, 0)
    assert list((tmp_path / "tmp").iterdir()) == []
