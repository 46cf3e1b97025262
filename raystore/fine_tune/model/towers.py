"""The graphs of a model, text, image or both, as one module that trains: batch norm stands still, dropout can be set.

Knows torch and what transformers models share; knows no recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from raystore.encoders.passport import Modality
from raystore.fine_tune.model.layers import transformer_of

# Where transformers keeps a probability as a number, for what is no module (the dropout inside of attention).
_DROPOUTS = ("dropout", "attention_dropout", "dropout_prob", "attention_probs_dropout_prob", "dropout_rate")


class Towers(nn.Module):
    """`module(modality, inputs)` runs one graph: (n, dim) unit rows. Its parameters are named `text. ..` and `image. ..`."""

    def __init__(self, graphs: Mapping[Modality, nn.Module]) -> None:
        super().__init__()
        self.modalities: tuple[Modality, ...] = tuple(graphs)
        for modality, graph in graphs.items():
            self.add_module(modality, graph)
        self.eval()

    def graph(self, modality: Modality) -> nn.Module:
        return self.get_submodule(modality)

    def forward(self, modality: Modality, inputs: Mapping[str, Tensor]) -> Tensor:
        rows: Tensor = self.graph(modality)(**inputs)
        return rows

    def train(self, mode: bool = True) -> Towers:
        """As torch's, except that batch norm stays in eval mode: it normalises as it will when it encodes."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def set_dropout(module: nn.Module, probability: float | None) -> None:
    """Every dropout of the module, inside of attention too; None leaves the model's own."""
    if probability is None:
        return
    for each in module.modules():
        if isinstance(each, _DropoutNd):
            each.p = probability
        for name in _DROPOUTS:
            if isinstance(getattr(each, name, None), float):
                setattr(each, name, probability)


def checkpoint_problem(graphs: Mapping[Modality, nn.Module]) -> str | None:
    """Why activations cannot be computed again instead of kept, or None."""
    cannot = {type(t).__name__ for t in map(transformer_of, graphs.values()) if not t.supports_gradient_checkpointing}
    return f"gradient_checkpointing= is not there for {', '.join(sorted(cannot))} in transformers" if cannot else None


def save_memory(module: Towers) -> None:
    """Gradient checkpointing, by transformers' own switch: a third more time, activations of one layer at a time.

    Source: Chen 2016 (arXiv 1604.06174).
    """
    for modality in module.modalities:
        # Not the reentrant kind, which needs an input that has a gradient, and a frozen embedding gives none.
        transformer_of(module.graph(modality)).gradient_checkpointing_enable({"use_reentrant": False})
