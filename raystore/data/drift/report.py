"""What `drift` found, as facts, text, HTML with a small drawing, and JSON. Computes nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from raystore.data.tabular import html_table, shown, text_table
from raystore.markup import page_html

_SHOWN = 10


@dataclass(frozen=True)
class ShareChange:
    """How many of the labelled rows of each sample have a label."""

    label: str
    rows_a: int
    rows_b: int
    size_a: int
    size_b: int

    @property
    def share_a(self) -> float:
        return self.rows_a / self.size_a if self.size_a else 0.0

    @property
    def share_b(self) -> float:
        return self.rows_b / self.size_b if self.size_b else 0.0

    @property
    def change(self) -> float:
        return self.share_b - self.share_a


@dataclass(frozen=True)
class Balance:
    """The classes' shares, largest change first; the p-value of equal shares and the rows it rests on; rows without a label."""

    changes: list[ShareChange]
    p_value: float
    sizes: tuple[int, int]
    unlabelled: tuple[int, int]


@dataclass(frozen=True)
class ClassShift:
    """How far the mean vector of a class moved beyond what chance gives, the drawn rows it rests on, and whether it counts."""

    label: str
    rows_a: int
    rows_b: int
    distance: float
    p_value: float
    moved: bool


@dataclass(frozen=True)
class EmbeddingDrift:
    """The two tests of the embeddings, and one p-value of both: twice the smaller."""

    auc: float
    auc_p_value: float
    mmd2: float
    mmd_p_value: float
    kernel_width: float
    p_value: float
    sizes: tuple[int, int]
    permutations: int


@dataclass(frozen=True)
class DriftReport:
    """Whether and how sample `b` differs from sample `a`.

    Attributes:
        rows: how many rows each has; `shared` stand in both.
        balance: the classes' shares, or None without labels.
        embedding: the tests of the embeddings.
        classes: how far each class moved, smallest p-value first; empty without labels.
        threshold: `alarm` is an embedding p-value below it.
        note: what was left out, or how labels were made, in a sentence.
    """

    a: str
    b: str
    rows: tuple[int, int]
    shared: int
    balance: Balance | None
    embedding: EmbeddingDrift
    classes: list[ClassShift]
    threshold: float
    note: str = ""

    @property
    def alarm(self) -> bool:
        return self.embedding.p_value < self.threshold

    @property
    def moved(self) -> list[str]:
        """The classes whose rows lie elsewhere than they did."""
        return [shift.label for shift in self.classes if shift.moved]

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        told: dict[str, Any] = {**asdict(self), "alarm": self.alarm, "moved": self.moved}
        if self.balance is not None:
            told["balance"]["changes"] = [
                {**asdict(c), "share_a": c.share_a, "share_b": c.share_b, "change": c.change} for c in self.balance.changes
            ]
        return told

    def to_html(self) -> str:
        """One HTML file."""
        return page_html(f"Drift: {self.b} against {self.a}", self._repr_html_())

    def __str__(self) -> str:
        return "\n\n".join(["\n".join(self._words()), *(f"{caption}\n{text_table(*t)}" for caption, t in self._tables())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{escape(line)}</p>" for line in self._words())
        drawn = share_bars(self.balance.changes[:_SHOWN]) if self.balance is not None else ""
        return words + drawn + "".join(html_table(*table, caption=caption) for caption, table in self._tables())

    def _words(self) -> list[str]:
        e = self.embedding
        least = 1 / (1 + e.permutations)  # that a test by permutations can give
        both = f", {self.shared:,} of them in both" if self.shared else ""
        lines = [
            f"{'ALARM: ' if self.alarm else 'no alarm: '}{self.b} ({self.rows[1]:,} rows) against "
            f"{self.a} ({self.rows[0]:,} rows){both}.",
            f"Embeddings: {p_said(e.p_value, 2 * least)} from {e.sizes[0]:,} and {e.sizes[1]:,} rows and {e.permutations:,} "
            f"permutations; a classifier tells them apart with AUC {e.auc:.3f} ({p_said(e.auc_p_value, least)}), "
            f"MMD^2 is {e.mmd2:.2e} ({p_said(e.mmd_p_value, least)}).",
        ]
        if self.balance is not None:
            n, m = self.balance.sizes
            largest = ", ".join(f"{shown(c.label)} {100 * c.change:+.1f}" for c in self.balance.changes[:3])
            lines.append(
                f"Class balance: {p_said(self.balance.p_value)} from {n:,} and {m:,} rows; largest changes in points: {largest}."
            )
            if any(self.balance.unlabelled):
                lines.append("Without a label: {:,} and {:,} rows.".format(*self.balance.unlabelled))
            lines.append(f"Classes that moved: {self._moved_said()}.")
        return [*lines, self.note] if self.note else lines

    def _moved_said(self) -> str:
        if not self.moved:
            return f"none of the {len(self.classes):,} with rows enough" if self.classes else "none has rows enough to tell"
        names = ", ".join(shown(name) for name in self.moved[:_SHOWN])
        more = f" and {len(self.moved) - _SHOWN:,} more" if len(self.moved) > _SHOWN else ""
        return f"{len(self.moved):,} of {len(self.classes):,} with rows enough: {names}{more}"

    def _tables(self) -> list[tuple[str, tuple[list[str], list[list[Any]]]]]:
        if self.balance is None:
            return []
        shares = [
            [c.label, c.rows_a, c.rows_b, _percent(c.share_a), _percent(c.share_b), f"{100 * c.change:+.2f}"]
            for c in self.balance.changes[:_SHOWN]
        ]
        shifts = [
            [s.label, s.rows_a, s.rows_b, s.distance, p_said(s.p_value).removeprefix("p ").removeprefix("= "), s.moved]
            for s in self.classes[:_SHOWN]
        ]
        found = [
            ("largest share changes", (["class", "rows a", "rows b", "share a", "share b", "points"], shares)),
            ("classes, by shift of their mean", (["class", "drawn a", "drawn b", "distance", "p", "moved"], shifts)),
        ]
        return [(caption, table) for caption, table in found if table[1]]


def p_said(value: float, least: float = 0.001) -> str:
    """'p = 0.024'; 'p < 0.005' where it is the least there can be."""
    if value > least:
        return f"p = {value:.2g}"
    digits = 1 - math.floor(math.log10(least))
    return f"p < {math.ceil(least * 10**digits) / 10**digits:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def share_bars(changes: list[ShareChange]) -> str:
    """A bar a class to the right or left of a line, in percentage points, as inline SVG; the page's own text colour."""
    if not changes:
        return ""
    most = max(abs(c.change) for c in changes) or 1.0
    height, middle, half = 20, 330, 130
    parts = []
    for i, c in enumerate(changes):
        y, width = i * height, half * abs(c.change) / most
        x = middle if c.change >= 0 else middle - width
        told = f"{shown(c.label)}: {_percent(c.share_a)} to {_percent(c.share_b)}"
        label = shown(c.label)
        label = label if len(label) <= 26 else label[:25] + "…"
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f"<text x='190' y='{y + 14}' text-anchor='end' fill='currentColor'>{escape(label)}</text>"
            f"<rect x='{x:.1f}' y='{y + 3}' width='{width:.1f}' height='14' fill='{'#2a7fb8' if c.change >= 0 else '#c8553d'}'/>"
            f"<text x='{middle + half + 8}' y='{y + 14}' fill='currentColor'>{100 * c.change:+.2f}</text></g>"
        )
    total = len(changes) * height
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='520' height='{total + 4}' viewBox='0 0 520 {total + 4}' role='img' "
        f"aria-label='share changes in percentage points' font-family='sans-serif' font-size='12'>"
        f"<line x1='{middle}' x2='{middle}' y1='0' y2='{total}' stroke='currentColor' stroke-opacity='0.4'/>{''.join(parts)}</svg>"
    )
