"""LanceDB and usearch, in an environment of their own, told what to do line by line so that they and raystore take turns.

    python nearest.py VECTORS.npy QUERIES.npy FOLDER

Reads one JSON object a line ({"peer": "lancedb", "do": "build" | "one" | "batch", ...}), prints one a line. Knows nothing of raystore.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

K = 10


class LanceDB:
    """IVF_PQ as its documentation sets it up for refinement."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, folder: Path) -> None:
        self.vectors, self.queries, self.folder = vectors, queries, folder

    def build(self) -> None:
        import lancedb
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.reshape(-1)), self.vectors.shape[1])
        rows = pa.table({"id": pa.array(np.arange(len(self.vectors))), "vector": column})
        self.table = lancedb.connect(str(self.folder)).create_table("bench", rows)
        started = time.perf_counter()
        self.table.create_index(metric="cosine", vector_column_name="vector", num_sub_vectors=self.vectors.shape[1] // 4)
        self.built_s = time.perf_counter() - started

    def one(self, at: int, setting: int) -> list[int]:
        query = self.table.search(self.queries[at]).distance_type("cosine").nprobes(setting).refine_factor(10).limit(K)
        return list(query.select(["id"]).to_arrow().column("id").to_pylist())

    def batch(self, lo: int, hi: int, setting: int) -> list[list[int]]:
        query = self.table.search(list(self.queries[lo:hi])).distance_type("cosine").nprobes(setting)
        rows = query.refine_factor(10).limit(K).select(["id"]).to_arrow()
        found: list[list[int]] = [[] for _ in range(hi - lo)]
        for number, id_ in zip(rows.column("query_index").to_pylist(), rows.column("id").to_pylist(), strict=True):
            found[number].append(id_)
        return found


class Usearch:
    def __init__(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        self.vectors, self.queries = vectors, queries

    def build(self) -> None:
        from usearch.index import Index

        started = time.perf_counter()
        self.index = Index(ndim=self.vectors.shape[1], metric="cos", dtype="f32")
        self.index.add(np.arange(len(self.vectors)), self.vectors)
        self.built_s = time.perf_counter() - started

    def one(self, at: int, setting: int) -> list[int]:
        self.index.expansion_search = setting
        return list(self.index.search(self.queries[at], K).keys.tolist())

    def batch(self, lo: int, hi: int, setting: int) -> list[list[int]]:
        self.index.expansion_search = setting
        return list(self.index.search(self.queries[lo:hi], K).keys.tolist())


def main() -> None:
    vectors, queries, folder = np.load(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3])
    peers = {"lancedb": LanceDB(vectors, queries, folder), "usearch": Usearch(vectors, queries)}
    for line in sys.stdin:
        asked = json.loads(line)
        peer = peers[asked["peer"]]
        started = time.perf_counter()
        found: object = None
        if asked["do"] == "build":
            peer.build()
            answer = {"built_s": peer.built_s}
        elif asked["do"] == "one":
            found = [peer.one(at, asked["setting"]) for at in range(asked["lo"], asked["hi"])]
        else:
            found = peer.batch(asked["lo"], asked["hi"], asked["setting"])
        if found is not None:
            answer = {"seconds": time.perf_counter() - started, "found": found}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
