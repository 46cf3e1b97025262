"""A report as one HTML file: no script, no network, light and dark. Made for a reader who has nothing else.

It answers in this order: how good is it, how sure may one be, where to set the threshold, what does it confuse, where does it
come from. Each plot stands beside its finding in words. It holds labels and numbers, never content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from raystore.train.report import plots, words
from raystore.train.report.alarms import wilson
from raystore.train.report.measuring import ClassReport
from raystore.train.report.plots import BLUE, ORANGE, Axis, Series, percent

if TYPE_CHECKING:
    from raystore.train.report.report import Report

MAP_CLASSES = 40  # of a whole confusion map; of more, those most often confused are drawn
WORST_CLASSES = 20
TABLE_CLASSES = 300
_CONFUSIONS = 15

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2127; --soft: #5b6470; --line: #d9dde3; --lead: #f2f5f9 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e6e9ed; --soft: #a0a8b3; --line: #343a42; --lead: #1e232a }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1080px; padding: 28px 24px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
h1 { font-size: 26px; margin: 0 0 4px }
h2 { font-size: 19px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line) }
p { margin: 8px 0; max-width: 75ch }
.soft { color: var(--soft) }
.lead { font-size: 17px; background: var(--lead); padding: 14px 18px; border-radius: 8px; max-width: none }
.warn { border-left: 4px solid #d0672f; padding-left: 12px; font-weight: 600 }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px 36px; align-items: start }
@media (max-width: 760px) { .pair { grid-template-columns: minmax(0, 1fr) } }
figure { margin: 8px 0; overflow-x: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums }
td, th { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap }
th { font-weight: 600; font-size: 13px; color: var(--soft) }
td:first-child, th:first-child { text-align: left }
.classes td:first-child { white-space: normal; overflow-wrap: normal; word-break: keep-all; hyphens: none }
.facts td { text-align: left; white-space: normal }
li { margin: 3px 0 }
summary { cursor: pointer; color: var(--soft) }
@media print { body { max-width: none } }
"""


def document(title: str, parts: Iterable[str], *, head: str = "") -> str:
    """A whole page with the house's style. `head`: more of its own, a style or a content policy."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>{head}</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def page(report: Report) -> str:
    """The whole report."""
    parts = [f"<h1>Head {escape(report.head)}</h1>", _under_title(report), _warning(report)]
    short = "".join(f"<li>{escape(said)}</li>" for said in words.in_short(report))
    parts.append(f"<div class='lead'>{escape(words.headline(report))}{f'<ul>{short}</ul>' if short else ''}</div>")
    parts += [_good(report), _sure(report)]
    if report.number is not None:
        parts.append(_number(report))
    else:
        parts += [_threshold(report), _confused(report), _classes(report)]
    parts += [_origin(report), _method(report)]
    return document(f"Head {report.head}", parts)


def summary(report: Report) -> str:
    """The compact form for a notebook: sentences, scores, and the plots that matter most."""
    facts = _rows((), [(name.strip(), value) for name, value in words.facts(report)])
    drawn = (
        [number_plot(report)] if report.number else [reliability_plot(report, width=400), *threshold_plots(report, 400)[:1]]
    )
    short = "".join(f"<li>{escape(said)}</li>" for said in words.in_short(report))
    return (
        f"<div><p><b>Head {escape(report.head)}</b>. {escape(words.headline(report))}</p>{_warning(report)}"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start'>{facts}{''.join(drawn)}</div>"
        + (f"<ul>{short}</ul>" if short else "")
        + "</div>"
    )


def baseline_plot(report: Report) -> str:
    """The headline score as a bar beside those of its baselines."""
    name, score = report.headline
    values = [score, report.baselines.knn10, report.baselines.majority]
    simplest = {"classes": "most frequent class", "labels": "most frequent labels", "number": "the training median"}[
        report.task
    ]
    interval = report.intervals.get(name)
    if report.task == "number":
        most = max(*values, interval[1] if interval else 0)
        axis = Axis(f"{words.NAMES[name]} (less is better)", 0, 1.1 * most or 1, "{:.4g}".format)
    else:
        axis = Axis(words.NAMES[name], 0, 1, percent)
    return plots.bars(
        ["this head", "10 nearest neighbours", simplest],
        values,
        title=f"{words.NAMES[name][0].upper()}{words.NAMES[name][1:]}, beside its baselines",
        x=axis,
        intervals=[interval, None, None],
        colors=[BLUE, "#8a94a0", "#8a94a0"],
        width=500,
    )


def reliability_plot(report: Report, width: int = 460) -> str:
    """Confidence against the share that is right; the larger a dot, the more rows it stands for."""
    if not report.reliability:
        return ""
    bins = report.reliability
    most = max(b.rows for b in bins)
    bounds = [wilson(b.accuracy, b.rows) for b in bins]
    said = "label is there" if report.task == "labels" else "is right"
    return plots.line_plot(
        [
            Series("as sure as it is right", [0, 1], [0, 1], "dashed", "currentColor"),
            Series(
                "this head (larger: more rows)",
                [b.confidence for b in bins],
                [b.accuracy for b in bins],
                "points",
                BLUE,
                [low for low, _ in bounds],
                [high for _, high in bounds],
                [round(3 + 6 * (b.rows / most) ** 0.5, 1) for b in bins],
            ),
        ],
        title="Reliability: how sure it says it is, how often it is right",
        x=Axis("confidence it gives", 0, 1, percent),
        y=Axis(f"how often it {said}" if report.task != "labels" else "how often the label is there", 0, 1, percent),
        width=width,
        height=350,
    )


def threshold_plots(report: Report, width: int = 460) -> list[str]:
    """Over all thresholds, how much of what is answered is right, and how much is answered."""
    points, labels = report.coverage, report.task == "labels"
    if not points:
        return []
    at, right = [p.threshold for p in points], [p.precision for p in points]
    x = Axis("answer from this confidence on", min(at), max(*at, min(at) + 1e-6), "{:.2g}".format)
    marks = [
        (cut.threshold, f"{cut.wanted:.0%}")
        for cut in report.cuts
        if cut.threshold is not None and (labels or cut.coverage < 1)
    ]
    if report.threshold is not None and report.threshold.threshold is not None:
        marks = [(report.threshold.threshold, "in force")]
    marks = [(min(max(v, x.low), x.high), said) for v, said in marks]
    kept = "share of the true labels it finds" if report.task == "labels" else "share of the rows it answers"
    floor = min(0.1 * np.floor(10 * min(right)), 0.9)
    return [
        plots.line_plot(
            [Series("", at, values, "line", color)], title=title, x=x, y=y, marks=marks, width=width, height=240
        )
        for values, color, title, y in (
            (right, BLUE, "What a threshold buys: answers that are right", Axis("right", float(floor), 1, percent)),
            ([p.coverage for p in points], ORANGE, f"What it costs: {kept}", Axis("answered", 0, 1, percent)),
        )
    ]


def confusion_map(report: Report) -> tuple[str, str]:
    """A heatmap and what it leaves out: all classes up to 40, else the 20 that take part in most mistakes."""
    if not report.confusion:
        return "", ""
    table = np.array(report.confusion)
    names = [c.label for c in report.per_class]
    chosen = np.arange(len(names))
    left_out = ""
    if len(names) > MAP_CLASSES:
        wrong = table - np.diag(np.diag(table))
        chosen = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:WORST_CLASSES])
        left_out = f"Drawn are the {WORST_CLASSES} of {len(names):,} classes that take part in most mistakes."
    drawn = plots.heatmap(
        table[np.ix_(chosen, chosen)].tolist(),
        [names[i] for i in chosen],
        title="Confusion: rows of a class, and what they are taken for",
        row_label="what it is",
        column_label="what it is taken for",
        totals=table.sum(axis=1)[chosen].tolist(),
    )
    return drawn, left_out


def number_plot(report: Report) -> str:
    """True against predicted numbers."""
    if report.number is None or not report.number.scatter:
        return ""
    flat = [v for point in report.number.scatter for v in point]
    low, high = min(flat), max(flat)
    margin = 0.04 * (high - low) or 1.0
    axes = [Axis(said, low - margin, high + margin, "{:.4g}".format) for said in ("true number", "predicted number")]
    return plots.scatter(report.number.scatter, title="Predicted against true", x=axes[0], y=axes[1], diagonal=True)


def _under_title(report: Report) -> str:
    made = ", ".join(said for said in (f"on {report.encoder}" if report.encoder else "", report.snapshot) if said)
    kind = {"classes": "one of {} classes", "labels": "any of {} labels", "number": "a number"}[report.task]
    return f"<p class='soft'>Predicts {kind.format(f'{len(report.per_class):,}')}{escape(', ' + made) if made else ''}</p>"


def _warning(report: Report) -> str:
    said = words.caveat(report)
    return f"<p class='warn'>{escape(said[0].upper() + said[1:])}.</p>" if said else ""


def _good(report: Report) -> str:
    facts = [(name.strip(), value) for name, value in words.facts(report)]
    return f"<h2>How good is it?</h2><div class='pair'><figure>{baseline_plot(report)}</figure><div>{_rows((), facts)}</div></div>"


def _sure(report: Report) -> str:
    said = [*words.sureness(report), words.calibration(report)]
    drawn = reliability_plot(report)
    told = _paragraphs(said)
    if drawn:
        told += (
            "<p class='soft'>Dots on the dashed line: confidence means what it says. Dots below it: surer than right. "
            "The bars are where the share may lie (95%, Wilson); a long bar has few rows.</p>"
        )
        told += "<details><summary>The plot in numbers</summary>" + _rows(
            ("confidence", "mean", "right", "rows"),
            [
                (f"{percent(b.low)} to {percent(b.high)}", f"{b.confidence:.1%}", f"{b.accuracy:.1%}", f"{b.rows:,}")
                for b in report.reliability
            ],
        ) + "</details>"  # fmt: skip
    return f"<h2>How sure may one be of it?</h2>{_pair(told, drawn)}"


def _threshold(report: Report) -> str:
    covered = "labels found" if report.task == "labels" else "rows answered"
    table = _rows(("right, wanted", "threshold", covered, "right", "95% interval"), words.cuts(report))
    note = (
        "<p class='soft'>The thresholds are found on these same rows, so expect slightly less than they promise; "
        "to be careful, read the lower end of the interval.</p>"
    )
    told = _paragraphs([words.threshold_state(report), words.threshold_advice(report)]) + table + note
    drawn = "".join(f"<figure>{plot}</figure>" for plot in threshold_plots(report))
    return f"<h2>Where to set the threshold?</h2>{told}<div class='pair'>{drawn}</div>{_alarms(report)}"


def _alarms(report: Report) -> str:
    """Of two classes: a table for the rarer one, and precision over recall of both."""
    if not report.alarms:
        return ""
    table = _rows(words.alarm_columns(report), [words.alarm_cells(cut) for cut in report.alarms[0].cuts])
    told = (
        "<p class='soft'>A threshold on the probability of this class alone: to be right on so many of its alarms, raise one from "
        "there on. Found: the share of its rows that raises one. Intervals over rows (Wilson).</p>"
    )
    lines = [
        Series(each.label, [p.coverage for p in each.curve], [p.precision for p in each.curve], "line", color)
        for each, color in zip(report.alarms, (ORANGE, BLUE), strict=True)
    ]
    drawn = plots.line_plot(
        lines,
        title="Precision and recall of each class over its probability",
        x=Axis("share of its rows that is found", 0, 1, percent),
        y=Axis("alarms that are right", 0, 1, percent),
        height=280,
    )
    return f"<h3>{escape(words.alarm_title(report))}</h3>{_pair(table + told, drawn)}"


def _confused(report: Report) -> str:
    said = words.confusion_sentences(report, _CONFUSIONS)
    if not said:
        return "<h2>What does it confuse?</h2><p>Nothing on these rows.</p>"
    drawn, left_out = confusion_map(report)
    listed = "".join(f"<li>{escape(each)}</li>" for each in said)
    if report.task != "labels" and len(report.confusions) > len(said):
        left_out = (
            f"{left_out} The list holds the {len(said)} most frequent of {_at_least(len(report.confusions))} pairs.".strip()
        )
    figure = ""
    if drawn:
        explained = "Blue: named right. Orange: mistakes. The deeper, the larger the share of the row."
        figure = f"<figure>{drawn}</figure><p class='soft'>{explained}</p>"
    return f"<h2>What does it confuse?</h2><ol>{listed}</ol><p class='soft'>{escape(left_out)}</p>{figure}"


def _classes(report: Report) -> str:
    labels = report.task == "labels"
    ordered = sorted(report.per_class, key=lambda c: (c.support == 0, c.f1, -c.support))
    shown = ordered if len(ordered) <= TABLE_CLASSES else ordered[:TABLE_CLASSES]
    headers = ["label" if labels else "class", "F1", "", "95% interval", "precision", "recall", "rows", "given"]
    headers += ["average precision", "threshold"] if labels else []
    headers += ["answered", "kept"] if report.threshold else []
    body = "".join("<tr>" + "".join(_class_cells(c, labels)) + "</tr>" for c in shown)
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    table = f"<div class='wide'><table class='classes'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    noun = "label" if labels else "class"
    told = (
        f"<p>The lowest F1 first. Precision: of the rows given this {noun}, the share that has it. Recall: of the rows that have "
        "it, the share that is given it. F1 puts both together.</p>"
    )
    if len(shown) < len(ordered):
        told += f"<p class='soft'>The {len(shown)} lowest of {len(ordered):,}; the others stand in the JSON.</p>"
    return f"<h2>{'Every label' if labels else 'Every class'}</h2>{told}{table}"


def _class_cells(c: ClassReport, labels: bool) -> list[str]:
    sure = "" if c.f1_interval is None or not c.support else f"{c.f1_interval[0]:.0%} to {c.f1_interval[1]:.0%}"
    cells = [escape(c.label), f"{c.f1:.1%}" if c.support else "no rows", _bar(c), sure]
    cells += [f"{c.precision:.1%}", f"{c.recall:.1%}", f"{c.support:,}", f"{c.predicted:,}"]
    if labels:
        cells += [f"{c.average_precision or 0:.1%}", words.confidence(c.threshold or 0)]
    if c.kept is not None:
        cells += [f"{c.answered:,}", f"{c.kept:,} of {c.predicted:,}"]
    return [f"<td>{cell}</td>" for cell in cells]


def _bar(c: ClassReport) -> str:
    """F1 as a small bar, with its interval across."""
    if not c.support:
        return ""
    sure = ""
    if c.f1_interval is not None:
        low, high = (round(90 * v, 1) for v in c.f1_interval)
        sure = f"<path d='M{low} 6H{high}M{low} 3V9M{high} 3V9' stroke='currentColor'/>"
    return (
        f"<svg width='92' height='12' aria-hidden='true'><rect y='2' width='{90 * c.f1:.1f}' height='8' fill='{BLUE}'"
        f" fill-opacity='.6'/>{sure}</svg>"
    )


def _number(report: Report) -> str:
    assert report.number is not None
    found = report.number
    told = ""
    if found.errors:
        told = (
            f"<p>Half of its predictions are off by less than {found.errors['50%']:.4g}, 19 of 20 by less than "
            f"{found.errors['95%']:.4g}. R² is the share of the numbers' variance that it explains; 0 is no better than their mean.</p>"
        )
    table = _rows(
        ("quantile", *found.residuals),
        [
            ("predicted less true", *(f"{v:.4g}" for v in found.residuals.values())),
            ("size of the error", *(f"{v:.4g}" for v in found.errors.values())),
        ],
    )
    note = f"<p class='soft'>Drawn are {len(found.scatter):,} rows; on the dashed line, predicted and true are equal.</p>"
    plot = number_plot(report)
    return f"<h2>How far is it off?</h2>{told}<div class='wide'>{table}</div><figure>{plot}</figure>{note}"


def _origin(report: Report) -> str:
    facts = _rows((), words.origin(report)).replace("<table>", "<table class='facts'>", 1)
    return f"<h2>Where does it come from?</h2>{facts}"


def _method(report: Report) -> str:
    said = (
        "Intervals are percentile intervals of 1,000 bootstrap draws of entities with all their rows; where a share is exactly 0% or "
        "100%, the exact binomial bound. They say what other rows of the same kind would give, not what a shift of the data does, "
        "nor what another training would."
    )
    return f"<details><summary>How the intervals are made</summary><p>{said}</p></details>" if report.intervals else ""


def _pair(told: str, drawn: str) -> str:
    return f"<div class='pair'><div>{told}</div><figure>{drawn}</figure></div>" if drawn else told


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(said)}</p>" for said in sentences if said)


def _rows(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in headers)}</tr></thead>" if headers else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<div class='wide' style='overflow-x:auto'><table>{head}<tbody>{body}</tbody></table></div>"


def _at_least(n: int) -> str:
    return "500 or more" if n == 500 else f"{n:,}"
