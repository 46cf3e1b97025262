"""Linear heads, inline: time against scikit-learn's LogisticRegression at the same C, memory, and what MiniLM's heads score.

    RAYSTORE_DATASETS=... python benchmarks/head.py            (--rows 10000 for a quick look; nothing is written then)

Time: 100,000 arXiv titles of 41 classes, and Banking77's 10,003 questions of 77, encoded by all-MiniLM-L6-v2 (once, kept in
.bench-cache). Both sides stop by their own default rule, scikit-learn with as many steps as it needs for that; the objective
both reach is reported. The limit is what the matrix products of our steps on all rows cost alone: 4*n*d*c operations each
at the speed of a large square product in the same minute.
Memory: what a fit in a process of its own adds to the vectors, by the kernel's high-water mark.
Scores: test accuracy of `train_head` with its defaults, on all of train.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from common import dataset, interleaved, minilm_vectors, read_texts, write_result
from sklearn.linear_model import LogisticRegression

from raystore.catalog import open_root
from raystore.train.fit import train_head
from raystore.train.linear import fit_linear
from raystore.train.source import ArraySource, Examples

C = 10.0
MAX_ITER = 1_000
REPEATS = 5
THREADS = 2
ROWS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS, help="arXiv titles to fit on")
    parser.add_argument("--memory", nargs=2, metavar=("VECTORS", "LABELS"), help="one fit, measured (used inside)")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    if asked.memory:
        print(fit_memory_mb(*asked.memory))
        return
    X, labels = arxiv_titles(asked.rows)
    figures = {
        **against_scikit_learn(X, labels, asked.repeats),
        "what": f"seconds of scikit-learn over seconds of raystore, linear head, {len(X):,} x 384, {labels.max() + 1} classes",
        "memory": memory(X, labels),
        "banking77": against_scikit_learn(*banking(), asked.repeats),
        "accuracy": {"banking77": banking_accuracy(), "clinc150_in_scope": clinc_accuracy()},
        "threads": THREADS,
    }
    if asked.rows == ROWS:
        write_result(
            "head",
            figures,
            ["numpy", "scipy", "scikit-learn", "torch"],
            f"python benchmarks/head.py --repeats {asked.repeats}",
        )
    else:
        print(figures)


def arxiv_titles(n: int) -> tuple[np.ndarray, np.ndarray]:
    path = dataset("arxiv100k", "train.parquet")
    labels = pq.read_table(path, columns=["label"]).column("label").to_pylist()
    order = np.random.default_rng(0).permutation(len(labels))[:n]
    return minilm_vectors(path, "title")[order], np.unique(labels, return_inverse=True)[1][order].astype(np.int64)


def banking() -> tuple[np.ndarray, np.ndarray]:
    path = dataset("banking77", "train.parquet")
    return minilm_vectors(path), np.unique(read_texts(path)[1], return_inverse=True)[1].astype(np.int64)


def against_scikit_learn(X: np.ndarray, labels: np.ndarray, repeats: int) -> dict[str, Any]:
    n, c = len(X), int(labels.max()) + 1
    steps = [0]

    def ours() -> tuple[np.ndarray, np.ndarray]:
        steps[0] = 0
        return fit_linear(X, labels, c, l2=C, on_step=lambda: steps.__setitem__(0, steps[0] + 1))

    def peer() -> LogisticRegression:
        return LogisticRegression(C=C, max_iter=MAX_ITER).fit(X, labels)

    ratio = interleaved(ours, peer, repeats)
    W, b = ours()
    fitted = peer()
    pass_s = 4 * n * X.shape[1] * c / product_speed()
    return {
        **ratio.record(),
        "objective": round(objective(X, labels, W, b), 6),
        "peer_objective": round(objective(X, labels, fitted.coef_, fitted.intercept_), 6),
        "steps": steps[0],
        "peer_steps": int(fitted.n_iter_[0]),
        "limit_s": round(pass_s * steps[0], 3),
        "over_limit": round(ratio.ours_s / (pass_s * steps[0]), 2),
    }


def objective(X: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray) -> float:
    """scikit-learn's, in float64, over the rows."""
    total = 0.5 * float((W.astype(np.float64) ** 2).sum()) / C
    for start in range(0, len(X), 10_000):
        rows = slice(start, start + 10_000)
        z = X[rows].astype(np.float64) @ W.T + b
        z -= z.max(axis=1, keepdims=True)
        total += float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels[rows]]).sum())
    return total / len(X)


def product_speed() -> float:
    """Operations a second, two for a multiply-add, of a large float32 product on the same threads."""
    A = torch.randn(4096, 4096)
    A @ A
    return 2 * 4096**3 / min(_timed(A) for _ in range(3))


def _timed(A: torch.Tensor) -> float:
    start = time.perf_counter()
    A @ A
    return time.perf_counter() - start


def memory(X: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/X.npy", X)
        np.save(f"{folder}/labels.npy", labels)
        command = [sys.executable, __file__, "--memory", f"{folder}/X.npy", f"{folder}/labels.npy"]
        added = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    data = X.nbytes / 2**20
    return {"data_mb": round(data, 1), "added_mb": round(added, 1), "whole_over_data": round((data + added) / data, 2)}


def fit_memory_mb(vectors: str, labels: str) -> float:
    """How far a fit raises this process's memory above what it is with the vectors loaded and the libraries warm."""
    X, y = np.load(vectors), np.load(labels)
    fit_linear(X[:2_000], y[:2_000] % 2, 2, max_iter=2, tol=1.0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark begins anew
    fit_linear(X, y, int(y.max()) + 1, l2=C)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def banking_accuracy() -> float:
    splits = {s: dataset("banking77", f"{s}.parquet") for s in ("train", "test")}
    return accuracy({s: (minilm_vectors(path), np.array(read_texts(path)[1])) for s, path in splits.items()})


def clinc_accuracy() -> float:
    found = {}
    for split in ("train", "test"):
        path = dataset("clinc150_oos", f"{split}.parquet")
        labels = np.array(read_texts(path)[1])
        found[split] = (minilm_vectors(path)[labels != "oos"], labels[labels != "oos"])
    return accuracy(found)


def accuracy(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> float:
    """Test accuracy of a head with nothing chosen, fitted on all of train."""
    classes = np.unique(splits["train"][1]).tolist()
    source = ArraySource(
        {
            s: Examples(X, np.searchsorted(classes, y).astype(np.int64), np.ones(len(y), np.float32))
            for s, (X, y) in splits.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        layout, _ = open_root(Path(folder) / "store", create=True)
        head = train_head(
            layout,
            name="head",
            kind="linear",
            classes=classes,
            source=source,
            fingerprint="0" * 64,
            encoder_label="minilm",
            snapshot={},
        )
    return round(head.report.accuracy, 4)


if __name__ == "__main__":
    main()
