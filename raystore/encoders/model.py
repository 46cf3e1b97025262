"""A model in memory as the rest of the room knows it: passport, card, one torch module for each kind of input.

Filled by `text.py` and `vision.py`, run by the backends. Importing this imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from raystore.encoders.passport import Card, Modality, Passport

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, npt.NDArray[Any]]


class Options(BaseModel):
    """What a caller changed about a model; None leaves the model's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int | None = None
    pooling: str | None = None
    prompt: str | None = None
    dimensions: int | None = None  # of the vector, its first ones; for models trained so (Matryoshka)
    resize: int | None = None  # pixels: the edge the model sees, for models that take any
    kernel: str | None = None


@dataclass(frozen=True)
class Model:
    """`graphs[modality]` maps the passport's inputs of that modality, as keyword arguments, to (n, dim) unit rows."""

    passport: Passport
    graphs: Mapping[Modality, torch.nn.Module]
    tensors: Mapping[str, str]  # name -> sha256
    tokenizer_json: str | None = None
    card: Card = field(default_factory=Card)


def example_inputs(passport: Passport, modality: Modality) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the right names, types and shapes for two items, to trace a graph with."""
    if modality == "image":
        assert passport.image is not None
        return {passport.image.input: np.zeros((2, 3, *passport.image.shape), dtype=np.float32)}
    assert passport.text is not None
    # Two rows of different length, so that tracing sees a mask that masks something.
    mask = np.ones((2, 8), dtype=np.int64)
    mask[1, 5:] = 0
    return {name: mask if name == "attention_mask" else np.zeros_like(mask) for name in passport.text.inputs}


def tensor_digests(state: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """sha256 of dtype, shape and bytes of each tensor, by `prefix` + name."""
    found: dict[str, str] = {}
    for name, tensor in state.items():
        array = tensor.detach().cpu().contiguous().numpy()
        digest = hashlib.sha256(f"{array.dtype.name}{list(array.shape)}".encode())
        digest.update(memoryview(array.reshape(-1)).cast("B") if array.size else b"")
        found[prefix + name] = digest.hexdigest()
    return found
