"""The population stability index: how far two distributions over the same bins lie apart, and how far chance alone takes them. Pure.

Source: Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation 14, 2020.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.number]

_PRIOR = 0.5  # added to each bin, so that an empty one is rare and not impossible


def psi(a: Counts, b: Counts) -> float:
    """Sum over bins of (p - q) ln(p / q), p and q being the shares in a and in b; 0.0 where one of them counts nothing.

    Args:
        a, b: (k,) counts of the same bins.

    The same whichever comes first. By a rule of thumb from credit scoring, 0.1 is worth a look and 0.25 a change.
    """
    if a.sum() == 0 or b.sum() == 0:
        return 0.0
    p, q = ((x + _PRIOR) / (x.sum() + _PRIOR * len(x)) for x in (np.asarray(a, np.float64), np.asarray(b, np.float64)))
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_chance(a: Counts, b: Counts, level: float = 0.95) -> float:
    """What the index of two samples of one distribution stays below in `level` of all cases.

    It is about chi-square of k - 1 degrees, times (1/n + 1/m), k being the bins that either sample fills.
    """
    from scipy.stats import chi2

    bins = int(((a + b) > 0).sum())
    if bins < 2 or a.sum() == 0 or b.sum() == 0:
        return 0.0
    return float(chi2.ppf(level, bins - 1)) * (1 / float(a.sum()) + 1 / float(b.sum()))
