"""Ridge regression in closed form: the normal equations, summed over the workers. Pure NumPy and SciPy.

Exact: inline and on any number of workers it is the same solution to rounding, since all that is added up are moments.
Cost: n*d*d multiply-adds in float64, a block of rows at a time, and one d*d*d eigenproblem for the whole list of l2.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from raystore.train.linear import Reduce, alone
from raystore.train.source import Floats
from raystore.train.threads import libraries_on_one_thread
from raystore.vectors import Matrix

_BLOCK_ROWS = 8_192


def fit_ridge(
    vectors: Matrix,
    labels: npt.NDArray[np.float64],
    l2: Sequence[float],
    *,
    weights: npt.NDArray[np.float32] | None = None,
    reduce: Reduce | None = None,
) -> list[tuple[Matrix, Matrix]]:
    """W (1, d) and b (1,), float32, for each l2: they minimise sum_i w_i * (y_i - W x_i - b)^2 + |W|^2 / l2, b free.

    Args:
        vectors: (n, d) float32, this worker's rows; n may be 0 when other workers have rows.
        labels: (n,) float64.
        l2: inverse strengths of the penalty; scikit-learn's alpha is 1 / l2.
        weights: (n,) float32, all ones where absent.
        reduce: adds an array up over the workers; identity where absent.

    Source: the normal equations, centred; as sklearn.linear_model.Ridge.
    """
    total = reduce or alone
    n, d = vectors.shape
    counts = np.ones(n, dtype=np.float64) if weights is None else weights.astype(np.float64)
    # Far from 0 the products below would lose what differs between the labels.
    shift = total(np.array([counts @ labels, counts.sum()], dtype=np.float64))
    centre = shift[0] / shift[1]

    def moments(start: int) -> Floats:
        """(d+2, d+2) weighted products of [x, 1, y] over a block of rows."""
        rows = slice(start, start + _BLOCK_ROWS)
        block = np.empty((len(labels[rows]), d + 2))
        block[:, :d], block[:, d], block[:, d + 1] = vectors[rows], 1.0, labels[rows] - centre
        block *= np.sqrt(counts[rows, None])
        products: Floats = block.T @ block
        return products

    M = np.zeros((d + 2, d + 2))
    with libraries_on_one_thread() as threads, ThreadPoolExecutor(threads) as pool:
        for block in pool.map(moments, range(0, n, _BLOCK_ROWS)):
            M += block
    M = total(M.ravel()).reshape(d + 2, d + 2)
    mass = M[d, d]
    mean_x, mean_y = M[:d, d] / mass, M[d, d + 1] / mass
    values, turned = np.linalg.eigh(M[:d, :d] - mass * np.outer(mean_x, mean_x))
    target = turned.T @ (M[:d, d + 1] - mass * mean_x * mean_y)
    fits = []
    for strength in l2:
        W = turned @ (target / (np.maximum(values, 0.0) + 1 / strength))
        fits.append((W[None].astype(np.float32), np.array([mean_y + centre - W @ mean_x], dtype=np.float32)))
    return fits
