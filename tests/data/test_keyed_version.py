"""The newest version is known without opening the table, whoever committed it."""

from __future__ import annotations

import shutil
import threading
from datetime import timedelta

import lance
import pyarrow as pa
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.keyed import KeyedTable
from raystore.layout import Layout
from tests.data.toy import make_tickets, some_rows


@pytest.fixture
def table(tickets: CollectionTable) -> KeyedTable:
    return tickets.rows


def another(table: KeyedTable) -> KeyedTable:
    return KeyedTable(table.path, table.fence.folder, "id")


def commit(table: KeyedTable, *ids: str) -> int:
    return table.commit([some_rows(ids)], refuse_differing=True)[0].version


def newest(table: KeyedTable) -> int:
    return int(lance.dataset(str(table.path)).version)


def test_every_commit_of_another_is_seen_however_close_they_follow(table: KeyedTable) -> None:
    theirs = another(table)
    for number in range(120):  # many within one step of the file system's clock, and merges of fragments among them
        commit(theirs, f"row-{number}")
        assert table.version == newest(table)
        assert table.dataset().count_rows() == number + 1


def test_a_delete_is_seen_and_so_is_a_new_column(table: KeyedTable) -> None:
    commit(table, "a", "b")
    before = table.version
    another(table).dataset().delete("id = 'a'")
    assert (table.version, table.dataset().count_rows()) == (before + 1, 1)
    another(table).add_columns([pa.field("n", pa.int64())])
    assert "n" in table.dataset().schema.names


def test_a_table_that_was_dropped_and_made_again_is_another(layout: Layout, table: KeyedTable) -> None:
    commit(table, "a", "b")
    commit(table, "c")
    assert (table.version, table.dataset().count_rows()) == (newest(table), 3)
    shutil.rmtree(layout.collection("tickets"))
    made = make_tickets(layout)
    while newest(made.rows) < table._kept.version:  # as many versions as the old one had
        commit(made.rows, f"new-{made.version}")
    assert table.version == newest(table)
    assert table.dataset().count_rows() == made.rows.dataset().count_rows() != 3
    shutil.rmtree(layout.collection("tickets"))
    with pytest.raises(ValueError, match="not found"):
        _ = table.version


def test_versions_that_were_cleaned_up_meanwhile_hide_nothing(table: KeyedTable) -> None:
    commit(table, "a")
    assert table.dataset().count_rows() == 1
    theirs = another(table)
    commit(theirs, "b")
    commit(theirs, "c")
    theirs.dataset().cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    assert (table.version, table.dataset().count_rows()) == (newest(table), 3)


def test_asking_again_opens_nothing(table: KeyedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = lance.dataset

    def counted(path: str, **options: object) -> object:
        opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(lance, "dataset", counted)
    versions = {table.version for _ in range(5)} | {int(table.dataset().version) for _ in range(5)}
    assert (len(versions), len(opened)) == (1, 1)
    commit(another(table), "a")
    opened.clear()
    assert [table.version, table.version] == [max(versions) + 1] * 2
    assert len(opened) == 1


def test_what_a_caller_does_to_its_dataset_is_its_own(table: KeyedTable) -> None:
    commit(table, "a", "b")
    mine, theirs = table.dataset(), table.dataset()
    theirs.delete("id = 'a'")
    assert (mine.count_rows(), theirs.count_rows(), table.dataset().count_rows()) == (2, 1, 1)


def test_threads_that_ask_while_rows_are_committed_never_go_back(table: KeyedTable) -> None:
    commit(table, "first")
    done = threading.Event()
    wrong: list[tuple[int, int]] = []

    def ask() -> None:
        before = (0, 0)
        while not done.is_set():
            dataset = table.dataset()
            now = (int(dataset.version), int(dataset.count_rows()))
            if now[1] < before[1]:
                wrong.append(now)
            before = now

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(15):
        version = commit(another(table), f"row-{number}")
        assert table.version >= version
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
