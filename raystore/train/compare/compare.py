"""Two heads on the same rows: is one better, by how much, where, and on which rows.

The difference is always `b` less `a`: what b gains. Both are asked about the same rows, so the test is paired: McNemar's on
the rows that only one of them gets right, and the bootstrap over entities of every score's difference. Pure: it is given
labels and predictions; heads.py reads the rows and predicts.

Source: Dietterich, "Approximate Statistical Tests for Comparing Supervised Classification Learning Algorithms", Neural
Computation 10, 1998 (McNemar, section 3.1); Efron and Tibshirani 1993, chapter 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from raystore.train import metrics
from raystore.train.compare.show import comparison_page, comparison_text
from raystore.train.metrics import ClassCounts
from raystore.train.report.bootstrap import DRAWS, Floats, interval, p_value, resample
from raystore.train.report.measuring import n_entities, number_scores
from raystore.train.report.words import HEADLINES
from raystore.train.source import Labels, Targets, Task

LISTED = 100  # ids of rows that changed sides
_EXACT_BELOW = 25  # discordant rows; from there on the chi-square is close enough

Mask = npt.NDArray[np.bool_]


class Difference(BaseModel):
    """A score of both, b less a, its 95% interval and p-value (two-sided, paired bootstrap over entities)."""

    model_config = ConfigDict(frozen=True)

    a: float
    b: float
    value: float
    low: float
    high: float
    p: float


class McNemar(BaseModel):
    """Rows that one head alone gets right, and how likely so uneven a split is if they were equally good.

    `exact`: the binomial test, below 25 such rows; else chi-square with continuity correction. Takes rows as independent.
    """

    model_config = ConfigDict(frozen=True)

    only_a: int
    only_b: int
    statistic: float
    p: float
    exact: bool


class ClassChange(BaseModel):
    """One class: its F1 under both, and its rows that b gets right and a wrong (`gained`), or the other way round (`lost`)."""

    model_config = ConfigDict(frozen=True)

    label: str
    support: int
    f1_a: float
    f1_b: float
    gained: int
    lost: int


class Sides(BaseModel):
    """Rows that changed sides: how many, and the first ids in the order of the rows; for "number" those that moved most."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    ids: tuple[str, ...] = ()


class Comparison(BaseModel):
    """What b gains over a. `gained`: wrong in a, right in b; for "number", nearer in b. `lost`: the other way round.

    `differences` by score: accuracy and macro_f1 ("classes"), micro_f1, macro_f1 and subset_accuracy ("labels"), mae, rmse and r2
    ("number", where a negative mae is a gain). `otherwise`: rows wrong in both, in different ways.
    """

    model_config = ConfigDict(frozen=True)

    a: str
    b: str
    task: Task
    split: str
    snapshot: str
    rows: int
    entities: int
    repeated: int  # entities with more than one row
    differences: dict[str, Difference]
    mcnemar: McNemar | None = None
    per_class: tuple[ClassChange, ...] = ()
    gained: Sides = Sides()
    lost: Sides = Sides()
    otherwise: int = 0

    @property
    def headline(self) -> Difference:
        """Of the task's main score."""
        return self.differences[HEADLINES[self.task]]

    @property
    def better(self) -> str | None:
        """The head that is better by the headline's interval; None where 0 lies in it."""
        d = self.headline
        if d.low <= 0 <= d.high:
            return None
        return self.b if (d.value > 0) != (self.task == "number") else self.a

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return self.model_dump(mode="json")

    def to_html(self) -> str:
        """One HTML file, as a report's."""
        return comparison_page(self)

    def __str__(self) -> str:
        return comparison_text(self)

    def _repr_html_(self) -> str:
        return comparison_page(self, whole=False)


def compare(
    a: str,
    b: str,
    labels: Targets,
    predicted_a: Targets,
    predicted_b: Targets,
    classes: Sequence[str],
    *,
    task: Task = "classes",
    ids: Sequence[str] | None = None,
    entities: Labels | None = None,
    split: str = "test",
    snapshot: str = "",
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """What the head `b` gains over `a`, on the same rows.

    Args:
        labels, predicted_a, predicted_b: "classes" (n,) int64 into `classes`; "labels" (n, c) of 0 and 1; "number" (n,) float64.
        ids: the rows' ids; their numbers from 0 where absent.
        entities: (n,) int64, equal for equal entities; each row its own where absent.

    Swapping a and b turns every difference round; a head compared with itself gains nothing, with p = 1.
    """
    n = len(labels)
    shared: dict[str, Any] = {
        "a": a,
        "b": b,
        "task": task,
        "split": split,
        "snapshot": snapshot,
        "rows": n,
        "entities": n_entities(entities, np.ones(n, dtype=np.bool_)),
        "repeated": 0 if entities is None else int((np.unique(entities, return_counts=True)[1] > 1).sum()),
    }
    names = list(ids) if ids is not None else [str(i) for i in range(n)]
    if task == "number":
        off_a, off_b = np.abs(predicted_a - labels), np.abs(predicted_b - labels)
        found = _differences(*_number_statistics(labels, predicted_a, predicted_b), entities, draws, seed)
        nearer = off_a - off_b
        return Comparison(**shared, differences=found, gained=_moved(nearer, names), lost=_moved(-nearer, names))
    c = len(classes)
    if task == "labels":
        truth, in_a, in_b = labels != 0, predicted_a != 0, predicted_b != 0
        right_a, right_b = ((x == truth).all(axis=1) for x in (in_a, in_b))
        differ = (in_a != in_b).any(axis=1)
    else:
        truth, in_a, in_b = (_member(x, c) for x in (labels, predicted_a, predicted_b))
        right_a, right_b = predicted_a == labels, predicted_b == labels
        differ = predicted_a != predicted_b
    gained, lost = right_b & ~right_a, right_a & ~right_b
    return Comparison(
        **shared,
        differences=_differences(*_class_statistics(truth, in_a, in_b, right_a, right_b, task), entities, draws, seed),
        mcnemar=mcnemar(int(lost.sum()), int(gained.sum())),
        per_class=_per_class(classes, truth, in_a, in_b),
        gained=_sides(gained, names),
        lost=_sides(lost, names),
        otherwise=int((differ & ~right_a & ~right_b).sum()),
    )


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """The test on the rows that one alone gets right; p = 1 where there is none."""
    from scipy.stats import binom, chi2

    n = only_a + only_b
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / n if n else 0.0
    exact = n < _EXACT_BELOW
    p = min(1.0, 2 * float(binom.cdf(min(only_a, only_b), n, 0.5))) if exact else float(chi2.sf(statistic, 1))
    return McNemar(only_a=only_a, only_b=only_b, statistic=statistic, p=p, exact=exact)


def _class_statistics(
    truth: Any, in_a: Any, in_b: Any, right_a: Mask, right_b: Mask, task: Task
) -> tuple[Any, list[str], Any]:
    """Sufficient statistics, the scores' names, and the function from sums to (b, 2, k): the scores of a and of b."""
    from scipy import sparse

    c = truth.shape[1]
    truth, in_a, in_b = (sparse.csr_array(x, dtype=np.float64) for x in (truth, in_a, in_b))
    row = np.stack([right_a, right_b, np.ones(len(right_a))], axis=1)
    statistics = sparse.hstack([truth * in_a, in_a, truth * in_b, in_b, truth, sparse.csr_array(row)], format="csr")

    def scores(sums: Floats) -> Floats:
        parts = [sums[:, i * c : (i + 1) * c] for i in range(5)]
        both = []
        for i in (0, 1):
            counts = ClassCounts(parts[2 * i], parts[2 * i + 1], parts[4])
            found = [metrics.share(sums[:, 5 * c + i], sums[:, 5 * c + 2]), metrics.macro_f1(counts)]
            both.append(np.stack([*found, metrics.micro_f1(counts)] if task == "labels" else found, axis=1))
        return np.stack(both, axis=1)

    names = ["subset_accuracy", "macro_f1", "micro_f1"] if task == "labels" else ["accuracy", "macro_f1"]
    return statistics, names, scores


def _number_statistics(labels: Targets, in_a: Targets, in_b: Targets) -> tuple[Any, list[str], Any]:
    y = labels - labels.mean()
    off = [in_a - labels, in_b - labels]
    statistics = np.stack([np.abs(off[0]), off[0] ** 2, np.abs(off[1]), off[1] ** 2, y, y**2, np.ones(len(y))], axis=1)

    def scores(sums: Floats) -> Floats:
        return np.stack([number_scores(sums[:, [2 * i, 2 * i + 1, 4, 5, 6]]) for i in (0, 1)], axis=1)

    return statistics, ["mae", "rmse", "r2"], scores


def _differences(
    statistics: Any, names: list[str], scores: Any, entities: Labels | None, draws: int, seed: int
) -> dict[str, Difference]:
    point = scores(np.asarray(statistics.sum(axis=0))[None])[0]

    def gain(sums: Floats) -> Floats:
        found = scores(sums)
        difference: Floats = found[:, 1] - found[:, 0]
        return difference

    drawn = resample(statistics, entities, gain, draws=draws, seed=seed)
    found = {}
    for i, name in enumerate(names):
        a, b = float(point[0, i]), float(point[1, i])
        low, high = interval(drawn[:, i], b - a)
        found[name] = Difference(a=a, b=b, value=b - a, low=low, high=high, p=p_value(drawn[:, i]))
    return found


def _member(codes: Labels, c: int) -> Any:
    """(n, c) sparse: a one in each row, at its code."""
    from scipy import sparse

    return sparse.csr_array((np.ones(len(codes)), codes, np.arange(len(codes) + 1)), shape=(len(codes), c))


def _per_class(classes: Sequence[str], truth: Any, in_a: Any, in_b: Any) -> tuple[ClassChange, ...]:
    from scipy import sparse

    truth, in_a, in_b = (sparse.csr_array(x, dtype=np.float64) for x in (truth, in_a, in_b))
    support, hit_a, hit_b = truth.sum(axis=0), truth * in_a, truth * in_b
    both = (hit_a * in_b).sum(axis=0)
    f1_a, f1_b = (
        metrics.class_scores(ClassCounts(hit.sum(axis=0), given.sum(axis=0), support)).f1
        for hit, given in ((hit_a, in_a), (hit_b, in_b))
    )
    columns = (support, f1_a, f1_b, hit_b.sum(axis=0) - both, hit_a.sum(axis=0) - both)
    return tuple(
        ClassChange(label=label, support=int(s), f1_a=fa, f1_b=fb, gained=int(gained), lost=int(lost))
        for label, s, fa, fb, gained, lost in zip(classes, *(column.tolist() for column in columns), strict=True)
    )


def _sides(mask: Mask, names: Sequence[str]) -> Sides:
    rows = np.flatnonzero(mask)
    return Sides(count=len(rows), ids=tuple(names[i] for i in rows[:LISTED].tolist()))


def _moved(nearer: Floats, names: Sequence[str]) -> Sides:
    order = np.argsort(-nearer, kind="stable")
    count = int((nearer > 0).sum())
    return Sides(count=count, ids=tuple(names[i] for i in order[: min(count, LISTED)].tolist()))
