"""How far confidence can be believed: temperature scaling and expected calibration error. Pure NumPy and SciPy.

Both after Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raystore.train.losses import loss_sums
from raystore.train.source import Targets, Task, Weights
from raystore.vectors import Matrix

BINS = 15  # as in the paper's tables
_COLDEST, _HOTTEST = 0.02, 50.0


def softmax(logits: Matrix, temperature: float = 1.0) -> Matrix:
    """(n, c) float32 rows that sum to 1; every logit is divided by the temperature first."""
    scaled = logits / np.float32(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled.astype(np.float32, copy=False)


def sigmoid(logits: Matrix, temperature: float = 1.0) -> Matrix:
    """(n, c) float32, each on its own; every logit is divided by the temperature first."""
    probabilities: Matrix = np.exp(-np.logaddexp(np.float32(0), logits / np.float32(-temperature)))
    return probabilities


def fit_temperature(logits: Matrix, labels: Targets, weights: Weights | None = None, task: Task = "classes") -> float:
    """The temperature in [0.02, 50] that minimises the mean log loss of probabilities of logits / T; 1.0 without rows.

    It never changes which class is highest. The probabilities are a softmax, or for the task "labels" sigmoids.

    Args:
        logits: (n, c) float32 of rows that the head was not fitted on.
        labels: (n,) int64, or for "labels" (n, c) of 0 and 1.
        weights: (n,) float32, all ones where absent.

    Cost: about 30 passes over the logits. Source: section 4.2 of the paper.
    """
    if len(logits) == 0 or task == "number":
        return 1.0
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        summed, mass = loss_sums(task, logits, labels, weights, scale=float(np.exp(-log_temperature)))
        return float(summed / mass) if mass else 0.0

    found = minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded", options={"xatol": 1e-4})
    # A bounded search on a loss that is flat where it starts may end worse than where nothing is changed.
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def expected_calibration_error(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int = BINS
) -> float:
    """Mean over rows of |accuracy - mean confidence| of the row's bin; in [0, 1], 0.0 without rows.

    Args:
        confidence: (n,) probability of the predicted class.
        correct: (n,) whether that class was right.
        bins: equal widths over [0, 1]; a bin is (low, high], the first one holds 0 too.

    Source: equation 5 of the paper.
    """
    if len(confidence) == 0:
        return 0.0
    of_bin = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(of_bin, weights=correct.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
