"""Multinomial logistic regression by full-batch L-BFGS. Pure; knows no store, no Ray, no file.

The objective is scikit-learn's, so `l2` is its C: sum_i w_i * CE_i + |W|^2 / (2 * l2), intercept free, divided
by sum_i w_i. Matrix products run in float32 on torch, sums and the optimizer in float64. The rows may stand on
several workers: each holds its own, `reduce` adds up loss and gradient, and all walk one path.

Cost: about 40 to 80 passes over the rows, each 4*n*d*c multiply-adds; beside the rows one block of logits.
The rows go in fixed blocks over as many threads as torch has (see threads.py for
why not torch's own), and the blocks' sums are added in order, so the result does not depend on the thread count.
Whitening by the rows' covariance was tried and needs more passes (81 against 43 at
l2=3): the directions with most variance separate the classes, and there the curvature is gone at the optimum.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raystore.train.threads import libraries_on_one_thread
from raystore.vectors import Matrix

if TYPE_CHECKING:
    import torch

log = logging.getLogger("raystore")

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Reduce = Callable[[Floats], Floats]

# Logits of one block: 16 MB, which stays near the cores and bounds memory however many rows there are.
BLOCK_LOGITS = 2**22


def alone(array: Floats) -> Floats:
    """The `reduce` of one worker: its sum is the sum."""
    return array


def fit_linear(
    vectors: Matrix,
    labels: Labels,
    n_classes: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    l2: float = 10.0,
    max_iter: int = 500,
    tol: float = 5e-5,
    reduce: Reduce | None = None,
) -> tuple[Matrix, Matrix]:
    """The weights and intercepts that minimise the regularised log loss.

    Args:
        vectors: (n, d) float32, this worker's rows; never copied, n may be 0 when other workers have rows.
        labels: (n,) int64 in [0, n_classes).
        weights: (n,) float32, how much each row counts; all ones where absent.
        l2: inverse strength of the L2 penalty on W, scikit-learn's C.
        max_iter: L-BFGS steps at most; reaching it is logged.
        tol: stops when no entry of the mean loss's gradient is larger.
        reduce: adds an array up over the workers and gives every worker the same bits; identity where absent.

    Returns:
        W (n_classes, d) and b (n_classes,), float32.

    Source: the objective is that of sklearn.linear_model.LogisticRegression; L-BFGS-B as in SciPy
        (Zhu, Byrd, Lu, Nocedal 1997).
    """
    import torch
    from scipy.optimize import minimize

    total = reduce or alone
    d = vectors.shape[1]
    counts = np.ones(len(labels), dtype=np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
    X = as_tensor(vectors)
    target, weight = as_tensor(labels), as_tensor(counts)

    # Centring changes nothing but the meaning of b, which is free, and takes the rows' common direction out of
    # the curvature: 5 to 12% fewer passes. It is done in the algebra, the rows are not copied.
    moments = total(np.append(_weighted_sum(X, weight), counts.sum(dtype=np.float64)))
    mass = float(moments[-1])
    mean = moments[:-1] / mass
    rows_per_block = min(max(256, BLOCK_LOGITS // n_classes), max(1024, -(-len(X) // 64)))
    parts = [slice(start, start + rows_per_block) for start in range(0, len(X), rows_per_block)]

    def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
        point = flat.reshape(n_classes, d + 1)
        W, centred_b = point[:, :d], point[:, d]
        b = torch.from_numpy((centred_b - W @ mean).astype(np.float32))
        at = torch.from_numpy(W.astype(np.float32))
        sums = np.zeros(1 + point.size)
        for block in pool.map(lambda rows: _block_sums(X[rows], target[rows], weight[rows], at, b), parts):
            sums += block
        sums = total(sums)
        loss, G = sums[0], sums[1:].reshape(n_classes, d + 1)
        gradient = np.empty_like(point)
        gradient[:, :d] = (G[:, :d] - np.outer(G[:, d], mean)) / mass + W / (l2 * mass)
        gradient[:, d] = G[:, d] / mass
        return float(loss / mass + 0.5 * np.vdot(W, W) / (l2 * mass)), gradient.ravel()

    with (
        libraries_on_one_thread() as threads,
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        found = minimize(
            loss_and_gradient,
            np.zeros(n_classes * (d + 1)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iter, "maxfun": 2 * max_iter, "gtol": tol, "ftol": 64 * np.finfo(float).eps},
        )
    if found.nit >= max_iter:
        log.warning("linear head: stopped after %s steps, before the gradient fell below %s", found.nit, tol)
    best = found.x.reshape(n_classes, d + 1)
    W = best[:, :d]
    return W.astype(np.float32), (best[:, d] - W @ mean).astype(np.float32)


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array's memory as a tensor; arrays out of Arrow are read-only, and nothing here writes to them."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array).view(np.ndarray))


def _weighted_sum(X: torch.Tensor, weight: torch.Tensor) -> Floats:
    """(d,) sum of weighted rows, in blocks so that the float64 copy stays small."""
    import torch

    summed = torch.zeros(X.shape[1], dtype=torch.float64)
    for start in range(0, len(X), 16_384):
        summed += weight[start : start + 16_384].double() @ X[start : start + 16_384].double()
    return summed.numpy()


def _block_sums(X: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> Floats:
    """Loss and gradient summed over one block's rows, packed: [loss, (c, d+1) gradient by W and b]."""
    import torch

    c, d = W.shape
    wanted = target[:, None]
    logp = torch.log_softmax(torch.addmm(b, X, W.T), dim=1)  # (r, c)
    sums = np.empty(1 + c * (d + 1))
    sums[0] = -float(logp.gather(1, wanted)[:, 0].double() @ weight.double())
    slope = logp.exp_()
    slope.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=torch.float32))
    slope.mul_(weight[:, None])
    gradient = sums[1:].reshape(c, d + 1)
    gradient[:, :d] = (slope.T @ X).numpy()
    gradient[:, d] = slope.sum(dim=0, dtype=torch.float64).numpy()
    return sums
