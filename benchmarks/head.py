"""A linear head, inline, against scikit-learn's LogisticRegression on the same vectors and the same C.

    RAYSTORE_DATASETS=... python benchmarks/head.py

Banking77's 10,003 training questions in 77 classes, encoded by all-MiniLM-L6-v2 (once, kept in .bench-cache).
Both stop by their own default rule; the objective both reach is reported beside the accuracies.
"""

from __future__ import annotations

import numpy as np
import torch
from common import dataset, interleaved, minilm_vectors, read_texts, write_result
from sklearn.linear_model import LogisticRegression

from raystore.train.linear import fit_linear

C = 10.0
REPEATS = 7
THREADS = 2


def main() -> None:
    torch.set_num_threads(THREADS)
    train, test = (dataset("banking77", f"{split}.parquet") for split in ("train", "test"))
    X, X_test = minilm_vectors(train), minilm_vectors(test)
    names, labels = np.unique(read_texts(train)[1], return_inverse=True)
    truth = np.searchsorted(names, read_texts(test)[1])

    def ours() -> tuple[np.ndarray, np.ndarray]:
        return fit_linear(X, labels, len(names), l2=C)

    def peer() -> LogisticRegression:
        return LogisticRegression(C=C, max_iter=1000).fit(X, labels)

    def objective(W: np.ndarray, b: np.ndarray) -> float:
        z = X.astype(np.float64) @ W.T + b
        z -= z.max(axis=1, keepdims=True)
        losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
        return float((losses.sum() + 0.5 * (W.astype(np.float64) ** 2).sum() / C) / len(X))

    ratio = interleaved(ours, peer, REPEATS)
    W, b = ours()
    fitted = peer()
    write_result(
        "head",
        {
            **ratio.record(),
            "what": "seconds of scikit-learn over seconds of raystore, linear head, 10,003 x 384, 77 classes",
            "accuracy": round(float(((X_test @ W.T + b).argmax(axis=1) == truth).mean()), 4),
            "peer_accuracy": round(float((fitted.predict(X_test) == truth).mean()), 4),
            "objective": round(objective(W, b), 6),
            "peer_objective": round(objective(fitted.coef_, fitted.intercept_), 6),
            "threads": THREADS,
        },
        ["numpy", "scipy", "scikit-learn", "torch"],
        "python benchmarks/head.py",
    )


if __name__ == "__main__":
    main()
