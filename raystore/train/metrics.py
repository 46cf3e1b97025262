"""What a classifier's predictions are worth: scores, tables and the two baselines every report stands beside.

NumPy on integer labels; FAISS for the neighbours. Knows no head and no store. The definitions are
scikit-learn's with `zero_division=0`, and tests hold them to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.train.source import Labels
from raystore.vectors import Matrix

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


class ClassScores(NamedTuple):
    """Each (c,): precision, recall and F1 in [0, 1], 0 where undefined; support = rows whose label it is."""

    precision: Shares
    recall: Shares
    f1: Shares
    support: Counts


def accuracy(labels: Labels, predicted: Labels) -> float:
    """The share of rows predicted right; 0.0 without rows."""
    return float((labels == predicted).mean()) if len(labels) else 0.0


def confusion_matrix(labels: Labels, predicted: Labels, n_classes: int) -> Counts:
    """(c, c) int64: row = label, column = prediction."""
    flat = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def class_scores(confusion: Counts) -> ClassScores:
    """Precision, recall, F1 and support of each class, from a confusion matrix."""
    right = np.diag(confusion).astype(np.float64)
    support, claimed = confusion.sum(axis=1), confusion.sum(axis=0)

    def share(of: Counts) -> Shares:
        return np.where(of == 0, 0.0, right / np.maximum(of, 1))

    f1 = 2 * share(support + claimed)
    return ClassScores(share(claimed), share(support), f1, support)


def macro_f1(confusion: Counts) -> float:
    """The mean F1 of the classes that are a label or a prediction of some row; 0.0 without rows."""
    seen = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    return float(class_scores(confusion).f1[seen].mean()) if seen.any() else 0.0


def log_loss(labels: Labels, probabilities: Matrix) -> float:
    """Mean negative log of the probability given to the label, clipped at float32's smallest step; 0.0 without rows."""
    if not len(labels):
        return 0.0
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(given, np.finfo(np.float32).eps, 1.0)).mean())


def majority_baseline(train_labels: Labels, labels: Labels, n_classes: int) -> float:
    """Accuracy of always answering the most frequent training class (ties: the lower class)."""
    most = int(np.bincount(train_labels, minlength=n_classes).argmax())
    return float((labels == most).mean()) if len(labels) else 0.0


def knn_predict(train: Matrix, train_labels: Labels, queries: Matrix, n_classes: int, k: int = 10) -> Labels:
    """The class of each query by vote of its k nearest training rows, each vote weighing its cosine.

    Args:
        train, queries: (n, d) and (m, d) float32 unit rows.
        k: neighbours; all of them where train has fewer. Ties go to the lower class; a cosine below 0 counts 0.

    Cost: n*m*d multiply-adds in FAISS, queries in blocks of 4,096.
    """
    import faiss

    index = faiss.IndexFlatIP(train.shape[1])
    index.add(np.ascontiguousarray(train))
    voted = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(queries), 4096):
        block = np.ascontiguousarray(queries[start : start + 4096])
        scores, rows = index.search(block, min(k, len(train)))
        votes = np.zeros((len(block), n_classes))
        # Rounded to what float32 cosines are good for, so that equal votes tie whatever order they are added in.
        np.add.at(votes, (np.arange(len(block))[:, None], train_labels[rows]), np.maximum(scores, 0.0))
        voted[start : start + 4096] = votes.round(6).argmax(axis=1)
    return voted
