"""One behaviour for every backend, on a graph of texts and a graph of images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.encoders.backends import BACKENDS, Backend, choose_backend, exported_backends
from raystore.encoders.exports import worst_cosine
from raystore.encoders.model import Model
from raystore.encoders.onnx_backend import OnnxBackend
from raystore.encoders.openvino_backend import OpenVinoBackend
from raystore.encoders.passport import TOLERANCE, Modality
from raystore.encoders.torch_backend import CPU_BATCH, TorchBackend
from raystore.errors import ExtraNotInstalled, InvalidArguments
from tests.encoders.graphs import EDGE, EXPORTED, image_model, inputs_of, need, opened, rows_of, text_model

need("openvino", "onnxruntime")

MODALITIES: tuple[Modality, ...] = ("text", "image")


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> dict[Modality, Model]:
    return {"text": text_model(tiny_model), "image": image_model()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module", params=MODALITIES)
def modality(request: pytest.FixtureRequest) -> Modality:
    return request.param


@pytest.fixture(scope="module", params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


Open = Callable[..., Backend]


@pytest.fixture(scope="module")
def open_it(models: dict[Modality, Model], files: Path, name: str, modality: Modality) -> Open:
    """Opens the backend under test; its graph is converted once."""
    return lambda **options: opened(name, models[modality], files / name / modality, **options)


@pytest.fixture(scope="module")
def backend(open_it: Open) -> Backend:
    return open_it()


@pytest.fixture(scope="module")
def reference(models: dict[Modality, Model], modality: Modality) -> TorchBackend:
    return TorchBackend(models[modality].graphs[modality], device="cpu")


def test_a_backend_says_its_name_and_its_batches(backend: Backend, name: str) -> None:
    assert backend.name == name
    assert backend.batch_size.tokens >= 512
    assert 1 <= backend.batch_size.images <= 256


@pytest.mark.parametrize(("n", "length"), [(1, 1), (1, 16), (2, 8), (3, 5), (17, 64), (40, 2)])
def test_any_batch_gives_float32_unit_rows_that_are_torch_s(
    backend: Backend, reference: TorchBackend, modality: Modality, n: int, length: int
) -> None:
    inputs = inputs_of(modality, n, length)
    rows = backend.run(inputs)
    assert (type(rows), rows.dtype, rows.shape) == (np.ndarray, np.float32, (n, 32))
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-3
    assert worst_cosine(reference.run(inputs), rows) >= TOLERANCE


@given(n=st.integers(1, 9), length=st.integers(1, 64), seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_batches_are_torch_s(
    backend: Backend, reference: TorchBackend, modality: Modality, n: int, length: int, seed: int
) -> None:
    inputs = inputs_of(modality, n, length, seed)
    assert worst_cosine(reference.run(inputs), backend.run(inputs)) >= TOLERANCE


def test_each_call_hands_out_a_new_array_and_leaves_its_inputs(backend: Backend, modality: Modality) -> None:
    inputs = inputs_of(modality, 5)
    given_before = {key: array.copy() for key, array in inputs.items()}
    first = backend.run(inputs)
    kept = first.copy()
    second = backend.run(inputs_of(modality, 5, seed=1))
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable
    for key, array in inputs.items():
        np.testing.assert_array_equal(array, given_before[key])


def test_rows_keep_the_order_of_the_items(backend: Backend, modality: Modality) -> None:
    inputs = inputs_of(modality, 12)
    backwards = backend.run(rows_of(inputs, slice(None, None, -1)))
    assert worst_cosine(backend.run(inputs), backwards[::-1]) >= TOLERANCE
    assert worst_cosine(backend.run(inputs), backwards) < 0.99


def test_an_item_alone_has_the_vector_it_has_in_company(backend: Backend, modality: Modality) -> None:
    inputs = inputs_of(modality, 6)
    alone = np.concatenate([backend.run(rows_of(inputs, [i])) for i in range(6)])
    assert worst_cosine(backend.run(inputs), alone) >= TOLERANCE


@pytest.mark.parametrize("modality", ["text"], indirect=True)
@pytest.mark.parametrize("more", [1, 7, 40])
def test_padding_changes_no_vector(backend: Backend, modality: Modality, more: int) -> None:
    inputs = inputs_of(modality, 8)
    padded = {key: np.pad(array, ((0, 0), (0, more))) for key, array in inputs.items()}
    assert worst_cosine(backend.run(inputs), backend.run(padded)) >= TOLERANCE


def test_arrays_that_are_views_or_read_only_are_taken(backend: Backend, modality: Modality) -> None:
    """Ray hands arrays over read-only; readers cut batches out of larger ones."""
    inputs = inputs_of(modality, 8)
    views = {key: array[::2] for key, array in inputs.items()}
    for array in views.values():
        array.flags.writeable = False
    assert worst_cosine(backend.run(inputs)[::2], backend.run(views)) >= TOLERANCE


def test_one_thread_and_all_of_them_agree(open_it: Open, backend: Backend, modality: Modality) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        inputs = inputs_of(modality, 9)
        assert worst_cosine(backend.run(inputs), open_it(threads=1).run(inputs)) >= TOLERANCE
    finally:
        torch.set_num_threads(before)


EXPORTED_NAMES = [each.name for each in EXPORTED]


@pytest.mark.parametrize("name", EXPORTED_NAMES, indirect=True)
def test_the_files_begin_with_the_stem_and_nothing_else_is_written(
    files: Path, backend: Backend, modality: Modality
) -> None:
    names = sorted(path.name for path in (files / backend.name / modality).iterdir())
    assert names == {
        "openvino": [f"{modality}.bin", f"{modality}.xml"],
        "onnx": [f"{modality}.onnx", f"{modality}.onnx.data"],
    }[backend.name]  # fmt: skip


@pytest.mark.parametrize("name", EXPORTED_NAMES, indirect=True)
@pytest.mark.parametrize("harm", ["empty folder", "cut in half", "no weights", "not a graph"])
def test_files_that_cannot_be_run_are_said(
    files: Path, tmp_path: Path, backend: Backend, modality: Modality, harm: str
) -> None:
    graph, weights = sorted((files / backend.name / modality).iterdir(), key=lambda path: path.suffix in (".bin", ".data"))
    if harm != "empty folder":
        data = graph.read_bytes()
        (tmp_path / graph.name).write_bytes(
            {"cut in half": data[: len(data) // 2], "not a graph": b"\0" * 99}.get(harm, data)
        )
    if harm not in ("empty folder", "no weights"):
        (tmp_path / weights.name).write_bytes(weights.read_bytes())
    with pytest.raises(RuntimeError):
        exported_backends()[backend.name](tmp_path, modality)


@pytest.mark.parametrize("name", EXPORTED_NAMES, indirect=True)
@pytest.mark.parametrize("modality", ["image"], indirect=True)
def test_an_image_of_another_size_is_refused(backend: Backend) -> None:
    pixels = np.zeros((1, 3, EDGE[1], EDGE[0]), dtype=np.float32)
    with pytest.raises(RuntimeError):
        backend.run({"pixel_values": pixels})
    assert backend.run(inputs_of("image", 1)).shape == (1, 32)  # and it goes on


@pytest.mark.parametrize("name", EXPORTED_NAMES, indirect=True)
def test_an_export_runs_in_a_process_without_torch(
    files: Path, backend: Backend, modality: Modality, tmp_path: Path
) -> None:
    np.savez(tmp_path / "inputs.npz", **inputs_of(modality, 3))
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from raystore.encoders.backends import exported_backends\n"
        "folder, name, stem, inputs = sys.argv[1:]\n"
        "backend = exported_backends()[name](Path(folder), stem, threads=1)\n"
        "rows = backend.run(dict(np.load(inputs)))\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'onnx', 'nncf', 'ray'} & set(sys.modules)\n"
        "print(rows.shape, sorted(heavy))"
    )
    args = [str(files / backend.name / modality), backend.name, modality, str(tmp_path / "inputs.npz")]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(3, 32) []\n", "")


def test_openvino_in_pure_float32_is_nearer_to_torch(
    models: dict[Modality, Model], files: Path, modality: Modality
) -> None:
    folder = files / "openvino" / modality
    inputs = inputs_of(modality, 20)
    expected = opened("torch", models[modality], folder).run(inputs)
    exact = opened("openvino", models[modality], folder, precision="fp32").run(inputs)
    assert worst_cosine(expected, exact) > 0.999999


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("fp16", 0.9999)])
def test_torch_in_half_precision_is_near_and_leaves_the_module_as_it_was(
    models: dict[Modality, Model], reference: TorchBackend, modality: Modality, precision: Any, least: float
) -> None:
    inputs = inputs_of(modality, 20)
    before = reference.run(inputs)
    half = TorchBackend(models[modality].graphs[modality], device="cpu", precision=precision).run(inputs)
    assert half.dtype == np.float32
    assert np.abs(np.linalg.norm(half, axis=1) - 1).max() < 1e-6
    assert least <= worst_cosine(before, half) < 1 - 1e-9
    np.testing.assert_array_equal(reference.run(inputs), before)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.999), ("fp16", 0.9999)])
def test_a_gpu_puts_out_what_the_cpu_does(
    models: dict[Modality, Model], reference: TorchBackend, modality: Modality, precision: Any, least: float
) -> None:
    inputs = inputs_of(modality, 300)
    on_gpu = TorchBackend(models[modality].graphs[modality], device="cuda", precision=precision)
    assert (on_gpu.device, on_gpu.batch_size.images) == ("cuda", 256)
    assert worst_cosine(reference.run(inputs), on_gpu.run(inputs)) >= least


def test_onnx_falls_back_to_tracing_where_python_decides(tmp_path: Path) -> None:
    """torch.export refuses a branch on a value; tracing keeps the branch it took, and the golden check judges that."""
    import torch

    class Branches(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            flat = pixel_values.flatten(1)
            rows = flat + 1 if float(flat.sum()) >= 0 else flat
            return torch.nn.functional.normalize(rows, dim=1)

    example = {"pixel_values": np.ones((2, 3, 4, 4), dtype=np.float32)}
    OnnxBackend.export(Branches(), example, tmp_path, "image")
    more = {"pixel_values": np.random.default_rng(0).random((5, 3, 4, 4), dtype=np.float32)}
    assert (
        worst_cosine(TorchBackend(Branches(), device="cpu").run(more), OnnxBackend(tmp_path, "image").run(more)) > 0.999999
    )


@pytest.mark.parametrize("exported", EXPORTED, ids=EXPORTED_NAMES)
def test_converting_says_nothing(
    models: dict[Modality, Model], exported: type[OpenVinoBackend], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from raystore.encoders.model import example_inputs

    model = models["image"]
    exported.export(model.graphs["image"], example_inputs(model.passport, "image"), tmp_path, "image")
    assert capfd.readouterr() == ("", "")


@pytest.mark.model
def test_every_backend_runs_the_packaged_minilm_as_torch_does(tmp_path: Path) -> None:
    from raystore.encoders.sample import sample_texts
    from raystore.encoders.tokens import TextReader

    model = text_model(Path("minilm"))
    assert model.tokenizer_json is not None
    assert model.passport.text is not None
    texts = sample_texts(64)
    batches = list(TextReader(model.tokenizer_json, model.passport.text).batches(texts, CPU_BATCH))
    expected = [opened("torch", model, tmp_path).run(batch.inputs) for batch in batches]
    for name in EXPORTED_NAMES:
        backend = opened(name, model, tmp_path / name)
        found = [backend.run(batch.inputs) for batch in batches]
        assert sum(map(len, found)) == 64
        assert min(map(worst_cosine, expected, found)) >= TOLERANCE


def test_a_backend_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidArguments) as caught:
        choose_backend("tpu")
    assert str(caught.value) == "load an encoder: a backend is one of torch, openvino, onnx, not 'tpu'."


def test_a_backend_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend(None) == ("torch", False)
    with pytest.raises(ExtraNotInstalled) as caught:
        choose_backend("openvino")
    assert str(caught.value) == "openvino encoders need openvino. Install it: pip install 'raystore[openvino]'"
    with pytest.raises(ExtraNotInstalled) as caught:
        choose_backend("onnx")
    assert str(caught.value) == "onnx encoders need onnxruntime. Install it: pip install 'raystore[onnx]'"
