"""Rows per second of an embedding job against the bare encoder on the same rows: what reading and committing cost.

    RAYSTORE_DATASETS=... python benchmarks/job.py

100,000 arXiv titles, all-MiniLM-L6-v2, in one process. The bare encoder has the list in memory and is handed 1,024 rows at a
time; the job reads Parquet, looks ids up, digests, encodes and commits, into a new collection each time. They take turns. What
loading the encoder takes is start-up, is timed before, and is taken off the job's time.
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

ROWS, REPEATS = 100_000, 2
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
        path = Path(folder) / "titles.parquet"
        pq.write_table(pa.table({"id": [str(i) for i in range(len(titles))], "text": titles}), path)

        def ours(name: str) -> None:
            report = store.create_collection(name, encoder=encoder).embed(path, text="text", id="id", workers=0)
            assert report.added == len(titles), report

        def peer() -> None:
            for start in range(0, len(titles), 1_024):
                bare.encode(titles[start : start + 1_024])

        bare.encode(titles[:2_000])
        pairs = []
        for turn in range(REPEATS):
            first, second = (lambda n=turn: ours(f"c{n}"), peer) if turn % 2 == 0 else (peer, lambda n=turn: ours(f"c{n}"))
            times = [seconds(first), seconds(second)]
            a, b = times if turn % 2 == 0 else times[::-1]
            pairs.append((a - start_up, b))
            print(turn, [round(s, 2) for s in pairs[-1]], flush=True)
    took = ratio_of(pairs)
    write_result(
        "job",
        {
            **took.record(),
            "what": f"rows per second of an inline job over the bare encoder's, {len(titles):,} titles, encoder load apart",
            "goal": GOAL,
            "rows_per_s": round(len(titles) / took.ours_s),
            "bare_rows_per_s": round(len(titles) / took.peer_s),
            "start_up_s": round(start_up, 2),
        },
        ["torch", "openvino", "pylance"],
        "python benchmarks/job.py",
    )


if __name__ == "__main__":
    main()
