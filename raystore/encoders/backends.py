"""What a backend is, and which one encodes. A backend maps integer or pixel matrices to unit rows; it reads no content.

`torch` is the reference: float32, on a GPU where there is one. `openvino` and `onnx` run the same graph, converted, on
the CPU. Whatever stays within the passport's tolerance of the reference is the same encoder, so the choice is free and
recorded per job. Another accelerator is one more class here and one more file beside it.
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from raystore.encoders.model import Arrays
from raystore.errors import ExtraNotInstalled, InvalidArguments
from raystore.settings import setting
from raystore.vectors import Matrix


@dataclass(frozen=True)
class BatchSize:
    """`tokens` bounds rows * longest, padding included, `rows` the rows alone; one item is always a batch.

    `images` bounds a batch of images. `multiple`: lengths of texts are padded up to a multiple of it, so that a
    compiled model meets fewer shapes.
    """

    tokens: int
    rows: int
    images: int
    multiple: int = 1


_STREAMS = 4


def streams_of(threads: int) -> int:
    """How many batches an encoder of so many threads encodes at once where it may: few, so that each still has rows together."""
    return max(1, min(threads, _STREAMS))


class Backend(ABC):
    """Runs one graph of an encoder. Used by one thread at a time, or by as many as `share_cores` said."""

    name: ClassVar[str]
    device: str = "cpu"
    batch_size: BatchSize

    def share_cores(self) -> int:
        """Make ready for several batches at once, each on a part of the threads; how many. One, where that is of no use."""
        return 1

    @abstractmethod
    def run(self, inputs: Arrays) -> Matrix:
        """(n, ..) inputs by name -> (n, dim) float32 unit rows, a new array at each call."""


class ExportedBackend(Backend):
    """A backend that runs a converted graph from files, without torch. `export` needs torch, `__init__` does not."""

    package: ClassVar[str]  # whose absence means it is not installed
    extra: ClassVar[str]
    # How it may compute: the library's own choice first, then what to fall back on where that is not exact enough.
    precisions: ClassVar[tuple[str, ...]] = ("auto",)

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Of the library that converts and runs."""

    @classmethod
    @abstractmethod
    def export(cls, module: Any, example: dict[str, npt.NDArray[Any]], folder: Path, stem: str) -> list[str]:
        """The names of the files written into `folder`, each beginning with `stem`.

        The first axis of every input is free, and the second of texts. May raise whatever its library raises.
        """

    @abstractmethod
    def __init__(self, folder: Path, stem: str, *, threads: int | None = None, precision: str = "auto") -> None:
        """Read the files of `export`; `threads` None is every core. Raises RuntimeError where it cannot run them."""


def exported_backends() -> dict[str, type[ExportedBackend]]:
    """By name, the preferred one first."""
    from raystore.encoders.onnx_backend import OnnxBackend
    from raystore.encoders.openvino_backend import OpenVinoBackend

    return {backend.name: backend for backend in (OpenVinoBackend, OnnxBackend)}


BACKENDS = ("torch", "openvino", "onnx")


def is_installed(backend: type[ExportedBackend]) -> bool:
    return importlib.util.find_spec(backend.package) is not None


def has_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU; asks no library, so it costs nothing."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and Path("/dev/nvidia0").exists()


def choose_backend(asked: str | None) -> tuple[str, bool]:
    """The backend's name, and whether someone asked for it (then it is that or an error, never another).

    By default torch where there is a GPU, else OpenVINO where it is installed, else torch.

    Raises:
        InvalidArguments: no backend of that name.
        ExtraNotInstalled: it was asked for and is not installed.
    """
    chosen = asked or setting("RAYSTORE_BACKEND")
    exported = exported_backends()
    if not chosen:
        return ("openvino" if is_installed(exported["openvino"]) and not has_gpu() else "torch"), False
    if chosen not in BACKENDS:
        problem = f"a backend is one of {', '.join(BACKENDS)}, not '{chosen[:40]}'"
        raise InvalidArguments(call="load an encoder", problems=[problem])
    if chosen in exported and not is_installed(exported[chosen]):
        backend = exported[chosen]
        raise ExtraNotInstalled(what=f"{chosen} encoders", package=backend.package, extra=backend.extra)
    return chosen, True
