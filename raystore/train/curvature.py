"""The curvature of a logistic loss, class by class, and coordinates in which it is even. Pure torch and NumPy.

L-BFGS takes as many steps as the curvature is uneven, and here it is very: it differs by class and, within one, by
direction. The block of one class, sum_i w_i p_ic (1 - p_ic) x_i x_i^T, is small enough to be had and turned round; with
"ovr" these blocks are the whole second derivative, with "multinomial" all but what ties the classes to each other. It
matters where it is looked at: where all classes are still alike it is the rows' covariance, and turning by that (whitening)
needs more passes instead of fewer. Looked at on a part of the rows, a rare class shows less than it has: a tenth of what it
would have were it predicted at random keeps its steps in bounds (without it such classes took 5 times as many steps as no
coordinates at all, with it half as many).

Cost: sum over classes of the rows in doubt about it times d*d, some 5 to 8 passes' worth on every 8th row; 4*c*d*d bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from raystore.train.source import Floats
from raystore.vectors import Matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_BLOCK_ROWS = 2_048
_IN_DOUBT = 1e-4  # rows surer than this about a class add next to nothing to its curvature
_AT_RANDOM = 0.1
_FLOOR = 1e-6  # of a class's mean curvature, so that a class without rows stays within reach


def even_coordinates(
    X: torch.Tensor,
    weight: torch.Tensor,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
    mean: Floats,
    mass: float,
    shares: Floats,
    penalty: float,
    total: Callable[[Floats], Floats],
    pool: ThreadPoolExecutor,
) -> Matrix:
    """(c, d+1, d+1) float32 R: with V = R^-T [W, centred b] of each class, the curvature of its block by V is the identity.

    Args:
        X, weight: this worker's part of the rows that are looked at.
        probabilities: (r, c) of a block of rows, where the curvature is looked at.
        mean: (d,) of all rows, by which they are centred.
        mass: the weight of the rows that are looked at, over all workers.
        shares: (c,) how much of the weight of all rows each class has.
        penalty: what the L2 penalty adds to each direction but the intercept's.
    """
    import torch

    d, n_classes = X.shape[1], len(shares)
    centre = torch.from_numpy(mean.astype(np.float32))
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(X), _BLOCK_ROWS)]
    doubts = [(p := probabilities(X[rows])).mul_(1 - p).mul_(weight[rows, None]) for rows in blocks]
    R = torch.empty(n_classes, d + 1, d + 1)

    def moments(counts: list[torch.Tensor]) -> torch.Tensor:
        """(d+1, d+1) of the rows that count, by how much they do."""
        H = torch.zeros(d + 1, d + 1)
        for rows, count in zip(blocks, counts, strict=True):
            at = torch.nonzero(count > _IN_DOUBT)[:, 0]
            root = count[at].sqrt_()[:, None]
            A = torch.cat([(X[rows][at] - centre).mul_(root), root], dim=1)
            H.addmm_(A.T, A)
        return H

    def summed(H: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(total(H.double().numpy().ravel())).view(d + 1, d + 1).div_(mass)

    def turn(k: int) -> None:
        """In place: H becomes the inverse of its Cholesky factor, for which float32 does, since any R is a change of coordinates."""
        H = R[k].double().add_(spread, alpha=_AT_RANDOM * float(shares[k] * (1 - shares[k])))
        diagonal = H.diagonal()
        diagonal[:d] += penalty
        diagonal += _FLOOR * float(diagonal.mean())
        L = torch.linalg.cholesky(H).float()
        R[k] = torch.linalg.solve_triangular(L, torch.eye(d + 1), upper=False)

    spread = summed(moments([weight[rows] for rows in blocks]))
    for k, H in enumerate(pool.map(lambda k: moments([doubt[:, k] for doubt in doubts]), range(n_classes))):
        R[k] = summed(H)
    list(pool.map(turn, range(n_classes)))
    turned: Matrix = R.numpy()
    return turned
