"""What a training says of itself: a point every few steps, and what it came to. Pure; knows no torch and no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

Phase = Literal["pretrain", "train"]


@dataclass(frozen=True)
class Point:
    """One moment of a training. None where it was not looked at; at step 0 the base is looked at, so there is no loss."""

    step: int  # done
    steps: int  # in all, as it looks now
    phase: Phase
    seconds: float  # since the run began, the time before a restart included
    rows: int = 0  # seen so far; one that stood twice in a batch counts twice
    loss: float | None = None
    learning_rate: float | None = None
    variance: float | None = None  # mean squared distance of the batch's rows from their middle; 1 is spread all over
    rank: float | None = None  # effective dimensions of the batch
    val_accuracy: float | None = None  # of 10 nearest neighbours, weighted by similarity
    val_precision: float | None = None  # of the 10 nearest, how many have the row's label

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Point:
        return Point(**{f.name: value[f.name] for f in fields(Point) if f.name in value})


class Told(NamedTuple):
    """What a step says for a point."""

    loss: float
    learning_rate: float
    variance: float
    rank: float | None


Report = Callable[[Point], None]


def nobody(point: Point) -> None:
    """Where nobody looks."""


@dataclass(frozen=True)
class Suspect:
    """A row of train whose label the training did not believe; `probability` that it belongs to those learned worst."""

    id: str
    label: str
    probability: float


@dataclass(frozen=True)
class Trained:
    """What a training came to. The weights are beside it: in the model, or in the run's folder."""

    steps: int
    best_step: int  # whose weights were kept
    seconds: float
    ended: str  # a phrase: why it stopped where it did
    rows: int = 0
    first_accuracy: float | None = None  # of val, before the first step
    best_accuracy: float | None = None
    points: tuple[Point, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    workers: int = 1
    micro: Mapping[str, int] = field(default_factory=dict)  # what went through the model at once in the end
    notes: tuple[str, ...] = ()  # phrases: where data or memory did not allow what the recipe says
    data: Mapping[str, Any] = field(default_factory=dict)  # digest, rows by side, leaks, rows set aside
    pretrained: Trained | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Trained:
        before = value.get("pretrained")
        plain = Trained(**{f.name: value[f.name] for f in fields(Trained) if f.name in value})
        return replace(
            plain,
            points=tuple(Point.from_dict(point) for point in value.get("points", ())),
            suspects=tuple(Suspect(**suspect) for suspect in value.get("suspects", ())),
            notes=tuple(value.get("notes", ())),
            pretrained=Trained.from_dict(before) if before else None,
        )
