"""What an encoder is given and what it hands back: items, vectors, and why an item has none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from raystore.vectors import Vectors

Item = str | bytes  # a text, or the whole content of an image file


@dataclass(frozen=True)
class Encoded:
    """`vectors[i]` (n_good, dim) is item `places[i]`'s; `problems` says, by place, why the others have none.

    A reason quotes nothing of its item.
    """

    vectors: Vectors
    places: npt.NDArray[np.int64]
    problems: dict[int, str] = field(default_factory=dict)
