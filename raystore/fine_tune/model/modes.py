"""What of a model learns: all of it, its last layers, low-rank additions (LoRA), or an adapter after its pooling.

Knows graphs and peft; knows no optimiser.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raystore.encoders.model import example_inputs
from raystore.encoders.passport import Modality, Passport
from raystore.errors import ExtraNotInstalled
from raystore.fine_tune.model.adapter import adapter_nets, add_adapters
from raystore.fine_tune.model.layers import below_last, layer_list
from raystore.fine_tune.model.towers import Towers
from raystore.fine_tune.recipe import Recipe

# Additions weigh alpha / rank; twice the rank is what Hu 2021 and peft's own examples come down to.
_ALPHA_PER_RANK = 2


def mode_problems(graphs: Mapping[Modality, nn.Module], recipe: Recipe) -> list[str]:
    """What the recipe's mode cannot do with this model, as sentences. Raises ExtraNotInstalled for LoRA without peft."""
    if recipe.mode == "last-n":
        most = min(len(layer_list(graph)[1]) for graph in graphs.values())
        most = most if recipe.layers is None else min(most, recipe.layers)
        return [] if recipe.last_n <= most else [f"last_n= is 1 to {most} for this model, not {recipe.last_n}"]
    if recipe.mode == "lora":
        if importlib.util.find_spec("peft") is None:
            raise ExtraNotInstalled(what="low-rank additions (mode lora)", package="peft", extra="lora")
        if not all(_targets(graph) for graph in graphs.values()):
            return ["mode='lora' finds no linear layer in the layers of this model: take full or last-n"]
    return []


def make_learning(module: Towers, passport: Passport, recipe: Recipe) -> dict[str, int]:
    """The parameters that learn in this mode, by name, each with how many layers below the last it stands.

    LoRA's and the adapter's parameters are added to `module` here. What reaches no output (a pooler that nothing
    reads, CLIP's temperature) never learns.
    """
    read = _read(module, passport)
    if recipe.mode == "lora":
        for modality in module.modalities:
            _add_lora(module.graph(modality), recipe)
    elif recipe.mode == "adapter":
        add_adapters(module, passport.dim, recipe.adapter_width, recipe.seed)
        nets = {id(p) for net in adapter_nets(module).values() for p in net.parameters()}
        return {name: 0 for name, p in module.named_parameters() if id(p) in nets}
    below = {f"{m}.{name}": n for m in module.modalities for name, n in below_last(module.graph(m)).items()}
    if recipe.mode == "lora":
        return {name: n for name, n in below.items() if ".lora_" in name}
    if recipe.mode == "last-n":
        read = {name for name in read if below[name] < recipe.last_n}
    return {name: n for name, n in below.items() if name in read}


def _read(module: Towers, passport: Passport) -> set[str]:
    """The names of the parameters that reach the output: those that get a gradient from it."""
    module.requires_grad_(True)
    with torch.enable_grad():
        for modality in module.modalities:
            inputs = {name: torch.from_numpy(array) for name, array in example_inputs(passport, modality).items()}
            module(modality, inputs).sum().backward()
    found = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def _targets(graph: nn.Module) -> list[str]:
    """The dotted names of what LoRA is added to: matrix products in the layers, and convolutions that mix all channels."""
    where, layers = layer_list(graph)
    return [
        f"{where}.{name}"
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]


def _add_lora(graph: nn.Module, recipe: Recipe) -> None:
    """Low-rank additions to every matrix of the layers. Source: Hu 2021 (arXiv 2106.09685), eq. 3; every matrix rather than
    queries and values alone after Dettmers 2023 (arXiv 2305.14314), figure 2."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=_ALPHA_PER_RANK * recipe.lora_rank,
        lora_dropout=recipe.dropout or 0.0,
        target_modules=_targets(graph),
    )
    with torch.random.fork_rng(devices=[]):  # the same additions on every worker; a GPU draws nothing here
        torch.default_generator.manual_seed(recipe.seed)
        inject_adapter_in_model(config, graph)
    for module in graph.modules():
        if isinstance(base := getattr(module, "base_layer", None), nn.Conv2d):
            for name in ("stride", "kernel_size", "dilation"):  # MobileNet reads them to pad as TensorFlow did
                setattr(module, name, getattr(base, name))
    graph.eval()


def plain_state(module: Towers) -> dict[str, torch.Tensor]:
    """The tensors by the names that the base has them under: LoRA merged into the weights, an adapter's left out. Copies on
    the CPU, float32."""
    lora: dict[str, Any] = {name: m for name, m in module.named_modules() if hasattr(m, "get_delta_weight")}
    added = {id(p) for net in adapter_nets(module).values() for p in net.parameters()}
    found: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in added or ".lora_" in name:
            continue
        owner, _, last = name.rpartition(".base_layer.")
        plain = tensor.detach().to("cpu", copy=True)
        if owner in lora and last == "weight":
            plain += lora[owner].get_delta_weight("default").detach().cpu()
        found[name.replace(".base_layer.", ".")] = plain
    return found
