"""Raw texts are readable only where they are encoded and where they were received: the bytes of everything else are searched.

Fifty texts that stand nowhere else in the world go through every door, whole and in rows that fail, while workers are
killed; images do so in `test_protected_images.py`. `search.py` says which spellings and containers the search reads;
each place it reads also gets a control that it must find. Not searched: the memory of Ray's own processes, and the network.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.data.embed import Embedder
from raystore.data.job import EmbedPlan
from raystore.data.readers import plan
from raystore.encoders import Encoder
from raystore.encoders.items import Encoded, Item
from raystore.errors import IdConflict, InvalidRows, InvalidVectors, JobFailed, RaystoreError
from raystore.serve.run.proxy import free_port
from tests.promises.search import files_holding, object_store_holding, spellings
from tests.promises.test_resume import workers
from tests.promises.trail import CONTROL, KEPT, TOO_LONG, Trail, allow_core_files, loudest_output_to, new_mark
from tests.serve.conftest import make_store

pytestmark = pytest.mark.ray

_CANARIES = 50
# Ten rows to a commit, so that a worker can be met in the middle of its work.
_LONG = 26_000


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, ray_session: object) -> Iterator[Trail]:
    folder = tmp_path_factory.mktemp("protected")
    (folder / "raw").mkdir()
    trail = Trail(folder / "a store", folder / "raw", folder / "output", time.time() - 1)
    make_store(trail.store, tiny_model)
    store = raystore.open(trail.store)
    store.encoders.register("sick", model=str(_sick(tiny_model, folder / "sick")))
    store.create_collection("sick", encoder="sick")
    with loudest_output_to(trail.output):
        allow_core_files()
        _embed_on_ray(trail, store)
        _log(trail, store)
        _serve(trail, store)
    yield trail
    shutil.rmtree(folder / "raw")
    trail.remove_core_files()


def _sick(tiny_model: Path, folder: Path) -> Path:
    """The tiny model with a hole in its weights: a text that says 'money' has no vector, and makes its batch fail."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    row = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n").index("money")
    tensors["embeddings.word_embeddings.weight"][row] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _embed_on_ray(trail: Trail, store: raystore.Store) -> None:
    rows = 900
    good = {
        "id": [f"e-{n}" for n in range(rows)],
        "body": [trail.text(n % 12, _LONG) for n in range(rows)],
        "time": ["2026-11-20T10:00:00"] * rows,
        "product": [f"{KEPT}-{n}" for n in range(rows)],
    }
    pq.write_table(pa.table(good), trail.sources / "good.parquet", compression="zstd")
    bad: list[object] = [
        {"id": None, "body": trail.text(12), "time": None, "product": "p"},
        {"id": "b-long", "body": trail.text(13, TOO_LONG + 5_000), "time": None, "product": "p"},
        {"id": "e-0", "body": trail.text(14), "time": None, "product": "p"},
        {"id": "b-list", "body": [trail.text(15)], "time": None, "product": "p"},
        {"id": "b-object", "body": {trail.text(16): trail.text(16)}, "time": None, "product": "p"},
        {"id": "b-time", "body": trail.text(17), "time": trail.text(17), "product": "p"},
        {"id": "b-kept", "body": trail.text(18), "time": None, "product": {"text": trail.text(18)}},
        {"id": {"no": trail.text(19)}, "body": trail.text(19), "time": None, "product": "p"},
        {"id": trail.text(20, 600), "body": "hello", "time": None, "product": "p"},
    ]
    # Types are read off the first 1,000 rows, so the odd ones come after them.
    plain = 1_000
    lines = [json.dumps({"id": f"p-{n}", "body": f"hello {n}", "time": None, "product": "p"}) for n in range(plain)]
    lines += [json.dumps({"id": "g-1", "body": trail.text(21), "time": None, "product": "p"})]
    lines += [json.dumps(row) for row in bad] + ['{"id": "b-json", "body": "' + trail.text(22)]
    (trail.sources / "bad.jsonl").write_text("\n".join(lines), encoding="utf-8")
    raw = trail.text(23).encode() + b"\xff\xfe"
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0" + len(raw).to_bytes(4, "little")), pa.py_buffer(raw)]
    )
    spoilt = {"id": ["b-bytes"], "body": broken, "time": pa.array([None], pa.string()), "product": ["p"]}
    pq.write_table(pa.table(spoilt), trail.sources / "spoilt.parquet")

    tickets = store.collection("tickets")
    before = len(tickets)
    files = [trail.sources / name for name in ("good.parquet", "bad.jsonl", "spoilt.parquet")]
    done = threading.Event()
    killer = threading.Thread(target=_kill_workers, args=(trail, lambda: len(tickets) - before, done))
    killer.start()
    try:
        report = tickets.embed(files, text="body", id="id", time="time", keep=["product"], workers=2)
    finally:
        done.set()
        killer.join()
    trail.say(f"{report} {report!r}")
    assert report.workers == 2
    # A worker's counts die with it, so the table is asked and not the report.
    assert len(tickets) - before == rows + plain + 1
    aside = tickets.set_aside()
    trail.say(str(aside.to_pylist()))
    assert len(aside) == len(bad) + 2

    sick = [{"id": f"s-{n}", "body": f"money {trail.text(24)}" if n == 1 else trail.text(25)} for n in range(3)]
    pq.write_table(pa.table({name: [row[name] for row in sick] for name in ("id", "body")}), trail.sources / "s.parquet")
    report = store.collection("sick").embed(trail.sources / "s.parquet", text="body", id="id", workers=1)
    trail.say(f"{report} {store.collection('sick').set_aside().to_pylist()}")
    assert (report.added, report.set_aside) == (2, 1)


def _kill_workers(trail: Trail, rows: Callable[[], int], done: threading.Event) -> None:
    """Two workers are killed in the middle of a batch, and what a crash of theirs could have written is looked up first.

    They are not made to crash: the handler Ray (2.60) puts on SIGABRT was seen to loop, taking a core and gigabytes.
    """
    for mark in (60, 240):
        while rows() < mark and not done.wait(0.005):
            pass
        found = workers()
        if done.is_set() or not found:
            return
        # One that is being made has read nothing yet, and may not have come to its first line.
        working = [worker for worker in found if "__init__" not in " ".join(worker.cmdline())]
        trail.core_limits += [resource.prlimit(worker.pid, resource.RLIMIT_CORE)[0] for worker in working]
        trail.killed.append(found[0].pid)
        found[0].kill()


def _log(trail: Trail, store: raystore.Store) -> None:
    tickets = store.collection("tickets")
    tickets.log([{"id": f"l-{n}", "text": trail.text(n), "product": KEPT} for n in range(26, 29)])
    for row in (
        {"id": None, "text": trail.text(29)},
        {"id": "l-long", "text": trail.text(29, TOO_LONG)},
        {"id": "l-type", "text": [trail.text(30)]},
        {"id": "l-kept", "text": trail.text(30), "product": [trail.text(30)]},
        {"id": "l-time", "text": trail.text(31), "time": trail.text(31)},
        {"id": "l-both", "text": trail.text(31), "vector": [trail.text(31)]},
        {"id": "l-key", "text": "hello", trail.text(31): trail.text(31)},
        {"id": "l-lone", "text": trail.text(32) + "\ud800"},
        trail.text(32),
    ):
        trail.fails(lambda row=row: tickets.log([row]), InvalidRows)
    trail.fails(lambda: tickets.log([{"id": "l-26", "text": trail.text(33)}]), IdConflict)
    trail.fails(lambda: store.collection("sick").log([{"id": "s-9", "text": f"money {trail.text(33)}"}]), InvalidVectors)
    trail.fails(lambda: tickets.search([trail.text(33), 7]), RaystoreError)
    tickets.search(trail.text(34), k=3)


def _serve(trail: Trail, store: raystore.Store) -> None:
    running = store.deploy("triage", head="refunds@1", log="kept", port=free_port())
    replicas = [p for p in _descendants() if "ServeReplica" in " ".join(p.cmdline())]
    trail.core_limits += [resource.prlimit(p.pid, resource.RLIMIT_CORE)[0] for p in replicas]
    assert replicas
    log, predict, search = "/v1/collections/tickets/log", "/v1/predict/triage", "/v1/collections/tickets/search"
    try:
        with httpx.Client(base_url=running.url, timeout=60) as client:

            def post(status: int, path: str, body: object, **more: object) -> None:
                sent = {"json": body} if not isinstance(body, (str, bytes)) else {"content": body}
                answer = client.post(path, **sent, **more)
                trail.say(f"{answer.status_code} {answer.text} {dict(answer.headers)}")
                assert answer.status_code == status, (path, answer.text[:300])

            large = [trail.text(35, 80_000) for _ in range(7)]  # over half a megabyte in one body
            post(200, log, {"rows": [{"id": "h-1", "text": trail.text(36), "product": KEPT}]})
            post(200, log, {"rows": [{"id": f"h-large-{n}", "text": text} for n, text in enumerate(large)]})
            post(200, predict, {"text": trail.text(37)})
            post(200, predict, {"items": [{"text": text} for text in large]})
            post(200, search, {"text": trail.text(38)})
            post(200, "/v1/embeddings", {"model": "tiny", "input": trail.text(38)})
            # Rows that fail.
            post(422, log, {"rows": [{"id": None, "text": trail.text(39)}]})
            post(413, log, {"rows": [{"id": "h-2", "text": trail.text(40, TOO_LONG)}]})
            post(409, log, {"rows": [{"id": "h-1", "text": trail.text(41)}]})
            post(422, log, {"rows": [{"id": "h-3", "text": [trail.text(42)]}]})
            post(422, log, {"rows": [{"id": "h-4", "text": "hello", "product": {"deep": trail.text(42)}}]})
            post(422, log, {"rows": [{"id": "h-5", "text": "hello", "time": trail.text(42)}]})
            post(422, log, {"rows": [], trail.text(43): trail.text(43)})
            post(422, log, '{"rows": [{"id": "h-6", "text": "' + trail.text(43))
            post(422, log, '{"rows": [{"id": "h-7", "text": "' + trail.text(44, 500_000))
            post(422, "/v1/collections/sick/log", {"rows": [{"id": "h-8", "text": f"money {trail.text(44)}"}]})
            post(422, predict, {"text": [trail.text(45)]})
            post(413, predict, {"text": trail.text(45, TOO_LONG)})
            post(413, predict, {"text": trail.text(46, 1_500_000)})
            post(422, predict, '{"text": "' + trail.text(46, 500_000))
            post(422, predict, trail.text(47).encode("utf-16"), headers={"content-type": "application/json"})
            post(422, predict, trail.text(47).encode(), headers={"content-type": "text/plain"})
            post(422, search, {"text": "hello", "where": f"product = '{trail.text(48)}' AND ("})
            post(404, search, {"id": trail.text(48)})
            # A caller who puts the text where it does not belong.
            answer = client.post(f"/v1/predict/{trail.canary(49)}", json={"text": trail.text(49)})
            assert answer.status_code == 404  # it names the deployment that was asked for, to whoever asked
            post(200, predict, {"text": "hello"}, params={"text": trail.text(49)}, headers={"x-text": trail.canary(49)})
            answer = client.get(f"/{trail.canary(49)}", params={"text": trail.canary(49)})
            trail.say(f"{answer.status_code} {answer.text} {dict(answer.headers)}")
    finally:
        running.stop()


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_every_canary_went_in(trail: Trail) -> None:
    assert trail.used == set(range(_CANARIES))
    assert len(trail.killed) == 2
    assert files_holding(trail.sources, trail.mark), "the sources hold them, outside the store"


def test_no_file_holds_a_canary(trail: Trail) -> None:
    assert trail.found(trail.mark) == {}


def test_no_error_and_no_answer_holds_a_canary(trail: Trail) -> None:
    assert trail.said_with(trail.mark) == []


class _Quoting:
    """An encoder that fails as a library might: with what it was given, in an error that nobody foresaw."""

    def __init__(self, encoder: Encoder) -> None:
        self.dim, self.max_chars, self.backend, self.device = encoder.dim, 100_000, "quoting", "cpu"

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        raise KeyError(items[0])


def test_an_error_that_quotes_the_text_leaves_the_worker_without_it(tmp_path: Path, tiny_model: Path) -> None:
    store = raystore.open(tmp_path / "a store")
    encoder = store.encoders.register("tiny", model=str(tiny_model))
    store.create_collection("tickets", encoder="tiny")
    source = tmp_path / "raw.jsonl"
    mark = new_mark()
    source.write_text(json.dumps({"id": "q-1", "body": f"{mark} hello"}), encoding="utf-8")
    _, references = plan([str(source)], 1, "embed")
    job = EmbedPlan("tickets", (encoder.fingerprint,), "body", "text", "id", None, None, None, {}, "", False, 0)
    with pytest.raises(JobFailed, match=r"KeyError at test_protected_path\.py:\d+") as caught:
        Embedder(store.layout, job, {encoder.fingerprint: _Quoting(encoder)}, store.key).embed(references[0])
    assert mark not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_the_object_store_holds_no_canary(trail: Trail) -> None:
    import ray

    assert object_store_holding(trail.mark) == set()
    control = ray.put(CONTROL.encode() * 20_000)  # over what travels inside a call
    assert "utf-8" in object_store_holding(CONTROL)
    del control


def test_workers_and_replicas_could_write_no_core_file_if_they_crashed(trail: Trail) -> None:
    assert trail.core_limits
    assert set(trail.core_limits) == {0}


def test_kept_columns_are_stored_and_the_search_sees_into_the_tables(trail: Trail) -> None:
    assert any(path.endswith("rows.lance") for path in files_holding(trail.store, KEPT))
    assert files_holding(trail.session, KEPT) == {}


@pytest.mark.parametrize("spelling", spellings(CONTROL))
def test_a_control_is_found_in_each_spelling(trail: Trail, spelling: str, tmp_path: Path) -> None:
    (tmp_path / "control").write_bytes(b"x" * 70_001 + spellings(CONTROL)[spelling] + b"y")
    assert spelling in files_holding(tmp_path, CONTROL)[str(tmp_path / "control")]


def test_a_control_is_found_in_each_place(trail: Trail) -> None:
    controls = [
        trail.store / "collections" / "tickets" / "control.bin",
        trail.session / "logs" / "control.log",
        trail.session / "logs" / "serve" / "control.log",
        trail.session / "control.spill",
    ]
    for control in controls:
        control.parent.mkdir(parents=True, exist_ok=True)
        control.write_bytes(os.urandom(5_000) + CONTROL.encode() + os.urandom(5_000))
    with loudest_output_to(trail.output):
        os.write(1, CONTROL.encode())
        logging.getLogger("anything").debug(CONTROL)
    found = {path for place in trail.places for path in files_holding(place, CONTROL)}
    for control in controls:
        control.unlink()
    assert {str(path) for path in [*controls, trail.output]} <= found


@pytest.mark.parametrize("codec", ["snappy", "zstd", "gzip", "none"])
def test_a_control_is_found_inside_parquet(codec: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [CONTROL] * 1_000}), tmp_path / "control.parquet", compression=codec)
    assert files_holding(tmp_path, CONTROL)
