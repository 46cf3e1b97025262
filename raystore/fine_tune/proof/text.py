"""A proof in the terminal: the verdict, its figures, the classes that got worse, neighbours; 100 columns, without colour."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raystore.fine_tune.proof import words

if TYPE_CHECKING:
    from raystore.fine_tune.proof.proof import Asked, Proof

_CLASSES = 10
_ASKED = 3
_WIDTH = 100


def text(proof: Proof, items: Mapping[str, str]) -> str:
    """The proof for a terminal; `items` by id are shown beside the neighbours."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, force_jupyter=False, width=_WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(words.headline(proof))
    for said in words.verdict_notes(proof):
        console.print(said)
    console.print(f"\n{proof.after} against {proof.before}: {words.where(proof)}.")
    if said := words.left_out(proof):
        console.print(said)
    rows = [
        (words.name_of(name, proof.k), words.value(name, c.before), words.value(name, c.after), words.gain(name, c.value),
         words.between(name, c), words.mark(c))
        for name, c in proof.metrics.items()
    ]  # fmt: skip
    console.print("", _table(("", "before", "after", "difference", "95% interval", ""), rows), "", sep="\n")
    for said in [*words.mcnemar_said(proof), *words.worse_sentences(proof)]:
        console.print(said)
    if worse := proof.worse_classes:
        shown = worse[:_CLASSES]
        more = "" if len(shown) == len(worse) else f", the {len(shown)} of {len(worse):,} that lost most surely"
        p = words.name_of("precision", proof.k)
        cells = [
            (c.label, words.value("precision", c.precision.before), words.value("precision", c.precision.after),
             words.gain("precision", c.precision.value), words.between("precision", c.precision), f"{c.rows:,}",
             words.mark(c.precision))
            for c in shown
        ]  # fmt: skip
        title = f"Classes that got worse in {p}{more}"
        console.print(
            "", _table(("class", "before", "after", "difference", "95% interval", "rows", ""), cells, title), sep="\n"
        )
    for asked in proof.neighbours[:_ASKED]:
        console.print("", _side_by_side(asked, items), sep="\n")
    if len(proof.neighbours) > _ASKED:
        console.print(f"\n{len(proof.neighbours) - _ASKED} more rows with their neighbours stand in the page (to_html).")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column(headers[0], overflow="ellipsis", no_wrap=True, max_width=40)
    for header in headers[1:]:
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _side_by_side(asked: Asked, items: Mapping[str, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    before, after = asked.right
    k = len(asked.before)
    title = f"Row {asked.id}, '{asked.label}': neighbours of its label {before} of {k} before, {after} of {k} after"
    if asked.id in items:
        title += f"\n  {words.cut(_said(items[asked.id]), 90)}"
    table = Table(title=Text(title), title_justify="left", title_style="", box=None, pad_edge=False, width=_WIDTH)
    for header in ("before", "after"):
        table.add_column(header, overflow="ellipsis", no_wrap=True, ratio=1)
    for pair in zip(asked.before, asked.after, strict=True):
        cells = []
        for each in pair:
            item = f": {words.cut(_said(items[each.id]), 60)}" if each.id in items else ""
            cells.append(
                Text(f"{'=' if each.label == asked.label else ' '} {each.cosine:.2f} {each.label} ({each.id}){item}")
            )
        table.add_row(*cells)
    return table


def _said(item: str) -> str:
    return "(an image)" if item.startswith("data:image/") else item
