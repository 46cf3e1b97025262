"""Two maps of the same rows: by principal components, or by UMAP where it is installed (extra `explore`). NumPy.

Cost: PCA of 3,000 rows of 384 some 0.1 s; UMAP some 10 s, and its first use as long again to compile.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from raystore.errors import ExtraNotInstalled
from raystore.fine_tune.proof.proof import MapMethod, Maps
from raystore.fine_tune.proof.space import Rows
from raystore.train.report.bootstrap import Floats
from raystore.train.source import Labels
from raystore.vectors import Matrix

log = logging.getLogger("raystore")

MAP_ROWS = 3_000
SIDE = 1_000
_FEW = 20  # rows, for which UMAP's 15 neighbours make no sense


def draw_maps(
    before: Matrix,
    after: Matrix,
    codes: Labels,
    ids: Sequence[str],
    *,
    method: Literal["auto", "pca", "umap"] = "auto",
    most: int = MAP_ROWS,
    seed: int = 0,
) -> Maps:
    """The maps of `most` rows or fewer.

    Raises:
        ExtraNotInstalled: method is "umap" and umap-learn is not there. "auto" takes PCA then.
    """
    rows = spread_rows(codes, most, seed)
    umap = None if method == "pca" else _umap()
    if method == "umap" and umap is None:
        raise ExtraNotInstalled(what="maps by UMAP", package="umap-learn", extra="explore")
    chosen: MapMethod = "umap" if umap is not None and len(rows) > _FEW else "pca"
    shown = None
    if chosen == "umap":
        first, second = (_by_umap(umap, side[rows], seed) for side in (before, after))
    else:
        (first, a), (second, b) = (plane(side[rows]) for side in (before, after))
        shown = (a, b)
    return Maps(
        method=chosen,
        ids=tuple(ids[i] for i in rows.tolist()),
        codes=tuple(codes[rows].tolist()),
        before=_placed(first),
        after=_placed(laid_on(first, second)),
        shown=shown,
    )


def spread_rows(codes: Labels, most: int, seed: int) -> Rows:
    """`most` rows or fewer, in order; a class keeps its share, and one row at least where there is room."""
    n = len(codes)
    if n <= most:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n)
    order = shuffled[np.argsort(codes[shuffled], kind="stable")]  # by class, shuffled within
    sizes = np.bincount(codes)
    within = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = (within + 0.5) / sizes[codes[order]]  # 0 to 1 within its class: evenly spread over the classes
    rank[within == 0] = -1.0
    return np.sort(order[np.argsort(rank, kind="stable")[:most]])


def plane(vectors: Matrix) -> tuple[Floats, float]:
    """(n, 2) coordinates on the two principal components, and the share of the variance they hold."""
    centred = vectors - vectors.mean(axis=0)
    spread = (centred.T @ centred).astype(np.float64)
    values, axes = np.linalg.eigh(spread)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    points = np.zeros((len(vectors), 2))
    points[:, : axes.shape[1]] = centred @ axes
    whole = values.clip(0).sum()
    return points, float(values[::-1][:2].clip(0).sum() / whole) if whole > 0 else 0.0


def laid_on(first: Floats, second: Floats) -> Floats:
    """The second map turned or mirrored so that its rows lie as near to the first's as they can (Schönemann 1966)."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    u, _, vt = np.linalg.svd(b.T @ a)
    turned: Floats = b @ (u @ vt)
    return turned


def _placed(points: Floats) -> tuple[tuple[int, int], ...]:
    """In a square of 0 to 1000, both axes by one scale."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = SIDE / max(float((high - low).max()), 1e-12)
    at = np.rint(SIDE / 2 + (points - (low + high) / 2) * scale).astype(int).clip(0, SIDE)
    return tuple((x, y) for x, y in at.tolist())


def _umap() -> Any:
    """The module, or None where it is not installed or cannot be loaded."""
    if importlib.util.find_spec("umap") is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no TensorFlow, which nothing here needs
            found = importlib.import_module("umap")
    except ImportError as error:
        log.warning("umap-learn is installed and cannot be loaded (%s), so maps are drawn by PCA", type(error).__name__)
        return None
    return found if hasattr(found, "UMAP") else None  # any folder called umap on the path is a module, too


def _by_umap(umap: Any, vectors: Matrix, seed: int) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, and that a seed means one thread
        reducer = umap.UMAP(n_neighbors=min(15, len(vectors) - 1), metric="cosine", init="pca", random_state=seed)
        found: Floats = np.asarray(reducer.fit_transform(np.ascontiguousarray(vectors)), dtype=np.float64)
    return found
