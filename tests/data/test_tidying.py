"""A table of many small commits: its manifest stays small, and old versions go behind its writers."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from raystore.data import tidying
from raystore.data.collection import CollectionTable
from raystore.data.keyed import KeyedTable
from raystore.layout import vector_column
from tests.data.toy import OtherEncoder, some_rows, some_values
from tests.waiting import soon

LATE = vector_column(OtherEncoder.fingerprint)


@pytest.fixture
def table(tickets: CollectionTable) -> KeyedTable:
    return tickets.rows


def commit_one_by_one(table: KeyedTable, start: int, end: int) -> None:
    for i in range(start, end):
        table.commit([some_rows([f"row-{i}"])], refuse_differing=True)


def manifest_bytes(table: KeyedTable) -> int:
    return table._manifest(table.version).stat().st_size


def files(table: KeyedTable, folder: str) -> set[str]:
    return set(os.listdir(table.path / folder))


def test_a_manifest_holds_nothing_for_each_row_that_was_merged(table: KeyedTable) -> None:
    commit_one_by_one(table, 0, 96)
    found = [f.metadata for f in table.dataset().get_fragments() if f.physical_rows > 1]
    assert found
    assert {(f.created_at_version_meta, f.last_updated_at_version_meta) for f in found} == {(None, None)}
    small = manifest_bytes(table)
    commit_one_by_one(table, 96, 96 + 8 * 32)  # as many fragments that are not merged yet: 5,000 bytes of rows
    assert abs(manifest_bytes(table) - small) < 2_000


def test_row_ids_stay_and_rows_can_be_changed_after_a_merge(tickets: CollectionTable) -> None:
    tickets.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
    table = tickets.rows
    commit_one_by_one(table, 0, 31)
    before = table.dataset().to_table(columns=["id"], with_row_id=True).to_pylist()
    commit_one_by_one(table, 31, 80)
    after = table.dataset().to_table(columns=["id"], with_row_id=True).to_pylist()
    assert after[:31] == before
    table.dataset().delete("id = 'row-3'")
    commit_one_by_one(table, 3, 4)
    filled = table.fill(some_values(["row-1", "row-70"], LATE, value=2), LATE)
    assert (filled.filled, filled.differing, filled.absent) == (2, (), ())
    commit_one_by_one(table, 80, 160)
    rows = table.dataset().to_table(columns=["id", LATE], filter="id IN ('row-1', 'row-2')").to_pylist()
    assert {row["id"]: row[LATE] for row in rows} == {"row-1": [2.0] * 3, "row-2": None}
    assert sorted(table.known([f"row-{i}" for i in range(170)])) == sorted(f"row-{i}" for i in range(160))


def test_old_versions_and_the_files_that_only_they_had_go_while_the_newest_are_kept(
    table: KeyedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_one_by_one(table, 0, 80)
    versions, data = files(table, "_versions"), files(table, "data")
    assert len(versions) > 80, "within the hour all of them stay"
    held = {file.path for f in table.dataset().get_fragments() for file in f.data_files()}
    assert len(data) > len(held)
    uncommitted = table.path / "data" / "written-but-not-committed.lance"
    uncommitted.write_bytes(b"of a writer that is about to commit")
    monkeypatch.setattr(tidying, "VERSIONS_KEPT", timedelta(0))
    monkeypatch.setattr(tidying, "_CLEANED_EVERY", timedelta(0))
    tidying.clean_up_behind(table.path)
    soon(lambda: table.path not in tidying._cleaning)
    assert files(table, "data") == held | {uncommitted.name}
    assert len(files(table, "_versions")) <= 2  # the newest, and Lance's hint to it
    assert sorted(table.known([f"row-{i}" for i in range(80)])) == sorted(f"row-{i}" for i in range(80))
    commit_one_by_one(table, 80, 81)
    assert table.dataset().count_rows() == 81


def test_a_reader_of_a_version_that_is_kept_reads_it_to_its_end(table: KeyedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_one_by_one(table, 0, 40)
    before = table.version
    time.sleep(4)
    commit_one_by_one(table, 40, 41)
    reader = lance.dataset(str(table.path))
    opened = time.monotonic()
    commit_one_by_one(table, 41, 120)
    monkeypatch.setattr(tidying, "VERSIONS_KEPT", timedelta(seconds=time.monotonic() - opened + 3))  # between the two
    monkeypatch.setattr(tidying, "_CLEANED_EVERY", -timedelta(hours=1))
    tidying.clean_up_behind(table.path)
    soon(lambda: table.path not in tidying._cleaning)
    assert not table._manifest(before).exists()
    assert reader.to_table(columns=["id"]).num_rows == 41


def test_the_first_commit_of_a_process_removes_what_an_earlier_one_left(
    table: KeyedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_one_by_one(table, 0, 10)
    monkeypatch.setattr(tidying, "VERSIONS_KEPT", timedelta(0))
    monkeypatch.setattr(tidying, "_CLEANED_EVERY", timedelta(0))
    commit_one_by_one(table, 10, 11)
    assert len(files(table, "_versions")) > 10, "not due: it is no first commit, and nothing is merged"
    commit_one_by_one(KeyedTable(table.path, table.fence.folder, "id"), 11, 12)
    soon(lambda: len(files(table, "_versions")) <= 2)


def test_a_table_is_due_when_its_oldest_version_is_too_old(table: KeyedTable) -> None:
    commit_one_by_one(table, 0, 3)
    assert not tidying._is_due(table.path / "_versions")
    os.utime(max((table.path / "_versions").glob("*.manifest")), (0, 0))
    assert tidying._is_due(table.path / "_versions")


def test_a_table_that_is_dropped_meanwhile_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = tmp_path / "gone.lance"
    tidying._clean_up(gone)
    assert caplog.messages == [f"old versions of '{gone}' were not removed (ValueError); a later commit tries again"]
