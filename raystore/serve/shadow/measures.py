"""What is counted of two heads' answers to the same items. Pure NumPy; knows no table and no page.

Sources: shares by the bootstrap over subjects (report/bootstrap.py); means by their standard error, of subjects where an item's are
alike (Liang and Zeger, Biometrika 73, 1986); the number of labels by McNemar's test (Connor, Biometrics 43, 1987).
"""

from __future__ import annotations

import math

import numpy as np

from raystore.data.drift.psi import psi, psi_by_chance
from raystore.serve.shadow.pairs import Mask, Pairs, Said
from raystore.serve.spec.base import Strict
from raystore.train.report.bootstrap import Floats, resample, share_interval
from raystore.train.report.measuring import n_entities
from raystore.train.source import Labels, Task

GAINS = (0.005, 0.01, 0.02, 0.05)
LEAST_A_CLASS = 20  # pairs of a class, below which its share says little
_BINS = 10  # of predicted numbers, by the deciles of the first half
_Z = 1.959963984540054  # of the normal distribution, two-sided 95%
_POWER_Z = 0.8416212335729143  # 80%


class Estimate(Strict):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


class Flip(Strict):
    """Items that the live head calls one thing and the shadow another. `share`: of all that the live head calls so."""

    live: str
    shadow: str
    count: int
    share: float


class ClassFlips(Strict):
    """A class, or a label of several: given by each head, by both, by the live head alone (`left`), by the shadow alone (`came`)."""

    label: str
    live: int
    shadow: int
    both: int
    left: int
    came: int

    @property
    def agreement(self) -> float:
        """Of what the live head calls so, the share that the shadow calls so too."""
        return self.both / self.live if self.live else 0.0


class Abstentions(Strict):
    """Shares of the pairs in which each head abstains, and how many in which one alone does or both do."""

    live: float
    shadow: float
    only_live: int
    only_shadow: int
    both: int


class Latency(Strict):
    """Milliseconds of the head alone; `n` answers say them."""

    n: int
    p50: float
    p95: float
    p99: float


class Drift(Strict):
    """The population stability index of what a head predicts, between the first and the last half of the pairs by time.

    `chance`: what two halves of one distribution stay below 19 times of 20.
    """

    psi: float
    chance: float
    first: int
    last: int


class Needed(Strict):
    """Labelled pairs that tell a gain of `gain` from none (two-sided 5%, 80% power), and how many more than there are now.

    None where no gain is so large: the heads differ in their successes on fewer items.
    """

    gain: float
    pairs: int | None
    more: int | None


def share(mask: Mask, entities: Labels | None, *, seed: int = 0) -> Estimate | None:
    """The share of the rows where the mask holds; None without rows."""
    n = len(mask)
    if n == 0:
        return None
    statistics = np.stack([mask.astype(np.float64), np.ones(n)], axis=1)
    drawn = resample(statistics, entities, lambda sums: sums[:, :1] / sums[:, 1:], seed=seed)
    value = float(mask.mean())
    low, high = share_interval(drawn[:, 0], value, n_entities(entities, np.ones(n, np.bool_)))
    return Estimate(value=value, low=low, high=high)


def mean(values: Floats, entities: Labels | None) -> Estimate | None:
    """The mean of the values that are there; None where none is. Of one subject's values the interval takes the sum of the errors."""
    there = ~np.isnan(values)
    kept = values[there]
    if not len(kept):
        return None
    value = float(kept.mean())
    off: Floats = kept - value
    if entities is not None:
        _, code = np.unique(entities[there], return_inverse=True)
        off = np.bincount(code, weights=off).astype(np.float64)
    groups = len(off)
    error = math.sqrt(float((off**2).sum()) * groups / max(groups - 1, 1)) / len(kept)
    return Estimate(value=value, low=value - _Z * error, high=value + _Z * error)


def agree(pairs: Pairs) -> Mask:
    """(n,) where both say the same: the same class, the same set of labels. Of numbers none is asked."""
    same: Mask = pairs.live.targets == pairs.shadow.targets
    return np.all(same, axis=1) if pairs.task == "labels" else same


def flips(pairs: Pairs, most: int) -> tuple[tuple[Flip, ...], int]:
    """The flips, most frequent first and then by name, at most so many; and how many kinds there are in all. "classes" alone."""
    if pairs.task != "classes" or not len(pairs):
        return (), 0
    c = len(pairs.classes)
    changed = pairs.live.targets != pairs.shadow.targets
    kinds, counts = np.unique(pairs.live.targets[changed] * c + pairs.shadow.targets[changed], return_counts=True)
    given = np.bincount(pairs.live.targets, minlength=c)
    order = np.argsort(-counts, kind="stable")
    found = tuple(
        Flip(
            live=pairs.classes[kinds[i] // c],
            shadow=pairs.classes[kinds[i] % c],
            count=int(counts[i]),
            share=float(counts[i] / given[kinds[i] // c]),
        )
        for i in order[:most]
    )
    return found, len(kinds)


def class_flips(pairs: Pairs) -> tuple[ClassFlips, ...]:
    """Every class, in the order of the alphabet."""
    if pairs.task == "number":
        return ()
    c = len(pairs.classes)
    if pairs.task == "classes":
        live, shadow = (np.bincount(said.targets, minlength=c) for said in (pairs.live, pairs.shadow))
        both = np.bincount(pairs.live.targets[pairs.live.targets == pairs.shadow.targets], minlength=c)
    else:
        live, shadow = (said.targets.sum(axis=0) for said in (pairs.live, pairs.shadow))
        both = (pairs.live.targets * pairs.shadow.targets).sum(axis=0)
    return tuple(
        ClassFlips(label=label, live=int(a), shadow=int(b), both=int(n), left=int(a - n), came=int(b - n))
        for label, a, b, n in zip(pairs.classes, live, shadow, both, strict=True)
    )


def abstentions(pairs: Pairs) -> Abstentions | None:
    if not len(pairs):
        return None
    live, shadow = pairs.live.abstained, pairs.shadow.abstained
    return Abstentions(
        live=float(live.mean()),
        shadow=float(shadow.mean()),
        only_live=int((live & ~shadow).sum()),
        only_shadow=int((shadow & ~live).sum()),
        both=int((live & shadow).sum()),
    )


def latency(said: Said) -> Latency | None:
    known = said.latency_ms[~np.isnan(said.latency_ms)]
    if not len(known):
        return None
    p50, p95, p99 = np.quantile(known, [0.5, 0.95, 0.99])
    return Latency(n=len(known), p50=float(p50), p95=float(p95), p99=float(p99))


def drift(said: Said, task: Task) -> Drift | None:
    """None below two pairs."""
    n = len(said.abstained)
    if n < 2:
        return None
    first, last = said.targets[: n // 2], said.targets[n // 2 :]
    if task == "labels":
        a, b = (np.append(x.sum(axis=0), (x.sum(axis=1) == 0).sum()) for x in (first, last))
    elif task == "number":
        edges = np.unique(np.quantile(first, np.linspace(0, 1, _BINS + 1)[1:-1]))
        a, b = (np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1) for x in (first, last))
    else:
        c = int(said.targets.max()) + 1
        a, b = (np.bincount(x, minlength=c) for x in (first, last))
    filled = (a + b) > 0
    return Drift(psi=psi(a[filled], b[filled]), chance=psi_by_chance(a, b), first=len(first), last=len(last))


def correlation(pairs: Pairs) -> float | None:
    """Pearson's, of two heads' numbers; None where one of them never changes."""
    a, b = pairs.live.targets, pairs.shadow.targets
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def pairs_needed(gain: float, discordance: float) -> int | None:
    """Labelled pairs by which McNemar's test (two-sided, 5%) tells a gain in accuracy with 80% power.

    n = (1.96 sqrt(p) + 0.84 sqrt(p - g^2))^2 / g^2, g being the gain and p the share of pairs in which exactly one head is right.
    None where p < g: a gain is never larger. Source: Connor 1987.
    """
    if gain <= 0 or discordance < gain:
        return None
    root = _Z * math.sqrt(discordance) + _POWER_Z * math.sqrt(discordance - gain**2)
    return math.ceil(root**2 / gain**2)


def labels_needed(discordance: float, n_labelled: int) -> tuple[Needed, ...]:
    """For gains of 0.5, 1, 2 and 5 points."""
    wanted = ((gain, pairs_needed(gain, discordance)) for gain in GAINS)
    return tuple(Needed(gain=gain, pairs=n, more=None if n is None else max(0, n - n_labelled)) for gain, n in wanted)
