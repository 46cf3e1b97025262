"""One version held still, and what came since another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.layout import Layout, vector_column

MINE, THEIRS = "5f3c1a2b9d0e" + "0" * 52, "a81e00000000" + "1" * 52


@pytest.fixture
def collection(layout: Layout) -> CollectionTable:
    return CollectionTable.create(layout, "two", {MINE: 2, THEIRS: 3})


def rows(ids: str, fingerprint: str | None = MINE, dim: int = 2) -> pa.Table:
    found = {"id": pa.array(list(ids)), "_payload": pa.array([b"x" * 32] * len(ids), pa.binary(32))}
    if fingerprint is not None:
        found[vector_column(fingerprint)] = vector_array(np.array([[ord(i)] * dim for i in ids], np.float32))
    return pa.table(found)


def add(collection: CollectionTable, ids: str, fingerprint: str | None = MINE) -> int:
    return collection.rows.commit([rows(ids, fingerprint)], refuse_differing=True)[0].version


def test_what_came_after_a_version_is_what_was_added_or_filled_since(collection: CollectionTable) -> None:
    first = add(collection, "ab")
    second = add(collection, "cd", None)
    seen = collection.pin(MINE)
    third = add(collection, "e")
    filled = collection.fill(rows("d"), MINE).version
    pinned = collection.pin(MINE)
    for known in (frozenset(), seen.fragments):
        came = pinned.came_after(second, known)
        assert came.ids.to_pylist() == ["d", "e"]  # by row id: d was there first
        assert came.came.tolist() == [filled, third]
        assert came.vectors.tolist() == [[100, 100], [101, 101]]
        assert came.added == 1
    assert (np.diff(pinned.row_ids()) > 0).all()
    assert [pinned.count_after(version) for version in (0, first, third, filled)] == [4, 2, 1, 0]
    assert pinned.live == 5
    assert pinned.came_after(first).added == 3  # c has no vector, and is a row


def test_a_pinned_version_stays_what_it_was(collection: CollectionTable) -> None:
    add(collection, "abc")
    pinned = collection.pin(MINE)
    add(collection, "d")
    collection.rows.dataset().delete("id = 'a'")
    assert (pinned.live, len(pinned.row_ids()), pinned.version) == (3, 3, collection.version - 2)
    now = collection.pin(MINE)
    assert (now.live, now.fragments - pinned.fragments != frozenset()) == (3, True)


def test_another_encoders_vectors_are_no_news(collection: CollectionTable) -> None:
    version = add(collection, "ab")
    collection.fill(rows("ab", THEIRS, 3), THEIRS)
    mine, theirs = collection.pin(MINE), collection.pin(THEIRS)
    assert (mine.came_after(version).added, len(mine.came_after(version).row_ids)) == (0, 0)
    assert theirs.came_after(version).ids.to_pylist() == ["a", "b"]


def test_nothing_came_where_no_part_is_new(collection: CollectionTable) -> None:
    pinned = collection.pin(MINE)
    came = pinned.came_after(pinned.version)
    assert (len(came.row_ids), came.vectors.shape, came.added) == (0, (0, 2), 0)


def test_vectors_are_found_by_row_id_in_the_order_asked(collection: CollectionTable) -> None:
    add(collection, "abc")
    add(collection, "d", None)
    a, b, c, d = collection.row_ids().tolist()
    found, vectors = collection.vectors_at(MINE, [c, 10**9, a, d])
    assert found.tolist() == [True, False, True, False]
    assert np.asarray(vectors).tolist() == [[99, 99], [97, 97]]
    found, vectors = collection.vectors_at(MINE, [])
    assert (found.shape, vectors.shape) == ((0,), (0, 2))
    assert b not in (a, c)


def test_a_scan_between_two_versions_gives_what_came_between_them(collection: CollectionTable) -> None:
    def ids(**cut: int) -> list[str]:
        return sorted(i for batch in collection.scan(MINE, **cut) for i in batch.ids.to_pylist())

    first = add(collection, "ab")
    second = add(collection, "cd", None)
    filled = collection.fill(rows("c"), MINE).version
    third = add(collection, "e")
    assert ids(since=first) == ["c", "e"]
    assert ids(since=first, as_of=filled) == ["c"]
    assert ids(since=first, as_of=second) == []
    assert ids(since=filled, as_of=third) == ["e"]
