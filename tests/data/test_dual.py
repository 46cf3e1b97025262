"""Several encoders in one collection: a row is read once, and all of its vectors stand in one commit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
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
from raystore.encoders.bridged import publish_bridge
from raystore.encoders.items import Item
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.passport import Card
from raystore.encoders.records import KIND
from raystore.encoders.together import _leaders, load_together, open_together, runs_as
from raystore.encoders.vector_map import VectorMap
from raystore.errors import InvalidArguments, JobFailed, PassportMismatch
from raystore.layout import Layout, filled_column, vector_column
from raystore.serve.loading import Rooms
from raystore.serve.spec import parse_spec
from raystore.store import Store
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


def test_a_given_vector_is_the_bridges_too_where_it_leads_to_its_encoder_and_never_the_other_way(dual: Dual) -> None:
    dual.table.add_encoder(BRIDGED, 3)
    log = RowLog(dual.table, {ONE: dual.one, TWO: dual.two, BRIDGED: dual.two}, KEY)
    log.log([{"id": "true", "vector": [1.0, 0, 0]}], fingerprint=TWO)
    log.log([{"id": "bridged", "vector": [0, 1.0, 0]}], fingerprint=BRIDGED)
    assert dual.vectors(ONE) == [None, None]
    assert dual.vectors(TWO) == [[1, 0, 0], None]
    assert dual.vectors(BRIDGED) == [[1, 0, 0], [0, 1, 0]]


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


# --- through the store, with real models ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store that knows three encoders of texts and holds nothing else."""
    store = raystore.open(tmp_path_factory.mktemp("dual") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    store.encoders.register("mini", model=str(tiny_model), max_length=4)
    return store.root


@pytest.fixture
def store(tmp_path: Path, registered: Path) -> Store:
    return raystore.open(shutil.copytree(registered, tmp_path / "store"))


@pytest.fixture
def both(store: Store) -> Collection:
    return store.create_collection("both", encoder=["tiny", "short"])


def held(collection: Collection, name: str) -> list[list[float] | None]:
    column = vector_column(collection._store.encoder(name).fingerprint)
    return collection.to_arrow([column]).column(0).to_pylist()


def test_embed_writes_vectors_of_every_encoder_and_says_so(both: Collection, store: Store, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(12))
    report = both.embed(path, text="text", id="id", workers=0)
    prints = tuple(store.encoder(name).fingerprint for name in ("tiny", "short"))
    assert (report.added, report.fingerprint, report.fingerprints) == (12, prints[0], prints)
    assert str(report).startswith("both: 12 rows embedded with 2 encoders, 0 known already; ")
    for name in ("tiny", "short"):
        np.testing.assert_allclose(held(both, name), store.encoder(name).encode(some(12)), atol=1e-5)
    (job,) = both.jobs()
    assert job["encoder"] == ", ".join(store.encoder(name).label for name in ("tiny", "short"))
    assert (job["fingerprint"], job["fingerprints"]) == (prints[0], list(prints))
    assert sum(job["encoded_by"].values()) == 12


def test_encoders_are_named_alone_or_together(both: Collection, store: Store, tmp_path: Path) -> None:
    both.add_encoder("mini", workers=0)
    one, two = (parquet(tmp_path / f"{name}.parquet", some(4)) for name in ("one", "two"))
    both.embed(one, text="text", id="id", id_prefix="one/", encoder="short", workers=0)
    both.embed(two, text="text", id="id", id_prefix="two/", encoder=["mini", "tiny", "mini"], workers=0)
    counted = {name: sum(v is not None for v in held(both, name)) for name in ("tiny", "short", "mini")}
    assert counted == {"tiny": 4, "short": 4, "mini": 4}
    assert both.embed(one, text="text", id="id", id_prefix="one/", workers=0).filled == 4
    with pytest.raises(InvalidArguments) as refused:
        both.embed(one, text="text", id="id", encoder=[], workers=0)
    assert str(refused.value) == "embed into 'both': encoder= names none: leave it out for all."
    store.create_collection("other", encoder="tiny")
    with pytest.raises(PassportMismatch):
        store.collection("other").embed(one, text="text", id="id", encoder=["tiny", "short"], workers=0)


def test_encoders_that_do_not_take_the_content_are_left_out_and_refused_where_they_are_named(
    store: Store, tiny_vit: Path, tmp_path: Path
) -> None:
    photos = store.encoders.register("photos", model=str(tiny_vit))
    mixed = store.create_collection("mixed", encoder=["photos", "tiny"])
    path = parquet(tmp_path / "t.parquet", some(3))
    report = mixed.embed(path, text="text", id="id", workers=0)
    assert report.fingerprints == (store.encoder("tiny").fingerprint,)
    assert held(mixed, "photos") == [None] * 3
    problem = f"encoder {photos.label} takes no texts (text=): name a column with image="
    with pytest.raises(InvalidArguments) as refused:
        mixed.embed(path, text="text", id="id", encoder=["tiny", "photos"], workers=0)
    assert str(refused.value) == f"embed into 'mixed': {problem}."
    with pytest.raises(InvalidArguments) as refused:
        store.create_collection("pictures", encoder="photos").embed(path, text="text", id="id", workers=0)
    assert str(refused.value) == f"embed into 'pictures': {problem}."


def test_a_dry_run_measures_what_the_job_would_do(both: Collection, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", some(20))
    dim = both.encoder("tiny").dim
    assert both.embed(path, text="text", id="id", dry_run=True).vector_bytes == 20 * 2 * dim * 4
    assert both.embed(path, text="text", id="id", encoder="tiny", dry_run=True).vector_bytes == 20 * dim * 4
    assert len(both) == 0


def test_a_job_record_from_before_there_were_several_is_read(both: Collection, tmp_path: Path) -> None:
    both.embed(parquet(tmp_path / "t.parquet", some(2)), text="text", id="id", workers=0)
    file = both._store.layout.jobs("both") / "1.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "fingerprints"}))
    assert both.jobs()[0]["fingerprints"] == []


def test_a_collection_for_no_encoder_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArguments) as refused:
        store.create_collection("none", encoder=[])
    assert str(refused.value) == "create_collection('none'): encoder= names none."


def forward_bridge(store: Store) -> str:
    """A bridge from tiny to short by a map that turns nothing, under the name 'bridged'."""
    tiny, short = store.encoder("tiny"), store.encoder("short")
    turn = VectorMap("procrustes", np.eye(tiny.dim, dtype=np.float32), np.zeros(tiny.dim, np.float32))
    facts = {"pairs": 0, "seed": 0, "fidelity": {}}
    passport = publish_bridge(store.layout, tiny.passport, short.passport, turn, "forward", facts, short.card)
    store.catalog.set_alias(KIND, "bridged", {"fingerprint": passport.fingerprint, "source": {}})
    return passport.fingerprint


def test_a_forward_bridge_and_its_encoder_are_loaded_and_run_once(
    both: Collection, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridged = forward_bridge(store)
    both._table.add_encoder(bridged, both.encoder().dim)
    encode, given = LoadedEncoder._encode, []

    def counted(self: LoadedEncoder, items: Sequence[Item]) -> object:
        given.append((self.label, len(items)))
        return encode(self, items)

    loaded = load_together(both.encoders)
    assert loaded[bridged] is loaded[store.encoder("short").fingerprint]
    assert open_together(store.layout, both._table.fingerprints).keys() == loaded.keys()
    monkeypatch.setattr(LoadedEncoder, "_encode", counted)
    both.embed(parquet(tmp_path / "t.parquet", some(12)), text="text", id="id", workers=0)
    both.log([{"id": "logged", "text": "hello world"}])
    items = [n for _, n in given if n in (12, 1)]
    assert items == [12, 12, 1, 1]  # by tiny and by short; the rest are golden inputs
    assert held(both, "bridged") == held(both, "short")
    running = Rooms(store.root).orchestrator(parse_spec({}, "test"), threads=1)
    running.log("both", [{"id": "served", "text": "hello world"}], request_id="r")
    assert None not in held(both, "bridged")
    running.close()


def test_a_bridge_alone_encodes_with_the_encoder_that_it_leads_to(store: Store, tmp_path: Path) -> None:
    bridged = forward_bridge(store)
    alone = store.create_collection("alone", encoder=["tiny", bridged])
    alone.embed(parquet(tmp_path / "t.parquet", some(5)), text="text", id="id", workers=0)
    np.testing.assert_allclose(held(alone, "bridged"), store.encoder("short").encode(some(5)), atol=1e-5)


@pytest.mark.ray
def test_ray_workers_write_what_this_process_does(
    both: Collection, store: Store, tmp_path: Path, ray_session: object
) -> None:
    half, path = parquet(tmp_path / "h.parquet", some(10)), parquet(tmp_path / "t.parquet", some(30))
    both.embed(half, text="text", id="id", encoder="tiny", workers=0)
    report = both.embed(path, text="text", id="id", workers=2)
    assert (report.added, report.filled, report.known, report.workers > 0) == (20, 10, 0, True)
    rows = dict(zip(both.to_arrow(["id"]).column("id").to_pylist(), range(30), strict=True))
    order = [rows[f"r{i}"] for i in range(30)]
    for name in ("tiny", "short"):
        found = held(both, name)
        np.testing.assert_allclose([found[i] for i in order], store.encoder(name).encode(some(30)), atol=1e-4)
