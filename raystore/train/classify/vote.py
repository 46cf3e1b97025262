"""From neighbours to classes: the vote. Pure NumPy; knows no index, no file and no description.

A neighbour's vote is its weight times its cosine to `POWER`, 0 below a cosine of 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raystore.vectors import Matrix

K = 10
POWER = 4.0

Shares = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def vote_shares(
    cosines: npt.NDArray[np.floating],
    *,
    real: npt.NDArray[np.bool_] | None = None,
    weights: npt.NDArray[np.floating] | None = None,
    power: float = POWER,
) -> Shares:
    """(m, k) float64: each neighbour's share of its row's votes; they sum to 1, to 0 in a row without neighbours.

    Args:
        cosines: (m, k), in any order.
        real: (m, k), False where there is no neighbour; all are without it.
        weights: (m, k), 1 each without it.

    Where no neighbour has a vote, all of the row's count alike.
    """
    # Rounded to what float32 cosines are good for, so that equal votes tie however many rows were asked about at once.
    votes = np.maximum(cosines.astype(np.float64).round(6), 0.0) ** power
    if weights is not None:
        votes *= weights
    present = np.ones(votes.shape) if real is None else real.astype(np.float64)
    votes = np.where(present > 0, votes, 0.0)
    votes = np.where(votes.sum(axis=1, keepdims=True) > 0, votes, present)
    total = votes.sum(axis=1, keepdims=True)
    shares: Shares = np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)
    return shares


def class_votes(shares: Shares, codes: Codes, n_classes: int) -> Shares:
    """(m, c) float64: the shares added up by class. `codes` (m, k) are the neighbours' classes; where a share is 0 any will do."""
    votes = np.zeros((len(shares), n_classes))
    row = np.arange(len(shares))
    for j in range(shares.shape[1]):  # k is small; within one column each row stands once
        votes[row, codes[:, j]] += shares[:, j]
    return votes


def log_votes(votes: Shares, n: float | Shares, spread: float | Shares) -> Matrix:
    """(m, c) float32 logits: the log of each class's part of `n` votes and of those `spread` over the classes beside them.

    Args:
        votes: (m, c) shares of the neighbours' votes, 0 to 1.
        n: how many neighbours voted, or (m, 1).
        spread: votes that every class has without any neighbour, or (m, c): so that no class is impossible. A class of which
            neither says anything is, and gets -inf.
    """
    held = n * votes + spread
    with np.errstate(divide="ignore"):
        logs: Matrix = np.log(held / held.sum(axis=1, keepdims=True)).astype(np.float32)
    return logs
