"""A small collection whose rows lie in three groups, some of them labelled: by a kept column, by a table, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.keyed import quoted
from raystore.data.tables.table import register_table
from raystore.index.search.searcher import IndexSearcher
from raystore.layout import vector_column
from raystore.train.classify.classifier import Classifier
from raystore.train.classify.register import Classifiers
from raystore.vectors import mark

FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
DIM = 16
GROUPS = ["card lost", "naïve 'quote'", "退款"]
CENTRES = np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0][:4].astype(np.float32)  # the fourth is nobody's


def near(groups: Sequence[int], seed: int, spread: float = 0.15) -> np.ndarray:
    """A unit row near the centre of each group."""
    rows = CENTRES[list(groups)] + spread * np.random.default_rng(seed).normal(size=(len(groups), DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Describes:
    """Stands for an encoder where descriptions are encoded: a description that names a group's number lies at its centre, which is
    all that is asked of one here."""

    fingerprint = FINGERPRINT
    label = "minilm@5f3c1a2b9d0e"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        return mark(np.stack([CENTRES[int(text.split()[-1])] for text in texts]), FINGERPRINT)


@dataclass
class Desk:
    """A store with the collection `tickets`, and its classifiers."""

    catalog: Catalog
    table: CollectionTable
    encoder: Describes = field(default_factory=Describes)

    @classmethod
    def at(cls, folder: Path) -> Desk:
        layout, _ = open_root(folder / "a store's 'folder' ü", create=True)
        columns = {"product": "string", "urgent": "bool", "price": "float64"}
        return cls(Catalog(layout), CollectionTable.create(layout, "tickets", {FINGERPRINT: DIM}, columns))

    def __post_init__(self) -> None:
        self.searcher = IndexSearcher(self.table, self.catalog.layout, "tickets", FINGERPRINT)
        self.classifiers = Classifiers(self.catalog, self.table)

    def add(
        self, ids: Sequence[str], vectors: np.ndarray, products: Sequence[str | None] | None = None, **columns: Any
    ) -> None:
        rows = {
            "id": pa.array(ids),
            "product": pa.array(products if products is not None else [None] * len(ids), pa.string()),
            "_payload": pa.array([b"x" * 32] * len(ids), pa.binary(32)),
            vector_column(FINGERPRINT): vector_array(vectors),
            **columns,
        }
        self.table.rows.commit([pa.table(rows)], refuse_differing=True)

    def fill(self, n: int = 120, *, labelled: bool = True) -> list[int]:
        """n rows r0, r1, ... of the groups in turn; their product is the group's name."""
        groups = [i % 3 for i in range(n)]
        self.add([f"r{i}" for i in range(n)], near(groups, 1), [GROUPS[g] if labelled else None for g in groups])
        return groups

    def label(self, labels: dict[str, str | None], mode: str = "append") -> None:
        rows = [{"item": id_, "outcome": label} for id_, label in labels.items()]
        register_table(self.catalog, "outcomes", rows, id="item", mode=mode)  # type: ignore[arg-type]

    def erase(self, ids: Sequence[str]) -> None:
        self.table.rows.dataset().delete(f"id IN ({', '.join(map(quoted, ids))})")

    def classifier(self, labels: Any = "product", **options: Any) -> Classifier:
        return self.classifiers.get(self.searcher, self.encoder, labels=labels, **options)
