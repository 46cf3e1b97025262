"""A collection with vectors wide enough to lie plain in their files, known by heart: what SQL must say of it, NumPy says too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.query.engine import SqlEngine
from raystore.errors import EncoderNotFound
from raystore.layout import Layout, vector_column
from raystore.vectors import Matrix, Vectors, mark
from tests.data.toy import OtherEncoder

DIM = 64


class WideEncoder:
    """A unit vector for each text or image, from its bytes alone. It suffices: SQL asks that equal contents are equal vectors."""

    fingerprint = "ef56" * 16
    dim = DIM
    label = "wide@ef56ef56ef56"

    def __init__(self) -> None:
        self.calls: list[list[str | bytes]] = []

    def encode(self, items: Sequence[str | bytes], /) -> Vectors:
        self.calls.append(list(items))
        return mark(unit(np.stack([self.vector(item) for item in items])), self.fingerprint)

    @staticmethod
    def vector(item: str | bytes) -> Matrix:
        content = item.encode() if isinstance(item, str) else item
        return np.random.default_rng(list(content)).standard_normal(DIM).astype(np.float32)


def unit(rows: Matrix) -> Matrix:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


WIDE = vector_column(WideEncoder.fingerprint)


def make_things(layout: Layout, name: str = "things") -> CollectionTable:
    """With a second encoder, so that rows may lack the vector of the first."""
    return CollectionTable.create(
        layout, name, {WideEncoder.fingerprint: DIM, OtherEncoder.fingerprint: 3}, {"kind": "string", "n": "int64"}
    )


def add_things(
    table: CollectionTable,
    ids: Sequence[str],
    vectors: Matrix,
    has: Sequence[bool] | None = None,
    times: Sequence[str] | None = None,
) -> int:
    """The version that holds the rows; `n` counts from 0, `kind` is a, b, c or null."""
    n = len(ids)
    rows = pa.table(
        {
            "id": list(ids),
            "_payload": pa.array([b"p" * 32] * n, pa.binary(32)),
            "kind": pa.array([["a", "b", "c", None][i % 4] for i in range(n)], pa.string()),
            "n": pa.array(range(n), pa.int64()),
            WIDE: vector_array(vectors, None if has is None else np.array(has, bool)),
        }
    )
    if times is not None:
        rows = rows.append_column("time", pa.array(times).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")))
    return table.rows.commit([rows], refuse_differing=False)[0].version


def make_engine(layout: Layout, **options: object) -> SqlEngine:
    encoders = {"wide": WideEncoder(), "also": WideEncoder(), "other": OtherEncoder()}

    def named(name: str) -> object:
        if name not in encoders:
            raise EncoderNotFound(name=name, where="the test", existing=sorted(encoders))
        return encoders[name]

    return SqlEngine(Catalog(layout), named, **options)  # type: ignore[arg-type]
