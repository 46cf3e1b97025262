"""Tiny real graphs, one of texts and one of images, and inputs for them: what the tests of backends and exports share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.encoders.backends import Backend
from raystore.encoders.model import Model, Options, example_inputs
from raystore.encoders.onnx_backend import OnnxBackend
from raystore.encoders.openvino_backend import OpenVinoBackend
from raystore.encoders.passport import ImagePart, Modality, Passport, digest_of
from raystore.encoders.source import find_source
from raystore.encoders.text import load_text_model
from raystore.encoders.torch_backend import TorchBackend

EXPORTED = (OpenVinoBackend, OnnxBackend)
EDGE = (24, 32)  # height, width: not square, so that a transposed image would show
WORDS = 90  # in the tiny model's vocabulary


def need(*packages: str) -> None:
    """Skip a test file where one is not installed. Imports none: openvino alone would bring its telemetry along."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed", allow_module_level=True)


def text_model(folder: Path) -> Model:
    return load_text_model(find_source(folder), Options())


def image_model() -> Model:
    """A ViT of two layers with random weights of one seed; pixels come in as they are."""
    import torch
    from transformers import ViTConfig, ViTModel

    class UnitRows(torch.nn.Module):
        def __init__(self, vit: Any) -> None:
            super().__init__()
            self.vit = vit

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.vit(pixel_values=pixel_values).last_hidden_state[:, 0], dim=1)

    with torch.random.fork_rng():
        torch.manual_seed(20261120)
        config = ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=EDGE,
            patch_size=8,
            initializer_range=0.2,  # so that different images get clearly different vectors
        )
        graph = UnitRows(ViTModel(config, add_pooling_layer=False)).eval()
    part = ImagePart(pooling="cls", resize="exact", size=EDGE, kernel="bicubic", rescale=1 / 255)
    passport = Passport(weights=digest_of("a"), architecture="ViTModel", config=digest_of("b"), image=part, dim=32)
    return Model(passport=passport, graphs={"image": graph}, tensors={})


def opened(name: str, model: Model, folder: Path, **options: Any) -> Backend:
    """The backend of that name on the model's only graph, its files in `folder`."""
    modality = model.passport.modalities[0]
    if name == "torch":
        return TorchBackend(model.graphs[modality], **options)
    backend = next(each for each in EXPORTED if each.name == name)
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        backend.export(model.graphs[modality], example_inputs(model.passport, modality), folder, modality)
    return backend(folder, modality, **options)


def inputs_of(modality: Modality, n: int, length: int = 16, seed: int = 0) -> dict[str, Any]:
    """`n` random items; texts are of 1 to `length` tokens, one of them of `length`, padded as a reader pads."""
    random = np.random.default_rng([n, length, seed])
    if modality == "image":
        return {"pixel_values": random.normal(size=(n, 3, *EDGE)).astype(np.float32)}
    lengths = random.integers(1, length + 1, size=n)
    lengths[random.integers(n)] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids = random.integers(5, WORDS, size=(n, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def rows_of(inputs: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}
