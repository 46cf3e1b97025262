"""Pools: what may be asked for, what a Ray gets, and jobs on workers of one kind and of two."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.data.ingest import plan_of
from raystore.data.manifest import SourceColumns
from raystore.data.pool import _CountWatch, _Dispenser, batch_blocks
from raystore.data.pool_size import AskedPool, Pool, check_pool
from raystore.errors import InvalidArguments, ModelUnusable
from raystore.layout import Layout, vector_column
from tests.data.toy import OtherEncoder, make_tickets, some_rows, some_values

ROWS = 5_000


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ((None, None, 1.0), AskedPool()),
        ((0, None, 1.0), AskedPool((0, 0))),
        ((4, 1, 0.5), AskedPool((4, 4), (1, 1), 0.5)),
        (([1, 8], (0, 4), 1), AskedPool((1, 8), (0, 4), 1)),
    ],
)
def test_workers_are_a_number_or_two(given: tuple, asked: AskedPool) -> None:
    assert check_pool(*given, "test") == asked


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ((-1, -2, 1.0), "workers is -1, expected 0 (inline) or more; gpu_workers is -2, expected 0 or more"),
        (((3, 1), None, 1.0), "workers is (3, 1), expected (least, most) with 1 <= least <= most"),
        (((0, 2), (0, 0), 1.0), "workers is (0, 2), expected (least, most) with 1 <= least <= most; "
            "gpu_workers is (0, 0), expected (least, most) with 0 <= least <= most, most above 0"),
        (((1, 2, 3), None, 1.5), "workers is (1, 2, 3), expected (least, most) with 1 <= least <= most; "
            "gpus_per_worker is 1.5, expected more than 0 and at most 1"),
        ((None, None, 0), "gpus_per_worker is 0, expected more than 0 and at most 1"),
    ],
)  # fmt: skip
def test_a_pool_that_cannot_be_is_refused_with_every_problem(given: tuple, problems: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        check_pool(*given, "test")
    assert str(refused.value) == f"test: {problems}."


@pytest.mark.parametrize(
    ("asked", "small", "large"),
    [
        (AskedPool(), True, False),
        (AskedPool((0, 0)), True, True),
        (AskedPool((1, 1)), False, False),
        (AskedPool((0, 0), (1, 1)), False, False),
        (AskedPool(None, (0, 4)), False, False),
        (AskedPool(None, (0, 0)), True, False),
    ],
)
def test_small_jobs_run_inline_unless_workers_were_asked_for(asked: AskedPool, small: bool, large: bool) -> None:
    assert (asked.is_inline(1_999), asked.is_inline(2_000)) == (small, large)


@pytest.mark.parametrize(
    ("asked", "gpus", "pool"),
    [
        (AskedPool((4, 4)), 2, Pool((4, 4))),
        (AskedPool((4, 4), (1, 1)), 2, Pool((4, 4), (1, 1))),
        (AskedPool((1, 8), (0, 4)), 2, Pool((1, 8), (1, 4))),
        (AskedPool((1, 8), (0, 4)), 0, Pool((1, 8))),
        (AskedPool((2, 2), (4, 4), 0.5), 2, Pool((2, 2), (4, 4), 0.5)),
        (AskedPool(None, (2, 2)), 2, Pool((0, 0), (2, 2))),
        (AskedPool(), 2, Pool((0, 0), (2, 2))),
        (AskedPool(gpus_per_worker=0.5), 2, Pool((0, 0), (4, 4), 0.5)),
        (AskedPool((200, 200)), 0, Pool((50, 50))),
    ],
)
def test_a_pool_is_fitted_to_the_ray_and_to_the_work(asked: AskedPool, gpus: float, pool: Pool) -> None:
    assert asked.on({"CPU": 8.0, "GPU": float(gpus)}, 50, "test") == pool


def test_without_a_word_and_without_a_gpu_every_core_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert AskedPool().on({"CPU": 6.0}, 50, "test") == Pool((6, 6))
    assert AskedPool((0, 0), (0, 4)).on({"CPU": 6.0}, 50, "test") == Pool((6, 6))


def test_more_gpu_workers_than_gpus_are_refused() -> None:
    with pytest.raises(InvalidArguments) as refused:
        AskedPool((1, 1), (3, 3), 0.6).on({"CPU": 8.0, "GPU": 2.0}, 50, "embed into 'tickets'")
    assert str(refused.value) == (
        "embed into 'tickets': gpu_workers=3 do not fit: this Ray has 2 GPUs, which hold 2 with gpus_per_worker=0.6; ask for "
        "fewer, or leave gpu_workers out."
    )


def test_what_was_left_open_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="raystore"):
        AskedPool().say(Pool((2, 2)), 5_000, "embed into 'tickets'")
        AskedPool((1, 1)).say(Pool((1, 1)), 5_000, "embed into 'tickets'")
    assert caplog.messages == ["embed into 'tickets': 5000 rows, 2 Ray workers"]


def test_a_pool_says_what_it_is() -> None:
    assert [str(p) for p in (Pool(), Pool((1, 1)), Pool((4, 4)), Pool((1, 8), (2, 2)), Pool((0, 0), (1, 1)))] == [
        "inline", "1 Ray worker", "4 Ray workers", "1 to 8 Ray workers and 2 GPU workers", "1 GPU worker",
    ]  # fmt: skip


def test_slices_go_to_whoever_asks_and_a_turn_repeated_gets_its_own_again() -> None:
    dispenser = _Dispenser(["a", "b", "c"])
    assert [dispenser.take(turn) for turn in ("gpu 0", "gpu 1", "gpu 0", "cpu 0", "cpu 1", "gpu 2", "gpu 1")] == [
        "a", "b", "a", "c", "", "", "b",
    ]  # fmt: skip


def test_two_kinds_of_workers_get_smaller_slices() -> None:
    assert [a.slices_for for a in (AskedPool(), AskedPool((4, 4)), AskedPool((1, 8), (2, 2)))] == [1, 4, 40]


def test_a_batch_of_a_dataset_is_read_as_the_rows_of_a_file_are() -> None:
    table = pa.table({"id": ["a", "b"], "image": pa.array([{"bytes": b"1", "path": "x"}, None])})
    parts = list(batch_blocks(pa.concat_tables([table, table])))
    assert [(b.first_row, b.n_rows, b.columns["id"], b.columns["image"]) for b in parts] == [
        (0, 4, ["a", "b", "a", "b"], [b"1", None, b"1", None])
    ]


# --- on Ray ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "t.parquet"
    texts = [f"card {n} never arrived" if n % 500 else "" for n in range(ROWS)]
    pq.write_table(pa.table({"id": [f"r-{n}" for n in range(ROWS)], "body": texts}), path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> raystore.Store:
    store = raystore.open(tmp_path_factory.mktemp("pool") / "a store")
    store.encoders.register("tiny", model=str(tiny_model))
    return store


@pytest.fixture
def tickets(store: raystore.Store, request: pytest.FixtureRequest) -> Collection:
    return store.create_collection(f"t{abs(hash(request.node.name)) % 10**9}", encoder="tiny")


def assert_whole(tickets: Collection) -> dict[str, int]:
    """Every row once; which devices encoded how many."""
    counts = Counter(tickets.to_arrow(["id"]).column("id").to_pylist())
    assert set(counts.values()) == {1}
    assert counts.keys() == {f"r-{n}" for n in range(ROWS) if n % 500}
    job = tickets.jobs()[-1]
    assert sum(job["encoded_by"].values()) == len(counts)
    return job["encoded_by"]


@pytest.mark.ray
def test_gpu_workers_encode_with_torch(tickets: Collection, source: Path, ray_session: object) -> None:
    report = tickets.embed(source, text="body", id="id", gpu_workers=2, gpus_per_worker=0.5)
    assert (report.added, report.workers, report.gpu_workers) == (ROWS - 10, 0, 2)
    assert str(report).endswith(" rows/s, 2 GPU workers")
    assert assert_whole(tickets) == {"torch on cpu": ROWS - 10}  # the session's GPU is one by name


@pytest.mark.ray
def test_both_kinds_side_by_side_embed_each_row_once(tickets: Collection, source: Path, ray_session: object) -> None:
    seen: list[tuple[int, int]] = []
    report = tickets.embed(
        source, text="body", id="id", workers=(1, 2), gpu_workers=1, gpus_per_worker=0.5,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert (report.read, report.added, report.set_aside) == (ROWS, ROWS - 10, 10)
    assert str(report).endswith(" rows/s, 2 Ray workers and 1 GPU worker")
    assert seen[-1] == (ROWS, ROWS)
    encoded = assert_whole(tickets)
    assert encoded.keys() <= {"openvino on cpu", "torch on cpu"}


@pytest.mark.ray
def test_a_kind_that_gets_no_place_holds_up_nothing(tickets: Collection, source: Path, ray_session: object) -> None:
    import ray

    @ray.remote(num_cpus=8)
    class Holder:
        """Has every CPU there is."""

        def here(self) -> None: ...

    holder = Holder.remote()
    ray.get(holder.here.remote())
    try:
        tickets.embed(source, text="body", id="id", workers=1, gpu_workers=1)
    finally:
        ray.kill(holder)
    assert assert_whole(tickets) == {"torch on cpu": ROWS - 10}


@pytest.mark.ray
@pytest.mark.parametrize("pool", [{"workers": 1, "gpu_workers": 1}, {"workers": 1}, {"gpu_workers": 1}], ids=str)
def test_a_worker_whose_encoder_cannot_be_trusted_writes_nothing_and_says_why(
    pool: dict[str, int], tmp_path: Path, tiny_model: Path, source: Path, ray_session: object
) -> None:
    store = raystore.open(tmp_path / "a store")
    store.encoders.register("tiny", model=str(tiny_model))
    tickets = store.create_collection("tickets", encoder="tiny")
    path = store.layout.encoder(tickets.encoder().fingerprint) / "golden.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ModelUnusable, match=r"its golden vectors .* are not those it was registered with"):
        tickets.embed(source, text="body", id="id", **pool)
    assert len(tickets) == 0
    assert tickets.jobs()[-1]["failed"] == "ModelUnusable"


@pytest.mark.ray
def test_more_gpus_than_the_ray_has_are_refused_before_anything_starts(
    tickets: Collection, source: Path, ray_session: object
) -> None:
    with pytest.raises(InvalidArguments, match="gpu_workers=2 do not fit: this Ray has 1 GPUs, which hold 1"):
        tickets.embed(source, text="body", id="id", gpu_workers=2)


@pytest.mark.ray
def test_a_worker_killed_in_a_mixed_pool_loses_and_doubles_nothing(
    tickets: Collection, source: Path, ray_session: object
) -> None:
    over, killed = threading.Event(), threading.Event()

    def kill_one() -> None:
        while len(tickets) == 0 and not over.wait(0.005):
            pass
        if not over.is_set():
            _workers()[0].kill()
            killed.set()

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        report = tickets.embed(source, text="body", id="id", workers=1, gpu_workers=1)
    finally:
        over.set()
        killer.join()
    assert killed.is_set()
    assert report.read == ROWS
    counts = Counter(tickets.to_arrow(["id"]).column("id").to_pylist())
    assert set(counts.values()) == {1}
    assert len(counts) == ROWS - 10


@pytest.mark.ray
def test_no_worker_outlives_its_job(tickets: Collection, source: Path, ray_session: object) -> None:
    tickets.embed(source, text="body", id="id", workers=1, gpu_workers=1)
    deadline = time.monotonic() + 60
    while _workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _workers() == []


def _workers() -> list[psutil.Process]:
    """The embedding workers of the Ray this process started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(("fill_only", "gained"), [(True, 2), (False, 3)])
def test_progress_moves_with_rows_filled_and_where_a_job_adds_rows_with_those_too(
    layout: Layout, fill_only: bool, gained: int
) -> None:
    tickets = make_tickets(layout)
    tickets.rows.commit([some_rows(["a", "b", "c"])], refuse_differing=False)
    tickets.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
    plan = plan_of(tickets, [OtherEncoder()], SourceColumns(text="text", id="id"), {}, fill_only=fill_only)
    told: queue.Queue[int] = queue.Queue()
    with _CountWatch(tickets, plan, told.put):
        assert told.get(timeout=10) == 0
        tickets.fill(some_values(["a", "c"], vector_column(OtherEncoder.fingerprint)), OtherEncoder.fingerprint)
        tickets.rows.commit([some_rows(["added by another job"])], refuse_differing=False)
        assert [told.get(timeout=10), told.get(timeout=10)][-1] == gained
