"""How a comparison of two heads is shown: sentences and tables, in the terminal and in HTML."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING

from raystore.train.report.html import document
from raystore.train.report.plots import BLUE, ORANGE
from raystore.train.report.words import HEADLINES, NAMES, NUMBERS, value

if TYPE_CHECKING:
    from raystore.train.compare.compare import ClassChange, Comparison, Difference

_SHOWN_CLASSES = 10
_PAGE_CLASSES = 60
_SHOWN_IDS = 5


def gain(name: str, *changes: float) -> str:
    """'+1.2 points', '+0.4 to +1.9 points'; or '-0.31' for what is no share."""
    if name in NUMBERS:
        return " to ".join(f"{change:+.3g}" for change in changes)
    return " to ".join(f"{100 * change:+.1f}" for change in changes) + " points"


def p_said(p: float) -> str:
    """'p = 0.012', 'p < 0.001'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(c: Comparison) -> str:
    """Which head is better, if that can be told."""
    name, d = HEADLINES[c.task], c.headline
    figures = f"{NAMES[name]} {value(name, d.b)} in {c.b} against {value(name, d.a)} in {c.a}"
    sure = f"{gain(name, d.value)} (95% interval {gain(name, d.low, d.high)})"
    if c.better is None:
        return f"Which is better cannot be told from these {c.rows:,} rows: {figures}, {sure}."
    return f"{c.better} is better: {figures}, {sure}."


def mcnemar_said(c: Comparison) -> str:
    """McNemar's test in words; nothing for numbers."""
    if c.mcnemar is None:
        return ""
    m, how = c.mcnemar, "exact" if c.mcnemar.exact else "chi-square"
    rows = f"{m.only_b:,} rows are right in {c.b} alone, {m.only_a:,} in {c.a} alone (McNemar, {how}: {p_said(m.p)})"
    if c.entities < c.rows:
        several = "1 entity has" if c.repeated == 1 else f"{c.repeated:,} entities have"
        return f"{rows}. The test takes rows as independent; here {several} several, so trust the intervals."
    return f"{rows}."


def sides_said(c: Comparison) -> list[str]:
    """The rows that changed sides, with the first few ids."""
    said = []
    for what, sides in zip(_better(c), (c.gained, c.lost), strict=True):
        first = ", ".join(sides.ids[:_SHOWN_IDS]) + (", ..." if sides.count > _SHOWN_IDS else "")
        said.append(f"{what}: {sides.count:,}" + (f" ({first})" if sides.ids else ""))
    if c.otherwise:
        said.append(f"wrong in both, in different ways: {c.otherwise:,}")
    return said


def _better(c: Comparison) -> tuple[str, str]:
    if c.task == "number":
        return f"nearer in {c.b}", f"farther off in {c.b}"
    return f"wrong in {c.a}, right in {c.b}", f"right in {c.a}, wrong in {c.b}"


def moved_classes(c: Comparison) -> list[ClassChange]:
    """The classes that changed, those with the largest change of rows first."""
    moved = (x for x in c.per_class if x.gained or x.lost)
    return sorted(moved, key=lambda x: (-abs(x.gained - x.lost), -(x.gained + x.lost)))


def comparison_text(c: Comparison) -> str:
    """For a terminal of 100 columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(
        file=out, force_jupyter=False, width=100, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(f"{c.a} and {c.b}, on {c.rows:,} rows of {c.split}{f' of {c.snapshot}' if c.snapshot else ''}")
    console.print(verdict(c))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in (c.a, c.b, "difference", "95% interval", "p"):
        table.add_column(Text(column), justify="right")
    for name, d in c.differences.items():
        table.add_row(NAMES[name], *_cells(name, d))
    console.print("", table, "", sep="\n")
    if said := mcnemar_said(c):
        console.print(said)
    for said in sides_said(c):
        console.print(said)
    if moved := moved_classes(c):
        shown = moved[:_SHOWN_CLASSES]
        title = (
            "Classes that changed"
            if len(shown) == len(moved)
            else f"The {len(shown)} of {len(moved):,} classes that changed most"
        )
        table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
        table.add_column("class", overflow="ellipsis", no_wrap=True, max_width=42)
        for column in ("gained", "lost", f"F1 of {c.a}", f"F1 of {c.b}", "rows"):
            table.add_column(Text(column), justify="right")
        for x in shown:
            table.add_row(Text(x.label), f"{x.gained:,}", f"{x.lost:,}", f"{x.f1_a:.1%}", f"{x.f1_b:.1%}", f"{x.support:,}")
        console.print("", table, sep="\n")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def comparison_page(c: Comparison, *, whole: bool = True) -> str:
    """The comparison as one HTML file, or as what a notebook shows."""
    title = f"{c.a} and {c.b}"
    on = f"on {c.rows:,} rows of {c.split}{f' of {c.snapshot}' if c.snapshot else ''}"
    parts = [
        f"<h1>{escape(title)}</h1>" if whole else f"<p><b>{escape(title)}</b></p>",
        f"<p class='soft'>{escape(on)}</p>",
    ]
    parts.append(f"<p class='lead'>{escape(verdict(c))}</p>")
    scores = "".join(_row([NAMES[name], *_cells(name, d)]) for name, d in c.differences.items())
    parts.append(_table(["", c.a, c.b, "difference", "95% interval", "p"], scores))
    parts.append(f"<p>{escape(mcnemar_said(c))}</p>" if c.mcnemar else "")
    parts.append("<ul>" + "".join(f"<li>{escape(said)}</li>" for said in sides_said(c)) + "</ul>")
    if moved := moved_classes(c):
        shown = moved[: _PAGE_CLASSES if whole else _SHOWN_CLASSES]
        parts.append("<h2>Gains and losses by class</h2>" if whole else "<p>Gains and losses by class</p>")
        parts.append(
            f"<p>Gained: rows that {escape(c.b)} names right and {escape(c.a)} does not; lost: the other way round. The largest "
            f"change first{'' if len(shown) == len(moved) else f', {len(shown)} of {len(moved):,}'}.</p>"
        )
        most = max(max(x.gained, x.lost) for x in shown)
        parts.append(
            _table(
                ["class", "", "gained", "lost", f"F1 of {c.a}", f"F1 of {c.b}", "rows"],
                "".join(_class(x, most) for x in shown),
            )
        )
    if whole:
        parts += [_listed(_better(c)[0], c.gained.ids, c.gained.count), _listed(_better(c)[1], c.lost.ids, c.lost.count)]
        return document(title, parts)
    return f"<div>{''.join(parts)}</div>"


def _cells(name: str, d: Difference) -> list[str]:
    p = p_said(d.p).removeprefix("p ").removeprefix("= ")
    return [value(name, d.a), value(name, d.b), gain(name, d.value), gain(name, d.low, d.high), p]


def _class(x: ClassChange, most: int) -> str:
    """A row of the table: what it lost to the left in orange, what it gained to the right in blue."""
    left, right = 45 * x.lost / most, 45 * x.gained / most
    rects = "".join(
        f"<rect x='{at:.1f}' y='2' width='{wide:.1f}' height='8' fill='{color}'/>"
        for at, wide, color in ((46 - left, left, ORANGE), (46, right, BLUE))
    )
    bar = f"<svg width='92' height='12' aria-hidden='true'>{rects}<path d='M46 0V12' stroke='currentColor'/></svg>"
    cells = [escape(x.label), bar, f"{x.gained:,}", f"{x.lost:,}", f"{x.f1_a:.1%}", f"{x.f1_b:.1%}", f"{x.support:,}"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _row(cells: list[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _table(headers: list[str], body: str) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headers)
    return f"<div class='wide'><table class='classes'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _listed(what: str, ids: tuple[str, ...], count: int) -> str:
    if not ids:
        return ""
    first = "" if count == len(ids) else f", the first {len(ids)}"
    return f"<details><summary>Rows {what}: {count:,}{first}</summary><p>{escape(', '.join(ids))}</p></details>"
