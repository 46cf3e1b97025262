"""A toy encoder that can be done in the head, and the tables it fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.catalog import open_root
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.log import RowLog
from raystore.encoders.items import Encoded
from raystore.errors import EncoderNotFound
from raystore.layout import Layout, vector_column
from raystore.vectors import Vectors, mark

KEY = b"k" * 32


class ToyEncoder:
    """(1, letters, letters 'e') of a text, as a unit row. It suffices: writing and SQL need only that equal texts are
    equal vectors and that the vectors are marked; what they mean is the encoders' room."""

    fingerprint = "ab12" * 16
    dim = 3
    max_chars = 100
    label = "toy@ab12ab12ab12"
    backend, device = "toy", "cpu"
    passport = SimpleNamespace(modalities=("text",))

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        rows = np.array([[1, len(text), text.count("e")] for text in texts], np.float32).reshape(-1, 3)
        return mark(rows / np.linalg.norm(rows, axis=1, keepdims=True), self.fingerprint)

    def encode_each(self, items: Sequence[str]) -> Encoded:
        """As the real one: vectors without a direction are named, and whatever else is wrong is raised."""
        vectors = np.asarray(self.encode(items))
        norms = np.linalg.norm(vectors, axis=1)
        problems = {
            i: "its vector is zero" if n == 0 else "its vector holds NaN or infinity"
            for i, n in enumerate(norms)
            if not n > 0
        }
        places = np.array([i for i in range(len(items)) if i not in problems], np.int64)
        return Encoded(mark(vectors[places], self.fingerprint), places, problems)


class OtherEncoder(ToyEncoder):
    """The same under another fingerprint: a stranger's vectors, and nothing in the numbers says so."""

    fingerprint = "cd34" * 16
    label = "other@cd34cd34cd34"


VECTORS = vector_column(ToyEncoder.fingerprint)


def make_store(root: Path) -> Layout:
    return open_root(root, create=True)[0]


def make_tickets(layout: Layout, columns: dict[str, str] | None = None) -> CollectionTable:
    return CollectionTable.create(layout, "tickets", {ToyEncoder.fingerprint: ToyEncoder.dim}, columns)


def make_log(table: CollectionTable, encoder: ToyEncoder | None = None) -> RowLog:
    return RowLog(table, encoder or ToyEncoder(), KEY)


def some_rows(ids: Sequence[str], payload: bytes = b"p" * 32, dim: int = 3) -> pa.Table:
    """Rows as `KeyedTable.commit` takes them."""
    vectors = vector_array(np.ones((len(ids), dim), np.float32))
    return pa.table({"id": list(ids), "_payload": pa.array([payload] * len(ids), pa.binary(32)), VECTORS: vectors})


def some_values(ids: Sequence[str], column: str, payload: bytes = b"p" * 32, value: float = 1.0) -> pa.Table:
    """Values of a vector column of three numbers, as `KeyedTable.fill` takes them."""
    vectors = vector_array(np.full((len(ids), 3), value, np.float32))
    return pa.table({"id": list(ids), "_payload": pa.array([payload] * len(ids), pa.binary(32)), column: vectors})


def named(**encoders: Any) -> Callable[[str], Any]:
    """What a store's own look-up does: an encoder by its name or its fingerprint."""
    known = {**encoders, **{each.fingerprint: each for each in encoders.values()}}

    def find(name: str) -> Any:
        if name not in known:
            raise EncoderNotFound(name=name, where="the test", existing=sorted(encoders))
        return known[name]

    return find
