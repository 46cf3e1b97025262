"""Heads: shallow models on one encoder's vectors, read back and applied with NumPy alone.

A head is a numbered folder: head.safetensors (its arrays), report.json, and head.json, which names the encoder,
snapshot and classes it came from and holds the arrays' SHA-256. It is never edited. This file imports
neither torch nor ray, so a server that predicts carries neither. A kNN head has no arrays: it reads the vectors of its
snapshot's training rows from their collection (and asks FAISS) when it is first used. A head of kind "neighbours" has no
snapshot either: it asks its collection's index, and what it says follows the labels of the rows (classify/).

Cost: a prediction of one 384-d vector into 77 classes takes some 30 microseconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.errors import HeadCorrupt
from raystore.layout import Layout, check_name, disk_full_is_said, publish, read_json, staging
from raystore.markup import cells_html, facts_html
from raystore.train.calibration import sigmoid, softmax
from raystore.train.classify.voters import Voters
from raystore.train.report.report import Report
from raystore.train.source import Task
from raystore.vectors import Matrix, as_unit_rows, check_fingerprint

if TYPE_CHECKING:
    from raystore.train.classify.classifier import Classifier
    from raystore.train.knn import Neighbours

Kind = Literal["linear", "mlp", "knn"]  # that is trained
KINDS: tuple[Kind, ...] = ("linear", "mlp", "knn")
HeadKind = Literal["linear", "mlp", "knn", "neighbours"]
ARRAYS: dict[HeadKind, tuple[str, ...]] = {
    "linear": ("W", "b"),
    "mlp": ("W1", "b1", "W2", "b2"),
    "knn": (),
    "neighbours": (),
}
DESCRIPTIONS = "descriptions"  # the array of a head of kind "neighbours" whose classes are described: (c, d)

_SHOWN = 20  # predictions in a notebook
_BLOCK_CELLS = 2**24  # 64 MB: bounds the layers of a prediction, however many rows and classes there are


class Predictions(NamedTuple):
    """Row by row what a head says, by its task.

    "classes": the most probable class (ties: the first); (n, c) float32 calibrated probabilities in the order of the
    head's classes; (n,) float32, the probability of that class; (n,) bool, whether that is below the head's threshold.
    "labels": the classes whose probability reaches their threshold, in the head's order, perhaps none; (n, c)
    probabilities, each on its own; how sure of each class it is, on average, in either direction; abstains never.
    "number": the number; (n, 0) probabilities; a confidence of 1; abstains never.

    `classes` are those of the c columns: a head of kind "neighbours" may know more of them by now.
    """

    labels: list[str] | list[list[str]] | list[float]
    probabilities: Matrix
    confidence: Matrix
    abstained: npt.NDArray[np.bool_]
    classes: Sequence[str]

    def _repr_html_(self) -> str:
        rows = zip(self.labels[:_SHOWN], self.confidence[:_SHOWN].tolist(), self.abstained[:_SHOWN].tolist(), strict=True)
        more = len(self.labels) - _SHOWN
        return cells_html(
            ["label", "confidence", "abstained"],
            [(label, f"{confidence:.1%}", abstained) for label, confidence, abstained in rows],
            title=f"{len(self.labels):,} predictions",
            note=f"{more:,} more." if more > 0 else "",
            right=["confidence"],
        )


class HeadRecord(BaseModel):
    """What head.json holds: the head's facts that outlive the call which made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: HeadKind
    task: Task = "classes"
    classes: tuple[str, ...]  # of kind "neighbours": those there were when it was registered
    fingerprint: str
    encoder: str
    dim: int
    snapshot: dict[str, Any] = {}  # of kind "neighbours": none
    voters: Voters | None = None  # of kind "neighbours" alone
    temperature: float = 1.0
    threshold: float | None = None  # "classes": it abstains below this confidence; None: never
    thresholds: tuple[float, ...] | None = None  # "labels": where each class is given; None: from 0.5 on
    settings: dict[str, Any] = {}
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class Head:
    """One published head. `number` is 0 until it is published, `root` is its store's."""

    record: HeadRecord
    arrays: Mapping[str, Matrix]
    report: Report
    number: int = 0
    root: Path | None = None
    near: Neighbours | None = None
    asks: Classifier | None = None  # of kind "neighbours"; without it, one is opened when it is first used

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def label(self) -> str:
        """'refunds@2'."""
        return f"{self.name}@{self.number}"

    @property
    def kind(self) -> HeadKind:
        return self.record.kind

    @property
    def task(self) -> Task:
        return self.record.task

    @property
    def classes(self) -> list[str]:
        """In the order of the probabilities; none for the task "number". Of kind "neighbours" they grow with the labels."""
        opened = self.asks or self.__dict__.get("_classifier")
        return list(self.record.classes if opened is None else opened.classes)

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
        """name, number and hash of the snapshot it was trained on; nothing of kind "neighbours", which learns from `voters`."""
        return dict(self.record.snapshot)

    @property
    def voters(self) -> Voters | None:
        """Whose votes a head of kind "neighbours" counts."""
        return self.record.voters

    @property
    def origin(self) -> str:
        """What it learned from, in words: 'monday@3', or the collection and labels that it asks."""
        return origin_of(self.record)

    @property
    def temperature(self) -> float:
        return self.record.temperature

    @property
    def threshold(self) -> float | None:
        """The confidence below which it abstains, where one was chosen."""
        return self.record.threshold

    @property
    def dim(self) -> int:
        return self.record.dim

    def scores(self, unit_rows: Matrix) -> Matrix:
        """(n, c) float32 logits before temperature, or (n, 1) numbers; of kind "neighbours" the logs of its probabilities. The rows
        are taken as they are: (n, d) float32, unit."""
        if self.kind == "neighbours":
            with np.errstate(divide="ignore"):
                logs: Matrix = np.log(self._classifier.predict(unit_rows).probabilities)
            return logs
        return scores(self.record, self.arrays, unit_rows, self._neighbours if self.kind == "knn" else None)

    @cached_property
    def _neighbours(self) -> Neighbours:
        """A kNN head's training rows: those it was made with, else those the collection has now; kept from then on."""
        from raystore.train.knn import Neighbours
        from raystore.train.snapshot_source import SnapshotSource

        if self.near is not None:
            return self.near
        if self.root is None:
            raise HeadCorrupt(path=self.label, found="it is not published, so its training rows are not to be found")
        folder = Layout(self.root).snapshots(self.snapshot["name"]) / str(self.snapshot["number"])
        try:
            collection = read_json(folder / "spec.json")["collection"]
        except FileNotFoundError:
            raise HeadCorrupt(path=self.label, found=f"its snapshot '{folder}' is gone") from None
        source = SnapshotSource(str(self.root), collection, self.fingerprint, str(folder), tuple(self.classes), self.task)
        train = source.load("train", 0, 1)
        if not len(train.labels):
            raise HeadCorrupt(
                path=self.label,
                found=f"its {source.erased:,} training rows were erased from the collection, and a kNN head is its rows",
                advice="Train it again, on a snapshot of the rows there are now.",
            )
        return Neighbours(train)

    @cached_property
    def _classifier(self) -> Classifier:
        """What a head of kind "neighbours" asks; kept from its first use on."""
        from raystore.train.classify.register import open_head

        return self.asks or open_head(self)

    def predict(self, vectors: object, *, leave_out: Sequence[str] = ()) -> Predictions:
        """What the head says of vectors, one prediction per row; one vector is one row.

        Args:
            leave_out: the id of each vector's own row, which has no vote then. Only kind "neighbours" looks at it.

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
        if self.kind == "neighbours":
            return self._classifier.predict(rows, threshold=self.threshold, leave_out=leave_out)
        widest = max([len(self.classes), *(len(array) for array in self.arrays.values())], default=1)
        step = max(1, _BLOCK_CELLS // max(1, widest))
        parts = [decide(self.record, self.scores(rows[i : i + step])) for i in range(0, max(1, len(rows)), step)]
        if len(parts) == 1:
            return parts[0]
        labels: list[Any] = [label for part in parts for label in part.labels]
        probabilities, confidence, abstained = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[1:4])
        return Predictions(labels, probabilities, confidence, abstained, parts[0].classes)

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
        return Head(record, self.arrays, self.report.of(f"{self.name}@{number}"), number, layout.root, self.near, self.asks)

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
            if sorted(arrays) != sorted(arrays_of(record)):
                raise HeadCorrupt(path=str(folder), found=f"a {record.kind} head holds no arrays {sorted(arrays)}")
            report = Report.from_json((folder / "report.json").read_bytes())
        except FileNotFoundError as error:
            raise HeadCorrupt(path=str(folder), found=f"{Path(error.filename).name} is missing") from None
        except ValidationError as error:
            raise HeadCorrupt(path=str(folder), found=f"{error.title} does not parse") from None
        except SafetensorError:
            raise HeadCorrupt(path=str(folder), found="head.safetensors does not parse") from None
        return cls(record, arrays, report.of(f"{record.name}@{folder.name}"), int(folder.name), folder.parents[2])

    def _repr_html_(self) -> str:
        facts = {
            "kind": self.kind,
            "task": self.task,
            "classes": len(self.classes) or None,
            "encoder": self.encoder,
            "snapshot" if self.record.voters is None else "asks": self.origin,
            f"on {self.report.split}": self.report.headline_text,
            "abstains below": self.threshold,
        }
        return facts_html(f"Head {self.label}", {name: fact for name, fact in facts.items() if fact is not None})

    def __repr__(self) -> str:
        about = {"classes": f"{len(self.classes)} classes", "labels": f"{len(self.classes)} labels", "number": "a number"}
        return f"Head({self.label}, {self.kind}, {about[self.task]}, on {self.encoder})"


def arrays_of(record: HeadRecord) -> tuple[str, ...]:
    """The names of the arrays that a head of this record has."""
    described = record.voters is not None and bool(record.voters.described)
    return (*ARRAYS[record.kind], DESCRIPTIONS) if described else ARRAYS[record.kind]


def origin_of(record: HeadRecord) -> str:
    """What a head learned from, in words: 'monday@3', or the collection and labels that it asks."""
    return "{name}@{number}".format(**record.snapshot) if record.voters is None else str(record.voters)


def scores(record: HeadRecord, arrays: Mapping[str, Matrix], rows: Matrix, near: Neighbours | None = None) -> Matrix:
    """(n, c) float32 logits before temperature, or (n, 1) predicted numbers, of (n, d) float32 unit rows; `near` is for kNN."""
    if near is None:
        return logits(record.kind, arrays, rows)
    options = {name: record.settings[name] for name in ("k", "power") if name in record.settings}
    return near.scores(rows, len(record.classes), record.task, **options)


def probabilities_of(record: HeadRecord, scores: Matrix) -> Matrix:
    """(n, c) float32 calibrated probabilities of logits: rows that sum to 1, or for "labels" each on its own."""
    return (sigmoid if record.task == "labels" else softmax)(scores, record.temperature)


def decide(record: HeadRecord, scores: Matrix) -> Predictions:
    """The predictions of (n, c) scores."""
    n = len(scores)
    never = np.zeros(n, dtype=np.bool_)
    if record.task == "number":
        ones = np.ones(n, dtype=np.float32)
        return Predictions(scores[:, 0].astype(np.float64).tolist(), np.empty((n, 0), np.float32), ones, never, ())
    probabilities = probabilities_of(record, scores)
    if record.task == "labels":
        from_ = np.asarray(record.thresholds or [0.5] * len(record.classes), dtype=np.float32)
        given = [[record.classes[j] for j in np.flatnonzero(row)] for row in probabilities >= from_]
        sure = np.maximum(probabilities, 1 - probabilities).mean(axis=1)
        return Predictions(given, probabilities, sure, never, record.classes)
    best = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(n), best]
    abstained = never if record.threshold is None else confidence < np.float32(record.threshold)
    return Predictions([record.classes[i] for i in best], probabilities, confidence, abstained, record.classes)


def logits(kind: HeadKind, arrays: Mapping[str, Matrix], rows: Matrix) -> Matrix:
    """(n, c) float32 scores of (n, d) float32 unit rows, by a linear head or an MLP."""
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
