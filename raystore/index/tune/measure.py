"""Recall, latency and throughput of anything that answers queries with scores. Pure NumPy; knows no index and no file.

Recall is counted by scores, not by rows: an answer counts where it scores at least what the k-th true neighbour does. The
scores are canonical (metric.py), so they compare bit by bit, and one of two duplicates is as right as the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystore.index.shards.exact import Scores
from raystore.vectors import Matrix

Ask = Callable[[Matrix], Scores]  # queries (m, d) -> scores (m, k), highest first, padded with -inf
Shares = npt.NDArray[np.float64]

BATCH = 1_024
LEVEL = 0.95
_DRAWS = 2_000
_WARM = 3  # searches that are not counted


@dataclass(frozen=True)
class Pace:
    """Milliseconds of one query at a time, and queries a second in batches."""

    p50_ms: float
    p95_ms: float
    queries_per_s: float


def recall_of(scores: Scores, truth: Scores) -> Shares:
    """(m,) the share of each query's true neighbours that were found; 1 where there are none.

    Args:
        scores: (m, k) what was answered, and
        truth: (m, k) what an exact search answers, both highest first and padded with -inf.
    """
    there = np.isfinite(truth)
    wanted = there.sum(axis=1)
    last = np.where(there, truth, np.inf).min(axis=1, initial=np.inf)
    found = np.minimum((np.isfinite(scores) & (scores >= last[:, None])).sum(axis=1), wanted)
    return np.where(wanted == 0, 1.0, found / np.maximum(wanted, 1))


def interval(shares: Shares, level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the mean, queries drawn with replacement; where all are 1, the exact binomial bound.

    No draw of queries that are all answered in full holds one that is not, so the draws alone would call ten of ten
    certain. Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Clopper and Pearson,
    Biometrika 26, 1934.
    """
    n = len(shares)
    values, counts = np.unique(shares, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=_DRAWS) @ values / n
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    if values[0] == 1:
        low = ((1 - level) / 2) ** (1 / n)
    return float(low), float(high)


def pace_of(ask: Ask, queries: Matrix, *, seconds: float, least: int = 50) -> Pace:
    """How fast it answers: one query at a time and in batches, some `seconds` of each, `least` queries and 3 batches at least."""
    for i in range(_WARM):
        ask(queries[i % len(queries)][None])
    single: list[float] = []
    began = time.perf_counter()
    while len(single) < least or (time.perf_counter() - began < seconds and len(single) < 4 * BATCH):
        query = queries[len(single) % len(queries)][None]
        start = time.perf_counter()
        ask(query)
        single.append(time.perf_counter() - start)
    batch = np.ascontiguousarray(
        np.resize(queries, (BATCH, queries.shape[1]))
    )  # the queries over again, where they are fewer
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        ask(batch)
        rates.append(BATCH / (time.perf_counter() - start))
    p50, p95 = np.quantile(single, [0.5, 0.95]) * 1e3
    return Pace(float(p50), float(p95), float(np.median(rates)))


def steps(lists: int) -> list[int]:
    """Numbers of probes to try, each about 1.4 times the one before, from a 256th of the lists to all of them."""
    found, step = [], float(max(1, lists // 256))
    while round(step) < lists:
        found.append(round(step))
        step = max(step * 2**0.5, step + 1)
    return [*found, lists]
