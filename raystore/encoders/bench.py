"""Every way to run an encoder on this machine, measured beside each other: speed, cost, and whether it is still itself.

The reference is torch in float32 on the CPU. What stays within cosine 0.9999 of it, with 99% of the neighbours, is the
same encoder and may be chosen freely; the rest would be encoders of their own. Writes nothing into the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raystore.catalog import Catalog
from raystore.encoders.equivalence import sample_items
from raystore.encoders.exports import Equivalence, ExportFailed, neighbour_overlap, worst_cosine
from raystore.encoders.items import Item
from raystore.encoders.load import load_registered
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.measure import check_sample, cost_per_million, head_accuracy, kind_of, measure_speed, points
from raystore.encoders.passport import TOLERANCE
from raystore.encoders.records import read_encoder
from raystore.encoders.registry import Encoder, Encoders
from raystore.encoders.variants import Variant, variants
from raystore.errors import InvalidArguments, RaystoreError
from raystore.vectors import Matrix

DEVICES = ("cpu", "gpu")
COLUMNS = ("run on", "device", "rows/s", "one ms", "a million", "worst cosine", "neighbours", "accuracy", "encoder")

_WORTH = 1.05  # times as fast; less is noise, and no reason for another encoder

Said = Callable[[str], None]


@dataclass(frozen=True)
class BenchRow:
    """One way to run it. Numbers are None where it could not be run (`problem`), or where nothing was given to measure."""

    name: str
    device: str
    encoder: str | None  # the label of the registered encoder this is, if it is one
    same: bool = False  # as the reference
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
        cells = [self.name, self.device, _number(self.rows_per_s, ",.0f"), _number(self.one_ms, ".1f")]
        cells += [_number(self.cost_per_million, ",.2f"), _number(self.worst_cosine, ".5f")]
        head = "" if self.accuracy is None else f"{self.accuracy:.1%} ({points(self.accuracy_change)})"
        is_what = "the same" if self.same else self.encoder or "another, not registered"
        cells += [_number(self.overlap_at_10, ".3f"), head, self.problem or is_what]
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True)
class BenchReport:
    """The rows in the order they were measured, the reference first, on `items` items of one kind."""

    encoder: str
    items: int
    kind: str
    rows: tuple[BenchRow, ...]

    @property
    def recommendation(self) -> str:
        return recommend(self.encoder, self.rows)

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "recommendation": self.recommendation}

    def __str__(self) -> str:
        rows = [dict(zip(COLUMNS, COLUMNS, strict=True)), *(row.shown for row in self.rows)]
        used = [c for c in COLUMNS if any(row[c] for row in rows[1:])]
        widths = {c: max(len(row[c]) for row in rows) for c in used}
        lines = ["  ".join(row[c].ljust(widths[c]) for c in used).rstrip() for row in rows]
        return "\n".join([f"{self.encoder}, {self.items:,} {self.kind}s", "", *lines, "", self.recommendation])


def bench(
    catalog: Catalog,
    encoder: Encoder,
    *,
    prices: Mapping[str, float] | None = None,
    sample: Sequence[Item] | None = None,
    labels: Sequence[str] | None = None,
    seconds: float = 3.0,
    said: Said | None = None,
) -> BenchReport:
    """Every device, backend and precision that is here, and the int8 encoders derived from this one, measured.

    Args:
        encoder: of float32; a derived one is measured beside its base when the base is benched.
        prices: of an hour, by device: {"cpu": 0.20, "gpu": 3.0}.
        sample: texts or images' bytes like those it will encode; None is what lies on every machine.
        labels: one for each item of the sample; then a linear head's cross-validated accuracy is measured.
        seconds: each way is timed at least so long.
        said: called with a line before each way is measured.

    Raises:
        InvalidArguments: a derived encoder, an unknown device, a bad sample. ModelUnusable: its source is gone.

    Cost: for each way the sample once and `seconds`; some 40 s for all-MiniLM-L6-v2 on a CPU.
    """
    _check(encoder, prices or {})
    check_sample("bench", sample, labels)
    items = sample or sample_items(encoder.passport.modalities[0])
    model = load_registered(catalog.layout, read_encoder(catalog.layout, encoder.fingerprint), encoder.label, encoder.name)
    derived = _derived(catalog, encoder)
    measured: list[BenchRow] = []
    reference: Matrix | None = None
    with tempfile.TemporaryDirectory() as stage:
        for way, registered in _ways(variants(catalog.layout, model, encoder.label, Path(stage)), derived):
            if said:
                said(f"{way.name} on {way.device}")
            base_accuracy = measured[0].accuracy if measured else None
            row, vectors = _measure(way, items, labels, seconds, reference, registered, base_accuracy)
            reference = vectors if reference is None else reference
            measured.append(_priced(row, prices or {}))
    return BenchReport(encoder.label, len(items), kind_of(items), tuple(measured))


def _check(encoder: Encoder, prices: Mapping[str, float]) -> None:
    problems = [f"there is no price for '{d[:40]}', expected {' and '.join(DEVICES)}" for d in prices if d not in DEVICES]
    problems += [f"the price of {d} is below zero" for d, price in prices.items() if price < 0]
    if encoder.passport.equivalence != "torch-fp32":
        problems.append(
            f"{encoder.label} is derived ({encoder.passport.equivalence}); bench its base, it is measured beside it"
        )
    if problems:
        raise InvalidArguments(call="bench", problems=problems)


def _derived(catalog: Catalog, encoder: Encoder) -> list[Encoder]:
    encoders = Encoders(catalog)
    return [e for e in (encoders[name] for name in encoders) if e.card.derived_from == encoder.fingerprint]


def _ways(own: Iterable[Variant], derived: Sequence[Encoder]) -> Iterator[tuple[Variant, str | None]]:
    """The encoder's own ways, with the label of what was registered from one, then the int8 encoders, which are graphs."""
    labels: dict[str, str] = {each.passport.equivalence: each.label for each in derived}
    for way in own:
        yield way, labels.get(f"{way.backend}-{way.precision}") if way.precision != "fp32" else None
    for each in derived:
        if each.passport.equivalence == "openvino-int8":
            yield Variant("openvino", "int8", "cpu", each.load), each.label


def _measure(
    way: Variant,
    items: Sequence[Item],
    labels: Sequence[str] | None,
    seconds: float,
    reference: Matrix | None,
    registered: str | None,
    base_accuracy: float | None,
) -> tuple[BenchRow, Matrix | None]:
    """Its row, and its vectors; a way that cannot be run here is a row that says so.

    Raises what the reference raises: without it there is nothing to compare with.
    """
    try:
        opened: LoadedEncoder = way.open()
        vectors = np.asarray(opened.encode(items))
        speed = measure_speed(opened.encode, items, seconds)
    except (RaystoreError, ExportFailed, RuntimeError) as error:  # torch and OpenVINO raise nothing more precise
        if reference is None:
            raise
        return BenchRow(way.name, way.device, registered, problem=f"cannot run here ({type(error).__name__})"), None
    against = vectors if reference is None else reference
    near = Equivalence(len(items), worst_cosine(against, vectors), neighbour_overlap(against, vectors))
    accuracy = None if labels is None else head_accuracy(vectors, labels)
    row = BenchRow(
        name=way.name,
        device=way.device,
        encoder=registered,
        same=near.holds(TOLERANCE),
        rows_per_s=speed.rows_per_s,
        one_ms=speed.one_ms,
        worst_cosine=near.worst_cosine,
        overlap_at_10=near.overlap_at_10,
        accuracy=accuracy,
        accuracy_change=None if accuracy is None else accuracy - (accuracy if base_accuracy is None else base_accuracy),
    )
    return row, vectors


def _priced(row: BenchRow, prices: Mapping[str, float]) -> BenchRow:
    price = prices.get(row.device)
    if price is None or row.rows_per_s is None:
        return row
    return BenchRow(**{**asdict(row), "cost_per_million": cost_per_million(row.rows_per_s, price)})


def recommend(label: str, rows: Sequence[BenchRow]) -> str:
    """One line: the fastest way that is the same encoder, the cheapest if that is another, the fastest other and its cost."""
    ran = [row for row in rows if row.rows_per_s is not None]
    same = [row for row in ran if row.same]
    if not same:
        return f"No way to run {label} here was measured."
    best = max(same, key=_pace)
    times = _pace(best) / _pace(rows[0])
    line = f"Run {label} with {best.name} ({best.device}): {_pace(best):,.0f} rows/s, {times:.1f} times {rows[0].name}"
    priced = [row for row in same if row.cost_per_million is not None]
    cheapest = min(priced, key=lambda row: row.cost_per_million or 0.0, default=None)
    if best.cost_per_million is not None:
        line += f", {best.cost_per_million:,.2f} a million"
    if cheapest is not None and cheapest is not best:
        line += f" (cheapest: {cheapest.name} on {cheapest.device}, {cheapest.cost_per_million:,.2f} a million)"
    others = [row for row in ran if not row.same and _pace(row) > _WORTH * _pace(best)]
    if not others:
        return line + "; nothing here is clearly faster."
    other = max(others, key=_pace)
    loses = f"worst cosine {other.worst_cosine:.4f}, head not measured"
    if other.accuracy_change is not None:
        loses = f"{points(other.accuracy_change)} of head accuracy"
    return (
        line
        + f"; {other.encoder or other.name} is another encoder, {_pace(other) / _pace(best):.1f} times as fast ({loses})."
    )


def _pace(row: BenchRow) -> float:
    return row.rows_per_s or 0.0


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
