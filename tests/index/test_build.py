from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.data.collection import CollectionTable
from raystore.errors import CollectionNotFound, DiskFull, IndexNotFound, InvalidArguments, JobFailed, PassportMismatch
from raystore.index.build.budget import MOST_SHARDS, fewest_shards, over_budget, shard_bytes
from raystore.index.build.plan import split_row_ids
from raystore.index.build.run import build_index, open_shard, repair
from raystore.index.kinds import KINDS
from raystore.index.manifest import latest, read_manifest
from raystore.index.source import ROW_ID_END
from raystore.layout import numbers
from tests.waiting import soon

from .conftest import DIM, FINGERPRINT, OTHER, World, clustered


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


def test_a_kind_that_cannot_reach_the_recall_says_so(empty_world: World, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).standard_normal((2_000, DIM)).astype(np.float32)
    empty_world.add(noise / np.linalg.norm(noise, axis=1, keepdims=True))  # no clusters: four bits a part tell little
    _, manifest = build(empty_world, kind="ivf_pqfs", target_recall=0.999)
    assert manifest.recall is not None
    assert manifest.recall < 0.999
    assert caplog.messages == [
        f"index 1 over 'tickets' (ivf_pqfs) finds {100 * manifest.recall:.1f}% of the 10 nearest of its own rows, not the 99.9% it was "
        "asked for, at the most that kind gives here; another kind may: collection.tune_index()"
    ]


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
        build(
            empty_world, shards=0, kind="flat", metric="hamming", memory=0, target_recall=95, home="s3://b", workers=-1,
            served="cloud", replicas=0, fold_rows=0, fold_after_s=-1, cache_bytes=-1,
        )  # fmt: skip
    assert str(bad.value) == (
        "build_index of collection 'tickets': shards is 0, expected a number from 1, or None for as many as memory asks for; "
        "kind is 'flat', expected 'exact' or 'ivf' or 'ivf_fp16' or 'ivf_sq8' or 'ivf_pq' or 'ivf_pqfs' or 'ivf_rabitq' or "
        "'hnsw' or 'disk'; metric is 'hamming', expected 'cosine' or 'ip' or 'l2'; "
        "memory is 0, expected a number of bytes from 1, or None for no limit; "
        "target_recall is 95, expected more than 0 and at most 1; "
        "home is 's3://b', expected an address such as 's3://bucket/indexes' with kind='disk', or None; "
        "workers is -1, expected a number from 0 (0 is this process); served is 'cloud', expected 'inline' or 'actors'; "
        "replicas is 0, expected a number from 1; fold_rows is 0, expected a number from 1; "
        "fold_after_s is -1, expected more than 0 seconds; cache_bytes is -1, expected a number from 0; "
        "collection 'tickets' has no rows yet, embed some first."
    )
    with pytest.raises(InvalidArguments, match="replicas is 2, but served='inline' has one, use served='actors'"):
        build(empty_world, replicas=2)
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


def answers(world: World, number: int, queries: np.ndarray, k: int = 10) -> list[set[str]]:
    """The ids nearest to each query over all shards of an index, read from its files."""
    manifest = read_manifest(world.layout, "tickets", FINGERPRINT, number)
    near: list[list[tuple[float, str]]] = [[] for _ in queries]
    for place in range(len(manifest.shards)):
        shard, problem = open_shard(world.table, world.layout, number, manifest, place)
        assert problem is None
        found = shard.search(np.asarray(queries), k)
        names = shard.names_of(found.rows)
        for line, rows, scores in zip(near, found.rows.tolist(), found.scores.tolist(), strict=True):
            line += [(-score, names[row]) for row, score in zip(rows, scores, strict=True) if row >= 0]
    return [{name for _, name in sorted(line)[:k]} for line in near]


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_ray_workers_build_what_this_process_builds(world: World, ray_session, queries, kind: str) -> None:
    here, inline = build(world, shards=3, kind=kind)
    there, spread = build(world, shards=3, kind=kind, workers=2)
    assert (here, there) == (1, 2)
    if kind == "exact":
        assert inline.shards == spread.shards
        assert answers(world, here, queries) == answers(world, there, queries)


def test_a_full_disk_is_said_and_nothing_is_published(world: World, monkeypatch) -> None:
    def full(index: object, path: str) -> None:
        raise RuntimeError(f"Error: 'ret == n' failed: write error in {path}: 1 != 9 (No space left on device)")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(DiskFull, match=r"no space left on the disk of .* while writing shard-0000\.faiss"):
        build(world, kind="ivf")
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == []
    assert not list(world.layout.tmp.iterdir())


class Interrupted(Exception):
    """What a test raises in the middle of a build."""


def stop_after(parts: int):
    seen: list[tuple[int, int]] = []

    def progress(done: int, rows: int) -> None:
        seen.append((done, rows))
        if len(seen) == parts:
            raise Interrupted

    return progress


def test_a_build_that_was_stopped_goes_on_from_its_finished_shards(world: World) -> None:
    with pytest.raises(Interrupted):
        build(world, shards=4, progress=stop_after(3))
    (stage,) = world.layout.tmp.glob("index-*")
    kept = {path.name: path.stat().st_mtime_ns for path in (stage / "files").iterdir()}
    begun = world.table.version
    world.add(clustered(5, 9))  # comes after the version that was pinned
    seen: list[tuple[int, int]] = []
    number, manifest = build(world, shards=4, progress=lambda done, rows: seen.append((done, rows)))
    assert seen == [(450, 600), (600, 600)]
    assert (manifest.version, [record.as_of for record in manifest.shards]) == (begun, [begun] * 4)
    folder = world.layout.indexes("tickets", FINGERPRINT) / str(number)
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(world.layout.tmp.iterdir())


def test_other_arguments_begin_a_build_of_their_own(world: World) -> None:
    with pytest.raises(Interrupted):
        build(world, shards=4, progress=stop_after(1))
    seen: list[tuple[int, int]] = []
    build(world, shards=3, progress=lambda done, rows: seen.append((done, rows)))
    assert seen == [(200, 600), (400, 600), (600, 600)]


def test_a_finished_shard_that_is_damaged_is_written_again(world: World, queries) -> None:
    with pytest.raises(Interrupted):
        build(world, shards=4, progress=stop_after(3))
    (stage,) = world.layout.tmp.glob("index-*")
    (stage / "files" / "shard-0001.rows.arrow").write_bytes(b"cut short")
    seen: list[int] = []
    number, _ = build(world, shards=4, progress=lambda done, rows: seen.append(done))
    assert seen == [300, 450, 600]
    assert answers(world, number, queries, 5) == [set(line) for line in world.truth(queries, 5)]


def test_what_another_collection_of_the_name_left_is_not_gone_on_from(world: World) -> None:
    with pytest.raises(Interrupted):
        build(world, shards=2, progress=stop_after(1))
    shutil.rmtree(world.layout.collection("tickets"))
    table = CollectionTable.create(world.layout, "tickets", {FINGERPRINT: DIM}, {"product": "string"})
    made_again = World(world.layout, table)
    made_again.add(clustered(300, 7))
    made_again.add(clustered(300, 8))
    seen: list[int] = []
    build(made_again, shards=2, progress=lambda done, rows: seen.append(done))
    assert seen == [300, 600]


def test_a_killed_process_leaves_what_it_finished_and_the_next_goes_on(world: World) -> None:
    """SIGKILL, so that nothing is cleaned up but by the kernel."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from raystore.data.collection import CollectionTable; from raystore.index.build.run import build_index\n"
        "from raystore.layout import Layout; layout = Layout(Path(sys.argv[1]))\n"
        "def die(done, rows):\n    if done >= 300: os.kill(os.getpid(), signal.SIGKILL)\n"
        "table = CollectionTable.open(layout, 'tickets')\n"
        "build_index(table, layout, 'tickets', sys.argv[2], shards=4, kind='ivf_sq8', progress=die)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(world.layout.root), FINGERPRINT], timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == []
    seen: list[int] = []
    number, manifest = build(world, shards=4, kind="ivf_sq8", progress=lambda done, rows: seen.append(done))
    assert seen == [300, 450, 600]
    assert (number, [record.rows for record in manifest.shards]) == (1, [150, 150, 150, 150])


def test_a_second_builder_of_the_same_index_is_told_of_the_first(world: World) -> None:
    said: list[str] = []

    def build_beside(done: int, rows: int) -> None:
        with pytest.raises(JobFailed) as busy:
            build(world, shards=2)
        said.append(str(busy.value))

    build(world, shards=2, progress=build_beside)
    assert said[0] == (
        "build_index of collection 'tickets' failed: another process is at the very same work. "
        "Wait for it to end, or end it: the next call goes on from where it was."
    )
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [1]


def test_work_that_nobody_took_up_for_a_day_is_given_up(world: World) -> None:
    with pytest.raises(Interrupted):
        build(world, shards=4, progress=stop_after(1))
    (stage,) = world.layout.tmp.glob("index-*")
    os.utime(stage / "lock", (0, 0))
    build(world, shards=2)
    assert not list(world.layout.tmp.iterdir())


def test_the_big_files_of_a_disk_index_go_home_and_are_read_and_mended_there(world: World, queries, tmp_path) -> None:
    home = (tmp_path / "the bucket").as_uri().replace("%20", " ")
    number, manifest = build(world, shards=2, kind="disk", home=home)
    lying = sorted(path.name for path in (tmp_path / "the bucket" / "tickets" / FINGERPRINT[:12]).glob("*/*"))
    assert lying == ["shard-0000.lists", "shard-0000.vectors", "shard-0001.lists", "shard-0001.vectors"]
    folder = world.layout.indexes("tickets", FINGERPRINT) / str(number)
    assert not [path for path in folder.iterdir() if path.suffix in (".vectors", ".lists")]
    truth = [set(line) for line in world.truth(queries, 10)]
    shared = sum(len(a & b) for a, b in zip(truth, answers(world, number, queries), strict=True))
    assert shared >= 0.9 * 10 * len(queries)
    first = manifest.shards[0]
    assert first.home is not None
    Path(first.home.removeprefix("file://"), "shard-0000.vectors").unlink()
    fresh, whole = repair(world.table, world.layout, number, manifest, [0])
    assert whole.shards[0].home not in (None, first.home)
    assert whole.shards[1] == manifest.shards[1]
    assert len(answers(world, fresh, queries)) == len(queries)


def test_a_budget_decides_how_many_shards_there_are(world: World) -> None:
    _, manifest = build(world, shards=None, kind="ivf", memory=30_000)
    assert len(manifest.shards) == fewest_shards("ivf", DIM, 600, 30_000) > 1
    assert all(record.memory_bytes <= 30_000 for record in manifest.shards)
    _, whole = build(world, shards=None, kind="ivf")
    assert len(whole.shards) == 1


def test_a_budget_that_cannot_be_met_names_the_nearest_that_can(world: World) -> None:
    with pytest.raises(InvalidArguments) as few:
        build(world, shards=1, kind="ivf", memory=30_000)
    assert str(few.value) == (
        "build_index of collection 'tickets': memory is 30,000 bytes a shard, and one of 600 rows of kind 'ivf' takes 46,394; "
        "the nearest that can: shards=2 of kind 'ivf' or kind='ivf_fp16' with shards=1."
    )
    with pytest.raises(InvalidArguments) as none:
        build(world, shards=None, kind="hnsw", memory=100)
    assert str(none.value).startswith(
        "build_index of collection 'tickets': memory is 100 bytes a shard, and one of 1 rows "
    )
    assert "the nearest that can: kind=" in str(none.value)


@given(
    kind=st.sampled_from(KINDS), dim=st.integers(1, 64).map(lambda n: 8 * n), rows=st.integers(1, 10**9),
    memory=st.integers(1, 2**36),
)  # fmt: skip
def test_the_fewest_shards_fit_and_one_fewer_does_not(kind: str, dim: int, rows: int, memory: int) -> None:
    fewest = fewest_shards(kind, dim, rows, memory)
    if fewest is None:
        assert shard_bytes(kind, dim, -(-rows // min(rows, MOST_SHARDS))) > memory
        assert "the nearest that can: kind=" in (over_budget(kind, dim, rows, None, memory) or "")
        return
    assert shard_bytes(kind, dim, -(-rows // fewest)) <= memory
    assert fewest == 1 or shard_bytes(kind, dim, -(-rows // (fewest - 1))) > memory
    assert over_budget(kind, dim, rows, fewest, memory) is None


class Remembered:
    """What build_index asks of the collection in this process; the workers read the real one."""

    def __init__(self, world: World) -> None:
        self.version, self._row_ids = world.table.version, world.table.row_ids()

    def dim(self, fingerprint: str) -> int:
        return 16

    def row_ids(self, where: str | None = None, as_of: int | None = None) -> np.ndarray:
        return self._row_ids

    def with_vector(self, fingerprint: str, row_ids: np.ndarray) -> np.ndarray:
        return row_ids


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
    assert str(failed.value).endswith(
        ". Nothing was published; call it again, it goes on from the shards that are finished."
    )
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
    soon(lambda: ray_session.available_resources().get("CPU") == ray_session.cluster_resources()["CPU"])
    assert build(world, shards=2, workers=workers)[0] == 1
