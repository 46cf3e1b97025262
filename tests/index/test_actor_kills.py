"""A soak: one actor of each shard is killed every 5 s, for a minute, under load. No query may fail or be incomplete."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from raystore.index.build.run import build_index
from raystore.index.live.actors import ActorShards
from raystore.index.manifest import latest

from .conftest import FINGERPRINT, World

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MINUTE_S, EVERY_S = 60.0, 5.0
THREADS = 3


def test_no_query_fails_while_one_actor_of_each_shard_is_killed_every_five_seconds(
    world: World, ray_session, queries, capsys
) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2, served="actors", replicas=2)
    searcher = world.searcher()  # with the deadline everybody has
    truth = world.truth(queries, 10)
    assert searcher.search(queries, 10).ids == truth
    watched = ActorShards(world.layout, *latest(world.layout, "tickets", FINGERPRINT))
    took: list[float] = []
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            started = time.monotonic()
            result = searcher.search(queries, 10)
            took.append(time.monotonic() - started)
            if result.ids != truth or result.missing or result.coverage != 1.0:
                wrong.append(result)

    def guarded() -> None:
        try:
            ask()
        except BaseException as error:  # it fails the test, whatever it is
            wrong.append(error)
            raise

    threads = [threading.Thread(target=guarded) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    started, kills = time.monotonic(), 0
    while time.monotonic() - started < MINUTE_S:
        standing = {(line["shard"], line["replica"]): line["pid"] for line in watched.status() if line["answers"]}
        for shard in (0, 1):
            pid = standing.get((shard, kills % 2))
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        kills += 1
        time.sleep(EVERY_S)
    done.set()
    for thread in threads:
        thread.join()
    searcher.close(stop_actors=True)
    with capsys.disabled():
        took.sort()
        print(
            f"\n{len(took)} queries in {MINUTE_S:.0f} s, an actor of each shard killed {kills} times: "
            f"median {1e3 * took[len(took) // 2]:.1f} ms, 99.9% {1e3 * took[int(0.999 * len(took))]:.0f} ms, "
            f"slowest {1e3 * took[-1]:.0f} ms, {len(wrong)} failed"
        )
    assert wrong == []
    assert kills >= 10
