"""Search over 102,500 arXiv titles: raystore against bare FAISS, LanceDB and usearch, in turns, at equal recall.

    make bench-peers; python benchmarks/search.py [--repeats N] [--rows N] [--no-actors]

Bare FAISS gives row numbers; raystore gives ids, has looked at the collection's newest version, and scored every hit exactly.
Peers run in a process of their own, started once; each turn of theirs follows one of ours. Every figure is at the least
setting (probes, ef) with which that index reaches a recall@10 of 0.96 on the queries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, dataset, minilm_vectors, peer_python, ratio_of, write_result
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.index.build.run import build_index
from raystore.index.search.searcher import IndexSearcher
from raystore.layout import Layout, vector_column
from raystore.session import shutdown_ray, start_ray

FINGERPRINT = "0123456789abcdef" * 4
K = 10
RECALL = 0.96
BATCH = 1_024
SINGLES = 200
KINDS = ("exact", "ivf", "ivf_pqfs", "hnsw")
FASTEST = ("ivf_pqfs", "hnsw")

Search = Callable[[np.ndarray], Sequence[Sequence[int | str]]]


def fill(layout: Layout, vectors: np.ndarray) -> CollectionTable:
    """A collection of the vectors; every hundredth row has group 'rare'."""
    table = CollectionTable.create(layout, "bench", {FINGERPRINT: vectors.shape[1]}, {"part": "string"})
    for start in range(0, len(vectors), 50_000):
        rows = vectors[start : start + 50_000]
        numbers = range(start, start + len(rows))
        part = pa.table(
            {
                "id": pa.array([str(i) for i in numbers]),
                "part": pa.array(["rare" if i % 100 == 0 else "common" for i in numbers]),
                "_payload": pa.array([b"0" * 32] * len(rows), pa.binary(32)),
                vector_column(FINGERPRINT): vector_array(rows),
            }
        )
        table.rows.commit([part], refuse_differing=True)
    return table


class Peers:
    """The worker of benchmarks/peers/nearest.py."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, folder: Path) -> None:
        np.save(folder / "v.npy", vectors)
        np.save(folder / "q.npy", queries)
        command = [
            peer_python("nearest"),
            str(ROOT / "benchmarks/peers/nearest.py"),
            folder / "v.npy",
            folder / "q.npy",
            folder / "l",
        ]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **what: object) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def recall_of(found: Sequence[Sequence[int | str]], truth: np.ndarray) -> float:
    return float(np.mean([len(set(map(int, a)) & set(b)) / K for a, b in zip(found, truth.tolist(), strict=True)]))


def least(settings: Sequence[int], recall: Callable[[int], float]) -> tuple[int, float]:
    """The least setting that reaches the recall, or the last, and what it reaches."""
    for setting in settings:
        reached = recall(setting)
        if reached >= RECALL:
            break
    return setting, round(reached, 4)


def bare_index(kind: str, vectors: np.ndarray, nlist: int) -> Any:
    """The same algorithm in FAISS alone; the compressed kind refined from vectors in memory."""
    d = vectors.shape[1]
    name = {"exact": "Flat", "ivf": f"IVF{nlist},Flat", "ivf_pqfs": f"IVF{nlist},PQ{d // 4}x4fs", "hnsw": "HNSW32"}[kind]
    index = faiss.index_factory(d, name, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    if kind == "ivf_pqfs":
        index = faiss.IndexRefineFlat(index)
    index.add(vectors)
    return index


def bare_params(kind: str, setting: int, refine: int) -> Any:
    if kind == "exact":
        return None
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=setting)
    inner = faiss.SearchParametersIVF(nprobe=setting)
    return inner if kind == "ivf" else faiss.IndexRefineSearchParameters(k_factor=refine, base_index_params=inner)


def ours(searcher: IndexSearcher, probes: int | None, **options: Any) -> Search:
    return lambda queries: searcher.search(queries, K, probes=probes, **options).ids


def timed(search: Callable[[np.ndarray], Any], queries: np.ndarray, *, singly: bool) -> float:
    """Seconds for the queries, one by one or at once."""
    started = time.perf_counter()
    if singly:
        for i in range(len(queries)):
            search(queries[i : i + 1])
    else:
        search(queries)
    return time.perf_counter() - started


def pairs(first: Callable[[], float], second: Callable[[], float], repeats: int) -> list[tuple[float, float]]:
    """Seconds of both in turns, the order swapped each time; one turn before is not counted."""
    first()
    second()
    kept = []
    for turn in range(repeats):
        if turn % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        kept.append((a, b))
    return kept


def against_faiss(search: Search, bare: Callable[[np.ndarray], Any], queries: np.ndarray, repeats: int) -> dict[str, Any]:
    """One query's p50 beside bare FAISS's, and the throughput of a batch over its."""
    one, batch = queries[:SINGLES], queries[:BATCH]
    ones = pairs(lambda: timed(search, one, singly=True), lambda: timed(bare, one, singly=True), repeats)
    batches = pairs(lambda: timed(search, batch, singly=False), lambda: timed(bare, batch, singly=False), repeats)
    a, b = (float(np.median([pair[i] for pair in ones])) / len(one) * 1e3 for i in (0, 1))
    throughput = ratio_of(batches)
    return {
        "one_ms": round(a, 3),
        "bare_one_ms": round(b, 3),
        "one_over_bare": round(float(np.median([x / y for x, y in ones])), 3),
        "one_minus_bare_ms": round(a - b, 3),
        "batch_throughput_over_bare": round(throughput.median, 3),
        "batch_spread": [round(throughput.low, 3), round(throughput.high, 3)],
        "batch_queries_per_s": round(len(batch) / throughput.ours_s),
    }


def against_peer(
    search: Search, peers: Peers, peer: str, setting: int, queries: np.ndarray, repeats: int
) -> dict[str, Any]:
    """Our queries a second over the peer's, singly and in batches."""
    figures: dict[str, Any] = {}
    for name, n, do in (("one", SINGLES, "one"), ("batch", BATCH, "batch")):
        given = queries[:n]

        def theirs(n: int = n, do: str = do) -> float:
            return float(peers.ask(peer=peer, do=do, lo=0, hi=n, setting=setting)["seconds"])

        ratio = ratio_of(pairs(lambda given=given, name=name: timed(search, given, singly=name == "one"), theirs, repeats))
        figures |= {
            f"{name}_ratio": round(ratio.median, 2),
            f"{name}_spread": [round(ratio.low, 2), round(ratio.high, 2)],
            f"{name}_peer_per_s": round(n / ratio.peer_s),
        }
    return figures


@dataclass(frozen=True)
class World:
    """What every kind is measured on: the collection, its vectors, the queries, their true neighbours, and the peers."""

    layout: Layout
    table: CollectionTable
    vectors: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    peers: Peers
    at: dict[str, int]
    lancedb_built_s: float
    repeats: int


def peer_at(peers: Peers, peer: str, queries: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The peer built, and set to the least that reaches the recall."""
    built = peers.ask(peer=peer, do="build")["built_s"]

    def recall(setting: int) -> float:
        return recall_of(peers.ask(peer=peer, do="batch", lo=0, hi=len(queries), setting=setting)["found"], truth)

    setting, reached = least(
        {"lancedb": (1, 2, 3, 4, 6, 8, 12, 16, 20, 40), "usearch": (16, 24, 32, 48, 64, 96)}[peer], recall
    )
    return {"build_s": round(built, 1), "setting": setting, "recall": reached}


def measure(world: World, kind: str, *, actors: bool) -> dict[str, Any]:
    """Everything about one kind."""
    started = time.perf_counter()
    _, manifest = build_index(world.table, world.layout, "bench", FINGERPRINT, kind=kind)
    took = time.perf_counter() - started
    shard = manifest.shards[0]
    searcher = IndexSearcher(world.table, world.layout, "bench", FINGERPRINT)
    steps = [s for s in (12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256) if s <= (shard.nlist or 256)]
    bare = bare_index(kind, world.vectors, shard.nlist or 1)

    def bare_search(queries: np.ndarray, setting: int | None) -> np.ndarray:
        params = None if setting is None else bare_params(kind, setting, shard.refine)
        rows: np.ndarray = bare.search(queries, K, params=params)[1]
        return rows

    probes: int | None = None
    bare_at: int | None = None
    recall = 1.0
    if kind != "exact":
        probes, recall = least(steps, lambda s: recall_of(ours(searcher, s)(world.queries), world.truth))
        bare_at, _ = least(steps, lambda s: recall_of(bare_search(world.queries, s).tolist(), world.truth))
    record: dict[str, Any] = {
        "build_s": round(took, 1),
        "build_over_lancedb": round(took / world.lancedb_built_s, 3),
        "nlist": shard.nlist,
        "refine": shard.refine,
        "probes": probes,
        "bare_probes": bare_at,
        "recall": recall,
        "bytes_a_vector_in_memory": round(shard.memory_bytes / shard.rows, 1),
    }

    def compare(search: Search) -> dict[str, Any]:
        return against_faiss(search, lambda q: bare_search(q, bare_at), world.queries, world.repeats)

    def compare_peer(search: Search, peer: str) -> dict[str, Any]:
        return against_peer(search, world.peers, peer, world.at[peer], world.queries, world.repeats)

    record["inline"] = compare(ours(searcher, probes))
    if kind in FASTEST:
        record |= {f"inline_over_{peer}": compare_peer(ours(searcher, probes), peer) for peer in world.at}
    if kind != "exact":
        record["filtered_1_percent"] = filtered(searcher, probes, world)
    searcher.close()
    if actors:
        start_ray(num_cpus=4)
        build_index(world.table, world.layout, "bench", FINGERPRINT, kind=kind, shards=2, served="actors")
        searcher = IndexSearcher(world.table, world.layout, "bench", FINGERPRINT)
        if kind != "exact":  # of a shard's own lists, of which there are fewer
            probes, recall = least(steps, lambda s: recall_of(ours(searcher, s)(world.queries), world.truth))
        record |= {"actors_probes": probes, "actors_recall": recall}
        record["actors"] = compare(ours(searcher, probes))
        if kind in FASTEST:
            record["actors_over_lancedb"] = compare_peer(ours(searcher, probes), "lancedb")
        searcher.close(stop_actors=True)
        shutdown_ray()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=102_500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-actors", action="store_true")
    options = parser.parse_args()
    vectors = minilm_vectors(dataset("arxiv100k", "train.parquet"), "title")[: options.rows]
    queries = minilm_vectors(dataset("arxiv100k", "test.parquet"), "title")[:2_048]
    truth = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    figures: dict[str, Any] = {"rows": len(vectors), "dim": vectors.shape[1], "k": K, "recall_wanted": RECALL}
    with tempfile.TemporaryDirectory() as root:
        peers = Peers(vectors, queries, Path(root))
        known = {peer: peer_at(peers, peer, queries, truth) for peer in ("lancedb", "usearch")}
        print(json.dumps(known), flush=True)
        layout = Layout(Path(root) / "store")
        at = {peer: int(facts["setting"]) for peer, facts in known.items()}
        built = float(known["lancedb"]["build_s"])
        world = World(layout, fill(layout, vectors), vectors, queries, truth, peers, at, built, options.repeats)
        for kind in KINDS:
            figures[kind] = measure(world, kind, actors=not options.no_actors)
            print(kind, json.dumps(figures[kind], indent=1), flush=True)
        peers.close()
    libraries = ["faiss-cpu", "ray", "pylance", "numpy"]
    peer_versions = (ROOT / "benchmarks/peers/nearest.txt").read_text().split()
    write_result("search", {**figures, **known, "peers": peer_versions}, libraries, "python benchmarks/search.py")


def filtered(searcher: IndexSearcher, probes: int | None, world: World) -> dict[str, Any]:
    """One query among the hundredth of the rows that a predicate selects, over one among all; the predicate's rows are
    found once a version of the collection, which `first_ms` is."""
    queries = world.queries
    rare = np.arange(0, len(world.vectors), 100)
    truth = rare[faiss.knn(queries, world.vectors[rare], K, metric=faiss.METRIC_INNER_PRODUCT)[1]]
    started = time.perf_counter()
    searcher.search(queries[:1], K, probes=probes, where="part = 'rare'")
    first = time.perf_counter() - started
    among = ours(searcher, probes, where="part = 'rare'")
    one = queries[:SINGLES]
    timings = pairs(
        lambda: timed(among, one, singly=True), lambda: timed(ours(searcher, probes), one, singly=True), world.repeats
    )
    return {
        "recall": round(recall_of(among(queries), truth), 4),
        "time_over_unfiltered": round(float(np.median([a / b for a, b in timings])), 3),
        "first_ms": round(first * 1e3, 2),
    }


if __name__ == "__main__":
    main()
