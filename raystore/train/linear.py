"""Logistic regression by full-batch L-BFGS, multinomial or one-vs-rest. Pure; knows no store, no Ray, no file.

The objective is scikit-learn's, so `l2` is its C: sum_i w_i * loss_i + |W|^2 / (2 * l2), intercept free, divided by
sum_i w_i. A row's loss is the cross entropy of a softmax, or the sum of its classes' binary log losses: as many logistic
regressions as there are classes, fitted together, which also take several labels a row. Matrix products run in float32 on
torch, sums and the optimizer in float64. The rows may stand on several workers: each holds its own, `reduce` adds up loss
and gradient, and all walk one path.

Cost: passes over the rows, each 4*n*d*c multiply-adds (which a pass is bound by), and beside the rows one block of logits a
thread. Many rows are first looked at in part: 30 steps on every 8th row, then the curvature of each class there (see
curvature.py), and from there few steps on all rows, in coordinates in which that curvature is even. 100,000 x 384 in 41
classes: some 20 passes and 10 passes' worth of beginning, against 110. Few rows, where that does not pay, go straight.
The rows go in fixed blocks over as many threads as torch has (see threads.py for why not torch's own), and the blocks'
sums are added in order, so the result does not depend on the thread count.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from raystore.train.curvature import even_coordinates
from raystore.train.source import Floats, Targets
from raystore.train.threads import libraries_on_one_thread
from raystore.vectors import Matrix

if TYPE_CHECKING:
    import torch

log = logging.getLogger("raystore")

Loss = Literal["multinomial", "ovr"]
LOSSES: tuple[Loss, ...] = ("multinomial", "ovr")
Reduce = Callable[[Floats], Floats]

# Logits of one block: 16 MB, which stays near the cores and bounds memory however many rows there are.
BLOCK_LOGITS = 2**22

# From so many rows on, and so many for each number of a vector, it pays to begin on every 8th and look at the curvature there.
SAMPLED_FROM_ROWS = 8_192
SAMPLED_FROM_ROWS_A_NUMBER = 20
SAMPLED = 8
SAMPLED_STEPS = 30
CURVATURE_BYTES = 2**27


def alone(array: Floats) -> Floats:
    """The `reduce` of one worker: its sum is the sum."""
    return array


def fit_linear(
    vectors: Matrix,
    labels: Targets,
    n_classes: int,
    *,
    loss: Loss = "multinomial",
    weights: npt.NDArray[np.float32] | None = None,
    l2: float = 10.0,
    max_iter: int = 500,
    tol: float = 5e-5,
    start: tuple[Matrix, Matrix] | None = None,
    reduce: Reduce | None = None,
    on_step: Callable[[], None] | None = None,
) -> tuple[Matrix, Matrix]:
    """The weights and intercepts that minimise the regularised log loss.

    Args:
        vectors: (n, d) float32, this worker's rows; never copied, n may be 0 when other workers have rows.
        labels: (n,) int64 in [0, n_classes); with loss "ovr" also (n, n_classes) float32 of 0 and 1.
        loss: "multinomial" (softmax) or "ovr" (a sigmoid a class, each class against all others).
        weights: (n,) float32, how much each row counts; all ones where absent.
        l2: inverse strength of the L2 penalty on W, scikit-learn's C.
        max_iter: L-BFGS steps at most; reaching it is logged.
        tol: stops when no entry of the mean loss's gradient is larger.
        start: W and b to begin from, all zeros where absent.
        reduce: adds an array up over the workers and gives every worker the same bits; identity where absent.
        on_step: called after each L-BFGS step.

    Returns:
        W (n_classes, d) and b (n_classes,), float32.

    Source: the objective is that of sklearn.linear_model.LogisticRegression, of "ovr" that of OneVsRestClassifier around
        it; L-BFGS-B as in SciPy (Zhu, Byrd, Lu, Nocedal 1997).
    """
    import torch

    total = reduce or alone
    d = vectors.shape[1]
    counts = np.ones(len(labels), dtype=np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
    X = as_tensor(vectors)
    target, weight = as_tensor(labels), as_tensor(counts)
    part = slice(None, None, SAMPLED)

    # Centring changes nothing but the meaning of b, which is free, and takes the rows' common direction out of
    # the curvature: 5 to 12% fewer passes. It is done in the algebra, the rows are not copied.
    found = [counts.sum(dtype=np.float64), counts[part].sum(dtype=np.float64), len(X)]
    moments = total(np.append(_weighted_sum(X, weight), found))
    mass, mass_of_part, n_rows = moments[-3:].tolist()
    mean, penalty = moments[:-3] / mass, 1 / (l2 * mass)
    begin = np.zeros((n_classes, d + 1))
    if start is not None:
        begin[:, :d], begin[:, d] = start[0], start[1] + start[0].astype(np.float64) @ mean
    with (
        libraries_on_one_thread() as threads,
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        whole = _Objective(X, target, weight, mean, mass, penalty, loss, total, pool)
        R = None
        if (
            n_rows >= max(SAMPLED_FROM_ROWS, SAMPLED_FROM_ROWS_A_NUMBER * d)
            and 4 * n_classes * (d + 1) ** 2 <= CURVATURE_BYTES
        ):
            shares = total(_class_mass(target, weight, n_classes)) / mass
            sampled = _Objective(X[part], target[part], weight[part], mean, mass_of_part, penalty, loss, total, pool)
            if start is None:
                begin, _ = _descend(sampled, begin, None, SAMPLED_STEPS, tol)
            R = even_coordinates(
                X[part], weight[part], sampled.probabilities(begin), mean, mass_of_part, shares, penalty, total, pool
            )
        best, steps = _descend(whole, begin, R, max_iter, tol, on_step)
    if steps >= max_iter:
        log.warning("linear head: stopped after %s steps, before the gradient fell below %s", steps, tol)
    W, b = best[:, :d], best[:, d] - best[:, :d] @ mean
    if loss == "multinomial":
        b -= b.mean()  # what all classes share changes no probability, and where it ends depends on the way
    return W.astype(np.float32), b.astype(np.float32)


@dataclass(frozen=True)
class _Objective:
    """The mean loss of some rows and its gradient, by points (c, d+1) float64: W, and b as it is for centred rows."""

    X: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    mean: Floats
    mass: float  # of all workers' rows
    penalty: float
    loss: Loss
    total: Reduce
    pool: ThreadPoolExecutor

    def __call__(self, point: Floats) -> tuple[float, Floats]:
        (c, columns), n = point.shape, len(self.X)
        d, W = columns - 1, point[:, :-1]
        at, b = self._weights(point)
        step = min(max(256, BLOCK_LOGITS // c), max(1024, -(-n // 64)))
        parts = [slice(first, first + step) for first in range(0, n, step)]
        sums = np.zeros(1 + point.size)
        X, target, weight = self.X, self.target, self.weight
        for block in self.pool.map(lambda r: _block_sums(X[r], target[r], weight[r], at, b, self.loss), parts):
            sums += block
        sums = self.total(sums)
        G = sums[1:].reshape(c, columns)
        gradient = np.empty_like(point)
        gradient[:, :d] = (G[:, :d] - np.outer(G[:, d], self.mean)) / self.mass + self.penalty * W
        gradient[:, d] = G[:, d] / self.mass
        return float(sums[0] / self.mass + 0.5 * self.penalty * np.vdot(W, W)), gradient

    def probabilities(self, point: Floats) -> Callable[[torch.Tensor], torch.Tensor]:
        """(r, c) of a block of rows at this point."""
        import torch

        at, b = self._weights(point)

        def of(rows: torch.Tensor) -> torch.Tensor:
            z = torch.addmm(b, rows, at.T)
            return z.softmax(dim=1) if self.loss == "multinomial" else z.sigmoid_()

        return of

    def _weights(self, point: Floats) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        W = point[:, :-1]
        b = point[:, -1] - W @ self.mean
        return torch.from_numpy(W.astype(np.float32)), torch.from_numpy(b.astype(np.float32))


def _descend(
    objective: _Objective,
    begin: Floats,
    R: Matrix | None,
    max_iter: int,
    tol: float,
    on_step: Callable[[], None] | None = None,
) -> tuple[Floats, int]:
    """The point where no entry of the gradient is above `tol`, and how many steps it took; in the coordinates of R if any."""
    from scipy.optimize import minimize

    steepest = np.inf  # of the gradient at the last point, which is the one a step ends at

    def value(flat: Floats) -> tuple[float, Floats]:
        nonlocal steepest
        moved, gradient = objective(begin + _turned(R, flat.reshape(begin.shape), back=True))
        steepest = float(np.abs(gradient).max())
        return moved, _turned(R, gradient, back=False).ravel()

    def after_step(_: Floats) -> None:
        if on_step is not None:
            on_step()
        if steepest <= tol:
            raise StopIteration

    found = minimize(
        value,
        np.zeros(begin.size),
        jac=True,
        method="L-BFGS-B",
        callback=after_step,
        options={
            "maxiter": max_iter,
            "maxfun": 2 * max_iter,
            "gtol": 0.0,
            "ftol": 64 * np.finfo(float).eps,
            # SciPy's own 10 need 10 to 15% more passes; where there are very many weights they bound memory.
            "maxcor": min(20, max(5, 2**24 // begin.size)),
        },
    )
    return begin + _turned(R, found.x.reshape(begin.shape), back=True), found.nit


def _turned(R: Matrix | None, rows: Floats, *, back: bool) -> Floats:
    """(c, d+1) of each class's row times R: a gradient into the coordinates of R, or with `back` a point out of them."""
    if R is None:
        return rows
    narrow = rows.astype(np.float32)
    turned = np.matmul(narrow[:, None, :], R)[:, 0, :] if back else np.matmul(R, narrow[:, :, None])[:, :, 0]
    wide: Floats = turned.astype(np.float64)
    return wide


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
    for start in range(0, len(X), 4_096):
        summed += weight[start : start + 4_096].double() @ X[start : start + 4_096].double()
    found: Floats = summed.numpy()
    return found


def _class_mass(target: torch.Tensor, weight: torch.Tensor, n_classes: int) -> Floats:
    """(c,) the weight of the rows of each class."""
    import torch

    summed = weight @ target if target.ndim == 2 else torch.bincount(target, weights=weight, minlength=n_classes)
    mass: Floats = summed.double().numpy()
    return mass


def _block_sums(
    X: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, W: torch.Tensor, b: torch.Tensor, loss: Loss
) -> Floats:
    """Loss and gradient summed over one block's rows, packed: [loss, (c, d+1) gradient by W and b]."""
    import torch
    from torch.nn import functional

    c, d = W.shape
    z = torch.addmm(b, X, W.T)  # (r, c)
    column = target[:, None]
    if loss == "multinomial":
        slope = torch.log_softmax(z, dim=1)
        losses = -slope.gather(1, column)[:, 0]
        slope.exp_()
    else:
        given = (z * target).sum(dim=1) if target.ndim == 2 else z.gather(1, column)[:, 0]
        losses = functional.softplus(z).sum(dim=1) - given
        slope = z.sigmoid_()
    if target.ndim == 2:
        slope.sub_(target)
    else:
        slope.scatter_add_(1, column, torch.full_like(column, -1, dtype=torch.float32))
    slope.mul_(weight[:, None])
    sums = np.empty(1 + c * (d + 1))
    sums[0] = float(losses.double() @ weight.double())
    gradient = sums[1:].reshape(c, d + 1)
    gradient[:, :d] = (slope.T @ X).numpy()
    gradient[:, d] = slope.sum(dim=0, dtype=torch.float64).numpy()
    return sums
