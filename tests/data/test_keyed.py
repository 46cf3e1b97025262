from __future__ import annotations

import os
import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.collection import CollectionTable
from raystore.data.fence import Fence
from raystore.data.keyed import Committed, KeyedTable, Known, quoted
from raystore.layout import Layout
from tests.data.children import Child
from tests.data.toy import VECTORS, make_tickets, some_rows

A, B = b"a" * 32, b"b" * 32
HOSTILE = [
    "a'b",
    'a"b',
    "a\\",
    "a\\'b",
    "%_",
    "--",
    "a\nb",
    "a\0b",
    "a\0c",
    " a",
    "a ",
    "ä",
    "a\u0308",
    "\U0001f600",
    "NULL",
]


@pytest.fixture
def table(tickets: CollectionTable) -> KeyedTable:
    return tickets.rows


def ids_of(table: KeyedTable) -> list[str]:
    return table.dataset().to_table(columns=["id"]).column("id").to_pylist()


def commit(table: KeyedTable, *ids: str, payload: bytes = A) -> Committed:
    return table.commit([some_rows(ids, payload)], refuse_differing=True)[0]


def test_a_commit_says_its_version_and_what_it_added(table: KeyedTable) -> None:
    first, again = commit(table, "a", "b"), commit(table, "b", "c")
    assert (first.added, first.known, first.differing) == (2, 0, {})
    assert (again.added, again.known, again.differing) == (1, 1, {})
    assert first.version < again.version == table.version
    assert ids_of(table) == ["a", "b", "c"]


def test_rows_that_are_known_make_no_version(table: KeyedTable) -> None:
    commit(table, "a", "b")
    before = table.version
    assert commit(table, "b", "a") == Committed(before, 0, 2, {})
    assert table.version == before


def test_each_row_says_the_commit_that_added_it(table: KeyedTable) -> None:
    versions = [commit(table, id_).version for id_ in "abc"]
    assert versions == sorted(set(versions))
    assert table.known(["a", "b", "c"]) == {id_: Known(A, v) for id_, v in zip("abc", versions, strict=True)}
    assert table.dataset().to_table(columns=["_added"]).column("_added").to_pylist() == versions


def test_another_payload_refuses_its_whole_group_and_no_other(table: KeyedTable) -> None:
    old = commit(table, "a")
    groups = [some_rows(["a", "b"], B), some_rows(["c"], B)]
    refused, written = table.commit(groups, refuse_differing=True)
    assert refused == Committed(old.version, 0, 0, {"a": Known(A, old.version)})
    assert written == Committed(old.version + 1, 1, 0, {})
    assert ids_of(table) == ["a", "c"]


def test_another_payload_can_leave_out_its_row_alone(table: KeyedTable) -> None:
    commit(table, "a", "k")
    rows = pa.concat_tables([some_rows(["a"], B), some_rows(["k"], A), some_rows(["new"], B)])
    (outcome,) = table.commit([rows], refuse_differing=False)
    assert (outcome.added, outcome.known, list(outcome.differing)) == (1, 1, ["a"])
    assert table.known(["a"])["a"].payload == A


def test_groups_share_one_commit_and_a_key_counts_for_the_first(table: KeyedTable) -> None:
    before = table.version
    groups = [some_rows(["a", "b"]), some_rows(["b", "c"]), some_rows(["c"], B), some_rows([]), some_rows(["c"])]
    outcomes = table.commit(groups, refuse_differing=True)
    assert [o.added for o in outcomes] == [2, 1, 0, 0, 0]
    assert [o.known for o in outcomes] == [0, 1, 0, 0, 1]
    assert [list(o.differing) for o in outcomes] == [[], [], ["c"], [], []]
    assert [o.version - before for o in outcomes] == [1, 1, 0, 0, 1]  # the version that holds the group's rows
    assert table.version == before + 1
    assert ids_of(table) == ["a", "b", "c"]


def test_a_table_is_made_once(layout: Layout, table: KeyedTable) -> None:
    with pytest.raises(FileExistsError):
        KeyedTable.create(table.path, layout.tmp, table.dataset().schema, "id")
    assert os.listdir(layout.tmp) == []


@pytest.mark.parametrize("id_", HOSTILE)
def test_hostile_ids_are_themselves(table: KeyedTable, id_: str) -> None:
    commit(table, *HOSTILE)
    assert list(table.known([id_])) == [id_]
    assert table.dataset().count_rows(f"id = {quoted(id_)}") == 1
    assert commit(table, id_).known == 1


keys = st.lists(st.text(max_size=4).filter(lambda s: s.isprintable() or s == ""), max_size=6, unique=True)


@settings(max_examples=15, deadline=None)
@given(commits=st.lists(st.lists(keys, min_size=1, max_size=3), max_size=4))
def test_every_key_lands_once_whatever_the_groups(tmp_path_factory: pytest.TempPathFactory, commits: list) -> None:
    layout = Layout(tmp_path_factory.mktemp("store"))
    table = make_tickets(layout).rows
    added = 0
    for groups in commits:
        outcomes = table.commit([some_rows(group) for group in groups], refuse_differing=True)
        added += sum(o.added for o in outcomes)
        assert [o.added + o.known for o in outcomes] == [len(group) for group in groups]
    wanted = {key for groups in commits for group in groups for key in group}
    assert sorted(ids_of(table)) == sorted(wanted)
    assert added == len(wanted)
    shutil.rmtree(layout.root)


def test_a_row_lands_once_when_four_processes_race(table: KeyedTable) -> None:
    starts = (0, 10, 20, 30)  # each overlaps the next ones
    children = [Child("race", table.path, table.fence.folder, "p", s, s + 60, 5) for s in starts]
    for child in children:
        assert child.says() == "ready"
    for child in children:
        child.tell()
    said = [list(map(int, child.says().split())) for child in children]
    assert [child.ends() for child in children] == [0] * 4
    assert sorted(ids_of(table)) == sorted(f"row-{i}" for i in range(90))
    assert sum(added for added, _, _ in said) == 90
    assert [sum(counts) for counts in said] == [60] * 4
    assert [differing for _, _, differing in said] == [0] * 4


def test_racing_processes_with_other_payloads_are_told_which_rows_differ(table: KeyedTable) -> None:
    children = [Child("race", table.path, table.fence.folder, payload, 0, 40, 4) for payload in "abc"]
    for child in children:
        child.says()
    for child in children:
        child.tell()
    said = [list(map(int, child.says().split())) for child in children]
    assert [child.ends() for child in children] == [0] * 3
    assert sorted(ids_of(table)) == sorted(f"row-{i}" for i in range(40))
    assert sum(added for added, _, _ in said) == 40
    assert [(added + differing, known) for added, known, differing in said] == [(40, 0)] * 3
    payloads = table.dataset().to_table(columns=["_payload"]).column("_payload").to_pylist()
    assert sorted(payloads) == sorted(
        p.encode() * 32 for p, (added, _, _) in zip("abc", said, strict=True) for _ in range(added)
    )


def test_many_small_commits_leave_few_fragments_and_every_row(table: KeyedTable) -> None:
    for i in range(200):
        assert commit(table, f"row-{i}").added == 1
    dataset = table.dataset()
    assert len(dataset.get_fragments()) < 40
    assert sorted(ids_of(table)) == sorted(f"row-{i}" for i in range(200))
    assert sorted(table.known([f"row-{i}" for i in range(0, 300, 7)])) == sorted(f"row-{i}" for i in range(0, 200, 7))
    assert commit(table, *(f"row-{i}" for i in range(205))).added == 5
    assert len(set(dataset.to_table(columns=["_added"]).column("_added").to_pylist())) == 200


def test_merged_rows_are_in_the_index_of_the_key(table: KeyedTable) -> None:
    for i in range(70):
        commit(table, f"row-{i}")
    dataset = table.dataset()
    assert dataset.stats.index_stats("id_idx")["num_indexed_rows"] >= 40
    assert "ScalarIndexQuery" in dataset.scanner(columns=["id"], filter="id IN ('row-1', 'row-69')").explain_plan()


def test_small_fragments_between_large_ones_are_merged_by_a_higher_tier(table: KeyedTable) -> None:
    for i in range(20):  # an embedding job and a service that logs take turns
        commit(table, *(f"job-{i}-{j}" for j in range(1_024)))
        commit(table, f"log-{i}")
    for i in range(20, 40):
        commit(table, *(f"job-{i}-{j}" for j in range(1_024)))
        commit(table, f"log-{i}")
    assert len(table.dataset().get_fragments()) < 70  # of 80 commits; those of another tier wait for their own 32
    assert table.dataset().count_rows() == 40 * 1_025


def test_a_writer_that_lost_its_lease_merges_nothing(table: KeyedTable, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(31):
        commit(table, f"row-{i}")
    late = Fence(table.fence.folder, lease_s=0.0)
    same = Fence(table.fence.folder / ".." / "fence")  # as another process would: past the queue of this one's threads
    with late.hold() as lease:
        table._commit_held([some_rows(["row-31"])], lease, True)
        with same.hold():
            before = table.version
            table._maintain(lease)
            assert table.version == before
    assert caplog.messages == [f"fragments of '{table.path}' were not merged (LeaseLost); a later commit tries again"]
    assert commit(table, "row-32").added == 1
    assert commit(KeyedTable(table.path, table.fence.folder, "id"), "row-33").added == 1  # a first commit looks what is due
    assert len(table.dataset().get_fragments()) == 1


def test_columns_are_added_while_writers_hold_the_old_schema(table: KeyedTable) -> None:
    old = KeyedTable(table.path, table.fence.folder, "id")
    rows = some_rows(["old"])
    commit(table, "before")
    table.add_columns([pa.field("colour", pa.string()), pa.field("n", pa.int64())])
    table.add_columns([pa.field("colour", pa.string())])
    assert old.commit([rows], refuse_differing=True)[0].added == 1
    new = some_rows(["new"]).append_column("colour", pa.array(["blue"]))
    assert old.commit([some_rows(["old2"]), new], refuse_differing=True)[1].added == 1
    found = table.dataset().to_table(columns=["id", "colour"]).to_pylist()
    assert found == [
        {"id": "before", "colour": None},
        {"id": "old", "colour": None},
        {"id": "old2", "colour": None},
        {"id": "new", "colour": "blue"},
    ]
    assert [f.name for f in table.dataset().schema].count("colour") == 1


def test_the_vectors_of_a_commit_are_the_vectors_read_back(table: KeyedTable) -> None:
    commit(table, "a")
    assert table.dataset().to_table(columns=[VECTORS]).column(VECTORS).to_pylist() == [[1.0, 1.0, 1.0]]


def private_mounts() -> tuple[str, ...]:
    """The command that gives a process its own mounts: as root, or as any user where the kernel lets users."""
    return ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")


def test_a_full_disk_keeps_what_was_acknowledged_and_a_failed_merge_fails_no_commit(tmp_path: Path) -> None:
    folder = tmp_path / "small disk"
    folder.mkdir()
    with Child("fill_disk", folder, 8_000_000, wrapper=private_mounts()) as child:
        try:
            assert child.says() == "mounted"
        except AssertionError as refused:
            pytest.skip(
                f"this system lets nobody mount a small disk: {refused}"
            )  # test_layout has a full disk that needs none
        merges, said, counts = child.says(), child.says(), child.says()
    path = folder / "store" / "collections" / "tickets" / "rows.lance"
    assert merges == f"fragments of '{path}' were not merged (OSError); a later commit tries again"
    assert said == (
        f"no space left on the disk of '{path}' while writing rows. What was acknowledged before is safe, "
        "the rest was not written. Free space and repeat the call; it goes on where it stopped."
    )
    acknowledged, found, fragments, again = map(int, counts.split())
    assert acknowledged == found
    assert fragments > 32  # so a merge was due, and the commits behind it were acknowledged all the same
    assert again == 40  # with space, the same call goes on where it stopped


def test_a_reader_of_an_old_version_reads_it_to_its_end(table: KeyedTable) -> None:
    commit(table, "a", "b")
    old: lance.LanceDataset = table.dataset()
    for i in range(70):
        commit(table, f"row-{i}")
    assert old.to_table(columns=["id"]).column("id").to_pylist() == ["a", "b"]
