"""Vector expressions, nearest() and the ways to an answer: whatever way a query takes, the answer is NumPy's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.query.engine import SqlEngine
from raystore.data.tables.table import register_table
from raystore.errors import ItemNotFound, PassportMismatch, SqlRefused, TableNotFound
from raystore.layout import Layout
from raystore.vectors import Vectors
from tests.data.toy import OtherEncoder, make_store, named
from tests.data.wide import DIM, WideEncoder, add_things, make_engine, make_things, unit

RNG = np.random.default_rng(5)
N = 60
VECTORS = unit(RNG.standard_normal((N, DIM)).astype(np.float32))
IDS = [f"a-{i:02}" for i in range(N)]
HAS = np.array([i % 5 != 1 for i in range(N)])
TIMES = [f"2026-01-{i // 3 + 1:02}T00:00:00" for i in range(N)]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> CollectionTable:
    """N rows in two commits; every fifth has no vector."""
    table = make_things(make_store(tmp_path_factory.mktemp("things") / "store"))
    for part in (slice(0, 40), slice(40, N)):
        add_things(table, IDS[part], VECTORS[part], has=list(HAS[part]), times=TIMES[part])
    return table


@pytest.fixture
def engine(things: CollectionTable) -> SqlEngine:
    return make_engine(things.layout)


def of(text: str | bytes) -> np.ndarray:
    return unit(WideEncoder.vector(text)[None, :])[0].astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def refusal(engine: SqlEngine, sql: str, params: object = None) -> str:
    with pytest.raises(SqlRefused) as refused:
        engine.run(sql, params)
    return str(refused.value).removeprefix("this SQL was not run: ")


def by_id(engine: SqlEngine, expression: str, params: object = None) -> np.ndarray:
    """(N,) the expression for each row, NaN for null."""
    rows = engine.run(f"SELECT id, {expression} AS v FROM things ORDER BY id", params).to_dicts()
    assert [row["id"] for row in rows] == IDS
    return np.array([np.nan if row["v"] is None else row["v"] for row in rows])


ROWS = np.where(HAS[:, None], VECTORS.astype(np.float64), np.nan)
KING = of("king") - of("man") + of("woman")
EXPRESSIONS = {
    "similarity(wide, vector_of('king') - vector_of('man') + vector_of('woman'))": [cosine(r, KING) for r in ROWS],
    "similarity(wide, vector_of(wide, 'king') - vector_of(also, 'man') + vector_of('woman'))": [
        cosine(r, KING) for r in ROWS
    ],
    "similarity(things.wide, 2 * vector_of('king') / 4)": [cosine(r, of("king")) for r in ROWS],
    "similarity(wide, -vector_of('king'))": [cosine(r, -of("king")) for r in ROWS],
    "similarity(wide, vector_of(item('a-02')))": [cosine(r, ROWS[2]) for r in ROWS],
    "similarity(wide, vector_of(wide, item($id)) - (vector_of('man')))": [cosine(r, ROWS[3] - of("man")) for r in ROWS],
    "similarity(wide, $w * vector_of('king') + (1 - 0.25) * vector_of($q))": [
        cosine(r, 0.5 * of("king") + 0.75 * of("queen")) for r in ROWS
    ],
    "similarity(wide, wide + vector_of('king'))": [cosine(r, r + of("king")) for r in ROWS],
    "cosine(wide, vector_of('king'))": [cosine(r, of("king")) for r in ROWS],
    "cosine(vector_of('king'), -2 * wide)": [-cosine(r, of("king")) for r in ROWS],
    "cosine(vector_of(wide, 'king'), vector_of(wide, 'man'))": [cosine(of("king"), of("man"))] * N,
    "cosine(wide - vector_of('king'), vector_of('man') - 2 * wide)": [
        cosine(r - of("king"), of("man") - 2 * r) for r in ROWS
    ],
    "norm(vector_of(wide, 'king') - vector_of(wide, 'man'))": [np.linalg.norm(of("king") - of("man"))] * N,
    "norm(wide)": [np.linalg.norm(r) for r in ROWS],
    "norm(wide - vector_of('king'))": [np.linalg.norm(r - of("king")) for r in ROWS],
    "norm(wide - wide)": [np.linalg.norm(r - r) for r in ROWS],
    "similarity(wide, vector_of('king') - vector_of('king'))": [np.nan] * N,
    "similarity(wide, $picture)": [cosine(r, of(b"picture")) for r in ROWS],
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_what_numpy_says(engine: SqlEngine, expression: str) -> None:
    params = {"id": "a-03", "w": 0.5, "q": "queen", "picture": b"picture"}
    np.testing.assert_allclose(by_id(engine, expression, params), EXPRESSIONS[expression], atol=2e-6)


def test_vectors_of_two_rows_meet_in_a_join(engine: SqlEngine) -> None:
    sql = """SELECT a.id AS x, b.id AS y, cosine(a.wide, b.wide) AS c, norm(a.wide - b.wide) AS d,
                    cosine(a.wide + vector_of('king'), 2 * b.wide) AS e
             FROM things a JOIN things b ON a.n = b.n AND a.id < b.id"""
    found = engine.run(sql).to_dicts()
    assert len(found) == 20
    for row in found:
        x, y = (ROWS[IDS.index(row[k])] for k in "xy")
        wanted = [cosine(x, y), np.linalg.norm(x - y), cosine(x + of("king"), y)]
        got = [np.nan if row[k] is None else row[k] for k in "cde"]
        np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_a_number_of_constants_needs_no_collection(engine: SqlEngine) -> None:
    (row,) = engine.run("SELECT cosine(vector_of(wide, 'a'), vector_of(wide, 'b')) AS c").to_dicts()
    assert row["c"] == pytest.approx(cosine(of("a"), of("b")), abs=1e-6)


def test_an_image_is_given_as_bytes_or_as_a_path(engine: SqlEngine, tmp_path: Path) -> None:
    (tmp_path / "star.png").write_bytes(b"picture")
    by_path = by_id(engine, "similarity(wide, $picture)", {"picture": tmp_path / "star.png"})
    np.testing.assert_array_equal(by_path, by_id(engine, "similarity(wide, $picture)", {"picture": b"picture"}))
    said = refusal(engine, "SELECT similarity(wide, $picture) FROM things", {"picture": tmp_path / "none.png"})
    assert said.startswith("similarity() was given a file that cannot be read (FileNotFoundError).")


def test_every_text_is_encoded_once_and_all_of_an_encoder_in_one_call(things: CollectionTable) -> None:
    wide = WideEncoder()
    engine = SqlEngine(Catalog(things.layout), named(wide=wide, also=wide))
    sql = """SELECT similarity(wide, 'a') + similarity(also, 'a') AS s, cosine(wide, vector_of('a') - vector_of('b')) AS c
             FROM things WHERE similarity(wide, 'c') > -1
             UNION ALL SELECT score, 1 FROM nearest(things, also, 'c', 3)"""
    assert len(engine.run(sql)) == int(HAS.sum()) + 3
    assert wide.calls == [["a", "b", "c"]]


def test_texts_do_not_become_sql(engine: SqlEngine) -> None:
    hostile = "'); DROP TABLE things; --"
    sql = "SELECT count(*) AS n FROM things WHERE similarity(wide, $q) > -2 AND kind IS DISTINCT FROM $kind"
    assert engine.run(sql, {"q": hostile, "kind": "' OR 1=1 --"}).to_dicts() == [{"n": int(HAS.sum())}]
    assert hostile not in engine.explain(sql, {"q": hostile, "kind": "x"})


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT vector_of(wide, 'a') FROM things", "vector_of() stands where no vector is taken"),
        ("SELECT id FROM things WHERE id = item('a')", "item() stands where no vector is taken"),
        ("SELECT cosine(vector_of('a'), vector_of('b')) FROM things", "cosine() holds a vector_of() that names no encoder"),
        ("SELECT similarity(wide, vector_of('a') + 1) FROM things", "similarity() adds a number to a vector"),
        ("SELECT similarity(wide, vector_of('a') * wide) FROM things", "similarity() multiplies two vectors"),
        (
            "SELECT similarity(wide, vector_of('a') / 0) FROM things",
            "similarity() divides by something other than a number, or by 0",
        ),
        ("SELECT norm(3) FROM things", "norm() was given a number, expected a vector"),
        ("SELECT norm(upper('a')) FROM things", "norm() holds something that is no vector"),
        ("SELECT norm(wide, wide) FROM things", "norm() was called otherwise than it is defined"),
        ("SELECT cosine(wide) FROM things", "cosine() was called otherwise than it is defined"),
        ("SELECT * FROM nearest(things, wide)", "nearest() was called otherwise than it is defined"),
        ("SELECT * FROM nearest('things', wide, 'a', 3)", "nearest() was called otherwise than it is defined"),
        ("SELECT * FROM nearest(things, wide, 'a', 0)", "nearest() asks for neither 1 nor more neighbours"),
        ("SELECT * FROM nearest(things, wide, 'a', 2.5)", "nearest() asks for neither 1 nor more neighbours"),
        (
            "SELECT * FROM nearest(things, wide, vector_of('a') - vector_of('a'), 3)",
            "nearest() was given a vector without direction",
        ),
        ("SELECT similarity(wide, ?) FROM things", "similarity() asks for neither a value nor a named parameter"),
    ],
)
def test_what_cannot_be_meant_is_refused(engine: SqlEngine, sql: str, said: str) -> None:
    assert refusal(engine, sql, ["a"] if "?" in sql else None).startswith(f"{said}.")


def test_vectors_of_two_encoders_do_not_meet(engine: SqlEngine) -> None:
    for call in (
        "cosine(vector_of(wide, 'a'), vector_of(other, 'a'))",
        "cosine(wide, other)",
        "similarity(wide, vector_of(other, 'a'))",
    ):
        with pytest.raises(PassportMismatch) as refused:
            engine.run(f"SELECT {call} FROM things")
        assert str(refused.value) == (
            f"{call.split('(')[0]}() expects {WideEncoder.label}, but was given {OtherEncoder.label}. "
            "Vectors of one encoder can be compared, of two they cannot."
        )


# --- nearest -----------------------------------------------------------------------------------------------------------


def ranked(query: np.ndarray, among: np.ndarray | None = None) -> list[str]:
    scores = np.where(HAS if among is None else HAS & among, VECTORS @ query, -np.inf)
    return [IDS[i] for i in np.argsort(-scores) if scores[i] > -np.inf]


def test_nearest_is_a_relation_of_rows_with_score_and_rank(engine: SqlEngine) -> None:
    result = engine.run("SELECT * FROM nearest(things, wide, 'king', 4) ORDER BY rank")
    assert result.columns == ["id", "subject", "tenant", "time", "kind", "n", "score", "rank"]
    rows = result.to_dicts()
    assert [row["id"] for row in rows] == ranked(of("king"))[:4]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["score"] == pytest.approx(cosine(ROWS[IDS.index(rows[0]["id"])], of("king")), abs=1e-6)


def test_nearest_joins_filters_and_takes_parameters(engine: SqlEngine) -> None:
    sql = """SELECT x.id, similarity(x.wide, 'queen') AS s, t.n FROM nearest(things, wide, vector_of($q) - vector_of('man'), $k) x
             JOIN things t USING (id) WHERE t.kind IS NOT NULL ORDER BY x.rank"""
    rows = engine.run(sql, {"q": "king", "k": 8}).to_dicts()
    kinds = {i: p % 4 != 3 for part in (IDS[:40], IDS[40:]) for p, i in enumerate(part)}
    assert [r["id"] for r in rows] == [i for i in ranked(of("king") - of("man"))[:8] if kinds[i]]
    assert rows[0]["s"] == pytest.approx(cosine(ROWS[IDS.index(rows[0]["id"])], of("queen")), abs=1e-6)


def test_nearest_of_an_item_is_that_item_first_and_more_than_there_are_is_fine(engine: SqlEngine) -> None:
    rows = engine.run("SELECT id FROM nearest(things, wide, item('a-05'), 1000)").to_dicts()
    assert (rows[0]["id"], len(rows)) == ("a-05", int(HAS.sum()))


def test_nearest_goes_through_the_index_where_there_is_one_but_not_for_what_was(things: CollectionTable) -> None:
    asked = []

    def nearest(table: CollectionTable, vectors: Vectors, k: int, version: int | None) -> pa.Table:
        asked.append((table.name, vectors.fingerprint, vectors.shape, k, version))
        return pa.table({"id": ["a-07", "gone", "a-03"], "score": pa.array([0.9, 0.8, 0.7], pa.float32())})

    engine = make_engine(things.layout, nearest=nearest)
    rows = engine.run("SELECT id, rank, score FROM nearest(things, wide, 'king', 3)").to_dicts()
    assert [(r["id"], r["rank"], round(r["score"], 1)) for r in rows] == [("a-07", 1, 0.9), ("a-03", 2, 0.7)]
    assert asked == [("things", WideEncoder.fingerprint, (1, DIM), 3, None)]
    first = things.rows.known(["a-00"])["a-00"].added
    then = np.arange(N) < 40
    for sql, options in (
        (f"FROM nearest(things, wide, 'king', 5) AT (VERSION => {first})", {}),
        ("FROM nearest(things, wide, 'king', 5)", {"versions": {"things": first}}),
    ):
        found = engine.run(sql, **options).to_dicts()
        assert [row["id"] for row in found] == ranked(of("king"), then)[:5]
    assert len(asked) == 1


def test_nearest_ranks_a_collection_that_is_there(engine: SqlEngine, things: CollectionTable) -> None:
    with pytest.raises(TableNotFound):
        engine.run("SELECT * FROM nearest(nobody, wide, 'a', 3)")
    register_table(Catalog(things.layout), "labels", [{"thing": "a-00", "label": "x"}], id="thing")
    said = refusal(engine, "SELECT * FROM nearest(labels, wide, 'a', 3)")
    assert said == "nearest() ranks a collection, 'labels' is a table."


# --- as of -------------------------------------------------------------------------------------------------------------


def test_a_collection_as_of_a_time_is_its_rows_until_then(engine: SqlEngine) -> None:
    day = datetime(2026, 1, 7)  # without a zone it is UTC
    then = np.array([time <= "2026-01-07T00:00:00" for time in TIMES])
    assert engine.run("SELECT count(*) AS n FROM things", as_of=day).to_dicts() == [{"n": int(then.sum())}]
    at = "things AT (TIMESTAMP => '2026-01-07')"
    assert engine.run(f"SELECT count(*) AS n FROM {at}").to_dicts() == [{"n": int(then.sum())}]
    found = engine.run("FROM nearest(things, wide, 'king', 5)", as_of=day.replace(tzinfo=UTC)).to_dicts()
    assert [row["id"] for row in found] == ranked(of("king"), then)[:5]
    top = engine.run("SELECT id FROM things ORDER BY similarity(wide, 'king') DESC LIMIT 3", as_of=day).to_dicts()
    assert [row["id"] for row in top] == ranked(of("king"), then)[:3]
    with pytest.raises(ItemNotFound):
        engine.run("SELECT similarity(wide, item('a-59')) FROM things", as_of=day)


def test_a_table_of_events_as_of_a_time_is_what_had_happened_then_whenever_it_was_registered(
    engine: SqlEngine, things: CollectionTable
) -> None:
    catalog = Catalog(things.layout)
    events = [{"thing": "a-00", "at": "2026-01-01", "kind": "x"}, {"thing": "a-01", "at": "2026-01-09", "kind": "y"}]
    register_table(catalog, "events", events[:1], id="thing", time="at")
    register_table(catalog, "events", events, id="thing", time="at")
    count = "SELECT count(*) AS n FROM events"
    for at, n in (("2025-12-31", 0), ("2026-01-05", 1), ("2026-01-09", 2)):
        moment = datetime.fromisoformat(at)
        assert engine.run(count, as_of=moment).to_dicts() == [{"n": n}]
        assert engine.run(f"{count} AT (TIMESTAMP => '{at}')").to_dicts() == [{"n": n}]
        assert engine.run(f"{count} WHERE at <= $as_of", as_of=moment).to_dicts() == [{"n": n}]
    pinned = engine.run(f"{count} AT (TIMESTAMP => '2026-01-09')", versions={"events": 1})
    assert pinned.to_dicts() == [{"n": 1}]
    voted = "SELECT DISTINCT knn_label(wide, events.kind, 1) AS kind FROM things"
    assert {row["kind"] for row in engine.run(voted, as_of=datetime(2026, 1, 5))} == {"x", None}


def test_dollar_as_of_is_the_time_of_the_call_where_no_parameter_says_otherwise(engine: SqlEngine) -> None:
    at = datetime(2026, 1, 7, tzinfo=UTC)
    asked = "SELECT CAST($as_of AS VARCHAR) AS at"
    assert engine.run(asked, as_of=at).to_dicts() == [{"at": "2026-01-07 00:00:00+00"}]
    assert engine.run(asked, {"as_of": "mine"}, as_of=at).to_dicts() == [{"at": "mine"}]


def test_a_table_as_of_a_time_is_its_version_then(engine: SqlEngine, things: CollectionTable) -> None:
    catalog = Catalog(things.layout)
    first = register_table(catalog, "prices", [{"thing": "a-00", "price": 1}], id="thing")
    register_table(catalog, "prices", [{"thing": "a-00", "price": 2}], id="thing")
    then = first.published_at
    assert engine.run("SELECT price FROM prices").to_dicts() == [{"price": 2}]
    assert engine.run(f"SELECT price FROM prices AT (TIMESTAMP => '{then}')").to_dicts() == [{"price": 1}]
    as_of = datetime.fromisoformat(then)
    assert engine.run("SELECT price FROM prices", as_of=as_of).to_dicts() == [{"price": 1}]
    assert engine.run("SELECT price FROM prices", as_of=as_of, versions={"prices": 2}).to_dicts() == [{"price": 2}]
    assert engine.run("SELECT price FROM prices AT (VERSION => 2)", as_of=as_of).to_dicts() == [{"price": 2}]


def test_an_item_that_came_later_is_not_there_at_an_earlier_version(engine: SqlEngine, things: CollectionTable) -> None:
    first = things.rows.known(["a-00"])["a-00"].added
    with pytest.raises(ItemNotFound) as missing:
        engine.run("SELECT similarity(wide, item('a-59')) FROM things", versions={"things": first})
    assert str(missing.value) == "no item 'a-59' in collection 'things' with a vector of this encoder at that time."


# --- every way to an answer gives the same ---------------------------------------------------------------------------------

WAYS = {
    "the rows among the best": "SELECT id, similarity(wide, $q) AS s FROM {t} ORDER BY s DESC, id LIMIT $k",
    "a star, the rows among the best": "SELECT *, similarity(wide, $q) AS s FROM {t} ORDER BY s DESC, id LIMIT $k",
    "all rows": "SELECT id, s FROM (SELECT id, similarity(wide, $q) AS s FROM {t}) ORDER BY s DESC, id LIMIT $k",
    "a star that leaves a column out": "WITH x AS (SELECT *, similarity(wide, $q) AS s FROM {t}) FROM x ORDER BY s DESC, id LIMIT $k",
    "a join by id": "SELECT t.id, similarity(wide, $q) AS s FROM {t} t WHERE t IS NOT NULL ORDER BY s DESC, id LIMIT $k",
    "columns by pattern": "SELECT COLUMNS('^id$'), similarity(wide, $q) AS s FROM {t} ORDER BY s DESC, id LIMIT $k",
    "a window": "SELECT id, similarity(wide, $q) AS s FROM {t} QUALIFY row_number() OVER (ORDER BY s DESC, id) <= $k "
    "ORDER BY s DESC, id",
    "a filter on disk": "SELECT id, similarity(wide, $q) AS s FROM {t} WHERE n >= 0 AND id IS NOT NULL ORDER BY s DESC, id LIMIT $k",
}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[tuple[int, bool]]], set[int]]:
    """Commits of (which of a few vectors, has it one) a row, and the rows that are gone afterwards."""
    commits = draw(
        st.lists(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=14), min_size=1, max_size=3)
    )
    n = sum(map(len, commits))
    return commits, draw(st.sets(st.integers(0, n - 1), max_size=3))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories(), k=st.integers(1, 6), pinned=st.booleans(), text=st.sampled_from(["a", "b"]))
def test_every_way_gives_the_same_answer(
    tmp_path_factory: pytest.TempPathFactory,
    history: tuple[list[list[tuple[int, bool]]], set[int]],
    k: int,
    pinned: bool,
    text: str,
) -> None:
    """Ties, rows without vector, erased rows, older versions, first and later uses of a column."""
    commits, gone = history
    layout: Layout = make_store(tmp_path_factory.mktemp("ways") / "store")
    table, engine = make_things(layout), make_engine(layout)
    few = unit(np.random.default_rng(1).standard_normal((5, DIM)).astype(np.float32))
    versions, wanted, number = [], [], 0
    for commit in commits:
        ids = [f"r-{number + i:02}" for i in range(len(commit))]
        versions.append(add_things(table, ids, few[[v for v, _ in commit]], has=[h for _, h in commit]))
        wanted += [(i, few[v] if h else None, versions[-1]) for i, (v, h) in zip(ids, commit, strict=True)]
        number += len(commit)
        for sql in WAYS.values():  # columns and scores of an older version are held by now
            engine.run(sql.format(t="things"), {"q": text, "k": k}).to_arrow()
    if gone:
        table.rows.dataset().delete(f"id IN ({', '.join(repr(wanted[i][0]) for i in gone)})")
    version = versions[0] if pinned else None
    there = [(i, v) for p, (i, v, added) in enumerate(wanted) if p not in gone and (version is None or added <= version)]
    query = unit(WideEncoder.vector(text)[None, :])[0]
    scores = {i: None if v is None else float(np.vecdot(v, query)) for i, v in there}
    order = sorted(scores, key=lambda i: (scores[i] is None, -(scores[i] or 0.0), i))[:k]
    for way, sql in WAYS.items():
        for _ in range(3):
            rows = engine.run(
                sql.format(t="things"), {"q": text, "k": k}, versions={"things": version} if version else None
            )
            found = [(row["id"], row["s"]) for row in rows.to_dicts()]
            assert found == [(i, scores[i]) for i in order], way
