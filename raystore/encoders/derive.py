"""Another precision of an encoder, as an encoder of its own: made, measured against its base, registered.

The vectors of an int8 graph or of half-precision arithmetic are not the base's, so they get a fingerprint and a column
of their own; whoever makes one is told what it gains and what it costs. Where the vectors turn out to be the base's,
there is nothing to make, and that is said.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from raystore.catalog import Catalog
from raystore.encoders.backends import BatchSize
from raystore.encoders.basis import Basis, basis
from raystore.encoders.bridged import is_bridged
from raystore.encoders.exports import Equivalence, ExportFailed, neighbour_overlap
from raystore.encoders.items import Item
from raystore.encoders.load import load_registered
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.measure import Speed, check_sample, head_accuracy, measure_speed, points
from raystore.encoders.model import Arrays, Model
from raystore.encoders.opening import from_folder, from_model, golden_vectors, open_encoder
from raystore.encoders.openvino_backend import INT8_PRECISION, OpenVinoBackend
from raystore.encoders.passport import TOLERANCE, TOLERANCES, Modality, Passport
from raystore.encoders.pictures import ImageReader
from raystore.encoders.quantize import quantize_openvino
from raystore.encoders.records import KIND, graph_digest, publish_encoder, read_encoder
from raystore.encoders.registry import Encoder
from raystore.encoders.tokens import TextReader
from raystore.encoders.torch_backend import Precision
from raystore.encoders.variants import graph_folder
from raystore.errors import ExtraNotInstalled, InvalidArguments, ModelUnusable, RaystoreError
from raystore.layout import Layout, check_name, staging
from raystore.markup import cells_html
from raystore.vectors import Matrix

Derivable = Literal["int8", "bf16", "fp16"]

CALIBRATION: dict[Modality, int] = {"text": 300, "image": 100}  # items whose activations set the 8-bit ranges
_SPEED_S = 1.5
_SPEED_ROUNDS = 2  # base and derived in turn, so that a slow moment of the machine hits both


@dataclass(frozen=True)
class DeriveReport:
    """A derived encoder beside its base, both measured in one run on `rows` items, `generated` ones among them.

    The pace is that on the sample alone, where there is one. Accuracies are None without labels. `left_out` items of the
    sample cannot be encoded.
    """

    encoder: str
    base: str
    precision: Derivable
    rows: int
    rows_per_s: float
    one_ms: float
    base_rows_per_s: float
    base_one_ms: float
    base_backend: str
    worst_cosine: float
    mean_cosine: float
    overlap_at_10: float
    accuracy: float | None = None
    base_accuracy: float | None = None
    generated: int = 0
    left_out: int = 0

    @property
    def ratio(self) -> float:
        """How many times as fast as the base as it runs here by default."""
        return self.rows_per_s / self.base_rows_per_s

    @property
    def accuracy_change(self) -> float | None:
        return None if self.accuracy is None or self.base_accuracy is None else self.accuracy - self.base_accuracy

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "ratio": self.ratio, "accuracy_change": self.accuracy_change}

    def __str__(self) -> str:
        head = "not measured (no labels were given)"
        if self.accuracy is not None and self.base_accuracy is not None:
            head = f"{self.accuracy:.1%} against {self.base_accuracy:.1%}, {points(self.accuracy_change)}"
        made = f", {self.generated:,} of them generated" if self.generated else ""
        without = f"; {self.left_out:,} of the sample cannot be encoded and were left out" if self.left_out else ""
        return (
            f"{self.encoder} is {self.precision} of {self.base}, measured on {self.rows:,} items{made}{without}\n"
            f"  speed       {self.rows_per_s:,.0f} rows/s against {self.base_rows_per_s:,.0f} ({self.base_backend}): "
            f"{self.ratio:.2f} times as fast; one item {self.one_ms:.1f} ms against {self.base_one_ms:.1f}\n"
            f"  vectors     cosine to the base's: mean {self.mean_cosine:.4f}, worst {self.worst_cosine:.4f}\n"
            f"  neighbours  {self.overlap_at_10:.1%} of each row's 10 nearest are the same\n"
            f"  head        {head}"
        )

    def _repr_html_(self) -> str:
        def percent(share: float | None) -> str | None:
            return None if share is None else f"{share:.1%}"

        rows = [
            ("rows a second", f"{self.rows_per_s:,.0f}", f"{self.base_rows_per_s:,.0f} ({self.base_backend})"),
            ("one item, ms", f"{self.one_ms:.1f}", f"{self.base_one_ms:.1f}"),
            ("accuracy of a head", percent(self.accuracy), percent(self.base_accuracy)),
            ("cosine to the base, mean", f"{self.mean_cosine:.4f}", None),
            ("cosine to the base, worst", f"{self.worst_cosine:.4f}", None),
            ("same among the 10 nearest", percent(self.overlap_at_10), None),
        ]
        title = f"{self.encoder}, {self.precision} of {self.base}, on {self.rows:,} items"
        return cells_html(["", self.encoder, self.base], rows, title=title)


@dataclass(frozen=True)
class Derived:
    """`encoder`, registered and loadable by its name, and the `report` of what that precision gains and costs."""

    encoder: Encoder
    report: DeriveReport


def derive(
    catalog: Catalog,
    name: str,
    base: Encoder,
    precision: Derivable,
    *,
    sample: Sequence[Item] | None = None,
    labels: Sequence[str] | None = None,
) -> Derived:
    """The encoder `base` in another precision, known to the store under `name` from now on.

    Deriving the same again changes nothing. The base stays as it is.

    Args:
        precision: int8 (OpenVINO, for processors), bf16 or fp16 (torch, for GPUs first of all).
        sample: texts, or images' bytes, like those it will encode, at least 2: int8 is calibrated on the first 300 texts
            or 100 images of them, and all are compared. None is sentences of Python's documentation, or generated pictures;
            with them the kind is compared that an encoder of texts and images takes and the sample lacks. Items that
            cannot be encoded are left out, and counted in the report.
        labels: one for each item; then the change in a linear head's cross-validated accuracy is measured.

    Raises:
        InvalidArguments: a base that is derived itself, a name that is the base's, a bad sample; or the result is the
            same encoder (cosine 0.9999 and neighbours 0.99), which needs no name of its own.
        ExtraNotInstalled: int8 without nncf and openvino. ModelUnusable: they cannot quantise this model.

    Cost: half a minute for all-MiniLM-L6-v2; int8 keeps its graph in the store, a quarter of the weights.
    """
    call = f"derive '{name}'"
    check_name("an encoder", name, dashes=True)
    _check(call, name, base, precision)
    check_sample(call, sample, labels)
    layout = catalog.layout
    model = load_registered(layout, read_encoder(layout, base.fingerprint), base.label, base.name)
    given = basis(from_model(model, base.label, device="cpu"), sample, labels, call)
    with staging(layout.tmp) as stage:
        graph = _quantized(layout, model, given.items, stage, base.label) if precision == "int8" else None
        passport = derived_passport(base.passport, precision, graph_digest(graph) if graph else None)
        label = passport.label(name)
        if graph is None:
            derived = from_model(model, label, passport=passport, precision=_torch_precision(precision))
        else:
            derived = from_folder(graph, passport, OpenVinoBackend, label, precision=INT8_PRECISION)
        vectors = _compared(call, base, derived, given, label)
        card = base.card.model_copy(update={"derived_from": base.fingerprint})
        publish_encoder(layout, passport, golden_vectors(derived), card, graph=graph)
    opened = open_encoder(layout, passport.fingerprint, name=name)  # as every worker will, golden check included
    record = catalog.alias(KIND, name)
    if record is None or record.get("fingerprint") != passport.fingerprint:
        catalog.set_alias(KIND, name, {"fingerprint": passport.fingerprint})
    report = _report(base, opened, precision, given, vectors)
    return Derived(Encoder(catalog, passport, name), report)


def derived_passport(base: Passport, precision: Derivable, graph: str | None) -> Passport:
    """The base's passport with another arithmetic, and with the digest of its graph's files where those are the weights."""
    kind: Any = "openvino-int8" if precision == "int8" else f"torch-{precision}"
    changed = {"equivalence": kind, "tolerance": TOLERANCES[kind]} | ({"weights": graph} if graph else {})
    # Not model_copy, which would copy the cached fingerprint with the fields.
    return Passport.model_validate({**base.model_dump(), **changed})


def _check(call: str, name: str, base: Encoder, precision: str) -> None:
    problems = []
    if precision not in get_args(Derivable):
        problems.append(f"precision is '{precision[:40]}', expected {', '.join(get_args(Derivable))}")
    if base.passport.equivalence != "torch-fp32":
        problems.append(f"{base.label} is itself of the class {base.passport.equivalence}; derive from its base")
    if is_bridged(base.passport):
        problems.append(f"{base.label} is a bridge between two encoders; derive from the one that reads its items")
    if name == base.name:
        problems.append("that is the base's own name; another precision is another encoder and needs another name")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    missing = [package for package in ("openvino", "nncf") if importlib.util.find_spec(package) is None]
    if precision == "int8" and missing:
        raise ExtraNotInstalled(what="int8 encoders", package=missing[0], extra="int8")


def _torch_precision(precision: Derivable) -> Precision:
    return "bf16" if precision == "bf16" else "fp16"


def _quantized(layout: Layout, model: Model, items: Mapping[Modality, Sequence[Item]], stage: Path, label: str) -> Path:
    """A folder with the int8 graphs and the tokenizer."""
    folder = stage / "int8"
    folder.mkdir()
    try:
        source = graph_folder(layout, model, OpenVinoBackend, stage)
        for modality in model.passport.modalities:
            chosen = calibration_inputs(model, modality, items[modality][: CALIBRATION[modality]])
            quantize_openvino(source, folder, modality, chosen)
    except (RuntimeError, ExportFailed) as error:  # neither library raises anything more precise
        if isinstance(error, RaystoreError):
            raise
        raise ModelUnusable(
            model=label,
            found=f"OpenVINO and nncf could not turn it into int8 ({type(error).__name__})",
            advice="Use it as it is, or derive bf16.",
        ) from None
    if model.tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(model.tokenizer_json, encoding="utf-8")
    return folder


def calibration_inputs(model: Model, modality: Modality, items: Sequence[Item]) -> list[Arrays]:
    """Each item's inputs by name, one item a batch, so that no padding is calibrated on. Unreadable images are left out."""
    one = BatchSize(tokens=1, rows=1, images=1)
    if modality == "text":
        assert model.passport.text is not None
        assert model.tokenizer_json is not None
        reader = TextReader(model.tokenizer_json, model.passport.text)
        return [batch.inputs for batch in reader.batches([str(item) for item in items], one)]
    assert model.passport.image is not None
    files = [item for item in items if isinstance(item, bytes)]
    return [batch.inputs for batch in ImageReader(model.passport.image).batches(files, one, {})]


def _compared(call: str, base: Encoder, derived: LoadedEncoder, given: Basis, label: str) -> dict[Modality, Matrix]:
    """The derived vectors of every kind of item.

    Raises:
        InvalidArguments: they are the same encoder's, in every kind.
    """
    found: dict[Modality, Matrix] = {m: np.asarray(derived.encode(part)) for m, part in given.items.items()}
    pairs = [(given.vectors[m], found[m]) for m in found]
    parts = [Equivalence.of(a, b) for a, b in pairs]
    if all(part.holds(TOLERANCE) for part in parts):
        problem = (
            f"{label.partition('@')[0]} would be the same encoder as {base.label}: {'; '.join(p.said for p in parts)}. "
            f"Use {base.label}, its vectors may be compared with these"
        )
        raise InvalidArguments(call=call, problems=[problem])
    return found


def _report(
    base: Encoder, derived: LoadedEncoder, precision: Derivable, given: Basis, vectors: Mapping[Modality, Matrix]
) -> DeriveReport:
    reference = base.load()
    timed = [item for modality in given.timed for item in given.items[modality]]
    slow: list[Speed] = []
    fast: list[Speed] = []
    for _ in range(_SPEED_ROUNDS):
        slow.append(measure_speed(reference.encode, timed, _SPEED_S))
        fast.append(measure_speed(derived.encode, timed, _SPEED_S))
    pairs = [(np.asarray(given.vectors[m]), vectors[m]) for m in vectors]
    cosines = [np.einsum("nd,nd->n", a, b, dtype=np.float64) for a, b in pairs]
    accuracies: list[float | None] = [None, None]
    if given.labels is not None:
        (kind,) = given.timed  # a sample is of one kind
        accuracies = [head_accuracy(rows, given.labels) for rows in (given.vectors[kind], vectors[kind])]
    return DeriveReport(
        encoder=derived.label,
        base=base.label,
        precision=precision,
        rows=sum(len(part) for part in given.items.values()),
        rows_per_s=_pace(fast),
        one_ms=min(s.one_ms for s in fast),
        base_rows_per_s=_pace(slow),
        base_one_ms=min(s.one_ms for s in slow),
        base_backend=f"{reference.backend} on {reference.device}",
        worst_cosine=float(min(c.min() for c in cosines)),
        mean_cosine=float(np.concatenate(cosines).mean()),
        overlap_at_10=min(neighbour_overlap(a, b) for a, b in pairs),
        accuracy=accuracies[1],
        base_accuracy=accuracies[0],
        generated=given.generated,
        left_out=given.left_out,
    )


def _pace(speeds: Sequence[Speed]) -> float:
    return sum(s.rows for s in speeds) / sum(s.seconds for s in speeds)
