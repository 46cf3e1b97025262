"""A report in the terminal: tables of 100 columns, without colour."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from raystore.train.report import words

if TYPE_CHECKING:
    from raystore.train.report.report import Report

_SHOWN_CLASSES = 10
_SHOWN_CONFUSIONS = 5


def text(report: Report) -> str:
    """The report for a terminal: scores, thresholds, reliability, classes, confusions."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, force_jupyter=False, width=100, color_system=None, highlight=False, markup=False, emoji=False
    )
    entities = "" if report.entities == report.rows else f" of {report.entities:,} entities"
    console.print(f"Head {report.head}, on {report.rows:,} rows{entities} of {report.split}")
    if said := words.caveat(report):
        console.print(said)
    for said in words.verdicts(report):
        console.print(said)
    console.print(_facts([*words.facts(report), *words.origin(report)]))
    if report.intervals:
        console.print("In brackets: 95% intervals, by bootstrap over entities")
    if report.number is not None:
        console.print(_residuals(report))
        return _stripped(out)
    console.print(_thresholds(report))
    if report.alarms:
        console.print(_alarms(report))
    if report.reliability:
        console.print(f"Confidence and truth: {reliability_line(report)}")
    console.print(_classes(report))
    return _stripped(out)


def reliability_line(report: Report, groups: int = 5) -> str:
    """'40-60%: 52% right, ...': the bins put together into fifths, those that hold rows."""
    said = []
    for i in range(groups):
        low, high = i / groups, (i + 1) / groups
        bins = [b for b in report.reliability if low <= (b.low + b.high) / 2 < high]
        if rows := sum(b.rows for b in bins):
            right = sum(b.accuracy * b.rows for b in bins) / rows
            said.append(f"{100 * low:.0f}-{100 * high:.0f}%: {right:.0%} right")
    return ", ".join(said)


def _stripped(out: io.StringIO) -> str:
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _facts(facts: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts:
        table.add_row(name, Text(value))
    return table


def _thresholds(report: Report) -> Any:
    from rich.console import Group
    from rich.table import Table

    covered = "labels found" if report.task == "labels" else "answered"
    table = Table(title="Thresholds", title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("wanted")
    for column in ("threshold", covered, "right", "interval"):
        table.add_column(column, justify="right")
    for cells in words.cuts(report):
        table.add_row(*cells)
    return Group("", table, "")


def _alarms(report: Report) -> Any:
    """Of the rarer of two classes: from which probability on its alarms are how often right."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = Text(words.alarm_title(report))
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for i, column in enumerate(words.alarm_columns(report)):
        table.add_column(Text(column), justify="right" if i else "left")
    for cut in report.alarms[0].cuts:
        table.add_row(*words.alarm_cells(cut))
    return Group(table, "")


def _residuals(report: Report) -> Any:
    from rich.console import Group
    from rich.table import Table

    assert report.number is not None
    table = Table(title="Quantiles", title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("of")
    for name in report.number.residuals:
        table.add_column(name, justify="right")
    for said, found in (("predicted less true", report.number.residuals), ("size of the error", report.number.errors)):
        table.add_row(said, *(f"{v:.4g}" for v in found.values()))
    return Group("", table)


def _classes(report: Report) -> Any:
    """All classes, or the ten with the lowest F1 where there are more; then what is most often confused."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    noun = "labels" if report.task == "labels" else "classes"
    shown = report.per_class
    title = noun.capitalize()
    if len(shown) > _SHOWN_CLASSES:
        shown = tuple(sorted((c for c in shown if c.support), key=lambda c: c.f1)[:_SHOWN_CLASSES])
        title = f"The {len(shown)} of {len(report.per_class):,} {noun} with the lowest F1"
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column(noun[:-1] if noun == "labels" else "class", overflow="ellipsis", no_wrap=True, max_width=42)
    for column in ("precision", "recall", "F1", "interval", "rows"):
        table.add_column(column, justify="right")
    limited = report.threshold is not None
    for column in ("answered", "kept") if limited else ():
        table.add_column(column, justify="right")
    for c in shown:
        sure = "" if c.f1_interval is None else f"{c.f1_interval[0]:.0%} to {c.f1_interval[1]:.0%}"
        left = (f"{c.answered:,}", f"{c.kept:,} of {c.predicted:,}") if limited else ()
        table.add_row(Text(c.label), f"{c.precision:.1%}", f"{c.recall:.1%}", f"{c.f1:.1%}", sure, f"{c.support:,}", *left)
    if report.task == "labels":
        title, said = "Most often missed or wrongly given", words.confusion_sentences(report, _SHOWN_CONFUSIONS)
    else:
        title = "Most often confused"
        said = [f"{times:,} x {label} taken for {taken}" for label, taken, times in report.confusions[:_SHOWN_CONFUSIONS]]
    lines = [Text(f"  {each}", no_wrap=True, overflow="ellipsis") for each in said]
    if lines:
        lines = [Text(""), Text(title), *lines]
    return Group("", table, *lines)
