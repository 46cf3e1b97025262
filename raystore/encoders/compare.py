"""What differs between two encoders, in words, and how far apart they put the same inputs.

The words come from the passports, the distances from the golden vectors, whose inputs are the same for every encoder
of a modality. Loads no model; knows nothing of backends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raystore.encoders.exports import neighbour_overlap
from raystore.encoders.passport import Modality, Passport
from raystore.markup import facts_html, rows_html
from raystore.vectors import Matrix

if TYPE_CHECKING:
    from raystore.encoders.registry import Encoder

OVERLAP_K = 5  # of the dozen or so golden inputs

_EQUIVALENCES = {
    "torch-fp32": "float32 as torch computes it",
    "torch-bf16": "bfloat16 on torch",
    "torch-fp16": "float16 on torch",
    "openvino-int8": "8-bit integers on OpenVINO",
}


@dataclass(frozen=True)
class Distance:
    """How far apart two encoders put the golden inputs of a modality; cosines are None where dimensions differ."""

    inputs: int
    overlap: float  # mean share of each input's `k` nearest inputs that both agree on
    k: int
    mean_cosine: float | None = None
    worst_cosine: float | None = None
    worst_input: int | None = None  # from 0

    def __str__(self) -> str:
        said = f"{self.overlap:.0%} of each input's {self.k} nearest among the {self.inputs} are the same"
        if self.mean_cosine is None:
            return f"{said}; vectors of different length have no cosine"
        return f"mean cosine {self.mean_cosine:.6f}, worst {self.worst_cosine:.6f} (input {self.worst_input}); {said}"

    def _repr_html_(self) -> str:
        facts = {
            "inputs": self.inputs,
            f"same among the {self.k} nearest": f"{self.overlap:.0%}",
            "mean cosine": None if self.mean_cosine is None else f"{self.mean_cosine:.6f}",
            "worst cosine": None if self.worst_cosine is None else f"{self.worst_cosine:.6f} (input {self.worst_input})",
        }
        return facts_html("Distance of two encoders", {name: fact for name, fact in facts.items() if fact is not None})


@dataclass(frozen=True)
class Difference:
    """`sentences`, one for each field in which the passports differ; `golden`, by modality that both take."""

    a: str
    b: str
    same: bool
    sentences: tuple[str, ...] = ()
    golden: Mapping[Modality, Distance] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "sentences": list(self.sentences)}

    def _repr_html_(self) -> str:
        rows = [{"they differ in": sentence} for sentence in self.sentences]
        far = "; ".join(f"golden {modality}s: {distance}" for modality, distance in self.golden.items())
        return rows_html(rows, title=f"{self.a} against {self.b}", note="They are the same encoder." if self.same else far)

    def __str__(self) -> str:
        if self.same:
            return f"{self.a} and {self.b} are the same encoder."
        lines = [f"{self.a} against {self.b}: two encoders, their vectors are never compared.", ""]
        lines += [f"  {sentence}" for sentence in self.sentences]
        lines += ["", *(f"golden {modality}s: {distance}" for modality, distance in self.golden.items())]
        if not self.golden:
            lines.append("golden inputs: none in common, one takes texts and the other images")
        return "\n".join(lines)


def differences(a: Encoder, b: Encoder) -> Difference:
    """What differs between two registered encoders, of one store or of two.

    Raises:
        ModelUnusable: the golden vectors of one are damaged.

    Cost: reads two small files.
    """
    if a.fingerprint == b.fingerprint:
        return Difference(a.label, b.label, same=True)
    said = passport_differences(a.passport, b.passport)
    for one, other in ((a, b), (b, a)):
        if one.card.derived_from == other.fingerprint:
            said = [f"{one.label} was derived from {other.label}", *said]
    mine, theirs = a.golden(), b.golden()
    golden = {m: distance(mine[m], theirs[m]) for m in mine if m in theirs}
    return Difference(a.label, b.label, same=False, sentences=tuple(said), golden=golden)


def distance(a: Matrix, b: Matrix) -> Distance:
    """Two encoders' unit rows (n, d) and (n, e) of the same n inputs, compared; n >= 2."""
    k = min(OVERLAP_K, len(a) - 1)
    overlap = neighbour_overlap(a, b, k)
    if a.shape != b.shape:
        return Distance(inputs=len(a), overlap=overlap, k=k)
    cosines = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64)).clip(-1, 1)
    worst = int(cosines.argmin())
    return Distance(len(a), overlap, k, float(cosines.mean()), float(cosines[worst]), worst)


def passport_differences(a: Passport, b: Passport) -> list[str]:
    """One sentence for each field in which two passports differ, in the order the fields are declared; `a` first."""
    mine, theirs = a.flat(), b.flat()
    said = [] if a.modalities == b.modalities else [f"takes: {_modalities(a)} against {_modalities(b)}"]
    for name in a.differences(b):
        part = name.partition(".")[0]
        if part in ("text", "image") and (getattr(a, part) is None or getattr(b, part) is None):
            continue  # one has no such part, which was said
        if name == "tolerance" and a.equivalence != b.equivalence:
            continue  # it follows from the arithmetic
        said.append(_sentence(name, mine.get(name), theirs.get(name)))
    return said


def _modalities(passport: Passport) -> str:
    return " and ".join(f"{modality}s" for modality in passport.modalities)


def _sentence(name: str, mine: Any, theirs: Any) -> str:
    if name == "text.steps":
        return _steps(mine, theirs)
    words, shown = _FIELDS.get(name, (name.replace("_", " "), _plain))
    return f"{words}: {shown(mine)} against {shown(theirs)}"


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _quoted(value: str) -> str:
    return f"'{value}'" if value else "none"


def _digest(value: str) -> str:
    return f"digest {value[:12]}"


def _pixels(value: tuple[int, int] | None) -> str:
    return f"{value[0]}x{value[1]}" if value else "none"


def _named(value: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text!r}" for name, text in sorted(value.items())) or "none"


def _steps(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    kinds = [", ".join(step["type"] for step in steps) or "none" for steps in (mine, theirs)]
    if kinds[0] != kinds[1]:
        return f"modules after the transformer: {kinds[0]} against {kinds[1]}"
    keys = [
        f"{one['type']} in {', '.join(changed)}"
        for one, other in zip(mine, theirs, strict=True)
        if (
            changed := sorted(
                k for k in {**one["config"], **other["config"]} if one["config"].get(k) != other["config"].get(k)
            )
        )
    ]
    return f"modules after the transformer: the same, configured otherwise ({'; '.join(keys)})"


# The passport's fields by dotted name: what a person calls them, and how their values read.
_FIELDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "scheme": ("how digests are taken", _plain),
    "weights": ("weights", _digest),
    "architecture": ("architecture", _plain),
    "config": ("configuration of the model", _digest),
    "text.layer": ("layer of the text model", _plain),
    "text.pooling": ("pooling of texts", _plain),
    "text.prompts": ("the model's prompts", _named),
    "text.prompt": ("prompt before every text", _quoted),
    "text.tokenizer": ("tokenizer", _digest),
    "text.inputs": ("inputs of the text model", _plain),
    "text.max_length": ("max_length", lambda n: f"{n} tokens"),
    "text.truncation_side": ("side that is cut off", _plain),
    "text.padding_side": ("side that is padded", _plain),
    "text.pad_id": ("padding token", _plain),
    "text.dimensions": ("numbers kept of a vector", lambda n: "all" if n is None else f"the first {n}"),
    "image.layer": ("layer of the image model", _plain),
    "image.pooling": ("pooling of images", _plain),
    "image.decoder_class": ("versions of the image decoder", _plain),
    "image.resize": ("way of resizing", _plain),
    "image.size": ("resize to (height x width)", _pixels),
    "image.kernel": ("resize kernel", _plain),
    "image.crop": ("crop (height x width)", _pixels),
    "image.rescale": ("rescale factor", _plain),
    "image.mean": ("mean of the colours", _plain),
    "image.std": ("spread of the colours", _plain),
    "image.input": ("input of the image model", _plain),
    "dim": ("dimension", lambda n: f"{n} numbers"),
    "equivalence": ("arithmetic", lambda name: _EQUIVALENCES[name]),
    "tolerance": ("tolerance of the golden check", _plain),
}
