"""A store, a labelled file and a tiny base: work that trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import raystore
from raystore.encoders.model import Options
from raystore.encoders.source import find_source
from raystore.fine_tune.examples.plan import plan_data
from raystore.fine_tune.loop.work import Work

from .example_files import write
from .loop_toys import recipe

WORDS = {
    "cards": ("card", "limit", "blue"),
    "money sent": ("money", "never", "arrived"),
    "grüße": ("hello", "world", "is"),
    "writing": ("text", "sentence", "of"),
}


def rows(n: int, *, seed: int = 0, labelled: bool = True) -> list[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    other = [word for words in WORDS.values() for word in words]
    found = []
    for i in range(n):
        label = list(WORDS)[i % len(WORDS)]
        own = chance.choice(WORDS[label], int(chance.integers(2, 5)))
        text = " ".join([*own, *chance.choice(other, 2), *chance.choice(list("abcdefgh"), 2)])
        found.append({"id": f"{seed}-{i}", "body": text, **({"topic": label} if labelled else {})})
    return found


def work(tmp_path: Path, model: Path, *, n: int = 160, pool: int = 0, **settings: Any) -> Work:
    root = tmp_path / "store"
    raystore.open(root)
    data = write(tmp_path / "data.parquet", rows(n))
    unlabelled = write(tmp_path / "pool.parquet", rows(pool, seed=9, labelled=False)) if pool else None
    spec = plan_data(
        data, text="body", label="topic", id="id", pool=unlabelled, split={"train": 0.65, "val": 0.3, "test": 0.05}
    )
    given = {"steps": 12, "classes_per_batch": 4, "learning_rate": 1e-3, "dropout": 0.0, "max_tokens": 24, **settings}
    return Work(str(root), "tiny-tickets", find_source(model), Options(), spec, recipe(**given))
