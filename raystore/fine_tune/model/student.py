"""A student: the base with some of its layers left out. It starts from the base's own weights. Knows transformers' configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from raystore.encoders.passport import Modality
from raystore.fine_tune.model.layers import layer_list, transformer_of


def student_problem(graphs: Mapping[Modality, nn.Module], n_layers: int | None) -> str | None:
    """Why a student of so many layers cannot be made of this base, or None."""
    if n_layers is None:
        return None
    models = [transformer_of(graph) for graph in graphs.values()]
    if not all(_all_alike(model) for model in models):
        return "layers= is for transformers, whose layers are all alike, and this base has none that could be left out"
    most = min(len(layer_list(model)[1]) for model in models)
    return None if n_layers <= most else f"layers= is 1 to {most} for this base, not {n_layers}"


def kept_layers(n_base: int, n_student: int) -> list[int]:
    """Which layers of the base the student has: evenly spread, the first and the last among them.

    The first may hold what the others share (T5's positions), the last makes what the pooling reads.
    Source: Sanh 2019 (arXiv 1910.01108), section 2: "taking one layer out of two".
    """
    if n_student == 1:
        return [0]
    return [int(i) for i in np.linspace(0, n_base - 1, n_student).round()]


def shrink(graph: nn.Module, n_layers: int) -> None:
    """Leave out layers of one graph of a model, and write that into its configuration."""
    shrink_model(transformer_of(graph), n_layers)


def shrink_model(model: Any, n_layers: int, *configs: Any) -> None:
    """The same for a transformers model, and for each of `configs` beside its own (CLIP's halves stand in the whole's too)."""
    where, layers = layer_list(model)
    kept = kept_layers(len(layers), n_layers)
    parent, _, name = where.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList([layers[i] for i in kept]))
    for place, i in enumerate(kept):
        for module in layers[i].modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = place  # type: ignore[assignment]  # torch thinks that attributes are tensors
    for config in {id(config): config for config in (model.config, *configs)}.values():
        types = getattr(config, "layer_types", None)
        config.num_hidden_layers = n_layers
        if isinstance(types, list) and len(types) == len(layers):  # ModernBERT: which layers see the whole text
            config.layer_types = [types[i] for i in kept]
        if isinstance(stages := getattr(config, "stage_names", None), list):  # DINOv2: what could be put out after each
            config.stage_names = stages[: n_layers + 1]
            config.set_output_features_output_indices(out_features=None, out_indices=None)


def _all_alike(model: Any) -> bool:
    """Whether the configuration counts these layers, and parameters of one name have one shape in all of them."""
    layers = layer_list(model)[1]
    if getattr(model.config, "num_hidden_layers", None) != len(layers):
        return False
    shapes: dict[str, Any] = {}
    return all(shapes.setdefault(name, p.shape) == p.shape for layer in layers for name, p in layer.named_parameters())
