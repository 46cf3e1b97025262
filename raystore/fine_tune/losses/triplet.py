"""Triplet losses over a batch: a row shall be nearer to its class-mates than to strangers, by a margin in cosine.

The squared Euclidean distance of unit rows is 2 - 2 * cosine, so a margin of 0.2 in Schroff's measure is 0.1 here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from raystore.fine_tune.losses.base import Loss, LossValue, averaged, mean_over, pairs_of


class BatchHard(Loss):
    """max(0, margin + cosine of the nearest stranger - cosine of the farthest class-mate) (Hermans et al. 2017, eq. 5).

    Where several are equally hard they share the gradient. Rows without a class-mate or a stranger have no term. All rows on
    one point: the margin, from where the gradient leads nowhere; start from a model that separates something.
    Cost: n * n * d multiply-adds.
    """

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self,
        rows: Tensor,
        labels: Tensor,
        sides: Tensor | None = None,  # noqa: ARG002, both parts of a pair are rows like any
        weights: Tensor | None = None,
    ) -> LossValue:
        pairs = pairs_of(labels, weights)
        same, cosines = pairs.positive > 0, rows @ rows.T
        farthest = cosines.masked_fill(~same, 2.0).amin(dim=1)
        nearest = cosines.masked_fill(~pairs.other, -2.0).amax(dim=1)
        there = same.any(dim=1) & pairs.other.any(dim=1)
        return averaged(functional.relu(self.margin + nearest - farthest), there, weights)


class SemiHard(Loss):
    """As BatchHard, but of every class-mate with the nearest stranger that is farther than it (Schroff et al. 2015, section 3.2).

    Where no stranger is farther, with the farthest. A row's term is the mean over its class-mates, the total the mean over
    rows. All rows on one point: the margin. Cost: n * n * d multiply-adds and n sorts of n; memory some ten (n, n) blocks,
    not n * n * n.
    """

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self,
        rows: Tensor,
        labels: Tensor,
        sides: Tensor | None = None,  # noqa: ARG002, both parts of a pair are rows like any
        weights: Tensor | None = None,
    ) -> LossValue:
        pairs = pairs_of(labels, weights)
        cosines = rows @ rows.T
        strangers = cosines.gather(1, _semi_hard(cosines.detach(), pairs.other))
        terms = mean_over(functional.relu(self.margin + strangers - cosines), pairs.positive)
        there = (pairs.positive > 0).any(dim=1) & pairs.other.any(dim=1)
        return averaged(terms, there, weights)


def _semi_hard(cosines: Tensor, other: Tensor) -> Tensor:
    """(n, n) int64: for row i and its class-mate j, the nearest stranger of i that is farther from it than j."""
    distances, order = (-cosines.masked_fill(~other, -3.0)).sort(dim=1, stable=True)  # strangers first, nearest first
    place = torch.searchsorted(distances, -cosines, right=True)
    last = other.sum(dim=1, keepdim=True).clamp_min(1) - 1
    return order.gather(1, torch.minimum(place, last))
