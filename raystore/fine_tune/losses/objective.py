"""A recipe's losses, weighted and summed, over every prefix that Matryoshka asks for: what a step minimises.

Computed in float32 whatever autocast is on: at a temperature of .05 a cosine's rounding in bf16 (.004) is .08 of a logit.
Knows no model, no worker and no file; where a batch stands on several workers, each gives it all its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from raystore.errors import InvalidArguments
from raystore.fine_tune.losses.base import Loss, LossValue
from raystore.fine_tune.losses.distill import distill, distill_trivial
from raystore.fine_tune.losses.matryoshka import prefixes
from raystore.fine_tune.losses.multi_similarity import MultiSimilarity
from raystore.fine_tune.losses.proxy import ArcFace, ClassVectors, ProxyAnchor
from raystore.fine_tune.losses.softmax import PairSoftmax
from raystore.fine_tune.losses.supcon import SupCon
from raystore.fine_tune.losses.triplet import BatchHard, SemiHard
from raystore.fine_tune.recipe import LossName, Recipe


class Objective(nn.Module):
    """The sum of some losses by their weights, each the mean over `dims`, plus `distillation` times the distance to a teacher.

    Its parameters are the class vectors of ProxyAnchor and ArcFace; the other losses have none.
    """

    def __init__(self, losses: Sequence[tuple[float, Loss]], dims: tuple[int, ...], distillation: float = 0.0) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in losses]
        self.losses = nn.ModuleList(loss for _, loss in losses)
        self.dims, self.distillation = dims, distillation

    def forward(
        self,
        rows: Tensor,
        labels: Tensor,
        sides: Tensor | None = None,
        teacher: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> LossValue:
        """The total, with gradients, and each row's term.

        Args:
            rows: (n, d) unit rows of any float type.
            labels: (n,) int64 codes; -1 has no term and is nobody's positive or negative.
            sides: (n,) 0 or 1, which part of its pair a row is; for softmax.
            teacher: (n, t) the teacher's vectors of the same items; without it there is no distillation.
            weights: (n,) how much each row counts, as itself and as a positive of others.

        `each` is of the labels' losses alone, summed over those in which a row has a term, NaN where it has none in any. Of one
        loss but ProxyAnchor its mean, by weights, is that loss's part of the total.
        """
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.float()
            total = rows.new_zeros(())
            each, there = rows.new_zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
            for weight, loss in self._each_loss():
                for prefix in prefixes(rows, self.dims):
                    value: LossValue = loss(prefix, labels, sides, weights)
                    total = total + weight / len(self.dims) * value.total
                    each = each + weight / len(self.dims) * value.each.nan_to_num(0.0)
                    there = there | ~value.each.isnan()
            if teacher is not None and self.distillation:
                total = total + self.distillation * distill(rows, teacher)
        return LossValue(total, each.masked_fill(~there, torch.nan))

    def trivial(self, labels: Tensor, sides: Tensor | None = None, teacher: Tensor | None = None) -> float:
        """The total where all rows are one point: a model whose loss stays there has collapsed. Cost: of one batch at d = 1."""
        value = sum((weight * loss.trivial(labels, sides) for weight, loss in self._each_loss()), 0.0)
        if teacher is not None and self.distillation:
            value += self.distillation * distill_trivial(teacher, max(self.dims))
        return value

    def start(self, means: Tensor) -> None:
        """Begin with (c, d) class means as class vectors; nothing where no loss has any."""
        for _, loss in self._each_loss():
            if isinstance(loss, ClassVectors):
                loss.start(means)

    def _each_loss(self) -> list[tuple[float, Loss]]:
        return list(zip(self.weights, cast("list[Loss]", list(self.losses)), strict=True))


def make_objective(recipe: Recipe, n_classes: int, dim: int) -> Objective:
    """What the recipe minimises, for so many classes and vectors of `dim` numbers; on the CPU, `.to(device)` moves it.

    Raises:
        InvalidArguments: Matryoshka asks for more dimensions than there are.
    """
    beyond = [m for m in recipe.matryoshka if not 1 <= m <= dim]
    if beyond:
        asked = ", ".join(str(m) for m in beyond)
        problem = f"matryoshka= names {asked}, and the vectors have {dim} dimensions"
        raise InvalidArguments(call="fine_tune", problems=[problem])
    losses = [(weight, _loss(name, recipe, n_classes, dim)) for name, weight in recipe.losses.items()]
    return Objective(losses, tuple(sorted({*recipe.matryoshka, dim})), recipe.distill)


def _loss(name: LossName, recipe: Recipe, n_classes: int, dim: int) -> Loss:
    match name:
        case "supcon":
            return SupCon(recipe.temperature)
        case "supcon-in":
            return SupCon(recipe.temperature, "in")
        case "triplet-hard":
            return BatchHard(recipe.margin)
        case "triplet-semi":
            return SemiHard(recipe.margin)
        case "multi-similarity":
            return MultiSimilarity()
        case "softmax":
            return PairSoftmax(recipe.temperature)
        case "proxy-anchor":
            return ProxyAnchor(n_classes, dim, margin=recipe.margin, scale=recipe.scale, seed=recipe.seed)
        case "arcface":
            return ArcFace(n_classes, dim, margin=recipe.margin, scale=recipe.scale, seed=recipe.seed)
