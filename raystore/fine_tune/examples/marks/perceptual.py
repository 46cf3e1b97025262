"""Pictures as 64 bits of what they show and 48 bytes of their colours, and the pairs that look alike.

The bits are those of the DCT hash (Zauner 2010, "pHash"): the picture as the model sees it, grey, 32 x 32, its 8 x 8 lowest frequencies
above or below their median. Pictures that differ in at most 4 bits look alike in grey; so that a red shape is not taken for a blue one,
their means on a grid of 4 x 4 have to agree too. Another size, compression or a little light changes neither by much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from raystore.fine_tune.examples.marks.shingles import Hashes, Rows, key_of

BITS_APART = 4
COLOURS_APART = 8.0  # of 0 to 255, the mean over the grid and the three channels
_EDGE, _LOW, _GRID = 32, 8, 4
_ROWS, _OTHERS = 512, 8_192  # compared at once: 40 MB


@dataclass(frozen=True)
class ImageMarks:
    """`keys` (n,) hash the files; `hashes` (n,) are the perceptual bits, `colours` (n, 48) the grid's means."""

    keys: Hashes
    hashes: Hashes
    colours: npt.NDArray[np.uint8]

    def joined(self, others: Sequence[ImageMarks]) -> ImageMarks:
        """Those of these pictures, and behind them of the others'."""
        parts = (self, *others)
        return ImageMarks(
            keys=np.concatenate([part.keys for part in parts]),
            hashes=np.concatenate([part.hashes for part in parts]),
            colours=np.concatenate([part.colours for part in parts]),
        )

    def near(self, rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
        """(len(rows),) which of `rows` look like one of `others`. Cost: 2 ns a pair."""
        found = np.zeros(len(rows), np.bool_)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            for at in range(0, len(others), _OTHERS):
                theirs = others[at : at + _OTHERS]
                apart = np.bitwise_count(self.hashes[part][:, None] ^ self.hashes[theirs][None, :])
                one, other = np.nonzero(apart <= BITS_APART)
                near = self._same_colours(part[one], theirs[other])
                found[start + one[near]] = True
        return found

    def _same_colours(self, a: Rows, b: Rows) -> npt.NDArray[np.bool_]:
        found = [
            np.abs(self.colours[a[i : i + _OTHERS]].astype(np.int16) - self.colours[b[i : i + _OTHERS]]).mean(axis=1)
            for i in range(0, len(a), _OTHERS)
        ]
        return np.concatenate([np.zeros(0), *found]) <= COLOURS_APART


class ImageMarker:
    """Collects the marks of pictures: of each its file, and its pixels as the model sees them."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._hashes: list[int] = []
        self._colours: list[npt.NDArray[np.uint8]] = []

    def add(self, files: Sequence[bytes], looks: Sequence[Look]) -> None:
        self._keys += [key_of(file) for file in files]
        self._hashes += [look.bits for look in looks]
        self._colours += [look.colours for look in looks]

    def finish(self) -> ImageMarks:
        colours = np.stack(self._colours) if self._colours else np.empty((0, 3 * _GRID**2), np.uint8)
        return ImageMarks(np.array(self._keys, np.uint64), np.array(self._hashes, np.uint64), colours)


@dataclass(frozen=True)
class Look:
    bits: int
    colours: npt.NDArray[np.uint8]  # (48,)


def look_of(pixels: npt.NDArray[np.uint8]) -> Look:
    """The marks of a picture (height, width, 3). Cost: 0.3 ms."""
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L").resize((_EDGE, _EDGE), Image.Resampling.BOX), np.float64)
    low = (_cosines() @ grey @ _cosines().T).reshape(-1)
    bits = low > np.median(low)
    colours = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BOX)).reshape(-1)
    return Look(int.from_bytes(np.packbits(bits).tobytes(), "big"), colours)


@lru_cache(maxsize=1)
def _cosines() -> npt.NDArray[np.float64]:
    """(8, 32) the first rows of the DCT-II."""
    k, n = np.arange(_LOW)[:, None], np.arange(_EDGE)[None, :]
    return np.asarray(np.cos(np.pi * k * (2 * n + 1) / (2 * _EDGE)))
