"""How a user has a way to run an encoder: by default, by a setting, as an encoder of another name, or not at all.

It follows what `open_encoder` does: torch computes in float32, on a GPU where there is one; an exported backend computes
in the first of its precisions that is exact enough; any other precision is an encoder of its own, once it is derived.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raystore.encoders.backends import choose_backend, exported_backends
from raystore.encoders.exports import export_precisions, export_problem
from raystore.encoders.opening import refusal
from raystore.encoders.passport import Passport
from raystore.layout import Layout

BY_DEFAULT = "by default"
_SETTING = "RAYSTORE_BACKEND"


@dataclass(frozen=True)
class Choice:
    """`said` is what a table says of it; `command` what makes the encoder that the way would be, where none is yet."""

    said: str
    command: str | None = None

    @property
    def is_the_same_name(self) -> bool:
        """Whether it is had under the encoder's own name, so that what it puts out passes for the encoder's."""
        return self.said == BY_DEFAULT or _SETTING in self.said


NO_CHOICE = Choice("cannot be chosen")


@dataclass(frozen=True)
class Chooser:
    """`runs`: by exported backend, the precision that it would run in, if any. `default` is None where a setting stands."""

    name: str
    runs: Mapping[str, str]
    default: str | None
    has_gpu: bool = False

    def choice(self, backend: str, precision: str, device: str, *, registered: str | None, same: bool) -> Choice:
        """`registered` is the label of the derived encoder that it is; `same`: as the reference."""
        takes = "gpu" if self.has_gpu else "cpu"  # torch takes the GPU unless it is hidden
        if registered is not None:
            hidden = "CUDA_VISIBLE_DEVICES= and " if backend == "torch" and device != takes else ""
            return Choice(f"{hidden}encoder {registered.partition('@')[0]}")
        if backend != "torch":
            return self._setting(backend) if self.runs.get(backend) == precision else NO_CHOICE
        if precision == "fp32":
            return self._setting("torch") if device == takes else Choice(f"CUDA_VISIBLE_DEVICES= {_SETTING}=torch")
        if same or device != takes:  # what is the same encoder cannot be derived
            return NO_CHOICE
        return Choice(f"encoder derive --precision {precision}", derive_command(self.name, precision))

    def _setting(self, backend: str) -> Choice:
        return Choice(BY_DEFAULT if backend == self.default else f"{_SETTING}={backend}")


def chooser(layout: Layout, passport: Passport, name: str, same: Sequence[tuple[str, str]], *, has_gpu: bool) -> Chooser:
    """What this machine and its settings choose.

    Args:
        same: (backend, precision) of the ways that put out the encoder's vectors, where no export says so already.
    """
    runs: dict[str, str] = {}
    for backend in exported_backends().values():
        if export_problem(layout, passport, backend) is None:
            runs[backend.name] = export_precisions(layout, passport, backend)[0]
        elif refusal(layout, passport, backend) is None:
            exact = [precision for precision in backend.precisions if (backend.name, precision) in same]
            runs |= {backend.name: exact[0]} if exact else {}
    chosen, asked_for = choose_backend(None)
    default = None if asked_for else chosen if chosen in runs else "torch"
    return Chooser(name, runs, default, has_gpu)


def derive_command(name: str, precision: str) -> str:
    return f"raystore encoder derive {name}-{precision} --base {name} --precision {precision}"


def can_derive_int8() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in ("openvino", "nncf"))
