"""A head's report: what it scores, on which rows, beside which baselines. Written once, beside the head.

Knows numbers and how to show them; how they were made stands in metrics.py and calibration.py.
"""

from __future__ import annotations

import io
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from raystore.train import metrics
from raystore.train.calibration import BINS, expected_calibration_error
from raystore.train.source import Labels
from raystore.vectors import Matrix

_SHOWN_CLASSES = 10
_SHOWN_CONFUSIONS = 5


class ClassReport(BaseModel):
    model_config = ConfigDict(frozen=True)

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Baselines(BaseModel):
    """Accuracy on the same rows of always the most frequent class, and of the vote of the 10 nearest training rows."""

    model_config = ConfigDict(frozen=True)

    majority: float
    knn10: float
    knn10_train_rows: int  # how many training rows the neighbours were sought among
    knn10_rows: int  # how many of the report's rows were asked about


class Report(BaseModel):
    """Scores on `split`. `confusion` is (c, c): row = label, column = prediction, in the order of `per_class`."""

    model_config = ConfigDict(frozen=True)

    head: str
    split: str
    n: dict[str, int]
    accuracy: float
    macro_f1: float
    log_loss: float
    ece: float
    ece_bins: int = BINS
    temperature: float
    per_class: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    baselines: Baselines
    seconds: float

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        return cls.model_validate_json(text)

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """(label, taken for, how often), the most frequent first; only where it happened."""
        table = np.array(self.confusion)
        np.fill_diagonal(table, 0)
        order = np.argsort(-table, axis=None, kind="stable")
        pairs = ((int(i) // len(table), int(i) % len(table)) for i in order[: np.count_nonzero(table)])
        return [(self.per_class[a].label, self.per_class[b].label, int(table[a, b])) for a, b in pairs]

    @property
    def _caveat(self) -> str:
        if self.split == "train":
            return "measured on the training rows themselves: there is no test and no val split"
        return (
            "measured on val, which also chose temperature and stopping: there is no test split"
            if self.split == "val"
            else ""
        )

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        console = Console(file=out, width=100, color_system=None)
        console.print(
            f"Head {self.head}, on {self.n.get(self.split, 0):,} rows of {self.split}", markup=False, highlight=False
        )
        if self._caveat:
            console.print(self._caveat, markup=False, highlight=False)
        console.print(_summary(self))
        console.print(_classes(self))
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in _facts(self)
        )
        caption = f"Head {escape(self.head)}, on {self.n.get(self.split, 0):,} rows of {escape(self.split)}"
        note = f"<p>{escape(self._caveat)}</p>" if self._caveat else ""
        return f"<table><caption>{caption}</caption>{rows}</table>{note}"


def measure(
    head: str,
    split: str,
    labels: Labels,
    probabilities: Matrix,
    classes: list[str],
    *,
    n: dict[str, int],
    temperature: float,
    baselines: Baselines,
    seconds: float,
) -> Report:
    """The report of one set of predictions.

    Args:
        labels: (m,) int64 into `classes`, the truth on `split`.
        probabilities: (m, c) float32, calibrated.
        n: rows of each split.
    """
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    confusion = metrics.confusion_matrix(labels, predicted, len(classes))
    scores = metrics.class_scores(confusion)
    confidence: npt.NDArray[np.float32] = probabilities.max(axis=1)
    return Report(
        head=head,
        split=split,
        n=n,
        accuracy=metrics.accuracy(labels, predicted),
        macro_f1=metrics.macro_f1(confusion),
        log_loss=metrics.log_loss(labels, probabilities),
        ece=expected_calibration_error(confidence, predicted == labels),
        temperature=temperature,
        per_class=tuple(
            ClassReport(label=label, precision=p, recall=r, f1=f, support=s)
            for label, p, r, f, s in zip(classes, *(column.tolist() for column in scores), strict=True)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        baselines=baselines,
        seconds=seconds,
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    known, asked = report.baselines.knn10_train_rows, report.baselines.knn10_rows
    whole = (known, asked) == (report.n.get("train"), report.n.get(report.split))
    among = "" if whole else f" ({asked:,} rows among {known:,} of train)"
    return [
        ("accuracy", f"{report.accuracy:.1%}"),
        ("  majority class", f"{report.baselines.majority:.1%}"),
        ("  10 nearest neighbours", f"{report.baselines.knn10:.1%}{among}"),
        ("macro-F1", f"{report.macro_f1:.1%}"),
        ("log loss", f"{abs(report.log_loss):.3f}"),
        (f"calibration error ({report.ece_bins} bins)", f"{report.ece:.1%} at temperature {report.temperature:.2f}"),
        ("rows", ", ".join(f"{split} {count:,}" for split, count in report.n.items())),
        ("fitted in", f"{report.seconds:.1f} s"),
    ]


def _summary(report: Report) -> Any:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _facts(report):
        table.add_row(name, value)
    return table


def _classes(report: Report) -> Any:
    """All classes, or the ten with the lowest F1 where there are more; then what is most often confused."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = report.per_class
    title = "Classes"
    if len(shown) > _SHOWN_CLASSES:
        shown = tuple(sorted((c for c in shown if c.support), key=lambda c: c.f1)[:_SHOWN_CLASSES])
        title = f"The {len(shown)} of {len(report.per_class)} classes with the lowest F1"
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("class", overflow="ellipsis", no_wrap=True, max_width=48)
    for column in ("precision", "recall", "F1", "rows"):
        table.add_column(column, justify="right")
    for c in shown:
        table.add_row(Text(c.label), f"{c.precision:.1%}", f"{c.recall:.1%}", f"{c.f1:.1%}", f"{c.support:,}")
    lines = [
        Text(f"  {times:,} x {label} taken for {taken}", no_wrap=True, overflow="ellipsis")
        for label, taken, times in report.confusions[:_SHOWN_CONFUSIONS]
    ]
    if lines:
        lines = [Text(""), Text("Most often confused"), *lines]
    return Group("", table, *lines)
