"""Matrices of vectors, and what makes one usable. Pure NumPy; knows no encoder, table or index.

`Vectors` is a float32 ndarray that remembers which encoder made it, so whoever is handed one can refuse a stranger's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.errors import DimensionMismatch, InvalidVectors, PassportMismatch

Matrix = npt.NDArray[np.float32]

_PAIRS = 1_024  # of 384 numbers each are 3 MiB in float64, which a core keeps near: 30% faster than 8,192


class Vectors(np.ndarray[Any, np.dtype[np.float32]]):
    """(n, d) float32 unit rows and the `fingerprint` of the encoder that made them; slices and copies keep it, arithmetic does not."""

    fingerprint: str | None

    def __array_finalize__(self, obj: Any) -> None:
        self.fingerprint = getattr(obj, "fingerprint", None)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """What arithmetic makes of vectors is no encoder's vectors any more: it comes out as a plain array."""
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain

    def __reduce__(self) -> tuple[Any, ...]:
        """NumPy's own would lose the mark on the way to another process, and unmarked vectors pass everywhere."""
        return _revive, (np.asarray(self), self.fingerprint)


def _revive(matrix: Matrix, fingerprint: str | None) -> Vectors:
    vectors = matrix.view(Vectors)
    vectors.fingerprint = fingerprint
    return vectors


def mark(matrix: Matrix, fingerprint: str) -> Vectors:
    """The same memory, marked with its encoder."""
    marked = np.ascontiguousarray(matrix, dtype=np.float32).view(Vectors)
    marked.fingerprint = fingerprint
    return marked


def check_fingerprint(vectors: object, expected: str, asker: str, advice: str) -> None:
    """Raise PassportMismatch if the vectors are marked with another encoder; unmarked ones pass."""
    found = getattr(vectors, "fingerprint", None)
    if found is not None and found != expected:
        raise PassportMismatch(asker=asker, expected=expected, found=found, advice=advice)


def as_unit_rows(vectors: object, dim: int, call: str) -> Matrix:
    """(n, d) float32 rows of length 1, from whatever was given; one vector becomes one row.

    Raises:
        DimensionMismatch: rows are not `dim` long.
        InvalidVectors: not numbers, or rows with NaN, infinity or no direction; every bad row is named.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named below
            matrix = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidVectors(call=call, n_vectors=1, problems=[(0, "is not a list of numbers")]) from None
    if matrix.ndim == 1:
        matrix = matrix[None, :]
    if matrix.ndim != 2:
        raise InvalidVectors(call=call, n_vectors=1, problems=[(0, f"has {matrix.ndim} axes, expected 1 or 2")])
    if matrix.shape[1] != dim:
        raise DimensionMismatch(call=call, expected=dim, found=matrix.shape[1])
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        problems = [(int(i), "is zero" if norms[i] == 0 else "holds NaN or infinity") for i in np.flatnonzero(bad)]
        raise InvalidVectors(call=call, n_vectors=len(matrix), problems=problems)
    # Rows that are unit already to rounding are kept bit for bit, so a vector logged twice is the same vector.
    scale = np.where(np.abs(norms - 1) < 1e-5, 1.0, norms)
    unit: Matrix = (matrix / scale[:, None]).astype(np.float32)
    return unit


def pair_scores(queries: Matrix, rows: Matrix) -> Matrix:
    """(p,) float32: the dot product of each pair, exact products summed in float64 and rounded once.

    NumPy sums each row of a C-ordered block by itself (pairwise, over d), so p and the block do not matter.
    """
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[part] = np.multiply(queries[part], rows[part], dtype=np.float64, order="C").sum(axis=1)
    return scores


def rounding_bound(d: int) -> float:
    """The most a float32 dot product of two unit vectors differs from its `pair_scores` (Higham, Accuracy and Stability, eq. 3.5)."""
    return (d + 8) * 2.0**-24 * 1.01
