"""The CPU backend: the torch module converted to OpenVINO once, kept as files, run without torch.

Loading imports `openvino` alone: about a second and little memory, which is what a Ray worker pays. OpenVINO computes
in bfloat16 where the processor has it and puts float32 out; the golden check holds what that may cost. Knows no
passport and no cache (`exports.py`).
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.encoders.backends import BatchSize, ExportedBackend
from raystore.encoders.model import Arrays
from raystore.vectors import Matrix

BATCH = BatchSize(tokens=2048, rows=64, images=16)


def import_openvino() -> Any:
    """The openvino module, made to send nothing: it reports imports and conversions to its maker when it finds
    `openvino_telemetry`, and falls back to a stub when it does not. Nothing of a protected item was ever in those
    reports, but a store that promises to keep to itself opens no such connection.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None makes its import fail
    import openvino

    return openvino


class OpenVinoBackend(ExportedBackend):
    """Runs `stem`.xml and `stem`.bin. `precision` "auto" is what OpenVINO finds fastest here, "fp32" float32 throughout."""

    name = "openvino"
    package = "openvino"
    extra = "openvino"
    precisions = ("auto", "fp32")  # auto is bf16 inside where the processor has it: MiniLM 0.99997, MobileNetV2 0.967
    batch_size = BATCH

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version("openvino")

    @classmethod
    def export(cls, module: Any, example: dict[str, npt.NDArray[Any]], folder: Path, stem: str) -> list[str]:
        """Cost: some 2 s for all-MiniLM-L6-v2, and its weights once more on the disk, in float32."""
        import torch

        from raystore.encoders.torch_backend import tracing

        openvino = import_openvino()
        with tracing():
            tensors = {name: torch.from_numpy(array) for name, array in example.items()}
            converted = openvino.convert_model(module.eval(), example_input=tensors)
            # Traced graphs come out free in every axis; fixed ones let the compiler plan the kernels of an image model.
            converted.reshape({name: [-1, *free_after_batch(array)] for name, array in example.items()})
        openvino.save_model(converted, str(folder / f"{stem}.xml"), compress_to_fp16=False)
        return [f"{stem}.bin", f"{stem}.xml"]

    def __init__(self, folder: Path, stem: str, *, threads: int | None = None, precision: str = "auto") -> None:
        assert precision in self.precisions
        # THROUGHPUT instead of LATENCY halves the speed on two cores.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1}
        if precision == "fp32":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = import_openvino().Core().compile_model(str(folder / f"{stem}.xml"), "CPU", config)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Arrays) -> Matrix:
        # The request owns its output and overwrites it at the next call: copy.
        result = self._request.infer(dict(inputs), share_inputs=True)
        return np.array(result[0], dtype=np.float32)


def free_after_batch(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The axes after the first as a graph takes them: -1 (any length) for integers, which are tokens, else as they are."""
    return tuple(-1 for _ in array.shape[1:]) if array.dtype.kind == "i" else array.shape[1:]
