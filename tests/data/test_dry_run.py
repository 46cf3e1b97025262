"""A job that is tried on some of its rows: what it says, and that nothing is left of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.data.collection import CollectionTable
from raystore.data.dry_run import SAMPLE_ROWS, DryRun, _duration, _size, dry_run, sample_rows
from raystore.data.job import EmbedPlan
from raystore.data.readers import Reference
from raystore.data.readers import plan as plan_files
from raystore.errors import InvalidArguments, JobFailed
from raystore.vectors import Vectors
from tests.data.toy import KEY, ToyEncoder

CANARY = "canary-8c1f"
TOY = {ToyEncoder.fingerprint: ToyEncoder()}


def make_plan(table: CollectionTable, **changes: object) -> EmbedPlan:
    plan = EmbedPlan(
        collection=table.name,
        fingerprints=(ToyEncoder.fingerprint,),
        content="text",
        modality="text",
        id="id",
        subject=None,
        tenant=None,
        time=None,
        kept_types={},
        id_prefix="",
        check=False,
        start_version=table.version,
    )
    return replace(plan, **changes)


def parquet(path: Path, **columns: object) -> list[Reference]:
    pq.write_table(pa.table(columns), path)
    return plan_files([str(path)], 4, "test")[1]


def files_of(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_the_sample_comes_from_all_over_the_job(tickets: CollectionTable, tmp_path: Path) -> None:
    rows = 40_000
    references = parquet(tmp_path / "t.parquet", id=[str(n) for n in range(rows)], text=[f"text {n}" for n in range(rows)])
    sample = sample_rows(references, make_plan(tickets))
    assert sample.n_rows == SAMPLE_ROWS
    numbers = [int(i) for i in sample.columns["id"]]
    assert len(set(numbers)) == SAMPLE_ROWS
    assert min(numbers) == 0
    assert max(numbers) > rows * 0.7


def test_the_sample_is_bounded_in_bytes_too(
    tickets: CollectionTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.data.dry_run._SAMPLE_BYTES", 100_000)
    references = parquet(tmp_path / "t.parquet", id=[str(n) for n in range(300)], text=["x" * 10_000] * 300)
    assert sample_rows(references, make_plan(tickets)).n_rows == 16  # two readings of eight rows: 80 kB were too few


def test_rows_that_cannot_be_read_stay_so_in_the_sample(tickets: CollectionTable, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(n), "text": f"text {n}"}) for n in range(40)]
    lines[33] = "{no json " + CANARY
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    references = plan_files([str(tmp_path / "t.jsonl")], 1, "test")[1]
    assert sample_rows(references, make_plan(tickets)).unreadable == {33: "the line is no JSON object"}


def test_a_trial_counts_the_problems_and_leaves_nothing(tickets: CollectionTable, tmp_path: Path) -> None:
    texts: list[str | None] = [f"{CANARY} {n}" for n in range(100)]
    texts[7], texts[50] = None, CANARY * 20
    references = parquet(tmp_path / "t.parquet", id=[str(n) for n in range(100)], text=texts, product=["card"] * 100)
    plan = make_plan(tickets, kept_types={"product": "string"})
    before = files_of(tickets.layout.root)
    found = dry_run(tickets, plan, TOY, KEY, sample_rows(references, plan), files=1, rows=2_000_000, known=100)
    assert files_of(tickets.layout.root) == before
    assert list(tickets.layout.tmp.iterdir()) == []
    assert (found.rows, found.known, found.sampled, found.set_aside) == (2_000_000, 100, 100, 2)
    assert found.reasons == {"the text has 220 characters, over the limit of 100": 1, "the text is null": 1}
    assert found.vector_bytes == 2_000_000 * 3 * 4
    assert found.seconds_left == pytest.approx(2_000_000 / found.rows_per_s)
    assert found.device == "toy on cpu"
    assert CANARY not in str(found)


def test_a_trial_of_an_encoder_that_fails_on_every_row_fails_as_the_job_would(
    tickets: CollectionTable, tmp_path: Path
) -> None:
    class Broken(ToyEncoder):
        """Fails on whatever it is given."""

        def encode(self, texts: Sequence[str]) -> Vectors:
            raise RuntimeError(CANARY + texts[0])

    references = parquet(tmp_path / "t.parquet", id=[str(n) for n in range(20)], text=["x"] * 20)
    plan = make_plan(tickets)
    with pytest.raises(JobFailed, match="so it is not the rows"):
        dry_run(tickets, plan, {Broken.fingerprint: Broken()}, KEY, sample_rows(references, plan), files=1, rows=20)
    assert list(tickets.layout.tmp.iterdir()) == []


def test_a_job_without_rows_left_is_not_tried(tickets: CollectionTable) -> None:
    found = dry_run(tickets, make_plan(tickets), TOY, KEY, sample_rows([], make_plan(tickets)), files=2, rows=0, known=9)
    assert found == DryRun("tickets", 2, 0, 9, 0, 0)
    assert str(found) == "tickets: 0 rows to embed, 9 known already; nothing was tried"


def test_a_trial_says_what_the_job_would_be() -> None:
    found = DryRun(
        "tickets", 3, 1_000_000, 0, 256, 2, {"the text is null": 2}, 431.4, 2318.0, 1_536_000_000, "openvino on cpu"
    )
    assert str(found) == (
        "tickets: 1,000,000 rows to embed; 256 tried (2 would be set aside) at 431 rows/s in one process, openvino on cpu: "
        "39 min to go, 1.5 GB of vectors; nothing was written"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (90, "90 s"), (1_500, "25 min"), (12_600, "3.5 h"), (60 * 3_600, "2 days"), (90_000 * 60, "62 days")],
)
def test_durations_are_said_in_the_unit_they_are_read_in(seconds: float, said: str) -> None:
    assert _duration(seconds) == said


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(0, "0 B"), (900, "900 B"), (1_536, "1.5 kB"), (46_080_000_000, "46 GB"), (5 * 10**16, "50,000 TB")],
)
def test_sizes_are_said_in_the_unit_they_are_read_in(n_bytes: int, said: str) -> None:
    assert _size(n_bytes) == said


@pytest.fixture
def real(tmp_path: Path, tiny_model: Path) -> Collection:
    store = raystore.open(tmp_path / "a store")
    store.encoders.register("tiny", model=str(tiny_model))
    return store.create_collection("tickets", encoder="tiny")


def test_the_store_is_as_before_and_the_job_then_runs_as_foretold(real: Collection, tmp_path: Path) -> None:
    rows = [{"ticket": n, "body": f"card {n}" if n % 10 else "", "product": "card"} for n in range(300)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {"text": "body", "id": "ticket", "keep": ["product"]}
    before = files_of(real._store.root)
    found = real.embed(tmp_path / "t.jsonl", dry_run=True, **job)
    assert files_of(real._store.root) == before
    assert (found.files, found.rows, found.known) == (1, 300, 0)
    assert 16 < found.sampled <= SAMPLE_ROWS
    assert found.reasons == {"the text is empty": found.set_aside}
    assert found.vector_bytes == 300 * 32 * 4
    assert found.rows_per_s > 0
    assert json.dumps(dataclasses.asdict(found))
    assert real.columns == {}
    assert real.jobs() == []
    report = real.embed(tmp_path / "t.jsonl", workers=0, **job)
    assert (report.added, report.reasons) == (270, {"the text is empty": 30})


def test_a_trial_refuses_what_the_job_would_refuse(real: Collection, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,text,vec_1\n1,hello,x\n")
    with pytest.raises(InvalidArguments, match="has no column 'body'"):
        real.embed(tmp_path / "t.csv", text="body", id="id", dry_run=True)
    with pytest.raises(InvalidArguments, match="'vec_1' is no column name"):
        real.embed(tmp_path / "t.csv", text="text", id="id", keep=["vec_1"], dry_run=True)
