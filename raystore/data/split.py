"""Which side of a split an entity stands on. Pure: a hash, so it never depends on rows, order or workers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

SALT = "raystore-split-1"
SIDES = ("train", "val", "test")


def bucket(entity: str, salt: str = SALT) -> float:
    """In [0, 1): the first 8 bytes, big-endian, of SHA-256(salt + NUL + entity), over 2^64."""
    digest = hashlib.sha256(salt.encode() + b"\0" + entity.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def side(entity: str, fractions: Mapping[str, float], salt: str = SALT) -> str:
    """The side whose range of the cumulative fractions, in the order train, val, test, holds the entity's bucket."""
    place, edge = bucket(entity, salt), 0.0
    named = [s for s in SIDES if fractions.get(s, 0.0) > 0]
    for name in named:
        edge += fractions[name]
        if place < edge:
            return name
    return named[-1]  # the fractions sum to 1 but for rounding


def split_problems(fractions: Mapping[str, float]) -> list[str]:
    """What is wrong with the fractions, as sentences; empty when they can be used."""
    problems = [f"'{name}' is no side of a split, expected {', '.join(SIDES)}" for name in fractions if name not in SIDES]
    problems += [f"the fraction of '{n}' is {f}, expected 0 to 1" for n, f in fractions.items() if not 0 <= f <= 1]
    total = sum(fractions.values())
    if not problems and not math.isclose(total, 1.0, abs_tol=1e-9):
        problems.append(f"the fractions sum to {total:g}, expected 1")
    if not problems and not fractions.get("train"):
        problems.append("no row goes to train")
    return problems
