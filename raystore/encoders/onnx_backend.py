"""ONNX Runtime: the torch module as an ONNX graph, float32 throughout, on the CPU of any make, without torch.

Loading imports `onnxruntime` alone. Knows no passport and no cache (`exports.py`).
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.encoders.backends import BatchSize, ExportedBackend
from raystore.encoders.model import Arrays
from raystore.vectors import Matrix

BATCH = BatchSize(tokens=2048, rows=64, images=16)
OUTPUT = "vectors"


class OnnxBackend(ExportedBackend):
    """Runs `stem`.onnx, whose weights lie in `stem`.onnx.data beside it: a graph file ends at 2 GB, its data does not."""

    name = "onnx"
    package = "onnxruntime"
    extra = "onnx"
    batch_size = BATCH

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version("onnxruntime")

    @classmethod
    def export(cls, module: Any, example: dict[str, npt.NDArray[Any]], folder: Path, stem: str) -> list[str]:
        """Cost: some 6 s for all-MiniLM-L6-v2, and its weights once more on the disk, in float32."""
        from raystore.encoders.torch_backend import tracing

        with tracing():
            _export(module.eval(), example, folder / f"{stem}.onnx")
        return sorted(path.name for path in folder.glob(f"{stem}.onnx*"))

    def __init__(self, folder: Path, stem: str, *, threads: int | None = None, precision: str = "auto") -> None:
        import onnxruntime

        assert precision in self.precisions
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # fatal: what goes wrong is raised
        options.intra_op_num_threads = threads or 0  # 0 is every core
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / f"{stem}.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except _failures() as error:
            raise RuntimeError(f"ONNX Runtime could not read {stem}.onnx ({type(error).__name__})") from error

    def run(self, inputs: Arrays) -> Matrix:
        try:
            found = self._session.run(None, dict(inputs))[0]
        except _failures() as error:
            # Its message may quote shapes, never values; the type says enough.
            raise RuntimeError(f"ONNX Runtime could not run the graph ({type(error).__name__})") from error
        return np.asarray(found, dtype=np.float32)


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: a dozen classes side by side, direct heirs of Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))


def _export(module: Any, example: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """By torch.export; where that meets Python it cannot follow, by the older tracing, which takes what it sees."""
    import torch

    free = {name: range(array.ndim if array.dtype.kind == "i" else 1) for name, array in example.items()}
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in free.items()}
    try:
        program = torch.onnx.export(
            module, (), kwargs=tensors, dynamo=True, dynamic_shapes=shapes, output_names=[OUTPUT], verbose=False
        )
    except torch.onnx.OnnxExporterError:
        axes = {name: {axis: f"{name}_{axis}" for axis in found} for name, found in free.items()}
        torch.onnx.export(
            module,
            (),
            path,
            kwargs=tensors,
            dynamo=False,
            input_names=list(tensors),
            output_names=[OUTPUT],
            dynamic_axes={**axes, OUTPUT: {0: "n"}},
        )
    else:
        assert program is not None
        program.save(path, external_data=True)
