"""Rows that are durable before they are in the table: nothing that was acknowledged is lost, and no key lands twice."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore import layout as disk
from raystore.data import journal, journaled, keyed
from raystore.data.collection import CollectionTable, discard_empty
from raystore.data.journal import Appended
from raystore.data.journaled import JournaledTable
from raystore.data.kept_source import KeptSource
from raystore.data.keyed import Known
from raystore.errors import IdConflict, LeaseLost, WriterBlocked
from raystore.layout import Layout
from tests.data.children import Child
from tests.data.test_fence import SHORT_S
from tests.data.test_keyed import private_mounts
from tests.data.toy import ToyEncoder, make_log, make_store, make_tickets, some_rows, some_values

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def table(tickets: CollectionTable) -> JournaledTable:
    return tickets.rows


def other(table: JournaledTable) -> JournaledTable:
    """The same table as another process has it."""
    return JournaledTable(table.path, table.fence.folder, "id", folder_of(table))


def folder_of(table: JournaledTable) -> Path:
    return table._journal.folder


def append(table: JournaledTable, *ids: str, payload: bytes = A) -> Appended:
    return table.append([some_rows(ids, payload)])[0]


def ids_of(table: JournaledTable) -> list[str]:
    found: list[str] = table.dataset().to_table(columns=["id"]).column("id").to_pylist()
    return found


def test_appended_rows_are_in_the_table_when_they_were_taken_in(table: JournaledTable) -> None:
    before = table.version
    assert append(table, "a", "b") == Appended(2, 0, ())
    assert append(table, "b", "c") == Appended(1, 1, ())
    assert (ids_of(table), table.version) == ([], before)
    assert table.take_in() == 3
    assert (ids_of(table), table.version) == (["a", "b", "c"], before + 1)
    assert table.take_in() == 0
    assert table.known(["a", "c"]) == {"a": Known(A, before + 1), "c": Known(A, before + 1)}
    assert append(table, "c", "d") == Appended(1, 1, ())


def test_what_waits_is_taken_in_by_whoever_commits_and_its_keys_are_known_there(table: JournaledTable) -> None:
    append(table, "a", "b")
    same, another = other(table).commit([some_rows(["a", "x"], A), some_rows(["b", "y"], B)], refuse_differing=True)
    assert (same.added, same.known) == (1, 1)
    assert list(another.differing) == ["b"]
    assert ids_of(table) == ["a", "b", "x"]
    assert table.take_in() == 0


def test_another_payload_refuses_its_whole_group_and_no_other_wherever_the_first_is(table: JournaledTable) -> None:
    append(table, "waits")
    table.commit([some_rows(["held"])], refuse_differing=True)
    append(table, "waits too")
    groups = [some_rows([*ids, f"new {i}"], B) for i, ids in enumerate((["waits"], ["held"], ["waits too"], []))]
    assert table.append(groups) == [
        Appended(0, 0, ("waits",)),
        Appended(0, 0, ("held",)),
        Appended(0, 0, ("waits too",)),
        Appended(1, 0, ()),
    ]
    assert table.append([some_rows(["g"]), some_rows(["g", "h"]), some_rows(["g"], B), some_rows([])]) == [
        Appended(1, 0, ()),
        Appended(1, 1, ()),
        Appended(0, 0, ("g",)),
        Appended(0, 0, ()),
    ]
    table.take_in()
    assert ids_of(table) == ["waits", "held", "waits too", "new 3", "g", "h"]


keys = st.lists(st.sampled_from("abcdefgh"), max_size=4, unique=True)
steps = st.tuples(
    st.sampled_from(["append", "commit", "take in"]), st.integers(0, 1), st.lists(keys, max_size=2), st.booleans()
)


@settings(max_examples=25, deadline=None)
@given(done=st.lists(steps, max_size=8))
def test_every_key_lands_once_with_its_first_payload_however_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int, list[list[str]], bool]]
) -> None:
    layout = make_store(tmp_path_factory.mktemp("journal") / "store")
    first = make_tickets(layout).rows
    tables = [first, other(first)]
    held: dict[str, bytes] = {}
    for step, who, groups, is_a in done:
        payload = A if is_a else B
        rows = [some_rows(group, payload) for group in groups]
        outcomes: list[Any] = []
        if step == "take in":
            tables[who].take_in()
        else:
            outcomes = tables[who].append(rows) if step == "append" else tables[who].commit(rows, refuse_differing=True)
        for outcome, group in zip(outcomes, groups, strict=False):
            differing = [key for key in group if held.get(key, payload) != payload]
            assert sorted(outcome.differing) == sorted(differing)
            assert outcome.known == sum(held.get(key) == payload for key in group)
            assert outcome.added == (0 if differing else sum(key not in held for key in group))
            if not differing:
                held.update(dict.fromkeys(group, payload))
    for each in tables:
        each.take_in()
        assert {key: found.payload for key, found in each.known(list("abcdefgh")).items()} == held
        assert sorted(ids_of(each)) == sorted(held)
    shutil.rmtree(layout.root)


def test_rows_that_were_committed_just_before_a_kill_are_not_taken_in_twice(table: JournaledTable, tmp_path: Path) -> None:
    append(table, "a", "b")
    shutil.copytree(folder_of(table), tmp_path / "kept")
    table.take_in()
    shutil.rmtree(folder_of(table))
    shutil.copytree(tmp_path / "kept", folder_of(table))  # killed before it removed them
    late = other(table)
    assert append(late, "b", "c") == Appended(1, 1, ())
    assert late.take_in() == 3
    assert ids_of(table) == ["a", "b", "c"]


def test_a_record_that_a_power_cut_tore_is_kept_aside_and_all_before_it_are_taken_in(
    table: JournaledTable, caplog: pytest.LogCaptureFixture
) -> None:
    append(table, "a")
    append(table, "b")
    [segment] = folder_of(table).glob("*.rows")
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[: len(whole) // 2 - 7])
    late = other(table)
    assert append(late, "b", "c") == Appended(1, 1, ())
    with caplog.at_level(logging.WARNING, "raystore"):
        assert late.take_in() == 3
    assert ids_of(table) == ["a", "b", "c"]
    [aside] = folder_of(table).iterdir()
    assert aside.suffix == ".damaged"
    torn = len(whole) // 2 - 7
    assert caplog.messages == [f"the last {torn} bytes of '{aside}' are no whole rows; a crash cut them, or the disk"]
    assert late.take_in() == 0


def test_a_commit_that_an_append_overtook_looks_again(table: JournaledTable) -> None:
    class Overtaken(JournaledTable):
        """Just before its first commit, somebody appends a row under one of its keys."""

        def _append(self, *arguments: Any) -> None:
            if overtaking:
                append(table, overtaking.pop(), payload=B)
            super()._append(*arguments)

    slow = Overtaken(table.path, table.fence.folder, "id", folder_of(table))
    overtaking = ["a"]
    refused, written = slow.commit([some_rows(["a"], A), some_rows(["x"], A)], refuse_differing=True)
    assert list(refused.differing) == ["a"]
    assert written.added == 1
    overtaking = ["y"]  # under another key it overtakes nobody
    assert slow.commit([some_rows(["z"], A)], refuse_differing=True)[0].added == 1
    table.take_in()
    assert {key: found.payload for key, found in table.known(["a", "x", "y", "z"]).items()} == {
        "a": B, "x": A, "y": B, "z": A,
    }  # fmt: skip


def test_what_nobody_takes_in_is_taken_in_by_who_appends_too_much(
    table: JournaledTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journaled, "MOST_BYTES", 3_000)
    for i in range(8):
        append(table, f"r-{i}")
    assert 1 <= len(ids_of(table)) < 8
    table.take_in()
    assert sorted(ids_of(table)) == [f"r-{i}" for i in range(8)]


def test_a_column_that_was_dropped_meanwhile_is_left_out_of_what_is_taken_in(tickets: CollectionTable) -> None:
    make_log(tickets).append([{"id": "a", "text": "hello", "product": "card", "n": 7}])
    tickets.rows.dataset().drop_columns(["product"])
    tickets.rows.take_in()
    [row] = tickets.rows.dataset().to_table(columns=["id", "n"]).to_pylist()
    assert row == {"id": "a", "n": 7}


def test_a_value_is_filled_into_rows_that_wait_too(table: JournaledTable) -> None:
    append(table, "a")
    table.add_columns([pa.field("late", pa.list_(pa.float32(), 3))])
    filled = table.fill(some_values(["a"], "late", A), "late")
    assert (filled.filled, filled.absent) == (1, ())
    assert ids_of(table) == ["a"]


def test_each_row_lands_once_when_processes_append_commit_and_take_in_and_one_is_killed(table: JournaledTable) -> None:
    places = table.path, table.fence.folder, folder_of(table)
    roles = ("append", 0, 60), ("append", 30, 90), ("commit", 20, 80), ("append", 500, 10**6)
    with ExitStack() as ends:
        children = [ends.enter_context(Child("race_append", *places, *role)) for role in roles]
        for child in children:
            assert child.says() == "ready"
        for child in children:
            child.tell()
        *others, victim = children
        acknowledged = [victim.says() for _ in range(12)]
        victim.kill()
        while any(child.process.poll() is None for child in others):
            table.take_in()
            time.sleep(0.02)
        assert [child.ends() for child in others] == [0] * 3
        acknowledged += [word for child in children for word in child.says_at_last()]
    table.take_in()
    found = ids_of(table)
    assert len(found) == len(set(found))
    assert set(found) >= {*acknowledged, *(f"row-{i}" for i in range(90))}
    assert len(acknowledged) >= 12 + 3 * 60


def test_who_lost_its_lease_seals_nothing(table: JournaledTable) -> None:
    """Or a row that was just appended would look, to the commit that overtook it, as if it were taken in."""
    with table.fence.hold() as lost:
        pass
    other(table).commit([some_rows(["a"])], refuse_differing=True)
    append(table, "b")
    with pytest.raises(LeaseLost):
        table._take_in_held(lost)
    [segment] = folder_of(table).iterdir()
    assert segment.suffix == ".rows"
    assert table.take_in() == 1


def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the journal or the table syncs from now on."""
    paths: list[Path] = []

    def sync(path: Path) -> None:
        paths.append(path)
        disk.sync(path)

    for module in (journal, keyed):
        monkeypatch.setattr(module, "sync", sync)
    return paths


def test_a_row_that_a_killed_process_wrote_is_synced_before_it_is_called_known(
    table: JournaledTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(table, "a")
    late = other(table)
    paths = synced(monkeypatch)
    for _ in range(2):
        assert append(late, "a") == Appended(0, 1, ())
    assert paths == list(folder_of(table).glob("*.rows")), "once"
    table.take_in()
    paths.clear()
    assert append(late, "a") == Appended(0, 1, ())
    assert {path.suffix for path in paths} == {".manifest", ""}
    paths.clear()
    assert other(table).commit([some_rows(["a"], A)], refuse_differing=True)[0].known == 1
    assert {path.suffix for path in paths} == {".manifest", ""}


def test_rows_whose_commit_was_killed_before_it_was_synced_leave_the_journal_after_that(
    table: JournaledTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(table, "a")

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "the disk")

    with monkeypatch.context() as broken:
        broken.setattr(table, "_sync_manifest", fails)
        with pytest.raises(OSError, match="the disk"):
            table.take_in()
    assert ids_of(table) == ["a"]
    paths = synced(monkeypatch)
    assert other(table).take_in() == 1
    assert ".manifest" in {path.suffix for path in paths}
    assert (ids_of(table), table.waiting_bytes) == (["a"], 0)


def test_a_fork_while_rows_are_appended_holds_nobody_up(table: JournaledTable) -> None:
    with Child("fork_between_commits", table.fence.folder) as child:
        assert child.says() == "left"
        table.fence.wait_s = 20
        assert append(table, "a").added == 1


def test_types_are_the_tables_before_rows_wait(table: JournaledTable) -> None:
    rows = some_rows(["a"]).append_column("n", pa.array([7], pa.int32()))
    assert table.append([rows])[0].added == 1
    with pytest.raises(pa.ArrowInvalid):
        table.append([some_rows(["b"]).append_column("n", pa.array(["seven"]))])
    assert table.take_in() == 1
    assert table.dataset().to_table(columns=["id", "n"]).to_pylist() == [{"id": "a", "n": 7}]


def test_a_collection_whose_only_rows_wait_is_not_empty(tickets: CollectionTable) -> None:
    append(tickets.rows, "a")
    discard_empty(tickets.layout, "tickets")
    assert CollectionTable.open(tickets.layout, "tickets").count() == 1


def test_content_of_a_refused_row_is_not_kept_and_a_repeated_one_is_not_encoded_again(layout: Layout) -> None:
    kept = CollectionTable.create(layout, "kept", {ToyEncoder.fingerprint: ToyEncoder.dim}, keep_source=True)
    encoder = ToyEncoder()
    rows = make_log(kept, encoder)
    assert [rows.append([{"id": "a", "text": "hello"}]) for _ in range(2)] == [1, 0]
    with pytest.raises(IdConflict):
        rows.append([{"id": "a", "text": "another"}])
    assert encoder.encoded == ["hello"]
    kept.rows.take_in()
    assert KeptSource(kept).table.dataset().count_rows() == 1


def test_who_is_stopped_as_it_appends_is_killed_and_its_rows_wait_on(
    table: JournaledTable, caplog: pytest.LogCaptureFixture
) -> None:
    append(table, "theirs")
    with Child("hold_between_commits", table.fence.folder) as child:
        assert child.says() == "inside"
        child.stop()
        table.fence.lease_s = SHORT_S
        with caplog.at_level(logging.WARNING, "raystore"):
            append(table, "ours")
        assert child.ends() == -9
    table.take_in()
    assert ids_of(table) == ["theirs", "ours"]
    killed = f"killing process {child.pid}: it was stopped inside a commit to {table.fence.folder.parent}"
    assert killed in caplog.messages


def test_who_holds_the_lock_too_long_is_named_and_nothing_is_kept(table: JournaledTable) -> None:
    with Child("hold_between_commits", table.fence.folder) as child:
        assert child.says() == "inside"
        table.fence.wait_s = 0.2
        with pytest.raises(WriterBlocked) as caught:
            append(table, "ours")
        child.tell()
        assert child.ends() == 0
    assert f"held by process {child.pid} on" in str(caught.value)
    assert table.take_in() == 0


def test_a_full_disk_refuses_the_rows_and_keeps_those_that_were_acknowledged(tmp_path: Path) -> None:
    target = tmp_path / "small"
    target.mkdir()
    with Child("fill_journal", target, 4_000_000, wrapper=private_mounts()) as child:
        try:
            assert child.says() == "mounted"
        except AssertionError as refused:
            pytest.skip(f"this system lets nobody mount a small disk: {refused}")
        assert child.says().startswith(f"no space left on the disk of '{target}/store/collections/tickets/journal'")
        assert int(child.says()) <= 2, "files of a journal that is full"
        acknowledged, there = map(int, child.says().split())
        assert child.ends() == 0
    assert acknowledged == there > 100
