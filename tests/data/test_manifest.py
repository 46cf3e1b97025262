"""What a job leaves behind of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raystore.data.job import EmbedCounts
from raystore.data.manifest import JobFile, JobRecord, RunningJob, SourceColumns, read_jobs
from raystore.errors import StoreUnusable
from raystore.layout import Layout

COLUMNS = SourceColumns(text="body", id="ticket", keep=("product",))
RECORD = JobRecord(
    kind="embed", started="2026-11-20T10:00:00Z", encoder="toy@ab12ab12ab12", fingerprint="ab12" * 16, columns=COLUMNS,
    id_prefix="mail/", files=(JobFile(path="/data/it's ä.parquet", rows=3, size_bytes=7, modified=None),),
)  # fmt: skip


def test_a_job_that_ended_says_what_became_of_its_rows_and_who_encoded_them(layout: Layout) -> None:
    with RunningJob(layout, "tickets", RECORD) as job:
        (running,) = read_jobs(layout, "tickets")
        assert running == RECORD.model_copy(update={"number": 1})
        job.workers = 2
        job.counts.add(EmbedCounts(3, added=1, set_aside=2, reasons={"b": 1, "a": 1}, encoded_by={"openvino on cpu": 1}))
    (ended,) = read_jobs(layout, "tickets")
    assert ended.ended is not None
    assert ended.counts == {"read": 3, "added": 1, "filled": 0, "known": 0, "absent": 0, "set_aside": 2}
    assert (ended.reasons, ended.workers, ended.encoded_by) == ({"a": 1, "b": 1}, 2, {"openvino on cpu": 1})
    assert ended.columns == COLUMNS
    assert (ended.failed, ended.files) == (None, RECORD.files)


def test_a_job_that_was_killed_leaves_its_record_without_an_end(layout: Layout) -> None:
    with pytest.raises(KeyboardInterrupt), RunningJob(layout, "tickets", RECORD):
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="disk"), RunningJob(layout, "tickets", RECORD):
        raise OSError("the disk")
    killed, failed = read_jobs(layout, "tickets")
    assert (killed.number, killed.ended, killed.failed, killed.counts) == (1, None, None, {})
    assert (failed.number, failed.failed, failed.counts["read"]) == (2, "OSError", 0)
    assert failed.ended is not None


def test_jobs_at_once_get_numbers_of_their_own(layout: Layout) -> None:
    with RunningJob(layout, "tickets", RECORD) as first, RunningJob(layout, "tickets", RECORD) as second:
        first.counts.read, second.counts.read = 1, 2
    assert [(job.number, job.counts["read"]) for job in read_jobs(layout, "tickets")] == [(1, 1), (2, 2)]
    assert read_jobs(layout, "others") == []


def test_a_record_that_cannot_be_read_is_named(layout: Layout) -> None:
    with RunningJob(layout, "tickets", RECORD):
        pass
    path = layout.jobs("tickets") / "1.json"
    for damage in ("{", json.dumps({"kind": "embed"})):
        path.write_text(damage)
        with pytest.raises(StoreUnusable) as refused:
            read_jobs(layout, "tickets")
        assert str(refused.value) == (
            f"cannot open a store at '{layout.root}': the job record '{path}' cannot be read. "
            "Restore it from a backup, or remove it: then a further encoder does not know of its files."
        )


@pytest.mark.parametrize(("columns", "content"), [(COLUMNS, "body"), (replace(COLUMNS, text=None, image="photo"), "photo")])
def test_the_column_to_embed_is_the_one_that_was_named(columns: SourceColumns, content: str) -> None:
    assert (columns.content, columns.modality) == (content, "text" if columns.text else "image")


def test_no_path_is_made_by_asking_for_jobs(layout: Layout) -> None:
    read_jobs(layout, "tickets")
    assert not Path(layout.jobs("tickets")).exists()
