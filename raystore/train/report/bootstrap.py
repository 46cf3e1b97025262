"""How sure a score is: the bootstrap over entities, for anything that is computed from sums over rows. Pure.

Rows of one entity (a customer, a paper's author) are alike, so it is entities that are drawn again, with all their rows.
A score is given by its sufficient statistics: each row has some numbers, and the score is a function of their sums.
So a draw costs one product of counts and a sparse matrix, and entities whose statistics are equal are drawn
together, as one multinomial count: a hundred thousand rows take some 2 s.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 (percentile intervals) and 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.train.source import Labels

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

DRAWS = 1_000
LEVEL = 0.95
_BLOCK = 4_000_000  # numbers held at once, by draws
_MULTINOMIAL_GAIN = 40  # a binomial count costs about as much as drawing 40 entities one by one (measured)


def resample(
    statistics: Any, entities: Labels | None, score: Callable[[Floats], Floats], *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """(draws, k) float64: `score` of the summed statistics of each draw of entities, with replacement.

    The draws depend on the entities, the statistics and the seed alone; NaN where `score` says so.

    Args:
        statistics: (n, s) SciPy sparse or dense, one row per row.
        entities: (n,) int64, equal for equal entities; None where each row is its own.
        score: of (b, s) float64 sums to (b, k).
    """
    groups, group_of = _alike(_per_entity(statistics, entities))
    n_groups, n_entities = groups.shape[0], len(group_of)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(n_groups, groups.shape[1], 1))
    found = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        if n_groups * _MULTINOMIAL_GAIN < n_entities:
            counts = rng.multinomial(n_entities, np.bincount(group_of) / n_entities, size=size)
        else:
            drawn = (rng.integers(n_entities, size=n_entities) for _ in range(size))
            counts = np.stack([np.bincount(group_of[each], minlength=n_groups) for each in drawn])
        found.append(score(np.asarray((groups.T @ counts.T.astype(np.float64)).T)))
    return np.concatenate(found)


def interval(drawn: Floats, point: float, level: float = LEVEL) -> Interval:
    """The percentile interval of (draws,) scores, NaN left out; widened to `point` where that lies outside.

    A point can lie outside where few rows carry it, as a macro-F1 whose rare classes are missing from many draws.
    """
    kept = drawn[~np.isnan(drawn)]
    if not len(kept):
        return point, point
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), point), max(float(high), point)


def share_interval(drawn: Floats, point: float, n: int, level: float = LEVEL) -> Interval:
    """`interval` of a share; where it is exactly 0 or 1, the exact binomial bound of n entities on the open side.

    No draw from rows that are all right holds a wrong one, so the bootstrap alone would call ten of ten certain.
    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    low, high = interval(drawn, point, level)
    bound = ((1 - level) / 2) ** (1 / max(n, 1))
    if point >= 1:
        return min(low, bound), 1.0
    return (0.0, max(high, 1 - bound)) if point <= 0 else (low, high)


def p_value(drawn: Floats) -> float:
    """Two-sided: how often a difference's draws fall on the other side of 0, or on it; 1.0 where all are 0.

    Source: the achieved significance level of section 15.4, with the usual one added to both counts.
    """
    kept = drawn[~np.isnan(drawn)]
    below, above = int((kept <= 0).sum()), int((kept >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(kept) + 1))


def _per_entity(statistics: Any, entities: Labels | None) -> Any:
    from scipy import sparse

    rows = sparse.csr_array(statistics, dtype=np.float64)
    if entities is None:
        return rows
    _, code = np.unique(entities, return_inverse=True)
    ones = np.ones(len(code))
    return (
        sparse.csr_array((ones, (code, np.arange(len(code)))), shape=(code.max(initial=-1) + 1, len(code))) @ rows
    ).tocsr()


def _alike(rows: Any) -> tuple[Any, Labels]:
    """The distinct rows, and which of them each row is: by a random projection, which tells different rows apart."""
    rows.sum_duplicates()
    marks = rows @ np.random.default_rng(0).standard_normal(rows.shape[1])
    _, first, which = np.unique(marks, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they come, so that the draws do not hang on the projection
    return rows[first[order]], np.argsort(order)[which].astype(np.int64)
