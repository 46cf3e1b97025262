"""Linear maps between two spaces of unit vectors, fitted on pairs: pure NumPy, deterministic.

Both are centred: the vectors of one encoder lie around a middle of their own, and a rotation about the origin cannot move that.
From MiniLM's vectors to those of its first token, 30,000 titles, rotating about the origin found 30% of the 10 nearest rows,
about the middles 57%, the affine map 68%.
"""

from __future__ import annotations

import numpy as np

from raystore.encoders.vector_map import VectorMap
from raystore.vectors import Matrix

# Ridge weights that are tried, as shares of the mean variance of a column; and ranks, as shares of the full one.
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
RANKS = (1.0, 0.75, 0.5, 0.25)


def procrustes(x: Matrix, y: Matrix) -> VectorMap:
    """The rotation (or, where the dimensions differ, the semi-orthogonal map) about the middles, and one scale.

    Args:
        x: (n, d) float32. y: (n, m) float32, row i of the same item.

    Cost: n d m, and an SVD of (d, m).
    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem, Psychometrika 1966: R = U V' of X'Y = U S V';
        the scale is trace(S) / |X|^2 (Schönemann and Carroll 1970).
    """
    middle_x, middle_y = _middle(x), _middle(y)
    a, b = x - middle_x, y - middle_y
    u, s, vt = np.linalg.svd((a.T @ b).astype(np.float64), full_matrices=False)
    scale = float(s.sum()) / max(float((a.astype(np.float64) ** 2).sum()), 1e-12)
    return _affine("procrustes", scale * (u @ vt), middle_x, middle_y)


class Ridge:
    """Affine maps by ridge regression about the rotation, of any weight and rank, from one eigendecomposition.

    What the penalty draws to is the rotation R, not nothing: few pairs give what is right of it, many what is best. From MiniLM to
    one whose layers were moved, 350 pairs found 81% of the 10 nearest so, 78% drawn to nothing, 80% by the rotation alone (2,000:
    84, 84, 81%).

    Source: W = R + (X'X + aI)^-1 X'(Y - XR), centred (Hoerl and Kennard 1970, with R as the prior's mean); a lower rank keeps the
        directions of XW with the largest variance, which is reduced-rank regression (Izenman 1975, with the identity as weight).
    """

    def __init__(self, x: Matrix, y: Matrix) -> None:
        """Cost: n d (d + m), an eigendecomposition of (d, d)."""
        self._middle_x, self._middle_y = _middle(x), _middle(y)
        a, b = x - self._middle_x, y - self._middle_y
        self._cov = (a.T @ a).astype(np.float64) / len(x)
        self._values, self._vectors = np.linalg.eigh(self._cov)
        self._values = np.maximum(self._values, 0)
        self._rotation = procrustes(x, y).weight.astype(np.float64)
        self._left = self._vectors.T @ ((a.T @ b).astype(np.float64) / len(x) - self._cov @ self._rotation)

    def map(self, weight: float, rank: float = 1.0) -> VectorMap:
        """
        Args:
            weight: of the penalty, as a share of the mean variance of x's columns.
            rank: as a share of the smaller dimension.
        """
        added = weight * max(float(self._values.mean()), 1e-12)
        w = self._rotation + self._vectors @ (self._left / (self._values + added)[:, None])
        kept = max(1, round(rank * min(w.shape)))
        if kept < min(w.shape):
            _, directions = np.linalg.eigh(w.T @ self._cov @ w)
            top = directions[:, -kept:]
            w = w @ top @ top.T
        return _affine("low-rank", w, self._middle_x, self._middle_y)


def _middle(rows: Matrix) -> Matrix:
    middle: Matrix = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return middle


def _affine(kind: str, w: np.ndarray, middle_x: Matrix, middle_y: Matrix) -> VectorMap:
    """x -> (x - middle_x) W + middle_y, with the middles folded into one bias."""
    bias = middle_y.astype(np.float64) - middle_x.astype(np.float64) @ w
    return VectorMap(kind, np.ascontiguousarray(w, dtype=np.float32), bias.astype(np.float32))  # type: ignore[arg-type]
