"""What a training needs of a model: `model.trainable.Trainable` is one. Protocols alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from raystore.encoders.passport import Modality, Passport
from raystore.fine_tune.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Embeds(Protocol):
    @property
    def device(self) -> torch.device: ...
    @property
    def module(self) -> nn.Module: ...

    def embed(self, modality: Modality, inputs: Mapping[str, Any]) -> Tensor:
        """(n, d) float32 unit rows, with gradients where torch keeps them."""


class Learns(Embeds, Protocol):
    @property
    def passport(self) -> Passport: ...
    @property
    def precision(self) -> str:
        """Of 'fp16' the loss is scaled."""

    def parameters_that_learn(self) -> list[nn.Parameter]:
        """At present, in one order on every worker."""

    def learning_parameters(self) -> dict[str, nn.Parameter]:
        """At some stage, by name."""

    def groups(self, recipe: Recipe | None = None) -> list[dict[str, Any]]:
        """For a torch optimiser, each with its learning rate and weight decay."""

    def stage(self, progress: float) -> bool: ...
    def state(self) -> dict[str, Tensor]: ...
    def load_state(self, state: Mapping[str, Tensor]) -> None: ...
