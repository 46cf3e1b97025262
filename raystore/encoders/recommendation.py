"""A way to run an encoder as it was measured, and what follows for who has to choose one. Pure: numbers in, words out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raystore.encoders.choice import BY_DEFAULT, NO_CHOICE, Choice, derive_command
from raystore.encoders.measure import points
from raystore.encoders.passport import Modality

COLUMNS = (
    *("run on", "device", "items", "rows/s", "one ms", "a million", "worst cosine", "neighbours", "accuracy", "encoder"),
    "how to have it",
)

_WORTH = 1.05  # times as fast; less is noise, and no reason for another encoder


@dataclass(frozen=True)
class BenchRow:
    """One way to run it, on items of one kind. Numbers are None where it could not be run (`problem`), or where nothing
    was given to measure."""

    name: str
    device: str
    encoder: str | None  # the label of the registered encoder this is, if it is one
    kind: Modality = "text"
    same: bool = False  # as the reference, in every kind of item the encoder takes
    choice: Choice = NO_CHOICE
    rows_per_s: float | None = None
    one_ms: float | None = None
    cost_per_million: float | None = None
    worst_cosine: float | None = None
    overlap_at_10: float | None = None
    accuracy: float | None = None
    accuracy_change: float | None = None
    problem: str | None = None

    @property
    def shown(self) -> dict[str, str]:
        """By COLUMNS, for a table."""
        cells = [self.name, self.device, f"{self.kind}s", _number(self.rows_per_s, ",.0f"), _number(self.one_ms, ".1f")]
        cells += [_number(self.cost_per_million, ",.2f"), _number(self.worst_cosine, ".5f")]
        head = "" if self.accuracy is None else f"{self.accuracy:.1%} ({points(self.accuracy_change)})"
        cells += [_number(self.overlap_at_10, ".3f"), head, self.problem or self._is_what]
        cells += ["" if self.problem else self.choice.said]
        return dict(zip(COLUMNS, cells, strict=True))

    @property
    def _is_what(self) -> str:
        if self.same:
            return "the same"
        if self.choice.is_the_same_name:  # by the items it was compared on when it was converted
            return "the same, but not on these items"
        return self.encoder or "another, not registered"


def recommend(label: str, rows: Sequence[BenchRow], *, lacks_int8: bool = False) -> str:
    """A line for each kind of item: the fastest way that is the same encoder and how to have it, the cheapest if that is
    another, the fastest other encoder and what it loses. Ways that nobody can choose are never in it.

    Args:
        lacks_int8: none was derived, and it could be: then it is said that deriving one would tell.
    """
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines = [_of_kind(label, [row for row in rows if row.kind == kind]) for kind in kinds]
    if len(lines) > 1:
        lines = [f"{kind.capitalize()}s: {line}" for kind, line in zip(kinds, lines, strict=True)]
    if lacks_int8 and lines:
        command = derive_command(label.partition("@")[0], "int8")
        lines[-1] += f" No int8 encoder is derived from it yet; '{command}' would tell what that gains and costs."
    return "\n".join(lines) or f"No way to run {label} here was measured."


def _of_kind(label: str, rows: Sequence[BenchRow]) -> str:
    ran = [row for row in rows if row.rows_per_s is not None and row.choice != NO_CHOICE]
    same = [row for row in ran if row.same]
    if not same:
        return f"No way to run {label} here was measured."
    best = max(same, key=_pace)
    times = _pace(best) / _pace(rows[0])
    line = f"Run {label} with {best.name} ({best.device}), {_how(best)}: {_pace(best):,.0f} rows/s, "
    line += f"{times:.1f} times {rows[0].name}"
    priced = [row for row in same if row.cost_per_million is not None]
    cheapest = min(priced, key=lambda row: row.cost_per_million or 0.0, default=None)
    if best.cost_per_million is not None:
        line += f", {best.cost_per_million:,.2f} a million"
    if cheapest is not None and cheapest is not best:
        line += f" (cheapest: {cheapest.name} on {cheapest.device}, {_how(cheapest)}, "
        line += f"{cheapest.cost_per_million:,.2f} a million)"
    others = [r for r in ran if not r.same and not r.choice.is_the_same_name and _pace(r) > _WORTH * _pace(best)]
    if not others:
        return line + "; nothing here is clearly faster."
    other = max(others, key=_pace)
    loses = f"worst cosine {other.worst_cosine:.4f}, head not measured"
    if other.accuracy_change is not None:
        loses = f"{points(other.accuracy_change)} of head accuracy"
    made = f"; '{other.choice.command}' makes it" if other.choice.command else ""
    times = _pace(other) / _pace(best)
    return f"{line}; {other.encoder or other.name} is another encoder, {times:.1f} times as fast ({loses}){made}."


def _how(row: BenchRow) -> str:
    return "which is the default here" if row.choice.said == BY_DEFAULT else f"by {row.choice.said}"


def _pace(row: BenchRow) -> float:
    return row.rows_per_s or 0.0


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
