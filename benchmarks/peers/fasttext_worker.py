"""fastText's classifier, in an environment of its own: trains on one file of labelled lines, classifies another.

    python fasttext_worker.py TRAIN.txt TEST.txt      lines "__label__x the words"

Prints one JSON object: accuracy, train_s, ms a document (one at a time). Knows nothing of raystore.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import fasttext

SETTINGS = {"lr": 0.5, "epoch": 10, "wordNgrams": 2, "thread": 2}


def main(train: str, test: str) -> None:
    started = time.perf_counter()
    model = fasttext.train_supervised(train, verbose=0, **SETTINGS)
    train_s = time.perf_counter() - started
    right, taken = 0, []
    with Path(test).open(encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split(" ", 1) for line in lines]
    for label, text in pairs:
        before = time.perf_counter()
        (said,), _ = model.predict(text)
        taken.append(time.perf_counter() - before)
        right += said == label
    figures = {
        "accuracy": right / len(pairs),
        "train_s": train_s,
        "ms": 1e3 * statistics.median(taken),
        "settings": SETTINGS,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
