"""Multi-similarity loss: pairs are mined by their relative similarity and weighed by all three kinds (Wang et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from raystore.fine_tune.losses.base import Loss, LossValue, averaged, log_sum, pairs_of

_POSITIVE, _NEGATIVE, _MIDDLE, _SLACK = 2.0, 50.0, 0.5, 0.1  # alpha, beta, lambda, epsilon


class MultiSimilarity(Loss):
    """Of row i, over the pairs that mining leaves (eq. 15):

    log(1 + sum over positives of exp(-alpha (s - lambda))) / alpha + log(1 + sum over negatives of exp(beta (s - lambda))) / beta

    A negative is left if it is nearer than the farthest positive less epsilon, a positive if it is farther than the nearest
    negative plus epsilon. Alpha 2, beta 50 and epsilon 0.1 are the paper's, lambda 0.5 is of the authors' code. A row whose pairs
    are all easy has the term 0; one without a class-mate or a stranger has none. Cost: n * n * d multiply-adds.
    """

    def forward(
        self,
        rows: Tensor,
        labels: Tensor,
        sides: Tensor | None = None,  # noqa: ARG002, both parts of a pair are rows like any
        weights: Tensor | None = None,
    ) -> LossValue:
        pairs = pairs_of(labels, weights)
        same, cosines = pairs.positive > 0, rows @ rows.T
        with torch.no_grad():
            farthest = cosines.masked_fill(~same, 2.0).amin(dim=1, keepdim=True)
            nearest = cosines.masked_fill(~pairs.other, -2.0).amax(dim=1, keepdim=True)
            positives = same & (cosines < nearest + _SLACK)
            negatives = pairs.other & (cosines > farthest - _SLACK)
        counted = pairs.positive.clamp_min(torch.finfo(torch.float32).tiny).log()
        near = log_sum(counted - _POSITIVE * (cosines - _MIDDLE), positives)
        far = log_sum(_NEGATIVE * (cosines - _MIDDLE), negatives)
        terms = functional.softplus(near) / _POSITIVE + functional.softplus(far) / _NEGATIVE
        return averaged(terms, same.any(dim=1) & pairs.other.any(dim=1), weights)
