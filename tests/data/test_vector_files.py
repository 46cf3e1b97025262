from __future__ import annotations

import lance
import numpy as np
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.query import vector_files, vector_runs
from raystore.data.query.row_table import RowTable
from raystore.data.query.vector_files import blocks, dots, gather
from raystore.data.query.vector_runs import find_runs
from raystore.layout import Layout
from raystore.vectors import pair_scores, rounding_bound
from tests.data.wide import DIM, WIDE, WideEncoder, add_things, make_things, unit

RNG = np.random.default_rng(3)
FIRST, SECOND = (unit(RNG.standard_normal((n, DIM)).astype(np.float32)) for n in (300, 40))


@pytest.fixture
def things(layout: Layout) -> CollectionTable:
    """300 rows in one file, 40 in another, of which every third has no vector; ten rows are gone."""
    table = make_things(layout)
    add_things(table, [f"a-{i}" for i in range(300)], FIRST)
    add_things(table, [f"b-{i}" for i in range(40)], SECOND, has=[i % 3 > 0 for i in range(40)])
    table.rows.dataset().delete("id IN ('a-0', 'a-7', 'a-299', 'b-1', 'b-2', 'b-3', 'a-100', 'a-101', 'a-102', 'b-39')")
    return table


def wanted(table: CollectionTable) -> tuple[list[str], np.ndarray]:
    """(ids by position, vectors with NaN where there is none)."""
    ids = sorted(table.to_arrow(["id"]).column("id").to_pylist(), key=lambda i: (i[0], int(i[2:])))
    vectors = [FIRST[int(i[2:])] if i[0] == "a" else SECOND[int(i[2:])] for i in ids]
    lacks = [i[0] == "b" and int(i[2:]) % 3 == 0 for i in ids]
    return ids, np.where(np.array(lacks)[:, None], np.float32(np.nan), np.stack(vectors))


def test_a_product_is_by_position_and_absent_where_a_row_has_no_vector(things: CollectionTable) -> None:
    rows = RowTable.read(things.rows.dataset())
    ids, vectors = wanted(things)
    queries = unit(RNG.standard_normal((3, DIM)).astype(np.float32))
    assert rows.columns(["id"]).column("id").to_pylist() == ids
    np.testing.assert_allclose(dots(rows, WIDE, queries), (vectors @ queries.T).T, atol=1e-6)


def test_a_plain_file_is_mapped_and_one_with_nulls_is_read_by_lance(things: CollectionTable) -> None:
    plain, others = find_runs(things.rows.dataset(), WIDE)
    assert [(fragment, run.n, run.dim) for fragment, run in plain] == [(0, 300, DIM)]
    assert others == [1]
    first = next(blocks(things.rows.dataset(), WIDE))
    assert np.array_equal(first.vectors, FIRST)
    assert not first.vectors.flags.owndata


def test_a_product_is_the_same_to_the_bit_however_the_vectors_lie(
    things: CollectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = RowTable.read(things.rows.dataset())
    query = unit(RNG.standard_normal((1, DIM)).astype(np.float32))
    mapped = dots(rows, WIDE, query)
    monkeypatch.setattr(vector_runs, "_is_local", lambda path: False)
    vector_runs.forget(things.rows.path / "data")
    assert np.array_equal(dots(rows, WIDE, query), mapped, equal_nan=True)
    monkeypatch.setattr(vector_runs, "_find", lambda *_: None)
    monkeypatch.setattr(vector_runs, "_runs_known", type(vector_runs._runs_known)())
    monkeypatch.setattr(vector_files, "_DOT_ROWS", 7)
    assert np.array_equal(dots(rows, WIDE, query), mapped, equal_nan=True)


def test_vectors_are_gathered_in_the_order_asked(things: CollectionTable) -> None:
    rows = RowTable.read(things.rows.dataset())
    _, vectors = wanted(things)
    positions = RNG.permutation(len(rows))
    found, has = gather(rows, WIDE, positions)
    assert np.array_equal(has, ~np.isnan(vectors[positions, 0]))
    assert np.array_equal(found, np.nan_to_num(vectors[positions]))


def test_rows_that_were_rewritten_behind_later_ones_keep_their_position(layout: Layout) -> None:
    table = make_things(layout)
    add_things(table, [f"a-{i}" for i in range(20)], FIRST[:20])
    before = RowTable.read(table.rows.dataset())
    changed = table.rows.dataset().to_table(filter="id IN ('a-3', 'a-4')")
    table.rows.dataset().merge_insert("id").when_matched_update_all().execute(changed)
    after = RowTable.read(table.rows.dataset())
    assert (before.places, list(after.row_ids)) == (None, list(before.row_ids))
    assert after.places is not None
    assert after.columns(["id"]).column("id").to_pylist() == [f"a-{i}" for i in range(20)]
    assert after.take(np.array([4, 19, 3]), ["id"]).column("id").to_pylist() == ["a-4", "a-19", "a-3"]
    query = FIRST[:1]
    np.testing.assert_array_equal(dots(after, WIDE, query), dots(before, WIDE, query))


def test_a_file_that_is_gone_is_let_go_when_vectors_are_next_looked_for(layout: Layout) -> None:
    table = make_things(layout)
    add_things(table, [f"a-{i}" for i in range(20)], FIRST[:20])
    list(blocks(table.rows.dataset(), WIDE))
    held = {run.path for run in vector_runs._maps}
    table.rows.dataset().delete("n < 10")
    table.rows.dataset().optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
    list(blocks(lance.dataset(str(table.rows.path)), WIDE))
    folder = str(table.rows.path)
    gone = {path for path in held if path.startswith(folder)}
    now = {run.path for run in vector_runs._maps if run.path.startswith(folder)}
    assert len(gone) == len(now) == 1
    assert gone != now


def test_a_pair_has_one_score_whatever_stands_beside_it_and_rounding_is_bounded() -> None:
    queries, rows = FIRST[:200], FIRST[100:300]
    scores = pair_scores(queries, rows)
    assert [float(pair_scores(queries[i : i + 1], rows[i : i + 1])[0]) for i in range(5)] == scores[:5].tolist()
    assert np.abs(np.vecdot(queries, rows) - scores).max() <= rounding_bound(DIM)


def test_an_empty_collection_has_no_products(layout: Layout) -> None:
    table = make_things(layout)
    rows = RowTable.read(table.rows.dataset())
    assert dots(rows, WIDE, FIRST[:2]).shape == (2, 0)
    assert WideEncoder.dim == DIM
