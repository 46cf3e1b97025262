"""Which parameter belongs to which layer of a model, for text transformers, vision transformers and convolutional nets alike.

Found by shape: the layers of every model that raystore runs stand in one list, and it is the list that
holds the most parameters (BERT `encoder.layer`, DistilBERT `transformer.layer`, ModernBERT `layers`, CLIP
`encoder.layers`, MobileNetV2 `layer`, ResNet `encoder.stages`). Knows no names of models.
"""

from __future__ import annotations

from typing import Any

from torch import nn

# Registered after the layers and read by each of them: MPNet's and DeBERTa's relative positions.
_SHARED = ("relative_attention_bias", "rel_embeddings", "encoder.LayerNorm.")


def transformer_of(graph: nn.Module) -> Any:
    """The transformers model inside one of `encoders.model.Model`'s graphs."""
    chain: Any = getattr(graph, "chain", None)
    return graph.model if chain is None else chain[0].auto_model


def layer_list(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The dotted name of the list of layers and the list; an empty list where there is none."""
    lists = [(name, found) for name, found in module.named_modules() if isinstance(found, nn.ModuleList) and len(found)]
    if not lists:
        return "", nn.ModuleList()
    return max(lists, key=lambda each: sum(p.numel() for p in each[1].parameters()))  # the outermost of equal ones


def below_last(graph: nn.Module) -> dict[str, int]:
    """By parameter, how many layers below the last it stands, in the order of `named_parameters`.

    0 for the last layer and what comes after it; the number of layers for what comes before the first.
    """
    where, layers = layer_list(graph)
    inside = f"{where}."
    found: dict[str, int] = {}
    below = len(layers)
    for name, _ in graph.named_parameters():
        if where and name.startswith(inside):
            below = len(layers) - 1 - int(name[len(inside) :].partition(".")[0])
            found[name] = below
        else:
            is_before = below == len(layers) or any(part in name for part in _SHARED)
            found[name] = len(layers) if is_before else 0
    return found
