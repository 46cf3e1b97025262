from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.catalog import Catalog
from raystore.data import tidying
from raystore.data.tables.table import open_table, register_table
from raystore.data.tables.writing import DIGEST_ROWS, Digest, known_types, rechunked
from raystore.errors import InvalidArguments
from tests.waiting import soon

CANARY = "canary-8c1f"


class Counted:
    """A reader that knows how many of its batches are still held by somebody."""

    def __init__(self, n_batches: int, rows_each: int, fail_at: int | None = None) -> None:
        self.schema = pa.schema([("ticket", pa.string()), ("blob", pa.binary())])
        self.most_held = 0
        self._plan = (n_batches, rows_each, fail_at)

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        n_batches, rows_each, fail_at = self._plan
        pool = pa.default_memory_pool()
        base = pool.bytes_allocated()
        for number in range(n_batches):
            if number == fail_at:
                raise ValueError(CANARY)
            tickets = pa.array([f"{number}-{row}" for row in range(rows_each)])
            blobs = pa.array([os.urandom(8)] * rows_each).take(pa.array(np.zeros(rows_each, np.int64)))
            batch = pa.record_batch([tickets, blobs], schema=self.schema)
            size = batch.nbytes
            self.most_held = max(self.most_held, (pool.bytes_allocated() - base) // size)
            yield batch


def test_batches_are_written_one_by_one_and_not_held(catalog: Catalog) -> None:
    source = Counted(200, DIGEST_ROWS)
    table = register_table(catalog, "outcomes", source.reader(), id="ticket")
    assert table.n_rows == 200 * DIGEST_ROWS
    assert source.most_held < 20


def test_a_source_that_fails_leaves_no_row_and_no_file(catalog: Catalog) -> None:
    """Late enough that a first file of a million rows was finished."""
    first = register_table(catalog, "outcomes", [{"ticket": "a", "blob": b"x"}], id="ticket")
    files = sorted(os.listdir(catalog.layout.table("outcomes") / "data"))
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", Counted(20, 65_536, fail_at=18).reader(), id="ticket")
    assert str(refused.value) == "register_table('outcomes'): the rows cannot be read (ValueError)."
    assert sorted(os.listdir(catalog.layout.table("outcomes") / "data")) == files
    assert open_table(catalog, "outcomes") == first


def test_a_column_of_a_version_that_failed_hinders_no_later_one(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", [{"ticket": "a"}], id="ticket")
    bad = [{"ticket": "a", "new": 1, "at": "2026-01-01"}, {"ticket": "b", "new": 2, "at": "no time"}]
    with pytest.raises(InvalidArguments):
        register_table(catalog, "outcomes", bad, id="ticket", time="at")
    found = register_table(catalog, "outcomes", [{"ticket": "a", "new": "text", "at": 7}], id="ticket")
    assert found.to_arrow().to_pylist() == [{"ticket": "a", "new": "text", "at": 7}]


def test_a_column_that_differs_from_an_earlier_one_in_case_is_refused(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", [{"ticket": "a", "Note": "x"}], id="ticket")
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", [{"ticket": "a", "note": "x"}], id="ticket")
    assert str(refused.value) == (
        "register_table('outcomes'): column 'note' was 'Note' in earlier versions, which SQL does not tell apart; "
        "register it under a new name, or cast the columns."
    )


def test_small_fragments_of_many_appends_are_merged_and_every_version_stays(catalog: Catalog) -> None:
    for number in range(40):
        register_table(catalog, "outcomes", [{"ticket": f"t-{number}"}], id="ticket", mode="append")
    assert len(lance.dataset(str(catalog.layout.table("outcomes"))).get_fragments()) < 32
    for version in (1, 17, 40):
        found = open_table(catalog, "outcomes", version).to_arrow().column("ticket").to_pylist()
        assert found == [f"t-{number}" for number in range(version)]


def test_rows_are_appended_while_old_versions_are_removed(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "VERSIONS_KEPT", timedelta(0))
    monkeypatch.setattr(tidying, "_CLEANED_EVERY", timedelta(0))
    for number in range(100):  # three merges, each with a clean-up behind it that meets the appends that follow
        register_table(catalog, "outcomes", [{"ticket": f"t-{number}"}], id="ticket", mode="append")
    path = catalog.layout.table("outcomes")
    soon(lambda: path not in tidying._cleaning)
    assert len(os.listdir(path / "_versions")) < 100
    found = open_table(catalog, "outcomes").to_arrow().column("ticket").to_pylist()
    assert found == [f"t-{number}" for number in range(100)]


def test_known_types_are_those_of_announced_columns_alone(catalog: Catalog, tmp_path: Path) -> None:
    register_table(catalog, "outcomes", [{"ticket": "a", "n": 1}])
    path = catalog.layout.table("outcomes")
    assert known_types(path, ["ticket"]) == {"ticket": pa.string()}
    assert known_types(tmp_path / "none", ["ticket"]) == {}


# --- digests -------------------------------------------------------------------------------------------------------------


def digest(table: pa.Table, rows: int = DIGEST_ROWS) -> str:
    made = Digest(table.schema)
    for batch in rechunked(table.to_batches(), rows):
        made.update(batch)
    return made.hexdigest()


cells = {
    "int": st.none() | st.integers(-9, 9),
    "text": st.none() | st.text(max_size=4),
    "flag": st.none() | st.booleans(),
    "many": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3),
}
kinds = {"int": pa.int64(), "text": pa.string(), "flag": pa.bool_(), "many": pa.list_(pa.string())}


@settings(deadline=None)
@given(st.data())
def test_the_digest_of_a_table_does_not_hang_on_how_it_was_cut(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    table = pa.table(
        {
            name: pa.array(data.draw(st.lists(cells[name], min_size=rows, max_size=rows)), kind)
            for name, kind in kinds.items()
        }
    )
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=3))})
    pieces = pa.concat_tables([table.slice(start, stop - start) for start, stop in itertools.pairwise(cuts)])
    padded = pa.concat_tables([table.slice(0, 1), table]).slice(1)
    assert digest(table) == digest(pieces) == digest(padded)
    few = data.draw(st.integers(1, 5))
    assert digest(table, few) == digest(pieces, few) == digest(padded, few)
    changed = table.set_column(0, "int", pa.array([(v or 0) + 1 for v in table.column("int").to_pylist()], pa.int64()))
    assert digest(changed) != digest(table)
    assert digest(table.rename_columns(["a", "b", "c", "d"])) != digest(table)


def test_what_stands_behind_a_null_is_not_in_the_digest() -> None:
    def column(behind: int) -> pa.Array:
        values = np.array([5, behind, 7], np.int64)
        return pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(b"\x05"), pa.py_buffer(values.tobytes())])

    assert column(1).to_pylist() == [5, None, 7]
    assert digest(pa.table({"n": column(1)})) == digest(pa.table({"n": column(99)}))


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_rows_cut_anew_are_the_same_rows_in_full_batches_and_a_rest(sizes: list[int], rows: int) -> None:
    ends = np.cumsum([0, *sizes]).tolist()
    given_batches = [pa.record_batch({"n": pa.array(range(a, b), pa.int64())}) for a, b in itertools.pairwise(ends)]
    found = list(rechunked(given_batches, rows))
    assert [v for batch in found for v in batch.column(0).to_pylist()] == list(range(ends[-1]))
    assert all(len(batch) == rows for batch in found[:-1])
    assert all(0 < len(batch) <= rows for batch in found[-1:])
