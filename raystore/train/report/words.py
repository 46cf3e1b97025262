"""What a report says in sentences: how good, how sure, where to set the threshold, what is confused. Pure.

The terminal and the HTML file say the same; this is where it is put into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raystore.markup import shown
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
_SILENCED = 5
_UNMEASURED = "It was not measured: no row had a label."
_NONE = "none reaches it on enough rows"
_NO_BETTER = "no better than the majority class"
_SAID_WITH_ANOTHER = ("l2_tried", "seeds_tried", "val_loss_spread", "coverage_on_val", "not_reached")


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
    if not report.rows:
        return _UNMEASURED
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
        f"the vote of the 10 nearest training rows for {knn}." + "".join(f" {said}" for said in verdicts(report))
    )


def verdicts(report: Report) -> list[str]:
    """What must not be overlooked, of "classes": no better than the majority, the threshold in force, classes it silences."""
    if report.task != "classes":
        return []
    if not report.rows:
        return [_UNMEASURED]
    said = []
    majority, score = report.baselines.majority, report.accuracy
    low = report.intervals.get("accuracy", (score, score))[0]
    if low <= majority:
        always = [c.label for c in report.per_class if report.rows and abs(c.support / report.rows - majority) < 1e-9]
        which = f"'{always[0]}'" if len(always) == 1 else "the most frequent class"
        lead = "That is" if score <= majority else "As far as these rows can tell, that is"
        said.append(f"{lead} no better than always answering {which}.")
    if (cut := report.threshold) is not None:
        answers = (
            f"answers {cut.coverage:.1%} of the rows, and {cut.precision:.1%} of them right" if cut.rows else "answers none"
        )
        said.append(f"In force: from confidence {confidence(cut.threshold)} on it {answers}.")
    silenced = [c for c in report.per_class if c.predicted and c.kept == 0]
    said += [f"Of {c.predicted:,} predictions of '{c.label}' none is kept at this threshold." for c in silenced[:_SILENCED]]
    if len(silenced) > _SILENCED:
        said.append(f"So it is with {len(silenced) - _SILENCED:,} more classes.")
    return said


def confidence(threshold: float | None) -> str:
    """'0.908'; of one near 0 or 1 as many places as tell it from them."""
    if threshold is None:
        return ""
    if 0 < threshold < 0.01:
        return f"{threshold:.2g}"
    return f"{threshold:.6f}" if 0.9995 <= threshold < 1 else f"{threshold:.3f}"


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
    wanted = f"For {cut.wanted:.0%} right"
    if cut.threshold is None:
        if cut.no_better:
            return (
                f"{wanted}: no threshold is surely better than always answering the most frequent class, which reaches it."
            )
        return f"{wanted}: no threshold reaches it on enough rows."
    if cut.coverage >= 1 and task == "classes":
        return f"{wanted}: no threshold is needed, {cut.precision:.1%} of all rows are right ({cut.low:.1%} to {cut.high:.1%})."
    what = f"finds {cut.coverage:.1%} of the true labels" if task == "labels" else f"answers {cut.coverage:.1%} of the rows"
    return f"{wanted}: from confidence {confidence(cut.threshold)} on. It {what}, and {_right(cut)}."


def _right(cut: Cut) -> str:
    return f"{cut.precision:.1%} of what it answers is right ({cut.low:.1%} to {cut.high:.1%})"


def in_force(cut: Cut) -> str:
    """What the threshold in force keeps, beside what it was chosen for."""
    answers = f"It answers {cut.coverage:.1%} of the rows"
    if cut.wanted is None:
        return f"In force: from confidence {confidence(cut.threshold)} on. {answers}, and {_right(cut)}."
    chosen = f"chosen for {_percent(cut.wanted)} on val; here {_right(cut)}"
    return f"In force: from confidence {confidence(cut.threshold)} on, {chosen}. {answers}."


def _percent(share: float) -> str:
    """As it was asked for: '97%', '97.5%'."""
    return f"{100 * share:g}%"


def threshold_state(report: Report) -> str:
    """What holds now, before any advice."""
    if report.threshold is not None:
        return in_force(report.threshold)
    if report.task == "labels":
        return (
            "Each label is given from a threshold of its own (in the table of labels); one threshold for all would do this."
        )
    return f"No threshold is in force: it answers every row, and {report.accuracy:.1%} of its answers are right."


def threshold_advice(report: Report) -> str:
    """The cut for 95%, or the strictest one below that is reached, as a sentence; that none is, where none is."""
    reached = [cut for cut in report.cuts if cut.threshold is not None and (cut.wanted or 0) <= _ADVISED]
    advised = reached[-1:] or [cut for cut in report.cuts if cut.wanted == _ADVISED]
    return cut_sentence(advised[0], report.task) if advised else ""


def in_short(report: Report) -> list[str]:
    """What a reader in a hurry takes away, after the headline."""
    most = confusion_sentences(report, 1)
    said = [f"Most frequent mistake: {most[0]}." if most else "", calibration(report), threshold_advice(report)]
    return [each for each in said if each]


def confusion_sentences(report: Report, most: int) -> list[str]:
    """The most frequent mistakes, each a sentence."""
    support = {c.label: c.support for c in report.per_class}
    if report.task == "labels":
        return _label_mistakes(report)[:most]
    return [
        f"{n:,} of the {support[label]:,} rows of {label} are taken for {taken} ({n / max(support[label], 1):.0%})"
        for label, taken, n in report.confusions[:most]
    ]


def _label_mistakes(report: Report) -> list[str]:
    """Labels most often missed or wrongly given, each a sentence, the most frequent first."""
    found = []
    for c in report.per_class:
        right = round(c.recall * c.support)
        found.append(
            (c.support - right, f"{c.label} is missed on {c.support - right:,} of the {c.support:,} rows that have it")
        )
        wrong = c.predicted - right
        found.append((wrong, f"{c.label} is given wrongly to {wrong:,} of the {c.predicted:,} rows it is given to"))
    return [said for times, said in sorted(found, key=lambda each: -each[0]) if times]


def alarm_cells(cut: Cut) -> tuple[str, str, str, str, str, str]:
    """A cut on the probability of one class as a row: wanted, from, alarms, found, right, interval."""
    wanted = _percent(cut.wanted or 0)
    if cut.threshold is None:
        return wanted, _NONE, "", "", "", ""
    return (
        wanted,
        confidence(cut.threshold),
        f"{cut.rows:,}",
        f"{cut.coverage:.1%}",
        f"{cut.precision:.1%}",
        f"{cut.low:.0%} to {cut.high:.0%}",
    )


def alarm_title(report: Report) -> str:
    """Of the rarer of two classes."""
    rarer = report.alarms[0]
    return f"Alarms on '{rarer.label}' ({rarer.support:,} rows, average precision {rarer.average_precision:.1%})"


def alarm_columns(report: Report) -> tuple[str, ...]:
    return ("right, wanted", f"P({report.alarms[0].label}) from", "alarms", "found", "right", "95% interval")


def cut_cells(cut: Cut, task: Task = "classes", *, in_force: bool = False) -> tuple[str, str, str, str, str]:
    """A cut as a row of a table: wanted, threshold, kept, right, interval."""
    wanted = "" if cut.wanted is None else _percent(cut.wanted)
    if in_force:
        wanted = f"in force, chosen for {wanted} on val" if wanted else "in force"
    if cut.threshold is None:
        return wanted, _NO_BETTER if cut.no_better else _NONE, "", "", ""
    needless = not in_force and cut.coverage >= 1 and task == "classes"  # of labels, coverage is recall
    threshold = "none needed" if needless else confidence(cut.threshold)
    return wanted, threshold, f"{cut.coverage:.1%}", f"{cut.precision:.1%}", f"{cut.low:.1%} to {cut.high:.1%}"


def cuts(report: Report) -> list[tuple[str, str, str, str, str]]:
    """The threshold in force, if any, then those for each wanted precision."""
    now = [cut_cells(report.threshold, in_force=True)] if report.threshold else []
    return [*now, *(cut_cells(cut, report.task) for cut in report.cuts)]


def facts(report: Report) -> list[tuple[str, str]]:
    """The scores with their intervals and baselines, a line each."""
    headline_, base = report.headline[0], report.baselines
    among = ""
    if (base.knn10_train_rows, base.knn10_rows) != (report.n.get("train"), report.n.get(report.split)):
        among = f" ({base.knn10_rows:,} rows among {base.knn10_train_rows:,} of train)"
    simplest = {"classes": "majority class", "labels": "most frequent labels", "number": "error of the training median"}[
        report.task
    ]
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
            lines.append(("  error of the training mean", value(name, base.mean_rmse)))
    return lines


def origin(report: Report) -> list[tuple[str, str]]:
    """Where it comes from and what it costs, a line each; only what is known."""
    rows = ", ".join(f"{split} {count:,}" for split, count in report.n.items())
    entities = "" if report.entities == report.rows else f" ({report.split}: {report.entities:,} entities)"
    lines = [
        ("encoder", report.encoder),
        ("snapshot", report.snapshot),
        ("settings", settings_said(report.settings)),
        ("rows", rows + entities),
        ("fitted in", f"{report.seconds:.1f} s"),
        ("per prediction", "" if report.cost_us is None else f"{report.cost_us:.3g} µs, encoding not included"),
    ]
    return [(name, said) for name, said in lines if said]


def settings_said(settings: Mapping[str, Any]) -> str:
    """What a head was trained with: 'l2 10, the best of 0.1, 1, 10 on val; class weight balanced; seed 0'."""
    said = [_setting(name, value, settings) for name, value in settings.items() if value is not None]
    return "; ".join(each for each in said if each)


def _setting(name: str, value: object, among: Mapping[str, Any]) -> str:
    """One setting with what the training found for it; nothing where another one says it."""
    if name in _SAID_WITH_ANOTHER or (name == "workers" and not value) or (name == "seeds" and "seeds_tried" in among):
        return ""
    if name == "precision":
        return f"precision {shown(value)}{_reached(among)}"
    if name == "workers":
        return f"on {value} Ray worker{'' if value == 1 else 's'}"
    if name == "sweep_of":
        return f"the best of {value} settings on val"
    if name == "erased":
        return f"without {value} of the snapshot's rows, erased since"
    if isinstance(value, Mapping):
        return f"{name.replace('_', ' ')} by class"
    said = f"{name.replace('_', ' ')} {shown(value)}"
    tried = among.get({"l2": "l2_tried", "seed": "seeds_tried"}.get(name, ""))
    return f"{said}, the best of {shown([each for each, _ in tried])} on val" if tried else said


def _reached(settings: Mapping[str, Any]) -> str:
    """How much of val is answered at the precision that was wanted."""
    if (share := settings.get("coverage_on_val")) is not None:
        return f", at which it answers {share:.0%} of val"
    missed = settings.get("not_reached")
    if isinstance(missed, Mapping):
        return f", not reached on val for {len(missed):,} label{'' if len(missed) == 1 else 's'}"
    return f", {missed}" if missed else ""
