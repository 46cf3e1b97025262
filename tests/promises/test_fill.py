"""A second encoder's fill killed anywhere, or run twice at once: each row is filled once, and nothing else moves."""

from __future__ import annotations

from pathlib import Path

import pytest

import raystore
from tests.promises.kills import FILL, Job, Source, new_store, outcome, vectors, write_source

ROWS = 600


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(tmp_path_factory.mktemp("source") / "it's a source.parquet", ROWS)


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path, source: Source) -> Job:
    """A job that fills a second encoder's vectors into a collection that was embedded with the first."""
    root = tmp_path / "a store"
    new_store(root, tiny_model)
    store = raystore.open(root)
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    store.collection("tickets").embed(source.path, text="body", id="id", keep=["n"], workers=0)
    return Job(root, source, tmp_path / "job", driver=FILL)


def assert_filled(job: Job, before: list[tuple]) -> None:
    assert rows_of(job.root) == before
    assert len(vectors(job.root)) == len(job.source.ids)
    store = raystore.open(job.root)
    held = vectors(job.root, "short")
    sample = job.source.ids[::29]
    texts = {row["id"]: row["body"] for row in store_rows(job.source.path)}
    expected = store.encoder("short").encode([texts[id_] for id_ in sample])
    assert min(float(held[id_] @ row) for id_, row in zip(sample, expected, strict=True)) > 0.9999
    assert store.collection("tickets")._table.count_lacking(store.encoder("short").fingerprint) == 0


def store_rows(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return [row for row in pq.read_table(path).to_pylist() if row["id"]]


def rows_of(root: Path) -> list[tuple]:
    table = raystore.open(root).collection("tickets")._table.rows.dataset()
    rows = table.to_table(columns=["id", "n", "time", "_payload", "_added"], with_row_id=True)
    return sorted(zip(*(rows[c].to_pylist() for c in rows.column_names), strict=True))


def test_a_fill_that_was_killed_three_times_goes_on_and_fills_each_row_once(job: Job) -> None:
    before = rows_of(job.root)
    collection = raystore.open(job.root).collection("tickets")
    short = raystore.open(job.root).encoder("short").fingerprint
    for wait_s in (0.0, 0.05, 0.1):
        lacking = collection._table.count_lacking(short) if short in collection._table.fingerprints else len(collection)

        def has_filled(lacking: int = lacking) -> bool:
            return short in collection._table.fingerprints and collection._table.count_lacking(short) < lacking

        assert job.killed_after(wait_s, until=has_filled)
    lacking, filled, left, set_aside = job.run_to_the_end()
    assert (lacking, left, set_aside) == (filled, 0, 0)
    assert 0 < filled < len(job.source.ids)
    found = outcome(job)
    assert (found.duplicates, found.losses, found.strangers, found.done_again_after_commit) == (0, 0, 0, 0)
    assert found.done_again <= found.kills * found.largest_batch
    assert_filled(job, before)
    jobs = raystore.open(job.root).collection("tickets").jobs()
    assert [(j["kind"], j["ended"] is None) for j in jobs] == [("embed", False), *[("fill", True)] * 3, ("fill", False)]


def test_two_fills_at_once_fill_each_row_once(job: Job) -> None:
    before = rows_of(job.root)
    processes = [job.start(), job.start()]
    printed = [process.communicate(timeout=240)[0].split()[-4:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], (job.folder / "err").read_text()
    assert sum(int(figures[1]) for figures in printed) == len(job.source.ids)
    assert [figures[2:] for figures in printed][-1] == ["0", "0"]
    assert_filled(job, before)
