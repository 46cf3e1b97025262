"""The classifier for free, on 102,500 arXiv abstracts of 41 classes: buckets visited against accuracy and time a document.

    make bench-peers; RAYSTORE_DATASETS=... python benchmarks/knn_buckets.py       (--rows N for a quick look; nothing is written then)

A published classifier of this kind kept its buckets in files and reached 82.4% at 97.8 ms a document with 10 of them, on data of its
own. Here: `probes` lists of an ivf index, 20 neighbours, their votes weighing cosine**4; with the exact vote, fastText (in an
environment of its own) and the linear head on the same split. Times: a vector in batches of 1,024 and singly, and a document
from its text.

And Banking77 with its 77 class names as descriptions: test accuracy with 0, 1, 2, 4 and 8 labels a class, means of three draws.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import raystore
from benchmarks.common import (
    ROOT,
    abstract_vectors,
    dataset,
    minilm_vectors,
    peer_python,
    read_texts,
    seconds,
    write_result,
)
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.encoders import Encoder
from raystore.index.build.run import build_index
from raystore.index.search.searcher import IndexSearcher
from raystore.layout import vector_column
from raystore.store import Store
from raystore.train.classify.classifier import Classifier
from raystore.train.classify.register import Classifiers
from raystore.train.fit import train_head
from raystore.train.source import ArraySource, Examples

PROBES = (1, 3, 5, 10, 20, 50)
K = 20
BATCH = 1_024
SINGLES = 300
TEXTS = 100
FEW = (0, 1, 2, 4, 8)
DRAWS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, help="abstracts to learn from, of 102,500")
    parser.add_argument(
        "--peer", default=None, help="the python of fastText's environment, if not that of make bench-peers"
    )
    parser.add_argument("--only", choices=["arxiv", "banking"])
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = raystore.open(Path(folder) / "store")
        encoder = store.encoders.register("minilm", model="minilm")
        if asked.only != "banking":
            figures |= arxiv(store, encoder, asked.rows, asked.peer or peer_python("fasttext"), Path(folder))
        if asked.only != "arxiv":
            figures["banking77"] = banking(store, encoder)
    if asked.rows is None and asked.only is None:
        write_result(
            "knn_buckets", figures, ["numpy", "faiss-cpu", "pylance", "openvino"], "python benchmarks/knn_buckets.py"
        )
    else:
        print(json.dumps(figures, indent=1))


# --- arXiv abstracts -------------------------------------------------------------------------------------------------


def arxiv(store: Store, encoder: Encoder, rows: int | None, peer: str, folder: Path) -> dict[str, Any]:
    splits = {}
    for split in ("train", "test"):
        texts, labels = read_texts(dataset("arxiv100k", f"{split}.parquet"))
        vectors = abstract_vectors(split)
        chosen = np.arange(len(texts)) if rows is None else np.random.default_rng(0).permutation(len(texts))[:rows]
        splits[split] = (vectors[chosen], np.array(labels)[chosen], [texts[i] for i in chosen])
    X, y, _ = splits["train"]
    table = fill(store, encoder, "abstracts", X, y.tolist())
    exact = measured(classifier(store, table, encoder), encoder, splits["test"])
    _, manifest = build_index(table, store.layout, "abstracts", encoder.fingerprint, kind="ivf")
    steps = {
        str(probes): measured(classifier(store, table, encoder, probes=probes), encoder, splits["test"])
        for probes in PROBES
    }
    chosen = measured(classifier(store, table, encoder), encoder, splits["test"])
    return {
        "what": f"{len(X):,} abstracts, {len(np.unique(y))} classes, {K} neighbours; ms a document",
        "lists": manifest.shards[0].nlist,
        "build_s": manifest.build_s,
        "probes": steps,
        "chosen": {"probes": manifest.shards[0].nprobe, **chosen},
        "exact": exact,
        "linear": linear(encoder, splits),
        "fasttext": fasttext(peer, splits, folder),
    }


def fill(store: Store, encoder: Encoder, name: str, vectors: np.ndarray, labels: Sequence[str | None]) -> CollectionTable:
    """A new collection of the vectors, with their labels in a kept column."""
    fingerprint = encoder.fingerprint
    table = CollectionTable.create(store.layout, name, {fingerprint: vectors.shape[1]}, {"label": "string"})
    for start in range(0, len(vectors), 50_000):
        part = vectors[start : start + 50_000]
        rows = {
            "id": pa.array([f"row-{i}" for i in range(start, start + len(part))]),
            "label": pa.array(labels[start : start + len(part)], pa.string()),
            "_payload": pa.array([b"0" * 32] * len(part), pa.binary(32)),
            vector_column(fingerprint): vector_array(part),
        }
        table.rows.commit([pa.table(rows)], refuse_differing=True)
    return table


def classifier(store: Store, table: CollectionTable, encoder: Encoder, **options: Any) -> Classifier:
    searcher = IndexSearcher(table, store.layout, table.name, encoder.fingerprint)
    return Classifiers(store.catalog, table).get(searcher, encoder, **{"labels": "label", "k": K, **options})


def measured(made: Classifier, encoder: Encoder, test: tuple[np.ndarray, np.ndarray, list[str]]) -> dict[str, float]:
    vectors, labels, texts = test
    made.classify(vectors[:BATCH])  # reads the labels and calibrates
    told: list[str] = []
    whole = seconds(
        lambda: told.extend(
            label for i in range(0, len(vectors), BATCH) for label in made.classify(vectors[i : i + BATCH]).labels
        )
    )
    singly = [seconds(lambda i=i: made.classify(vectors[i])) for i in range(min(SINGLES, len(vectors)))]
    from_text = [seconds(lambda i=i: made.classify(encoder.encode([texts[i]]))) for i in range(min(TEXTS, len(texts)))]
    return {
        "accuracy": round(float(np.mean(np.array(told) == labels)), 4),
        "batch_ms": round(1e3 * whole / len(vectors), 4),
        "single_ms": round(1e3 * statistics.median(singly), 3),
        "text_ms": round(1e3 * statistics.median(from_text), 2),
    }


def linear(encoder: Encoder, splits: dict[str, Any]) -> dict[str, float]:
    """The head with nothing chosen, on all of train."""
    classes = np.unique(splits["train"][1]).tolist()
    source = ArraySource(
        {
            split: Examples(X, np.searchsorted(classes, y).astype(np.int64), np.ones(len(y), np.float32))
            for split, (X, y, _) in splits.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        head = train_head(
            raystore.open(Path(folder) / "store").layout,
            name="head",
            kind="linear",
            classes=classes,
            source=source,
            fingerprint=encoder.fingerprint,
            encoder_label=encoder.label,
            snapshot={},
        )
    return {"accuracy": round(head.report.accuracy, 4), "single_ms": round((head.report.cost_us or 0) / 1e3, 4)}


def fasttext(peer: str, splits: dict[str, Any], folder: Path) -> dict[str, Any]:
    """On lower-case words without punctuation, with which it does best: 76.0% for 74.4% with it."""
    files = []
    for split, (_, labels, texts) in splits.items():
        file = folder / f"{split}.txt"
        words = (" ".join(re.sub(r"[^\w\s]|_", " ", text.lower()).split()) for text in texts)
        lines = (f"__label__{label.replace(' ', '_')} {said}" for label, said in zip(labels, words, strict=True))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files.append(str(file))
    command = [peer, str(ROOT / "benchmarks" / "peers" / "fasttext_worker.py"), *files]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in told.items()}


# --- Banking77, few labels -------------------------------------------------------------------------------------------


def banking(store: Store, encoder: Encoder) -> dict[str, Any]:
    """Test accuracy by labels a class: of descriptions and neighbours together, and of neighbours alone."""
    paths = [dataset("banking77", f"{split}.parquet") for split in ("train", "test")]
    (X, y), (T, truth) = ((minilm_vectors(path), np.array(read_texts(path)[1])) for path in paths)
    classes = np.unique(y).tolist()
    described = {name: name.replace("_", " ") for name in classes}
    found: dict[str, dict[str, list[float]]] = {}
    for n in FEW:
        for draw in range(DRAWS if n else 1):
            rng = np.random.default_rng(draw)
            shown = np.concatenate([np.empty(0, np.int64), *(few(np.flatnonzero(y == c), n, rng) for c in classes)]).astype(
                np.int64
            )
            labels: list[str | None] = [None] * len(y)
            for i in shown:
                labels[i] = str(y[i])
            table = fill(store, encoder, f"banking_{n}_{draw}", X, labels)
            ways: dict[str, dict[str, Any]] = {"both": {"labels": described, "labelled": "label"}}
            ways |= {"neighbours": {"labels": "label"}} if n else {}
            for way, arguments in ways.items():
                told = classifier(store, table, encoder, **arguments).classify(T).labels
                found.setdefault(str(n), {}).setdefault(way, []).append(float(np.mean(np.array(told) == truth)))
    return {n: {way: round(statistics.mean(values), 4) for way, values in ways.items()} for n, ways in found.items()}


def few(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, min(n, len(rows)), replace=False)


if __name__ == "__main__":
    main()
