"""Every way an encoder can be run on this machine: device, backend, precision. Names them and opens them, unchecked.

What comes out is what `bench.py` measures and `derive.py` turns into encoders of their own. Nothing is published or
cached here: a graph that the store's cache does not hold is converted into a folder of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raystore.encoders.backends import ExportedBackend, exported_backends, is_installed
from raystore.encoders.exports import export_folder, export_problem, write_export
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.model import Model
from raystore.encoders.opening import from_folder, from_model
from raystore.encoders.torch_backend import Precision
from raystore.layout import Layout

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Variant:
    """One way to run a model; `open` may raise ExportFailed. `device` is what a price is asked for: "cpu" or "gpu"."""

    backend: str
    precision: str
    device: str
    open: Callable[[], LoadedEncoder]

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"


def variants(layout: Layout, model: Model, label: str, stage: Path) -> Iterator[Variant]:
    """The reference (torch fp32 on the CPU) first, then the others that are installed here.

    `stage`: an empty folder for graphs that are converted only for this.
    """
    for device, precision in _torch_ways():
        yield Variant("torch", precision, "gpu" if device == "cuda" else "cpu", _torch(model, label, device, precision))
    for backend in exported_backends().values():
        if not is_installed(backend):
            continue
        for way in backend.precisions:
            yield Variant(backend.name, way, "cpu", _exported(layout, model, label, backend, way, stage))


def graph_folder(layout: Layout, model: Model, backend: type[ExportedBackend], stage: Path) -> Path:
    """A folder with the model's graphs for this backend: the store's cache where it is sound, else a scratch one.

    Nothing is put into the cache: what lies there was compared with the reference first.

    Raises:
        ExportFailed: the backend cannot convert the model.
    """
    if export_problem(layout, model.passport, backend) is None:
        return export_folder(layout, model.passport.fingerprint, backend.name)
    scratch = Layout(stage)  # laid out like a store, so that its exports are made and checked by the same code
    if export_problem(scratch, model.passport, backend) is not None:
        return write_export(scratch, model, backend)
    return export_folder(scratch, model.passport.fingerprint, backend.name)


def _torch_ways() -> list[tuple[Device, Precision]]:
    import torch

    # fp16 stays on the GPU: processors without instructions for it are ten times slower in it than in float32.
    on_cpu: list[tuple[Device, Precision]] = [("cpu", "fp32"), ("cpu", "bf16")]
    on_gpu: list[tuple[Device, Precision]] = [("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16")]
    return on_cpu + (on_gpu if torch.cuda.is_available() else [])


def _torch(model: Model, label: str, device: Device, precision: Precision) -> Callable[[], LoadedEncoder]:
    return lambda: from_model(model, label, device=device, precision=precision)


def _exported(
    layout: Layout, model: Model, label: str, backend: type[ExportedBackend], way: str, stage: Path
) -> Callable[[], LoadedEncoder]:
    def open_graph() -> LoadedEncoder:
        folder = graph_folder(layout, model, backend, stage)
        return from_folder(folder, model.passport, backend, label, precision=way)

    return open_graph
