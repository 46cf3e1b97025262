from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.query.engine import SqlEngine
from raystore.data.tables.table import register_table
from raystore.errors import EncoderNotFound, ItemNotFound, PassportMismatch, SqlRefused, TableNotFound
from tests.data.toy import VECTORS, OtherEncoder, ToyEncoder, make_log, make_store, make_tickets

MINE = ToyEncoder.fingerprint
FORMS = (
    "Write similarity(encoder, 'text'), similarity(encoder, item('id')) or similarity(encoder, $image). A vector is "
    "vector_of(encoder, 'text'), an encoder (the row's own), or sums of them with numbers as weights."
)
TEXTS = {f"t-{i}": "e" * (i % 4) + "x" * (i * 7 % 5 + 1) for i in range(24)}


class Encoders:
    """Two encoders by name, as the store hands them to SQL; counts what was asked."""

    def __init__(self) -> None:
        self.toy = ToyEncoder()

    def __call__(self, name: str) -> ToyEncoder:
        if name == "toy":
            return self.toy
        if name == "other-one":
            return OtherEncoder()
        raise EncoderNotFound(name=name, where="store", existing=["other-one", "toy"])


@pytest.fixture
def encoders() -> Encoders:
    return Encoders()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with both tables, made once; each test gets a copy."""
    catalog = Catalog(make_store(tmp_path_factory.mktemp("filled") / "store"))
    tickets = make_tickets(catalog.layout, {"product": "string", "n": "int64"})
    rows = [
        {"id": i, "text": text, "n": n, "product": ["card", "loan", None][n % 3], "time": f"2026-01-{n + 1:02}T03:00:00Z"}
        for n, (i, text) in enumerate(TEXTS.items())
    ]
    make_log(tickets).log(rows[:20])
    make_log(tickets).log(rows[20:])
    outcomes = [{"ticket": i, "outcome": "refund" if n % 5 == 0 else "none"} for n, i in enumerate(TEXTS)]
    register_table(catalog, "outcomes", outcomes[:10], id="ticket")
    register_table(catalog, "outcomes", outcomes, id="ticket")
    return catalog.layout.root


@pytest.fixture
def engine(catalog: Catalog, encoders: Encoders, filled: Path) -> SqlEngine:
    shutil.copytree(filled, catalog.layout.root, dirs_exist_ok=True)
    return SqlEngine(catalog, encoders)


@pytest.fixture
def tickets(engine: SqlEngine, catalog: Catalog) -> CollectionTable:
    return CollectionTable.open(catalog.layout, "tickets")


def cosines(text: str) -> dict[str, float]:
    """What similarity() must give, by NumPy alone."""
    toy = ToyEncoder()
    query = np.asarray(toy.encode([text]), np.float64)[0]
    return {i: float(np.asarray(toy.encode([t]), np.float64)[0] @ query) for i, t in TEXTS.items()}


def refusal(engine: SqlEngine, sql: str, params: object = None) -> str:
    with pytest.raises(SqlRefused) as refused:
        engine.run(sql, params)
    return str(refused.value)


# --- similarity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "params"),
    [
        ("similarity(toy, 'ee')", None),
        ("SIMILARITY(\"toy\", 'ee')", None),
        ("similarity(tickets.toy, 'ee')", None),
        ("similarity(toy, $q)", {"q": "ee"}),
    ],
)
def test_similarity_is_the_cosine_to_a_text(engine: SqlEngine, call: str, params: dict | None) -> None:
    found = engine.run(f"SELECT id, {call} AS s FROM tickets", params).to_dicts()
    assert {r["id"]: pytest.approx(r["s"], abs=1e-6) for r in found} == cosines("ee")


@pytest.mark.parametrize(("what", "params"), [("item('t-5')", None), ("item($id)", {"id": "t-5"})])
def test_similarity_is_the_cosine_to_an_item(engine: SqlEngine, what: str, params: dict | None) -> None:
    found = engine.run(f"SELECT id, similarity(toy, {what}) AS s FROM tickets", params).to_dicts()
    assert {r["id"]: pytest.approx(r["s"], abs=1e-6) for r in found} == cosines(TEXTS["t-5"])


WANTED = cosines("ee")
NEAR = sorted(i for i, s in WANTED.items() if s > 0.9)
CARDS = [i for n, i in enumerate(TEXTS) if n % 3 == 0]
REFUNDS = [i for n, i in enumerate(TEXTS) if n % 5 == 0]
QUERIES = {
    "where": ("SELECT id FROM tickets WHERE similarity(toy, 'ee') > 0.9 ORDER BY id", NEAR),
    "order by": (
        "SELECT id FROM tickets ORDER BY similarity(toy, 'ee') DESC, id LIMIT 5",
        sorted(WANTED, key=lambda i: (-np.float32(WANTED[i]), i))[:5],
    ),
    "aggregate": ("SELECT round(max(similarity(toy, 'ee')), 4) FROM tickets", [round(max(WANTED.values()), 4)]),
    "group by": (
        "SELECT round(avg(similarity(toy, 'ee')), 4) FROM tickets GROUP BY product HAVING product = 'card'",
        [round(float(np.mean([WANTED[i] for i in CARDS])), 4)],
    ),
    "cte": (
        "WITH s AS (SELECT id, similarity(toy, 'ee') AS s FROM tickets) SELECT id FROM s WHERE s > 0.9 ORDER BY id",
        NEAR,
    ),
    "subquery": ("SELECT id FROM (SELECT id, similarity(toy, 'ee') AS s FROM tickets) WHERE s > 0.9 ORDER BY id", NEAR),
    "in a subquery of another table": (
        "SELECT ticket FROM outcomes WHERE ticket IN (SELECT id FROM tickets WHERE similarity(toy, 'ee') > 0.9) ORDER BY 1",
        NEAR,
    ),
    "join": (
        "SELECT t.id FROM tickets t JOIN outcomes o ON o.ticket = t.id WHERE o.outcome = 'refund' "
        "AND similarity(t.toy, 'ee') > 0.9 ORDER BY t.id",
        [i for i in NEAR if i in REFUNDS],
    ),
    "join, unqualified": (
        "SELECT t.id FROM outcomes o JOIN tickets t ON o.ticket = t.id WHERE similarity(toy, 'ee') > 0.9 ORDER BY t.id",
        NEAR,
    ),
    "self join": (
        "SELECT a.id FROM tickets a, tickets b WHERE a.id = b.id AND similarity(a.toy, 'ee') > 0.9 "
        "AND similarity(b.toy, 'ee') > 0.9 ORDER BY a.id",
        NEAR,
    ),
    "union": (
        "SELECT id FROM tickets WHERE similarity(toy, 'ee') > 0.9 UNION SELECT id FROM tickets WHERE similarity(toy, 'ee') > 0.9 "
        "ORDER BY id",
        NEAR,
    ),
    "two texts": (
        "SELECT id FROM tickets WHERE similarity(toy, 'ee') > 0.9 AND similarity(toy, 'never') > -1 ORDER BY id",
        NEAR,
    ),
    "an older version": (
        "SELECT count(*) FROM tickets AT (VERSION => 2) WHERE similarity(toy, 'ee') IS NOT NULL",
        [20],
    ),
    "window": ("SELECT id FROM tickets QUALIFY row_number() OVER (ORDER BY similarity(toy, 'ee') DESC, id) = 1", None),
}


@pytest.mark.parametrize("place", QUERIES)
def test_similarity_may_stand_anywhere(engine: SqlEngine, tickets: CollectionTable, place: str) -> None:
    sql, wanted = QUERIES[place]
    if wanted is None:
        wanted = QUERIES["order by"][1][:1]
    first = tickets.rows.known(["t-0"])["t-0"].added
    found = engine.run(sql.replace("VERSION => 2", f"VERSION => {first}")).to_arrow().column(0).to_pylist()
    assert found == (pytest.approx(wanted, abs=2e-4) if isinstance(wanted[0], float) else wanted)


def test_a_new_row_is_in_the_next_answer(engine: SqlEngine, tickets: CollectionTable) -> None:
    sql = "SELECT count(similarity(toy, 'ee')) AS n FROM tickets"
    assert [engine.run(sql).to_dicts() for _ in range(2)] == [[{"n": 24}]] * 2
    make_log(tickets).log([{"id": "new", "text": "ee"}])
    assert engine.run(sql).to_dicts() == [{"n": 25}]


def test_threads_may_share_an_engine(engine: SqlEngine) -> None:
    found: list[float] = []

    def ask(start: int) -> None:
        for i in range(6):
            sql = "SELECT max(similarity(toy, $q)) AS m FROM tickets"
            found.append(engine.run(sql, {"q": "e" * ((start + i) % 11 + 1)}).to_dicts()[0]["m"])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 36


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (
            "SELECT similarity(toy) FROM tickets",
            "similarity() was called otherwise than it is defined. Write similarity(encoder, 'text'), "
            "similarity(encoder, item('id')) or similarity(encoder, $image); "
            "an encoder with '-' in its name stands in double quotes.",
        ),
        (
            "SELECT similarity('toy', 'ee') FROM tickets",
            "similarity() was called otherwise than it is defined. Write similarity(encoder, 'text'), "
            "similarity(encoder, item('id')) or similarity(encoder, $image); "
            "an encoder with '-' in its name stands in double quotes.",
        ),
        (
            "SELECT similarity(toy, 5) FROM tickets",
            "similarity() asks for neither a text, an image, an item nor a vector. " + FORMS,
        ),
        (
            "SELECT similarity(toy, 'ee') FROM outcomes",
            "similarity() has nothing to rank: no collection stands in its FROM. "
            "Put the collection of its vectors into FROM.",
        ),
        (
            "SELECT similarity(o.toy, 'ee') FROM tickets t, outcomes o",
            "similarity() has nothing to rank: 'o' is no collection of this query. "
            "Put the collection of its vectors into FROM.",
        ),
        (
            "SELECT similarity(toy, 'ee') FROM tickets a JOIN tickets b ON a.id = b.id",
            "similarity() could rank over more than one collection here. Qualify the encoder with one of: a, b.",
        ),
    ],
)
def test_similarity_that_cannot_be_meant_is_refused(engine: SqlEngine, sql: str, reason: str) -> None:
    assert refusal(engine, sql) == f"this SQL was not run: {reason}"


def test_a_parameter_of_similarity_is_a_string(engine: SqlEngine) -> None:
    said = refusal(engine, "SELECT similarity(toy, $q) FROM tickets", {"q": 5})
    assert (
        said
        == "this SQL was not run: similarity() was given a int, expected a string, or an image as bytes or as a path. "
        + FORMS
    )


def test_similarity_with_an_encoder_the_collection_has_no_vectors_of_is_refused(engine: SqlEngine) -> None:
    with pytest.raises(PassportMismatch) as refused:
        engine.run("SELECT similarity(\"other-one\", 'ee') FROM tickets")
    assert str(refused.value) == (
        f"collection 'tickets' expects {MINE[:12]}, but was given {OtherEncoder.label}. "
        "Encode with the collection's encoder, or use a collection made for this one."
    )


def test_similarity_with_an_encoder_or_item_that_is_not_there_is_refused(engine: SqlEngine) -> None:
    with pytest.raises(EncoderNotFound):
        engine.run("SELECT similarity(nope, 'ee') FROM tickets")
    with pytest.raises(ItemNotFound):
        engine.run("SELECT similarity(toy, item('nobody')) FROM tickets")


# --- what is seen ------------------------------------------------------------------------------------------------------


def test_vectors_are_columns_only_when_asked_for(engine: SqlEngine, tickets: CollectionTable) -> None:
    assert engine.run("SELECT * FROM tickets").columns == tickets.visible
    shown = engine.run("SELECT * FROM tickets WHERE id = 't-0'", vectors=True)
    assert shown.columns == [*tickets.visible, VECTORS]
    (row,) = shown.to_dicts()
    assert list(row[VECTORS]) == pytest.approx(np.asarray(tickets.vectors_of(["t-0"], MINE))[0].tolist())
    assert "Referenced column" in refusal(engine, f"SELECT {VECTORS} FROM tickets")


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT _payload FROM tickets",
        "SELECT _added FROM tickets",
        "SELECT _rowid FROM tickets",
        "SELECT _until FROM outcomes",
        "SELECT COLUMNS('^_') FROM tickets",
        "SELECT * FROM _relation_0_raw, tickets",
        "SELECT * FROM main._relation_0_raw, tickets",
        "SELECT * FROM temp._relation_0_raw, tickets",
        "SELECT * FROM query('SELECT * FROM _relation_0_raw'), tickets",
        "SELECT * FROM query_table('_relation_0_raw'), tickets",
    ],
)
def test_hidden_columns_are_never_seen(engine: SqlEngine, sql: str, vectors: bool) -> None:
    with pytest.raises((SqlRefused, TableNotFound)):
        engine.run(sql, vectors=vectors)


def test_a_comparison_of_times_does_not_hang_on_the_machines_zone(
    engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = """SELECT count(*) FILTER (time < TIMESTAMP '2026-01-02 00:00:00') AS n, min(CAST(time AS DATE))::VARCHAR AS d,
             min(time)::VARCHAR AS t FROM tickets"""
    found = []
    for zone in ("America/New_York", "Asia/Tokyo", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found += engine.run(sql).to_dicts()
    monkeypatch.delenv("TZ")
    time.tzset()
    assert found == [{"n": 1, "d": "2026-01-01", "t": "2026-01-01 03:00:00+00"}] * 3


def test_python_variables_are_not_tables(engine: SqlEngine) -> None:
    hidden = pa.table({"n": [1]})
    assert len(hidden) == 1
    with pytest.raises(TableNotFound):
        engine.run("SELECT * FROM hidden")


@pytest.mark.parametrize("name", ["select", "order", "table", "group"])
def test_a_collection_may_have_the_name_of_a_keyword(engine: SqlEngine, catalog: Catalog, name: str) -> None:
    CollectionTable.create(catalog.layout, name, {MINE: 3})
    sql = f"SELECT count(*) AS n FROM \"{name}\" WHERE similarity(toy, 'e') > 0"
    assert engine.run(sql).to_dicts() == [{"n": 0}]


def test_columns_with_hostile_names_are_read(engine: SqlEngine, catalog: Catalog) -> None:
    rows = [{'a"b': 1, "two words": 2, "select": 3, "it's": 4}]
    register_table(catalog, "odd", rows)
    assert engine.run("SELECT * FROM odd").to_dicts() == rows


# --- versions ----------------------------------------------------------------------------------------------------------


def test_a_query_reads_each_relation_at_its_version(engine: SqlEngine, tickets: CollectionTable) -> None:
    assert engine.run("SELECT count(*) AS n FROM outcomes").to_dicts() == [{"n": 24}]
    assert engine.run("SELECT count(*) AS n FROM outcomes AT (VERSION => 1)").to_dicts() == [{"n": 10}]
    both = "SELECT (SELECT count(*) FROM outcomes AT (VERSION => 1)) AS old, (SELECT count(*) FROM outcomes) AS new"
    assert engine.run(both).to_dicts() == [{"old": 10, "new": 24}]
    version = tickets.rows.known(["t-0"])["t-0"].added
    aliased = f"SELECT max(x.n) AS n FROM tickets AT (VERSION => {version}) x"
    assert engine.run(aliased).to_dicts() == [{"n": 19}]
    assert engine.run(
        "SELECT count(*) AS n FROM tickets, outcomes WHERE id = ticket", versions={"outcomes": 1}
    ).to_dicts() == [{"n": 10}]


@pytest.mark.parametrize("when", ["TIMESTAMP => 'yesterday'", "VERSION => '1'", "VERSION => 1.5", "VERSION => -1"])
def test_what_is_neither_a_version_nor_a_time_is_refused(engine: SqlEngine, when: str) -> None:
    assert refusal(engine, f"SELECT * FROM outcomes AT ({when})") == (
        "this SQL was not run: 'outcomes' is asked for at something other than a version number or a time. "
        "Write: FROM outcomes AT (VERSION => 3), or AT (TIMESTAMP => '2026-11-01 09:00')."
    )


def test_a_version_that_is_not_there_yet_is_refused(engine: SqlEngine, tickets: CollectionTable) -> None:
    newest = tickets.version
    for sql in ("SELECT * FROM tickets AT (VERSION => 99)", "SELECT similarity(toy, 'e') FROM tickets AT (VERSION => 99)"):
        assert refusal(engine, sql) == (
            f"this SQL was not run: collection 'tickets' has no version 99, its newest is {newest}."
        )
    with pytest.raises(TableNotFound, match="no table 'outcomes version 3' in store"):
        engine.run("SELECT * FROM outcomes AT (VERSION => 3)")


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INSERT INTO tickets VALUES (1)", "INSERT"),
        ("UPDATE tickets SET n = 1", "UPDATE"),
        ("DELETE FROM tickets", "DELETE"),
        ("CREATE TABLE x AS SELECT 1", "CREATE"),
        ("DROP TABLE outcomes", "DROP"),
        ("COPY tickets TO 'x.csv'", "COPY"),
        ("ATTACH 'x.db'", "ATTACH"),
        ("SET threads = 1", "SET"),
        ("PRAGMA database_list", "PRAGMA"),
        ("SELECT 1 INTO x", "SELECT INTO"),
        ("INSTALL httpfs", "INSTALL"),
    ],
)
def test_sql_that_writes_is_refused(engine: SqlEngine, sql: str, kind: str) -> None:
    assert refusal(engine, sql) == (
        f"this SQL was not run: it is a {kind} statement, expected a SELECT. "
        "SQL reads; rows are written with log, embed and register_table."
    )


def test_a_query_that_deletes_in_passing_is_refused(engine: SqlEngine) -> None:
    refusal(engine, "WITH x AS (DELETE FROM tickets RETURNING *) SELECT * FROM x")
    assert engine.run("SELECT count(*) AS n FROM tickets").to_dicts() == [{"n": 24}]


@pytest.mark.parametrize(
    ("sql", "n"), [("SELECT 1; SELECT 2", 2), ("SELECT 1; DROP TABLE tickets", 2), ("", 0), ("-- x", 0)]
)
def test_one_statement_is_one_statement(engine: SqlEngine, sql: str, n: int) -> None:
    assert refusal(engine, sql) == f"this SQL was not run: it holds {n} statements, expected one query."
    assert engine.run("SELECT 1 AS one;").to_dicts() == [{"one": 1}]


def test_sql_that_does_not_parse_or_bind_says_why(engine: SqlEngine) -> None:
    assert refusal(engine, "SELECT FROM WHERE") == (
        "this SQL was not run: it does not parse: line 1, column 17, near 'WHERE'."
    )
    has = "tickets has: id, subject"
    assert refusal(engine, "SELECT colour FROM tickets").startswith(
        f'this SQL was not run: DuckDB says: Binder Error: Referenced column "colour" not found in FROM clause. {has}'
    )
    assert "Raw content is no column, SQL never shows it" in refusal(engine, "SELECT text FROM tickets")
    assert has in refusal(engine, "SELECT text FROM tickets")
    found = refusal(engine, "SELECT toy FROM tickets")
    assert "toy is an encoder: its vectors are shown with vectors=True and used through similarity(toy, 'text')." in found


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT similarty(minilm, 'x') FROM tickets", "similarty does not exist. Did you mean similarity()?"),
        ("SELECT id FROM nearst(tickets, minilm, 'x', 3)", "nearst does not exist. Did you mean nearest()?"),
        ("SELECT zzz(1) FROM tickets", "zzz does not exist."),
    ],
)
def test_a_misspelt_function_is_told_what_it_may_be(engine: SqlEngine, sql: str, said: str) -> None:
    assert refusal(engine, sql).endswith(said)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT similarity(toy, oil) FROM tickets",
        'SELECT similarity(toy, "oil") FROM tickets',
        "SELECT id FROM nearest(tickets, toy, oil, 3)",
    ],
)
def test_a_text_without_its_quotes_is_told_about_them(engine: SqlEngine, sql: str) -> None:
    found = refusal(engine, sql)
    assert "names 'oil', which is no encoder of the store (" in found
    assert found.endswith("(..., 'some text').")
    assert "A text stands in single quotes: " in found


def test_sql_that_does_not_parse_has_no_colours(engine: SqlEngine) -> None:
    assert "\x1b" not in refusal(engine, "SELECT (1 FROM tickets")


STOPPED = (
    "this SQL was not run: DuckDB stopped at a value ({} Error). "
    "TRY_CAST and try() make NULL of values that do not fit: WHERE TRY_CAST(...) IS NULL finds their rows."
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("CAST(id AS INT)", "Conversion"),
        ("CAST(id AS DATE)", "Conversion"),
        ("strptime(id, '%Y')", "Invalid Input"),
        ("json(id)", "Invalid Input"),
        ("error(id)", "Invalid Input"),
        ("regexp_matches('a', id || '(')", "Invalid Input"),
        ("(n + 1) * 9223372036854775807", "Out of Range"),
        ("CAST(n + 1000 AS TINYINT)", "Conversion"),
    ],
)
def test_an_error_at_a_row_does_not_quote_it(engine: SqlEngine, value: str, kind: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        engine.run(f"SELECT {value} AS v FROM tickets ORDER BY n").to_arrow()
    assert str(refused.value) == STOPPED.format(kind)


def test_an_error_of_the_query_is_said_in_duckdbs_words(engine: SqlEngine) -> None:
    says = "this SQL was not run: DuckDB says: "
    assert refusal(engine, "SELECT nofunc(n) FROM tickets") == (
        f"{says}Catalog Error: Scalar Function with name nofunc does not exist."
    )
    assert refusal(engine, "SELECT n + $a + $b FROM tickets", {"a": 1}) == (
        f"{says}Invalid Input Error: Values were not provided for the following parameters: b."
    )
    assert refusal(engine, "SELECT 1 AS one, ? AS two", [object()]) == (
        f"{says}Not implemented Error: Unable to transform python value of type '<class 'object'>' to DuckDB LogicalType."
    )
    with pytest.raises(SqlRefused) as refused:
        engine.run("SELECT (SELECT id FROM tickets) AS one").to_arrow()
    assert str(refused.value).startswith(f"{says}Invalid Input Error: More than one row returned by a subquery")


def test_parameters_without_spaces_between_them_reach_raystores_functions(engine: SqlEngine) -> None:
    asked = {"q": "ee", "k": 3, "a": "card", "b": "loan"}
    (row,) = engine.run("SELECT count(*)AS n FROM nearest(tickets,toy,$q,$k)", {k: asked[k] for k in "qk"})
    assert row == {"n": 3}
    (row,) = engine.run("SELECT count(*)AS n FROM tickets WHERE product IN($a,$b)", {k: asked[k] for k in "ab"})
    assert row == {"n": 16}
    (row,) = engine.run("SELECT max(similarity(toy,$q))>0 AS s FROM tickets WHERE product IN($a,$b)", {**asked, "k": 1})
    assert row == {"s": True}


def test_names_stand_in_whatever_letters(engine: SqlEngine) -> None:
    wanted = engine.run("SELECT id, similarity(toy, 'ee') AS s FROM tickets ORDER BY id").to_dicts()
    for sql in (
        "SELECT id, similarity(Toy, 'ee') AS s FROM TICKETS ORDER BY id",
        "SELECT id, similarity(t.TOY, 'ee') AS s FROM Tickets T ORDER BY id",
        "SELECT id, cosine(TICKETS.toy, vector_of(\"Toy\", 'ee')) AS s FROM tickets JOIN Outcomes O ON o.ticket = id ORDER BY id",
    ):
        assert engine.run(sql).to_dicts() == wanted
    near = engine.run("SELECT id FROM nearest(TICKETS, TOY, 'ee', 3)").to_dicts()
    assert near == engine.run("SELECT id FROM nearest(tickets, toy, 'ee', 3)").to_dicts()
    votes = "SELECT id, knn_label({}, '{}.outcome', 3) AS v FROM {} ORDER BY id"
    assert (
        engine.run(votes.format("TOY", "Outcomes", "TICKETS")).to_dicts()
        == engine.run(votes.format("toy", "outcomes", "tickets")).to_dicts()
    )
    sql = "WITH First AS (FROM OUTCOMES AT (VERSION => 1)) SELECT count(*) AS n FROM FIRST"
    assert engine.run(sql).to_dicts() == [{"n": 10}]


@pytest.mark.parametrize(
    "source", ["(SELECT * FROM tickets WHERE n < 9) z", "z", "z JOIN outcomes o ON o.ticket = z.id", "Z AS z"]
)
@pytest.mark.parametrize("encoder", ["toy", "z.toy"])
def test_over_rows_of_a_subquery_the_way_is_to_compute_inside(engine: SqlEngine, source: str, encoder: str) -> None:
    inside = "WITH z AS (SELECT * FROM tickets WHERE n < 9)" if source[0] != "(" else ""
    said = refusal(engine, f"{inside} SELECT id, similarity({encoder}, 'ee') AS s FROM {source}")
    why = "no collection stands in its FROM" if encoder == "toy" else "'z' is no collection of this query"
    assert said == (
        f"this SQL was not run: similarity() has nothing to rank: {why}. "
        "Rows of a subquery or of WITH have no vectors: put similarity() into its SELECT, and name it there."
    )
    way = "SELECT id, s FROM (SELECT *, similarity(toy, 'ee') AS s FROM tickets WHERE n < 9) z"
    assert {r["id"]: pytest.approx(r["s"], abs=1e-6) for r in engine.run(way)} == {
        f"t-{i}": WANTED[f"t-{i}"] for i in range(9)
    }


@pytest.mark.parametrize("source", ["read_csv('{}')", "'{}'", "read_text('{}')", "glob('{}')"])
def test_sql_reads_the_store_alone_and_no_file(engine: SqlEngine, tmp_path: Path, source: str) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    said = refusal(engine, f"SELECT * FROM {source.format(tmp_path / 'secret.csv')}")
    assert "disabled by configuration" in said
    assert said.endswith("SQL reads the store alone: register files with register_table.")


def test_a_table_that_is_not_there_is_said_with_those_that_are(engine: SqlEngine, catalog: Catalog) -> None:
    with pytest.raises(TableNotFound) as missing:
        engine.run("SELECT * FROM ticket")
    assert str(missing.value) == f"no table 'ticket' in store '{catalog.layout.root}'. It has: 'outcomes', 'tickets'."


# --- results and plans -------------------------------------------------------------------------------------------------


def test_a_result_goes_to_arrow_pandas_and_dicts(engine: SqlEngine) -> None:
    result = engine.run("SELECT id, n FROM tickets ORDER BY n LIMIT 2")
    assert result.columns == ["id", "n"]
    assert len(result) == 2
    assert result.to_dicts() == list(result) == [{"id": "t-0", "n": 0}, {"id": "t-1", "n": 1}]
    assert result.to_arrow().column("n").to_pylist() == [0, 1]
    assert result.to_pandas()["id"].tolist() == ["t-0", "t-1"]
    assert repr(result) == "<2 rows: id, n>"
    assert ">t-1</td>" in result._repr_html_()


@pytest.mark.parametrize("params", [{"p": "card", "unused": 1}, ["card"]])
def test_parameters_are_given_by_name_or_in_order(engine: SqlEngine, params: object) -> None:
    mark = "$p" if isinstance(params, dict) else "?"
    found = engine.run(f"SELECT count(*) AS n FROM tickets WHERE product = {mark}", params).to_dicts()
    assert found == [{"n": 8}]


def test_similarity_and_other_parameters_meet_in_one_query(engine: SqlEngine) -> None:
    sql = "SELECT count(*) AS n FROM tickets WHERE similarity(toy, $q) > $least AND product = $p"
    found = engine.run(sql, {"q": "ee", "least": 0.9, "p": "card"}).to_dicts()
    assert found == [{"n": len([i for i in NEAR if i in CARDS])}]


def test_columns_and_filters_are_pushed_into_lance(tickets: CollectionTable, engine: SqlEngine) -> None:
    """DuckDB asks the Lance dataset for the named columns and rows only, through a view as SQL sees it."""
    asked: list[dict] = []
    dataset = tickets.rows.dataset()

    class Watched(type(dataset)):
        """The real dataset; notes what it is scanned for."""

        def scanner(self, *arguments: object, **options: object) -> object:
            asked.append(options)
            return super().scanner(*arguments, **options)

    dataset.__class__ = Watched
    connection = duckdb.connect()
    connection.register("raw", dataset)
    connection.execute(f"CREATE VIEW tickets AS SELECT {', '.join(tickets.visible)} FROM raw")
    assert connection.sql("SELECT id FROM tickets WHERE n = 3").to_arrow_table().to_pylist() == [{"id": "t-3"}]
    (options,) = asked
    assert set(options["columns"]) <= {"id", "n"}
    assert "n" in str(options["filter"])
    assert "3" in str(options["filter"])
