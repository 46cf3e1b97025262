"""A soak: one actor of each shard is killed every 5 s, twelve times, under load. No query may fail or be incomplete."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import Any

import pytest

from raystore.index.build.run import build_index
from raystore.index.live.actors import ActorShards
from raystore.index.manifest import latest
from tests.waiting import soon

from .conftest import FINGERPRINT, World

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KILLS, EVERY_S = 12, 5.0
THREADS = 3


def all_answer(shards: ActorShards) -> list[dict[str, Any]]:
    """A line of each replica of each shard, or nothing where one does not answer."""
    lines = shards.status()
    return lines if all(line["answers"] for line in lines) else []


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
    started = time.monotonic()
    for kill in range(KILLS):
        # A machine that is busy may take longer than 5 s to start an actor anew: killing its fellow then would take the
        # whole shard away, of which nothing is promised.
        for line in soon(partial(all_answer, watched), within_s=120):
            if line["replica"] == kill % 2:
                os.kill(line["pid"], signal.SIGKILL)
        time.sleep(EVERY_S)
    lasted = time.monotonic() - started
    done.set()
    for thread in threads:
        thread.join()
    searcher.close(stop_actors=True)
    with capsys.disabled():
        took.sort()
        print(
            f"\n{len(took)} queries in {lasted:.0f} s, an actor of each shard killed {KILLS} times: "
            f"median {1e3 * took[len(took) // 2]:.1f} ms, 99.9% {1e3 * took[int(0.999 * len(took))]:.0f} ms, "
            f"slowest {1e3 * took[-1]:.0f} ms, {len(wrong)} failed"
        )
    assert wrong == []
