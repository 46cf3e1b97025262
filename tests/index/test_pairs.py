"""knn_graph and duplicates: the same pairs as plain NumPy, exactly; through an index, through workers, and after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from raystore.errors import InvalidArguments, PairsNotFound, PassportMismatch
from raystore.index.build.run import build_index
from raystore.index.pairs import plan, run
from raystore.index.pairs.compare import Near, near_pairs, neighbours
from raystore.index.pairs.duplicates import duplicates
from raystore.index.pairs.groups import Groups
from raystore.index.pairs.knn_graph import knn_graph
from raystore.index.pairs.table import PairTable, open_pairs, pair_numbers
from raystore.index.source import Rows
from raystore.vectors import pair_scores

from .conftest import DIM, FINGERPRINT, ROWS, World, clustered, unit

ARGUMENTS = ("tickets", FINGERPRINT)
MODES = {
    "no index": None,
    "exact index": {"shards": 2},
    "exact, before an approximate index": {"shards": 2, "kind": "ivf_sq8"},
}


def graph(world: World, **options: object) -> PairTable:
    return knn_graph(world.table, world.layout, *ARGUMENTS, **options)


def alike(world: World, **options: object) -> PairTable:
    return duplicates(world.table, world.layout, *ARGUMENTS, **options)


def all_scores(vectors: np.ndarray) -> np.ndarray:
    """(n, n) every pair's one score."""
    n = len(vectors)
    a, b = (side.ravel() for side in np.mgrid[:n, :n])
    return pair_scores(vectors[a], vectors[b]).reshape(n, n)


def true_neighbours(ids: list[str], vectors: np.ndarray, k: int) -> list[tuple[str, int, str, float]]:
    scores = all_scores(vectors)
    np.fill_diagonal(scores, -np.inf)
    found = []
    for i, line in enumerate(scores):
        order = np.lexsort((np.arange(len(line)), -line))[: min(k, len(line) - 1)]
        found += [(ids[i], rank, ids[j], float(line[j])) for rank, j in enumerate(order)]
    return found


def true_pairs(ids: list[str], vectors: np.ndarray, threshold: float) -> list[tuple[str, str, float]]:
    scores = all_scores(vectors)
    return [
        (ids[i], ids[j], float(scores[i, j])) for i, j in zip(*np.nonzero(np.triu(scores >= threshold, 1)), strict=True)
    ]


def rows_of(table: PairTable) -> list[tuple]:
    return [tuple(row.values()) for row in table.to_arrow().to_pylist()]


@pytest.fixture(params=[pytest.param(options, id=name) for name, options in MODES.items()])
def indexed(request: pytest.FixtureRequest, world: World) -> World:
    if request.param is not None:
        build_index(world.table, world.layout, *ARGUMENTS, **request.param)
    return world


def test_every_row_has_its_nearest_neighbours_whatever_it_is_compared_with(indexed: World, monkeypatch) -> None:
    monkeypatch.setattr(plan, "PART_ROWS", 250)
    seen: list[tuple[int, int]] = []
    found = graph(indexed, k=5, exact=True, progress=lambda done, rows: seen.append((done, rows)))
    assert rows_of(found) == true_neighbours(indexed.ids, indexed.vectors, 5)
    assert seen == [(200, 600), (400, 600), (600, 600)]
    assert (found.facts.exact, found.facts.recall, found.facts.rows, len(found)) == (True, None, 600, 3000)
    assert not list(indexed.layout.tmp.iterdir())


def test_every_pair_above_the_threshold_stands_there_once(indexed: World, monkeypatch) -> None:
    monkeypatch.setattr(plan, "PART_ROWS", 250)
    found = alike(indexed, threshold=0.97, limit=ROWS, exact=True)
    assert [row[:3] for row in rows_of(found)] == true_pairs(indexed.ids, indexed.vectors, 0.97)
    assert found.facts.cut_short == 0
    assert found.facts.exact


def test_the_index_nominates_where_the_rows_are_many_and_it_is_not_told_otherwise(world: World, monkeypatch) -> None:
    build_index(world.table, world.layout, *ARGUMENTS, kind="ivf", shards=2)
    assert graph(world, k=10).facts.exact
    monkeypatch.setattr(run, "EXACT_BELOW", ROWS - 1)
    found = graph(world, k=10)
    assert not found.facts.exact
    assert found.facts.index_version == 1
    assert found.facts.recall is not None
    truth = {row[:3:2] for row in true_neighbours(world.ids, world.vectors, 10)}
    assert len({row[:3:2] for row in rows_of(found)} & truth) >= 0.9 * len(truth)


def test_scores_are_cosines_through_an_index_by_distance_too(world: World) -> None:
    build_index(world.table, world.layout, *ARGUMENTS, metric="l2")
    found = alike(world, threshold=0.97, limit=ROWS)
    truth = {row[:2]: row[2] for row in true_pairs(world.ids, world.vectors, 0.97)}
    scores = {row[:2]: row[2] for row in rows_of(found)}
    assert all(abs(scores[pair] - score) < 1e-5 for pair, score in truth.items() if score > 0.97001)
    assert all(pair in truth or score < 0.97001 for pair, score in scores.items())


def test_a_predicate_holds_on_both_sides(indexed: World) -> None:
    chosen = [i for i, product in enumerate(indexed.products) if product == "card"]
    ids = [indexed.ids[i] for i in chosen]
    found = graph(indexed, k=3, where="product = 'card'", exact=True)
    assert rows_of(found) == true_neighbours(ids, indexed.vectors[chosen], 3)
    nothing = alike(indexed, where="product = 'none'")
    assert (len(nothing), nothing.facts.groups, nothing.groups(), rows_of(nothing)) == (0, 0, [], [])


def test_rows_beside_the_index_are_compared_and_erased_ones_are_not(indexed: World) -> None:
    twin = indexed.vectors[:1]
    indexed.add(np.concatenate([twin, clustered(4, 11)]))
    indexed.delete(indexed.ids[5])
    keep = [i for i in range(len(indexed.ids)) if i != 5]
    found = graph(indexed, k=4, exact=True)
    assert rows_of(found) == true_neighbours([indexed.ids[i] for i in keep], indexed.vectors[keep], 4)


def test_rows_that_come_while_it_runs_are_no_part_of_it(indexed: World, monkeypatch) -> None:
    monkeypatch.setattr(plan, "PART_ROWS", 300)
    before = list(indexed.ids), indexed.vectors

    def commit(done: int, rows: int) -> None:
        if done == 300:
            indexed.add(indexed.vectors[400:420])

    found = graph(indexed, k=5, exact=True, progress=commit)
    assert rows_of(found) == true_neighbours(*before, 5)


def test_groups_are_what_hangs_together_numbered_by_their_first_row(empty_world: World) -> None:
    chain = unit(np.array([[1, 0], [0, 1], [1, 0.1], [-1, 0.01], [1, 0.2], [-1, 0], [-0.3, -1]]) @ np.eye(2, DIM))
    ids = empty_world.add(chain)
    found = alike(empty_world, threshold=0.99)
    assert [row[3] for row in rows_of(found)] == [0, 0, 1]
    assert found.groups() == [[ids[0], ids[2], ids[4]], [ids[3], ids[5]]]
    assert (found.facts.groups, found.facts.in_groups, found.facts.pairs) == (2, 5, 3)


def test_many_copies_are_one_group_though_pairs_are_cut_short(empty_world: World) -> None:
    copies = np.repeat(clustered(1, 3), 300, axis=0)
    ids = empty_world.add(np.concatenate([copies, clustered(5, 4)]))
    found = alike(empty_world, threshold=0.999, limit=20)
    assert found.groups() == [ids[:300]]
    assert found.facts.cut_short == 300
    assert len(found) < 300 * 21


@pytest.mark.parametrize(("rows", "k"), [(1, 10), (2, 10), (7, 3)])
def test_few_rows_have_fewer_neighbours(empty_world: World, rows: int, k: int) -> None:
    ids = empty_world.add(clustered(rows, 6))
    assert rows_of(graph(empty_world, k=k)) == true_neighbours(ids, empty_world.vectors, k)


def test_a_killed_job_goes_on_from_its_parts(indexed: World, monkeypatch) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from raystore.data.collection import CollectionTable; from raystore.index.pairs import plan\n"
        "from raystore.index.pairs.knn_graph import knn_graph; from raystore.layout import Layout\n"
        "plan.PART_ROWS = 150; layout = Layout(Path(sys.argv[1]))\n"
        "def die(done, rows):\n    if done >= 300: os.kill(os.getpid(), signal.SIGKILL)\n"
        "table = CollectionTable.open(layout, 'tickets')\n"
        "knn_graph(table, layout, 'tickets', sys.argv[2], k=5, exact=True, progress=die)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(indexed.layout.root), FINGERPRINT], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    before = list(indexed.ids), indexed.vectors
    indexed.add(clustered(10, 12))  # not at the version that was pinned
    assert pair_numbers(indexed.layout, *ARGUMENTS, "knn") == []
    seen: list[int] = []
    found = graph(indexed, k=5, exact=True, progress=lambda done, rows: seen.append(done))
    assert seen == [300, 450, 600]
    assert rows_of(found) == true_neighbours(*before, 5)
    assert not list(indexed.layout.tmp.iterdir())


@pytest.mark.ray
@pytest.mark.parametrize("against", ["every row", "an index"])
def test_ray_workers_find_the_same_pairs(world: World, ray_session, monkeypatch, against: str) -> None:
    monkeypatch.setattr(plan, "PART_ROWS", 150)
    if against == "an index":
        build_index(world.table, world.layout, *ARGUMENTS, shards=2)
    seen: list[int] = []
    found = alike(world, threshold=0.97, workers=2, progress=lambda done, rows: seen.append(done))
    assert rows_of(found) == rows_of(alike(world, threshold=0.97))
    assert seen == [150, 300, 450, 600]


def test_tables_are_numbered_and_found_again(world: World) -> None:
    first, second = graph(world, k=2), graph(world, k=3)
    assert (first.number, second.number) == (1, 2)
    assert open_pairs(world.layout, *ARGUMENTS, "knn") == second
    again = open_pairs(world.layout, *ARGUMENTS, "knn", 1)
    assert rows_of(again) == rows_of(first)
    assert lance.dataset(str(again.path)).count_rows() == len(first) == 1200
    with pytest.raises(PairsNotFound) as refused:
        open_pairs(world.layout, *ARGUMENTS, "duplicates")
    where = "collection 'tickets' for encoder 5f3c1a2b9d0e"
    assert str(refused.value) == f"no table of pairs 'duplicates-0' in {where}. It has no table of pairs."
    with pytest.raises(PassportMismatch):
        open_pairs(world.layout, "tickets", FINGERPRINT[:12] + "f" * 52, "knn")


def test_a_table_says_what_it_covers(world: World) -> None:
    said = repr(alike(world, threshold=0.9999))
    assert said.startswith("PairTable: duplicates from 0.9999 of 600 rows of tickets: ")
    assert said.endswith(f", exact, encoder 5f3c1a2b9d0e, version {world.table.version}")
    html = graph(world, k=2)._repr_html_()
    assert "2 nearest of 600 rows of tickets: 1,200 pairs, exact" in html
    assert "1,180 more" in html


def test_every_bad_argument_is_named_in_one_sentence(empty_world: World) -> None:
    with pytest.raises(InvalidArguments) as bad:
        graph(empty_world, k=0, workers=-1, exact="yes")
    assert str(bad.value) == (
        "knn_graph of collection 'tickets': k is 0, expected a number from 1; workers is -1, expected a number from 0; "
        "exact is 'yes', expected True, False, or None for what the index in use gives."
    )
    with pytest.raises(InvalidArguments) as ranges:
        alike(empty_world, threshold=1.5, limit=0, exact=False)
    assert str(ranges.value) == (
        "duplicates of collection 'tickets': limit is 0, expected a number from 1; "
        "threshold is 1.5, expected a cosine above 0 and at most 1; "
        "exact is False, but there is no index that could nominate neighbours, build one or leave exact out."
    )
    with pytest.raises(InvalidArguments, match="has no vectors of encoder 5f3c1a2b9d0e yet, embed some first"):
        graph(empty_world)
    assert not list(empty_world.layout.tmp.iterdir())


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    )
)
def test_groups_do_not_depend_on_the_batches_they_come_in(case: tuple[int, list[tuple[int, int]]]) -> None:
    n, edges = case
    whole, single = Groups(n), Groups(n)
    whole.join(*(np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1)))
    for a, b in edges:
        single.join(np.array([a]), np.array([b]))
    assert whole.tops().tolist() == single.tops().tolist()
    tops = whole.tops()
    assert all(tops[a] == tops[b] for a, b in edges)
    assert all(tops[top] == top <= i for i, top in enumerate(tops))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(hn.arrays(np.int8, st.tuples(st.integers(1, 25), st.just(3)), elements=st.integers(-2, 2)), st.integers(1, 6))
def test_pairs_of_a_block_are_those_of_plain_numpy(directions: np.ndarray, k: int) -> None:
    """Small integers, so that duplicates and ties abound."""
    vectors = unit(directions.astype(np.float32) + np.float32([0, 0, 5]))
    ids = [f"r{i}" for i in range(len(vectors))]
    rows = Rows(np.arange(len(vectors)), pa.chunked_array([ids]), vectors)
    scores = all_scores(vectors)

    def nearest(queries: np.ndarray, wanted: int) -> Near:
        """Brute force over the same rows; the queries are rows, found by their vectors."""
        lines = pair_scores(np.repeat(queries, len(vectors), 0), np.tile(vectors, (len(queries), 1))).reshape(
            len(queries), -1
        )
        order = np.argsort(-lines, axis=1, kind="stable")[:, :wanted]
        return Near(order, np.take_along_axis(lines, order, 1), dict(enumerate(ids)), True)

    graph_rows, _ = neighbours(rows, nearest, k)
    assert [tuple(row.values()) for row in graph_rows.to_pylist()] == true_neighbours(ids, vectors, k)
    found, exact, short = near_pairs(rows, nearest, 0.99, len(vectors))
    assert (exact, short) == (True, 0)
    once = sorted({(row["a_row"], row["b_row"]) for row in found.to_pylist()})
    assert once == [(i, j) for i, j in zip(*np.nonzero(np.triu(scores >= np.float32(0.99), 1)), strict=True)]
