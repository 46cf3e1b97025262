"""Which classes are learned: those that rows of train belong to. Pure NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raystore.fine_tune.examples.types import Examples, IntArray


def without_unseen(data: Examples, val: Examples | None) -> tuple[Examples, Examples | None]:
    """Train without the classes that it has no row of, and val with the same codes; there those classes come last.

    Such a label stands on the other sides alone, or is out of scope. It would have a class vector that no row ever comes to and
    every row is pushed away from. Where all classes have rows, nothing is changed.
    """
    seen = np.isin(np.arange(len(data.classes)), data.labels)
    if seen.all():
        return data, val
    order = np.argsort(~seen, kind="stable")
    codes = np.argsort(order)
    learned = order[: int(seen.sum())]

    def recoded(side: Examples, classes: IntArray) -> Examples:
        return replace(
            side,
            labels=np.where(side.labels >= 0, codes[side.labels], -1),
            classes=tuple(side.classes[code] for code in classes),
            parents=None if side.parents is None else side.parents[classes],
        )

    return recoded(data, learned), None if val is None else recoded(val, order)
