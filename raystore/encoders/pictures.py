"""From image files to the pixel matrices a model eats, in batches. Pillow and NumPy only.

All backends read images through here, so they cannot differ in it. Decoding runs in threads (Pillow lets go of the
interpreter while it decodes and resizes). Images are never stored or quoted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from raystore.encoders.backends import BatchSize
from raystore.encoders.images import LIMITS, BadImage, ImageLimits, read_image
from raystore.encoders.passport import ImagePart
from raystore.encoders.pixels import normalised, pixels
from raystore.encoders.tokens import Batch


class ImageReader:
    """Turns image files into batches as a passport's image part says. Safe to use from several threads."""

    def __init__(self, part: ImagePart, threads: int | None = None, limits: ImageLimits = LIMITS) -> None:
        self._part = part
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="raystore-decode")

    def batches(self, files: Sequence[bytes], size: BatchSize, problems: dict[int, str]) -> Iterator[Batch]:
        """Every readable image once, in order; the others are put into `problems` by place."""
        places: list[int] = []
        stack: list[npt.NDArray[np.uint8]] = []
        for start in range(0, len(files), size.images):
            for place, found in enumerate(self._pool.map(self._read, files[start : start + size.images]), start):
                if isinstance(found, str):
                    problems[place] = found
                    continue
                places.append(place)
                stack.append(found)
                if len(stack) == size.images:
                    yield self._batch(places, stack)
                    places, stack = [], []
        if stack:
            yield self._batch(places, stack)

    def _read(self, data: bytes) -> npt.NDArray[np.uint8] | str:
        try:
            return pixels(read_image(data, self._limits), self._part)
        except BadImage as error:
            return error.reason

    def _batch(self, places: list[int], stack: list[npt.NDArray[np.uint8]]) -> Batch:
        return Batch(rows=np.array(places), inputs={self._part.input: normalised(np.stack(stack), self._part)})
