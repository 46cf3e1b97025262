"""Vectors that rows got after they were added: there for whoever reads now, absent for whoever reads an earlier version."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.query.engine import SqlEngine
from raystore.data.snapshots.snapshot import freeze, rebuild
from raystore.errors import ColumnNotFound, SqlRefused
from raystore.index.source import read_rows
from raystore.layout import Layout, filled_column, vector_column
from tests.data.toy import OtherEncoder, ToyEncoder, make_log, named, some_rows, some_values

LATE, STAMP = vector_column(OtherEncoder.fingerprint), filled_column(OtherEncoder.fingerprint)
N = 40
BY_LATE_SCORE = """SELECT id, CASE WHEN similarity(other, 'eee') IS NULL THEN 'early' ELSE 'late' END AS label,
                          coalesce(similarity(other, 'eee'), 0.5) AS weight FROM tickets WHERE id LIKE 't-%'
                   UNION ALL VALUES ('one', 'early', 1.0), ('two', 'late', 1.0)"""


@pytest.fixture
def table(tickets: CollectionTable) -> CollectionTable:
    """N logged rows with a vector of the first encoder only."""
    make_log(tickets).log([{"id": f"t-{i:02}", "text": "e" * (i % 5 + 1)} for i in range(N)])
    tickets.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
    return tickets


@pytest.fixture
def engine(layout: Layout) -> SqlEngine:
    return SqlEngine(Catalog(layout), named(toy=ToyEncoder(), other=OtherEncoder()))


def fill(table: CollectionTable, ids: list[str]) -> int:
    """The version that holds vectors of the other encoder for these rows."""
    payloads = {key: known.payload for key, known in table.rows.known(ids).items()}
    values = pa.table(
        {
            "id": ids,
            "_payload": pa.array([payloads[i] for i in ids], pa.binary(32)),
            LATE: vector_array(np.eye(3, dtype=np.float32)[np.zeros(len(ids), int)]),
        }
    )
    return table.fill(values, OtherEncoder.fingerprint).version


def with_vector(table: CollectionTable, as_of: int | None = None) -> list[str]:
    return sorted(i for batch in table.scan(OtherEncoder.fingerprint, as_of=as_of) for i in batch.ids.to_pylist())


def test_each_version_sees_the_vectors_that_were_there(table: CollectionTable) -> None:
    before = table.version
    first = fill(table, ["t-03", "t-01"])
    make_log(table).log([{"id": "later", "text": "e"}])
    second = fill(table, ["t-00", "later"])
    assert (with_vector(table, before), with_vector(table, first)) == ([], ["t-01", "t-03"])
    assert with_vector(table, second) == with_vector(table) == ["later", "t-00", "t-01", "t-03"]
    shown = table.to_arrow(["id", LATE], as_of=first)
    assert [i for i, v in zip(*shown.to_pydict().values(), strict=True) if v is not None] == ["t-01", "t-03"]
    assert shown.schema.field(LATE).type == table.schema.field(LATE).type
    assert table.to_arrow([LATE], as_of=before)[LATE].null_count == N
    indexed = [read_rows(table, OtherEncoder.fingerprint, as_of=version) for version in (before, first, second)]
    assert [len(rows.row_ids) for rows in indexed] == [0, 2, 4]


def test_vectors_that_came_with_their_row_are_there_from_its_version_on(table: CollectionTable) -> None:
    row = some_rows(["both"]).append_column(LATE, vector_array(np.ones((1, 3), np.float32)))
    table.rows.commit([row], refuse_differing=False)
    came = table.version
    fill(table, ["t-00"])
    assert (with_vector(table, came - 1), with_vector(table, came)) == ([], ["both"])


def test_a_fill_of_the_first_encoders_column_is_late_too(table: CollectionTable) -> None:
    column = vector_column(ToyEncoder.fingerprint)
    row = some_rows(["new"]).rename_columns({column: LATE})
    table.rows.commit([row], refuse_differing=False)
    came = table.version
    filled = table.fill(some_values(["new"], column), ToyEncoder.fingerprint)
    assert (filled.filled, table.count_lacking(ToyEncoder.fingerprint)) == (1, 0)
    ids = [i for batch in table.scan(ToyEncoder.fingerprint, as_of=came) for i in batch.ids.to_pylist()]
    assert (len(ids), "new" in ids) == (N, False)


def test_the_numbers_of_the_fills_are_shown_nowhere(table: CollectionTable, engine: SqlEngine) -> None:
    version = fill(table, ["t-00"])
    assert STAMP in table.schema.names
    assert STAMP not in [*table.columns, *table.visible, *table.to_arrow().column_names]
    assert engine.run("SELECT * FROM tickets").columns == table.visible
    for sql in ("SELECT * FROM tickets", f"SELECT * FROM tickets AT (VERSION => {version})"):
        assert sorted(engine.run(sql, vectors=True).columns) == sorted(
            [*table.visible, LATE, vector_column(ToyEncoder.fingerprint)]
        )
    with pytest.raises(ColumnNotFound):
        table.to_arrow([STAMP])
    with pytest.raises(SqlRefused):
        engine.run(f"SELECT {STAMP} FROM tickets")


def test_sql_at_a_version_sees_neither_scores_nor_vectors_that_came_later(
    table: CollectionTable, engine: SqlEngine
) -> None:
    before = table.version
    after = fill(table, [f"t-{i:02}" for i in range(N)])
    for version, n in ((before, 0), (after, N)):
        scored = f"SELECT count(similarity(other, 'eee')) AS n FROM tickets AT (VERSION => {version})"
        held = f"SELECT count({LATE}) AS n FROM tickets AT (VERSION => {version})"
        assert [engine.run(scored).to_dicts(), engine.run(held, vectors=True).to_dicts()] == [[{"n": n}]] * 2


def test_a_snapshot_frozen_before_or_amid_a_fill_is_rebuilt_to_the_same_hash_after_it(
    table: CollectionTable, engine: SqlEngine, layout: Layout
) -> None:
    make_log(table).log([{"id": "one", "text": "e"}, {"id": "two", "text": "ee"}])
    split = {"train": 1.0}
    halves = [[f"t-{i:02}" for i in range(start, N, 2)] for start in (0, 1)]
    snapshots = [freeze(Catalog(layout), engine, "scored", BY_LATE_SCORE, split=split)]
    for half in halves:
        fill(table, half)
        snapshots.append(freeze(Catalog(layout), engine, "scored", BY_LATE_SCORE, split=split))
    assert [snapshot.spec["classes"]["late"] for snapshot in snapshots] == [1, N // 2 + 1, N + 1]
    fresh = SqlEngine(Catalog(layout), named(other=OtherEncoder()))
    for snapshot in snapshots:
        for runner in (engine, fresh):
            assert rebuild(runner, snapshot).hash == snapshot.hash
