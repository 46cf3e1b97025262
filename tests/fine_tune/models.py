"""Tiny bases of every kind for the tests of the model that learns, inputs for them, and a stand-in for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raystore.encoders.load import load_model
from raystore.encoders.model import Options, example_inputs
from raystore.encoders.passport import Modality, Passport
from raystore.encoders.source import find_source
from raystore.fine_tune.model.trainable import Trainable, open_trainable
from raystore.fine_tune.recipe import Recipe
from raystore.vectors import Matrix


def opened(folder: Path, options: Mapping[str, Any] | None = None, **settings: Any) -> Trainable:
    recipe = Recipe.model_validate({"precision": "fp32", **settings})
    return open_trainable(find_source(folder), Options.model_validate(options or {}), recipe, device="cpu")


def inputs(passport: Passport, modality: Modality, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Two items that differ: token ids of the tiny vocabulary, or noise for a picture."""
    rng = np.random.default_rng(seed)
    found = example_inputs(passport, modality)
    for name, array in found.items():
        if name == "input_ids":
            array[:] = rng.integers(5, 25, array.shape)
            array[:, -1] = 3  # CLIP pools at the end-of-text token
        elif name == passport_input(passport):
            array[:] = rng.normal(size=array.shape)
    return found


def passport_input(passport: Passport) -> str | None:
    return passport.image.input if passport.image else None


def rows(trainable: Trainable, modality: Modality, seed: int = 0) -> Matrix:
    import torch

    with torch.no_grad():
        found: Matrix = trainable.embed(modality, inputs(trainable.passport, modality, seed)).numpy()
    return found


def rows_of_folder(folder: Path, modality: Modality, seed: int = 0, **options: Any) -> Matrix:
    """What raystore encodes with the model in a folder, through its own door."""
    import torch

    model = load_model(find_source(folder), Options.model_validate(options))
    tensors = {n: torch.from_numpy(a) for n, a in inputs(model.passport, modality, seed).items()}
    with torch.no_grad():
        found: Matrix = model.graphs[modality](**tensors).numpy()
    return found


def disturb(trainable: Trainable, size: float = 0.05) -> Trainable:
    """Stands in for training: whatever may learn is moved, by the same draw every time."""
    import torch

    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable.parameters_that_learn():
            parameter += size * torch.randn(parameter.shape, generator=draw)
    return trainable


def worst_cosine(a: Matrix, b: Matrix) -> float:
    return float((a.astype(np.float64) * b).sum(axis=1).min())


def save_mobilenet(folder: Path) -> Path:
    """A MobileNetV2 of a quarter's width with batch norm that has seen something, 32x32 pixels."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessor, MobileNetV2Model

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, image_size=32, initializer_range=0.4))
        model.train()
        with torch.no_grad():
            for _ in range(30):
                model(pixel_values=torch.randn(8, 3, 32, 32))
        model.eval().save_pretrained(folder)
    MobileNetV2ImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    ).save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    """A ResNet of four stages of one layer, 32x32 pixels."""
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    config = ResNetConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], embedding_size=8, layer_type="basic")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        ResNetModel(config).eval().save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
    return folder
