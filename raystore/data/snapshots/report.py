"""What a snapshot holds, to look at: class by side with shares, what was left out, conflicts. Knows a spec and no row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raystore.data.snapshots.split import SIDES
from raystore.data.tabular import Cell, html_table, text_table

_SHOWN = 30


def text_report(label: str, spec: Mapping[str, Any]) -> str:
    parts = [_caption(label, spec), ""]
    columns, rows, more = _classes(spec)
    if rows:
        parts += [text_table(columns, rows), *([more] if more else []), ""]
    parts += _notes(spec)
    return "\n".join(parts).rstrip()


def html_report(label: str, spec: Mapping[str, Any]) -> str:
    import html

    columns, rows, more = _classes(spec)
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in [*([more] if more else []), *_notes(spec)])
    listed = f"<ul>{notes}</ul>" if notes else ""
    return html_table(columns, rows, caption=_caption(label, spec)) + listed


def _caption(label: str, spec: Mapping[str, Any]) -> str:
    n = sum(spec["counts"].values())
    sides = ", ".join(f"{spec['counts'][side]:,} {side}" for side in SIDES)
    return f"Snapshot {label}: {n:,} rows of '{spec['collection']}' ({sides}), hash {spec['hash'][:12]}"


def _classes(spec: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]], str]:
    """Rows of each class on each side with its share of that side, the largest classes first."""
    counts, by_class = spec["counts"], spec["by_class"]
    order = sorted(by_class, key=lambda c: (-spec["classes"][c], c))
    rows: list[list[Cell]] = []
    for label in order[:_SHOWN]:
        row: list[Cell] = [label, spec["classes"][label]]
        for side in SIDES:
            n = by_class[label][side]
            row += [n, f"{n / counts[side]:.1%}" if counts[side] else None]
        rows.append(row)
    columns = ["class", "rows", *(name for side in SIDES for name in (side, "share"))]
    rest = order[_SHOWN:]
    more = f"and {len(rest):,} more classes with {sum(spec['classes'][c] for c in rest):,} rows" if rest else ""
    return columns, rows, more


def _notes(spec: Mapping[str, Any]) -> list[str]:
    lines = [f"left out: {n:,} rows: {reason}" for reason, n in spec["left_out"].items()]
    small = spec.get("too_small") or {}
    if small:
        few = ", ".join(f"'{label}' ({n:,})" for label, n in list(small.items())[:5])
        lines.append(f"classes left out: {few}" + (f" and {len(small) - 5:,} more" if len(small) > 5 else ""))
    if spec["conflicts"]:
        lines.append(f"conflicts: {spec['conflicts']:,} ids had several different labels")
    return lines
