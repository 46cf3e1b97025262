"""`KeyedTable.fill`: a column's missing values, written once, beside everything else that a row holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.collection import CollectionTable
from raystore.data.keyed import Filled, KeyedTable
from raystore.layout import vector_column
from tests.data.children import Child
from tests.data.toy import OtherEncoder, make_store, make_tickets, some_rows, some_values

A, B = b"a" * 32, b"b" * 32
LATE = vector_column(OtherEncoder.fingerprint)
HOSTILE = ["a'b", 'a"b', "a\\", "%_", "a\nb", " a", "ä", "\U0001f600", "NULL"]


@pytest.fixture
def table(tickets: CollectionTable) -> KeyedTable:
    assert tickets.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
    return tickets.rows


def held(table: KeyedTable) -> dict[str, tuple]:
    """What a fill must leave: row id, commit number, payload and the other vector of each row."""
    columns = ["id", "_added", "_payload", vector_column("ab12" * 16)]
    rows = table.dataset().to_table(columns=columns, with_row_id=True).to_pylist()
    return {row["id"]: tuple(map(str, row.values())) for row in rows}


def late(table: KeyedTable) -> dict[str, float | None]:
    rows = table.dataset().to_table(columns=["id", LATE]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row[LATE] and row[LATE][0] for row in rows}


def commit(table: KeyedTable, *ids: str, payload: bytes = A) -> None:
    table.commit([some_rows(ids, payload)], refuse_differing=False)


def test_a_fill_writes_the_missing_values_and_leaves_the_rest_of_the_rows(table: KeyedTable) -> None:
    commit(table, "a", "b", "c")
    commit(table, "d")
    before, version = held(table), table.version
    outcome = table.fill(some_values(["d", "b", "nobody"], LATE, A, 2), LATE)
    assert outcome == Filled(version + 1, filled=2, known=0, differing=(), absent=("nobody",))
    assert table.version == version + 1
    assert late(table) == {"a": None, "b": 2, "c": None, "d": 2}
    assert held(table) == before
    assert table.null_in(LATE, ["a", "b", "c", "d", "nobody"]) == {"a", "c"}


def test_a_value_that_is_there_stays_and_another_payload_is_left_alone(table: KeyedTable) -> None:
    commit(table, "a", "b")
    table.fill(some_values(["a"], LATE, A, 2), LATE)
    version = table.version
    assert table.fill(some_values(["a"], LATE, A, 3), LATE) == Filled(version, 0, 1, (), ())
    assert table.fill(some_values(["a", "b"], LATE, B, 3), LATE) == Filled(version, 0, 0, ("a", "b"), ())
    assert table.fill(some_values([], LATE), LATE) == Filled(version, 0, 0, (), ())
    assert (late(table), table.version) == ({"a": 2, "b": None}, version)


def test_hostile_ids_are_filled_like_others(table: KeyedTable) -> None:
    commit(table, *HOSTILE)
    assert table.fill(some_values(HOSTILE[1:], LATE, A), LATE).filled == len(HOSTILE) - 1
    assert table.null_in(LATE, HOSTILE) == {HOSTILE[0]}


def test_fills_in_small_parts_keep_fragments_few_and_keys_found(table: KeyedTable) -> None:
    ids = [f"row-{i}" for i in range(1_600)]
    for start in range(0, len(ids), 40):
        commit(table, *ids[start : start + 40], payload=A)
    before = held(table)
    for start in range(0, len(ids), 20):
        table.fill(some_values(ids[start : start + 20], LATE, A), LATE)
    assert set(late(table).values()) == {1.0}
    assert held(table) == before
    assert len(table.dataset().get_fragments()) < 70
    assert len(table.known(ids[::7])) == len(ids[::7])
    assert table.commit([some_rows(ids[:5], A)], refuse_differing=True)[0].known == 5


def test_racing_fills_write_each_row_once(table: KeyedTable) -> None:
    commit(table, *(f"row-{i}" for i in range(200)), payload=b"p" * 32)
    before = held(table)
    arguments = (table.path, table.fence.folder, LATE, 200, 10)
    with Child("race_fill", *arguments) as one, Child("race_fill", *arguments) as two:
        for child in (one, two):
            assert child.says() == "ready"
        for child in (one, two):
            child.tell()
        said = [[int(n) for n in child.says().split()] for child in (one, two)]
    assert [sum(each) for each in zip(*said, strict=True)] == [200, 200]
    assert set(late(table).values()) == {1.0}
    assert held(table) == before


def test_a_fill_that_outlived_its_lease_commits_nothing_and_is_tried_again(table: KeyedTable) -> None:
    commit(table, "a", "b", payload=b"p" * 32)
    with Child("fill_stalled", table.path, table.fence.folder, 0.3, LATE, "a", "b") as child:
        assert child.says() == "committing"
        child.stop()
        table.fill(some_values(["a"], LATE, value=7.0), LATE)
        child.resume()
        child.tell()
        assert child.says() == "filled 1 known 1"
    assert late(table) == {"a": 7.0, "b": 1.0}


def test_a_fill_that_was_killed_leaves_the_table_as_it_was(table: KeyedTable) -> None:
    commit(table, "a", "b", payload=b"p" * 32)
    before = held(table)
    with Child("fill_stalled", table.path, table.fence.folder, 5, LATE, "a", "b") as child:
        assert child.says() == "committing"
        child.kill()
    assert (late(table), held(table)) == ({"a": None, "b": None}, before)
    assert table.fill(some_values(["a", "b"], LATE), LATE).filled == 2


steps = st.lists(
    st.tuples(st.sampled_from(["commit", "fill"]), st.sets(st.sampled_from("abcdef"), min_size=1), st.sampled_from([A, B])),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(steps=steps)
def test_whatever_the_order_a_row_is_filled_once_and_only_as_what_it_is(steps: list[tuple[str, set[str], bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tickets = make_tickets(make_store(Path(folder) / "store"))
        tickets.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
        table, payloads, values = tickets.rows, {}, {}
        for number, (step, ids, payload) in enumerate(steps):
            if step == "commit":
                commit(table, *sorted(ids), payload=payload)
                payloads |= {id_: payload for id_ in ids if id_ not in payloads}
                continue
            outcome = table.fill(some_values(sorted(ids), LATE, payload, float(number)), LATE)
            mine = {id_ for id_ in ids if payloads.get(id_) == payload}
            assert outcome.filled == len(mine - values.keys())
            assert outcome.known == len(mine & values.keys())
            assert outcome.absent == tuple(sorted(ids - payloads.keys()))
            assert outcome.differing == tuple(sorted((ids & payloads.keys()) - mine))
            values |= {id_: float(number) for id_ in mine - values.keys()}
        assert late(table) == {id_: values.get(id_) for id_ in payloads}
