"""Made-up spaces of two encoders: classes are directions, rows are scattered around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from raystore.fine_tune.proof.measuring import measure
from raystore.fine_tune.proof.proof import Proof
from raystore.fine_tune.proof.space import Space

CLASSES = ["card <lost>", "退款", "it's & late", "limit", "fee", "none of these"]


class Made(NamedTuple):
    before: Space
    after: Space
    reference_labels: Any
    query_labels: Any


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def spaces(
    n: int = 300, m: int = 200, c: int = 5, d: int = 16, *, before: float = 1.0, after: float = 1.0, hurt: int | None = None,
    seed: int = 0,
) -> Made:  # fmt: skip
    """`before` and `after` say how wide the rows scatter; `hurt` is a class that scatters twice as wide after."""
    rng = np.random.default_rng(seed)
    middles = unit(rng.normal(size=(c, d)))
    labels = [rng.integers(c, size=n), rng.integers(c, size=m)]
    noise = [rng.normal(size=(len(x), d)) / np.sqrt(d) for x in labels]

    def space(name: str, scatter: float, mark: str, twice: int | None = None) -> Space:
        wide = np.full(c, scatter)
        if twice is not None:
            wide[twice] *= 2
        sides = [unit(middles[x] + wide[x][:, None] * noise[i]) for i, x in enumerate(labels)]
        return Space(name, sides[0], sides[1], mark * 64)

    return Made(space("base@b", before, "b"), space("tuned@a", after, "a", hurt), *labels)


def proof(made: Made | None = None, **more: Any) -> Proof:
    made = made or spaces()
    c = int(max(made.reference_labels.max(), made.query_labels.max())) + 1
    facts = {
        "classes": CLASSES[:c] if c <= len(CLASSES) else [f"class {i}" for i in range(c)],
        "maps": "none",
        "draws": 300,
    }
    return measure(
        made.before, made.after, reference_labels=made.reference_labels, query_labels=made.query_labels, **(facts | more)
    )  # type: ignore[arg-type]
