"""Content that is kept because its collection was made so, and the content that must not be."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.embed import Embedder
from raystore.data.job import EmbedPlan
from raystore.data.kept_source import KeptSource, open_source, read_source
from raystore.data.keyed import KeyedTable
from raystore.data.readers import plan as plan_files
from raystore.errors import InvalidArguments, InvalidRows, ItemNotFound
from raystore.layout import Layout
from tests.data.toy import KEY, ToyEncoder, make_log, some_rows

CANARY = "canary-8c1f"


@pytest.fixture
def kept(layout: Layout) -> CollectionTable:
    return CollectionTable.create(
        layout, "kept", {ToyEncoder.fingerprint: ToyEncoder.dim}, {"product": "string"}, keep_source=True
    )


def make_plan(table: CollectionTable) -> EmbedPlan:
    return EmbedPlan(
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


def embed(table: CollectionTable, path: Path, texts: dict[str, str | None]) -> None:
    pq.write_table(pa.table({"id": list(texts), "text": pa.array(list(texts.values()), pa.string())}), path)
    embedder = Embedder(table.layout, make_plan(table), {ToyEncoder.fingerprint: ToyEncoder()}, KEY)
    for reference in plan_files([str(path)], 1, "test")[1]:
        embedder.embed(reference)


def test_a_job_keeps_the_content_of_the_rows_it_adds_and_of_no_other(kept: CollectionTable, tmp_path: Path) -> None:
    embed(kept, tmp_path / "a.parquet", {"a": "hello 'quoted'", "b": None, "c": "grüße"})
    assert read_source(kept, ["c", "a", "c"]) == ["grüße", "hello 'quoted'", "grüße"]
    assert KeptSource(kept).table.dataset().count_rows() == 2
    embed(kept, tmp_path / "a.parquet", {"a": "hello 'quoted'", "c": "grüße"})
    assert KeptSource(kept).table.dataset().count_rows() == 2


def test_logged_rows_are_kept_too_and_rows_given_as_vectors_have_no_content(kept: CollectionTable) -> None:
    log = make_log(kept)
    log.log([{"id": "a", "text": "one", "product": "card"}])
    log.log([{"id": "v", "vector": [1.0, 0.0, 0.0]}], fingerprint=ToyEncoder.fingerprint)
    log.log([{"id": "a", "text": "one", "product": "card"}])
    assert read_source(kept, ["a"]) == ["one"]
    assert KeptSource(kept).table.dataset().count_rows() == 1
    with pytest.raises(ItemNotFound) as missing:
        read_source(kept, ["a", "v"])
    assert str(missing.value) == "no item 'v' in the kept source of collection 'kept'."


def test_a_row_that_is_refused_leaves_no_content(kept: CollectionTable) -> None:
    with pytest.raises(InvalidRows):
        make_log(kept).log([{"id": "a", "text": CANARY}, {"id": "b", "text": ""}])
    assert KeptSource(kept).table.dataset().count_rows() == 0


def test_a_kill_between_content_and_row_leaves_content_that_no_row_points_at(
    kept: CollectionTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing of the program runs after it."""

    commit = KeyedTable.commit

    def until_the_rows(self: KeyedTable, *given: object, **options: object) -> object:
        if self.path == kept.rows.path:
            raise Killed
        return commit(self, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(KeyedTable, "commit", until_the_rows)
        with pytest.raises(Killed):
            embed(kept, tmp_path / "a.parquet", {"a": "before"})
    assert kept.count() == 0
    assert KeptSource(kept).table.dataset().count_rows() == 1
    with pytest.raises(ItemNotFound):
        read_source(kept, ["a"])
    # The file was mended meanwhile: the row is the new content's, and so is what is found.
    embed(kept, tmp_path / "a.parquet", {"a": "after"})
    assert read_source(kept, ["a"]) == ["after"]


def test_many_ids_are_found_in_their_order(kept: CollectionTable) -> None:
    ids = [f"r-{n}" for n in range(2_500)]
    make_log(kept).log([{"id": i, "text": f"text {i}"} for i in ids])
    backwards = ids[::-1]
    assert read_source(kept, backwards) == [f"text {i}" for i in backwards]
    assert read_source(kept, []) == []


def test_images_come_back_as_their_bytes(kept: CollectionTable) -> None:
    image = b"\x89PNG\r\n\x1a\n\x00 not a picture, which does not matter here"
    kept.rows.commit([some_rows(["i"], b"q" * 32)], refuse_differing=False)
    KeptSource(kept).keep(["i"], [b"q" * 32], [image])
    assert read_source(kept, ["i"]) == [image]


def test_a_collection_made_without_the_choice_keeps_nothing_and_says_so(tickets: CollectionTable, tmp_path: Path) -> None:
    embed(tickets, tmp_path / "a.parquet", {"a": CANARY})
    make_log(tickets).log([{"id": "b", "text": f"{CANARY} too"}])
    assert not tickets.keeps_source
    assert open_source(tickets) is None
    assert not tickets.layout.source("tickets").exists()
    files = [path for path in tickets.layout.root.rglob("*") if path.is_file()]
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []
    with pytest.raises(InvalidArguments) as refused:
        read_source(tickets, ["a"])
    assert str(refused.value) == "source: collection 'tickets' keeps no content; only one made with keep_source=True does."


def test_the_choice_outlives_new_columns_and_new_rows(kept: CollectionTable) -> None:
    make_log(kept).log([{"id": "a", "text": "one", "stars": 5}], add_columns=True)
    assert CollectionTable.open(kept.layout, "kept").keeps_source
