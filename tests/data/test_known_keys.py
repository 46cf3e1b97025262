from __future__ import annotations

import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data import known_keys
from raystore.data.collection import CollectionTable
from raystore.data.known_keys import KnownKeys
from tests.data.toy import make_store, make_tickets, some_rows

groups = st.lists(st.lists(st.text(max_size=5).filter(lambda s: "\0" not in s), max_size=5, unique=True), max_size=5)


def commit(table: CollectionTable, *ids: str) -> lance.LanceDataset:
    table.rows.commit([some_rows(ids)], refuse_differing=True)
    return table.rows.dataset()


@settings(max_examples=20, deadline=None)
@given(commits=groups, asked=st.lists(st.text(max_size=5), max_size=8), looks=st.integers(1, 3))
def test_no_key_of_the_table_is_ever_said_to_be_absent(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[str]], asked: list[str], looks: int
) -> None:
    layout = make_store(tmp_path_factory.mktemp("known") / "store")
    table, known, held = make_tickets(layout), KnownKeys("id"), set[str]()
    for number, ids in enumerate(commits):
        dataset = commit(table, *ids)
        held |= set(ids)
        if number % looks == 0:
            assert set(known.may_hold([*asked, *ids], dataset)) >= held & {*asked, *ids}
    assert set(known.may_hold([*asked, *held], table.rows.dataset())) >= held
    assert known.may_hold(["a key that is in none of them"], table.rows.dataset()) == []
    shutil.rmtree(layout.root)


def test_merged_fragments_and_thousands_of_keys_are_known_alike(
    tickets: CollectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_keys, "_RECENT", 100)
    known, followed = KnownKeys("id"), KnownKeys("id")
    for i in range(40):  # the 32nd is merged with those before it
        dataset = commit(tickets, *(f"{i}-{j}" for j in range(20)))
        assert known.may_hold([f"{i}-0", f"{i}-20"], dataset) == [f"{i}-0"]
        if i % 7 == 0:
            followed.follow(dataset)
    every = [f"{i}-{j}" for i in range(40) for j in range(40)]
    there = [f"{i}-{j}" for i in range(40) for j in range(20)]
    assert known.may_hold(every, tickets.rows.dataset()) == there
    assert followed.may_hold(every, tickets.rows.dataset()) == there
    assert len(known._sorted) == 800 - len(known._recent)


def test_a_table_made_anew_is_looked_at_anew(tmp_path: Path) -> None:
    schema, path = pa.schema([("id", pa.string())]), str(tmp_path / "t.lance")
    known = KnownKeys("id")
    for key in ("old", "new"):
        shutil.rmtree(path, ignore_errors=True)
        lance.write_dataset(pa.table({"id": [key]}, schema=schema), path)
        lance.write_dataset(pa.table({"id": [f"{key} 2"]}, schema=schema), path, mode="append")
        dataset = lance.dataset(path)
        assert int(dataset.version) == 2, "of the same number"
        assert known.may_hold([key, f"{key} 2", "none"], dataset) == [key, f"{key} 2"]


def test_of_a_table_with_more_keys_than_are_kept_every_key_may_be_there(tickets: CollectionTable) -> None:
    known = KnownKeys("id", most=2)
    assert known.may_hold(["x", "a"], commit(tickets, "a", "b")) == ["a"]
    assert known.may_hold(["x", "a"], commit(tickets, "c")) == ["a"]
    assert known.may_hold(["x", "a"], commit(tickets, "d")) == ["x", "a"]
    few = KnownKeys("id", most=2)
    few.follow(tickets.rows.dataset())
    assert few.may_hold(["x", "a"], tickets.rows.dataset()) == ["x", "a"]


def test_who_asks_does_not_wait_for_the_keys_of_many_rows(tickets: CollectionTable) -> None:
    known = KnownKeys("id")
    dataset = commit(tickets, *(f"r-{i}" for i in range(5_000)))
    assert known.may_hold(["x", "r-1"], dataset) == ["x", "r-1"]
    known.follow(dataset)
    assert known.may_hold(["x", "r-1"], dataset) == ["r-1"]
    assert known.may_hold(["x", "new", "r-1"], commit(tickets, "new")) == ["new", "r-1"]
