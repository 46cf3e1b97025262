"""What a loss returns, and which rows of a batch are a pair. Pure torch; knows no single loss.

A row labelled -1 has no term and is nobody's positive or negative. Weights count a row's own term and the row as a positive
of others; a row of weight 0 is neither any more, and stays a negative.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_LOWEST = torch.finfo(torch.float32).min  # and not -inf, whose gradient is NaN where a row has no candidate at all


class LossValue(NamedTuple):
    """`total`: the scalar to minimise, 0 with zero gradients where no row has a term. `each` (n,) float32, detached: every
    row's term, NaN where it has none."""

    total: Tensor
    each: Tensor


class Loss(nn.Module):
    """One loss over the rows of a batch."""

    def forward(
        self, rows: Tensor, labels: Tensor, sides: Tensor | None = None, weights: Tensor | None = None
    ) -> LossValue:
        """The loss of (n, d) float32 unit rows with (n,) int64 labels. `sides` (n,) says which of a pair's two parts a row is."""
        raise NotImplementedError

    def trivial(self, labels: Tensor, sides: Tensor | None = None) -> float:
        """The total where all rows are one point, which a collapsed model reaches and stays at. Cost: of one loss at d = 1."""
        with torch.no_grad():
            return float(self(torch.ones(len(labels), 1, device=labels.device), labels, sides).total)


class Pairs(NamedTuple):
    """(n, n): `positive` float32, how much row j counts as a positive of row i; `other` bool, whether it is of another class;
    `candidate` bool, either of both, whatever the weight."""

    positive: Tensor
    other: Tensor
    candidate: Tensor


def pairs_of(labels: Tensor, weights: Tensor | None) -> Pairs:
    """Who is whose positive and negative. Cost: three (n, n) masks."""
    known = labels >= 0
    both = known[:, None] & known[None, :]
    equal = labels[:, None] == labels[None, :]
    same = both & equal & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = same.float() if weights is None else same * weights.float()[None, :]
    return Pairs(positive, both & ~equal, same | (both & ~equal))


def log_sum(logits: Tensor, chosen: Tensor) -> Tensor:
    """(n,) log of the sum of exp over the chosen of each line; about -3.4e38 where none is. Finite, and so are its gradients."""
    return torch.logsumexp(logits.masked_fill(~chosen, _LOWEST), dim=1)


def mean_over(values: Tensor, share: Tensor) -> Tensor:
    """(n,) the mean of each line's values by their share; 0 where all shares are 0."""
    return (values * share).sum(dim=1) / share.sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


def averaged(values: Tensor, there: Tensor, weights: Tensor | None) -> LossValue:
    """The mean of the terms that are there, by the rows' weights."""
    share = there.float() if weights is None else there * weights.float()
    total = mean_over(values.masked_fill(~there, 0.0)[None, :], share[None, :])[0]
    return LossValue(total, values.detach().masked_fill(~there, torch.nan))
