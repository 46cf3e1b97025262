"""A head as a folder that predicts without raystore: a 30-line NumPy program beside its arrays, or an ONNX graph.

An export is a copy, written whole; it holds weights, class names and facts, no row and no vector. The graph is put together
node by node (opset 18), so that all that runs is in sight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from raystore.errors import ExtraNotInstalled, InvalidArguments
from raystore.layout import disk_full_is_said, new_folder
from raystore.train.heads import Head
from raystore.vectors import Matrix

Format = Literal["numpy", "onnx"]
OPSET, IR_VERSION = 18, 8  # those of ONNX 1.13, so that runtimes some years old read it

_PREDICT = '''\
"""The head of head.json, with NumPy alone: `from predict import predict`, or `python predict.py vectors.npy`."""
import json, sys
from pathlib import Path
import numpy as np

HEAD = json.loads(Path(__file__).with_name("head.json").read_text(encoding="utf-8"))
RAW = Path(__file__).with_name("head.safetensors").read_bytes()
START = 8 + int.from_bytes(RAW[:8], "little")  # before it a JSON header, after it the arrays' bytes
SPANS = {name: (START + a["data_offsets"][0], a["shape"]) for name, a in json.loads(RAW[8:START]).items()}
A = {name: np.frombuffer(RAW, "<f4", int(np.prod(n)), at).reshape(n) for name, (at, n) in SPANS.items()}


def predict(vectors):
    """%(returns)s of (n, dim) vectors of its encoder."""
    x = np.atleast_2d(np.asarray(vectors, np.float32))
    norms = np.linalg.norm(x.astype(float), axis=-1, keepdims=True)
    if x.ndim != 2 or x.shape[1] != HEAD["dim"] or not np.all(np.isfinite(norms) & (norms > 0)):
        raise ValueError(f"expected rows of {HEAD['dim']} finite numbers of {HEAD['encoder']}, found shape {x.shape}")
    x = (x / np.where(abs(norms - 1) < 1e-5, 1, norms)).astype(np.float32)
%(body)s
if __name__ == "__main__":
    for row in zip(*predict(np.load(sys.argv[1]))):
        print(json.dumps(%(shown)s))
'''

_LINEAR = """\
    z = (x @ A["W"].T + A["b"]) / np.float32(HEAD["temperature"])
"""
_MLP = """\
    h = x @ A["W1"].T + A["b1"]
    h = 0.5 * h * (1 + np.tanh(0.7978845608 * (h + 0.044715 * h * h * h)))  # GELU
    z = (h @ A["W2"].T + A["b2"]) / np.float32(HEAD["temperature"])
"""

# What is returned, in words; how it comes from the scores `z`; and what of a row the command line prints.
_TASKS = {
    "classes": (
        "labels, probabilities (n, classes), confidence (n,), abstained (n,)",
        """\
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    best, sure = p.argmax(axis=1), p.max(axis=1)
    return [HEAD["classes"][i] for i in best], p, sure, sure < np.float32(HEAD["threshold"] or 0)
""",
        '{"label": row[0], "confidence": float(row[2]), "abstained": bool(row[3])}',
    ),
    "labels": (
        "labels (a list each), probabilities (n, classes)",
        """\
    p = np.exp(-np.logaddexp(np.float32(0), -z))
    return [[HEAD["classes"][i] for i in np.flatnonzero(row)] for row in p >= np.float32(HEAD["thresholds"])], p
""",
        '{"labels": row[0], "probabilities": row[1].tolist()}',
    ),
    "number": (
        "the numbers, as a tuple of one list",
        """\
    return (z[:, 0].tolist(),)
""",
        '{"value": row[0]}',
    ),
}


def export_head(head: Head, target: str | Path, *, format: Format = "numpy") -> Path:
    """The folder `target`, which predicts as the head does and needs no raystore.

    "numpy": head.safetensors, head.json and predict.py, 30 lines of Python on NumPy alone: `from predict import predict` gives
    what `Head.predict` gives (1e-6), and `python predict.py vectors.npy` prints a line of JSON a row. "onnx": head.onnx and
    head.json; the graph takes `vectors` (n, dim) float32 and gives `probabilities` (n, classes), or `values` (n,) for the task
    "number", float32, within 1e-5; classes, thresholds and the encoder's fingerprint stand in its metadata.

    Both take rows of any length but zero. predict.py refuses rows of another dimension, with NaN, or without direction; a graph
    cannot refuse the last two, its answers are NaN.

    Args:
        target: a folder that is empty or does not exist.

    Raises:
        InvalidArguments: a kNN head, which has nothing to copy; another format.
        AlreadyExists: the target holds something. ExtraNotInstalled: "onnx" without onnx. DiskFull: nothing was written.

    Cost: the arrays' size, milliseconds.
    """
    call = f"export of head '{head.label}'"
    if format not in get_args(Format):
        problem = f"format is '{str(format)[:20]}', expected {' or '.join(get_args(Format))}"
        raise InvalidArguments(call=call, problems=[problem])
    if head.kind == "neighbours":
        problem = (
            "a head of kind 'neighbours' holds no weights, it asks its collection's index; export a linear or an mlp head"
        )
        raise InvalidArguments(call=call, problems=[problem])
    if head.kind == "knn":
        of = "{name}@{number}".format(**head.snapshot)
        problem = (
            "a kNN head holds no weights, it asks the training rows in their collection, and a copy of those would outlive their "
            f"erasure; export a linear or an mlp head trained on snapshot '{of}'"
        )
        raise InvalidArguments(call=call, problems=[problem])
    target = Path(target).expanduser().absolute()
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in head.arrays.items()}
    facts = _facts(head)
    files = _onnx_files(head, arrays, facts) if format == "onnx" else _numpy_files(head, arrays)
    with disk_full_is_said(target.parent, f"exporting head '{head.label}'"), new_folder(target) as stage:
        (stage / "head.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        for name, data in files.items():
            (stage / name).write_bytes(data)
    return target


def _facts(head: Head) -> dict[str, Any]:
    """What head.json says: all that is needed to predict, and where the head comes from."""
    record = head.record
    thresholds = record.thresholds or (0.5,) * len(record.classes)
    return {
        "head": head.label,
        "kind": head.kind,
        "task": head.task,
        "classes": head.classes,
        "temperature": head.temperature,
        "threshold": head.threshold,
        "thresholds": list(thresholds) if head.task == "labels" else None,
        "dim": head.dim,
        "encoder": head.encoder,
        "fingerprint": head.fingerprint,
        "snapshot": head.snapshot,
    }


def _numpy_files(head: Head, arrays: Mapping[str, Matrix]) -> dict[str, bytes]:
    from safetensors.numpy import save

    returns, decide, shown = _TASKS[head.task]
    body = (_MLP if head.kind == "mlp" else _LINEAR) + decide
    program = _PREDICT % {"returns": returns[:1].upper() + returns[1:], "body": body, "shown": shown}
    return {"head.safetensors": save(dict(arrays)), "predict.py": program.encode()}


def _onnx_files(head: Head, arrays: Mapping[str, Matrix], facts: Mapping[str, Any]) -> dict[str, bytes]:
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise ExtraNotInstalled(what="heads as ONNX graphs", package="onnx", extra="onnx") from None

    graph = _Graph()
    rows = _unit_rows(graph, "vectors")
    if head.kind == "mlp":
        hidden = graph.add("Gemm", [rows, graph.put("W1", arrays["W1"]), graph.put("b1", arrays["b1"])], transB=1)
        scores = graph.add(
            "Gemm", [_gelu(graph, hidden), graph.put("W2", arrays["W2"]), graph.put("b2", arrays["b2"])], transB=1
        )
    else:
        scores = graph.add("Gemm", [rows, graph.put("W", arrays["W"]), graph.put("b", arrays["b"])], transB=1)
    shape: list[int | str] = ["n"]
    if head.task == "number":
        answer = graph.add("Squeeze", [scores, graph.put("columns", np.array([1], dtype=np.int64))], to="values")
    else:
        scaled = graph.add("Div", [scores, graph.number("temperature", head.temperature)])
        kind, how = ("Sigmoid", {}) if head.task == "labels" else ("Softmax", {"axis": 1})
        answer = graph.add(kind, [scaled], to="probabilities", **how)
        shape.append(len(head.classes))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "head",
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", head.dim])],
            [helper.make_tensor_value_info(answer, TensorProto.FLOAT, shape)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="raystore",
    )
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    helper.set_model_props(model, told)
    onnx.checker.check_model(model, full_check=True)
    return {"head.onnx": model.SerializeToString()}


class _Graph:
    """Nodes and constants of an ONNX graph as they are added; each is known by the name of what it gives."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def put(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, name: str, value: float) -> str:
        return self.put(name, np.array(value, dtype=np.float32))

    def add(self, kind: str, inputs: Sequence[str], *, to: str | None = None, **how: Any) -> str:
        from onnx import helper

        name = to or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **how))
        return name


def _unit_rows(graph: _Graph, rows: str) -> str:
    """The rows divided by their lengths; those that are unit to rounding stay as they are, as in `as_unit_rows`."""
    one = graph.number("one", 1)
    norms = graph.add("ReduceL2", [rows, graph.put("axes", np.array([1], dtype=np.int64))], keepdims=1)
    off = graph.add("Abs", [graph.add("Sub", [norms, one])])
    unit = graph.add("Less", [off, graph.number("rounding", 1e-5)])
    return graph.add("Div", [rows, graph.add("Where", [unit, one, norms])])


def _gelu(graph: _Graph, x: str) -> str:
    """GELU in its tanh form, in the operators every runtime has."""
    cube = graph.add("Mul", [graph.add("Mul", [x, x]), x])
    bent = graph.add("Add", [x, graph.add("Mul", [cube, graph.number("cubic", 0.044715)])])
    turned = graph.add("Tanh", [graph.add("Mul", [bent, graph.number("root", np.sqrt(2 / np.pi))])])
    doubled = graph.add("Mul", [x, graph.add("Add", [turned, "one"])])
    return graph.add("Mul", [doubled, graph.number("half", 0.5)])
