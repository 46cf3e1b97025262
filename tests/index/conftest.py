"""A small collection with clustered vectors, exact duplicates among them, and the four ways to serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.index.build.run import build_index
from raystore.index.search.searcher import IndexSearcher
from raystore.layout import Layout, vector_column
from raystore.vectors import mark

FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
OTHER = "a81e00000000" + "1" * 52
DIM = 16
ROWS = 600


@dataclass
class World:
    """One store with one collection `tickets`, and what a plain NumPy search would answer."""

    layout: Layout
    table: CollectionTable
    ids: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, DIM), np.float32))

    def add(self, vectors: np.ndarray, *, fingerprint: str | None = FINGERPRINT) -> list[str]:
        n = len(self.ids)
        ids = [f"t '{i}' ä" for i in range(n, n + len(vectors))]
        products = ["card" if i % 5 == 0 else "loan" for i in range(n, n + len(vectors))]
        rows = {
            "id": pa.array(ids),
            "product": pa.array(products),
            "_payload": pa.array([b"x" * 32] * len(ids), pa.binary(32)),
        }
        if fingerprint:
            rows[vector_column(fingerprint)] = vector_array(vectors)
        self.table.rows.commit([pa.table(rows)], refuse_differing=True)
        self.ids += ids
        self.products += products
        self.vectors = np.concatenate([self.vectors, vectors])
        return ids

    def delete(self, id_: str) -> None:
        quoted = id_.replace("'", "''")
        self.table.rows.dataset().delete(f"id = '{quoted}'")

    def searcher(self, **options: object) -> IndexSearcher:
        return IndexSearcher(self.table, self.layout, "tickets", FINGERPRINT, **options)

    def truth(self, queries: np.ndarray, k: int, keep: Callable[[int], bool] = lambda i: True) -> list[list[str]]:
        """Nearest first, the row added first among equals, by a float64 sum that knows nothing of shards."""
        chosen = np.array([i for i in range(len(self.ids)) if keep(i)], dtype=int)
        found = []
        for query in np.atleast_2d(queries).astype(np.float64):
            scores = (self.vectors[chosen].astype(np.float64) * query).sum(axis=1).astype(np.float32)
            found.append([self.ids[i] for i in chosen[np.lexsort((chosen, -scores))][:k]])
        return found


def unit(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, dim))
    vectors = unit(centres[rng.integers(0, 12, n)] + 0.4 * rng.normal(size=(n, dim)))
    vectors[n // 3 : n // 2] = vectors[n // 3]  # duplicates, and the boundary of many answers among them
    return vectors


@pytest.fixture
def empty_world(tmp_path: Path) -> World:
    layout = Layout(tmp_path / "störe 'one'")
    table = CollectionTable.create(layout, "tickets", {FINGERPRINT: DIM}, {"product": "string"})
    return World(layout, table)


@pytest.fixture
def world(empty_world: World) -> World:
    empty_world.add(clustered(ROWS // 2, 1))
    empty_world.add(clustered(ROWS // 2, 2))
    return empty_world


@pytest.fixture
def queries() -> np.ndarray:
    near = clustered(ROWS // 2, 1)
    return mark(unit(np.concatenate([near[100:103], near[:3] + 0.1, clustered(6, 3)[:2]])), FINGERPRINT)


SERVED = {
    "no index": None,
    "exact, 1 shard": {"shards": 1},
    "exact, 3 shards": {"shards": 3},
    "ivf, 2 shards": {"shards": 2, "kind": "ivf"},
    "exact, 2 actors": {"shards": 2, "served": "actors", "workers": 2},
}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.ray] if "actors" in name else [], id=name) for name in SERVED]
)
def served(request: pytest.FixtureRequest, world: World) -> Iterator[tuple[World, IndexSearcher, bool]]:
    """The world, its searcher, and whether its answers are exact."""
    options = SERVED[request.param]
    if options is not None:
        if "served" in options:
            request.getfixturevalue("ray_session")
        build_index(world.table, world.layout, "tickets", FINGERPRINT, **options)
    searcher = world.searcher(deadline_s=30.0)
    yield world, searcher, "ivf" not in request.param
    searcher.close(stop_actors=True)
