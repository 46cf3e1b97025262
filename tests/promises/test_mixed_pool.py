"""Workers with and without a GPU in one job: all take part, and each passed the golden check before its first batch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import raystore
from raystore.collection import Collection
from raystore.encoders import Encoder
from raystore.errors import GoldenMoved
from raystore.layout import vector_column
from tests.promises.turns import wait_for_both_kinds

pytestmark = pytest.mark.ray
ROWS = 4_000
MOVED = 5  # the golden input that comes out elsewhere


@pytest.fixture
def tickets(tmp_path: Path, tiny_model: Path) -> Collection:
    store = raystore.open(tmp_path / "a store")
    store.encoders.register("tiny", model=str(tiny_model))
    return store.create_collection("tickets", encoder="tiny")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four slices, each a row group."""
    texts = [f"card {n} never arrived" for n in range(ROWS)]
    path = tmp_path / "it's a source.parquet"
    pq.write_table(pa.table({"id": [f"r-{n}" for n in range(ROWS)], "body": texts}), path, row_group_size=ROWS // 4)
    return path


def test_both_kinds_take_slices_of_one_job_and_their_vectors_are_the_same_encoders(
    tickets: Collection, source: Path, ray_session: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_both_kinds(monkeypatch)
    report = tickets.embed(source, text="body", id="id", workers=1, gpu_workers=1)
    assert (report.read, report.added, report.workers, report.gpu_workers) == (ROWS, ROWS, 1, 1)
    encoded = tickets.jobs()[-1]["encoded_by"]
    assert encoded.keys() == {"openvino on cpu", "torch on cpu"}  # the session's GPU is one by name
    assert min(encoded.values()) >= ROWS // 4
    assert sum(encoded.values()) == ROWS
    encoder = tickets.encoder()
    rows = tickets.to_arrow(["id", vector_column(encoder.fingerprint)])
    assert set(Counter(rows["id"].to_pylist()).values()) == {1}
    places = range(0, ROWS, 100)
    expected = encoder.encode([f"card {n} never arrived" for n in places])
    held = dict(zip(rows["id"].to_pylist(), rows[1].to_pylist(), strict=True))
    cosines = [float(np.dot(held[f"r-{n}"], row)) for n, row in zip(places, expected, strict=True)]
    assert min(cosines) > 0.9999


@pytest.mark.parametrize(
    "pool", [{"workers": 2}, {"gpu_workers": 2, "gpus_per_worker": 0.5}, {"workers": 1, "gpu_workers": 1}], ids=str
)
def test_a_worker_whose_golden_vectors_moved_is_refused_before_its_first_batch(
    tickets: Collection, source: Path, ray_session: object, pool: dict[str, float]
) -> None:
    encoder = tickets.encoder()
    _move_golden(tickets, encoder)
    with pytest.raises(GoldenMoved) as refused:
        tickets.embed(source, text="body", id="id", **pool)
    moved = refused.value
    assert (moved.modality, moved.worst_input, moved.backend) == ("text", MOVED, "torch")
    assert str(moved) == (
        f"encoder {encoder.fingerprint[:12]} on backend torch no longer encodes its golden inputs: text {MOVED} came out at "
        f"cosine {moved.cosine:.6f}, at least 0.9999 is required. It was not loaded. Register what this model has become "
        "under a name of its own, or use another backend."
    )
    assert (len(tickets), tickets.set_aside().num_rows) == (0, 0)
    job = tickets.jobs()[-1]
    assert (job["failed"], job["encoded_by"], job["counts"]["read"]) == ("GoldenMoved", {}, 0)


def _move_golden(tickets: Collection, encoder: Encoder) -> None:
    """Registered as it is, but for one golden input that this encoder is said to have encoded otherwise."""
    folder = tickets._store.layout.encoder(encoder.fingerprint)
    path, about = folder / "golden.safetensors", json.loads((folder / "passport.json").read_text())
    rows = load_file(path)
    rows["text"][MOVED] = -rows["text"][MOVED]
    save_file(rows, path, metadata={"fingerprint": encoder.fingerprint})
    about["golden_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "passport.json").write_text(json.dumps(about))
