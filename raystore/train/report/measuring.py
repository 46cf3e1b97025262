"""From predictions to what a report holds, for each of the three tasks. Pure NumPy; knows neither heads nor how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from raystore.train import metrics
from raystore.train.calibration import expected_calibration_error
from raystore.train.metrics import ClassCounts
from raystore.train.report.bootstrap import Floats, Interval, interval, resample, share_interval
from raystore.train.report.curves import WANTED, Confidence, Correct, Cut, Ranked, cut_at, rank, thresholds_for
from raystore.train.source import Labels, Targets
from raystore.vectors import Matrix

Confused = tuple[str, str, int]

MATRIX_CLASSES = 200  # a confusion matrix of more has more cells than anyone reads; the pairs that happened most are kept
MOST_CONFUSED = 500
SCATTER_ROWS = 500
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class ClassReport(BaseModel):
    """One class, or one label of a multi-label head. `support` = rows that have it, `predicted` = rows it was given to."""

    model_config = ConfigDict(frozen=True)

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int
    f1_interval: Interval | None = None  # up to 200 classes
    average_precision: float | None = None  # "labels" alone
    threshold: float | None = None  # "labels" alone: the probability from which it is given
    answered: int | None = None  # where a threshold is in force: rows of the class that are answered
    kept: int | None = None  # and those of its predictions that are kept


class NumberReport(BaseModel):
    """Of predicted numbers: quantiles of residuals (predicted less true) and of their sizes, and some rows to plot."""

    model_config = ConfigDict(frozen=True)

    residuals: dict[str, float]  # {"5%": -1.2, ...}
    errors: dict[str, float]
    scatter: tuple[tuple[float, float], ...]  # (true, predicted), up to 500 rows spread evenly over the true numbers


class Scored(NamedTuple):
    """What each task has: scores and intervals by name, thresholds, and what the curves are drawn from."""

    scores: dict[str, float]
    intervals: dict[str, Interval]
    cuts: tuple[Cut, ...]
    threshold: Cut | None
    per_class: tuple[ClassReport, ...]
    confusions: tuple[Confused, ...]
    confidence: Confidence
    correct: Correct
    ranked: Ranked


@dataclass(frozen=True)
class _Kept:
    """The cuts of a report, and beside each two columns: how much of a row it keeps, and how much of that is right."""

    cuts: tuple[Cut, ...]
    columns: list[npt.NDArray[np.number]]

    def precision(self, sums: Floats) -> Floats:
        """(b, t) of (b, 2t) sums; NaN where nothing is kept."""
        kept, right = sums[:, 0::2], sums[:, 1::2]
        found: Floats = np.divide(right, kept, out=np.full(kept.shape, np.nan), where=kept > 0)
        return found

    def sure(self, drawn: Floats, entities: Labels | None) -> tuple[Cut, ...]:
        """The cuts with their intervals."""
        found = []
        for i, cut in enumerate(self.cuts):
            if cut.rows:
                kept = self.columns[2 * i] > 0
                low, high = share_interval(drawn[:, i], cut.precision, n_entities(entities, kept))
                cut = cut.model_copy(update={"low": low, "high": high})
            found.append(cut)
        return tuple(found)


def n_entities(entities: Labels | None, of: npt.NDArray[np.bool_]) -> int:
    """How many entities the rows of a mask have."""
    return int(of.sum()) if entities is None else len(np.unique(entities[of]))


def score_classes(
    labels: Labels,
    probabilities: Matrix,
    classes: Sequence[str],
    threshold: float | None,
    entities: Labels | None,
    wanted: float | None = None,
) -> Scored:
    c, n = len(classes), len(labels)
    predicted = probabilities.argmax(axis=1).astype(np.int64) if n else np.empty(0, np.int64)
    confidence = probabilities.max(axis=1) if n else np.empty(0, np.float32)
    correct = predicted == labels
    counts, ranked = metrics.class_counts(labels, predicted, c), rank(confidence, correct)
    scores = {
        "accuracy": metrics.accuracy(labels, predicted),
        "macro_f1": float(metrics.macro_f1(counts)),
        "log_loss": metrics.log_loss(labels, probabilities),
        "ece": expected_calibration_error(confidence, correct),
    }

    def keep(cut: float) -> list[npt.NDArray[np.number]]:
        kept = confidence >= cut
        return [kept.astype(np.float64), (kept & correct).astype(np.float64)]

    kept = _kept(ranked, threshold, keep, wanted=wanted)
    statistics = _stack(_one_hot(labels, c, correct), _one_hot(predicted, c), _one_hot(labels, c), *kept.columns)

    def accuracy(counts: ClassCounts) -> metrics.Shares:
        return metrics.share(counts.right.sum(axis=-1), counts.support.sum(axis=-1))

    drawn = _draw(statistics, c, entities, [accuracy, metrics.macro_f1], kept)
    return Scored(
        scores=scores,
        intervals=_intervals(drawn, ["accuracy", "macro_f1"], scores, n_entities(entities, np.ones(n, bool))),
        **_cuts(kept, drawn, threshold, entities, float(counts.support.max() / n) if n else 0.0),
        per_class=_answered(_per_class(classes, counts, drawn), labels, predicted, confidence, threshold),
        confusions=most_confused(labels, predicted, classes),
        confidence=confidence,
        correct=correct,
        ranked=ranked,
    )


def score_labels(
    labels: Targets,
    probabilities: Matrix,
    classes: Sequence[str],
    thresholds: Sequence[float] | None,
    entities: Labels | None,
) -> Scored:
    truth = labels != 0
    n, c = truth.shape
    from_ = np.full(c, 0.5, np.float32) if thresholds is None else np.asarray(thresholds, np.float32)
    given = probabilities >= from_
    counts, exact = metrics.label_counts(truth, given), (truth == given).all(axis=1)
    confidence, correct = probabilities.ravel(), truth.ravel()
    ranked, whole = rank(confidence, correct), int(truth.sum())
    average = metrics.average_precision(truth, probabilities)
    scores = {
        "micro_f1": float(metrics.micro_f1(counts)),
        "macro_f1": float(metrics.macro_f1(counts)),
        "subset_accuracy": float(exact.mean()) if n else 0.0,
        "mean_average_precision": float(average[counts.support > 0].mean()) if whole else 0.0,
        "micro_precision": float(metrics.share(counts.right.sum(), counts.claimed.sum())),
        "micro_recall": float(metrics.share(counts.right.sum(), counts.support.sum())),
        "log_loss": metrics.label_log_loss(truth, probabilities),
        # Of a probability that a label is there, not of the surest class.
        "ece": expected_calibration_error(confidence, correct),
    }

    def keep(cut: float) -> list[npt.NDArray[np.number]]:
        kept = probabilities >= cut
        return [kept.sum(axis=1), (kept & truth).sum(axis=1)]

    kept = _kept(ranked, None, keep, whole)
    statistics = _stack(truth & given, given, truth, *kept.columns, exact.astype(np.float64), np.ones(n))

    def micro_precision(counts: ClassCounts) -> metrics.Shares:
        return metrics.share(counts.right.sum(axis=-1), counts.claimed.sum(axis=-1))

    def micro_recall(counts: ClassCounts) -> metrics.Shares:
        return metrics.share(counts.right.sum(axis=-1), counts.support.sum(axis=-1))

    ways = [metrics.micro_f1, metrics.macro_f1, micro_precision, micro_recall]
    drawn = _draw(statistics, c, entities, ways, kept, lambda rest: metrics.share(rest[:, -2:-1], rest[:, -1:]))
    names = ["micro_f1", "macro_f1", "micro_precision", "micro_recall", "subset_accuracy"]
    return Scored(
        scores=scores,
        intervals=_intervals(drawn, names, scores, n_entities(entities, np.ones(n, bool))),
        **_cuts(kept, drawn, None, entities),
        per_class=_per_class(classes, counts, drawn, average, from_),
        confusions=_labels_confused(truth, given, classes),
        confidence=confidence,
        correct=correct,
        ranked=ranked,
    )


def score_number(
    labels: Targets, predicted: Targets, entities: Labels | None
) -> tuple[dict[str, float], dict[str, Interval], NumberReport]:
    """Scores (mae, rmse, r2), their intervals, and the residuals."""
    y = labels.astype(np.float64)
    residual = predicted.astype(np.float64) - y
    if not len(y):
        return {"mae": 0.0, "rmse": 0.0, "r2": 0.0}, {}, NumberReport(residuals={}, errors={}, scatter=())
    names, centred = ["mae", "rmse", "r2"], y - y.mean()
    statistics = np.stack([np.abs(residual), residual**2, centred, centred**2, np.ones(len(y))], axis=1)
    scores = dict(zip(names, number_scores(statistics.sum(axis=0)[None])[0].tolist(), strict=True))
    intervals = {}
    if _several(entities, len(y)):
        drawn = resample(statistics, entities, number_scores)
        intervals = {name: interval(drawn[:, i], scores[name]) for i, name in enumerate(names)}
    order = np.argsort(y, kind="stable")
    shown = order[np.unique(np.linspace(0, len(y) - 1, SCATTER_ROWS).round().astype(np.int64))]
    return scores, intervals, NumberReport(
        residuals=_quantiles(residual),
        errors=_quantiles(np.abs(residual)),
        scatter=tuple(zip(y[shown].tolist(), (y + residual)[shown].tolist(), strict=True)),
    )  # fmt: skip


def number_scores(sums: Floats) -> Floats:
    """(b, 3) mean absolute error, root mean square error and R2, of (b, 5) sums: |e|, e**2, y, y**2 and rows.

    R2 is 1 less the squared error's share of y's variance; where y does not vary, 1 for no error and else 0.
    """
    absolute, squared, y, y2, rows = sums.T
    spread = np.maximum(y2 - y**2 / rows, 0.0)
    flat = spread <= 1e-12 * np.maximum(y2, 1e-300)
    r2 = np.where(flat, (squared == 0).astype(np.float64), 1 - squared / np.where(flat, 1.0, spread))
    return np.stack([absolute / rows, np.sqrt(squared / rows), r2], axis=1)


def most_confused(labels: Labels, predicted: Labels, classes: Sequence[str]) -> tuple[Confused, ...]:
    """(label, taken for, how often), the most frequent first, then in the order of the classes; 500 at most."""
    wrong = labels != predicted
    cells, times = np.unique(labels[wrong] * len(classes) + predicted[wrong], return_counts=True)
    return _named(cells, times, classes)


def _labels_confused(
    truth: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_], classes: Sequence[str]
) -> tuple[Confused, ...]:
    """How often a row lacked the first label, which it has, and was given the second, which it has not."""
    from scipy import sparse

    met = sparse.csr_array((truth & ~given).astype(np.int64)).T @ sparse.csr_array((given & ~truth).astype(np.int64))
    pairs = met.tocoo()
    return _named(pairs.row.astype(np.int64) * len(classes) + pairs.col, pairs.data, classes)


def _named(cells: Labels, times: Labels, classes: Sequence[str]) -> tuple[Confused, ...]:
    order = np.lexsort((cells, -times))[:MOST_CONFUSED]
    c = len(classes)
    return tuple(
        (classes[int(i) // c], classes[int(i) % c], int(t)) for i, t in zip(cells[order], times[order], strict=True)
    )


def _kept(
    ranked: Ranked,
    threshold: float | None,
    keep: Callable[[float], list[npt.NDArray[np.number]]],
    whole: int | None = None,
    wanted: float | None = None,
) -> _Kept:
    """The cuts of the wanted precisions that are reached, and last the threshold in force."""
    found = [cut_at(ranked, at, wanted=each, whole=whole) for each, at in thresholds_for(ranked) if at is not None]
    if threshold is not None:
        found.append(cut_at(ranked, threshold, wanted=wanted, whole=whole))
    return _Kept(tuple(found), [column for cut in found for column in keep(cut.threshold or 0.0)])


def _cuts(
    kept: _Kept, drawn: Floats | None, threshold: float | None, entities: Labels | None, majority: float = 0.0
) -> dict[str, Any]:
    """The wanted cuts, without a threshold where the lower bound is below the majority's share, and the one in force."""
    sure = kept.cuts if drawn is None or not kept.cuts else kept.sure(drawn[:, -len(kept.cuts) :], entities)
    reached = {cut.wanted: cut for cut in (sure if threshold is None else sure[:-1]) if cut.low >= majority}
    wanted = tuple(reached.get(each, Cut(wanted=each, no_better=each <= majority)) for each in WANTED)
    return {"cuts": wanted, "threshold": None if threshold is None else sure[-1]}


def _draw(
    statistics: Any,
    c: int,
    entities: Labels | None,
    ways: Sequence[Callable[[ClassCounts], metrics.Shares]],
    kept: _Kept,
    more: Callable[[Floats], Floats] | None = None,
) -> Floats | None:
    """(draws, k): a column for each of `ways`, those of `more`, F1 of each class up to 200, precision of each cut.

    None where there are not two entities: one says nothing about another.
    """
    if not _several(entities, statistics.shape[0]):
        return None

    def score(sums: Floats) -> Floats:
        counts = ClassCounts(sums[:, :c], sums[:, c : 2 * c], sums[:, 2 * c : 3 * c])
        rest = sums[:, 3 * c :]
        columns = [way(counts)[:, None] for way in ways]
        if more is not None:
            columns.append(more(rest))
        if c <= MATRIX_CLASSES:
            seen = counts.support + counts.claimed > 0
            columns.append(np.where(seen, metrics.class_scores(counts).f1, np.nan))
        return np.concatenate([*columns, kept.precision(rest[:, : 2 * len(kept.cuts)])], axis=1)

    return resample(statistics, entities, score)


def _several(entities: Labels | None, n: int) -> bool:
    return n > 1 if entities is None else bool((entities != entities[:1]).any())


def _intervals(drawn: Floats | None, names: Sequence[str], scores: dict[str, float], n: int) -> dict[str, Interval]:
    if drawn is None:
        return {}
    return {name: share_interval(drawn[:, i], scores[name], n) for i, name in enumerate(names)}


def _per_class(
    classes: Sequence[str],
    counts: ClassCounts,
    drawn: Floats | None,
    average: metrics.Shares | None = None,
    thresholds: Matrix | None = None,
) -> tuple[ClassReport, ...]:
    scores = metrics.class_scores(counts)
    first = 2 if average is None else 5
    return tuple(
        ClassReport(
            label=label,
            precision=float(scores.precision[i]),
            recall=float(scores.recall[i]),
            f1=float(scores.f1[i]),
            support=int(counts.support[i]),
            predicted=int(counts.claimed[i]),
            f1_interval=None
            if drawn is None or len(classes) > MATRIX_CLASSES
            else share_interval(drawn[:, first + i], float(scores.f1[i]), int(max(counts.support[i], counts.claimed[i]))),
            average_precision=None if average is None else float(average[i]),
            threshold=None if thresholds is None else float(thresholds[i]),
        )
        for i, label in enumerate(classes)
    )


def _answered(
    reports: tuple[ClassReport, ...], labels: Labels, predicted: Labels, confidence: Confidence, threshold: float | None
) -> tuple[ClassReport, ...]:
    """With what is left of each class where a threshold is in force."""
    if threshold is None:
        return reports
    sure = confidence >= threshold
    left = [np.bincount(codes[sure], minlength=len(reports)).tolist() for codes in (labels, predicted)]
    return tuple(c.model_copy(update={"answered": a, "kept": k}) for c, a, k in zip(reports, left[0], left[1], strict=True))


def _quantiles(values: Floats) -> dict[str, float]:
    return {f"{q:.0%}": v for q, v in zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True)}


def _one_hot(codes: Labels, c: int, of: npt.NDArray[np.bool_] | None = None) -> Any:
    from scipy import sparse

    ones = np.ones(len(codes)) if of is None else of.astype(np.float64)
    return sparse.csr_array((ones, codes, np.arange(len(codes) + 1)), shape=(len(codes), c))


def _stack(*columns: Any) -> Any:
    from scipy import sparse

    def block(column: Any) -> Any:
        return column if sparse.issparse(column) else sparse.csr_array(np.atleast_2d(column.T).T.astype(np.float64))

    return sparse.hstack([block(column) for column in columns], format="csr")
