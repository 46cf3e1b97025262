"""Staying near a teacher: its vectors where both have the same dimensions, else its similarities.

The teacher is a larger model, or the base as it was, which keeps a fine-tuned encoder from forgetting.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def distill(rows: Tensor, teacher: Tensor) -> Tensor:
    """Scalar, 0 where the student says what the teacher says.

    Args:
        rows: (n, d) float32 unit rows.
        teacher: (n, t) of the same items. t = d: the mean of 1 - cosine of both. Otherwise the mean squared difference of
            their cosines over pairs of different items (similarity-preserving distillation, Tung and Mori 2019, of unit rows
            and without the diagonal, which says nothing).

    Cost: n * d multiply-adds, or n * n * (d + t).
    """
    teacher = functional.normalize(teacher.detach().float(), dim=1)
    if teacher.shape[1] == rows.shape[1]:
        return 1 - (rows * teacher).sum(dim=1).mean()
    n = len(rows)
    difference = rows @ rows.T - teacher @ teacher.T
    return (difference.square().sum() - difference.diagonal().square().sum()) / max(1, n * (n - 1))


def distill_trivial(teacher: Tensor, dim: int) -> float:
    """The least that `distill` is where all rows of the student are one point."""
    teacher = functional.normalize(teacher.detach().float(), dim=1)
    if teacher.shape[1] == dim:
        return float(1 - teacher.mean(dim=0).norm())
    n = len(teacher)
    difference = 1 - teacher @ teacher.T
    return float((difference.square().sum() - difference.diagonal().square().sum()) / max(1, n * (n - 1)))
