from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.data import job as job_module
from raystore.data.collection import CollectionTable
from raystore.data.embed import Embedder, is_done
from raystore.data.job import EmbedCounts, EmbedPlan
from raystore.data.readers import plan as plan_files
from raystore.data.set_aside import set_aside_table
from raystore.errors import JobFailed
from raystore.layout import Layout
from raystore.vectors import Vectors
from tests.data.toy import KEY, VECTORS, ToyEncoder, make_log

CANARY = "canary-8c1f"


def make_plan(table: CollectionTable, **changes: object) -> EmbedPlan:
    plan = EmbedPlan(
        collection="tickets",
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


class Job:
    """Embeds files as `ingest` does inline: one slice after the other."""

    def __init__(self, layout: Layout, table: CollectionTable) -> None:
        self.layout = layout
        self.table = table
        self.encoder = ToyEncoder()

    def run(self, *paths: Path, **changes: object) -> EmbedCounts:
        plan = make_plan(self.table, **changes)
        embedder, counts = Embedder(self.layout, plan, {self.encoder.fingerprint: self.encoder}, KEY), EmbedCounts()
        for reference in plan_files([str(p) for p in paths], 1, "test")[1]:
            counts.add(embedder.embed(reference))
        assert counts.added + counts.known + counts.set_aside == counts.read
        assert sum(counts.reasons.values()) == counts.set_aside
        return counts

    def aside(self) -> list[tuple]:
        rows = set_aside_table(self.layout, "tickets").dataset().to_table(columns=["source", "row", "id", "reason"])
        return sorted((Path(r["source"]).name, r["row"], r["id"], r["reason"]) for r in rows.to_pylist())

    def ids(self) -> list[str]:
        return self.table.to_arrow(["id"]).column("id").to_pylist()


@pytest.fixture
def job(layout: Layout, tickets: CollectionTable) -> Job:
    return Job(layout, tickets)


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_rows_are_embedded_with_what_is_kept_beside_them(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,text,who,where,when,price,product\n7,hello,c-1,de,2026-01-02,2,card\n8,e,,,,,\n")
    counts = job.run(path, subject="who", tenant="where", time="when", kept_types={"price": "float64", "product": "string"})
    assert counts == EmbedCounts(read=2, added=2)
    rows = job.table.to_arrow(["id", "subject", "tenant", "time", "price", "product", VECTORS]).to_pylist()
    assert [r["id"] for r in rows] == ["7", "8"]
    assert (rows[0]["subject"], rows[0]["tenant"], rows[0]["price"], rows[0]["product"]) == ("c-1", "de", 2.0, "card")
    assert rows[0]["time"].isoformat() == "2026-01-02T00:00:00+00:00"
    assert (rows[1]["time"], rows[1]["price"], rows[1]["product"]) == (None, None, "")
    assert rows[1][VECTORS] == pytest.approx([3**-0.5] * 3)


def test_rows_that_cannot_be_embedded_are_set_aside_with_the_reason(job: Job, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "fine"},
        {"id": "b", "text": None},
        {"id": "c", "text": "  "},
        {"id": "d", "text": 7},
        {"id": "e", "text": CANARY * 100},
        {"id": None, "text": "x"},
        {"id": "", "text": "x"},
        {"id": 1.5, "text": "x"},
        {"id": True, "text": "x"},
        {"id": "y" * 513, "text": "x"},
        "{no json " + CANARY,
        {"id": "a", "text": "fine"},
        {"id": "a", "text": "else " + CANARY},
        {"id": "f", "text": "x", "price": CANARY},
        {"id": "g", "text": "x", "when": CANARY},
        {"id": "h", "text": "a\ud800"},
        {"id": 12, "text": "an integer"},
        {"text": "no id"},
        {"id": "i", "text": "x", "n": 2**70},
    ]
    path = jsonl(tmp_path / "t.jsonl", rows)
    counts = job.run(path, time="when", kept_types={"price": "float64", "n": "int64"})
    assert (counts.read, counts.added, counts.known, counts.set_aside) == (19, 2, 1, 16)
    assert job.ids() == ["a", "12"]
    assert job.aside() == [
        ("t.jsonl", 1, "b", "the text is null"),
        ("t.jsonl", 2, "c", "the text is empty"),
        ("t.jsonl", 3, "d", "the text is int, expected a string"),
        ("t.jsonl", 4, "e", "the text has 1100 characters, over the limit of 100"),
        ("t.jsonl", 5, None, "the id is null"),
        ("t.jsonl", 6, None, "the id has 0 characters, expected 1 to 512"),
        ("t.jsonl", 7, None, "the id is float, expected a string"),
        ("t.jsonl", 8, None, "the id is bool, expected a string"),
        ("t.jsonl", 9, None, "the id has 513 characters, expected 1 to 512"),
        ("t.jsonl", 10, None, "the line is no JSON object"),
        ("t.jsonl", 12, "a", "the id is known with another content"),
        ("t.jsonl", 13, "f", "column 'price' does not read as float64"),
        ("t.jsonl", 14, "g", "column 'when' is no ISO 8601 time"),
        ("t.jsonl", 15, "h", "the text is not valid Unicode (files are read as UTF-8)"),
        ("t.jsonl", 17, None, "the id is null"),
        ("t.jsonl", 18, "i", "column 'n' is beyond 64 bits"),
    ]
    assert counts.reasons["the id is null"] == 2
    assert_nowhere(job.layout, CANARY)


def assert_nowhere(layout: Layout, canary: str) -> None:
    files = [p for p in layout.root.rglob("*") if p.is_file()]
    assert len(files) > 5
    assert [str(p) for p in files if canary.encode() in p.read_bytes()] == []


def test_a_second_run_adds_nothing_encodes_nothing_and_lists_nothing_twice(job: Job, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"id": "a", "text": "one"}, {"id": "b", "text": None}, {"id": "c", "text": "two"}])
    job.run(path)
    version, listed, encoded = job.table.version, job.aside(), list(job.encoder.encoded)
    counts = job.run(path)
    assert (counts.read, counts.added, counts.known, counts.set_aside) == (3, 0, 2, 1)
    assert (job.table.version, job.aside(), job.encoder.encoded) == (version, listed, encoded)


def test_a_slice_whose_ids_are_all_known_is_not_read(job: Job, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", id=["a", "b"], text=["one", "two"])
    job.run(path)
    plan = make_plan(job.table)
    ((reference,),) = [plan_files([str(path)], 1, "test")[1]]
    assert is_done(reference, plan, job.table.rows)
    assert not is_done(reference, replace(plan, check=True), job.table.rows)
    parquet(path, id=["a", "b"], other=["one", "two"])  # the text is not even there any more
    assert job.run(path) == EmbedCounts(read=2, known=2)
    parquet(path, id=["a", "b", "a"], text=["one", "two", "three"])
    assert job.run(path) == EmbedCounts(read=3, known=3)  # what is known is skipped without a look


def test_two_files_of_one_job_that_use_the_same_ids_for_other_texts_lose_nothing_silently(job: Job, tmp_path: Path) -> None:
    first = parquet(tmp_path / "january.parquet", id=["1", "2", "3"], text=["one", "two", "three"])
    second = parquet(tmp_path / "february.parquet", id=["1", "2", "3"], text=["uno", "two", "tres"])
    counts = job.run(first, second)
    assert (counts.added, counts.known, counts.set_aside) == (3, 1, 2)
    assert job.aside() == [
        ("february.parquet", 0, "1", "the id is known with another content"),
        ("february.parquet", 2, "3", "the id is known with another content"),
    ]


def test_a_file_that_was_replaced_lists_its_new_failures_beside_the_old_ones(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    job.run(parquet(path, id=["a"], text=[""]))
    job.run(parquet(path, id=["b"], text=[None]))
    assert job.aside() == [("t.parquet", 0, "a", "the text is empty"), ("t.parquet", 0, "b", "the text is null")]


def test_an_encoder_that_fails_on_every_row_ends_the_job_and_sets_none_aside(job: Job, tmp_path: Path) -> None:
    job.encoder = Failing()
    with pytest.raises(JobFailed) as failed:
        job.run(parquet(tmp_path / "t.parquet", id=list("abcdefghij"), text=[f"boom {CANARY}"] * 10))
    assert str(failed.value) == (
        "embedding into 'tickets' failed: the encoder failed on each of 10 rows (ValueError), so it is not the rows. None of "
        "them was set aside. Mend the encoder ('raystore encoder verify') and run the same call again."
    )
    assert job.aside() == []


def test_check_finds_the_rows_that_changed(job: Job, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", id=["a", "b", "c"], text=["one", "two", "three"], product=["x", "y", "z"])
    kept = {"kept_types": {"product": "string"}}
    job.run(path, **kept)
    parquet(path, id=["a", "b", "c", "d"], text=["one", "changed", "three", "four"], product=["x", "y", "changed", "w"])
    counts = job.run(path, check=True, **kept)
    assert (counts.read, counts.added, counts.known, counts.set_aside) == (4, 1, 1, 2)
    reason = "the id is known with another content"
    assert job.aside() == [("t.parquet", 1, "b", reason), ("t.parquet", 2, "c", reason)]
    assert job.table.to_arrow(["id", "product"]).column("product").to_pylist() == ["x", "y", "z", "w"]
    unchanged = job.run(path, check=True, **kept)
    assert (unchanged.added, unchanged.known, unchanged.set_aside) == (0, 2, 2)
    assert len(job.aside()) == 2


def test_a_row_that_was_logged_is_the_same_row_in_a_file(job: Job, tmp_path: Path) -> None:
    make_log(job.table).log([{"id": "a", "subject": "c-1", "text": "one", "product": "card", "n": None}])
    path = parquet(tmp_path / "t.parquet", id=["a"], text=["one"], who=["c-1"], product=["card"])
    counts = job.run(path, check=True, subject="who", kept_types={"product": "string"})
    assert counts == EmbedCounts(read=1, known=1)


def test_integer_ids_become_their_decimal_digits(job: Job, tmp_path: Path) -> None:
    job.run(parquet(tmp_path / "t.parquet", id=[7, -1, 2**62], text=["a", "b", "c"]))
    assert job.ids() == ["7", "-1", str(2**62)]


def test_ids_are_made_of_file_name_and_row_where_there_is_no_column(job: Job, tmp_path: Path) -> None:
    first = jsonl(tmp_path / "one.jsonl", [{"text": "a"}, {"text": None}, {"text": "c"}])
    second = parquet(tmp_path / "two.parquet", text=["d"])
    counts = job.run(first, second, id=None)
    assert job.ids() == ["one:0", "one:2", "two:0"]
    assert job.aside() == [("one.jsonl", 1, "one:1", "the text is null")]
    assert counts.added == 3
    assert job.run(first, second, id=None).added == 0


def test_a_prefix_stands_before_every_id(job: Job, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", id=[1, 2, None], text=["a", "b", "c"])
    job.run(path, id_prefix="mail/")
    job.run(path, id_prefix="chat/", id=None)
    assert job.ids() == ["mail/1", "mail/2", "chat/t:0", "chat/t:1", "chat/t:2"]
    assert job.aside() == [("t.parquet", 2, None, "the id is null")]


class Failing(ToyEncoder):
    """Fails on a batch that holds a marked text, quoting it as careless encoders do; or gives it no direction."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        for text in texts:
            if "boom" in text:
                raise ValueError(f"cannot encode {text!r}")
            if "bug" in text:
                raise KeyError(text)
        vectors = super().encode(texts)
        for row, text in enumerate(texts):
            if "zero" in text:
                vectors[row] = 0
            if "nan" in text:
                vectors[row, 0] = float("nan")
        return vectors


def test_a_row_the_encoder_fails_on_is_set_aside_without_its_text(job: Job, tmp_path: Path) -> None:
    job.encoder = Failing()
    texts = ["fine", f"boom {CANARY}", f"zero {CANARY}", "fine too", f"nan {CANARY}"]
    counts = job.run(parquet(tmp_path / "t.parquet", id=list("abcde"), text=texts))
    assert (counts.added, counts.set_aside) == (2, 3)
    assert job.ids() == ["a", "d"]
    assert job.aside() == [
        ("t.parquet", 1, "b", "the encoder failed on it (ValueError)"),
        ("t.parquet", 2, "c", "its vector is zero"),
        ("t.parquet", 4, "e", "its vector holds NaN or infinity"),
    ]
    assert_nowhere(job.layout, CANARY)


def test_what_nobody_foresaw_ends_the_job_without_the_text(job: Job, tmp_path: Path) -> None:
    job.encoder = Failing()
    path = parquet(tmp_path / "t.parquet", id=["a", "b"], text=["fine", f"bug {CANARY}"])
    with pytest.raises(JobFailed) as failed:
        job.run(path)
    said = str(failed.value)
    assert said.startswith(f"embedding rows 0 to 1 of '{path}' failed: KeyError at test_embed.py:")
    assert said.endswith(". What is committed is safe: run the same call again, it goes on where it stopped.")
    assert CANARY not in said
    assert failed.value.__cause__ is failed.value.__context__ is None


def test_an_encoder_that_gives_other_dimensions_is_a_row_set_aside(job: Job, tmp_path: Path) -> None:
    class Wide(ToyEncoder):
        """Two numbers, where its passport says three."""

        def encode(self, texts: Sequence[str]) -> Vectors:
            return super().encode(texts)[:, :2]

    job.encoder = Wide()
    job.run(parquet(tmp_path / "t.parquet", id=["a"], text=["one"]))
    assert job.aside() == [("t.parquet", 0, "a", "the encoder failed on it (DimensionMismatch)")]


def test_a_batch_is_committed_before_the_next_is_read(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "BATCH_ROWS", 4)
    monkeypatch.setattr(job_module, "BATCH_CHARS", 20)
    seen: list[tuple[int, int]] = []
    path = parquet(tmp_path / "t.parquet", id=[f"{i}" for i in range(10)], text=["x" * 10] * 5 + ["y"] * 5)
    embedder = Embedder(job.layout, make_plan(job.table), {job.encoder.fingerprint: job.encoder}, KEY)
    (reference,) = plan_files([str(path)], 1, "test")[1]
    embedder.embed(reference, lambda counts: seen.append((counts.added, job.table.count())))
    assert seen == [(2, 2), (2, 4), (4, 8), (2, 10)]
    assert job.ids() == [f"{i}" for i in range(10)]


def test_a_job_that_was_killed_goes_on_where_it_stopped(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "BATCH_ROWS", 3)

    class Killed(BaseException):
        """As SIGKILL comes: no handler of the job's may take it for an error of a row."""

    class Dying(ToyEncoder):
        """Dies at its third batch."""

        def encode(self, texts: Sequence[str]) -> Vectors:
            if len(self.encoded) == 6:
                raise Killed
            return super().encode(texts)

    path = parquet(tmp_path / "t.parquet", id=[f"{i}" for i in range(10)], text=[f"text {i}" for i in range(10)])
    job.encoder = Dying()
    with pytest.raises(Killed):
        job.run(path)
    assert job.ids() == [f"{i}" for i in range(6)]
    job.encoder = ToyEncoder()
    assert job.run(path) == EmbedCounts(read=10, added=4, known=6)
    assert job.encoder.encoded == [f"text {i}" for i in range(6, 10)]
    assert sorted(job.ids()) == [f"{i}" for i in range(10)]
