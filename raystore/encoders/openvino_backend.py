"""The CPU backend: the torch module converted to OpenVINO once, kept as files, run without torch.

Loading imports `openvino` alone: about a second and little memory, which is what a Ray worker pays. OpenVINO computes
in bfloat16 where the processor has it and puts float32 out; the golden check holds what that may cost. Knows no
passport and no cache (`exports.py`).
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.encoders.backends import BatchSize, ExportedBackend, streams_of
from raystore.encoders.model import Arrays
from raystore.vectors import Matrix

# Where nothing was run beside another for so long, the next one is alone again.
_LULL_S = 0.05

# Of graphs in int8, beside it: where a processor has AMX, bf16 beside int8 made vectors of texts of just 32 tokens that were .85 and
# .93 of the right ones (OpenVINO 2026.4.1), and was no faster.
INT8_PRECISION = "fp32"
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
        self._path = str(folder / f"{stem}.xml")
        self._threads = threads or os.cpu_count() or 1
        # Pinned threads of two processes, or of two encoders of one, share a core while another idles (docs/LOG.md).
        self._config: dict[str, Any] = {"INFERENCE_NUM_THREADS": self._threads, "ENABLE_CPU_PINNING": False}
        if precision == "fp32":
            self._config["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = (
            import_openvino().Core().compile_model(self._path, "CPU", {**self._config, "PERFORMANCE_HINT": "LATENCY"})
        )
        self._whole = compiled.create_infer_request()  # on all threads
        self._parts: list[Any] = []  # on a part of them each; those that are idle
        self._running = 0
        self._beside = float("-inf")  # when one was run beside another
        self._choosing = threading.Lock()

    def share_cores(self) -> int:
        """Cost: the graph is compiled once more, which takes as long as loading did, and memory for its weights."""
        n = streams_of(self._threads)
        if n > 1 and not self._parts:
            compiled = import_openvino().Core().compile_model(self._path, "CPU", {**self._config, "NUM_STREAMS": n})
            self._parts = [compiled.create_infer_request() for _ in range(n)]
        return n

    def run(self, inputs: Arrays) -> Matrix:
        with self._choosing:  # alone it has all threads; where others come and go beside it, its own
            now = time.monotonic()
            if self._running:
                self._beside = now
            request = self._parts.pop() if self._parts and now - self._beside < _LULL_S else self._whole
            self._running += 1
        try:
            # The request owns its output and overwrites it at the next call: copy.
            return np.array(request.infer(dict(inputs), share_inputs=True)[0], dtype=np.float32)
        finally:
            with self._choosing:
                self._running -= 1
                if self._running:
                    self._beside = time.monotonic()
                if request is not self._whole:
                    self._parts.append(request)


def free_after_batch(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The axes after the first as a graph takes them: -1 (any length) for integers, which are tokens, else as they are."""
    return tuple(-1 for _ in array.shape[1:]) if array.dtype.kind == "i" else array.shape[1:]
