"""knn_label(): the vote of the nearest labelled neighbours, whatever the blocks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.query import knn as sql_knn
from raystore.data.query.engine import SqlEngine
from raystore.data.query.knn import nearest_rows, votes
from raystore.data.query.row_table import RowTable
from raystore.data.tables.table import register_table
from raystore.errors import ColumnNotFound, SqlRefused
from tests.data.toy import make_store
from tests.data.wide import DIM, WIDE, add_things, make_engine, make_things, unit

RNG = np.random.default_rng(11)
N = 120
CENTRES = RNG.standard_normal((3, DIM)).astype(np.float32)
TRUTH = RNG.integers(0, 3, N)
VECTORS = unit(CENTRES[TRUTH] + 0.9 * RNG.standard_normal((N, DIM)).astype(np.float32))
VECTORS[50:60] = VECTORS[40]  # duplicates: ties
IDS = [f"a-{i:03}" for i in range(N)]
HAS = np.array([i % 7 != 3 for i in range(N)])
LABELS = {i: ["red", "green", "blue"][TRUTH[p]] for p, i in enumerate(IDS) if p % 3 != 2}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> CollectionTable:
    table = make_things(make_store(tmp_path_factory.mktemp("knn") / "store"))
    for part in (slice(0, 90), slice(90, N)):
        add_things(table, IDS[part], VECTORS[part], has=list(HAS[part]))
    catalog = Catalog(table.layout)
    rows = [{"thing": i, "label": label, "size": len(label)} for i, label in LABELS.items()]
    register_table(
        catalog,
        "truth",
        [*rows, {"thing": IDS[2], "label": None, "size": None}, {"thing": "nobody", "label": "red"}],
        id="thing",
    )
    register_table(catalog, "keyless", rows)
    register_table(catalog, "twice", [*rows, {"thing": "a-000", "label": "other", "size": 1}], id="thing")
    return table


@pytest.fixture
def engine(things: CollectionTable) -> SqlEngine:
    return make_engine(things.layout)


def wanted(k: int, n: int = N) -> dict[str, str | None]:
    """By NumPy alone: float64 products, ties to the earlier row, the vote."""
    scores = (VECTORS.astype(np.float64) @ VECTORS.T.astype(np.float64)).astype(np.float32)
    found: dict[str, str | None] = {}
    for i in range(n):
        others = [j for j in np.lexsort((np.arange(n), -scores[i, :n])) if j != i and HAS[j] and IDS[j] in LABELS][:k]
        votes = Counter(LABELS[IDS[j]] for j in others)
        best = max(votes.values(), default=0)
        nearest = next((LABELS[IDS[j]] for j in others if votes[LABELS[IDS[j]]] == best), None)
        found[IDS[i]] = nearest if HAS[i] else None
    return found


def labels(engine: SqlEngine, call: str, **options: object) -> dict[str, str | None]:
    return {row["id"]: row["v"] for row in engine.run(f"SELECT id, {call} AS v FROM things", **options).to_dicts()}


@pytest.mark.parametrize(
    ("call", "k"),
    [
        ("knn_label(wide, 'truth.label')", 10),
        ("knn_label(wide, truth.label, 1)", 1),
        ("knn_label(things.wide, 'truth.label', 4)", 4),
        ("knn_label(wide, 'truth.label', $k)", 3),
        ("knn_label(wide, 'truth.label', 500)", 500),
    ],
)
def test_a_label_is_the_vote_of_the_nearest_others_that_have_one(engine: SqlEngine, call: str, k: int) -> None:
    assert labels(engine, call, params={"k": k}) == wanted(k)


def test_a_label_does_not_hang_on_the_blocks_or_on_what_else_is_asked(
    engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_knn, "_ASKED_ROWS", 7)
    monkeypatch.setattr(sql_knn, "_OTHER_ROWS", 11)
    assert labels(engine, "knn_label(wide, 'truth.label', 4)") == wanted(4)
    sql = "SELECT *, knn_label(wide, 'truth.label', 4) AS v FROM things WHERE n BETWEEN 3 AND 9 AND v IS NOT NULL"
    found = {row["id"]: row["v"] for row in engine.run(sql).to_dicts()}
    assert found == {i: v for i, v in wanted(4).items() if i in found}
    assert len(found) > 5


def test_a_label_can_be_compared_grouped_and_joined(engine: SqlEngine) -> None:
    sql = """SELECT knn_label(t.wide, 'truth.label', 5) AS v, count(*) AS n, avg((o.label = v)::INT) AS right
             FROM things t JOIN truth o ON o.thing = t.id WHERE v IN ('red', 'blue') GROUP BY v ORDER BY v"""
    for _ in range(3):  # from the disk, then from memory
        rows = engine.run(sql).to_dicts()
        assert [r["v"] for r in rows] == ["blue", "red"]
        assert min(r["right"] for r in rows) > 0.6


def test_labels_are_those_of_the_pinned_versions(engine: SqlEngine, things: CollectionTable) -> None:
    catalog = Catalog(things.layout)
    before = wanted(5)
    register_table(catalog, "truth", [{"thing": i, "label": "one"} for i in IDS], id="thing")
    call = "knn_label(wide, 'truth.label', 5)"
    assert set(labels(engine, call).values()) == {"one", None}
    assert labels(engine, call, versions={"truth": 1}) == before
    first = things.rows.known(["a-000"])["a-000"].added
    assert labels(engine, call, versions={"truth": 1, "things": first}) == wanted(5, 90)


def test_numbers_are_labels_too(engine: SqlEngine) -> None:
    found = engine.run("SELECT knn_label(wide, 'truth.size', 5) AS v FROM things", versions={"truth": 1}).to_arrow()
    assert str(found.schema.field("v").type) == "int64"
    assert set(found.column("v").to_pylist()) == {3, 4, 5, None}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("knn_label(wide)", "knn_label() was called otherwise than it is defined. Write knn_label("),
        ("knn_label(wide, 'truth')", "knn_label() was called otherwise than it is defined. Write knn_label("),
        ("knn_label(wide, 'truth.label', 0)", "knn_label() asks for neither 1 nor more neighbours."),
        ("knn_label(wide, 'things.kind')", "knn_label() takes labels from a source table, 'things' is a collection."),
        (
            "knn_label(wide, 'keyless.label')",
            "knn_label() joins by the key of 'keyless', which has none. "
            "Register it with id=: register_table('keyless', ..., id='...').",
        ),
        (
            "knn_label(wide, 'truth.colour')",
            "knn_label() asks for 'colour', which 'truth' does not have; it has: thing, label, size.",
        ),
        (
            "knn_label(wide, 'twice.label')",
            "1 ids of 'twice' have several different values of 'label'. "
            "knn_label() needs one label an id: register a table that has one.",
        ),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(engine: SqlEngine, call: str, said: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        engine.run(f"SELECT {call} FROM things", versions={"truth": 1} if "colour" in call else None)
    assert str(refused.value).startswith(f"this SQL was not run: {said}")
    assert ColumnNotFound.status == 404


def test_a_vote_goes_to_the_most_frequent_and_a_tie_to_the_nearest() -> None:
    given = np.array([[1, 2, 2, 3], [5, 4, 4, 5], [7, -1, -1, -1], [-1, -1, -1, -1], [3, 2, 1, 0]])
    assert votes(given).tolist() == [2, 5, 7, -1, 3]


def test_the_nearest_are_exact_among_many_duplicates(things: CollectionTable) -> None:
    rows = RowTable.read(things.rows.dataset())
    best = nearest_rows(rows, WIDE, VECTORS[40:41], 6, HAS, np.array([40]))
    same = [p for p in range(50, 60) if HAS[p]]
    assert best.positions[0].tolist() == same[:6]
    assert len(set(best.scores[0].tolist())) == 1
