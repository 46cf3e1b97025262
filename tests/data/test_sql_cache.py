"""What SQL keeps between queries never changes an answer, stays within its budget, and goes with the rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.query.cache import SqlCache, parse_bytes
from raystore.data.query.engine import SqlEngine
from raystore.layout import Layout
from tests.data.wide import DIM, add_things, make_engine, make_things, unit

VECTORS = unit(np.random.default_rng(2).standard_normal((400, DIM)).astype(np.float32))


@pytest.fixture
def things(layout: Layout) -> CollectionTable:
    table = make_things(layout)
    add_things(table, [f"a-{i:03}" for i in range(300)], VECTORS[:300])
    return table


@pytest.fixture
def engine(things: CollectionTable) -> SqlEngine:
    return make_engine(things.layout)


FILTERS = [
    "n < 20", "kind = 'a'", "kind IN ('a', 'c')", "kind IS NULL", "kind IS NOT NULL AND n > 5", "kind LIKE 'b%' OR n = 3",
    "kind > 'a' AND n <> 7", "n IN (1, 2, 3, 4, 900)", "NOT (kind = 'a')", "time IS NULL", "kind = 'nothing'",
]  # fmt: skip


@pytest.mark.parametrize("condition", FILTERS)
def test_a_filter_selects_the_same_from_memory_as_from_the_disk(engine: SqlEngine, condition: str) -> None:
    columns = "kind, count(*) AS c, sum(n) AS s, max(similarity(wide, 'x')) AS m"
    sql = f"SELECT {columns} FROM things WHERE {condition} GROUP BY kind ORDER BY kind"
    first, *later = [engine.run(sql).to_arrow() for _ in range(3)]
    assert [table.equals(first) for table in later] == [True, True]
    assert any(key[0] == "column" for key in engine.cache._held)


def test_columns_are_kept_from_their_second_use_on_and_grow_with_the_collection(
    engine: SqlEngine, things: CollectionTable
) -> None:
    sql = "SELECT kind, count(*) AS c FROM things GROUP BY kind ORDER BY kind"
    assert engine.run(sql).to_dicts()[0] == {"kind": "a", "c": 75}
    assert not any(key[0] == "column" for key in engine.cache._held)
    assert engine.run(sql).to_dicts()[0] == {"kind": "a", "c": 75}
    kept = next(column for key, (column, _) in engine.cache._held.items() if key[0] == "column")
    assert pa.types.is_dictionary(kept.values.type)
    add_things(things, [f"b-{i:03}" for i in range(100)], VECTORS[300:])
    assert engine.run(sql).to_dicts() == [*({"kind": k, "c": 100} for k in "abc"), {"kind": None, "c": 100}]
    grown = next(column for key, (column, _) in engine.cache._held.items() if key[0] == "column")
    assert len(grown.values) == 400
    assert grown.values.chunk(0).indices.equals(kept.values.chunk(0).indices)


def test_nothing_of_an_erased_row_outlives_the_next_query(engine: SqlEngine, things: CollectionTable) -> None:
    sql = "SELECT id, kind, similarity(wide, 'x') AS s FROM things ORDER BY id"
    for _ in range(3):
        engine.run(sql).to_arrow()
    things.rows.dataset().delete("id = 'a-007'")
    assert "a-007" not in engine.run(sql).to_arrow().column("id").to_pylist()
    for key, (held, _) in engine.cache._held.items():
        assert len(held if key[0] == "scores" else held.row_ids) == 299
        if key[0] == "column" and key[2] == "id":
            assert "a-007" not in held.values.to_pylist()


def test_a_pinned_version_is_read_from_the_same_columns(engine: SqlEngine, things: CollectionTable) -> None:
    first = things.rows.known(["a-000"])["a-000"].added
    add_things(things, [f"b-{i:03}" for i in range(100)], VECTORS[300:])
    sql = "SELECT count(*) AS c, sum(n) AS s FROM things AT (VERSION => {}) WHERE kind = 'a'"
    for _ in range(3):
        assert engine.run(sql.format(first)).to_dicts() == [{"c": 75, "s": sum(range(0, 300, 4))}]
        assert engine.run(sql.format(things.version)).to_dicts()[0]["c"] == 100


def test_the_budget_holds_and_none_is_fine(things: CollectionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_SQL_CACHE", "30KB")
    for budget, most in (("30KB", 30 << 10), ("0", 0)):
        monkeypatch.setenv("RAYSTORE_SQL_CACHE", budget)
        engine = make_engine(things.layout)
        for i in range(12):
            sql = f"SELECT kind, count(*) AS c, max(similarity(wide, 'x{i}')) FROM things GROUP BY kind ORDER BY kind"
            assert engine.run(sql).to_dicts()[0]["c"] == 75
            assert engine.cache.nbytes <= most


def test_the_least_recently_used_goes_first() -> None:
    cache = SqlCache(100)
    for name in "abc":
        cache._put(name, name, 40)
        cache._get("a")
    assert sorted(cache._held) == ["a", "c"]
    cache._put("large", 1, 101)
    assert sorted(cache._held) == ["a", "c"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 1 << 30), ("1.5 gb", 3 << 29), ("500MB", 500 << 20), ("2GiB", 2 << 30), ("7", 7), ("0", 0), ("2K", 2048)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text, "X") == size
