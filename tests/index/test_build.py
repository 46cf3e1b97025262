from __future__ import annotations

import time

import faiss
import numpy as np
import psutil
import pytest

from raystore.errors import CollectionNotFound, DiskFull, IndexNotFound, InvalidArguments, JobFailed, PassportMismatch
from raystore.index.build import build_index, split_row_ids
from raystore.index.manifest import latest, read_manifest
from raystore.index.source import ROW_ID_END
from raystore.layout import numbers

from .conftest import FINGERPRINT, OTHER, World, clustered


def build(world: World, **options: object):
    return build_index(world.table, world.layout, "tickets", FINGERPRINT, **options)


def test_shards_are_even_ranges_that_hold_any_row_id() -> None:
    ranges = split_row_ids(np.array([3, 4, 5, 90, 91, 92, 1000]), 3)
    assert ranges == [(0, 90), (90, 92), (92, ROW_ID_END)]


def test_the_manifest_says_what_was_built(world: World) -> None:
    seen: list[tuple[int, int]] = []
    number, manifest = build(world, shards=4, progress=lambda done, rows: seen.append((done, rows)))
    assert number == 1
    assert [shard.rows for shard in manifest.shards] == [150, 150, 150, 150]
    assert (manifest.version, manifest.dim, manifest.kind, manifest.metric) == (world.table.version, 16, "exact", "cosine")
    assert seen == [(150, 600), (300, 600), (450, 600), (600, 600)]
    assert latest(world.layout, "tickets", FINGERPRINT) == (1, manifest)
    assert not list(world.layout.tmp.iterdir())


def test_an_ivf_states_its_probes_and_their_recall(world: World) -> None:
    _, manifest = build(world, shards=2, kind="ivf")
    for shard in manifest.shards:
        assert shard.nlist is not None
        assert shard.nprobe is not None
        assert 1 <= shard.nprobe <= shard.nlist
        assert shard.recall is not None
        assert shard.recall >= 0.95


def test_every_bad_argument_is_named_in_one_sentence(empty_world: World) -> None:
    with pytest.raises(InvalidArguments) as bad:
        build(empty_world, shards=0, kind="hnsw", workers=-1, served="cloud")
    assert str(bad.value) == (
        "build_index of collection 'tickets': shards is 0, expected a number from 1; "
        "kind is 'hnsw', expected 'exact' or 'ivf'; "
        "workers is -1, expected a number from 0 (0 is this process); served is 'cloud', expected 'inline' or 'actors'; "
        "collection 'tickets' has no rows yet, embed some first."
    )
    empty_world.add(clustered(3))
    with pytest.raises(InvalidArguments) as many:
        build(empty_world, shards=4)
    assert str(many.value) == "build_index of collection 'tickets': shards is 4, more than the collection's 3 rows."
    assert numbers(empty_world.layout.indexes("tickets", FINGERPRINT)) == []


def test_rows_without_vectors_are_no_rows_to_index(empty_world: World) -> None:
    empty_world.add(clustered(4), fingerprint=None)
    with pytest.raises(InvalidArguments, match="has no vectors of encoder 5f3c1a2b9d0e yet"):
        build(empty_world)


def test_an_index_of_another_encoder_is_refused(world: World) -> None:
    with pytest.raises(PassportMismatch):
        build_index(world.table, world.layout, "tickets", OTHER)
    build(world)
    twin = FINGERPRINT[:12] + "f" * 52
    with pytest.raises(PassportMismatch) as foreign:
        latest(world.layout, "tickets", twin)
    assert str(foreign.value) == (
        f"index 1 over collection 'tickets' expects {FINGERPRINT}, but was given {twin}. "
        "Build an index for this encoder: collection.build_index()."
    )


def test_a_number_that_is_not_there_is_said(world: World) -> None:
    with pytest.raises(IndexNotFound):
        read_manifest(world.layout, "tickets", FINGERPRINT, 7)


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_ray_workers_build_what_this_process_builds(world: World, ray_session, queries, kind: str) -> None:
    _, inline = build(world, shards=3, kind=kind)
    here = world.searcher().search(queries, 10)
    _, spread = build(world, shards=3, kind=kind, workers=2)
    there = world.searcher().search(queries, 10)
    assert (here.index_version, there.index_version) == (1, 2)
    assert here.ids == there.ids
    if kind == "exact":
        assert inline.shards == spread.shards


def test_a_full_disk_is_said_and_nothing_is_published(world: World, monkeypatch) -> None:
    def full(index: object, path: str) -> None:
        raise RuntimeError(f"Error: 'ret == n' failed: write error in {path}: 1 != 9 (No space left on device)")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(DiskFull, match=r"no space left on the disk of .* while writing shard-0000\.faiss"):
        build(world)
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == []


class Remembered:
    """What build_index asks of the collection in this process; the workers read the real one."""

    def __init__(self, world: World) -> None:
        self.version, self._row_ids = world.table.version, world.table.row_ids()

    def dim(self, fingerprint: str) -> int:
        return 16

    def row_ids(self, where: str | None = None, as_of: int | None = None) -> np.ndarray:
        return self._row_ids


@pytest.mark.ray
def test_a_failing_worker_says_so_and_publishes_nothing(world: World, ray_session) -> None:
    source = Remembered(world)
    with pytest.raises(CollectionNotFound, match="no collection 'other' in store"):
        build_index(source, world.layout, "other", FINGERPRINT, shards=2, workers=1)
    for file in (world.layout.rows("tickets") / "data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(JobFailed) as failed:
        build_index(source, world.layout, "tickets", FINGERPRINT, shards=2, workers=1)
    assert str(failed.value).startswith("build_index failed: a worker ended with ")
    assert str(failed.value).endswith(". Nothing was published; build it again.")
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == []
    assert not list(world.layout.tmp.iterdir())


@pytest.mark.ray
def test_a_worker_that_dies_is_replaced_and_its_shard_tried_again(world: World, ray_session) -> None:
    killed: list[int] = []

    def kill_once(done: int, rows: int) -> None:
        if not killed:
            for process in psutil.Process().children(recursive=True):
                if "_Builder" in " ".join(process.cmdline()):
                    killed.append(process.pid)
                    process.kill()

    _, manifest = build(world, shards=3, workers=1, progress=kill_once)
    assert len(killed) == 1
    assert [shard.rows for shard in manifest.shards] == [200, 200, 200]


@pytest.mark.ray
def test_more_workers_than_cpus_take_turns(world: World, ray_session) -> None:
    cpus = int(ray_session.cluster_resources()["CPU"])
    _, manifest = build(world, shards=cpus + 1, workers=cpus + 1)
    assert sum(shard.rows for shard in manifest.shards) == 600


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_build_gives_its_cpus_back_and_publishes_nothing(world: World, ray_session, workers: int) -> None:
    def interrupt(done: int, rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(world, shards=4, workers=workers, progress=interrupt)
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == []
    deadline = time.monotonic() + 30
    while ray_session.available_resources().get("CPU") != ray_session.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert build(world, shards=2, workers=workers)[0] == 1
