"""Heads: shallow classifiers on one encoder's vectors, read back and applied with NumPy alone.

A head is a numbered folder: head.safetensors (its arrays), report.json, and head.json, which names the encoder,
snapshot and classes it came from and holds the arrays' SHA-256. It is never edited. This file imports
neither torch nor ray, so a server that predicts carries neither.

Cost: a prediction of one 384-d vector into 77 classes takes some 30 microseconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.catalog import Catalog
from raystore.errors import HeadCorrupt, HeadNotFound
from raystore.layout import Layout, check_name, disk_full_is_said, names, numbers, publish, staging
from raystore.train.calibration import softmax
from raystore.train.report import Report
from raystore.vectors import Matrix, as_unit_rows, check_fingerprint

Kind = Literal["linear", "mlp"]
KINDS: tuple[Kind, ...] = ("linear", "mlp")
ARRAYS: dict[Kind, tuple[str, ...]] = {"linear": ("W", "b"), "mlp": ("W1", "b1", "W2", "b2")}

_BLOCK_ROWS = 65_536  # bounds the hidden layer of an MLP, however many rows are predicted


class Predictions(NamedTuple):
    """Row by row: the most probable class (ties: the first), (n, c) float32 calibrated probabilities in the order
    of the head's classes, and (n,) float32, the probability of that class."""

    labels: list[str]
    probabilities: Matrix
    confidence: Matrix


class HeadRecord(BaseModel):
    """What head.json holds: the head's facts that outlive the call which made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    classes: tuple[str, ...]
    fingerprint: str
    encoder: str
    snapshot: dict[str, Any]
    temperature: float
    settings: dict[str, Any] = {}
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class Head:
    """One published head. `number` is 0 until it is published."""

    record: HeadRecord
    arrays: Mapping[str, Matrix]
    report: Report
    number: int = 0

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def label(self) -> str:
        """'refunds@2'."""
        return f"{self.name}@{self.number}"

    @property
    def kind(self) -> Kind:
        return self.record.kind

    @property
    def classes(self) -> list[str]:
        return list(self.record.classes)

    @property
    def fingerprint(self) -> str:
        """The encoder's, whose vectors it takes."""
        return self.record.fingerprint

    @property
    def encoder(self) -> str:
        """The encoder's label, like minilm@5f3c1a2b9d0e."""
        return self.record.encoder

    @property
    def snapshot(self) -> dict[str, Any]:
        """name, number and hash of the snapshot it was trained on."""
        return dict(self.record.snapshot)

    @property
    def temperature(self) -> float:
        return self.record.temperature

    @property
    def dim(self) -> int:
        return int(self.arrays[ARRAYS[self.kind][0]].shape[1])

    def logits(self, unit_rows: Matrix) -> Matrix:
        """(n, c) float32, before temperature. The rows are taken as they are: (n, d) float32, unit."""
        return logits(self.kind, self.arrays, unit_rows)

    def predict(self, vectors: object) -> Predictions:
        """Labels, probabilities and confidence of vectors, one per row; one vector is one row.

        Raises:
            PassportMismatch: the vectors are marked with another encoder.
            DimensionMismatch, InvalidVectors: as `raystore.vectors.as_unit_rows`.
        """
        check_fingerprint(
            vectors,
            self.fingerprint,
            f"head '{self.label}'",
            f"Encode with {self.encoder}, or train a head on the encoder that made these.",
        )
        rows = as_unit_rows(vectors, self.dim, f"head '{self.label}'")
        probabilities = np.empty((len(rows), len(self.record.classes)), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = self.logits(rows[start : start + _BLOCK_ROWS])
            probabilities[start : start + _BLOCK_ROWS] = softmax(block, self.temperature)
        best = probabilities.argmax(axis=1)
        classes = self.record.classes
        return Predictions([classes[i] for i in best], probabilities, probabilities[np.arange(len(best)), best])

    def save(self, layout: Layout) -> Head:
        """The same head, published under the next number of its name."""
        from safetensors.numpy import save

        check_name("a head", self.name, dashes=True)
        data = save({name: np.ascontiguousarray(array) for name, array in self.arrays.items()})
        record = self.record.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
        with disk_full_is_said(layout.root, f"saving head '{self.name}'"), staging(layout.tmp) as stage:
            (stage / "head.safetensors").write_bytes(data)
            (stage / "report.json").write_text(self.report.to_json(), encoding="utf-8")
            (stage / "head.json").write_text(record.model_dump_json(indent=1), encoding="utf-8")
            number = publish(stage, layout.heads(self.name))
        return Head(record=record, arrays=self.arrays, report=self.report, number=number)

    @classmethod
    def load(cls, folder: Path) -> Head:
        """The head that stands in `heads/<name>/<n>`.

        Raises:
            HeadCorrupt: a file is missing, does not parse, or is not the one that head.json was written beside.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            record = HeadRecord.model_validate_json((folder / "head.json").read_bytes())
            data = (folder / "head.safetensors").read_bytes()
            if (found := hashlib.sha256(data).hexdigest()) != record.sha256:
                problem = f"head.safetensors has SHA-256 {found[:12]}..., head.json expects {record.sha256[:12]}..."
                raise HeadCorrupt(path=str(folder), found=problem)
            arrays = load(data)
            if sorted(arrays) != sorted(ARRAYS[record.kind]):
                raise HeadCorrupt(path=str(folder), found=f"a {record.kind} head holds no arrays {sorted(arrays)}")
            report = Report.from_json((folder / "report.json").read_bytes())
        except FileNotFoundError as error:
            raise HeadCorrupt(path=str(folder), found=f"{Path(error.filename).name} is missing") from None
        except ValidationError as error:
            raise HeadCorrupt(path=str(folder), found=f"{error.title} does not parse") from None
        except SafetensorError:
            raise HeadCorrupt(path=str(folder), found="head.safetensors does not parse") from None
        return cls(record=record, arrays=arrays, report=report, number=int(folder.name))

    def __repr__(self) -> str:
        return f"Head({self.label}, {self.kind}, {len(self.record.classes)} classes, on {self.encoder})"


def logits(kind: Kind, arrays: Mapping[str, Matrix], rows: Matrix) -> Matrix:
    """(n, c) float32 class scores of (n, d) float32 unit rows."""
    if kind == "linear":
        return _affine(rows, arrays["W"], arrays["b"])
    return _affine(_gelu(_affine(rows, arrays["W1"], arrays["b1"])), arrays["W2"], arrays["b2"])


def _affine(rows: Matrix, W: Matrix, b: Matrix) -> Matrix:
    product: Matrix = rows @ W.T
    product += b
    return product


def _gelu(x: Matrix) -> Matrix:
    """GELU in the tanh form the MLP is trained with (Hendrycks and Gimpel 2016), which NumPy has what it takes for."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: Matrix = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


class Heads:
    """The heads of one store, read by name: `heads.get("refunds")`, `heads.get("refunds@2")`."""

    def __init__(self, catalog: Catalog) -> None:
        self._layout = catalog.layout

    def names(self) -> list[str]:
        return [name for name in names(self._layout.heads()) if self.numbers(name)]

    def numbers(self, name: str) -> list[int]:
        """The published numbers of one name, lowest first; none where there is no such head."""
        return numbers(self._layout.heads(name))

    def latest(self, name: str) -> Head:
        """The head of that name with the highest number."""
        return self.get(name)

    def get(self, name: str) -> Head:
        """The head 'refunds@2', or of 'refunds' the one with the highest number.

        Raises:
            HeadNotFound: names the heads there are.
        """
        base, at, number = name.partition("@")
        check_name("a head", base, dashes=True)
        published = self.numbers(base)
        if not published:
            raise HeadNotFound(name=name, where=f"store '{self._layout.root}'", existing=self.names())
        if not at:
            return Head.load(self._layout.heads(base) / str(published[-1]))
        if not (number.isdecimal() and int(number) in published):
            existing = [f"{base}@{n}" for n in published]
            raise HeadNotFound(name=name, where=f"store '{self._layout.root}'", existing=existing)
        return Head.load(self._layout.heads(base) / str(int(number)))

    def __getitem__(self, name: str) -> Head:
        return self.get(name)

    def __iter__(self) -> Iterator[Head]:
        """The latest head of every name."""
        return (self.get(name) for name in self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()
