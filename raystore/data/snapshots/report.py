"""What a snapshot holds, to look at: class by side with shares, or the range of its numbers by side; what was left out, conflicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.snapshots.split import SIDES
from raystore.data.tabular import Cell, html_table, text_table

Ranges = dict[str, tuple[float, float, float]]

_SHOWN = 30


def text_report(label: str, spec: Mapping[str, Any], ranges: Ranges | None = None) -> str:
    parts = [_caption(label, spec), ""]
    columns, rows, more = _classes(spec) if ranges is None else _numbers(spec, ranges)
    if rows:
        parts += [text_table(columns, rows), *([more] if more else []), ""]
    parts += _notes(spec)
    return "\n".join(parts).rstrip()


def html_report(label: str, spec: Mapping[str, Any], ranges: Ranges | None = None) -> str:
    import html

    columns, rows, more = _classes(spec) if ranges is None else _numbers(spec, ranges)
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in [*([more] if more else []), *_notes(spec)])
    listed = f"<ul>{notes}</ul>" if notes else ""
    return html_table(columns, rows, caption=_caption(label, spec)) + listed


def ranges(rows: pa.Table) -> Ranges:
    """Smallest, median and largest label of each side that has rows; read from the rows, so that what is erased is gone from it."""
    found = {}
    for side in SIDES:
        labels = rows["label"].filter(pc.equal(rows["split"], side)).to_numpy()
        if len(labels):
            found[side] = (float(labels.min()), float(np.median(labels)), float(labels.max()))
    return found


def _numbers(spec: Mapping[str, Any], ranges: Ranges) -> tuple[list[str], list[list[Cell]], str]:
    rows: list[list[Cell]] = [[side, spec["counts"][side], *(f"{x:.6g}" for x in found)] for side, found in ranges.items()]
    return ["side", "rows", "min", "median", "max"], rows, ""


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
    absent = spec.get("not_in_train") or {}
    if absent:
        few = ", ".join(f"'{label}' ({n:,})" for label, n in list(absent.items())[:5])
        lines.append(
            f"classes without a row on train: {few}" + (f" and {len(absent) - 5:,} more" if len(absent) > 5 else "")
        )
    if spec.get("stale_events"):
        lines.append(f"look at this: {spec['stale_events']}")
    if spec["task"] == "labels":  # a row may well have several
        return lines
    if spec["conflicts"] is None:
        lines.append("conflicts: not counted, since the label rule names no column that it chooses from")
    elif spec["conflicts"]:
        lines.append(f"conflicts: {spec['conflicts']:,} ids had several different labels")
    return lines
