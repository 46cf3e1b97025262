"""Adapters: the base stands still, and a bottleneck after its pooling learns. Knows graphs; knows no recipe.

Houlsby 2019 (arXiv 1902.00751) puts one into every layer, which no loadable folder can hold. One after the pooling can be
held: by two of sentence-transformers' Dense modules for a text model, by `encoders.residual` for a vision model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raystore.encoders.passport import Modality
from raystore.encoders.residual import residual
from raystore.fine_tune.model.towers import Towers


class PooledAdapter(nn.Module):
    """A residual net as a step of sentence-transformers' chain."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**features, "sentence_embedding": self.net(features["sentence_embedding"])}


def add_adapters(module: Towers, dim: int, width: int, seed: int) -> None:
    """One for each graph; before training they change nothing. The same seed draws the same on every worker.

    `dim`: of a vision model's vectors; a text model's chain knows its own, before `dimensions=` cuts it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for modality in module.modalities:
            _add(module.graph(modality), dim, width)


def _add(graph: Any, dim: int, width: int) -> None:
    if not hasattr(graph, "chain"):
        if isinstance(graph.residual, nn.Identity):  # else the base has one, and that goes on learning
            graph.residual = residual(dim, width)
        return
    steps = list(graph.chain)
    place = last_place(steps)
    dims = [step.get_embedding_dimension() for step in steps[:place] if hasattr(step, "get_embedding_dimension")]
    graph.chain = nn.Sequential(*steps[:place], PooledAdapter(residual(int(dims[-1]), width)), *steps[place:])


def last_place(steps: list[Any]) -> int:
    """Where in a chain an adapter stands: last, but before modules that only give length 1."""
    place = len(steps)
    while type(steps[place - 1]).__name__ == "Normalize":
        place -= 1
    return place


def adapter_nets(module: Towers) -> dict[Modality, nn.Module]:
    """The residual nets that were added, by modality."""
    found: dict[Modality, nn.Module] = {}
    for modality in module.modalities:
        graph: Any = module.graph(modality)
        nets = [step.net for step in getattr(graph, "chain", ()) if isinstance(step, PooledAdapter)]
        nets += [graph.residual] if hasattr(graph, "residual") else []
        for net in nets:
            if not isinstance(net, nn.Identity):
                found[modality] = net
    return found


def as_dense(net: Mapping[str, torch.Tensor]) -> list[Any]:
    """Two Dense modules that put out exactly what the residual net of these tensors does.

    relu(x) - relu(-x) is x, so a hidden layer of [x, -x, down(x)] carries x past the ReLU. Dense itself has a residual
    only around one layer.
    """
    from sentence_transformers.sentence_transformer.modules import Dense

    dim, width = net["up.weight"].shape
    one = torch.eye(dim)
    first = Dense(
        dim,
        2 * dim + width,
        activation_function=nn.ReLU(),
        init_weight=torch.cat([one, -one, net["down.weight"]]),
        init_bias=torch.cat([torch.zeros(2 * dim), net["down.bias"]]),
    )
    second = Dense(
        2 * dim + width,
        dim,
        activation_function=nn.Identity(),
        init_weight=torch.cat([one, -one, net["up.weight"]], dim=1),
        init_bias=net["up.bias"],
    )
    return [first, second]
