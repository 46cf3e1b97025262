"""The kind hnsw: a graph over whole vectors (Malkov & Yashunin 2018) in memory. It nominates positions.

`probes` is its ef: how many of the best nodes met so far are followed. Cost of a search: about 30 comparisons a unit of ef.
A graph finds the neighbours of its own nodes far better than those of a stranger (102,500 titles, ef 16: 98% against 92%),
so up to 256 rows, spread evenly, are added last, when ef has been chosen with them. Node i is therefore not position i.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from raystore.index.metric import Metric, faiss_metric
from raystore.index.shards.chosen import Chosen
from raystore.index.shards.exact import Positions
from raystore.index.shards.nominator import faiss_name, write_index
from raystore.vectors import Matrix

faiss: Any = _faiss

_LINKS = 32
_EF_BUILD = 40
_HELD_ROWS = 256


def held_positions(rows: int) -> Positions:
    """The rows that are the last nodes, by position; one in ten of a small shard."""
    held = min(_HELD_ROWS, rows // 10)
    return np.unique(np.linspace(0, rows - 1, held).astype(np.int64)) if held else np.empty(0, dtype=np.int64)


class Graph:
    """Of `rows` rows, as nodes with 32 links each, 64 at the base."""

    nlist = None

    def __init__(self, index: Any, rows: int) -> None:
        self.index = index
        self.held = held_positions(rows)
        self._others = rows - len(self.held)
        self._before = self.held - np.arange(len(self.held))  # how many other rows stand before each held one

    @property
    def memory_bytes(self) -> int:
        """The vectors and the links."""
        hnsw = self.index.hnsw
        links = 4 * hnsw.neighbors.size() + 8 * hnsw.offsets.size() + 4 * hnsw.levels.size()
        return int(self.index.ntotal * self.index.d * 4 + links)

    def nominate(self, queries: Matrix, fetch: int, chosen: Chosen | None, probes: int) -> Positions:
        """(m, fetch) int64 positions near each query, nearest first, padded with -1. A filter is met by following more
        nodes, as many as let `probes` of the chosen through."""
        ef = max(probes, fetch)
        if chosen is None:
            params = faiss.SearchParametersHNSW(efSearch=ef)
        else:
            nodes = np.concatenate([np.delete(chosen.mask, self.held), chosen.mask[self.held]])
            selector = faiss.IDSelectorBitmap(np.packbits(nodes, bitorder="little"))
            most = min(ef * self.index.ntotal // max(1, chosen.count), self.index.ntotal)
            params = faiss.SearchParametersHNSW(efSearch=most, sel=selector)
        return self._positions(self.index.search(queries, fetch, params=params)[1])

    def save(self, folder: Path, number: int) -> dict[str, str]:
        """Write the index file, synced; its name and sha256."""
        return write_index(self.index, folder, number)

    @classmethod
    def load(cls, folder: Path, number: int) -> Graph:
        """The graph that was saved; its digest must have been checked."""
        index = faiss.read_index(str(folder / faiss_name(number)))
        return cls(index, int(index.ntotal))

    def _positions(self, nodes: Positions) -> Positions:
        """Where the rows of those nodes stand; -1 stays."""
        positions: Positions = nodes + np.searchsorted(self._before, nodes, side="right")
        late = nodes >= self._others
        if late.any():
            positions[late] = self.held[nodes[late] - self._others]
        return positions


class GraphBuilder:
    """Takes the rows of a shard in position order. `graph` may be searched before it is whole."""

    def __init__(self, metric: Metric, dim: int, rows: int) -> None:
        index = faiss.IndexHNSWFlat(dim, _LINKS, faiss_metric(metric))
        index.hnsw.efConstruction = _EF_BUILD
        self.graph = Graph(index, rows)
        self._kept: list[Matrix] = []
        self._added = 0

    def add(self, vectors: Matrix) -> None:
        """The next rows. Cost: a search with ef 40 for each."""
        first, end = np.searchsorted(self.graph.held, [self._added, self._added + len(vectors)])
        here = self.graph.held[first:end] - self._added
        self._kept.append(vectors[here])
        self.graph.index.add(np.delete(vectors, here, axis=0))
        self._added += len(vectors)

    def save(self, folder: Path, number: int) -> dict[str, str]:
        """Add the rows that were held back, and write the index file, synced; its name and sha256."""
        for vectors in self._kept:
            if len(vectors):
                self.graph.index.add(vectors)
        self._kept = []
        return self.graph.save(folder, number)
