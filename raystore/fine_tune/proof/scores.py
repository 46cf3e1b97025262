"""What one encoder is worth, row by row: each figure as one number a row, so that two encoders are compared in pairs.

Pure NumPy but for the linear head, which is fitted on torch. A row has NaN where a figure is not defined for it, which hangs on
labels and entities alone and is therefore the same under every encoder.

Sources: Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20, 1987 (eq. 1-3); Hendrycks and Gimpel, "A Baseline for Detecting
Misclassified and Out-of-Distribution Examples", ICLR 2017 (the head's confidence); Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022 (the neighbours').
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raystore.fine_tune.proof.space import Nearest, Rows, Space, nearest
from raystore.train.classify.vote import class_votes, vote_shares
from raystore.train.linear import fit_linear
from raystore.train.report.bootstrap import Floats
from raystore.train.source import Labels
from raystore.vectors import Matrix

_HELD = 2**22  # numbers of a table of rows by classes that are held at once


@dataclass(frozen=True)
class Question:
    """What both encoders are asked: the labels of the rows, by code, and which rows are kin."""

    reference: Labels  # (n,) codes
    queries: Labels  # (m,) codes; all of them are classes of the reference
    entities: Labels  # (m,) of the queries
    n_classes: int
    k: int


def neighbour_scores(near: Nearest, ask: Question) -> dict[str, Floats]:
    """ "knn_accuracy": 1.0 where the vote of the neighbours, weighted by their cosines, names a row right, else 0.0.
    "precision": the share of its nearest rows that have its label, of k or of as many as the class has, where those are fewer."""
    found = ask.reference[near.rows]
    said = np.empty(len(found), dtype=np.int64)
    shares = vote_shares(near.cosines)
    step = max(1, _HELD // max(ask.n_classes, 1))
    for start in range(0, len(found), step):
        part = slice(start, start + step)
        said[part] = class_votes(shares[part], found[part], ask.n_classes).argmax(axis=1)
    there = np.bincount(ask.reference, minlength=ask.n_classes)[ask.queries]
    return {
        "knn_accuracy": (said == ask.queries).astype(np.float64),
        "precision": _precision(found == ask.queries[:, None], there),
    }


def unseen_precision(queries: Matrix, ask: Question, rows: Rows) -> Floats:
    """(m,) the same share among the rows that training did not see, own entity left out; asked of `rows` among `rows`.

    Training pulls the rows that it sees together, so this is what a collection of new rows will be like.
    """
    labels, kin = ask.queries[rows], ask.entities[rows]
    near = nearest(queries[rows], queries[rows], ask.k, kin=(kin, kin))
    real = np.isfinite(near.cosines)
    pair = labels * (kin.max(initial=0) + 1) + kin
    _, place, together = np.unique(pair, return_inverse=True, return_counts=True)
    there = np.bincount(labels, minlength=ask.n_classes)[labels] - together[place]
    found = np.full(len(ask.queries), np.nan)
    found[rows] = _precision((labels[near.rows] == labels[:, None]) & real, there)
    return found


def _precision(right: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], there: Labels) -> Floats:
    """The share of right ones among the first min(k, there) of each row; NaN where none is there."""
    most = np.minimum(there, right.shape[1])
    counted = np.arange(right.shape[1])[None, :] < most[:, None]
    share: Floats = np.divide((right & counted).sum(axis=1), most, out=np.full(len(right), np.nan), where=most > 0)
    return share


def silhouette(vectors: Matrix, labels: Labels, n_classes: int) -> Floats:
    """(m,) of each row by cosine distance, in [-1, 1]; 0 in a class of one row. NaN where there is one class, or each has one row.

    The mean distance to a class is 1 less the cosine with the mean of its rows, so nothing is sampled: m*c*d multiply-adds.
    """
    sizes = np.bincount(labels, minlength=n_classes)
    if (sizes > 0).sum() < 2 or sizes.max() < 2:
        return np.full(len(vectors), np.nan)
    sums = np.zeros((n_classes, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    summed = sums.astype(np.float32)
    found = np.empty(len(vectors))
    step = max(1, _HELD // n_classes)
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        found[part] = _silhouette_block(vectors[part], labels[part], summed, sizes)
    return found


def _silhouette_block(vectors: Matrix, labels: Labels, sums: Matrix, sizes: Labels) -> Floats:
    own = np.arange(len(vectors))
    near = (vectors @ sums.T).astype(np.float64)  # (b, c) cosines summed over each class
    away = 1 - near / np.maximum(sizes, 1)
    away[:, sizes == 0] = np.inf
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    within = 1 - (near[own, labels] - squares) / np.maximum(sizes[labels] - 1, 1)
    away[own, labels] = np.inf
    between = away.min(axis=1)
    widest = np.maximum(within, between)
    found: Floats = np.divide(between - within, widest, out=np.zeros(len(vectors)), where=widest > 0)
    found[sizes[labels] == 1] = 0.0
    return found


def head_says(space: Space, ask: Question, l2: float) -> tuple[Labels, Floats]:
    """What a linear head that is fitted on the reference rows says of every query: (r,) codes, and (r,) how sure it is."""
    present, codes = np.unique(ask.reference, return_inverse=True)
    W, b = fit_linear(space.reference, codes.astype(np.int64), len(present), l2=l2)
    logits = (space.queries @ W.T + b).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    sure: Floats = 1 / np.exp(logits).sum(axis=1)
    return present[logits.argmax(axis=1)], sure


def at_home(near: Nearest) -> Floats:
    """(r,) how much at home each row is among the reference rows: the mean cosine of its neighbours."""
    found: Floats = near.cosines.mean(axis=1, dtype=np.float64)
    return found
