"""Which rows are worth a look, and their neighbours under both encoders side by side. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raystore.fine_tune.proof.proof import Asked, Neighbour
from raystore.fine_tune.proof.space import Nearest, Rows
from raystore.train.report.bootstrap import Floats
from raystore.train.source import Labels


def choose(before: Floats, after: Floats, labels: Labels, n: int) -> Rows:
    """(n,) rows or fewer: those whose neighbours changed most, for the better and for the worse in turn, each class once a side.

    Of equal changes the earlier row is taken, so the choice depends on nothing but the figures.
    """
    gain = after - before
    sides = []
    for sign in (-1.0, 1.0):
        order = np.argsort(sign * gain, kind="stable")
        order = order[sign * gain[order] < 0]
        _, first = np.unique(labels[order], return_index=True)
        sides.append(order[np.sort(first)])
    better, worse = sides
    n_worse = min(len(worse), max(n // 2, n - len(better)))
    return np.concatenate([better[: n - n_worse], worse[:n_worse]])


def side_by_side(
    rows: Rows,
    before: Nearest,
    after: Nearest,
    *,
    labels: Labels,
    reference_labels: Labels,
    ids: Sequence[str],
    reference_ids: Sequence[str],
    classes: Sequence[str],
) -> tuple[Asked, ...]:
    """Each row with its neighbours under both."""

    def listed(near: Nearest, row: int) -> tuple[Neighbour, ...]:
        pairs = zip(near.rows[row].tolist(), near.cosines[row].tolist(), strict=True)
        return tuple(
            Neighbour(id=reference_ids[r], label=classes[reference_labels[r]], cosine=round(cosine, 4))
            for r, cosine in pairs
        )

    return tuple(
        Asked(id=ids[row], label=classes[labels[row]], before=listed(before, row), after=listed(after, row))
        for row in rows.tolist()
    )
