"""Plots as SVG text: lines, bars, a heatmap, points. Pure: numbers in, coordinates out; no plotting library, no script.

Ink is `currentColor`, so a plot is readable on light and dark paper; two colours tell series apart and are dark
and light enough for both. Each plot carries its title for screen readers; say its finding in the text beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

BLUE, ORANGE = "#3f83c9", "#d0672f"
_FONT = "font-family='system-ui,sans-serif' font-size='12' fill='currentColor'"
_GAP = 6
_RIGHT = 24  # room for half of the last tick's text
_LETTER = 6.4  # width of an average letter at 12 px
_WIDE_LETTER, _BOLD_LETTER = 7.2, 7.4
_LONGEST = 26


@dataclass(frozen=True)
class Series:
    """Numbers to draw: as a line, a dashed line, or points; with `low` and `high`, bars of uncertainty at each."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "dashed", "points"] = "line"
    color: str = BLUE
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    radii: Sequence[float] = ()


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with a label; `say` writes its ticks."""

    label: str
    low: float
    high: float
    say: Callable[[float], str] = "{:g}".format

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers within the axis: steps of 1, 2, 2.5 or 5 times a power of ten, `wanted` of them or fewer, at least two."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / wanted))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= wanted)
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * i, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Frame:
    """Where data lies in the picture: x grows to the right, y upwards."""

    x: Axis
    y: Axis
    left: float
    top: float
    width: float
    height: float

    def at_x(self, value: float) -> float:
        return round(self.left + self.width * (value - self.x.low) / ((self.x.high - self.x.low) or 1), 1)

    def at_y(self, value: float) -> float:
        return round(self.top + self.height * (1 - (value - self.y.low) / ((self.y.high - self.y.low) or 1)), 1)


def percent(value: float) -> str:
    """0.5 as '50%'."""
    return f"{100 * value:.3g}%"


def line_plot(
    series: Sequence[Series],
    *,
    title: str,
    x: Axis,
    y: Axis,
    marks: Sequence[tuple[float, str]] = (),
    width: int = 460,
    height: int = 320,
) -> str:
    """Series over two axes, a legend above, and dotted upright `marks` (x, what it is)."""
    named = [s for s in series if s.name]
    rows = _legend_rows(named, width - 70)
    above = 30 + 18 * len(rows) + (16 if marks else 0)
    frame = Frame(x, y, left=56, top=above, width=width - 56 - _RIGHT, height=height - above - 46)
    parts = [
        _axes(frame),
        _legend(rows),
        _marks(frame, marks),
        *(_series(frame, s) for s in series),
    ]
    return _svg(title, width, height, parts)


def scatter(
    points: Sequence[tuple[float, float]],
    *,
    title: str,
    x: Axis,
    y: Axis,
    diagonal: bool = False,
    width: int = 460,
    height: int = 400,
) -> str:
    """A translucent dot for each point; with `diagonal`, the line on which both are equal."""
    frame = Frame(x, y, left=64, top=34, width=width - 64 - _RIGHT, height=height - 34 - 46)
    parts = [_axes(frame)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(_series(frame, Series("", [low, high], [low, high], "dashed", "currentColor")))
    parts += [
        f"<circle cx='{frame.at_x(a)}' cy='{frame.at_y(b)}' r='3' fill='{BLUE}' fill-opacity='.45'/>" for a, b in points
    ]
    return _svg(title, width, height, parts)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    *,
    title: str,
    x: Axis,
    intervals: Sequence[tuple[float, float] | None] = (),
    colors: Sequence[str] = (),
    width: int = 620,
) -> str:
    """A bar a row, from the left end of the axis, with its value beside it and a whisker where there is an interval."""
    left = min(240.0, 16 + _LETTER * max((len(_short(n)) for n in names), default=0))
    height = 34 + 26 * len(names) + 44
    frame = Frame(x, Axis("", 0, 1), left=left, top=34, width=width - left - 70, height=26 * len(names))
    parts = [_x_axis(frame)]
    for i, (name, v) in enumerate(zip(names, values, strict=True)):
        middle, end = 34 + 26 * i + 13, frame.at_x(v)
        between = intervals[i] if i < len(intervals) else None
        color = colors[i] if i < len(colors) else BLUE
        parts.append(_label(left - _GAP, middle + 4, name, "end"))
        parts.append(
            f"<rect x='{left:g}' y='{middle - 8:g}' width='{max(end - left, 0):.1f}' height='16' fill='{color}'"
            " fill-opacity='.75'/>"
        )
        beyond = end
        if between is not None:
            a, beyond = frame.at_x(between[0]), frame.at_x(between[1])
            parts.append(_whisker_across(a, beyond, middle))
        parts.append(_text(max(end, beyond) + _GAP, middle + 4, x.say(v)))
    return _svg(title, width, height, parts)


def heatmap(
    cells: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    title: str,
    row_label: str,
    column_label: str,
    totals: Sequence[int] | None = None,
) -> str:
    """A square a pair, deeper the larger its share of the row; the diagonal in blue, the rest in orange.

    Args:
        cells: (c, c) counts. Numbers are written into them up to 15 classes; each square says its count when pointed at.
        totals: what a row is a share of; the row's sum where absent (it is less than the total where columns are left out).
    """
    c = len(names)
    side = max(12, min(44, 600 // max(c, 1)))
    names_width = _WIDE_LETTER * max((len(_short(n)) for n in names), default=0)
    left, top = 40 + names_width, 66 + names_width
    parts = [
        _text(left + side * c / 2, 44, column_label, "middle"),
        f"<g transform='translate(16 {top + side * c / 2:g}) rotate(-90)'>{_text(0, 0, row_label, 'middle')}</g>",
    ]
    for i, name in enumerate(names):
        middle = side * (i + 0.5)
        parts.append(_label(left - _GAP, top + middle + 4, name, "end"))
        parts.append(
            f"<g transform='translate({left + middle + 4:g} {top - _GAP:g}) rotate(-90)'>{_label(0, 0, name, 'start')}</g>"
        )
        whole = totals[i] if totals is not None else sum(cells[i])
        parts += [_cell(cells, names, i, j, whole, left + side * j, top + side * i, side) for j in range(c)]
    width = max(left + side * c + 16, 2 * _GAP + _BOLD_LETTER * len(title))
    return _svg(title, round(width), round(top + side * c + 12), parts)


def _cell(
    cells: Sequence[Sequence[int]], names: Sequence[str], i: int, j: int, whole: int, x: float, y: float, side: int
) -> str:
    count = cells[i][j]
    border = (
        f"<rect x='{x:g}' y='{y:g}' width='{side}' height='{side}' fill='none' stroke='currentColor' stroke-opacity='.12'/>"
    )
    if not count:
        return border
    depth = 0.12 + 0.88 * math.sqrt(count / max(whole, count))
    told = (
        f"{names[i]}, taken for {names[j]}: {count:,} of {whole:,}"
        if i != j
        else f"{names[i]}, right: {count:,} of {whole:,}"
    )
    number = _text(x + side / 2, y + side / 2 + 4, f"{count:,}", "middle") if len(names) <= 15 else ""
    color = BLUE if i == j else ORANGE
    return (
        f"<g><title>{escape(told)}</title><rect x='{x:g}' y='{y:g}' width='{side}' height='{side}' fill='{color}'"
        f" fill-opacity='{depth:.2f}'/>{number}</g>{border}"
    )


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    heading = f"<text x='{_GAP}' y='18' {_FONT} font-weight='600'>{escape(title)}</text>"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' role='img'"
        f" aria-label='{escape(title)}' style='max-width:100%;height:auto'><title>{escape(title)}</title>"
        f"{heading}{''.join(parts)}</svg>"
    )


def _axes(frame: Frame) -> str:
    lines = [_x_axis(frame)]
    right, middle = frame.left + frame.width, frame.top + frame.height / 2
    for tick in frame.y.ticks():
        y = frame.at_y(tick)
        lines.append(
            f"<line x1='{frame.left:g}' x2='{right:g}' y1='{y}' y2='{y}' stroke='currentColor' stroke-opacity='.12'/>"
        )
        lines.append(_text(frame.left - _GAP, y + 4, frame.y.say(tick), "end"))
    lines.append(f"<g transform='translate(12 {middle:g}) rotate(-90)'>{_text(0, 0, frame.y.label, 'middle')}</g>")
    return "".join(lines)


def _x_axis(frame: Frame) -> str:
    bottom = frame.top + frame.height
    lines = []
    for tick in frame.x.ticks():
        x = frame.at_x(tick)
        lines.append(
            f"<line x1='{x}' x2='{x}' y1='{frame.top:g}' y2='{bottom:g}' stroke='currentColor' stroke-opacity='.12'/>"
        )
        lines.append(_text(x, bottom + 16, frame.x.say(tick), "middle"))
    lines.append(_text(frame.left + frame.width / 2, bottom + 36, frame.x.label, "middle"))
    base = f"x1='{frame.left:g}' x2='{frame.left + frame.width:g}' y1='{bottom:g}' y2='{bottom:g}'"
    return "".join([*lines, f"<line {base} stroke='currentColor' stroke-opacity='.5'/>"])


def _series(frame: Frame, s: Series) -> str:
    points = [(frame.at_x(a), frame.at_y(b)) for a, b in zip(s.x, s.y, strict=True)]
    whiskers = "".join(
        _whisker_up(frame.at_x(a), frame.at_y(low), frame.at_y(high), s.color)
        for a, low, high in zip(s.x, s.low, s.high, strict=False)
    )
    if s.style == "points":
        radii = s.radii or [4.0] * len(points)
        dots = (f"<circle cx='{a}' cy='{b}' r='{r:g}' fill='{s.color}'/>" for (a, b), r in zip(points, radii, strict=True))
        return whiskers + "".join(dots)
    dash = " stroke-dasharray='5 4' stroke-opacity='.6'" if s.style == "dashed" else ""
    path = " ".join(f"{a},{b}" for a, b in points)
    return f"{whiskers}<polyline points='{path}' fill='none' stroke='{s.color}' stroke-width='2'{dash}/>"


def _whisker_up(x: float, low: float, high: float, color: str) -> str:
    ends = "".join(f"M{x - 4:g} {y}H{x + 4:g}" for y in (low, high))
    return f"<path d='M{x} {low}V{high}{ends}' stroke='{color}' stroke-opacity='.7' fill='none'/>"


def _whisker_across(low: float, high: float, y: float) -> str:
    ends = "".join(f"M{x} {y - 5:g}V{y + 5:g}" for x in (low, high))
    return f"<path d='M{low} {y:g}H{high}{ends}' stroke='currentColor' fill='none'/>"


def _marks(frame: Frame, marks: Sequence[tuple[float, str]]) -> str:
    """A dotted line each; its name where it does not run into that of the mark before it."""
    parts, free = [], 0.0
    bottom = frame.top + frame.height
    for at, said in sorted(marks):
        x = frame.at_x(at)
        line = f"<line x1='{x}' x2='{x}' y1='{frame.top:g}' y2='{bottom:g}' stroke='currentColor' stroke-dasharray='2 3'/>"
        half = _WIDE_LETTER * len(said) / 2
        named = x - half >= free
        parts.append(line + (_text(x, frame.top - 5, said, "middle") if named else ""))
        free = x + half if named else free
    return "".join(parts)


def _legend_rows(series: Sequence[Series], width: float) -> list[list[Series]]:
    """The names in rows that fit."""
    rows: list[list[Series]] = []
    used = 0.0
    for s in series:
        needed = 40 + _LETTER * len(s.name)
        if not rows or used + needed > width:
            rows.append([])
            used = 0.0
        rows[-1].append(s)
        used += needed
    return rows


def _legend(rows: Sequence[Sequence[Series]]) -> str:
    parts = []
    for i, row in enumerate(rows):
        x, y = 56.0, 38 + 18 * i
        for s in row:
            if s.style == "points":
                parts.append(f"<circle cx='{x + 10:g}' cy='{y - 4}' r='4' fill='{s.color}'/>")
            else:
                dash = " stroke-dasharray='5 4' stroke-opacity='.6'" if s.style == "dashed" else ""
                parts.append(f"<path d='M{x:g} {y - 4}h20' stroke='{s.color}' stroke-width='2'{dash}/>")
            parts.append(_text(x + 26, y, s.name))
            x += 40 + _LETTER * len(s.name)
    return "".join(parts)


def _text(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}' {_FONT}>{escape(said)}</text>"


def _label(x: float, y: float, name: str, anchor: str) -> str:
    """A name, shortened; the whole of it when pointed at."""
    if _short(name) == name:
        return _text(x, y, name, anchor)
    return f"<g><title>{escape(name)}</title>{_text(x, y, _short(name), anchor)}</g>"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
