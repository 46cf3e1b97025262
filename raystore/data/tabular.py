"""Small tables for people: in a terminal and in a notebook. Knows nothing of what the cells mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raystore.markup import cells_html

Cell = str | int | float | bool | None


def shown(cell: Cell) -> str:
    """1,234; 0.123; yes; '-' for nothing; text as it is, with what would break a line or draw over it made visible."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in cell)


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """The rows under their column names; numbers stand to the right, text to the left."""
    kept = [list(row) for row in rows]
    lines = [list(columns), *([shown(cell) for cell in row] for row in kept)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    right = [bool(kept) and all(_is_number(row[i]) for row in kept) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str = "") -> str:
    """The same as an HTML table."""
    return cells_html(columns, rows, title=caption)
