"""Two replicas of every shard on a real local Ray: one that is stopped or killed is not noticed in the answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raystore.index.live.actors import ActorShards
from raystore.layout import Layout

from .conftest import World
from .test_actors import ids_of, served, stopped

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FOREVER_S = 120.0  # a deadline that fails the test rather than ends a search


@pytest.fixture
def shards(world: World, ray_session) -> Iterator[ActorShards]:
    shards = served(world, deadline_s=FOREVER_S, shards=2, replicas=2)
    yield shards
    shards.stop()


def pids_of(shards: ActorShards) -> dict[tuple[int, int], int]:
    return {(line["shard"], line["replica"]): line["pid"] for line in shards.status() if line["answers"]}


def test_every_replica_is_a_process_of_its_own_and_all_are_asked(world: World, shards: ActorShards, queries) -> None:
    assert len(set(pids_of(shards).values())) == 4
    for _ in range(4):
        assert ids_of(shards.search(queries, 10), queries, 10) == world.truth(queries, 10)


def test_a_stopped_replica_of_every_shard_costs_no_answer(world: World, shards: ActorShards, queries) -> None:
    pids = pids_of(shards)
    with stopped([pids[0, 0], pids[1, 1]]):
        for _ in range(20):
            answers = shards.search(queries, 10)
            assert (list(answers.missing), ids_of(answers, queries, 10)) == ([], world.truth(queries, 10))
    deadline = time.monotonic() + 30
    while shards.left_out and time.monotonic() < deadline:
        shards.search(queries, 1)
    assert shards.left_out == []


def test_a_killed_replica_of_every_shard_costs_no_answer_and_serves_again(
    world: World, shards: ActorShards, queries
) -> None:
    before = pids_of(shards)
    for pair in ((0, 1), (1, 0)):
        os.kill(before[pair], signal.SIGKILL)
    deadline = time.monotonic() + 60
    seen_out = False
    while (not seen_out or shards.left_out) and time.monotonic() < deadline:
        answers = shards.search(queries, 10)
        assert (list(answers.missing), ids_of(answers, queries, 10)) == ([], world.truth(queries, 10))
        seen_out = seen_out or bool(shards.left_out)
    after = pids_of(shards)
    assert {pair for pair in before if after[pair] != before[pair]} == {(0, 1), (1, 0)}


def test_a_shard_is_missing_only_where_none_of_its_replicas_answers(world: World, shards: ActorShards, queries) -> None:
    hurried = ActorShards(world.layout, shards.number, shards.manifest, deadline_s=1.5)
    pids = pids_of(shards)
    with stopped([pids[0, 0], pids[0, 1], pids[1, 0]]):
        answers = hurried.search(queries, 10)
        assert list(answers.missing) == [0]
        assert ids_of(answers, queries, 10) == world.truth(queries, 10, lambda i: i >= 300)
    assert list(shards.search(queries, 10).missing) == []


def test_a_corrupt_file_is_rebuilt_once_for_all_replicas(world: World, ray_session, queries) -> None:
    built = served(world, deadline_s=FOREVER_S, shards=2, replicas=2)
    built.stop()
    file = world.layout.indexes("tickets", built.manifest.fingerprint) / "1" / "shard-0000.rows.arrow"
    file.write_bytes(b"")
    shards = ActorShards(world.layout, built.number, built.manifest, deadline_s=FOREVER_S)
    try:
        assert ids_of(shards.search(queries, 10), queries, 10) == world.truth(queries, 10)
        assert list(shards.problems) == [0]
        assert len(list(Layout(world.layout.root).tmp.glob("rebuilt-*"))) == 1
    finally:
        shards.stop()


# The cluster needs a driver of its own: this process is one of another Ray's.
ON_A_CLUSTER = """
import json, sys, time
from pathlib import Path
import numpy as np, psutil, ray
from ray.cluster_utils import Cluster
from raystore.index.live.actors import ActorShards
from raystore.index.manifest import latest
from raystore.layout import Layout

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
number, manifest = latest(Layout(Path(sys.argv[1])), "tickets", sys.argv[2])
queries = np.load(sys.argv[3])

shards = ActorShards(Layout(Path(sys.argv[1])), number, manifest, deadline_s=120.0)
raylets = {(line["shard"], line["replica"]): psutil.Process(line["pid"]).ppid() for line in shards.status()}
nodes_of = [len({raylets[s, 0], raylets[s, 1]}) for s in range(len(manifest.shards))]
truth = [found.rows.tolist() for found in shards.search(queries, 10).answers.values()]
cluster.remove_node(nodes[0], allow_graceful=False)
started, took, wrong = time.monotonic(), [], 0
while (shards.left_out or time.monotonic() - started < 20) and time.monotonic() - started < 100:
    before = time.monotonic()
    answers = shards.search(queries, 10)
    took.append(time.monotonic() - before)
    wrong += bool(answers.missing) or [found.rows.tolist() for found in answers.answers.values()] != truth
serve = sum(line["answers"] for line in shards.status())
said = {"serve": serve, "nodes_of": nodes_of, "nodes": len(set(raylets.values())), "wrong": wrong, "took": took}
Path(sys.argv[4]).write_text(json.dumps(said))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_replicas_stand_on_different_nodes_and_the_loss_of_one_fails_no_query(
    world: World, queries, tmp_path: Path, ray_session, capsys
) -> None:
    built = served(world, deadline_s=FOREVER_S, shards=3, replicas=2)
    built.stop()
    np.save(tmp_path / "queries.npy", np.asarray(queries))
    files = [str(tmp_path / "queries.npy"), str(tmp_path / "said.json")]
    asked = [str(world.layout.root), built.manifest.fingerprint, *files]
    with tempfile.TemporaryDirectory(prefix="h", ignore_cleanup_errors=True) as short:  # sockets stand in it
        (Path(short) / "ray").mkdir()
        out = subprocess.run(
            [sys.executable, "-c", ON_A_CLUSTER, *asked],
            capture_output=True,
            text=True,
            timeout=180,
            env={**os.environ, "RAY_TMPDIR": short, "RAY_BACKEND_LOG_LEVEL": "fatal"},
        )
    assert out.returncode == 0, out.stderr[-2000:]
    said = json.loads((tmp_path / "said.json").read_text())
    assert (said["nodes"], said["nodes_of"], said["wrong"], said["serve"]) == (3, [2, 2, 2], 0, 6)
    with capsys.disabled():
        print(f"\n{len(said['took'])} queries while a node of three was lost, the slowest {max(said['took']):.2f} s")
