"""The vectors of a shard in position order, as a search reads them: a file (vector_file.py) or an array. Pure NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from raystore.index.shards.exact import Positions
from raystore.vectors import Matrix


class ShardVectors(Protocol):
    """The vectors of a shard in position order: a file (vector_file.py) or an array."""

    def rows(self, positions: Positions) -> Matrix:
        """(c, d) copies of the rows at those positions."""

    def whole(self, positions: Positions) -> Matrix | None:
        """(n, d) all rows in place, of which those at the positions may be read; None where they are not on this machine."""

    def parts(self, n: int) -> Iterator[tuple[int, Matrix]]:
        """All rows in order: where a part begins, and about n of them."""


class HeldVectors:
    """Vectors in memory, with the face of a vector file."""

    def __init__(self, vectors: Matrix) -> None:
        self.vectors = vectors

    def whole(self, positions: Positions) -> Matrix:  # noqa: ARG002, all of them may be read
        return self.vectors

    def rows(self, positions: Positions) -> Matrix:
        return self.vectors[positions]

    def parts(self, n: int) -> Iterator[tuple[int, Matrix]]:
        for start in range(0, len(self.vectors), max(1, n)):
            yield start, self.vectors[start : start + n]
