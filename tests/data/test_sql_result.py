"""A result streams, is taken once or kept whole, and large work spills into the store's own folder."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raystore.catalog import Catalog
from raystore.data.query import result as sql_result
from raystore.data.query.engine import SqlEngine, SqlResult
from raystore.data.tables.table import register_table
from raystore.errors import ExtraNotInstalled, InvalidArguments, SqlRefused
from tests.data.wide import DIM, add_things, make_engine, make_things, unit

LARGE = "SELECT i, repeat('x', 200) AS t FROM range(5_000_000) r(i)"


@pytest.fixture
def engine(catalog: Catalog) -> SqlEngine:
    vectors = unit(np.random.default_rng(1).standard_normal((8, DIM)).astype(np.float32))
    add_things(make_things(catalog.layout), [f"a-{i}" for i in range(8)], vectors)
    register_table(catalog, "labels", [{"thing": f"a-{i}", "label": "<b>" if i else "none"} for i in range(8)], id="thing")
    return make_engine(catalog.layout)


def test_batches_hold_no_more_than_they_hand_over(engine: SqlEngine) -> None:
    result = engine.run(LARGE)
    gc.collect()
    before, most, n = pa.total_allocated_bytes(), 0, 0
    for batch in result.batches(10_000):
        assert len(batch) <= 10_000
        most, n = max(most, pa.total_allocated_bytes() - before), n + len(batch)
        if n > 1_000_000:
            break
    assert n > 1_000_000
    assert most < 100 << 20


def test_all_batches_together_are_the_table(engine: SqlEngine) -> None:
    sql = "SELECT i, i % 7 AS m FROM range(200_000) r(i) ORDER BY i"
    batches = list(engine.run(sql).batches(30_000))
    assert max(len(b) for b in batches) <= 30_000
    assert pa.Table.from_batches(batches).equals(engine.run(sql).to_arrow())


def test_rows_that_were_handed_over_are_not_asked_for_again(engine: SqlEngine) -> None:
    result = engine.run("SELECT id FROM things")
    assert result.columns == ["id"]
    assert sum(map(len, result.batches())) == 8
    assert repr(result) == "<rows that were handed over: id>"
    assert result._repr_html_() == "<p>&lt;rows that were handed over: id&gt;</p>"
    for again in (result.batches, result.to_arrow, result.to_dicts):
        with pytest.raises(InvalidArguments) as refused:
            again()
        assert str(refused.value) == (
            "batches(): the rows were handed over already and are gone: call to_arrow() first, or run the query again."
        )


def test_rows_in_memory_are_there_as_often_as_wanted(engine: SqlEngine) -> None:
    result = engine.run("SELECT id FROM things ORDER BY id")
    assert result.to_arrow() is result.to_arrow()
    assert len(result) == 8
    assert [len(b) for b in result.batches(3)] == [len(b) for b in result.batches(3)] == [3, 3, 2]
    assert next(iter(result)) == {"id": "a-0"}
    with pytest.raises(InvalidArguments, match="rows=0, expected at least 1"):
        result.batches(0)


def test_a_look_at_a_result_takes_nothing_from_it(engine: SqlEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    result = engine.run("SELECT i FROM range(120) r(i)")
    page = result._repr_html_()
    assert ">49</td>" in page
    assert ">50</td>" not in page
    assert page.endswith("<p>120 rows, the first 50 shown</p>")
    assert sum(map(len, result.batches())) == 120
    monkeypatch.setattr(sql_result, "_COUNTED_ROWS", 100_000)
    result = engine.run(LARGE)
    assert "more than " in repr(result)
    assert result._repr_html_().endswith(" rows, the first 50 shown</p>")
    first = next(iter(result.batches()))
    assert first.column("i")[0].as_py() == 0


def test_a_page_does_not_let_values_be_markup(engine: SqlEngine) -> None:
    page = engine.run("SELECT label FROM labels ORDER BY thing LIMIT 2")._repr_html_()
    assert "&lt;b&gt;" in page
    assert page.endswith("<p>2 rows</p>")


def test_a_page_shows_nothing_for_null_and_numbers_beside_their_header(engine: SqlEngine) -> None:
    sql = "SELECT NULL::VARCHAR AS a, NULL::TIMESTAMPTZ AS t, i, 'x' AS i FROM (VALUES (7), (NULL)) v(i) ORDER BY i"
    left, right = (f" style='text-align:{side}'" for side in ("left", "right"))
    assert engine.run(sql)._repr_html_() == (
        f"<table><thead><tr><th{left}>a</th><th{left}>t</th><th{right}>i</th><th{left}>i</th></tr></thead><tbody>"
        f"<tr><td{left}></td><td{left}></td><td{right}>7</td><td{left}>x</td></tr>"
        f"<tr><td{left}></td><td{left}></td><td{right}></td><td{left}>x</td></tr></tbody></table><p>2 rows</p>"
    )


def test_an_error_at_a_row_is_said_when_the_row_is_reached(engine: SqlEngine) -> None:
    result = engine.run("SELECT CAST(CASE WHEN i > 3_000_000 THEN 'x' ELSE '1' END AS INT) AS v FROM range(4_000_000) r(i)")
    with pytest.raises(SqlRefused) as refused:
        result.to_arrow()
    assert str(refused.value) == (
        "this SQL was not run: DuckDB stopped at a value (Conversion Error). "
        "TRY_CAST and try() make NULL of values that do not fit: WHERE TRY_CAST(...) IS NULL finds their rows."
    )
    with pytest.raises(SqlRefused, match="Binder Error"):
        engine.run("SELECT nothing FROM things")


def test_what_does_not_fit_in_memory_spills_into_the_stores_folder_and_is_gone_afterwards(
    catalog: Catalog, engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_SQL_MEMORY", "150MB")
    seen: list[Path] = []
    result = engine.run("SELECT i, md5(i::VARCHAR) AS h FROM range(6_000_000) r(i) ORDER BY h")
    for _ in result.batches(500_000):
        seen += list(catalog.layout.tmp.glob("sql-*/*"))
    assert seen
    assert [path for path in catalog.layout.tmp.glob("sql-*/*") if path.stat().st_size] == []
    engine.close()
    assert list(catalog.layout.tmp.glob("sql-*")) == []


@pytest.mark.parametrize("size", ["lots", "-1GB", "4 parsecs"])
def test_a_size_that_is_none_is_refused(engine: SqlEngine, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("RAYSTORE_SQL_MEMORY", size)
    with pytest.raises(InvalidArguments) as refused:
        engine.run("SELECT 1")
    assert str(refused.value) == f"RAYSTORE_SQL_MEMORY: '{size}' is no size, expected one like 2GB or 500MB."


def test_further_relations_may_be_streamed_in(engine: SqlEngine) -> None:
    table = pa.table({"id": ["a-1", "a-2"], "w": [1, 2]})
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    sql = "SELECT sum(w) AS w FROM mine JOIN things USING (id)"
    assert engine.run(sql, extra={"mine": reader}).to_dicts() == [{"w": 3}]
    assert engine.run(sql, extra={"mine": table}).to_dicts() == [{"w": 3}]


def test_explain_says_what_is_computed_first_and_computes_nothing(engine: SqlEngine) -> None:
    sql = "SELECT id, similarity(wide, 'secret') AS s FROM things ORDER BY s DESC LIMIT 2"
    said = engine.explain(sql)
    first, plan = said.split("\n", 1)
    assert first == (
        "raystore: 1 text or image encoded; one scan of the vectors of 8 rows of 'things' for 1 score each; "
        "of 'things' only the rows that score no less than the 2 best are read."
    )
    assert "Top: 2" in plan
    assert "secret" not in said
    assert engine.explain("SELECT 1").startswith("raystore: nothing is computed before.\n")
    rows = engine.run(f"EXPLAIN {sql}").to_dicts()
    assert [row["explain_key"] for row in rows] == ["raystore", "physical_plan"]
    assert rows[0]["explain_value"] == first
    assert "Top: 2" in rows[1]["explain_value"]
    with pytest.raises(SqlRefused):
        engine.explain("SELECT nothing FROM things")


def test_explain_names_neighbours_and_votes(engine: SqlEngine) -> None:
    assert engine.explain("SELECT knn_label(wide, 'labels.label', 3) FROM nearest(things, wide, 'a', 5)").startswith(
        "raystore: 1 text or image encoded; the 5 nearest rows of 'things' by a scan; "
        "the 3 nearest labelled rows of each row of 'things' that is asked for, one scan of the vectors for a thousand rows.\n"
    )


def test_a_column_without_a_name_is_named_as_it_is_written(engine: SqlEngine) -> None:
    result = engine.run("SELECT round(similarity(wide, 'a'), 2), norm(wide), id FROM things")
    assert result.columns == ["ROUND(similarity(wide, 'a'), 2)", "norm(wide)", "id"]


def test_polars_is_an_extra(engine: SqlEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    result = engine.run("SELECT id FROM things ORDER BY id")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ExtraNotInstalled) as missing:
        result.to_polars()
    assert str(missing.value) == "polars data frames need polars. Install it: pip install 'raystore[polars]'"
    monkeypatch.undo()
    polars = pytest.importorskip("polars")
    assert isinstance(result.to_polars(), polars.DataFrame)
    assert result.to_polars().height == 8


def test_a_table_is_a_result_too() -> None:
    result = SqlResult(pa.table({"a": [1]}))
    assert repr(result) == "<1 row: a>"
    assert result.to_pandas()["a"].tolist() == [1]


@pytest.mark.ray
def test_rows_go_to_a_ray_dataset(engine: SqlEngine, ray_session: object) -> None:
    dataset = engine.run("SELECT id, n FROM things ORDER BY id").to_ray()
    assert [row["id"] for row in dataset.take_all()] == [f"a-{i}" for i in range(8)]
    empty = engine.run("SELECT id FROM things WHERE n < 0").to_ray()
    assert empty.count() == 0
