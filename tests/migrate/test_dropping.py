"""A vector column that is dropped: nobody sees it, the other rows stay as they were, and its bytes are gone from the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.dropping import drop_columns, holds_dropped
from raystore.layout import filled_column, vector_column

from .spaces import catalog_in, clustered, write

ONE, TWO = "ab" * 32, "cd" * 32
N = 300


@pytest.fixture
def table(tmp_path: Path) -> CollectionTable:
    made = CollectionTable.create(catalog_in(tmp_path).layout, "tickets", {ONE: 8, TWO: 6})
    x, y = clustered(N, 8), clustered(N, 6)
    for start in range(0, N, 100):
        part = slice(start, start + 100)
        write(made, [f"r{i}" for i in range(start, start + 100)], {ONE: x[part], TWO: y[part]})
    write(made, ["lone"], {ONE: clustered(N, 8, seed=3)[:1], TWO: y[:1]})
    return made


def holding(folder: Path, needle: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_the_bytes_of_a_dropped_column_are_gone_and_the_rest_stays(table: CollectionTable) -> None:
    ids = [f"r{i}" for i in range(N)]
    needles = [np.asarray(table.vectors_of([id_], ONE))[0].tobytes() for id_ in ("r0", "r7", "r150", "lone")]
    assert all(holding(table.rows.path, needle) for needle in needles)
    kept = np.asarray(table.vectors_of(ids, TWO)).copy()
    before = table.rows.dataset().to_table(columns=["id", "_added", "_payload"], with_row_id=True).sort_by("_rowid")
    seen: list[tuple[int, int]] = []
    freed = drop_columns(table.rows, [vector_column(ONE), filled_column(ONE)], progress=lambda *done: seen.append(done))
    assert freed > N * 8 * 4
    assert seen[-1][0] == seen[-1][1] > 0
    assert [holding(table.rows.path, needle) for needle in needles] == [[]] * 4
    assert (table.fingerprints, holds_dropped(table.rows)) == ([TWO], False)
    assert (np.asarray(table.vectors_of(ids, TWO)) == kept).all()
    after = table.rows.dataset().to_table(columns=["id", "_added", "_payload"], with_row_id=True).sort_by("_rowid")
    assert after.equals(before)
    write(table, ["later"], {TWO: kept[:1]})
    assert table.has_ids(["later", "r0", "lone"]).all()
    assert len(table.rows.known(ids)) == N


def test_a_killed_drop_is_finished_by_the_next_call(table: CollectionTable) -> None:
    needle = np.asarray(table.vectors_of(["r7"], ONE))[0].tobytes()
    table.rows.dataset().drop_columns([vector_column(ONE)])  # where the first call was killed
    assert holds_dropped(table.rows)
    assert holding(table.rows.path, needle) != []
    drop_columns(table.rows, [vector_column(ONE)])
    assert (holds_dropped(table.rows), holding(table.rows.path, needle)) == (False, [])


def test_dropping_what_is_not_there_changes_no_row(table: CollectionTable) -> None:
    before = table.to_arrow(["id"])
    drop_columns(table.rows, ["vec_000000000000"])
    assert table.to_arrow(["id"]).equals(before)
