"""What a head says of one item, for rules, for records and for the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.errors import InvalidArguments
from raystore.serve.answer.served import Predicted
from raystore.serve.rules.said import Said
from raystore.train.source import Task

MOST_PROBABILITIES = 100_000  # that the answer to one request names; a group of a stream asks for 64,000 at most
_SORTED = 4_096  # probabilities that are soonest sorted whole


@dataclass(frozen=True)
class Spoken:
    """A head's own words on one item. `probabilities` are the most likely labels, highest first."""

    said: Said
    probabilities: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # second, margin: what conditions may name beside


def check_probabilities(name: str, probabilities: int) -> None:
    """Raises InvalidArguments where the answer to a request of that deployment would name more: the event loop makes it, and it would
    wait 0.4 us for each."""
    if probabilities > MOST_PROBABILITIES:
        found = f"its items, each with as many labels as top says, are {probabilities:,} probabilities"
        problem = f"{found}, expected {MOST_PROBABILITIES:,} at most. Ask for a lower top, or for fewer items"
        raise InvalidArguments(call=f"predict '{name}'", problems=[problem])


def spoken(task: Task, predicted: Predicted, n: int, top: int) -> list[Spoken]:
    """Of each of n rows what a head of that task said, with its `top` most likely labels.

    Cost: in an event loop, some 0.3 us for each label that is named and 10 ns for each that is not.
    """
    if task == "number":
        return [Spoken(Said(value=float(value))) for value in predicted.labels[:n]]
    likely = _likely(predicted.classes, predicted.probabilities[:n], max(top, 2))
    sure = predicted.confidence[:n].tolist()
    if task == "labels":
        named = zip(predicted.labels[:n], sure, likely, strict=True)
        return [Spoken(Said(labels=tuple(map(str, labels)), confidence=c), most[:top]) for labels, c, most in named]
    each = zip(predicted.labels[:n], sure, predicted.abstained[:n].tolist(), likely, strict=True)
    return [_of_class(str(label), c, abstained, most, top) for label, c, abstained, most in each]


def _of_class(label: str, confidence: float, abstained: bool, likely: list[dict[str, Any]], top: int) -> Spoken:
    facts = {"second": None, "margin": None}
    if len(likely) > 1:
        facts = {"second": likely[1]["label"], "margin": likely[0]["probability"] - likely[1]["probability"]}
    why = "threshold" if abstained else None
    return Spoken(Said(label=label, confidence=confidence, abstained=abstained, why=why), likely[:top], facts)


def shown(said: Said, head: Spoken) -> dict[str, Any]:
    """One prediction as `wire.Prediction` and its siblings have it, but for the item's id and its head."""
    shared = {
        "abstained": said.abstained,
        "why": said.why,
        "rules": list(said.fired),
        "actions": None if said.actions is None else list(said.actions),
        "review": said.review,
        "evidence": None,
    }
    if said.value is not None:
        return {"value": said.value, **shared}
    likely = {"confidence": said.confidence, "probabilities": list(head.probabilities)}
    if said.labels is not None:
        return {"labels": list(said.labels), **likely, **shared}
    return {"label": said.label, **likely, **shared}


def _likely(classes: Sequence[str], probabilities: npt.NDArray[np.float32], k: int) -> list[list[dict[str, Any]]]:
    """Of each row the k most likely labels, highest first; ties keep the order of the classes."""
    places = _highest(probabilities, k)
    values = np.take_along_axis(probabilities, places, axis=1)
    return [
        [{"label": str(classes[place]), "probability": value} for place, value in zip(*row, strict=True)]
        for row in zip(places.tolist(), values.tolist(), strict=True)
    ]


def _highest(rows: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """(n, k), or as many as there are: the places of each row's k highest values, highest first, of equal ones the first first."""
    n, m = rows.shape
    if n * m <= _SORTED or m <= 4 * k:
        return np.argsort(-rows, axis=1, kind="stable")[:, :k]
    # Of many only the k are sorted: those above the k-th value, and of those equal to it the first.
    kth = np.partition(rows, m - k, axis=1)[:, m - k, None]
    above, equal = rows > kth, rows == kth
    wanted = k - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= wanted))
    places = np.nonzero(taken)[1].reshape(n, k)
    order = np.argsort(-np.take_along_axis(rows, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)
