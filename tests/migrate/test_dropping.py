"""A column that leaves a table: its bytes are gone, everything else stays, and the table is used meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import raystore.data.dropping as dropping
from raystore.data.collection import CollectionTable
from raystore.data.dropping import drop_columns
from raystore.data.fence import Fence, Lease
from raystore.errors import LeaseLost
from raystore.layout import filled_column, vector_column

from .spaces import catalog_in, clustered, write

ONE, TWO = "ab" * 32, "cd" * 32
N = 300
X, Y = clustered(N, 8), clustered(N, 6)


@pytest.fixture
def table(tmp_path: Path) -> CollectionTable:
    made = CollectionTable.create(catalog_in(tmp_path).layout, "tickets", {ONE: 8, TWO: 6})
    for start in range(0, N, 100):
        part = slice(start, start + 100)
        write(made, [f"r{i}" for i in range(start, start + 100)], {ONE: X[part], TWO: Y[part]})
    write(made, ["lone"], {ONE: clustered(N, 8, seed=3)[:1], TWO: Y[:1]})
    return made


def drop(table: CollectionTable, **options: object) -> None:
    asked = {"grace_s": 0.0, **options}
    drop_columns(table.rows, [vector_column(ONE), filled_column(ONE)], **asked)  # type: ignore[arg-type]


def bytes_of(table: CollectionTable, id_: str) -> bytes:
    found: bytes = np.asarray(table.vectors_of([id_], ONE))[0].tobytes()
    return found


def holding(folder: Path, needle: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


class Overtaken(Fence):
    """The real fence, whose first leases another writer takes over before they commit."""

    times = 0

    @contextmanager
    def hold(self, lease_s: float | None = None) -> Iterator[Lease]:
        with super().hold(lease_s) as lease:
            if self.times:
                self.times -= 1
                (self.folder / f"{lease.token + 1}.json").write_text("{}")
                (self.folder / f"{lease.token + 1}.released").touch()
            yield lease


def test_the_bytes_of_a_dropped_column_are_gone_and_the_rest_stays(table: CollectionTable) -> None:
    ids = [f"r{i}" for i in range(N)]
    needles = [bytes_of(table, id_) for id_ in ("r0", "r7", "r150", "lone")]
    assert all(holding(table.rows.path, needle) for needle in needles)
    kept = np.asarray(table.vectors_of(ids, TWO)).copy()
    before = table.rows.dataset().to_table(columns=["id", "_added", "_payload"], with_row_id=True).sort_by("_rowid")
    seen: list[tuple[int, int]] = []
    drop(table, progress=lambda *done: seen.append(done))
    assert seen == [(4, 4)]
    assert [holding(table.rows.path, needle) for needle in needles] == [[]] * 4
    assert table.fingerprints == [TWO]
    assert (np.asarray(table.vectors_of(ids, TWO)) == kept).all()
    after = table.rows.dataset().to_table(columns=["id", "_added", "_payload"], with_row_id=True).sort_by("_rowid")
    assert after.equals(before)
    write(table, ["later"], {TWO: kept[:1]})
    assert table.has_ids(["later", "r0", "lone"]).all()
    assert len(table.rows.known(ids)) == N


def test_a_killed_drop_is_finished_by_the_next_call(table: CollectionTable) -> None:
    needle = bytes_of(table, "r7")
    table.rows.dataset().drop_columns([vector_column(ONE)])  # where the first call was killed
    assert holding(table.rows.path, needle) != []
    drop(table)
    assert holding(table.rows.path, needle) == []


def test_dropping_what_is_not_there_changes_no_row(table: CollectionTable) -> None:
    before = table.to_arrow(["id"])
    drop_columns(table.rows, ["vec_000000000000"], grace_s=0)
    assert table.to_arrow(["id"]).equals(before)


def test_a_table_without_rows_loses_a_column_too(tmp_path: Path) -> None:
    empty = CollectionTable.create(catalog_in(tmp_path).layout, "tickets", {ONE: 8, TWO: 6})
    drop(empty)
    assert (empty.fingerprints, len(empty.to_arrow())) == ([TWO], 0)


@pytest.mark.parametrize(("limit", "turns"), [(99, [1, 2, 3, 4]), (150, [1, 2, 4]), (200, [2, 4]), (1_000, [4])])
def test_a_turn_rewrites_no_more_rows_than_it_may_or_one_fragment(
    table: CollectionTable, monkeypatch: pytest.MonkeyPatch, limit: int, turns: list[int]
) -> None:
    monkeypatch.setattr(dropping, "_ROWS_A_TURN", limit)
    seen: list[tuple[int, int]] = []
    largest: list[int] = []

    def look(*done: int) -> None:
        seen.append(done)  # type: ignore[arg-type]
        largest.append(max(fragment.physical_rows for fragment in table.rows.dataset().get_fragments()))

    drop(table, progress=look)
    assert seen == [(done, 4) for done in turns]
    assert max(largest) <= max(limit, 100)
    assert len(table.to_arrow(["id"])) == N + 1


def test_a_fragment_larger_than_a_turn_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropping, "_ROWS_A_TURN", 32)
    made = CollectionTable.create(catalog_in(tmp_path).layout, "tickets", {ONE: 8, TWO: 6})
    write(made, [f"r{i}" for i in range(N)], {ONE: X, TWO: Y})
    drop(made)
    assert sorted(fragment.physical_rows for fragment in made.rows.dataset().get_fragments()) == [1, N - 1]


def test_a_turn_whose_lease_was_taken_over_is_done_again(table: CollectionTable) -> None:
    needle = bytes_of(table, "r7")
    table.rows.fence = fence = Overtaken(table.rows.fence.folder)
    fence.times = 4
    drop(table)
    assert (fence.times, table.fingerprints, holding(table.rows.path, needle)) == (0, [TWO], [])
    fence.times = 99
    with pytest.raises(LeaseLost):
        drop_columns(table.rows, [vector_column(TWO)], grace_s=0)
    assert fence.times == 99 - 5
    assert table.fingerprints == [TWO]


def test_who_opened_a_version_before_reads_it_for_the_grace_period_and_no_newer_file_is_deleted(
    table: CollectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer may be between its fragment and its commit when files are deleted; what a killed one left long before goes."""
    data, needle = table.rows.path / "data", bytes_of(table, "r7")
    (data / "left-by-a-killed-writer.lance").write_bytes(needle)
    before = table.rows.dataset()
    between: list[int] = []
    read: list[int] = []

    def wait(seconds: float) -> None:
        if seconds == 7:
            read.append(len(before.to_table(columns=[vector_column(ONE)])))
            write(table, ["now"], {TWO: Y[:1]})
            between.append(table.version)
            write(table, ["and now"], {TWO: Y[:1]})
            (data / "a-writer-is-at-it.lance").touch()

    monkeypatch.setattr(time, "sleep", wait)
    drop(table, grace_s=7)
    assert read == [N + 1]
    assert holding(table.rows.path, needle) == []
    assert (data / "a-writer-is-at-it.lance").exists()
    assert len(table.rows.dataset().checkout_version(between[0]).to_table()) == N + 2
    assert table.has_ids(["now", "and now"]).all()
    with pytest.raises(pa.ArrowInvalid, match="Not found"):
        before.checkout_version(before.version).to_table(columns=[vector_column(ONE)])


def test_nobody_is_waited_for_where_nothing_is_to_be_deleted(
    table: CollectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(table)
    monkeypatch.setattr(time, "sleep", pytest.fail)
    drop(table, grace_s=7)


def test_rows_that_are_written_meanwhile_are_all_there(table: CollectionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropping, "_ROWS_A_TURN", 100)
    other = CollectionTable.open(table.layout, "tickets")
    dropped = threading.Event()
    written: list[str] = []
    failed: list[BaseException] = []

    def log() -> None:
        try:
            while not dropped.is_set() or not written:
                id_ = f"live {len(written)}"
                write(other, [id_], {ONE: X[:1], TWO: Y[:1]})
                written.append(id_)
        except BaseException as error:  # noqa: BLE001  the test says it
            failed.append(error)

    thread = threading.Thread(target=log)
    thread.start()
    drop(table)
    dropped.set()
    thread.join(60)
    assert failed == []
    assert table.has_ids([*written, "r0", "lone"]).all()
    assert len(table.to_arrow(["id"])) == N + 1 + len(written)
    assert holding(table.rows.path, X[7].tobytes()) == []
