"""What a report says in sentences: how good, how sure, where to set the threshold, what is confused. Pure.

The terminal and the HTML file say the same; this is where it is put into words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raystore.train.report.bootstrap import Interval
from raystore.train.report.curves import Cut
from raystore.train.source import Task

if TYPE_CHECKING:
    from raystore.train.report.report import Report

HEADLINES: dict[Task, str] = {"classes": "accuracy", "labels": "micro_f1", "number": "mae"}
NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "micro_precision": "precision of all labels",
    "micro_recall": "recall of all labels",
    "subset_accuracy": "rows with all labels right",
    "mean_average_precision": "mean average precision",
    "log_loss": "log loss",
    "ece": "calibration error",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "r2": "R²",
}
NUMBERS = ("log_loss", "mae", "rmse", "r2")
_FEW_ROWS = 100
_CALIBRATED = 0.02
_ADVISED = 0.95
_LONGEST_SETTING = 100


def value(name: str, number: float, *, named: bool = False) -> str:
    """'93.1%', or '2.417' for what is no share; with its name before it where asked."""
    if name == "log_loss":
        said = f"{abs(number):.3f}"
    else:
        said = f"{number:.4g}" if name in NUMBERS else f"{number:.1%}"
    return f"{NAMES[name]} {said}" if named else said


def between(name: str, interval: Interval | None) -> str:
    """'92.2% to 94.0%', or nothing."""
    return f"{value(name, interval[0])} to {value(name, interval[1])}" if interval else ""


def caveat(report: Report) -> str:
    """Where the rows were not unseen."""
    if report.split == "train":
        return "measured on the training rows themselves: there is no test and no val split"
    return (
        "measured on val, which also chose temperature and stopping: there is no test split"
        if report.split == "val"
        else ""
    )


def headline(report: Report) -> str:
    """How good it is beside its baselines, in two sentences."""
    name, score = report.headline
    among = f" ({between(name, interval)} with 95% confidence)" if (interval := report.intervals.get(name)) else ""
    majority, knn = (value(name, x) for x in (report.baselines.majority, report.baselines.knn10))
    on = f"the {report.rows:,} rows of {report.split}"
    if report.task == "number":
        return (
            f"On {on} it is off by {value(name, score)} on average{among}. Always answering the training median would be off by "
            f"{majority}, the mean of the 10 nearest training rows by {knn}."
        )
    if report.task == "labels":
        return (
            f"On {on} it gives labels with a micro-F1 of {value(name, score)}{among}. Always giving the most frequent labels would "
            f"reach {majority}, the vote of the 10 nearest training rows {knn}."
        )
    return (
        f"Of {on} it names {value(name, score)} right{among}. Always answering the most frequent class would be right for {majority}, "
        f"the vote of the 10 nearest training rows for {knn}."
    )


def sureness(report: Report) -> list[str]:
    """How far the scores can be trusted, in sentences."""
    said = []
    name = report.headline[0]
    if interval := report.intervals.get(name):
        whole = "" if report.entities == report.rows else f", which are those of {report.entities:,} entities, drawn whole"
        said.append(
            f"It is measured on {report.rows:,} rows{whole}. From so many, the true {NAMES[name]} is known to lie between "
            f"{value(name, interval[0])} and {value(name, interval[1])}, with 95% confidence."
        )
    else:
        said.append("No interval can be given: all rows belong to one entity.")
    if report.entities < _FEW_ROWS:
        said.append(f"With {report.entities:,} entities the interval itself is rough.")
    thin = sum(0 < c.support < 10 for c in report.per_class)
    if thin:
        said.append(
            f"{thin:,} of {len(report.per_class):,} classes have fewer than 10 rows here: their own scores are rough."
        )
    return said


def calibration(report: Report) -> str:
    """Whether confidence can be read as a probability."""
    if not report.reliability:
        return ""
    ece = report.scores["ece"]
    rows = sum(b.rows for b in report.reliability)
    lean = sum((b.confidence - b.accuracy) * b.rows for b in report.reliability) / rows
    off = f"its confidence is off by {100 * ece:.1f} points on average (calibration error)"
    if ece < _CALIBRATED:
        return f"Confidence can be read as a probability: {off}."
    if abs(lean) < ece / 2:
        return f"Confidence is a rough guide: {off}, here too high, there too low."
    which = "is more confident than it is right" if lean > 0 else "is right more often than it says"
    return f"It {which}: {off}."


def cut_sentence(cut: Cut, task: Task) -> str:
    """What one threshold keeps."""
    wanted = "In force" if cut.wanted is None else f"For {cut.wanted:.0%} right"
    if cut.threshold is None:
        return f"{wanted}: no threshold reaches it on these rows."
    if cut.wanted is not None and cut.coverage >= 1 and task == "classes":
        return f"{wanted}: no threshold is needed, {cut.precision:.1%} of all rows are right ({cut.low:.1%} to {cut.high:.1%})."
    what = f"finds {cut.coverage:.1%} of the true labels" if task == "labels" else f"answers {cut.coverage:.1%} of the rows"
    return (
        f"{wanted}: from confidence {cut.threshold:.3f} on. It {what}, and {cut.precision:.1%} of what it answers is right "
        f"({cut.low:.1%} to {cut.high:.1%})."
    )


def threshold_state(report: Report) -> str:
    """What holds now, before any advice."""
    if report.threshold is not None:
        return cut_sentence(report.threshold, report.task)
    if report.task == "labels":
        return (
            "Each label is given from a threshold of its own (in the table of labels); one threshold for all would do this."
        )
    return f"No threshold is in force: it answers every row, and {report.accuracy:.1%} of its answers are right."


def threshold_advice(report: Report) -> str:
    """The cut for 95%, or the strictest one below that is reached, as a sentence; nothing where none is."""
    reached = [cut for cut in report.cuts if cut.threshold is not None and (cut.wanted or 0) <= _ADVISED]
    return cut_sentence(reached[-1], report.task) if reached else ""


def in_short(report: Report) -> list[str]:
    """What a reader in a hurry takes away, after the headline."""
    most = confusion_sentences(report, 1)
    said = [f"Most frequent mistake: {most[0]}." if most else "", calibration(report), threshold_advice(report)]
    return [each for each in said if each]


def confusion_sentences(report: Report, most: int) -> list[str]:
    """The most frequent mistakes, each a sentence."""
    support = {c.label: c.support for c in report.per_class}
    if report.task == "labels":
        return [
            f"{n:,} rows lack their label {label} and are given {taken}" for label, taken, n in report.confusions[:most]
        ]
    return [
        f"{n:,} of the {support[label]:,} rows of {label} are taken for {taken} ({n / max(support[label], 1):.0%})"
        for label, taken, n in report.confusions[:most]
    ]


def cut_cells(cut: Cut) -> tuple[str, str, str, str, str]:
    """A cut as a row of a table: wanted, threshold, kept, right, interval."""
    wanted = "in force" if cut.wanted is None else f"{cut.wanted:.0%}"
    if cut.threshold is None:
        return wanted, "none reaches it", "", "", ""
    threshold = "none needed" if cut.wanted is not None and cut.coverage >= 1 else f"{cut.threshold:.3f}"
    return wanted, threshold, f"{cut.coverage:.1%}", f"{cut.precision:.1%}", f"{cut.low:.1%} to {cut.high:.1%}"


def cuts(report: Report) -> list[tuple[str, str, str, str, str]]:
    """The threshold in force, if any, then those for each wanted precision."""
    return [cut_cells(cut) for cut in [*([report.threshold] if report.threshold else []), *report.cuts]]


def facts(report: Report) -> list[tuple[str, str]]:
    """The scores with their intervals and baselines, a line each."""
    headline_, base = report.headline[0], report.baselines
    among = ""
    if (base.knn10_train_rows, base.knn10_rows) != (report.n.get("train"), report.n.get(report.split)):
        among = f" ({base.knn10_rows:,} rows among {base.knn10_train_rows:,} of train)"
    simplest = {"classes": "majority class", "labels": "most frequent labels", "number": "training median"}[report.task]
    lines = []
    for name, score in report.scores.items():
        said = value(name, score)
        if name == "ece":
            heated = f" at temperature {report.temperature:.2f}" if report.task == "classes" else ""
            lines.append((f"{NAMES[name]} ({report.ece_bins} bins)", said + heated))
            continue
        interval = report.intervals.get(name)
        lines.append((NAMES[name], f"{said}  ({between(name, interval)})" if interval else said))
        if name == headline_:
            lines.append((f"  {simplest}", value(name, base.majority)))
            lines.append(("  10 nearest neighbours", value(name, base.knn10) + among))
        if name == "rmse" and base.mean_rmse is not None:
            lines.append(("  training mean", value(name, base.mean_rmse)))
    return lines


def origin(report: Report) -> list[tuple[str, str]]:
    """Where it comes from and what it costs, a line each; only what is known."""
    rows = ", ".join(f"{split} {count:,}" for split, count in report.n.items())
    entities = "" if report.entities == report.rows else f" ({report.split}: {report.entities:,} entities)"
    settings = ", ".join(f"{k}={_setting(v)}" for k, v in report.settings.items() if v is not None)
    lines = [
        ("encoder", report.encoder),
        ("snapshot", report.snapshot),
        ("settings", settings),
        ("rows", rows + entities),
        ("fitted in", f"{report.seconds:.1f} s"),
        ("per prediction", "" if report.cost_us is None else f"{report.cost_us:.3g} µs, encoding not included"),
    ]
    return [(name, said) for name, said in lines if said]


def _setting(value: object) -> str:
    """A setting's value; of a long one, what has room on a line."""
    said = str(value)
    return said if len(said) <= _LONGEST_SETTING else said[: _LONGEST_SETTING - 1] + "…"
