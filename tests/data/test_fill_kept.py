"""A second encoder in a collection that keeps its content: filled from there, however the rows came."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.data import kept_rows
from raystore.data.encoding import JobEncoders
from raystore.data.kept_source import KeptSource
from raystore.data.log import RowLog
from raystore.data.readers import BATCH_BYTES
from raystore.layout import vector_column
from raystore.store import Store
from tests.pictures import PICTURES

N = 40
WORDS = ("card", "money", "blue", "hello")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_clip: Path) -> Path:
    store = raystore.open(tmp_path_factory.mktemp("kept") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    store.encoders.register("clip", model=str(tiny_clip))
    store.encoders.register("clip-short", model=str(tiny_clip), max_length=8)
    return store.root


@pytest.fixture
def store(tmp_path: Path, registered: Path) -> Store:
    return raystore.open(shutil.copytree(registered, tmp_path / "it's a störe"))


@pytest.fixture
def kept(store: Store) -> Collection:
    return store.create_collection("kept", encoder="tiny", columns={"product": "string"}, keep_source=True)


def text_of(i: int) -> str:
    return f"{i} {WORDS[i % 4]} never arrived"


def embed_from_a_file_that_goes(kept: Collection, path: Path, n: int = N) -> None:
    texts, products = [text_of(i) for i in range(n)], [WORDS[i % 3] for i in range(n)]
    pq.write_table(pa.table({"ticket": range(n), "body": texts, "product": products}), path)
    kept.embed(path, text="body", id="ticket", keep=["product"], workers=0)
    path.unlink()


def test_a_row_that_waits_in_the_journal_is_filled_too(kept: Collection) -> None:
    kept.log([{"id": "there", "text": text_of(1)}])
    log = RowLog(kept._table, kept._store.encoder("tiny").load(), kept._store.key)
    log.append([{"id": "waits", "text": text_of(2)}])
    report = kept.add_encoder("short", workers=0)
    assert (report.lacking, report.filled, report.left) == (2, 2, 0)


def vectors(collection: Collection, name: str) -> dict[str, list[float] | None]:
    column = vector_column(collection._store.encoder(name).fingerprint)
    rows = collection.to_arrow(["id", column])
    return dict(zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True))


def assert_filled(kept: Collection, name: str, contents: dict[str, Any]) -> None:
    found = vectors(kept, name)
    expected = kept._store.encoder(name).encode(list(contents.values()))
    np.testing.assert_allclose([found[i] for i in contents], expected, atol=1e-4)


def test_rows_that_were_logged_and_rows_whose_file_is_gone_are_filled(kept: Collection, tmp_path: Path) -> None:
    embed_from_a_file_that_goes(kept, tmp_path / "tickets.parquet")
    kept.log([{"id": "it's logged", "text": "hello 'world'", "subject": "s", "product": "card"}])
    report = kept.add_encoder("short", workers=0)
    assert (report.lacking, report.filled, report.left, report.set_aside) == (N + 1, N + 1, 0, 0)
    assert (report.kept, report.files, report.gone) == (True, 0, [])
    assert_filled(kept, "short", {"it's logged": "hello 'world'", "7": text_of(7), "39": text_of(39)})
    job = kept.jobs()[-1]
    assert (job["kind"], job["files"][0]["path"], job["files"][0]["rows"]) == ("fill", "the kept source", N + 1)
    assert (job["counts"]["filled"], job["ended"] is not None) == (N + 1, True)
    assert kept.add_encoder("short", workers=0).lacking == 0


def test_a_row_without_kept_content_is_left_and_the_report_says_so(kept: Collection, store: Store) -> None:
    tiny = store.encoder("tiny")
    kept.log([{"id": "a", "text": "hello world"}])
    kept.log([{"id": "given", "vector": tiny.encode(["money"])[0]}], fingerprint=tiny.fingerprint)
    seen: list[tuple[int, int]] = []
    report = kept.add_encoder("short", workers=0, progress=lambda done, total: seen.append((done, total)))
    assert (report.filled, report.left) == (1, 1)
    assert "; 1 have none: nothing is kept of them that it takes; " in str(report)
    assert vectors(kept, "short")["given"] is None
    assert kept.jobs()[-1]["counts"]["absent"] == 1
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_content_that_no_row_points_at_is_never_embedded(kept: Collection) -> None:
    kept.log([{"id": "a", "text": "hello world"}])
    KeptSource(kept._table).keep(["a", "nobody"], [b"x" * 32, b"y" * 32], ["of a writer that was killed", "the same"])
    report = kept.add_encoder("short", workers=0)
    assert (report.filled, report.left, len(kept)) == (1, 0, 1)
    assert_filled(kept, "short", {"a": "hello world"})


def test_texts_and_images_are_filled_by_an_encoder_of_both(store: Store) -> None:
    mixed = store.create_collection("mixed", encoder="clip", keep_source=True)
    contents: dict[str, Any] = {f"p{n}": picture for n, picture in enumerate(PICTURES)} | {"words": "hello blue"}
    rows = [{"id": i, "image" if isinstance(c, bytes) else "text": c} for i, c in contents.items()]
    mixed.log(rows)
    only_texts = mixed.add_encoder("tiny", workers=0)
    assert (only_texts.filled, only_texts.left) == (1, len(PICTURES))
    assert_filled(mixed, "tiny", {"words": "hello blue"})
    other = store.create_collection("other", encoder="tiny", keep_source=True)
    other.log([{"id": "before", "text": "money"}])
    other.add_encoder("clip", workers=0)
    other.log(rows)
    assert_filled(other, "clip", {"before": "money"})
    report = other.add_encoder("clip-short", workers=0)
    assert (report.filled, report.left) == (len(rows) + 1, 0)
    assert_filled(other, "clip-short", contents | {"before": "money"})


def test_a_fill_that_was_killed_goes_on_where_it_stopped(
    kept: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing of the program runs after it."""

    embed_from_a_file_that_goes(kept, tmp_path / "tickets.parquet")
    monkeypatch.setattr("raystore.data.job.BATCH_ROWS", 16)
    encode, encoded = JobEncoders.encode, []

    def until_the_second(self: JobEncoders, rows: Any) -> Any:
        if len(encoded) == 1:
            raise Killed
        encoded.append(len(rows))
        return encode(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(JobEncoders, "encode", until_the_second)
        with pytest.raises(Killed):
            kept.add_encoder("short", workers=0)
    report = kept.add_encoder("short", workers=0)
    assert (encoded, report.lacking, report.filled, report.left) == ([16], N - 16, N - 16, 0)
    assert_filled(kept, "short", {str(i): text_of(i) for i in range(N)})


def test_a_row_set_aside_is_one_entry_however_often_it_fails(kept: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.log([{"id": "long", "text": "hello " * 50}, {"id": "a", "text": "card"}])
    for row in ({"id": "b", "text": "blue"}, {"id": "c", "text": "money"}):
        with monkeypatch.context() as patched:
            patched.setattr(type(kept._store.encoder("short").load()), "max_chars", 100)
            report = kept.add_encoder("short", workers=0)
        assert (report.left, report.set_aside) == (1, 1)
        kept.log([row])
    (entry,) = kept.set_aside().to_pylist()
    assert entry == {
        "id": "long", "source": "the kept source", "row": None, "reason": "the text has 300 characters, over the limit of 100",
    }  # fmt: skip


def test_no_more_content_than_a_block_holds_is_in_memory_at_once(kept: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.log([{"id": f"r{i}", "text": f"{i} " + "hello " * 2_000} for i in range(20)])
    asked: list[int] = []
    contents = KeptSource.contents

    def counted(self: KeptSource, ids: list[str], *rest: Any) -> pa.Table:
        asked.append(len(ids))
        return contents(self, ids, *rest)

    monkeypatch.setattr(KeptSource, "contents", counted)
    monkeypatch.setattr(KeptSource, "mean_bytes", lambda self: BATCH_BYTES / 4)
    assert kept.add_encoder("short", workers=0).filled == 20
    assert asked == [4] * 5


def test_slices_hold_each_row_that_lacks_a_vector_once(kept: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.log([{"id": f"r{i}", "text": f"{i} hello"} for i in range(25)])
    monkeypatch.setattr(kept_rows, "slice_rows", lambda total, workers: 10)
    fingerprint = kept._store.encoder("short").fingerprint
    kept._table.add_encoder(fingerprint, 32)
    slices = kept_rows.plan_kept(kept._table, fingerprint, 2)
    assert [(r.first_row, r.n_rows) for r in slices] == [(0, 10), (10, 10), (20, 5)]
    assert kept.add_encoder("short", workers=0).filled == 25


@pytest.mark.ray
def test_ray_workers_fill_the_rows_of_a_dataset_and_logged_rows(
    kept: Collection, ray_session: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    rows = ray.data.from_items([{"key": f"d{i}", "body": text_of(i)} for i in range(N)])
    kept.embed(rows, text="body", id="key", workers=1)
    kept.log([{"id": "logged", "text": "hello world"}])
    monkeypatch.setattr(kept_rows, "slice_rows", lambda total, workers: 16)
    report = kept.add_encoder("short", workers=2)
    assert (report.lacking, report.filled, report.left, report.workers) == (N + 1, N + 1, 0, 2)
    assert_filled(kept, "short", {f"d{i}": text_of(i) for i in range(N)} | {"logged": "hello world"})
