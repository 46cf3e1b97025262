"""Pictures as the bytes of their files, decoded a batch at a time by threads: memory is that of the files.

Read as the base's encoder does it (`encoders/pixels.py`), or changed at random where a generator is given (`augment.py`).
Knows no label.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from raystore.encoders.images import LIMITS, ImageLimits, read_image
from raystore.encoders.passport import ImagePart, Modality
from raystore.encoders.pixels import normalised, pixels
from raystore.fine_tune.examples.augment import Change, changed, draw
from raystore.fine_tune.examples.types import IntArray, stays_here

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, repr=False)
class Pictures:
    """`files[i]` is the whole content of image file i; each was decoded once when it was read. `augment` names the changes."""

    part: ImagePart
    files: tuple[bytes, ...] = field(repr=False)
    augment: tuple[str, ...] = ()
    limits: ImageLimits = LIMITS
    modality: Modality = "image"

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"Pictures({len(self):,} files, {sum(map(len, self.files)):,} bytes)"

    def __reduce__(self) -> NoReturn:
        stays_here()

    def lengths(self) -> IntArray:
        """(n,) ones: all pictures are one size to the model."""
        return np.ones(len(self.files), np.int64)

    def inputs(self, rows: IntArray, augment: np.random.Generator | None = None) -> dict[str, npt.NDArray[Any]]:
        """{the part's input: (len(rows), 3, height, width) float32}.

        Args:
            augment: draws the named changes of each row; None, or no names, reads what the encoder reads.
        """
        named = augment if self.augment else None
        changes: list[Change | None] = [draw(self.augment, named) if named is not None else None for _ in rows]

        def read(job: tuple[int, Change | None]) -> npt.NDArray[np.uint8]:
            row, change = job
            image = read_image(self.files[row], self.limits)
            return pixels(image, self.part) if change is None else changed(image, change, self.part)

        found = in_threads(read, list(zip(rows.tolist(), changes, strict=True)))
        stack = np.stack(found) if found else np.empty((0, *self.part.shape, 3), np.uint8)
        return {self.part.input: normalised(stack, self.part)}

    def take(self, rows: IntArray) -> Pictures:
        """The rows in the order given; no file is copied."""
        return replace(self, files=tuple(self.files[row] for row in rows.tolist()))


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of each item, in order. Pillow lets go of the interpreter while it decodes and resizes."""
    return list(_pool().map(work, items)) if len(items) > 1 else [work(item) for item in items]


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="raystore-examples")
