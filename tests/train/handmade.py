"""Heads made by hand, of every kind and task, without a fit: arrays of one seed on 16 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from raystore.catalog import Catalog
from raystore.train.heads import Head, HeadRecord
from raystore.train.report.report import Baselines, Report

CLASSES = ("card lost", "naïve 'quote'", "退款")
FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
ENCODER = "minilm@5f3c1a2b9d0e"
DIM = 16
SCORES = {"classes": ("accuracy", 0.75), "labels": ("micro_f1", 0.5), "number": ("mae", 2.5)}


def arrays(kind: str, outputs: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "linear": {"W": (outputs, DIM), "b": (outputs,)},
        "mlp": {"W1": (8, DIM), "b1": (8,), "W2": (outputs, 8), "b2": (outputs,)},
        "knn": {},
    }
    return {name: (2 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes[kind].items()}


def report(task: str = "classes") -> Report:
    score, value = SCORES[task]
    return Report(
        head="refunds",
        task=task,  # type: ignore[arg-type]
        split="test",
        n={"train": 6, "val": 0, "test": 4},
        entities=4,
        scores={score: value},
        baselines=Baselines(majority=0.25, knn10=0.5, knn10_train_rows=6, knn10_rows=4),
    )


def head(name: str = "refunds", kind: str = "linear", task: str = "classes", **facts: Any) -> Head:
    """A head that is not published yet."""
    classes = () if task == "number" else CLASSES
    told: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "task": task,
        "classes": classes,
        "dim": DIM,
        "fingerprint": FINGERPRINT,
        "encoder": ENCODER,
        "snapshot": {"name": "monday", "number": 3, "hash": "ab" * 32},
        "temperature": 1.0 if task == "number" else 0.7,
    }
    return Head(record=HeadRecord(**{**told, **facts}), arrays=arrays(kind, len(classes) or 1), report=report(task))


def published(catalog: Catalog, name: str = "refunds", **about: Any) -> Head:
    return head(name, **about).save(catalog.layout)
