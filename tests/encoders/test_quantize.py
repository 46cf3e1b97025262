"""An int8 graph: near, smaller, reproducible, silent."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.encoders.backends import BatchSize
from raystore.encoders.exports import worst_cosine
from raystore.encoders.model import Model, example_inputs
from raystore.encoders.openvino_backend import INT8_PRECISION, OpenVinoBackend
from raystore.encoders.passport import Modality
from raystore.encoders.quantize import quantize_openvino
from raystore.errors import InvalidArguments
from tests.encoders.graphs import image_model, inputs_of, need, opened, text_model

need("openvino", "nncf")


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> dict[Modality, Model]:
    return {"text": text_model(tiny_model), "image": image_model()}


@pytest.fixture(scope="module", params=["text", "image"])
def modality(request: pytest.FixtureRequest) -> Modality:
    return request.param


@pytest.fixture(scope="module")
def exported(models: dict[Modality, Model], modality: Modality, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    model = models[modality]
    OpenVinoBackend.export(model.graphs[modality], example_inputs(model.passport, modality), folder, modality)
    return folder


def calibration(modality: Modality) -> list[Any]:
    return [inputs_of(modality, 1, length=4 + seed, seed=seed) for seed in range(40)]


def test_an_int8_graph_is_near_and_small_and_runs_as_any_other(
    models: dict[Modality, Model], modality: Modality, exported: Path, tmp_path: Path
) -> None:
    quantize_openvino(exported, tmp_path, modality, calibration(modality))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{modality}.bin", f"{modality}.xml"]
    assert (tmp_path / f"{modality}.bin").stat().st_size < 0.6 * (exported / f"{modality}.bin").stat().st_size
    backend = OpenVinoBackend(tmp_path, modality)
    inputs = inputs_of(modality, 50, length=24, seed=1000)
    rows = backend.run(inputs)
    assert (rows.dtype, rows.shape) == (np.float32, (50, 32))
    # Random weights are a hard case: the activations of a trained model leave the 8 bits less to round.
    assert 0.9 < worst_cosine(opened("torch", models[modality], tmp_path).run(inputs), rows) < 0.9999


def test_the_same_graph_and_calibration_give_the_same_bytes(modality: Modality, exported: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        quantize_openvino(exported, tmp_path / name, modality, calibration(modality))
    for file in (f"{modality}.xml", f"{modality}.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_quantising_says_nothing_and_leaves_the_loggers_alone(
    modality: Modality, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = logging.getLoggerClass()
    with caplog.at_level(logging.DEBUG):
        quantize_openvino(exported, tmp_path, modality, calibration(modality)[:5])
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records if record.name.startswith("nncf")] == []
    assert logging.getLoggerClass() is before
    assert sys.modules["openvino_telemetry"] is None  # nncf reports through it where it can be imported


def test_nothing_to_calibrate_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        quantize_openvino(tmp_path, tmp_path, "text", [])
    assert str(caught.value) == "quantize: there is nothing to calibrate with."


def test_a_graph_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        quantize_openvino(tmp_path, tmp_path, "text", calibration("text"))
    assert not any(tmp_path.iterdir())


def test_calibration_that_does_not_fit_the_graph_is_said(modality: Modality, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        quantize_openvino(exported, tmp_path, modality, [{"nonsense": np.zeros((1, 4))}])
    assert not any(tmp_path.iterdir())


@pytest.mark.model
def test_the_packaged_minilm_in_int8_stays_near(tmp_path: Path) -> None:
    """Measured with 300 docstrings of the standard library: mean 0.998, worst of 1,000 others 0.988, neighbours 0.94."""
    from raystore.encoders.sample import sample_texts
    from raystore.encoders.tokens import TextReader

    model = text_model(Path("minilm"))
    assert model.tokenizer_json is not None
    assert model.passport.text is not None
    reader = TextReader(model.tokenizer_json, model.passport.text)
    texts = sample_texts(160)
    one = BatchSize(tokens=1, rows=1, images=1)
    some = [batch.inputs for batch in reader.batches(texts[:100], one)]
    fast, exact = tmp_path / "int8", tmp_path / "fp32"
    fast.mkdir()
    reference = opened("openvino", model, exact, precision="fp32")
    quantize_openvino(exact, fast, "text", some)
    int8 = OpenVinoBackend(fast, "text", precision=INT8_PRECISION)
    rest = [batch.inputs for batch in reader.batches(texts[100:], one)]
    expected = np.concatenate([reference.run(inputs) for inputs in rest])
    found = np.concatenate([int8.run(inputs) for inputs in rest])
    assert worst_cosine(expected, found) > 0.97
    assert np.einsum("nd,nd->n", expected, found).mean() > 0.99
