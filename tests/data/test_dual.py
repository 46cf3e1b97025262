"""Several encoders in one collection: a row is read once, and all of its vectors stand in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.data import embed as embed_module
from raystore.data import job as job_module
from raystore.data.collection import CollectionTable
from raystore.data.dry_run import dry_run, sample_rows
from raystore.data.embed import Embedder, is_done
from raystore.data.ingest import EmbedReport
from raystore.data.job import EmbedCounts, EmbedPlan
from raystore.data.keyed import Filled
from raystore.data.log import RowLog
from raystore.data.readers import plan as plan_files
from raystore.data.set_aside import set_aside_rows
from raystore.encoders.passport import Card
from raystore.encoders.together import _leaders, runs_as
from raystore.errors import InvalidRows, JobFailed
from raystore.layout import Layout, filled_column, vector_column
from raystore.vectors import Vectors
from tests.data.toy import KEY, OtherEncoder, ToyEncoder, make_tickets

ONE, TWO = ToyEncoder.fingerprint, OtherEncoder.fingerprint
BRIDGED = "ef56" * 16


class Far(OtherEncoder):
    """The other one at another device, which fails on what its words say it fails on."""

    device = "far"

    def encode(self, texts: Sequence[str]) -> Vectors:
        if any("boom" in text for text in texts):
            raise ValueError("it quotes the text: boom")
        return super().encode(texts)


class Dual:
    """Embeds files with both encoders, or with those of them that are asked for, as `ingest` does inline."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.table = make_tickets(layout)
        self.table.add_encoder(TWO, OtherEncoder.dim)
        self.one, self.two = ToyEncoder(), Far()
        self.loaded: dict[str, ToyEncoder] = {ONE: self.one, TWO: self.two}

    def plan(self, *fingerprints: str, **changes: object) -> EmbedPlan:
        about = {
            "id": "id",
            "subject": None,
            "tenant": None,
            "time": None,
            "kept_types": {},
            "id_prefix": "",
            "check": False,
        }
        start = {"start_version": self.table.version}
        asked = fingerprints or (ONE, TWO)
        return EmbedPlan("tickets", asked, "text", "text", **(about | start | changes))

    def run(self, path: Path, *fingerprints: str, **changes: object) -> EmbedCounts:
        embedder = Embedder(self.layout, self.plan(*fingerprints, **changes), self.loaded, KEY)
        counts = EmbedCounts()
        for reference in plan_files([str(path)], 1, "test")[1]:
            counts.add(embedder.embed(reference))
        assert counts.added + counts.filled + counts.known + counts.absent + counts.set_aside == counts.read
        return counts

    def encoded(self) -> tuple[int, int]:
        """How many texts each encoder was given since the last look."""
        counted = len(self.one.encoded), len(self.two.encoded)
        self.one.encoded.clear()
        self.two.encoded.clear()
        return counted

    def lacking(self) -> tuple[int, int]:
        return self.table.count_lacking(ONE), self.table.count_lacking(TWO)

    def vectors(self, fingerprint: str) -> list[list[float] | None]:
        return self.table.to_arrow([vector_column(fingerprint)]).column(0).to_pylist()

    def aside(self) -> list[tuple[str, str]]:
        return [(row["id"], row["reason"]) for row in set_aside_rows(self.layout, "tickets").to_pylist()]


@pytest.fixture
def dual(layout: Layout) -> Dual:
    return Dual(layout)


def parquet(path: Path, texts: Sequence[str | None]) -> Path:
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(len(texts))], "text": pa.array(texts, pa.string())}), path)
    return path


def some(n: int) -> list[str]:
    return [f"text {i} {'e' * (i % 5)}" for i in range(n)]


def test_a_row_gets_the_vectors_of_all_encoders_from_one_read_in_one_commit(
    dual: Dual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "t.parquet", some(20))
    reads: list[int] = []
    read = embed_module.read

    def counted(*arguments: object) -> object:
        for block in read(*arguments):
            reads.append(block.n_rows)
            yield block

    monkeypatch.setattr(embed_module, "read", counted)
    version = dual.table.version
    counts = dual.run(path)
    assert counts == EmbedCounts(read=20, added=20)
    assert counts.encoded_by == {"toy on cpu": 20, "toy on far": 20}
    assert (dual.encoded(), dual.lacking(), dual.table.version) == ((20, 20), (0, 0), version + 1)
    assert reads == [20, 20]  # the ids alone, to see whether the slice is done, and the rows
    np.testing.assert_allclose(dual.vectors(ONE), ToyEncoder().encode(some(20)))


def test_rows_that_encoders_on_one_device_encode_are_counted_there_once(dual: Dual, tmp_path: Path) -> None:
    dual.loaded[TWO] = OtherEncoder()
    assert dual.run(parquet(tmp_path / "t.parquet", some(5))).encoded_by == {"toy on cpu": 5}


def test_only_the_encoder_that_was_asked_for_writes_and_the_next_job_fills_the_other(dual: Dual, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(10))
    assert dual.run(path, ONE) == EmbedCounts(read=10, added=10)
    assert (dual.encoded(), dual.lacking()) == ((10, 0), (0, 10))
    version = dual.table.version
    counts = dual.run(path)
    assert (counts, counts.encoded_by) == (EmbedCounts(read=10, filled=10), {"toy on far": 10})
    assert (dual.encoded(), dual.lacking()) == ((0, 10), (0, 0))
    stamps = dual.table.rows.dataset().to_table(columns=["_added", filled_column(TWO)]).to_pylist()
    assert {row["_added"] for row in stamps} == {version}
    assert len({row[filled_column(TWO)] for row in stamps} - {None}) == 1
    assert dual.run(path) == EmbedCounts(read=10, known=10)
    assert dual.encoded() == (0, 0)


def test_rows_that_lack_different_vectors_are_each_given_their_own_in_one_commit(dual: Dual, tmp_path: Path) -> None:
    dual.table.add_encoder(BRIDGED, 3)
    third = OtherEncoder()
    dual.loaded[BRIDGED] = third
    texts = some(9)
    dual.run(parquet(tmp_path / "t.parquet", texts[:3]), ONE)
    dual.run(parquet(tmp_path / "t.parquet", texts[:6]), TWO)  # fills the first three
    dual.encoded()
    version = dual.table.version
    path = parquet(tmp_path / "t.parquet", texts)
    counts = dual.run(path, ONE, TWO, BRIDGED)
    assert counts == EmbedCounts(read=9, added=3, filled=6)
    assert counts.encoded_by == {"toy on cpu": 9, "toy on far": 3}
    assert (dual.encoded(), len(third.encoded)) == ((6, 3), 9)
    # The new rows, the columns of stamps that were not there yet, and all late vectors of all encoders together.
    assert dual.table.version == version + 3
    for fingerprint in (ONE, TWO, BRIDGED):
        assert None not in dual.vectors(fingerprint)


def test_a_row_whose_content_changed_gets_no_vector_of_another_text(dual: Dual, tmp_path: Path) -> None:
    texts = some(4)
    dual.run(parquet(tmp_path / "t.parquet", texts), ONE)
    counts = dual.run(parquet(tmp_path / "t.parquet", [texts[0], "changed", *texts[2:]]))
    assert (counts.filled, counts.set_aside) == (3, 1)
    assert dual.aside() == [("r1", "the content is not what was embedded before")]
    assert dual.lacking() == (0, 1)


def test_a_row_that_one_encoder_cannot_encode_is_set_aside_whole_and_the_encoder_is_named(
    dual: Dual, tmp_path: Path
) -> None:
    counts = dual.run(parquet(tmp_path / "t.parquet", ["fine", "boom", "also fine", None]))
    assert counts == EmbedCounts(
        read=4, added=2, set_aside=2, reasons={"encoder cd34cd34cd34 failed on it (ValueError)": 1, "the text is null": 1}
    )
    assert dual.lacking() == (0, 0)
    assert dual.table.to_arrow(["id"]).column("id").to_pylist() == ["r0", "r2"]


def test_of_several_encoders_the_one_that_fails_on_every_row_ends_the_job(dual: Dual, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as failed:
        dual.run(parquet(tmp_path / "t.parquet", ["boom"] * 10))
    assert str(failed.value) == (
        "embedding into 'tickets' failed: encoder cd34cd34cd34 failed on each of 10 rows (ValueError), so it is not the rows. "
        "None of them was set aside. Mend the encoder ('raystore encoder verify') and run the same call again."
    )
    assert (dual.table.count(), dual.aside()) == (0, [])


def test_a_killed_job_goes_on_where_it_stopped_and_no_row_has_one_vector_only(
    dual: Dual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "BATCH_ROWS", 3)

    class Killed(BaseException):
        """As SIGKILL comes: no handler of the job's may take it for an error of a row."""

    class Dying(OtherEncoder):
        """Dies at its third batch, when the first encoder has encoded it."""

        def encode(self, texts: Sequence[str]) -> Vectors:
            if len(self.encoded) == 6:
                raise Killed
            return super().encode(texts)

    path = parquet(tmp_path / "t.parquet", some(10))
    dual.loaded[TWO] = Dying()
    with pytest.raises(Killed):
        dual.run(path)
    assert (dual.table.count(), dual.lacking()) == (6, (0, 0))
    dual.loaded[TWO] = dual.two
    dual.encoded()
    assert dual.run(path) == EmbedCounts(read=10, added=4, known=6)
    assert (dual.encoded(), dual.lacking()) == ((4, 4), (0, 0))


def test_a_slice_is_done_when_no_row_lacks_a_vector_of_the_jobs_encoders(dual: Dual, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(4))
    dual.run(path, ONE)
    (reference,) = plan_files([str(path)], 1, "test")[1]
    assert is_done(reference, dual.plan(ONE), dual.table.rows)
    assert not is_done(reference, dual.plan(TWO), dual.table.rows)
    assert not is_done(reference, dual.plan(), dual.table.rows)


def test_progress_counts_a_row_once_however_many_of_its_vectors_were_filled(dual: Dual, tmp_path: Path) -> None:
    dual.table.add_encoder(BRIDGED, 3)
    dual.loaded[BRIDGED] = dual.two
    path = parquet(tmp_path / "t.parquet", some(6))
    dual.run(path, ONE)
    version = dual.table.version
    assert dual.run(path, TWO, BRIDGED).filled == 6
    assert dual.table.count_filled([TWO, BRIDGED], version) == 6
    assert dual.table.count_filled([ONE], version) == 0


# --- one model under two fingerprints -------------------------------------------------------------------------------------


def bridge_card(direction: str) -> Card:
    return Card(bridge={"direction": direction, "from": ONE, "to": TWO, "kind": "procrustes"})


def test_a_forward_bridge_runs_as_the_encoder_that_it_leads_to_and_a_back_bridge_as_itself() -> None:
    assert runs_as(BRIDGED, bridge_card("forward")) == TWO
    assert runs_as(BRIDGED, bridge_card("back")) == BRIDGED
    assert runs_as(ONE, Card()) == ONE


def test_of_encoders_that_run_as_one_the_true_one_is_loaded_where_it_is_there() -> None:
    assert _leaders({ONE: ONE, BRIDGED: TWO, TWO: TWO}) == {ONE: ONE, BRIDGED: TWO, TWO: TWO}
    assert _leaders({BRIDGED: TWO, ONE: ONE}) == {BRIDGED: BRIDGED, ONE: ONE}
    assert _leaders({"b": TWO, "a": TWO}) == {"b": "b", "a": "b"}


def test_two_fingerprints_of_one_encoder_in_memory_are_encoded_once(dual: Dual, tmp_path: Path) -> None:
    dual.table.add_encoder(BRIDGED, 3)
    dual.loaded[BRIDGED] = dual.two
    counts = dual.run(parquet(tmp_path / "t.parquet", some(7)), ONE, TWO, BRIDGED)
    assert (counts.added, dual.encoded()) == (7, (7, 7))
    assert dual.vectors(BRIDGED) == dual.vectors(TWO)


def test_a_logged_text_is_encoded_once_for_two_fingerprints_of_one_encoder(dual: Dual) -> None:
    dual.table.add_encoder(BRIDGED, 3)
    log = RowLog(dual.table, {TWO: dual.two, BRIDGED: dual.two, ONE: dual.one}, KEY)
    assert log.log([{"id": "a", "text": "hello"}, {"id": "b", "text": "there"}]).fingerprint == TWO
    assert dual.encoded() == (2, 2)
    assert dual.vectors(BRIDGED) == dual.vectors(TWO)


def test_a_given_vector_is_the_bridges_too_where_it_leads_to_its_encoder_and_one_of_the_bridge_is_refused(
    dual: Dual,
) -> None:
    dual.table.add_encoder(BRIDGED, 3)
    log = RowLog(dual.table, {ONE: dual.one, TWO: dual.two, BRIDGED: dual.two}, KEY)
    log.log([{"id": "true", "vector": [1.0, 0, 0]}], fingerprint=TWO)
    with pytest.raises(InvalidRows) as refused:
        log.log([{"id": "t", "text": "hello"}, {"id": "mapped", "vector": [0, 1.0, 0]}], fingerprint=BRIDGED)
    assert refused.value.problems == [
        (
            1,
            None,
            f"fingerprint= is a bridge's, {BRIDGED[:12]}, which says nothing of whether a vector is true or was mapped: give the "
            f"own vectors of the encoder that it leads to, with fingerprint='{TWO}', or the content",
        )
    ]
    assert dual.vectors(ONE) == [None]
    assert dual.vectors(TWO) == dual.vectors(BRIDGED) == [[1, 0, 0]]


# --- the parts ------------------------------------------------------------------------------------------------------------


def test_several_columns_are_filled_where_they_are_null_and_a_value_is_given(dual: Dual, tmp_path: Path) -> None:
    dual.run(parquet(tmp_path / "t.parquet", some(3)), ONE)
    rows = dual.table.rows
    known = rows.known(["r0", "r1", "r2"])
    first, second = vector_column(ONE), vector_column(TWO)
    before, version = dual.vectors(ONE), rows.version

    def values(column: Sequence[Sequence[float] | None]) -> pa.Array:
        return pa.array(column, pa.list_(pa.float32(), 3))

    given = pa.table(
        {
            "id": ["r0", "r1", "r2", "gone"],
            "_payload": pa.array([known["r0"].payload, b"x" * 32, known["r2"].payload, b"x" * 32], pa.binary(32)),
            first: values([[9, 9, 9], [9, 9, 9], None, [9, 9, 9]]),
            second: values([[1, 0, 0], [1, 0, 0], None, [1, 0, 0]]),
        }
    )
    assert rows.fill_columns(given, {first: None, second: None}) == Filled(version + 1, 1, 1, ("r1",), ("gone",))
    assert dual.vectors(ONE) == before
    assert dual.vectors(TWO) == [[1, 0, 0], None, None]


def test_a_trial_measures_all_encoders_together(dual: Dual, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(16))
    references = plan_files([str(path)], 1, "test")[1]
    found = dry_run(dual.table, dual.plan(), dual.loaded, KEY, sample_rows(references, dual.plan()), files=1, rows=1_000)
    assert (found.sampled, found.vector_bytes, found.device) == (16, 1_000 * 2 * 3 * 4, "toy on cpu and toy on far")
    assert dual.table.count() == 0


def test_a_report_says_of_how_many_encoders_the_rows_have_vectors() -> None:
    report = EmbedReport("tickets", ONE, 1, 5, 3, 1, 0, {}, 2.0, 0, filled=1, fingerprints=(ONE, TWO))
    assert str(report) == ("tickets: 3 rows embedded with 2 encoders, 1 filled, 1 known already; 2.0 s, 2 rows/s, inline")


def test_a_collection_with_one_encoder_is_written_as_before(layout: Layout, tmp_path: Path) -> None:
    table = make_tickets(layout)
    encoder = ToyEncoder()
    plan = EmbedPlan("tickets", (ONE,), "text", "text", "id", None, None, None, {}, "", False, table.version)
    path = parquet(tmp_path / "t.parquet", some(3))
    embedder = Embedder(layout, plan, {ONE: encoder}, KEY)
    (reference,) = plan_files([str(path)], 1, "test")[1]
    assert embedder.embed(reference) == EmbedCounts(read=3, added=3)
    assert CollectionTable.open(layout, "tickets").fingerprints == [ONE]
    assert [name for name in table.schema.names if name.startswith("_filled")] == []
