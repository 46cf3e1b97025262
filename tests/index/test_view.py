"""A row is found, or is gone, by the search after its commit, whatever stands under it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.pinned import Pinned
from raystore.index.build.run import build_index
from raystore.index.live.base import mend
from raystore.index.live.fold import fold_index
from raystore.index.live.view import Gathered, View, Views
from raystore.index.manifest import newest_number
from raystore.index.metric import as_queries
from raystore.layout import Layout, vector_column

from .conftest import DIM, FINGERPRINT, OTHER, ROWS, World, clustered, unit

STANDS = {
    "no index": None,
    "exact": {},
    "exact, 3 shards": {"shards": 3},
    "ivf": {"kind": "ivf"},
    "actors": {"shards": 2, "served": "actors"},
}
stands = pytest.mark.parametrize(
    "options",
    [pytest.param(options, id=name, marks=[pytest.mark.ray] * (name == "actors")) for name, options in STANDS.items()],
)


def views_of(world: World, options: dict | None, request: pytest.FixtureRequest | None = None) -> Views:
    if options is not None:
        if "served" in options:
            request.getfixturevalue("ray_session")
        build_index(world.table, world.layout, "tickets", FINGERPRINT, **options)
    views = Views(world.table, world.layout, "tickets", FINGERPRINT, deadline_s=30.0)
    if request is not None:
        request.addfinalizer(lambda: views.close(stop_actors=True))
    return views


def prepared(vectors: object) -> np.ndarray:
    return as_queries(vectors, DIM, "cosine", "test")


def nearest(views: Views, vectors: object, k: int = 1) -> list[list[str]]:
    return ids_in(views.current().search(prepared(vectors), k))


def ids_in(found: Gathered) -> list[list[str]]:
    return [[found.names[row] for row in line if row >= 0] for line in found.rows.tolist()]


@stands
def test_a_row_is_found_by_the_search_after_its_commit(
    world: World, options: dict | None, request: pytest.FixtureRequest
) -> None:
    views = views_of(world, options, request)
    far = np.eye(DIM, dtype=np.float32)
    for number in range(DIM):
        view = views.current()
        added = world.add(far[number : number + 1])
        assert nearest(views, far[number]) == [added]
        assert views.current().version == world.table.version > view.version
    assert views.current().rows == ROWS + DIM


@stands
def test_an_erased_row_is_gone_by_the_search_after_its_erasure(
    world: World, options: dict | None, request: pytest.FixtureRequest
) -> None:
    views = views_of(world, options, request)
    late = world.add(np.eye(DIM, dtype=np.float32)[:2])
    for gone in (world.ids[7], late[0], world.ids[ROWS - 1]):
        query = world.vectors[world.ids.index(gone)]
        assert views.current().search(prepared(query), 1).scores[0, 0] == pytest.approx(1)
        world.delete(gone)
        assert gone not in nearest(views, query, ROWS)[0]
    view = views.current()
    assert view.rows == ROWS + 2 - 3
    assert len(nearest(views, world.vectors[0], 10 * ROWS)[0]) == view.rows


def test_a_vector_that_came_late_is_found_at_once(world: World) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT)
    ids = world.add(np.eye(DIM, dtype=np.float32)[:2], fingerprint=None)
    views = views_of(world, None)
    assert (views.current().rows, views.current().tail_rows) == (ROWS, 0)
    vectors = pa.table(
        {
            "id": pa.array(ids[:1]),
            "_payload": pa.array([b"x" * 32], pa.binary(32)),
            vector_column(FINGERPRINT): vector_array(world.vectors[-2:-1]),
        }
    )
    assert world.table.fill(vectors, FINGERPRINT).filled == 1
    assert nearest(views, world.vectors[-2]) == [[ids[0]]]
    assert (views.current().rows, views.current().tail_rows) == (ROWS + 1, 1)
    world.delete(ids[1])  # a row without a vector: nothing that was searched is gone
    assert (views.current().rows, len(views.current().gone)) == (ROWS + 1, 0)


def test_the_vectors_of_another_encoder_change_nothing(world: World) -> None:
    views = views_of(world, {})
    world.table.add_encoder(OTHER, 4)
    rows = pa.table(
        {
            "id": pa.array(world.ids[:3]),
            "_payload": pa.array([b"x" * 32] * 3, pa.binary(32)),
            vector_column(OTHER): vector_array(np.ones((3, 4), np.float32)),
        }
    )
    assert world.table.fill(rows, OTHER).filled == 3
    view = views.current()
    assert (view.version, view.rows, view.tail_rows, len(view.gone)) == (world.table.version, ROWS, 0, 0)


_COMMIT = """
import sys, json; sys.path[:] = json.loads(sys.argv[1])
import numpy as np, pyarrow as pa
from pathlib import Path
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.layout import Layout
rows = CollectionTable.open(Layout(Path(sys.argv[2])), "tickets").rows
vector = vector_array(np.eye(16, dtype=np.float32)[:1])
for line in sys.stdin:
    row = {"id": [line.strip()], "_payload": pa.array([b"x" * 32], pa.binary(32)), sys.argv[3]: vector}
    print(rows.commit([pa.table(row)], refuse_differing=True)[0].version, flush=True)
"""


def test_commits_of_another_process_are_seen(world: World) -> None:
    views = views_of(world, {})
    arguments = [json.dumps(sys.path), str(world.layout.root), vector_column(FINGERPRINT)]
    command = [sys.executable, "-c", _COMMIT, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        for number in range(20):
            other.stdin.write(f"theirs {number}\n")
            other.stdin.flush()
            version = int(other.stdout.readline())
            view = views.current()
            assert (view.version, view.rows) == (version, ROWS + number + 1)
    assert ids_in(views.current().search(prepared(np.eye(DIM)[0]), 20))[0] == [f"theirs {n}" for n in range(20)]


@dataclass
class Watched:
    """The collection, and what was asked of its versions."""

    table: CollectionTable
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.table, name)

    def pin(self, fingerprint: str) -> WatchedPin:
        return WatchedPin(self.table.pin(fingerprint), self.asked)


@dataclass
class WatchedPin:
    pinned: Pinned
    asked: list[str]

    def __getattr__(self, name: str) -> object:
        return getattr(self.pinned, name)

    def row_ids(self) -> np.ndarray:
        self.asked.append("row ids")
        return self.pinned.row_ids()

    def came_after(self, version: int, known: frozenset[int] = frozenset()) -> object:
        self.asked.append(f"{len(self.pinned.fragments - known)} new fragments")
        return self.pinned.came_after(version, known)


def test_a_commit_is_followed_by_what_it_added_and_only_an_erasure_by_all_row_ids(world: World) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT)
    source = Watched(world.table)
    views = Views(source, world.layout, "tickets", FINGERPRINT)
    views.current()
    source.asked.clear()
    for _ in range(3):
        world.add(clustered(2, 5))
        views.current()
        views.current()
    assert source.asked == ["1 new fragments"] * 3
    source.asked.clear()
    world.delete(world.ids[0])
    views.current()
    assert source.asked == ["0 new fragments", "row ids"]


def test_a_view_goes_on_answering_as_it_was(world: World) -> None:
    views = views_of(world, {})
    added = world.add(np.eye(DIM, dtype=np.float32)[:1])
    old = views.current()
    world.delete(added[0])
    world.add(clustered(50, 4))
    assert nearest(views, np.eye(DIM)[0]) != [added]
    assert ids_in(old.search(prepared(np.eye(DIM)[0]), 1)) == [added]


def test_merged_fragments_bring_no_row_twice(world: World) -> None:
    views = views_of(world, {})
    far = unit(np.random.default_rng(3).normal(size=(70, DIM)))
    for number in range(70):  # two merges of 32 fragments
        world.add(far[number : number + 1])
        assert views.current().tail_rows == number + 1
    assert nearest(views, far) == world.truth(far, 1)
    assert len(views.current().tail.parts) <= 4


def test_rows_in_one_answer_come_from_shards_and_tail_in_order(world: World) -> None:
    views = views_of(world, {"shards": 3})
    world.add(clustered(40, 6))
    world.delete(world.ids[5])
    queries = world.vectors[[5, 250, 610, 630]]
    assert nearest(views, queries, 25) == world.truth(queries, 25, lambda i: i != 5)
    found = views.current().search(prepared(queries), 25)
    assert (found.exact, found.coverage, found.missing) == (True, 1.0, [])


def test_only_allowed_rows_are_found_wherever_they_stand(world: World) -> None:
    views = views_of(world, {"shards": 2})
    world.add(clustered(40, 6))
    allowed = world.table.row_ids("product = 'card'")
    found = views.current().search(prepared(world.vectors[:3]), 20, allowed=allowed)
    assert ids_in(found) == world.truth(world.vectors[:3], 20, lambda i: world.products[i] == "card")


def test_without_an_index_a_long_tail_becomes_the_new_base(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystore.index.live.view._TAIL_ROWS", 50)
    views = views_of(world, None)
    assert views.current().base_rows == ROWS
    world.add(clustered(400, 7))
    view = views.current()
    assert (view.base_rows, view.tail_rows) == (ROWS + 400, 0)
    assert nearest(views, world.vectors[-5:], 10) == world.truth(world.vectors[-5:], 10)


def test_a_new_index_is_used_by_the_next_search_and_the_tail_starts_again(world: World) -> None:
    views = views_of(world, None)
    assert views.current().base_rows == ROWS
    world.add(clustered(9, 4))
    assert (views.current().number, views.current().tail_rows) == (None, 9)
    for number in (1, 2):
        build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=number)
        world.add(clustered(number, 4))
        view = views.current()
        assert (view.number, view.tail_rows, view.rows) == (number, number, len(world.ids))


def harmed(world: World, number: int, name: str) -> None:
    file = world.layout.indexes("tickets", FINGERPRINT) / str(number) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_block_that_is_bad_when_it_is_first_read_is_written_again_and_published(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    views = views_of(world, {"shards": 2})
    view = views.current()
    harmed(world, 1, "shard-0001.vectors")
    with caplog.at_level(logging.WARNING, "raystore"):
        found = view.search(prepared(world.vectors[[3, 450]]), 10)
    assert ids_in(found) == world.truth(world.vectors[[3, 450]], 10)
    assert (found.number, found.coverage, views.current().number) == (2, 1.0, 2)
    said = "collection 'tickets': shard 1 of index 1 was rebuilt from the collection and published as index 2: index file '"
    assert [r.getMessage()[: len(said)] for r in caplog.records] == [said]
    caplog.clear()
    assert nearest(Views(world.table, world.layout, "tickets", FINGERPRINT), world.vectors[450]) == world.truth(
        world.vectors[450], 1
    )
    assert not caplog.records


def test_a_fold_that_comes_before_the_repair_of_a_bad_file_leaves_no_row_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT)
    harmed(world, 1, "shard-0000.rows.arrow")
    world.add(clustered(30, 5))

    def second(*arguments: object) -> object:
        monkeypatch.undo()
        fold_index(world.table, world.layout, "tickets", FINGERPRINT)
        return mend(*arguments)

    monkeypatch.setattr("raystore.index.live.base.mend", second)
    views = Views(world.table, world.layout, "tickets", FINGERPRINT)
    assert nearest(views, world.vectors[-30:], 3) == world.truth(world.vectors[-30:], 3)


changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40)),
        st.tuples(st.just("erase"), st.integers(0, 10**6)),
        st.tuples(st.just("fold"), st.booleans()),
        st.tuples(st.just("build"), st.integers(1, 3)),
    ),
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(changes, st.integers(0, 2**31))
def test_whatever_is_added_erased_folded_and_built_the_answer_is_that_of_the_rows_that_are_there(
    steps: list[tuple[str, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = small_world(Path(folder))
        views = Views(world.table, world.layout, "tickets", FINGERPRINT, folds=False)
        queries = unit(rng.normal(size=(3, DIM)))
        erased: set[int] = set()
        for step, amount in [("add", 30), *steps]:
            left = [i for i in range(len(world.ids)) if i not in erased]
            if step == "add":
                world.add(clustered(amount, int(rng.integers(100))))
            elif step == "erase" and left:
                erased.add(left[amount % len(left)])
                world.delete(world.ids[left[amount % len(left)]])
            elif step == "fold":
                fold_index(world.table, world.layout, "tickets", FINGERPRINT, drop_gone=bool(amount))
            elif step == "build" and len(left) >= amount:
                build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=amount)
            view = views.current()
            assert view.rows == len(world.ids) - len(erased)
            found = view.search(prepared(queries), 12)
            assert ids_in(found) == world.truth(queries, 12, lambda i: i not in erased)
            assert view.number == newest_number(world.layout, "tickets", FINGERPRINT)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.booleans())
def test_adding_and_then_erasing_is_the_identity(sizes: list[int], indexed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = small_world(Path(folder))
        world.add(clustered(100, 1))
        views = views_of(world, {"shards": 2} if indexed else None)
        queries = prepared(clustered(5, 2))
        before = views.current().search(queries, 10)
        added = [id_ for size in sizes for id_ in world.add(clustered(size, size))]
        assert views.current().rows == 100 + len(added)
        for id_ in added:
            world.delete(id_)
        after: View = views.current()
        again = after.search(queries, 10)
        assert (after.rows, after.tail_rows, len(after.gone)) == (100, 0, 0)
        assert again.rows.tobytes() == before.rows.tobytes()
        assert again.scores.tobytes() == before.scores.tobytes()


def small_world(folder: Path) -> World:
    layout = Layout(folder / "störe")
    return World(layout, CollectionTable.create(layout, "tickets", {FINGERPRINT: DIM}, {"product": "string"}))
