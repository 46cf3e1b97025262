"""The kinds of index: what each keeps in memory, and what it costs. One table; pure.

Every kind answers with the canonical scores of metric.py: a compressed one only nominates rows, whose vectors are then
read from the shard's vector file (memory-mapped) and scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

KindName = Literal["exact", "ivf", "ivf_fp16", "ivf_sq8", "ivf_pq", "ivf_pqfs", "ivf_rabitq", "hnsw", "disk"]
KINDS: tuple[str, ...] = get_args(KindName)


@dataclass(frozen=True)
class Kind:
    """`code` is FAISS's name of what stands in the lists ({m} = sub-vectors of the product quantizer; np = without polysemous
    training, which takes seconds and is for a search that is not used here); `refine` is how many rows are nominated for
    each neighbour that is asked; `says` is the row of `index tune` and the docs."""

    name: KindName
    code: str | None
    refine: int
    says: str

    @property
    def in_lists(self) -> bool:
        """Whether it has IVF lists, so that `probes` means something."""
        return self.name not in ("exact", "hnsw")


TABLE: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("exact", None, 1, "every row is compared; nothing but the mapped vectors"),
        Kind("ivf", "Flat", 1, "lists of whole vectors"),
        Kind("ivf_fp16", "SQfp16", 2, "lists of half-precision vectors"),
        Kind("ivf_sq8", "SQ8", 2, "lists of 8-bit numbers"),
        Kind("ivf_pq", "PQ{m}np", 10, "lists of product-quantized codes, refined from the vectors on disk"),
        Kind(
            "ivf_pqfs",
            "PQ{m}x4fs",
            10,
            "the same with 4-bit codes, scanned in registers: the fastest batches, the least memory",
        ),
        Kind("ivf_rabitq", "RaBitQ", 10, "lists of one bit a dimension, refined from the vectors on disk"),
        Kind("hnsw", None, 1, "a graph over whole vectors: the fastest single queries, the most memory"),
        Kind("disk", "SQ8", 4, "lists in files, of which a query reads `probes`"),
    )
}


def code_bytes(kind: str, dim: int) -> float:
    """Bytes a row of the kind keeps in private memory, FAISS's 8-byte ids included, centroids not.

    exact and disk: nothing a row (their files are mapped). Measured against process memory in tests/index/test_kinds.py.
    """
    if kind in ("exact", "disk"):
        return 0.0
    if kind == "hnsw":
        return 4.0 * dim + 32 * 2 * 4 + 8  # M = 32: 64 links of 4 bytes at the base, some above it
    codes = {
        "ivf": 4.0 * dim,
        "ivf_fp16": 2.0 * dim,
        "ivf_sq8": float(dim),
        "ivf_pq": float(sub_vectors("ivf_pq", dim)),
        "ivf_pqfs": -(-sub_vectors("ivf_pqfs", dim) // 2),
        "ivf_rabitq": dim / 8 + 8,
    }
    return codes[kind] + 8


def sub_vectors(kind: str, dim: int) -> int:
    """Into how many parts a product quantizer cuts a vector: of four numbers each, of six where a part gets 4 bits (at d = 384
    96 and 64 parts; with 96 of 4 bits the titles' lists took 75 bytes a row, with 64 of them 59, at the same recall after
    twice as many rows were refined). Of another number where that does not divide d."""
    widths = (6, 5, 4, 7, 8, 3, 2, 1) if kind == "ivf_pqfs" else (4, 5, 6, 7, 8, 3, 2, 1)
    return next(dim // width for width in widths if dim % width == 0)
