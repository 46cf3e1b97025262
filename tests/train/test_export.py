from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.catalog import Catalog, open_root
from raystore.errors import AlreadyExists, ExtraNotInstalled, InvalidArguments
from raystore.train.export import export_head
from raystore.train.heads import Head
from raystore.train.registry import Heads

from .handmade import CLASSES, DIM, ENCODER, FINGERPRINT, head, published

EVERY = [(kind, task) for kind in ("linear", "mlp") for task in ("classes", "labels", "number")]

# What asks the exported program: in a process that can import neither raystore nor safetensors.
_ASK = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("raystore", "safetensors", "pydantic", "torch", "ray"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import numpy as np
from predict import predict
answer = predict(np.load(sys.argv[2]))
print(json.dumps([part.tolist() if isinstance(part, np.ndarray) else part for part in answer]))
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    layout, _ = open_root(tmp_path / "a store's 'folder' ü", create=True)
    return Catalog(layout)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """50 rows that are not unit, the first one unit to rounding."""
    rows = (3 * np.random.default_rng(1).normal(size=(50, DIM))).astype(np.float32)
    rows[0] /= np.linalg.norm(rows[0])
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy"


def made(kind: str, task: str) -> Head:
    facts = {"classes": {"threshold": 0.6}, "labels": {"thresholds": (0.3, 0.5, 0.9)}, "number": {}}[task]
    return head(kind=kind, task=task, **facts)


def ask(folder: Path, rows: Path) -> list[Any]:
    command = [sys.executable, "-I", "-c", _ASK, str(folder), str(rows)]
    done = subprocess.run(command, cwd=rows.parent, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "task"), EVERY)
def test_the_program_predicts_what_the_head_predicts_without_raystore(
    tmp_path: Path, rows: Path, kind: str, task: str
) -> None:
    one = made(kind, task)
    folder = export_head(one, tmp_path / "a 'new' ü" / "folder")
    answer, expected = ask(folder, rows), one.predict(np.load(rows))
    if task == "number":
        np.testing.assert_allclose(answer[0], expected.labels, rtol=1e-6)
        return
    assert answer[0] == expected.labels
    np.testing.assert_allclose(answer[1], expected.probabilities, atol=1e-6)
    if task == "classes":
        np.testing.assert_allclose(answer[2], expected.confidence, atol=1e-6)
        assert answer[3] == expected.abstained.tolist()
        assert 0 < sum(answer[3]) < 50
    else:
        assert len({len(labels) for labels in answer[0]}) > 1


@settings(max_examples=40, deadline=None)
@given(
    kind_and_task=st.sampled_from(EVERY),
    temperature=st.floats(0.02, 50),
    length=st.floats(1e-3, 1e3),
    n=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_at_any_temperature_and_length_the_program_is_the_head(
    kind_and_task: tuple[str, str],
    temperature: float,
    length: float,
    n: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kind, task = kind_and_task
    one = head(kind=kind, task=task, **({} if task == "number" else {"temperature": temperature}))
    folder = export_head(one, tmp_path_factory.mktemp("export") / "out")
    rows = (length * np.random.default_rng(seed).normal(size=(n, DIM))).astype(np.float32)
    answer = runpy.run_path(str(folder / "predict.py"))["predict"](rows)
    for found, expected in zip(answer, one.predict(rows), strict=False):
        if task == "number" or isinstance(expected, np.ndarray):
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)
        else:
            assert found == expected


@pytest.mark.parametrize("loss", ["multinomial", "ovr"])
def test_a_fitted_head_predicts_the_same_from_its_export(catalog: Catalog, tmp_path: Path, loss: str) -> None:
    from raystore.train.fit import train_head

    from .examples import CLASSES, clusters, source

    fitted = train_head(
        catalog.layout,
        name="refunds",
        kind="linear",
        classes=CLASSES,
        source=source(200),
        fingerprint=FINGERPRINT,
        encoder_label=ENCODER,
        snapshot={"name": "monday", "number": 3, "hash": "ab" * 32},
        options={"loss": loss},
    )
    np.save(tmp_path / "rows.npy", clusters(50, seed=4).vectors)
    answer = ask(Heads(catalog).export("refunds", tmp_path / "out"), tmp_path / "rows.npy")
    expected = fitted.predict(np.load(tmp_path / "rows.npy"))
    assert answer[0] == expected.labels
    np.testing.assert_allclose(answer[1], expected.probabilities, atol=1e-6)


@pytest.mark.parametrize(("kind", "task"), EVERY)
def test_the_program_has_at_most_thirty_lines_that_parse_and_fit_a_page(tmp_path: Path, kind: str, task: str) -> None:
    text = (export_head(made(kind, task), tmp_path / "out") / "predict.py").read_text()
    compile(text, "predict.py", "exec")
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 124
    assert "%(" not in text


def test_the_program_prints_a_line_of_json_a_row(tmp_path: Path, rows: Path) -> None:
    shown = {}
    for task in ("classes", "labels", "number"):
        folder = export_head(made("linear", task), tmp_path / task)
        done = subprocess.run(
            [sys.executable, "-I", str(folder / "predict.py"), str(rows)], capture_output=True, text=True, check=True
        )
        shown[task] = [json.loads(line) for line in done.stdout.splitlines()]
    assert {task: len(lines) for task, lines in shown.items()} == {"classes": 50, "labels": 50, "number": 50}
    assert {task: list(lines[0]) for task, lines in shown.items()} == {
        "classes": ["label", "confidence", "abstained"],
        "labels": ["labels", "probabilities"],
        "number": ["value"],
    }
    assert shown["classes"][0]["label"] in CLASSES


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        (np.ones((2, DIM + 1)), (2, 17)),
        (np.ones((2, 2, DIM)), (2, 2, 16)),
        (np.zeros((1, DIM)), (1, 16)),
        (np.full((1, DIM), np.nan), (1, 16)),
    ],
)
def test_the_program_refuses_what_are_no_vectors_of_the_encoder(
    tmp_path: Path, wrong: np.ndarray, shape: tuple[int, ...]
) -> None:
    folder = export_head(head(), tmp_path / "out")
    np.save(tmp_path / "wrong.npy", wrong.astype(np.float32))
    command = [sys.executable, "-I", str(folder / "predict.py"), str(tmp_path / "wrong.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"ValueError: expected rows of 16 finite numbers of {ENCODER}, found shape {shape}"
    assert done.stderr.splitlines()[-1] == said


def test_head_json_says_what_predicts_and_where_it_comes_from(tmp_path: Path, catalog: Catalog) -> None:
    one = published(catalog, threshold=0.6)
    folder = Heads(catalog).export("refunds", tmp_path / "out")
    assert json.loads((folder / "head.json").read_text(encoding="utf-8")) == {
        "head": "refunds@1",
        "kind": "linear",
        "task": "classes",
        "classes": list(CLASSES),
        "temperature": 0.7,
        "threshold": 0.6,
        "thresholds": None,
        "dim": DIM,
        "encoder": ENCODER,
        "fingerprint": FINGERPRINT,
        "snapshot": one.snapshot,
    }
    assert sorted(p.name for p in folder.iterdir()) == ["head.json", "head.safetensors", "predict.py"]


@pytest.mark.parametrize(("kind", "task"), EVERY)
def test_the_graph_predicts_what_the_head_predicts(tmp_path: Path, rows: Path, kind: str, task: str) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    one = made(kind, task)
    file = export_head(one, tmp_path / "out", format="onnx") / "head.onnx"
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"vectors": np.load(rows)})
    expected = one.predict(np.load(rows))
    assert answer.dtype == np.float32
    if task == "number":
        np.testing.assert_allclose(answer, expected.labels, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_allclose(answer, expected.probabilities, atol=1e-5)
    names = ("values", ["n"]) if task == "number" else ("probabilities", ["n", 3])
    assert [(o.name, o.shape) for o in session.get_outputs()] == [names]
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("vectors", ["n", DIM], "tensor(float)")]
    told = {p.key: p.value for p in model.metadata_props}
    assert told["fingerprint"] == FINGERPRINT
    assert json.loads(told["classes"]) == one.classes
    assert json.loads(told["thresholds"]) == (list(one.record.thresholds or ()) if task == "labels" else None)
    assert sorted(p.name for p in file.parent.iterdir()) == ["head.json", "head.onnx"]


def test_the_graph_takes_no_rows_and_refuses_another_dimension(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file = export_head(head(), tmp_path / "out", format="onnx") / "head.onnx"
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert session.run(None, {"vectors": np.empty((0, DIM), np.float32)})[0].shape == (0, 3)
    with pytest.raises(Exception, match="Expected: 16"):
        session.run(None, {"vectors": np.ones((1, DIM + 1), np.float32)})


def test_graphs_need_an_extra_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExtraNotInstalled) as missing:
        export_head(head(), tmp_path / "out", format="onnx")
    assert str(missing.value) == "heads as ONNX graphs need onnx. Install it: pip install 'raystore[onnx]'"
    assert not (tmp_path / "out").exists()


def test_a_knn_head_is_not_exported_and_says_why(tmp_path: Path) -> None:
    for format in ("numpy", "onnx"):
        with pytest.raises(InvalidArguments) as refused:
            export_head(head(kind="knn"), tmp_path / "out", format=format)  # type: ignore[arg-type]
        assert str(refused.value) == (
            "export of head 'refunds@0': a kNN head holds no weights, it asks the training rows in their collection, and a copy "
            "of those would outlive their erasure; export a linear or an mlp head trained on snapshot 'monday@3'."
        )
    assert not (tmp_path / "out").exists()


def test_a_format_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as refused:
        export_head(head(), tmp_path / "out", format="pickle")  # type: ignore[arg-type]
    assert str(refused.value) == "export of head 'refunds@0': format is 'pickle', expected numpy or onnx."


def test_a_folder_that_holds_something_is_left_alone_and_an_empty_one_is_used(tmp_path: Path) -> None:
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    for taken in (full, file):
        with pytest.raises(AlreadyExists) as refused:
            export_head(head(), taken)
        assert str(refused.value) == f"folder '{taken}' exists already. Name a new or an empty folder."
    assert [p.name for p in full.iterdir()] == ["mine.txt"]
    assert export_head(head(), empty) == empty
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "full"]
