"""Encoders, heads and training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raystore.errors.base import RaystoreError, listed

_FINGERPRINT = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(eq=False, kw_only=True, repr=False)
class PassportMismatch(RaystoreError, ValueError):
    """`expected` and `found` are fingerprints, with the encoder's name where it is known; the sentence has their first 12 digits."""

    status = 409
    asker: str
    expected: str
    found: str
    advice: str

    def __str__(self) -> str:
        expected, found = _short(self.expected), _short(self.found)
        if expected == found:  # the first digits alike
            expected, found = self.expected, self.found
        return f"{self.asker} expects {expected}, but was given {found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class NotBetter(RaystoreError, ValueError):
    """`low` and `high` bound the difference with 95% confidence; both are the difference where too few rows gave no interval.
    `also`: the other figures that fell."""

    status = 409
    encoder: str
    metric: str
    before: float
    after: float
    low: float
    high: float
    advice: str
    also: Sequence[str] = ()

    def __str__(self) -> str:
        sure = f", 95% interval {self.low:+.3f} to {self.high:+.3f}" if self.low < self.high else ""
        also = f", and so did {listed(self.also)}" if self.also else ""
        return (
            f"encoder '{self.encoder}' was not made live: its {self.metric} fell from {self.before:.3f} to {self.after:.3f} "
            f"(difference {self.after - self.before:+.3f}{sure}){also}. {self.advice}"
        )


@dataclass(eq=False, kw_only=True, repr=False)
class NotMeasured(NotBetter):
    """A figure is required that the rows cannot say, so there are no numbers of it."""

    before: float = math.nan
    after: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def facts(self) -> dict[str, Any]:
        return {name: fact for name, fact in super().facts.items() if fact == fact}  # NaN is no JSON

    def __str__(self) -> str:
        named = listed([self.metric, *self.also])
        return (
            f"encoder '{self.encoder}' was not made live: these rows cannot say {named}, which must not fall. {self.advice}"
        )


def _short(told: str) -> str:
    """Fingerprints by the digits that the store's names hold."""
    return _FINGERPRINT.sub(lambda found: found[0][:12], told)


@dataclass(eq=False, kw_only=True, repr=False)
class GoldenMoved(RaystoreError, ValueError):
    status = 409
    encoder: str
    backend: str
    modality: str
    worst_input: int
    cosine: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"encoder {self.encoder} on backend {self.backend} no longer encodes its golden inputs: "
            f"{self.modality} {self.worst_input} came out at cosine {self.cosine:.6f}, at least {self.tolerance} is required. "
            "It was not loaded. Register what this model has become under a name of its own, or use another backend."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class ModelUnusable(RaystoreError, ValueError):
    status = 422
    model: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"model '{self.model}' cannot be used: {self.found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class HeadCorrupt(RaystoreError, ValueError):
    path: str
    found: str
    advice: str = "Restore the folder, or train the head again."

    def __str__(self) -> str:
        return f"head '{self.path}' is unusable: {self.found}. It was not loaded. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class TrainingCollapsed(RaystoreError, RuntimeError):
    """`variance` is the mean squared distance of the rows from their middle (1: spread all over), `rank` their effective
    dimensions, `kept` the step of the last good checkpoint, 0 where there is none."""

    status = 422
    step: int
    found: str
    variance: float
    rank: float
    kept: int

    def __str__(self) -> str:
        return (
            f"fine-tuning stopped at step {self.step}: {self.found} (variance {self.variance:.2g}, effective rank {self.rank:.1f}). "
            f"Try a lower learning_rate, a higher temperature, or larger batches: that begins anew.{_goes_on(self.kept)}"
        )


@dataclass(eq=False, kw_only=True, repr=False)
class TrainingDiverged(RaystoreError, RuntimeError):
    status = 422
    step: int
    found: str
    learning_rate: float
    kept: int

    def __str__(self) -> str:
        return (
            f"fine-tuning stopped at step {self.step}: {self.found}. Try learning_rate={self.learning_rate / 5:.2g} "
            f"(it was {self.learning_rate:.2g}), or a longer warmup: that begins anew.{_goes_on(self.kept)}"
        )


def _goes_on(kept: int) -> str:
    """What the last good checkpoint of a training that was stopped is for."""
    if kept == 0:
        return ""
    return (
        f" The same call would go on from the weights of step {kept} and most likely stop again; they stay for a week under the "
        f"store's tmp/fine_tune, as last-{kept}/weights.safetensors."
    )
