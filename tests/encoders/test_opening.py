"""Which backend an encoder is opened on, and what happens when that one cannot, or computes something else."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raystore.catalog import Catalog, open_root
from raystore.encoders.exports import export_folder, export_problem
from raystore.encoders.golden import PROBES
from raystore.encoders.onnx_backend import OnnxBackend
from raystore.encoders.opening import open_encoder
from raystore.encoders.openvino_backend import OpenVinoBackend
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import GoldenMoved, ModelUnusable
from raystore.layout import Layout
from tests.encoders.graphs import need

need("openvino", "onnxruntime")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is torch where there is a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAYSTORE_BACKEND", raising=False)


@pytest.fixture(scope="module")
def registered(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the tiny model and its export, to be copied: converting and measuring take seconds."""
    layout, _ = open_root(tmp_path_factory.mktemp("registered") / "store", create=True)
    Encoders(Catalog(layout)).register("tiny", tiny_model)
    return layout.root


@pytest.fixture
def layout(registered: Path, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(registered, tmp_path / "a copy")))


@pytest.fixture
def tiny(layout: Layout) -> Encoder:
    return Encoders(Catalog(layout))["tiny"]


def test_openvino_is_the_default_and_every_backend_is_within_the_tolerance_of_torch(tiny: Encoder) -> None:
    texts = [*PROBES, *(f"card {'blue ' * i}" for i in range(70))]
    default, reference = tiny.load(), tiny.load(backend="torch")
    assert (default.backend, reference.backend) == ("openvino", "torch")
    expected = reference.encode(texts)
    for encoder in (default, tiny.load(backend="onnx")):
        assert np.einsum("nd,nd->n", encoder.encode(texts), expected).min() >= tiny.passport.tolerance


def test_the_setting_chooses_the_backend(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "onnx")
    assert tiny.load().backend == "onnx"
    assert tiny.load(backend="torch").backend == "torch"


def test_a_worker_loads_an_export_without_torch_or_transformers(layout: Layout, tiny: Encoder) -> None:
    code = (
        "import sys; from pathlib import Path; from raystore.layout import Layout\n"
        "from raystore.encoders import open_encoder\n"
        "encoder = open_encoder(Layout(Path(sys.argv[1])), sys.argv[2], threads=1, name='tiny')\n"
        "vectors = encoder.encode(['hello world'])\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'ray'} & set(sys.modules)\n"
        "print(encoder.backend, vectors.shape, sorted(heavy))"
    )
    args = [sys.executable, "-c", code, str(layout.root), tiny.fingerprint]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.stdout == "openvino (1, 32) []\n", done.stderr


def test_importing_the_registry_loads_no_framework() -> None:
    code = (
        "import sys, raystore.encoders.registry\n"
        "print(sorted({'torch', 'transformers', 'openvino', 'onnxruntime', 'tokenizers', 'ray', 'lance'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_a_damaged_export_is_made_again_and_said(layout: Layout, tiny: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    path = export_folder(layout, tiny.fingerprint, "openvino") / "text.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING, logger="raystore"):
        loaded = open_encoder(layout, tiny.fingerprint, name="tiny")
    assert loaded.backend == "openvino"
    assert export_problem(layout, tiny.passport, OpenVinoBackend) is None
    assert caplog.messages == [
        f"the openvino export of encoder {tiny.label} is made again: text.bin is not what the manifest says"
    ]


def test_an_export_that_is_not_there_is_made_from_the_source(
    layout: Layout, tiny: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="raystore"):
        assert tiny.load(backend="onnx").backend == "onnx"
    assert export_problem(layout, tiny.passport, OnnxBackend) is None
    assert caplog.messages == [f"the onnx export of encoder {tiny.label} is made again: there is none"]


class Reversed(OpenVinoBackend):
    """Stands for a backend that computes something else: every vector comes out reversed."""

    def run(self, inputs):
        return super().run(inputs)[:, ::-1]


class Unable(OpenVinoBackend):
    """Stands for a library without a rule for one of the model's operations."""

    @classmethod
    def export(cls, module, example, folder, stem):
        raise RuntimeError("no conversion rule")


class Broken(OpenVinoBackend):
    """Stands for a graph that compiles and cannot be run."""

    def run(self, inputs):
        raise RuntimeError("a kernel is missing")


def stand_in(monkeypatch: pytest.MonkeyPatch, backend: type[OpenVinoBackend]) -> None:
    monkeypatch.setattr("raystore.encoders.opening.exported_backends", lambda: {"openvino": backend, "onnx": OnnxBackend})


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (Reversed, "its vectors are not those of torch: over 1,000 rows the worst cosine to torch fp32 is "),
        (Unable, "openvino could not convert it (RuntimeError)"),
        (Broken, "openvino could not run it (RuntimeError)"),
    ],
)
def test_a_backend_that_fails_at_registration_leaves_torch_and_says_so(
    encoders: Encoders,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    backend: type[OpenVinoBackend],
    said: str,
) -> None:
    stand_in(monkeypatch, backend)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        tiny = encoders.register("tiny", tiny_model)
        assert tiny.load().backend == "torch"
    assert len(caplog.messages) == 2  # at registration, and at the load after it
    assert all(line.startswith(f"encoder {tiny.label} runs on torch, not on openvino: {said}") for line in caplog.messages)
    with pytest.raises(ModelUnusable) as caught:
        tiny.load(backend="openvino")
    assert str(caught.value).startswith(f"model '{tiny.label}' cannot be used: {said}")
    assert str(caught.value).endswith("Use the torch backend.")


def test_a_sound_export_that_another_machine_computes_otherwise_is_left_for_torch(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, Reversed)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        assert tiny.load().backend == "torch"
    assert caplog.messages[-1].startswith(f"encoder {tiny.label} runs on torch, not on openvino: encoder {tiny.label}")
    with pytest.raises(GoldenMoved) as caught:
        tiny.load(backend="openvino")
    assert (caught.value.backend, caught.value.modality) == ("openvino", "text")


class Rounding(OpenVinoBackend):
    """Stands for a processor on which the fast precision is too coarse for this model."""

    def __init__(self, folder, stem, *, threads=None, precision="auto"):
        super().__init__(folder, stem, threads=threads, precision=precision)
        self.coarse = precision == "auto"

    def run(self, inputs):
        rows = super().run(inputs)
        return rows + 0.1 if self.coarse else rows


def test_a_precision_too_coarse_gives_way_to_the_stricter_one(
    layout: Layout, tiny: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, Rounding)
    manifest = export_folder(layout, tiny.fingerprint, "openvino") / "manifest.json"
    about = json.loads(manifest.read_text())
    about["equivalence"]["precision"] = "auto"  # as found on the machine that made the export
    manifest.write_text(json.dumps(about))
    with caplog.at_level(logging.WARNING, logger="raystore"):
        assert tiny.load().backend == "openvino"
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"encoder {tiny.label} is not exact enough in precision 'auto' here: ")
