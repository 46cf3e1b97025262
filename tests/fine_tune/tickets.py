"""Labelled tickets that a tiny base can learn to tell apart: a class is a word of its vocabulary among words that say nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TOPICS = {"cards": ["card", "limit"], "cash": ["money", "sentence"], "colours": ["blue", "hello"]}
FILLER = ["the", "of", "is", "text", "world", "never", "arrived", "a", "b", "c", "d", "e", "f", "g", "h"]
# What makes a random BERT of two layers better within seconds.
QUICK: Mapping[str, Any] = {
    "losses": {"arcface": 1.0}, "margin": 0.0, "learning_rate": 3e-3, "proxy_learning_rate": 3e-2, "steps": 60, "classes_per_batch": 3,
    "per_class": 8, "precision": "fp32", "layer_decay": 1.0, "balanced": True,
}  # fmt: skip


def write_tickets(path: Path, n: int = 360, *, seed: int = 0, label: str | None = "topic", first: int = 0) -> Path:
    """(ticket, shop, body, topic) rows."""
    rng = random.Random(seed)
    rows = []
    for i in range(first, first + n):
        topic = rng.choice(list(TOPICS))
        words = [*rng.choices(FILLER, k=6), rng.choice(TOPICS[topic])]
        rng.shuffle(words)
        row = {"ticket": f"t-{i:04}", "shop": f"s-{i // 2}", "body": " ".join(words)}
        rows.append(row if label is None else {**row, label: topic})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
