"""Losses with one learned vector a class, for many classes: no class needs a second row in the batch.

The vectors are parameters of the loss. They are the same on every worker, and where each worker sees the whole batch, so
is their gradient: it is not to be summed over workers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from raystore.fine_tune.losses.base import Loss, LossValue, averaged, log_sum


class ClassVectors(Loss):
    """What both have: `vectors` (c, d), random unit rows of one seed until `start` is called."""

    def __init__(self, n_classes: int, dim: int, seed: int) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(seed)
        self.vectors = nn.Parameter(functional.normalize(torch.randn(n_classes, dim, generator=chance), dim=1))

    def start(self, means: Tensor) -> None:
        """Take (c, d) class means, made unit, for class vectors. A class whose mean is zero or not finite keeps its own."""
        means = means.to(self.vectors)
        good = means.isfinite().all(dim=1) & (means.norm(dim=1) > 0)
        with torch.no_grad():
            self.vectors[good] = functional.normalize(means[good], dim=1)

    def forward(
        self,
        rows: Tensor,
        labels: Tensor,
        sides: Tensor | None = None,  # noqa: ARG002, both parts of a pair are rows like any
        weights: Tensor | None = None,
    ) -> LossValue:
        # Matryoshka: leading dimensions of the rows meet the same of the class vectors.
        units = functional.normalize(self.vectors[:, : rows.shape[1]], dim=1, eps=1e-6)
        return self._value(rows @ units.T, labels, weights)

    def trivial(self, labels: Tensor, sides: Tensor | None = None) -> float:  # noqa: ARG002
        """The total where all rows and all class vectors are one point."""
        with torch.no_grad():
            return float(self._value(torch.ones(len(labels), len(self.vectors), device=labels.device), labels, None).total)

    def _value(self, cosines: Tensor, labels: Tensor, weights: Tensor | None) -> LossValue:
        """Of (n, c) cosines of rows and class vectors."""
        raise NotImplementedError


class ProxyAnchor(ClassVectors):
    """Class vectors as anchors, to which the batch's rows are positives and negatives (Kim et al. 2020, eq. 4):

    mean over classes in the batch of log(1 + sum over their rows of exp(-scale (s - margin)))
    + mean over all classes of log(1 + sum over rows of other classes of exp(scale (s + margin)))

    The terms belong to classes, so `each` does not average to the total: it is what the loss would be of a batch of that
    one row. Weights count a row in both sums. Cost: n * c * d multiply-adds.
    """

    def __init__(self, n_classes: int, dim: int, *, margin: float, scale: float, seed: int = 0) -> None:
        super().__init__(n_classes, dim, seed)
        self.margin, self.scale = margin, scale

    def _value(self, cosines: Tensor, labels: Tensor, weights: Tensor | None) -> LossValue:
        known = labels >= 0
        own = known[:, None] & (labels[:, None] == torch.arange(cosines.shape[1], device=labels.device)[None, :])
        others = known[:, None] & ~own
        pull = -self.scale * (cosines - self.margin)
        push = self.scale * (cosines + self.margin)
        with torch.no_grad():
            alone = functional.softplus(pull).masked_fill(~own, 0.0).sum(dim=1)
            each = alone + functional.softplus(push).masked_fill(~others, 0.0).sum(dim=1) / cosines.shape[1]
        if weights is not None:
            counted = weights.float()[:, None]
            own, others = own & (counted > 0), others & (counted > 0)
            logs = counted.clamp_min(torch.finfo(torch.float32).tiny).log()
            pull, push = pull + logs, push + logs
        present = own.any(dim=0)
        pulled = functional.softplus(log_sum(pull.T, own.T)).masked_fill(~present, 0.0)
        pushed = functional.softplus(log_sum(push.T, others.T))
        total = pulled.sum() / present.sum().clamp_min(1) + pushed.mean()
        return LossValue(total, each.masked_fill(~known, torch.nan))


class ArcFace(ClassVectors):
    """Softmax over class vectors, with `margin` radians added to the angle to the row's own (Deng et al. 2019, eq. 3).

    Where the angle and the margin would pass pi, cos is continued by the line cos(angle) - margin * sin(margin), as the authors'
    code does, so that farther stays worse. Cost: n * c * d multiply-adds.
    """

    def __init__(self, n_classes: int, dim: int, *, margin: float, scale: float, seed: int = 0) -> None:
        super().__init__(n_classes, dim, seed)
        self.margin, self.scale = margin, scale

    def _value(self, cosines: Tensor, labels: Tensor, weights: Tensor | None) -> LossValue:
        known = labels >= 0
        own = labels.clamp_min(0)[:, None]
        cos = cosines.gather(1, own)
        sin = (1 - cos * cos).clamp_min(1e-7).sqrt()  # the root's slope at 0 is infinite
        turned = cos * math.cos(self.margin) - sin * math.sin(self.margin)
        target = torch.where(cos > -math.cos(self.margin), turned, cos - self.margin * math.sin(self.margin))
        logits = self.scale * cosines.scatter(1, own, target)
        return averaged(functional.cross_entropy(logits, own[:, 0], reduction="none"), known, weights)
