"""What a head's predictions are worth: scores of the three tasks, and the baselines every report stands beside.

NumPy on integer labels, 0/1 label matrices or numbers; FAISS for the neighbours. Knows no head and no store. The
definitions are scikit-learn's with `zero_division=0`, and tests hold them to it. What is counted may have leading
axes, so that a thousand resamples are scored as one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.train.source import Labels
from raystore.vectors import Matrix

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

_EPS = float(np.finfo(np.float32).eps)
_QUERY_ROWS = 4096


class ClassCounts(NamedTuple):
    """Each (..., c): rows of a class that were predicted as it, rows predicted as it, rows whose label it is."""

    right: npt.NDArray[np.number]
    claimed: npt.NDArray[np.number]
    support: npt.NDArray[np.number]


class ClassScores(NamedTuple):
    """Each (..., c): precision, recall and F1 in [0, 1], 0 where undefined."""

    precision: Shares
    recall: Shares
    f1: Shares


def share(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> Shares:
    """part / whole, 0 where the whole is 0."""
    found: Shares = np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)
    return found


def accuracy(labels: Labels, predicted: Labels) -> float:
    """The share of rows predicted right; 0.0 without rows."""
    return float((labels == predicted).mean()) if len(labels) else 0.0


def confusion_matrix(labels: Labels, predicted: Labels, n_classes: int) -> Counts:
    """(c, c) int64: row = label, column = prediction."""
    flat = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def class_counts(labels: Labels, predicted: Labels, n_classes: int) -> ClassCounts:
    """Each (c,) int64; no (c, c) table is made."""
    right = labels[labels == predicted]
    return ClassCounts(*(np.bincount(rows, minlength=n_classes) for rows in (right, predicted, labels)))


def label_counts(truth: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> ClassCounts:
    """Each (c,) int64, of (n, c) label matrices."""
    return ClassCounts((truth & given).sum(axis=0), given.sum(axis=0), truth.sum(axis=0))


def class_scores(counts: ClassCounts) -> ClassScores:
    """Precision, recall and F1 of each class."""
    right, claimed, support = counts
    return ClassScores(share(right, claimed), share(right, support), share(2 * right, claimed + support))


def macro_f1(counts: ClassCounts) -> Shares:
    """The mean F1 of the classes that are a label or a prediction of some row, over the last axis; 0 without rows."""
    seen = (counts.claimed + counts.support) > 0
    return share(class_scores(counts).f1.sum(axis=-1), seen.sum(axis=-1))


def micro_f1(counts: ClassCounts) -> Shares:
    """F1 of all classes' counts put together, over the last axis; 0 without rows."""
    right, claimed, support = (each.sum(axis=-1) for each in counts)
    return share(2 * right, claimed + support)


def average_precision(truth: npt.NDArray[np.bool_], probabilities: Matrix) -> Shares:
    """(c,) average precision of each label's ranking; 0 for a label that no row has.

    Rows of equal probability are taken together, as scikit-learn's `average_precision_score` does.
    """
    found = np.zeros(truth.shape[1])
    for j in range(truth.shape[1]):
        order = np.argsort(-probabilities[:, j], kind="stable")
        ranked, hits = probabilities[order, j], np.cumsum(truth[order, j])
        if len(hits) and hits[-1]:
            last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # where a group of equals ends
            found[j] = (np.diff(hits[last], prepend=0) * hits[last] / (last + 1)).sum() / hits[-1]
    return found


def log_loss(labels: Labels, probabilities: Matrix) -> float:
    """Mean negative log of the probability given to the label, clipped at float32's smallest step; 0.0 without rows."""
    if not len(labels):
        return 0.0
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(given, _EPS, 1.0)).mean())


def label_log_loss(truth: npt.NDArray[np.bool_], probabilities: Matrix) -> float:
    """Mean over rows and labels of the negative log of the probability given to what is so; clipped as `log_loss`."""
    if not truth.size:
        return 0.0
    given = np.where(truth, probabilities, 1 - probabilities).astype(np.float64)
    return float(-np.log(np.clip(given, _EPS, 1.0)).mean())


def majority_baseline(train_labels: Labels, labels: Labels, n_classes: int) -> float:
    """Accuracy of always answering the most frequent training class (ties: the lower class)."""
    most = int(np.bincount(train_labels, minlength=n_classes).argmax())
    return float((labels == most).mean()) if len(labels) else 0.0


def labels_baseline(train: npt.NDArray[np.generic], truth: npt.NDArray[np.generic]) -> float:
    """Micro-F1 of giving every row the labels that at least half of the training rows have, else the most frequent one.

    Args:
        train, truth: (n, c) and (m, c) of 0 and 1.
    """
    shares = (train != 0).mean(axis=0) if len(train) else np.zeros(train.shape[1])
    given = shares >= 0.5 if (shares >= 0.5).any() else np.arange(len(shares)) == shares.argmax()
    return float(micro_f1(label_counts(truth != 0, np.broadcast_to(given, truth.shape))))


def number_baseline(train: Shares, truth: Shares) -> tuple[float, float]:
    """Of always answering the training median, its mean absolute error; of always the mean, its root mean square error."""
    if not len(train) or not len(truth):
        return 0.0, 0.0
    return float(np.abs(truth - np.median(train)).mean()), float(np.sqrt(((truth - train.mean()) ** 2).mean()))


def knn_predict(train: Matrix, train_labels: Labels, queries: Matrix, n_classes: int, k: int = 10) -> Labels:
    """The class of each query by vote of its k nearest training rows, each vote weighing its cosine.

    Args:
        train, queries: (n, d) and (m, d) float32 unit rows.
        k: neighbours; all of them where train has fewer. Ties go to the lower class; a cosine below 0 counts 0.

    Cost: n*m*d multiply-adds in FAISS, queries in blocks of 4,096.
    """
    rows, weights = _nearest(train, queries, k)
    voted = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _QUERY_ROWS):
        block = slice(start, start + _QUERY_ROWS)
        votes = np.zeros((len(rows[block]), n_classes))
        # Rounded to what float32 cosines are good for, so that equal votes tie whatever order they are added in.
        np.add.at(votes, (np.arange(len(votes))[:, None], train_labels[rows[block]]), weights[block])
        voted[block] = votes.round(6).argmax(axis=1)
    return voted


def knn_mean(train: Matrix, values: npt.NDArray[np.floating], queries: Matrix, k: int = 10) -> Shares:
    """(m, ...) float64: the mean of `values` (n, ...) over the k nearest training rows, each weighing its cosine.

    For 0/1 label matrices it is each label's share of the vote. Cosines below 0 weigh 0; where all do, all weigh alike.
    """
    rows, weights = _nearest(train, queries, k)
    weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, 1.0).astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    return (
        np.stack([w @ values[r] for w, r in zip(weights, rows, strict=True)])
        if len(rows)
        else np.zeros((0, *values.shape[1:]))
    )


def _nearest(train: Matrix, queries: Matrix, k: int) -> tuple[Labels, Matrix]:
    """(m, k) int64 rows of `train` and their (m, k) float32 cosines, those below 0 as 0."""
    import faiss

    index = faiss.IndexFlatIP(train.shape[1])
    index.add(np.ascontiguousarray(train))
    k = min(k, len(train))
    rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), _QUERY_ROWS):
        block = slice(start, start + _QUERY_ROWS)
        scores[block], rows[block] = index.search(np.ascontiguousarray(queries[block]), k)
    return rows, np.maximum(scores, 0.0)
