"""What a head says of one item, for rules, for records and for the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.serve.answer.served import Predicted, Speaks
from raystore.serve.rules.said import Said


@dataclass(frozen=True)
class Spoken:
    """A head's own words on one item. `probabilities` are the most likely labels, highest first."""

    said: Said
    probabilities: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # second, margin: what conditions may name beside


def spoken(head: Speaks, predicted: Predicted, n: int, top: int) -> list[Spoken]:
    """Of each of n rows what the head said, with its `top` most likely labels."""
    return [_one(head, predicted, i, top) for i in range(n)]


def _one(head: Speaks, predicted: Predicted, i: int, top: int) -> Spoken:
    if head.task == "number":
        return Spoken(Said(value=float(predicted.labels[i])))
    likely = _top(head.classes, predicted.probabilities[i], max(top, 2))
    confidence = float(predicted.confidence[i])
    if head.task == "labels":
        return Spoken(Said(labels=tuple(map(str, predicted.labels[i])), confidence=confidence), likely[:top])
    facts = {"second": None, "margin": None}
    if len(likely) > 1:
        facts = {"second": likely[1]["label"], "margin": likely[0]["probability"] - likely[1]["probability"]}
    abstained = bool(predicted.abstained[i])
    why = "threshold" if abstained else None
    said = Said(label=str(predicted.labels[i]), confidence=confidence, abstained=abstained, why=why)
    return Spoken(said, likely[:top], facts)


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


def _top(classes: Sequence[str], probabilities: npt.NDArray[np.float32], n: int) -> list[dict[str, Any]]:
    """The n most likely labels, highest first; ties keep the order of the classes."""
    best = np.argsort(-probabilities, kind="stable")[:n]
    return [{"label": str(classes[i]), "probability": float(probabilities[i])} for i in best]
