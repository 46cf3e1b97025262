"""A head's report: what it scores, on which rows, how sure that is, beside which baselines. Written once, beside the head.

A frozen record that goes to JSON and back whole. How its numbers are made stands in measuring.py, metrics.py, curves.py and
bootstrap.py; how it is shown in text.py (terminal) and html.py (one file, and the notebook's summary).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from raystore.train import metrics
from raystore.train.calibration import BINS
from raystore.train.report.alarms import Alarms, alarms
from raystore.train.report.bootstrap import Interval
from raystore.train.report.curves import CurvePoint, Cut, ReliabilityBin, coverage_curve, reliability
from raystore.train.report.html import page, summary
from raystore.train.report.measuring import (
    MATRIX_CLASSES,
    ClassReport,
    Confused,
    NumberReport,
    n_entities,
    score_classes,
    score_labels,
    score_number,
)
from raystore.train.report.text import text
from raystore.train.report.words import HEADLINES, value
from raystore.train.source import Labels, Targets, Task
from raystore.vectors import Matrix


class Baselines(BaseModel):
    """The task's headline score on the same rows, of the simplest answers there are.

    The score is accuracy ("classes"), micro-F1 ("labels") or mean absolute error ("number", lower is better).
    `majority` is that of always the most frequent class, of always the labels that half of the training rows have, of always
    the training median. `knn10` is that of the 10 nearest training rows. `mean_rmse` ("number") is the root mean square
    error of always the training mean.
    """

    model_config = ConfigDict(frozen=True)

    majority: float
    knn10: float
    knn10_train_rows: int  # how many training rows the neighbours were sought among
    knn10_rows: int  # how many of the report's rows were asked about
    mean_rmse: float | None = None


class Report(BaseModel):
    """Scores on `split`.

    `scores` and `intervals` (95%, by bootstrap over entities) have the same names: accuracy, macro_f1, log_loss, ece for
    "classes"; micro_f1, macro_f1, subset_accuracy, mean_average_precision and more for "labels"; mae, rmse, r2 for "number".
    `confusion` is (c, c): row = label, column = prediction, in the order of `per_class`; () for more than 200 classes and
    for other tasks. `confusions` are its pairs (label, taken for, how often), the most frequent first, 500 at most.
    `cuts` say which threshold reaches a precision of 90, 95 and 99% on 20 rows or more; `threshold` is the one in force,
    if any, and its `wanted` the precision it was chosen for on val. `alarms` are of two classes each alone, the rarer first.
    """

    model_config = ConfigDict(frozen=True)

    head: str
    task: Task = "classes"
    split: str
    n: dict[str, int]
    entities: int  # among the rows of `split`
    scores: dict[str, float]
    intervals: dict[str, Interval] = {}
    baselines: Baselines
    per_class: tuple[ClassReport, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    confusions: tuple[Confused, ...] = ()
    ece_bins: int = BINS
    temperature: float = 1.0
    reliability: tuple[ReliabilityBin, ...] = ()
    coverage: tuple[CurvePoint, ...] = ()
    cuts: tuple[Cut, ...] = ()
    threshold: Cut | None = None
    alarms: tuple[Alarms, ...] = ()
    number: NumberReport | None = None
    seconds: float = 0.0
    cost_us: float | None = None
    settings: dict[str, Any] = {}
    encoder: str = ""
    snapshot: str = ""

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        return cls.model_validate_json(text)

    def to_html(self) -> str:
        """One HTML file without scripts, that asks no network: what it confuses, how sure to be of it, where to set the
        threshold. It holds labels and numbers, never content."""
        return page(self)

    @property
    def rows(self) -> int:
        """How many rows it is measured on."""
        return self.n.get(self.split, 0)

    def of(self, head: str) -> Report:
        """The same report under the head's published name; a head gets its number when it is saved, after it was measured."""
        return self.model_copy(update={"head": head})

    @property
    def headline(self) -> tuple[str, float]:
        """The task's main score: ("accuracy", 0.93), ("micro_f1", 0.81) or ("mae", 2.4)."""
        name = HEADLINES[self.task]
        return name, self.scores[name]

    @property
    def headline_text(self) -> str:
        """'accuracy 93.1%'; of a report on no rows 'not measured'."""
        return "not measured" if not self.rows else value(self.headline[0], self.headline[1], named=True)

    @property
    def accuracy(self) -> float:
        """Of "classes" alone, as the next three; `headline` is there for every task."""
        return self.scores["accuracy"]

    @property
    def macro_f1(self) -> float:
        return self.scores["macro_f1"]

    @property
    def log_loss(self) -> float:
        return self.scores["log_loss"]

    @property
    def ece(self) -> float:
        return self.scores["ece"]

    def __str__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return summary(self)


def measure(
    head: str,
    split: str,
    labels: Targets,
    probabilities: Matrix,
    classes: Sequence[str],
    *,
    task: Task = "classes",
    n: dict[str, int],
    temperature: float,
    threshold: float | None = None,
    precision: float | None = None,
    thresholds: Sequence[float] | None = None,
    baselines: Baselines,
    seconds: float,
    entities: Labels | None = None,
    cost_us: float | None = None,
    settings: Mapping[str, Any] | None = None,
    encoder: str = "",
    snapshot: str = "",
) -> Report:
    """The report of one set of predictions.

    Args:
        labels: the truth on `split`. "classes": (m,) int64 into `classes`; "labels": (m, c) of 0 and 1; "number": (m,) float64.
        probabilities: (m, c) float32, calibrated; for "number" the (m,) or (m, 1) predicted numbers.
        n: rows of each split.
        threshold: the confidence below which a head of "classes" abstains; None where it never does.
        precision: what that threshold was chosen for, on val.
        thresholds: for "labels", the probability from which each label is given; 0.5 each where absent.
        entities: (m,) int64, equal for equal entities; each row its own where absent.
        cost_us: microseconds per prediction, of the head alone.
        settings: what it was trained with, JSON-ready.
        encoder, snapshot: their readable names.

    Cost: 10,000 rows of 77 classes take about 1 s, 100,000 of 41 some 3 s; memory a few times that of the probabilities.
    """
    shared: dict[str, Any] = {
        "head": head,
        "task": task,
        "split": split,
        "n": n,
        "entities": n_entities(entities, np.ones(len(labels), dtype=np.bool_)),
        "baselines": baselines,
        "temperature": temperature,
        "seconds": seconds,
        "cost_us": cost_us,
        "settings": json.loads(json.dumps(dict(settings or {}), default=str)),
        "encoder": encoder,
        "snapshot": snapshot,
    }
    if task == "number":
        scores, intervals, number = score_number(labels, np.asarray(probabilities).reshape(len(labels)), entities)
        return Report(**shared, scores=scores, intervals=intervals, number=number)
    if task == "labels":
        scored, whole = score_labels(labels, probabilities, classes, thresholds, entities), int(np.count_nonzero(labels))
    else:
        truth = labels.astype(np.int64, copy=False)
        scored, whole = score_classes(truth, probabilities, classes, threshold, entities, precision), None
        shared["alarms"] = alarms(truth, probabilities, classes)
        if len(classes) <= MATRIX_CLASSES:
            predicted = probabilities.argmax(axis=1).astype(np.int64)
            shared["confusion"] = metrics.confusion_matrix(truth, predicted, len(classes)).tolist()
    return Report(
        **shared,
        scores=scored.scores,
        intervals=scored.intervals,
        per_class=scored.per_class,
        confusions=scored.confusions,
        reliability=reliability(scored.confidence, scored.correct),
        coverage=coverage_curve(scored.ranked, whole=whole),
        cuts=scored.cuts,
        threshold=scored.threshold,
    )
