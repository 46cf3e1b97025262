"""Supervised contrastive loss: a row's class-mates against all other rows of the batch (Khosla et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from raystore.fine_tune.losses.base import Loss, LossValue, averaged, log_sum, mean_over, pairs_of

Form = Literal["out", "in"]


class SupCon(Loss):
    """Of row i with positives P(i), all others A(i) and s = cosine / temperature:

    out (eq. 2)   mean over p in P(i) of   -log( exp(s_ip) / sum over a in A(i) of exp(s_ia) )
    in  (eq. 3)   -log( mean over p in P(i) of exp(s_ip) / sum over a in A(i) of exp(s_ia) )

    "out" is the default. By Jensen's inequality "in" is never larger, and its gradient weighs positives by how near they
    are already, so that it pulls those that need no pulling, and the far ones hardly; Khosla et al. (section 3.2.2) measured
    78.7 against 67.4% on ImageNet. "in" is kept for labels that are wrong now and then: a class-mate that lies far away is let go.

    A row without a class-mate has no term. All rows on one point: log(n - 1) in both forms. Cost: n * n * d multiply-adds,
    some ten (n, n) blocks of float32.
    """

    def __init__(self, temperature: float, form: Form = "out") -> None:
        super().__init__()
        self.temperature, self.form = temperature, form

    def forward(
        self,
        rows: Tensor,
        labels: Tensor,
        sides: Tensor | None = None,  # noqa: ARG002, both parts of a pair are rows like any
        weights: Tensor | None = None,
    ) -> LossValue:
        pairs = pairs_of(labels, weights)
        logits = rows @ rows.T / self.temperature
        terms = out_terms if self.form == "out" else in_terms
        return averaged(terms(logits, pairs.positive, pairs.candidate), (pairs.positive > 0).any(dim=1), weights)


def out_terms(logits: Tensor, positive: Tensor, candidate: Tensor) -> Tensor:
    """(n,) minus the mean log share of each row's positives among its candidates; `positive` (n, n) holds their weights."""
    return log_sum(logits, candidate) - mean_over(logits, positive)


def in_terms(logits: Tensor, positive: Tensor, candidate: Tensor) -> Tensor:
    """(n,) minus the log of the mean share of each row's positives among its candidates."""
    tiny = torch.finfo(torch.float32).tiny
    weighed = logits + positive.clamp_min(tiny).log()
    total = positive.sum(dim=1).clamp_min(tiny).log()
    return log_sum(logits, candidate) - log_sum(weighed, positive > 0) + total
