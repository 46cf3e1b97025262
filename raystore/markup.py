"""How things show themselves in a notebook: two plain tables, of facts and of rows. Pure; every value is escaped.

No script and no style sheet: it looks right in a light and in a dark notebook, and in a page that is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
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
    if isinstance(value, (list, tuple)):
        value = ", ".join(shown(v) for v in value)
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def facts_html(title: str, facts: Mapping[str, object], note: str = "") -> str:
    """One table with a caption: a fact a row, its name on the left."""
    rows = "".join(
        f"<tr><th{_LEFT}>{escape(name)}</th><td{_LEFT}>{escape(shown(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<table><caption{_CAPTION}>{escape(title)}</caption>{rows}</table>{_paragraph(note)}"


def rows_html(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, *, title: str = "", note: str = ""
) -> str:
    """One table with a header: a row each, numbers on the right. Without `columns`, those of the first row."""
    listed = list(rows)
    names = list(columns) if columns is not None else list(listed[0]) if listed else []
    return cells_html(names, ([row.get(name) for name in names] for row in listed), title=title, note=note)


def cells_html(names: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", note: str = "") -> str:
    """The same from rows of cells, where two columns may have one name."""
    head = "".join(f"<th{_LEFT}>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    caption = f"<caption{_CAPTION}>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_paragraph(note)}"


def _cell(value: object) -> str:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"<td{_RIGHT if numeric else _LEFT}>{escape(shown(value))}</td>"


def _paragraph(note: str) -> str:
    return f"<p>{escape(note)}</p>" if note else ""
