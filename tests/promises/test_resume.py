"""A job killed anywhere goes on where it stopped: each row once, the same vectors, at most one batch a worker done again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import raystore
from tests.promises.kills import (
    EMBED_IMAGES,
    Job,
    Outcome,
    Source,
    kill_until_done,
    new_store,
    outcome,
    vectors,
    write_source,
    write_tar,
)

ROWS = 1_500


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(tmp_path_factory.mktemp("source") / "it's a source.parquet", ROWS)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, source: Source) -> dict[str, np.ndarray]:
    """The vectors of a run that nobody killed."""
    root = tmp_path_factory.mktemp("unbroken") / "store"
    new_store(root, tiny_model)
    report = raystore.open(root).collection("tickets").embed(source.path, text="body", id="id", keep=["n"], workers=0)
    assert (report.added, report.set_aside, report.known) == (len(source.ids), source.bad, source.repeated)
    return vectors(root)


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path, source: Source) -> Callable[..., Job]:
    def make(workers: int = 0) -> Job:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        new_store(folder / "a store", tiny_model)
        return Job(folder / "a store", source, folder / "job", workers)

    return make


def assert_whole(job: Job, expected: dict[str, np.ndarray]) -> Outcome:
    found = outcome(job)
    assert (found.duplicates, found.losses, found.strangers) == (0, 0, 0)
    assert found.set_aside == job.source.bad
    assert found.done_again_after_commit == 0
    assert found.done_again <= found.kills * max(1, job.workers) * found.largest_batch
    held = vectors(job.root)
    assert held.keys() == expected.keys()
    same = [float(held[id_] @ expected[id_]) for id_ in expected]
    assert min(same) > 0.9999
    return found


def test_a_driver_killed_three_times_leaves_each_row_once(job: Callable[..., Job], unbroken: dict[str, np.ndarray]) -> None:
    broken = job()
    for wait_s in (0.0, 0.15, 0.3):
        assert broken.killed_after(wait_s)
    read, added, known, set_aside = broken.run_to_the_end()
    assert read == added + known + set_aside == len(broken.source.ids) + broken.source.repeated + broken.source.bad
    assert added < len(broken.source.ids)
    assert_whole(broken, unbroken)


def test_a_finished_job_encodes_nothing_when_run_again(tmp_path: Path, tiny_model: Path) -> None:
    new_store(tmp_path / "a store", tiny_model)
    source = write_source(tmp_path / "few.parquet", 60, seed=1)
    again = Job(tmp_path / "a store", source, tmp_path / "job")
    again.run_to_the_end()
    before = again.batches()
    assert sum(map(len, (b for done in before.values() for b in done))) == len(source.ids)
    assert again.run_to_the_end()[1] == 0
    assert again.batches() == before


@pytest.mark.slow
def test_a_driver_killed_at_twenty_random_moments_leaves_each_row_once(
    job: Callable[..., Job], unbroken: dict[str, np.ndarray]
) -> None:
    """A job that ends before it was killed twenty times is followed by another, in a store of its own."""
    kills = 0
    while kills < 20:
        broken = job()
        kill_until_done(broken, 20 - kills, random.Random())
        kills += assert_whole(broken, unbroken).kills


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_on_ray_killed_twice_leaves_each_row_once(
    job: Callable[..., Job], unbroken: dict[str, np.ndarray]
) -> None:
    broken = job(workers=2)
    rng = random.Random()
    collection = raystore.open(broken.root).collection("tickets")
    for _ in range(2):
        assert broken.killed_after(rng.uniform(0, 0.5))
        before = len(collection)
        broken.wait_for_workers()
        # What was under way is committed, and no worker goes on for a driver that is gone.
        assert len(collection) - before <= 2 * broken.workers * outcome(broken).largest_batch
    broken.run_to_the_end()
    assert_whole(broken, unbroken)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_over_a_tar_of_images_killed_twice_leaves_each_row_once(tmp_path: Path, tiny_vit: Path) -> None:
    source = write_tar(tmp_path / "it's photos.tar", 2_000)
    new_store(tmp_path / "whole", tiny_vit)
    report = raystore.open(tmp_path / "whole").collection("tickets").embed(source.path, workers=0)
    assert (report.added, report.reasons) == (len(source.ids), {"the image is cut off": source.bad})
    new_store(tmp_path / "a store", tiny_vit)
    broken = Job(tmp_path / "a store", source, tmp_path / "job", workers=2, driver=EMBED_IMAGES)
    for _ in range(2):
        assert broken.killed_after(0.0)  # while the first batches of the run are encoded
        broken.wait_for_workers()
    read, added, known, set_aside = broken.run_to_the_end()
    assert read == added + known + set_aside == 2_000
    assert len(broken.killed) == 2
    found = assert_whole(broken, vectors(tmp_path / "whole"))
    assert found.rows == len(source.ids)


@pytest.mark.ray
def test_a_worker_that_is_killed_is_replaced_and_the_job_ends_well(
    job: Callable[..., Job], unbroken: dict[str, np.ndarray], ray_session: object
) -> None:
    broken = job(workers=2)
    collection = raystore.open(broken.root).collection("tickets")
    done, killed = threading.Event(), threading.Event()

    def kill_one() -> None:
        while len(collection) < 50 and not done.wait(0.005):
            pass
        if not done.is_set():
            workers()[0].kill()
            killed.set()

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        report = collection.embed(broken.source.path, text="body", id="id", keep=["n"], workers=2)
    finally:
        done.set()
        killer.join()
    assert killed.is_set()
    assert report.workers == 2
    assert report.read == report.added + report.known + report.set_aside
    assert_whole(broken, unbroken)


def workers() -> list[psutil.Process]:
    """The embedding workers of the Ray this process started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_real_questions_and_a_real_model_survive_kills(tmp_path: Path, datasets: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(datasets / "banking77" / "test.parquet").slice(0, 2_000)
    texts = table.column("text").to_pylist()
    ids = [f"q-{n}" for n in range(len(texts))]
    path = tmp_path / "questions.parquet"
    bodies = [f"{id_} {text}" for id_, text in zip(ids, texts, strict=True)]
    pq.write_table(pa.table({"id": ids, "body": bodies, "n": list(range(len(ids)))}), path)
    source = Source(path, ids, repeated=0, bad=0)
    new_store(tmp_path / "whole", "minilm")
    raystore.open(tmp_path / "whole").collection("tickets").embed(path, text="body", id="id", keep=["n"], workers=0)
    new_store(tmp_path / "a store", "minilm")
    broken = Job(tmp_path / "a store", source, tmp_path / "job")
    rng = random.Random()
    for _ in range(4):
        broken.killed_after(rng.uniform(0, 4))
    broken.run_to_the_end()
    assert_whole(broken, vectors(tmp_path / "whole"))
