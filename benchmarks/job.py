"""Rows per second of an embedding job against the bare encoder on the same rows: what reading and committing cost.

    RAYSTORE_DATASETS=... python benchmarks/job.py

100,000 arXiv titles, all-MiniLM-L6-v2. The bare encoder has the list in memory and hands 1,024 rows at a time; the job
reads Parquet, looks ids up, digests, encodes and commits. Titles are cut into parts that both do in turn, inline, so that
a slow minute hits both; the encoder is loaded before the clock, which is start-up, and is told apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from common import dataset, ratio_of, seconds, write_result

import raystore

ROWS, PARTS = 100_000, 10
GOAL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args().rows
    titles = pq.read_table(dataset("arxiv100k", "train.parquet"), columns=["title"]).column("title").to_pylist()[:rows]
    with tempfile.TemporaryDirectory() as folder:
        store = raystore.open(Path(folder) / "store")
        encoder = store.encoders.register("minilm", model="minilm")
        began = time.perf_counter()
        bare = encoder.load()
        start_up = time.perf_counter() - began
        collection = store.create_collection("titles", encoder=encoder)
        size = len(titles) // PARTS
        files = []
        for part in range(PARTS):
            rows_ = titles[part * size : (part + 1) * size]
            path = Path(folder) / f"part-{part}.parquet"
            pq.write_table(pa.table({"id": [f"{part}-{i}" for i in range(len(rows_))], "text": rows_}), path)
            files.append((path, rows_))

        def ours(path: Path) -> None:
            assert collection.embed(path, text="text", id="id", workers=0).added == size

        def peer(rows_: list[str]) -> None:
            for start in range(0, len(rows_), 1_024):
                bare.encode(rows_[start : start + 1_024])

        peer(files[0][1][:2_000])
        loading = collection.encoder()
        loading.encode(["warm"])
        pairs = []
        for turn, (path, rows_) in enumerate(files):
            if turn % 2:
                b = seconds(lambda r=rows_: peer(r))
                a = seconds(lambda p=path: ours(p))
            else:
                a = seconds(lambda p=path: ours(p))
                b = seconds(lambda r=rows_: peer(r))
            # The inline job opens its own copy of the encoder; that is start-up, which is told apart.
            pairs.append((a - start_up, b))
            print(turn, [round(s, 2) for s in pairs[-1]], flush=True)
    took = ratio_of(pairs)
    write_result(
        "job",
        {
            **took.record(),
            "what": f"rows per second of an inline job over the bare encoder's, {len(titles):,} titles, encoder load apart",
            "goal": GOAL,
            "rows_per_s": round(size / took.ours_s),
            "bare_rows_per_s": round(size / took.peer_s),
            "start_up_s": round(start_up, 2),
        },
        ["torch", "openvino", "pylance"],
        "python benchmarks/job.py",
    )


if __name__ == "__main__":
    main()
