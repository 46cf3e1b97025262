"""What a head is chosen by on rows it was not fitted on: log loss, or squared error for numbers. Pure NumPy.

Sums, so that workers can add theirs up. Cost: one pass over the scores in float64, a block at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raystore.train.source import Targets, Task, Weights
from raystore.vectors import Matrix

_BLOCK_CELLS = 2**21  # 16 MB in float64


def loss_sums(
    task: Task, scores: Matrix, labels: Targets, weights: Weights | None = None, scale: float = 1.0
) -> npt.NDArray[np.float64]:
    """[sum of the rows' weighted losses, sum of their weights].

    Args:
        scores: (n, c) logits, or (n, 1) predicted numbers.
        labels: as `Examples` has them for the task.
        scale: every logit is multiplied by it first.

    A row's loss is the cross entropy of the softmax ("classes"), the sum of the labels' binary log losses ("labels"), or
    the squared error ("number").
    """
    sums = np.zeros(2)
    rows = max(1, _BLOCK_CELLS // max(1, scores.shape[1]))
    for start in range(0, len(scores), rows):
        z = scores[start : start + rows].astype(np.float64)
        y = labels[start : start + rows]
        w = np.ones(len(y)) if weights is None else weights[start : start + rows].astype(np.float64)
        if task == "number":
            losses = (z[:, 0] - y) ** 2
        elif task == "labels":
            z *= scale
            losses = (np.logaddexp(0.0, z) - z * y).sum(axis=1)
        else:
            z *= scale
            z -= z.max(axis=1, keepdims=True)
            losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
        sums += (float(w @ losses), float(w.sum()))
    return sums
