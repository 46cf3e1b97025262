"""Before, after, and the difference with its interval: the paired bootstrap over entities. Pure.

Both encoders are asked about the same rows, and a draw takes the same entities for both: what makes a row hard cancels out, so a
difference is known better than either of its sides.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13, 15.4 and 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from raystore.train.report.bootstrap import DRAWS, Floats, Interval, interval, p_value, resample, share_interval
from raystore.train.report.measuring import n_entities
from raystore.train.source import Labels

# From fewer entities nothing is concluded: a sign test of 5 pairs that all point one way has p = 2/2^5 = 0.0625, of 6 p = 0.031.
ENOUGH = 6

Mask = npt.NDArray[np.bool_]


class Change(BaseModel):
    """A figure under both encoders, the higher the better; `value` is after less before.

    `low` and `high` bound the difference with 95% confidence and `p` is its two-sided p-value, all by the paired bootstrap over
    entities; None, as the intervals of both sides, where fewer than 6 entities have the figure.
    """

    model_config = ConfigDict(frozen=True)

    before: float
    after: float
    value: float
    rows: int
    entities: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    before_interval: Interval | None = None
    after_interval: Interval | None = None

    @property
    def rose(self) -> bool:
        """Its interval lies wholly above 0."""
        return self.low is not None and self.low > 0

    @property
    def fell(self) -> bool:
        """Its interval lies wholly below 0."""
        return self.high is not None and self.high < 0


Pair = tuple[Floats, Floats]


def mean_changes(pairs: Mapping[str, Pair], entities: Labels, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Change]:
    """The change of the mean of each figure, by name; figures that no row has are left out.

    Args:
        pairs: before and after, (m,) each, NaN in the same rows of both.
        entities: (m,), equal for equal entities.
    """
    there = {name: ~np.isnan(before) for name, (before, _) in pairs.items()}
    names = [name for name in pairs if there[name].any()]
    if not names:
        return {}
    columns = [np.nan_to_num(side) for name in names for side in pairs[name]]
    columns += [there[name].astype(np.float64) for name in names]
    statistics = np.stack(columns, axis=1)

    def means(sums: Floats) -> Floats:
        """(b, 2 * names): the mean before and after of each."""
        whole = np.repeat(sums[:, 2 * len(names) :], 2, axis=1)
        found: Floats = np.divide(sums[:, : 2 * len(names)], whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        return found

    point = means(statistics.sum(axis=0)[None])[0]
    drawn = resample(statistics, entities, means, draws=draws, seed=seed)
    return {
        name: change(point[2 * i : 2 * i + 2], drawn[:, 2 * i : 2 * i + 2], entities[there[name]], name != "silhouette")
        for i, name in enumerate(names)
    }


def class_changes(
    before: Floats, after: Floats, labels: Labels, n_classes: int, entities: Labels, *, draws: int = DRAWS, seed: int = 0
) -> list[Change]:
    """Of one figure that every row has, the change of its mean in each class; each class has a row.

    Args:
        before, after: (m,). labels: (m,) codes below `n_classes`. entities: (m,).
    """
    from scipy import sparse

    m, c = len(labels), n_classes
    sides = [sparse.csr_array((v, labels, np.arange(m + 1)), shape=(m, c)) for v in (before, after, np.ones(m))]
    statistics = sparse.hstack(sides, format="csr")

    def means(sums: Floats) -> Floats:
        whole = np.tile(sums[:, 2 * c :], (1, 2))
        found: Floats = np.divide(sums[:, : 2 * c], whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        return found

    point = means(np.asarray(statistics.sum(axis=0))[None])[0]
    drawn = resample(statistics, entities, means, draws=draws, seed=seed)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=c))[:-1])
    return [change(point[[i, c + i]], drawn[:, [i, c + i]], entities[rows], True) for i, rows in enumerate(by_class)]


def auroc_change(
    before: Floats, after: Floats, inside: Mask, entities: Labels, *, draws: int = DRAWS, seed: int = 0
) -> Change | None:
    """How often a row that is `inside` scores higher than one that is not; None where one of the two kinds is missing."""
    from scipy import sparse

    if inside.all() or not inside.any():
        return None
    sorted_ = [_ties(side) for side in (before, after)]

    def both(weights: Floats) -> Floats:
        return np.stack([_auroc(weights, inside, order, first) for order, first in sorted_], axis=1)

    ones = np.ones(len(inside))
    point = both(ones[None])[0]
    # Every row is a statistic of its own, so that the sums are how often each row was drawn.
    drawn = resample(sparse.diags_array(ones, format="csr"), entities, both, draws=draws, seed=seed)
    found = change(point, drawn, entities, True)
    fewer = min(n_entities(entities, inside), n_entities(entities, ~inside))
    return found if fewer >= ENOUGH else _without_interval(found)


def change(point: Sequence[float] | Floats, drawn: Floats, entities: Labels, share: bool) -> Change:
    """From the two sides (2,) and their draws (draws, 2). `entities`: those of the rows that have the figure."""
    before, after = float(point[0]), float(point[1])
    n = len(np.unique(entities))
    facts = {"before": before, "after": after, "value": after - before, "rows": len(entities), "entities": n}
    if n < ENOUGH:
        return Change.model_validate(facts)
    gains = drawn[:, 1] - drawn[:, 0]
    gains = np.where(np.abs(gains) < 1e-12, 0.0, gains)  # two sums of the same numbers may differ in their last bit
    low, high = interval(gains, after - before)
    sides = [
        share_interval(drawn[:, i], value, n) if share else interval(drawn[:, i], value)
        for i, value in enumerate((before, after))
    ]
    return Change.model_validate(
        {**facts, "low": low, "high": high, "p": p_value(gains), "before_interval": sides[0], "after_interval": sides[1]}
    )


def _without_interval(found: Change) -> Change:
    return found.model_copy(update=dict.fromkeys(("low", "high", "p", "before_interval", "after_interval")))


def _ties(scores: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows by score, and where in that order each group of equal scores begins."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    return order, np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))


def _auroc(weights: Floats, inside: Mask, order: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> Floats:
    """(b,) of weighted rows: the share of pairs in which the inside row is the higher one, ties counting half."""
    ranked, kind = weights[:, order], inside[order]
    within = np.add.reduceat(ranked * kind, first, axis=1)
    without = np.add.reduceat(ranked * ~kind, first, axis=1)
    below = np.cumsum(without, axis=1) - without
    pairs = within.sum(axis=1) * without.sum(axis=1)
    won = (within * (below + 0.5 * without)).sum(axis=1)
    found: Floats = np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)
    return found
