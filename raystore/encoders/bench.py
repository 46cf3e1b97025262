"""Every way to run an encoder on this machine, measured beside each other: speed, cost, and whether it is still itself.

The reference is torch in float32 on the CPU. What stays within cosine 0.9999 of it, with 99% of the neighbours, is the
same encoder; the rest would be encoders of their own. Which of them can be had, and how, stands beside each
(`choice.py`). Writes nothing into the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raystore.catalog import Catalog
from raystore.encoders.basis import Basis, basis
from raystore.encoders.choice import can_derive_int8, chooser
from raystore.encoders.exports import Equivalence, ExportFailed
from raystore.encoders.items import Item
from raystore.encoders.load import load_registered
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.measure import check_sample, cost_per_million, head_accuracy, measure_speed
from raystore.encoders.opening import from_model
from raystore.encoders.passport import TOLERANCE, Modality
from raystore.encoders.recommendation import COLUMNS, BenchRow, recommend
from raystore.encoders.records import read_encoder
from raystore.encoders.registry import Encoder, Encoders
from raystore.encoders.variants import Variant, variants
from raystore.errors import InvalidArguments, RaystoreError
from raystore.markup import rows_html
from raystore.vectors import Matrix

DEVICES = ("cpu", "gpu")

Said = Callable[[str], None]


@dataclass(frozen=True)
class BenchReport:
    """The rows in the order they were measured, the reference first; `items` by kind, without those `left_out`."""

    encoder: str
    items: Mapping[Modality, int]
    rows: tuple[BenchRow, ...]
    left_out: int = 0
    lacks_int8: bool = False

    @property
    def recommendation(self) -> str:
        return recommend(self.encoder, self.rows, lacks_int8=self.lacks_int8)

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "recommendation": self.recommendation}

    def _repr_html_(self) -> str:
        return rows_html([row.shown for row in self.rows], title=self.encoder, note=self.recommendation)

    def __str__(self) -> str:
        rows = [dict(zip(COLUMNS, COLUMNS, strict=True)), *(row.shown for row in self.rows)]
        used = [c for c in COLUMNS if any(row[c] for row in rows[1:]) and (c != "items" or len(self.items) > 1)]
        widths = {c: max(len(row[c]) for row in rows) for c in used}
        lines = ["  ".join(row[c].ljust(widths[c]) for c in used).rstrip() for row in rows]
        many = " and ".join(f"{n:,} {kind}s" for kind, n in self.items.items())
        without = f"; {self.left_out:,} of the sample cannot be encoded and were left out" if self.left_out else ""
        return "\n".join([f"{self.encoder}, {many}{without}", "", *lines, "", self.recommendation])


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
        sample: texts or images' bytes like those it will encode; None is what lies on every machine, of each kind that
            the encoder takes. Items that cannot be encoded are left out, and counted in the report.
        labels: one for each item of the sample; then a linear head's cross-validated accuracy is measured.
        seconds: each way is timed at least so long.
        said: called with a line before each way is measured.

    Raises:
        InvalidArguments: a derived encoder, an unknown device, a bad sample. ModelUnusable: its source is gone.

    Cost: for each way the sample once and `seconds`; some 40 s for all-MiniLM-L6-v2 on a CPU.
    """
    _check(encoder, prices or {})
    check_sample("bench", sample, labels)
    layout = catalog.layout
    model = load_registered(layout, read_encoder(layout, encoder.fingerprint), encoder.label, encoder.name)
    derived = _derived(catalog, encoder)
    given = basis(from_model(model, encoder.label, device="cpu"), sample, labels, "bench")
    base_accuracy = None if given.labels is None else head_accuracy(given.vectors[given.timed[0]], given.labels)
    ways: list[tuple[Variant, list[BenchRow]]] = []
    with tempfile.TemporaryDirectory() as stage:
        for way, registered in _ways(variants(layout, model, encoder.label, Path(stage)), derived):
            if said:
                said(f"{way.name} on {way.device}")
            ways.append((way, _measure(way, given, seconds, registered, base_accuracy)))
    same = [(way.backend, way.precision) for way, rows in ways if rows[0].same]
    has_gpu = any(way.device == "gpu" for way, _ in ways)
    choices = chooser(layout, encoder.passport, encoder.name, same, has_gpu=has_gpu)
    found: list[BenchRow] = []
    for way, rows in ways:
        for row in rows:
            about = choices.choice(way.backend, way.precision, way.device, registered=row.encoder, same=row.same)
            found.append(_priced(replace(row, choice=about), prices or {}))
    lacks_int8 = can_derive_int8() and not any(each.passport.equivalence == "openvino-int8" for each in derived)
    items = {kind: len(given.items[kind]) for kind in given.timed}
    return BenchReport(encoder.label, items, tuple(found), given.left_out, lacks_int8)


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
    way: Variant, given: Basis, seconds: float, registered: str | None, base_accuracy: float | None
) -> list[BenchRow]:
    """A row for each timed kind; ways that cannot be run here are rows that say so."""
    try:
        opened: LoadedEncoder = way.open()
        vectors: dict[Modality, Matrix] = {kind: np.asarray(opened.encode(part)) for kind, part in given.items.items()}
        speeds = {kind: measure_speed(opened.encode, given.items[kind], seconds) for kind in given.timed}
    except (RaystoreError, ExportFailed, RuntimeError) as error:  # torch and OpenVINO raise nothing more precise
        problem = f"cannot run here ({type(error).__name__})"
        return [BenchRow(way.name, way.device, registered, kind, problem=problem) for kind in given.timed]
    pairs = {kind: (np.asarray(given.vectors[kind]), vectors[kind]) for kind in vectors}
    near = {kind: Equivalence.of(a, b) for kind, (a, b) in pairs.items()}
    rows = []
    for kind, speed in speeds.items():
        accuracy = None if given.labels is None else head_accuracy(vectors[kind], given.labels)
        row = BenchRow(
            name=way.name,
            device=way.device,
            encoder=registered,
            kind=kind,
            same=all(each.holds(TOLERANCE) for each in near.values()),
            rows_per_s=speed.rows_per_s,
            one_ms=speed.one_ms,
            worst_cosine=near[kind].worst_cosine,
            overlap_at_10=near[kind].overlap_at_10,
            accuracy=accuracy,
            accuracy_change=None if accuracy is None or base_accuracy is None else accuracy - base_accuracy,
        )
        rows.append(row)
    return rows


def _priced(row: BenchRow, prices: Mapping[str, float]) -> BenchRow:
    price = prices.get(row.device)
    if price is None or row.rows_per_s is None:
        return row
    return replace(row, cost_per_million=cost_per_million(row.rows_per_s, price))
