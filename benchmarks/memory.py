"""Peak memory of an embedding job against its number of rows, which it must not grow with.

    python benchmarks/memory.py

A tiny encoder (32 wide, random weights) embeds 10,000 and 500,000 short texts inline, each in a process of its own.
Peak is the kernel's own high-water mark of the process; its children are sampled and added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from common import write_result

SMALL, LARGE = 10_000, 500_000
REPEATS = 2
ROW_GROUP = 10_000
WORDS = ("card", "never", "arrived", "hello", "world", "text", "sentence", "limit", "money", "blue", "the", "of", "is")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", nargs=2, metavar=("FILE", "STORE"), help="embed FILE into a new collection (used inside)")
    asked = parser.parse_args()
    if asked.job:
        embed(*asked.job)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = tiny_model(root / "tiny")
        subprocess.run(
            [sys.executable, "-c", REGISTER, str(root / "store"), str(model)], check=True
        )  # so that no measured process converts the model
        peaks: dict[int, list[dict[str, float]]] = {SMALL: [], LARGE: []}
        files = {n: write_texts(root / f"texts-{n}.parquet", n) for n in peaks}
        for _ in range(REPEATS):
            for n, file in files.items():
                peaks[n].append(measure(file, root / "store"))
    ratios = [
        (large["peak_mb"] + large["children_mb"]) / (small["peak_mb"] + small["children_mb"])
        for small, large in zip(peaks[SMALL], peaks[LARGE], strict=True)
    ]
    write_result(
        "memory",
        {
            "what": f"peak memory of embedding {LARGE:,} rows over that of {SMALL:,} rows, inline, tiny encoder",
            "ratio": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
            "repeats": REPEATS,
            "runs": {str(n): runs for n, runs in peaks.items()},
        },
        ["torch", "openvino", "pylance", "pyarrow"],
        "python benchmarks/memory.py",
    )


REGISTER = """
import sys, raystore
store = raystore.open(sys.argv[1])
store.encoders.register("tiny", model=sys.argv[2])
"""


def embed(file: str, root: str) -> None:
    """The measured process: one embedding job, then what the kernel saw of it."""
    import raystore

    store = raystore.open(root)
    table = store.create_collection(f"c{len(store.collections)}", encoder="tiny")
    report = table.embed(file, text="text", id="id", workers=0)
    status = Path("/proc/self/status").read_text()
    peak_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    print(json.dumps({"rows": report.added, "seconds": round(report.seconds, 1), "peak_mb": round(peak_kb / 1024, 1)}))


def measure(file: Path, root: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--job", str(file), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    children = [0]
    watched, done = psutil.Process(process.pid), threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            try:
                children.append(sum(child.memory_info().rss for child in watched.children(recursive=True)))
            except psutil.NoSuchProcess:
                continue

    watching = threading.Thread(target=watch)
    watching.start()
    output, _ = process.communicate()
    done.set()
    watching.join()
    if process.returncode:
        sys.exit(process.returncode)
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return {**found, "children_mb": round(max(children) / 2**20, 1)}


def write_texts(path: Path, n: int) -> Path:
    """Texts of 4 to 16 words, written a row group at a time."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, n, ROW_GROUP):
            ids = [f"r-{i}" for i in range(start, min(start + ROW_GROUP, n))]
            texts = [" ".join(rng.choice(WORDS, rng.integers(4, 17))) for _ in ids]
            writer.write_table(pa.table({"id": ids, "text": texts}, schema=schema), row_group_size=ROW_GROUP)
    return path


def tiny_model(folder: Path) -> Path:
    """A real BERT of two layers with random weights, and a WordPiece tokenizer of its own."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*special, *letters, *(f"##{letter}" for letter in letters), *WORDS]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
