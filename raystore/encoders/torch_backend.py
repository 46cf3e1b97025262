"""The reference backend: the model's own modules in torch, float32, on a GPU where there is one.

Also what the other backends convert these modules under. Knows no passport, text or image.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np

from raystore.encoders.backends import Backend, BatchSize
from raystore.encoders.model import Arrays
from raystore.encoders.text import quiet
from raystore.vectors import Matrix

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp16"]
CPU_BATCH = BatchSize(tokens=2048, rows=64, images=8)  # 32 images are 2.5 times slower: memory asked for anew
GPU_BATCH = BatchSize(tokens=65_536, rows=1024, images=256)


class TorchBackend(Backend):
    """Runs one of a model's graphs. `module` maps inputs by name to (n, dim); it is neither moved nor changed.

    `threads` holds for the whole process, since torch has no finer knob; None leaves what is set. `device` is torch's
    name of one; None is the GPU where torch sees one. bf16 and fp16 run under autocast, with the weights kept in
    float32: on MiniLM its worst cosine to fp32 is 0.99997 (bf16) against 0.99993 with the weights cast, and the
    position tables of rotary models, which casting would round, stay whole. fp16 is 10 times slower than fp32 on a CPU.

    Source: sentence-transformers' encode and transformers' forward, which run these modules in this order.
    """

    name = "torch"

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        threads: int | None = None,
        device: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.device != "cpu" and precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # on by default for convolutions, and 13 bits short of float32
        self.batch_size = CPU_BATCH if self.device == "cpu" else GPU_BATCH
        # A copy moves: `Module.to` works in place, and another backend may hold the same module.
        self._module = module if self.device == "cpu" else copy.deepcopy(module).to(self.device)
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def run(self, inputs: Arrays) -> Matrix:
        import torch

        # torch warns of arrays it may not write to, such as Ray's; nothing writes to them, but only a copy is silent.
        owned = {name: np.require(array, requirements="W") for name, array in inputs.items()}
        tensors = {name: torch.from_numpy(array).to(self.device) for name, array in owned.items()}
        autocast = torch.autocast(
            torch.device(self.device).type, dtype=self._dtype or torch.bfloat16, enabled=self._dtype is not None
        )
        with torch.inference_mode(), autocast:
            vectors = self._module(**tensors)
        if self._dtype is not None:  # half precision leaves rows a little off the sphere
            vectors = torch.nn.functional.normalize(vectors.float(), dim=1)
        matrix: Matrix = vectors.float().cpu().numpy()
        return matrix


@contextmanager
def tracing() -> Iterator[None]:
    """Without gradients, and silent: tracing warns of every shape it reads and of every optional package it misses."""
    import logging

    import torch

    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
