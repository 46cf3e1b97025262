"""The actor shell on a real local Ray, one replica a shard: found again, killed, corrupt, replaced, and out of time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from raystore.data.collection import CollectionTable
from raystore.errors import JobFailed, ShardsMissing
from raystore.index.build.run import build_index, open_shard
from raystore.index.live.actors import ActorShards, Replaced, actor_name, namespace
from raystore.index.live.gather import ShardAnswers
from raystore.index.live.inline import InlineShards
from raystore.index.manifest import publish_again, read_manifest
from raystore.index.merge import merge
from raystore.layout import Layout

from .conftest import DIM, FINGERPRINT, ROWS, World, clustered

pytestmark = pytest.mark.ray


@pytest.fixture
def shards(world: World, ray_session) -> Iterator[ActorShards]:
    shards = served(world, deadline_s=30.0, shards=2)
    yield shards
    shards.stop()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, ray_session) -> Iterator[tuple[World, ActorShards]]:
    """One world and its actors for the tests that leave both as they were: actors take seconds to start."""
    layout = Layout(tmp_path_factory.mktemp("standing") / "störe 'two'")
    world = World(layout, CollectionTable.create(layout, "tickets", {FINGERPRINT: DIM}, {"product": "string"}))
    world.add(clustered(ROWS // 2, 1))
    world.add(clustered(ROWS // 2, 2))
    shards = served(world, deadline_s=30.0, shards=2)
    yield world, shards
    shards.stop()


def served(world: World, *, deadline_s: float, **options: object) -> ActorShards:
    number, manifest = build_index(world.table, world.layout, "tickets", FINGERPRINT, served="actors", **options)
    return ActorShards(world.layout, number, manifest, deadline_s=deadline_s)


def ids_of(answers: ShardAnswers, queries: np.ndarray, k: int) -> list[list[str]]:
    """The merged answer by id, nearest first. A world's rows are named by the order they were added in, which their row ids are."""
    rows, _ = merge([(found.rows, found.scores) for found in answers.answers.values()], len(queries), k)
    return [[f"t '{row}' ä" for row in line if row >= 0] for line in rows.tolist()]


def pids_of(shards: ActorShards, within_s: float = 60) -> dict[int, int]:
    """Of the actors by shard; one that a busy machine keeps from answering is asked again."""
    until = time.monotonic() + within_s
    while True:
        lines = shards.status()
        if all("pid" in line for line in lines) or time.monotonic() > until:
            return {line["shard"]: line["pid"] for line in lines}


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def stands(name: str, world: World, ray) -> bool:
    try:
        ray.get_actor(name, namespace=namespace(world.layout))
    except ValueError:
        return False
    return True


def gone_in_time(names: Sequence[str], world: World, ray) -> bool:
    """A kill takes a moment."""
    deadline = time.monotonic() + 30
    while any(stands(name, world, ray) for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_actors_answer_what_this_process_would_to_the_bit(standing, queries) -> None:
    world, shards = standing
    opened = [open_shard(world.table, world.layout, shards.number, shards.manifest, place) for place in range(2)]
    inline = InlineShards(dict(enumerate(shard for shard, _ in opened)))
    allowed = world.table.row_ids("product = 'card'")
    for options in ({}, {"allowed": allowed}, {"allowed": allowed, "without": allowed[::2]}, {"without": allowed}):
        here, there = inline.search(queries, 7, **options), shards.search(queries, 7, **options)
        assert (there.exact, list(there.missing)) == (True, [])
        for number, found in here.answers.items():
            np.testing.assert_array_equal(there.answers[number].rows, found.rows)
            np.testing.assert_array_equal(there.answers[number].scores, found.scores)


def test_large_batches_and_filters_go_through_the_object_store(standing) -> None:
    world, shards = standing
    many = clustered(1_500, 7)  # 96 kB
    allowed = np.arange(3, 20_000, dtype=np.int64)  # 160 kB in each shard that holds no such rows too
    answers = shards.search(many, 3, allowed=allowed, without=np.array([5]))
    truth = world.truth(many[:20], 3, lambda i: i >= 3 and i != 5)
    assert ids_of(answers, many, 3)[:20] == truth


def test_a_killed_actor_is_asked_again_when_it_is_back(standing, queries) -> None:
    world, shards = standing
    before = pids_of(shards)
    os.kill(before[1], signal.SIGKILL)
    answers = shards.search(queries, 10)
    assert (list(answers.missing), ids_of(answers, queries, 10)) == ([], world.truth(queries, 10))
    after = pids_of(shards)
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_an_actor_that_is_gone_for_good_is_started_again(standing, queries, ray_session) -> None:
    world, shards = standing
    name = actor_name(shards.manifest, shards.manifest.shards[0], 0)
    ray_session.kill(ray_session.get_actor(name, namespace=namespace(world.layout)))
    answers = shards.search(queries, 10)
    assert (list(answers.missing), ids_of(answers, queries, 10)) == ([], world.truth(queries, 10))


def test_a_shard_that_does_not_answer_in_time_is_missing(standing, queries) -> None:
    world, shards = standing
    hurried = ActorShards(world.layout, shards.number, shards.manifest, deadline_s=1.5)
    with stopped([pids_of(shards)[0]]):
        answers = hurried.search(queries, 10)
        assert (list(answers.missing), answers.exact) == ([0], False)
        assert ids_of(answers, queries, 10) == world.truth(queries, 10, lambda i: i >= 300)
        assert [line["answers"] for line in hurried.status()] == [False, True]
    assert ids_of(shards.search(queries, 10), queries, 10) == world.truth(queries, 10)
    assert list(hurried.search(queries, 10).missing) == []


def test_no_shard_at_all_is_an_error(standing, queries) -> None:
    world, shards = standing
    hurried = ActorShards(world.layout, shards.number, shards.manifest, deadline_s=1.0)
    with stopped(list(pids_of(shards).values())), pytest.raises(ShardsMissing) as none:
        hurried.search(queries, 10)
    assert str(none.value) == (
        "no shard of index tickets/5f3c1a2b9d0e/1 answered (missing: [0, 1]). Try again; they restart by themselves."
    )


def test_what_a_shard_raises_is_raised_here_and_not_taken_for_silence(standing, queries) -> None:
    _world, shards = standing
    with pytest.raises(JobFailed) as error:
        shards.search(np.ones((1, DIM + 1), np.float32), 3)
    assert str(error.value).startswith("shard ")
    assert "of index tickets/5f3c1a2b9d0e/1 failed: a worker ended with RayTaskError" in str(error.value)
    assert list(shards.search(queries, 3).missing) == []


def test_whoever_opens_the_index_again_finds_the_actors_that_are_there(standing, queries) -> None:
    world, shards = standing
    again = ActorShards(world.layout, shards.number, shards.manifest)
    assert pids_of(again) == pids_of(shards)
    assert ids_of(again.search(queries, 3), queries, 3) == world.truth(queries, 3)


def test_another_process_finds_them_too(standing, ray_session) -> None:
    world, shards = standing
    script = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
actors = [ray.get_actor(name, namespace=sys.argv[2]) for name in sys.argv[3:]]
print(sorted(status["pid"] for status in ray.get([actor.status.remote() for actor in actors])))
"""
    address = ray_session.get_runtime_context().gcs_address
    names = [actor_name(shards.manifest, record, 0) for record in shards.manifest.shards]
    asked = [sys.executable, "-c", script, address, namespace(world.layout), *names]
    out = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == str(sorted(pids_of(shards).values()))


def test_a_file_that_was_cut_short_is_rebuilt_and_said(world: World, ray_session, queries) -> None:
    number, manifest = build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2, served="actors")
    file = world.layout.indexes("tickets", FINGERPRINT) / str(number) / "shard-0001.rows.arrow"
    file.write_bytes(file.read_bytes()[:-50])
    shards = ActorShards(world.layout, number, manifest, deadline_s=30.0)
    try:
        answers = shards.search(queries, 10)
        assert (ids_of(answers, queries, 10), list(answers.missing)) == (world.truth(queries, 10), [])
        assert list(shards.problems) == [1]
        assert "shard-0001.rows.arrow' is unusable: its sha256 is " in shards.problems[1]
        assert [line["rebuilt"] for line in shards.status()] == [0, 1]
    finally:
        shards.stop()


def test_a_block_found_bad_in_a_search_is_mended_before_the_answer(world: World, ray_session, queries) -> None:
    number, manifest = build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2, served="actors")
    with (world.layout.indexes("tickets", FINGERPRINT) / str(number) / "shard-0000.vectors").open("r+b") as file:
        file.seek(DIM * 4 * 100 + 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    shards = ActorShards(world.layout, number, manifest, deadline_s=30.0)
    try:
        assert shards.problems == {}
        answers = shards.search(queries, 10)
        assert (ids_of(answers, queries, 10), list(answers.missing)) == (world.truth(queries, 10), [])
        assert list(shards.problems) == [0]
        assert "shard-0000.vectors' is unusable: " in shards.problems[0]
    finally:
        shards.stop()


def test_an_index_with_the_same_shards_is_served_by_the_same_actors(world: World, shards: ActorShards, queries) -> None:
    before = pids_of(shards)
    number, manifest = publish_again(world.layout, "tickets", FINGERPRINT, shards.number)
    again = ActorShards(world.layout, number, manifest, deadline_s=30.0)
    assert pids_of(again) == before
    assert list(shards.search(queries, 3).missing) == []


def test_an_actor_that_restarts_opens_its_shard_from_the_index_that_has_it_now(
    world: World, shards: ActorShards, queries
) -> None:
    number, manifest = publish_again(world.layout, "tickets", FINGERPRINT, shards.number)
    again = ActorShards(world.layout, number, manifest, deadline_s=30.0)
    shutil.rmtree(world.layout.indexes("tickets", FINGERPRINT) / str(shards.number))
    os.kill(pids_of(again)[0], signal.SIGKILL)
    assert ids_of(again.search(queries, 10), queries, 10) == world.truth(queries, 10)
    assert [(line["index"], line["rebuilt"]) for line in again.status()] == [(number, 0), (number - 1, 0)]


def test_opening_a_newer_index_ends_the_actors_it_has_no_use_for(
    world: World, shards: ActorShards, ray_session, queries
) -> None:
    names = [actor_name(shards.manifest, record, 0) for record in shards.manifest.shards]
    newer = served(world, deadline_s=30.0, shards=3)
    try:
        assert gone_in_time(names, world, ray_session)
        with pytest.raises(Replaced):
            shards.search(queries, 3)
        assert ids_of(newer.search(queries, 10), queries, 10) == world.truth(queries, 10)
    finally:
        newer.stop()


def test_opening_an_older_index_leaves_the_newer_ones_actors_alone(world: World, shards: ActorShards, queries) -> None:
    newer = served(world, deadline_s=30.0, shards=3)
    older = ActorShards(world.layout, 1, read_manifest(world.layout, "tickets", FINGERPRINT, 1), deadline_s=30.0)
    before = pids_of(newer)
    assert ids_of(older.search(queries, 3), queries, 3) == world.truth(queries, 3)
    assert pids_of(newer) == before
    older.stop()
    newer.stop()


def test_many_threads_search_through_the_same_actors(standing, queries) -> None:
    world, shards = standing
    truth = world.truth(queries, 5)
    before = threading.active_count()
    answers: list[list[list[str]]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ids_of(shards.search(queries, 5), queries, 5))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [truth] * 8
    assert threading.active_count() <= before + 1  # Ray's own


def test_searches_go_on_while_indexes_are_replaced(world: World, ray_session, queries) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2, served="actors")
    searcher = world.searcher(deadline_s=30.0)
    truth = world.truth(queries, 5)
    assert searcher.search(queries, 5).ids == truth
    problems: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            result = searcher.search(queries, 5)
            if result.ids != truth or result.missing:
                problems.append(result)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for shards in (1, 3):
        build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=shards, served="actors")
        while searcher.search(queries, 5).index_version != {1: 2, 3: 3}[shards]:
            pass
    done.set()
    for thread in threads:
        thread.join()
    searcher.close(stop_actors=True)
    assert problems == []


def test_an_answer_says_what_it_covers(standing, queries) -> None:
    world, shards = standing
    hurried = world.searcher(deadline_s=1.5)
    assert (hurried.search(queries, 10).coverage, hurried.search(queries, 10).exact) == (1.0, True)
    with stopped([pids_of(shards)[1]]):
        result = hurried.search(queries, 10)
        assert (result.missing, result.coverage, result.exact) == ([1], 0.5, False)
        assert result.ids == world.truth(queries, 10, lambda i: i < 300)
