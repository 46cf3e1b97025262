"""Several encoders in memory at once, each model once: what rows with a vector of each are encoded by.

An encoder that is a bridge into another's space encodes new items with that other one; where both are asked for, the model is
loaded, and run, once. What is given back says so by being one object under two fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.opening import open_encoder
from raystore.encoders.passport import Card
from raystore.encoders.records import read_encoder
from raystore.encoders.registry import Encoder
from raystore.layout import Layout


def load_together(encoders: Sequence[Encoder]) -> dict[str, LoadedEncoder]:
    """By fingerprint the encoders, golden-checked; those that run as one are one object. See `Encoder.load`."""
    known = {encoder.fingerprint: encoder for encoder in encoders}
    leaders = _leaders({encoder.fingerprint: runs_as(encoder.fingerprint, encoder.card) for encoder in encoders})
    loaded = {leader: known[leader].load() for leader in dict.fromkeys(leaders.values())}
    return {fingerprint: loaded[leader] for fingerprint, leader in leaders.items()}


def open_together(
    layout: Layout, fingerprints: Sequence[str], *, threads: int | None = None, backend: str | None = None
) -> dict[str, LoadedEncoder]:
    """As `load_together`, from fingerprints alone. See `open_encoder`."""
    leaders = leaders_of(layout, fingerprints)
    loaded = {
        each: open_encoder(layout, each, threads=threads, backend=backend) for each in dict.fromkeys(leaders.values())
    }
    return {fingerprint: loaded[leader] for fingerprint, leader in leaders.items()}


def leaders_of(layout: Layout, fingerprints: Sequence[str]) -> dict[str, str]:
    """Of each encoder, in the order given, the one of them that is loaded for it: mostly itself."""
    return _leaders({each: runs_as(each, read_encoder(layout, each).card) for each in fingerprints})


def runs_as(fingerprint: str, card: Card) -> str:
    """The fingerprint of the encoder whose vectors of an item this one's are: its own, but for a bridge into another's space."""
    return str(card.bridge["to"]) if card.bridge and card.bridge["direction"] == "forward" else fingerprint


def _leaders(runs: Mapping[str, str]) -> dict[str, str]:
    """Of those that run as one the one that they all run as is loaded, or else the first."""
    first: dict[str, str] = {}
    for fingerprint, other in runs.items():
        first.setdefault(other, fingerprint)
    return {fingerprint: other if other in runs else first[other] for fingerprint, other in runs.items()}
