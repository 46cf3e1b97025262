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
from raystore.encoders import openvino_backend
from raystore.encoders.backends import choose_backend
from raystore.encoders.golden import PROBES
from raystore.encoders.openvino_backend import export_folder, export_problem
from raystore.encoders.registry import Encoder, Encoders, open_encoder
from raystore.errors import ExtraNotInstalled, GoldenMoved, InvalidArguments, ModelUnusable

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def registered(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the tiny model and its export, to be copied: converting takes seconds."""
    layout, _ = open_root(tmp_path_factory.mktemp("registered") / "store", create=True)
    Encoders(Catalog(layout)).register("tiny", tiny_model)
    return layout.root


@pytest.fixture
def tiny(encoders: Encoders, registered: Path) -> Encoder:
    shutil.copytree(registered, layout_of(encoders).root, dirs_exist_ok=True)
    return encoders["tiny"]


def layout_of(encoders: Encoders):
    return encoders._catalog.layout


def test_openvino_is_the_default_and_within_the_tolerance_of_torch(tiny: Encoder) -> None:
    fast, reference = tiny.load(), tiny.load(backend="torch")
    assert (fast.backend, reference.backend) == ("openvino", "torch")
    texts = [*PROBES, *(f"card {'blue ' * i}" for i in range(70))]
    cosines = np.einsum("nd,nd->n", fast.encode(texts), reference.encode(texts))
    assert cosines.min() > 0.9999


def test_packaged_minilm_on_openvino_is_close_to_torch(encoders: Encoders) -> None:
    minilm = encoders.register("minilm", "minilm")
    cosines = np.einsum("nd,nd->n", minilm.encode(PROBES), minilm.load(backend="torch").encode(PROBES))
    assert cosines.min() >= 0.9999
    assert minilm.verify() >= 0.9999


def test_a_worker_loads_an_export_without_torch_or_transformers(encoders: Encoders, tiny: Encoder) -> None:
    code = (
        "import sys; from pathlib import Path; from raystore.layout import Layout\n"
        "from raystore.encoders.registry import open_encoder\n"
        "encoder = open_encoder(Layout(Path(sys.argv[1])), sys.argv[2], threads=1, name='tiny')\n"
        "vectors = encoder.encode(['hello world'])\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'ray'} & set(sys.modules)\n"
        "print(encoder.backend, vectors.shape, sorted(heavy))"
    )
    root = str(layout_of(encoders).root)
    done = subprocess.run([sys.executable, "-c", code, root, tiny.fingerprint], capture_output=True, text=True, check=False)
    assert done.stdout == "openvino (1, 32) []\n", done.stderr


def test_importing_the_registry_loads_no_framework() -> None:
    code = (
        "import sys, raystore.encoders.registry\n"
        "print(sorted({'torch', 'transformers', 'openvino', 'tokenizers', 'ray', 'lance'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("file", ["model.xml", "model.bin", "tokenizer.json", "manifest.json"])
def test_harm_to_any_file_of_an_export_is_noticed(encoders: Encoders, tiny: Encoder, file: str) -> None:
    layout = layout_of(encoders)
    path = export_folder(layout, tiny.passport) / file
    data = path.read_bytes()
    assert export_problem(layout, tiny.passport) is None
    path.write_bytes(data[:-1] + b"?")
    assert export_problem(layout, tiny.passport) is not None
    path.write_bytes(data[: len(data) // 2])
    assert export_problem(layout, tiny.passport) is not None
    path.unlink()
    assert export_problem(layout, tiny.passport) is not None


def test_a_damaged_export_is_made_again_and_said(
    encoders: Encoders, tiny: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    layout = layout_of(encoders)
    path = export_folder(layout, tiny.passport) / "model.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING, logger="raystore"):
        loaded = open_encoder(layout, tiny.fingerprint, name="tiny")
    assert loaded.backend == "openvino"
    assert export_problem(layout, tiny.passport) is None
    assert caplog.messages == [
        f"the OpenVINO export of encoder {tiny.label} is made again: model.bin is not what the manifest says"
    ]


def test_an_export_of_another_encoder_is_not_used(encoders: Encoders, tiny: Encoder) -> None:
    layout = layout_of(encoders)
    manifest = export_folder(layout, tiny.passport) / "manifest.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**about, "fingerprint": "0" * 64}))
    assert export_problem(layout, tiny.passport) == "it was made of another encoder"


class Inexact(openvino_backend.OpenVinoBackend):
    """Stands for a backend that computes something else: every vector comes out reversed."""

    def run(self, inputs):
        return super().run(inputs)[:, ::-1]


def test_an_inexact_backend_falls_back_to_torch_and_says_so(
    encoders: Encoders, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raystore.encoders.loaded.OpenVinoBackend", Inexact)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        tiny = encoders.register("tiny", tiny_model)
        assert tiny.load().backend == "torch"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # at registration, and at the load after it
    assert all(line.startswith(f"encoder {tiny.label} runs on torch, not on openvino: encoder") for line in said)
    with pytest.raises(GoldenMoved) as caught:
        tiny.load(backend="openvino")
    assert caught.value.backend == "openvino"


def test_a_model_openvino_cannot_convert_runs_on_torch_and_says_so(
    encoders: Encoders, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unable(module: object, example: object) -> None:
        raise RuntimeError("no conversion rule")

    monkeypatch.setattr(openvino_backend, "_convert", unable)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        tiny = encoders.register("tiny", tiny_model)
    assert "runs on torch, not on openvino: OpenVINO could not convert it (RuntimeError)" in caplog.text
    assert tiny.load().backend == "torch"
    with pytest.raises(ModelUnusable) as caught:
        tiny.load(backend="openvino")
    assert str(caught.value) == (
        f"model '{tiny.label}' cannot be used: OpenVINO could not convert it (RuntimeError). Use the torch backend."
    )


def test_a_backend_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidArguments) as caught:
        choose_backend("tpu")
    assert str(caught.value) == "load an encoder: a backend is one of torch, openvino, not 'tpu'."


def test_openvino_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend(None) == ("torch", False)
    with pytest.raises(ExtraNotInstalled) as caught:
        choose_backend("openvino")
    assert str(caught.value) == "OpenVINO encoders need openvino. Install it: pip install 'raystore[openvino]'"


def test_racing_writers_leave_one_whole_export(encoders: Encoders, tiny: Encoder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    layout = layout_of(encoders)
    folder = export_folder(layout, tiny.passport)
    stages = []
    for i in range(6):
        stage = layout.tmp / f"stage{i}"
        stage.mkdir(parents=True)
        for file in folder.iterdir():
            (stage / file.name).write_bytes(file.read_bytes())
        stages.append(stage)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda stage: openvino_backend._replace(stage, folder, layout.tmp), stages))
    assert export_problem(layout, tiny.passport) is None
