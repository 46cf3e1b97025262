"""The actor shell on a real local Ray: found again, killed, corrupt, and out of time."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from raystore.errors import ShardsMissing
from raystore.index.actors import ActorShards, namespace
from raystore.index.build import build_index
from raystore.index.search import IndexSearcher

from .conftest import FINGERPRINT, World

pytestmark = pytest.mark.ray


@pytest.fixture
def searcher(world: World, ray_session) -> Iterator[IndexSearcher]:
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2, served="actors")
    searcher = world.searcher(deadline_s=30.0)
    yield searcher
    searcher.close(stop_actors=True)


def actor(world: World, ray, shard: int, number: int = 1):
    return ray.get_actor(f"tickets/{FINGERPRINT[:12]}/{number}/shard-{shard}", namespace=namespace(world.layout))


def test_a_killed_actor_is_asked_again_when_it_is_back(world: World, searcher: IndexSearcher, ray_session, queries) -> None:
    truth = world.truth(queries, 10)
    assert searcher.search(queries, 10).ids == truth

    def pid() -> int | None:
        """Of the process behind shard 1, None while there is none."""
        try:
            return ray_session.get(actor(world, ray_session, 1).status.remote())["pid"]
        except ray_session.exceptions.RayActorError:
            return None

    before = pid()
    ray_session.kill(actor(world, ray_session, 1), no_restart=False)
    deadline = time.monotonic() + 60
    is_back = False  # a kill takes a moment: until then the old process may still answer
    while time.monotonic() < deadline:  # each answer is whole, or says that shard 1 is missing
        is_back = is_back or pid() not in (None, before)
        result = searcher.search(queries, 10)
        if is_back and not result.missing:
            break
        if not result.missing:
            assert result.ids == truth
            continue
        assert (result.missing, result.coverage, result.exact) == ([1], 0.5, False)
        assert result.ids == world.truth(queries, 10, lambda i: i < 300)
    assert is_back
    assert (result.missing, result.coverage, result.ids) == ([], 1.0, truth)


def test_an_actor_that_is_gone_for_good_is_started_again(
    world: World, searcher: IndexSearcher, ray_session, queries
) -> None:
    searcher.search(queries, 10)
    ray_session.kill(actor(world, ray_session, 0))
    deadline = time.monotonic() + 60
    while (result := searcher.search(queries, 10)).missing and time.monotonic() < deadline:
        assert result.missing == [0]
    assert result.ids == world.truth(queries, 10)


def test_a_shard_that_does_not_answer_in_time_is_missing(
    world: World, searcher: IndexSearcher, ray_session, queries
) -> None:
    searcher.search(queries, 10)
    hurried = world.searcher(deadline_s=1.5)
    hurried.search(queries, 10)
    handle = actor(world, ray_session, 0)
    stopped = ray_session.get(handle.status.remote())["pid"]
    subprocess.run(["kill", "-STOP", str(stopped)], check=True)
    try:
        result = hurried.search(queries, 10)
        assert (result.missing, result.coverage) == ([0], 0.5)
        assert result.ids == world.truth(queries, 10, lambda i: i >= 300)
    finally:
        subprocess.run(["kill", "-CONT", str(stopped)], check=True)
    assert searcher.search(queries, 10).ids == world.truth(queries, 10)


def test_no_shard_at_all_is_an_error(world: World, searcher: IndexSearcher, ray_session, queries) -> None:
    searcher.search(queries, 10)
    hurried = world.searcher(deadline_s=1.5)
    hurried.search(queries, 10)
    pids = [ray_session.get(actor(world, ray_session, shard).status.remote())["pid"] for shard in (0, 1)]
    subprocess.run(["kill", "-STOP", *map(str, pids)], check=True)
    try:
        with pytest.raises(ShardsMissing) as none:
            hurried.search(queries, 10)
        assert str(none.value) == (
            "no shard of index tickets/5f3c1a2b9d0e/1 answered (missing: [0, 1]). Try again; they restart by themselves."
        )
    finally:
        subprocess.run(["kill", "-CONT", *map(str, pids)], check=True)


def test_a_second_searcher_finds_the_actors_that_are_there(
    world: World, searcher: IndexSearcher, ray_session, queries
) -> None:
    searcher.search(queries, 3)
    pids = {s["pid"] for s in shards_of(searcher).status()}
    other = world.searcher()
    assert other.search(queries, 3).ids == searcher.search(queries, 3).ids
    assert {s["pid"] for s in shards_of(other).status()} == pids
    other.close()
    assert searcher.search(queries, 3).coverage == 1.0


def test_a_second_process_finds_them_too(world: World, searcher: IndexSearcher, ray_session, queries) -> None:
    searcher.search(queries, 3)
    pids = sorted(s["pid"] for s in shards_of(searcher).status())
    script = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
actors = [ray.get_actor(f"{sys.argv[3]}/shard-{i}", namespace=sys.argv[2]) for i in (0, 1)]
print(sorted(status["pid"] for status in ray.get([actor.status.remote() for actor in actors])))
"""
    address = ray_session.get_runtime_context().gcs_address
    label = f"tickets/{FINGERPRINT[:12]}/1"
    out = subprocess.run(
        [sys.executable, "-c", script, address, namespace(world.layout), label], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip().splitlines()[-1] == str(pids)


def test_a_corrupt_file_is_rebuilt_by_the_actor_and_said(world: World, ray_session, queries, caplog) -> None:
    number, _ = build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2, served="actors")
    file = world.layout.indexes("tickets", FINGERPRINT) / str(number) / "shard-0001.faiss"
    file.write_bytes(file.read_bytes()[:-50])
    searcher = world.searcher(deadline_s=30.0)
    with caplog.at_level(logging.WARNING, "raystore"):
        result = searcher.search(queries, 10)
    assert (result.ids, result.coverage) == (world.truth(queries, 10), 1.0)
    assert "shard 1 of index 1 was rebuilt from the collection and published as index 2" in caplog.text
    assert "the manifest says" in caplog.text
    again = searcher.search(queries, 10)
    assert (again.ids, again.index_version) == (result.ids, 2)
    assert [s["rebuilt"] for s in shards_of(searcher).status()] == [0, 0]
    searcher.close(stop_actors=True)


def test_the_actors_of_a_replaced_index_end(world: World, searcher: IndexSearcher, ray_session, queries) -> None:
    searcher.search(queries, 3)
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=3, served="actors")
    result = searcher.search(queries, 10)
    assert (result.index_version, result.ids) == (2, world.truth(queries, 10))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            actor(world, ray_session, 0)
        except ValueError:
            return
        time.sleep(0.1)
    pytest.fail("the old actor still stands")


def test_many_threads_search_through_the_same_actors(world: World, searcher: IndexSearcher, queries) -> None:
    truth = world.truth(queries, 5)
    before = threading.active_count()
    answers: list[list[list[str]]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(searcher.search(np.asarray(queries), 5).ids)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [truth] * 8
    assert threading.active_count() <= before + 1  # Ray's own


def shards_of(searcher: IndexSearcher) -> ActorShards:
    view = searcher._current()
    assert isinstance(view.base.shards, ActorShards)
    return view.base.shards


def test_searches_go_on_while_indexes_are_replaced(world: World, searcher: IndexSearcher, ray_session, queries) -> None:
    truth = world.truth(queries, 5)
    searcher.search(queries, 5)
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
    assert problems == []
    for shard in (0, 1):
        with pytest.raises(ValueError):
            actor(world, ray_session, shard)
