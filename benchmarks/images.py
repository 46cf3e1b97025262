"""Photographs per second of MobileNetV2, from JPEG bytes to vectors, against the plain transformers loop.

    RAYSTORE_DATASETS=... python benchmarks/images.py

Caltech101's photographs. The peer is what the model's page shows: AutoImageProcessor and AutoModel in torch, in batches of 8 (32 are
2.5 times slower here), the files opened with Pillow. Decoding is included on both sides. Then a linear head on the frozen vectors.
"""

from __future__ import annotations

import io
import tempfile

import numpy as np
import pyarrow.parquet as pq
import torch
from common import dataset, interleaved, write_result
from PIL import Image
from sklearn.linear_model import LogisticRegression

import raystore

ROWS, BATCH, REPEATS = 768, 8, 3
GOAL = 1.5


def main() -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = dataset("encoders", "mobilenet_v2", "config.json").parent
    train = pq.read_table(dataset("caltech101", "train.parquet"), columns=["image", "label"])
    test = pq.read_table(dataset("caltech101", "test.parquet"), columns=["image", "label"])
    photographs = [bytes(b) for b in train.column("image").to_pylist()]
    shown = photographs[:: len(photographs) // ROWS][:ROWS]
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def peer(files: list[bytes]) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files[start : start + BATCH]]
                found.append(model(**processor(images, return_tensors="pt")).pooler_output.flatten(1).numpy())
        return np.concatenate(found)

    with tempfile.TemporaryDirectory() as root:
        encoder = raystore.open(root).encoders.register("mobilenet", model=folder).load()
        took = interleaved(lambda: encoder.encode(shown), lambda: peer(shown), REPEATS)
        reference = peer(shown)
        reference /= np.linalg.norm(reference, axis=1, keepdims=True)
        cosines = np.einsum("nd,nd->n", np.asarray(encoder.encode(shown)), reference)
        vectors = encoder.encode(photographs)
        held_out = encoder.encode([bytes(b) for b in test.column("image").to_pylist()])
    head = LogisticRegression(C=10, max_iter=1_000).fit(vectors, train.column("label").to_pylist())
    write_result(
        "images",
        {
            **took.record(),
            "what": f"photographs per second over the transformers loop, MobileNetV2 224, decoding included, {ROWS} JPEGs",
            "goal": GOAL,
            "rows_per_s": round(ROWS / took.ours_s, 1),
            "peer_rows_per_s": round(ROWS / took.peer_s, 1),
            "backend": encoder.backend,
            "worst_cosine": round(float(cosines.min()), 6),
            "caltech101_linear_head_accuracy": round(head.score(held_out, test.column("label").to_pylist()), 4),
            "classes": len(set(test.column("label").to_pylist())),
        },
        ["torch", "transformers", "openvino", "pillow"],
        "python benchmarks/images.py",
    )


if __name__ == "__main__":
    main()
