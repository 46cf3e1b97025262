"""Spaces without models: passports, golden vectors and pairs that are made up, for what knows vectors alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.rows import payload_digests, row_table
from raystore.encoders.golden import PROBES
from raystore.encoders.passport import Card, Passport, TextPart, digest_of
from raystore.encoders.records import KIND, publish_encoder
from raystore.encoders.registry import Encoder
from raystore.migrate.bridge.fit import Pairs
from raystore.vectors import Matrix

KEY = b"k" * 32


def unit(rows: np.ndarray) -> Matrix:
    found: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def clustered(n: int, d: int, seed: int = 0) -> Matrix:
    """(n, d) unit rows about a middle, in groups, as encoders put them out."""
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(max(n // 20, 2), d))
    return unit(0.5 + groups[rng.integers(len(groups), size=n)] + 0.7 * rng.normal(size=(n, d)))


def turned(x: Matrix, m: int, noise: float = 0.0, seed: int = 1) -> Matrix:
    """The same items in another space: turned about, moved, with some noise."""
    rng = np.random.default_rng(seed)
    wide = max(x.shape[1], m)
    turn = np.linalg.qr(rng.normal(size=(wide, wide)))[0][: x.shape[1], :m]
    return unit((x - x.mean(0)) @ turn + 0.1 * rng.normal(size=m) + noise * rng.normal(size=(len(x), m)))


def pairs_of(n: int, d: int = 12, m: int = 12, noise: float = 0.0) -> Pairs:
    x = clustered(n, d)
    return Pairs(x, turned(x, m, noise))


def passport_of(name: str, dim: int) -> Passport:
    part = TextPart(pooling="mean", tokenizer=digest_of("t"), max_length=64)
    weights = hashlib.sha256(name.encode()).hexdigest()
    return Passport(weights=weights, architecture="Made", config=digest_of("c"), text=part, dim=dim)


def encoder_of(catalog: Catalog, name: str, dim: int) -> Encoder:
    """Registered with golden vectors, and without a model that would make them."""
    passport = passport_of(name, dim)
    publish_encoder(catalog.layout, passport, {"text": clustered(len(PROBES), dim, seed=9)}, Card())
    catalog.set_alias(KIND, name, {"fingerprint": passport.fingerprint})
    return Encoder(catalog, passport, name)


def catalog_in(folder: Path) -> Catalog:
    return Catalog(open_root(folder / "a store", create=True)[0])


def write(
    table: CollectionTable, ids: list[str], vectors: dict[str, Matrix], has: dict[str, list[bool]] | None = None
) -> None:
    """Commit rows with these vectors by fingerprint; null where `has` says so."""
    given: dict[str, pa.FixedSizeListArray] = {
        each: vector_array(rows, np.array((has or {}).get(each, [True] * len(ids)))) for each, rows in vectors.items()
    }
    n = len(ids)
    rows = row_table(
        ids=ids, payloads=payload_digests(KEY, [i.encode() for i in ids], [None] * n, [None] * n, {}), vectors=given,
        subjects=[None] * n, tenants=[None] * n, times=[None] * n, kept={}, kept_types={},
    )  # fmt: skip
    table.rows.commit([rows], refuse_differing=True)
