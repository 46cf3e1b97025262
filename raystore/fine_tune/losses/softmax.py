"""In-batch softmax over pairs, in both directions: InfoNCE as CLIP has it (van den Oord et al. 2018; Radford et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from raystore.fine_tune.losses.base import Loss, LossValue, averaged, pairs_of
from raystore.fine_tune.losses.supcon import out_terms


class PairSoftmax(Loss):
    """Each row of one side picks its partner among all rows of the other side: the cross entropy of cosine / temperature.

    With as many rows on both sides the mean over all rows is CLIP's mean of both directions (Radford et al. 2021, figure 3).
    Rows with the same label are partners, so a caption that stands in the batch twice is no negative of itself; several
    partners share the term as in SupCon's "out". Without `sides` every row picks among all others, which is NT-Xent (Chen et
    al. 2020, eq. 1).

    All rows on one point: log of the rows on the other side. Cost: as SupCon's.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, rows: Tensor, labels: Tensor, sides: Tensor | None = None, weights: Tensor | None = None
    ) -> LossValue:
        positive, _, candidate = pairs_of(labels, weights)
        if sides is not None:
            across = sides[:, None] != sides[None, :]
            positive, candidate = positive * across, candidate & across
        terms = out_terms(rows @ rows.T / self.temperature, positive, candidate)
        return averaged(terms, (positive > 0).any(dim=1), weights)
