"""What a backend is, and which one encodes. A backend maps integer matrices to unit rows; it reads no text.

`torch` is the reference: float32, on a GPU where there is one. `openvino` runs the same graph, converted, on the CPU.
Whatever stays within the passport's tolerance of torch is the same encoder, so the choice is free and recorded per job.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Protocol

from raystore.encoders.tokens import BatchSize, Integers
from raystore.errors import ExtraNotInstalled, InvalidArguments
from raystore.settings import setting
from raystore.vectors import Matrix

BACKENDS = ("torch", "openvino")


class Backend(Protocol):
    """Runs one encoder's model. Used by one thread at a time."""

    name: str
    device: str
    batch_size: BatchSize

    def run(self, inputs: Mapping[str, Integers]) -> Matrix:
        """(n, longest) inputs by name -> (n, dim) float32 unit rows."""
        ...


def choose_backend(asked: str | None) -> tuple[str, bool]:
    """The backend's name, and whether someone asked for it (then it is that or an error, never another).

    Raises:
        InvalidArguments: no backend of that name.
        ExtraNotInstalled: openvino was asked for and is not installed.
    """
    chosen = asked or setting("RAYSTORE_BACKEND")
    installed = importlib.util.find_spec("openvino") is not None
    if not chosen:
        return ("openvino" if installed else "torch"), False
    if chosen not in BACKENDS:
        problem = f"a backend is one of {', '.join(BACKENDS)}, not '{chosen[:40]}'"
        raise InvalidArguments(call="load an encoder", problems=[problem])
    if chosen == "openvino" and not installed:
        raise ExtraNotInstalled(what="OpenVINO encoders", package="openvino", extra="openvino")
    return chosen, True
