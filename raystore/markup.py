"""How things show themselves in a notebook: two plain tables, of facts and of rows. Pure; every value is escaped.

No script and no style sheet: it looks right in a light and in a dark notebook, and in a page that is printed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from numbers import Number
from typing import Any

_LEFT = " style='text-align:left'"
_CAPTION = " style='text-align:left;white-space:nowrap'"
_RIGHT = " style='text-align:right'"
_LONGEST = 120  # characters of one value


def shown(value: object) -> str:
    """A value as people read it: four digits of a fraction, nothing for None; whole numbers plain, since they may be ids or years."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        value = [f"{name}: {shown(each)}" for name, each in value.items()]
    if isinstance(value, (list, tuple)):
        value = ", ".join(shown(v) for v in value)
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def facts_html(title: str, facts: Mapping[str, object], note: str = "") -> str:
    """One table with a caption: a fact a row, its name on the left, 'rows_per_s' as 'rows a second'."""
    rows = "".join(
        f"<tr><th{_LEFT}>{escape(_named(name))}</th><td{_LEFT}>{escape(shown(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table><caption{_CAPTION}>{escape(title)}</caption>{rows}</table>{_paragraph(note)}"


def rows_html(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, *, title: str = "", note: str = ""
) -> str:
    """One table with a header: a row each, a column of numbers on the right. Without `columns`, those of the first row."""
    listed = list(rows)
    names = list(columns) if columns is not None else list(listed[0]) if listed else []
    return cells_html(names, ([row.get(name) for name in names] for row in listed), title=title, note=note)


def cells_html(
    names: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    note: str = "",
    right: Collection[str] = (),
) -> str:
    """The same from rows of cells, where two columns may have one name. The columns `right` stand on the right too: their numbers
    are written out already."""
    listed = [list(row) for row in rows]
    sides = [_RIGHT if name in right or _numeric(row[i] for row in listed) else _LEFT for i, name in enumerate(names)]
    head = "".join(f"<th{side}>{escape(name)}</th>" for name, side in zip(names, sides, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{side}>{escape(shown(cell))}</td>" for cell, side in zip(row, sides, strict=True)) + "</tr>"
        for row in listed
    )
    caption = f"<caption{_CAPTION}>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_paragraph(note)}"


def page_html(title: str, body: str) -> str:
    """A whole page around HTML that is escaped already."""
    told = escape(title)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{told}</title></head>\n<body style='font-family:sans-serif'>\n<h1>{told}</h1>\n{body}\n</body></html>\n"
    )


def _numeric(cells: Iterable[object]) -> bool:
    """Whether there are numbers and, but for nothing, nothing else."""
    present = [cell for cell in cells if cell is not None]
    return bool(present) and all(isinstance(cell, Number) and not isinstance(cell, bool) for cell in present)


def _named(name: str) -> str:
    return name.replace("_per_s", " a second").replace("_", " ")


def _paragraph(note: str) -> str:
    return f"<p>{escape(note)}</p>" if note else ""
