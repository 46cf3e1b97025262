"""The cache of converted graphs: whole or not there, checked byte by byte, and what is measured before it is used."""

from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.catalog import open_root
from raystore.encoders.exports import (
    Equivalence,
    ExportFailed,
    export_folder,
    export_precisions,
    export_problem,
    neighbour_overlap,
    replace_folder,
    worst_cosine,
    write_export,
)
from raystore.encoders.model import Model
from raystore.encoders.onnx_backend import OnnxBackend
from raystore.encoders.openvino_backend import OpenVinoBackend
from raystore.encoders.passport import Modality
from raystore.errors import DiskFull, InvalidArguments
from raystore.layout import Layout
from tests.encoders.graphs import EXPORTED, image_model, inputs_of, need, text_model

need("openvino", "onnxruntime")

SAME = Equivalence(rows=3, worst_cosine=0.99999, overlap_at_10=1.0, precision="fp32")


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> dict[Modality, Model]:
    return {"text": text_model(tiny_model), "image": image_model()}


@pytest.fixture(scope="module")
def written(models: dict[Modality, Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's root with the text model's export for OpenVINO, to be copied and harmed."""
    layout, _ = open_root(tmp_path_factory.mktemp("written") / "store", create=True)
    write_export(layout, models["text"], OpenVinoBackend, check=lambda folder: SAME)
    return layout.root


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return open_root(tmp_path / "a store", create=True)[0]


@pytest.fixture
def filled(written: Path, tmp_path: Path) -> Layout:
    return Layout(Path(shutil.copytree(written, tmp_path / "filled")))


@pytest.mark.parametrize("backend", EXPORTED, ids=lambda each: each.name)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_written_export_has_no_problem_and_runs(
    layout: Layout, models: dict[Modality, Model], backend: Any, modality: Modality
) -> None:
    model = models[modality]
    assert export_problem(layout, model.passport, backend) == "there is none"
    folder = write_export(layout, model, backend)
    assert folder == export_folder(layout, model.passport.fingerprint, backend.name)
    assert folder.relative_to(layout.root).parts[2:] == ("exports", backend.name)
    assert export_problem(layout, model.passport, backend) is None
    assert backend(folder, modality).run(inputs_of(modality, 4)).shape == (4, 32)
    assert (folder / "tokenizer.json").is_file() is (modality == "text")
    assert not any(layout.tmp.iterdir())


def test_a_model_of_texts_and_images_has_a_graph_for_each(layout: Layout, models: dict[Modality, Model]) -> None:
    text, image = models["text"], models["image"]
    passport = text.passport.model_copy(update={"image": image.passport.image})
    both = Model(passport=passport, graphs={**text.graphs, **image.graphs}, tensors={}, tokenizer_json=text.tokenizer_json)
    folder = write_export(layout, both, OpenVinoBackend)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["image.bin", "image.xml", "manifest.json", "text.bin", "text.xml", "tokenizer.json"]


def test_the_manifest_says_what_made_it_and_how_near_it_came(filled: Layout, models: dict[Modality, Model]) -> None:
    passport = models["text"].passport
    about = json.loads((export_folder(filled, passport.fingerprint, "openvino") / "manifest.json").read_text())
    assert sorted(about) == ["backend", "equivalence", "files", "fingerprint", "openvino", "raystore"]
    assert (about["backend"], about["fingerprint"]) == ("openvino", passport.fingerprint)
    assert about["openvino"] == OpenVinoBackend.version()
    assert about["equivalence"] == {"rows": 3, "worst_cosine": 0.99999, "overlap_at_10": 1.0, "precision": "fp32"}
    assert sorted(about["files"]) == ["text.bin", "text.xml", "tokenizer.json"]


@pytest.mark.parametrize(
    ("found", "may"),
    [("auto", ("auto", "fp32")), ("fp32", ("fp32",)), ("other", ("auto", "fp32")), (None, ("auto", "fp32"))],
)
def test_an_export_is_run_in_what_it_was_found_exact_enough_in_or_stricter(
    filled: Layout, models: dict[Modality, Model], found: str | None, may: tuple[str, ...]
) -> None:
    passport = models["text"].passport
    path = export_folder(filled, passport.fingerprint, "openvino") / "manifest.json"
    measured = None if found is None else SAME._replace(precision=found)._asdict()
    path.write_text(json.dumps({**json.loads(path.read_text()), "equivalence": measured}))
    assert export_precisions(filled, passport, OpenVinoBackend) == may


@pytest.mark.parametrize("file", ["text.xml", "text.bin", "tokenizer.json", "manifest.json"])
def test_harm_to_any_file_of_an_export_is_noticed(filled: Layout, models: dict[Modality, Model], file: str) -> None:
    passport = models["text"].passport
    path = export_folder(filled, passport.fingerprint, "openvino") / file
    manifest = file == "manifest.json"
    changed = "its manifest cannot be read" if manifest else f"{file} is not what the manifest says"
    data = path.read_bytes()
    assert export_problem(filled, passport, OpenVinoBackend) is None
    path.write_bytes(data[:-1] + b"?")
    assert export_problem(filled, passport, OpenVinoBackend) == changed
    path.write_bytes(data[: len(data) // 2])
    assert export_problem(filled, passport, OpenVinoBackend) == changed
    path.unlink()
    assert export_problem(filled, passport, OpenVinoBackend) == ("there is none" if manifest else f"{file} is missing")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("fingerprint", "0" * 64, "it was made of another encoder"),
        ("backend", "onnx", "it was made for another backend"),
        ("files", {}, "it holds no graph for texts"),
        ("files", {"text.xml": "0" * 64}, "it holds no tokenizer.json"),
        ("files", {"../text.xml": "0" * 64}, "its manifest cannot be read"),
        ("files", ["text.xml"], "its manifest cannot be read"),
    ],
)
def test_a_manifest_that_names_something_else_is_not_believed(
    filled: Layout, models: dict[Modality, Model], field: str, value: object, said: str
) -> None:
    passport = models["text"].passport
    path = export_folder(filled, passport.fingerprint, "openvino") / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert export_problem(filled, passport, OpenVinoBackend) == said


@pytest.mark.parametrize("manifest", ["", "[]", "null", "{}"])
def test_a_manifest_that_is_no_manifest_is_said(filled: Layout, models: dict[Modality, Model], manifest: str) -> None:
    passport = models["text"].passport
    (export_folder(filled, passport.fingerprint, "openvino") / "manifest.json").write_text(manifest)
    assert export_problem(filled, passport, OpenVinoBackend) == "its manifest cannot be read"


def test_a_check_that_refuses_leaves_the_old_export(filled: Layout, models: dict[Modality, Model]) -> None:
    seen = []

    def refuse(folder: Path) -> Equivalence:
        seen.append(sorted(path.name for path in folder.iterdir()))
        raise InvalidArguments(call="check", problems=["no"])

    folder = export_folder(filled, models["text"].passport.fingerprint, "openvino")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InvalidArguments):
        write_export(filled, models["text"], OpenVinoBackend, check=refuse)
    assert seen == [["text.bin", "text.xml", "tokenizer.json"]]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not any(filled.tmp.iterdir())


class Unable(OnnxBackend):
    """Stands for a library that meets an operation it cannot convert; which error it raises is its own affair."""

    error: Exception = RuntimeError()

    @classmethod
    def export(cls, module: Any, example: Any, folder: Path, stem: str) -> list[str]:
        (folder / f"{stem}.onnx").write_bytes(b"half")
        raise cls.error


@pytest.mark.parametrize(
    "error", [RuntimeError("no rule for 'secret'"), KeyError("secret"), AssertionError(), NotImplementedError()]
)
def test_a_graph_that_cannot_be_converted_is_said_without_the_librarys_words(
    layout: Layout, models: dict[Modality, Model], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Unable, "error", error)
    with pytest.raises(ExportFailed) as caught:
        write_export(layout, models["image"], Unable)
    assert str(caught.value) == f"onnx could not convert it ({type(error).__name__})"
    assert (caught.value.backend, caught.value.doing) == ("onnx", "convert")
    assert export_problem(layout, models["image"].passport, Unable) == "there is none"
    assert not any(layout.tmp.iterdir())


def test_a_full_disk_is_a_full_disk(layout: Layout, models: dict[Modality, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unable, "error", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DiskFull) as caught:
        write_export(layout, models["image"], Unable)
    assert caught.value.doing == "writing an export for onnx"


def test_racing_writers_leave_one_whole_export(filled: Layout, models: dict[Modality, Model]) -> None:
    passport = models["text"].passport
    folder = export_folder(filled, passport.fingerprint, "openvino")
    stages = [Path(shutil.copytree(folder, filled.tmp / f"stage{i}")) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda stage: replace_folder(stage, folder, filled.tmp), stages))
    assert export_problem(filled, passport, OpenVinoBackend) is None
    assert not any(filled.tmp.iterdir())


def unit_rows(seed: int, n: int, d: int = 8) -> Any:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), k=st.integers(1, 12))
def test_a_matrix_is_equivalent_to_itself(seed: int, n: int, k: int) -> None:
    rows = unit_rows(seed, n)
    assert worst_cosine(rows, rows) == pytest.approx(1.0, abs=1e-6)
    assert neighbour_overlap(rows, rows, k) == 1.0


@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), k=st.integers(1, 12))
def test_overlap_is_a_share_that_does_not_depend_on_the_order_of_the_rows(seed: int, n: int, k: int) -> None:
    a, b = unit_rows(seed, n), unit_rows(seed + 1, n)
    order = np.random.default_rng(seed).permutation(n)
    overlap = neighbour_overlap(a, b, k)
    assert 0.0 <= overlap <= 1.0
    assert neighbour_overlap(a[order], b[order], k) == pytest.approx(overlap)
    assert neighbour_overlap(b, a, k) == overlap


def test_overlap_counts_the_neighbours_that_both_have() -> None:
    """Four directions on a circle: each row's nearest in `a` is its pair; in `b` the pairs of the last two are broken."""

    def circle(*degrees: float) -> Any:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    a = circle(0, 10, 180, 190)
    b = circle(0, 10, 100, 190)
    assert neighbour_overlap(a, b, k=1) == pytest.approx(2 / 4 + 1 / 4)  # row 2 now finds row 1, row 3 still row 2
    assert neighbour_overlap(a, b, k=3) == 1.0
    assert neighbour_overlap(a, b, k=10) == 1.0  # no row has ten others: all three count


def test_the_worst_cosine_is_the_worst_row_s() -> None:
    a = unit_rows(0, 5)
    b = a.copy()
    b[3] = -b[3]
    assert worst_cosine(a, b) == pytest.approx(-1.0)
    b[3] = np.nan
    assert np.isnan(worst_cosine(a, b))
    b[3] = 0
    assert np.isnan(worst_cosine(a, b))


@pytest.mark.parametrize(
    ("cosine", "overlap", "holds"),
    [
        (0.9999, 0.99, True),
        (0.99989, 1.0, False),
        (1.0, 0.98, False),
        (float("nan"), 1.0, False),
        (1.0, float("nan"), False),
    ],
)
def test_equivalence_holds_only_when_both_measures_do(cosine: float, overlap: float, holds: bool) -> None:
    assert Equivalence(1000, cosine, overlap).holds(0.9999) is holds


def test_equivalence_says_its_numbers() -> None:
    assert Equivalence(1000, 0.99987, 0.995).said == (
        "over 1,000 rows the worst cosine to torch fp32 is 0.999870, and 0.9950 of the 10 nearest rows are the same"
    )


def test_neighbours_that_the_reference_holds_equally_near_are_each_as_good_as_the_other() -> None:
    rng = np.random.default_rng(5)
    a = np.repeat(rng.normal(size=(5, 8)), 20, axis=0).astype(np.float32)  # each row twenty times, as texts cut short are
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = a + rng.normal(scale=1e-5, size=a.shape).astype(np.float32)
    assert neighbour_overlap(a, b, k=10) == 1.0
