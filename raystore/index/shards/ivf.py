"""The kinds with FAISS lists in memory: ivf, ivf_fp16, ivf_sq8, ivf_pq, ivf_pqfs, ivf_rabitq. They nominate positions.

Knows vectors, positions and one file; no row id and no score. Cost of a search: the codes of `probes` of `nlist` lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from raystore.index.kinds import TABLE, sub_vectors
from raystore.index.metric import Metric, faiss_metric
from raystore.index.shards.chosen import Chosen
from raystore.index.shards.exact import Positions
from raystore.index.shards.nominator import faiss_name, write_index
from raystore.vectors import Matrix

faiss: Any = _faiss

# Of the sample, for k-means: FAISS asks for 39 at least. With 39 it trains a third faster, but then 96 lists of 1,280 were needed for
# a recall of .96 where FAISS's own training (256 points) needs 80 (102,500 titles).
_POINTS_PER_LIST = 64
_CODEBOOK_TURNS = 10  # FAISS does 25: a sixth more training at d = 384, for recall within .001
_CODEBOOK_ROWS = 16_384  # of the sample, for each codebook: 64 a code of 8 bits, of which FAISS takes 256
_CODEBOOKS = ("ivf_pq", "ivf_pqfs")
_ON_GPU = ("ivf", "ivf_sq8", "ivf_pq")
_GPU_MOST = 2_048  # neighbours and probes that FAISS's kernels take


class IvfLists:
    """Rows in `nlist` lists, nearest centroid first."""

    def __init__(self, kind: str, index: Any) -> None:
        self.kind = kind
        self.nlist = int(index.nlist)
        self._index = index
        self.on_gpu = _to_gpu(index) if kind in _ON_GPU else None

    @classmethod
    def train(cls, kind: str, metric: Metric, sample: Matrix, nlist: int) -> IvfLists:
        """Empty lists whose centroids and codes were learned from `sample` (s, d), s >= nlist. Seeded, so the same sample
        gives the same lists."""
        dim = sample.shape[1]
        code = str(TABLE[kind].code).format(m=sub_vectors(kind, dim))
        index = faiss.index_factory(dim, f"IVF{nlist},{code}", faiss_metric(metric))
        index.cp.max_points_per_centroid = _POINTS_PER_LIST
        index.cp.min_points_per_centroid = 1  # a list of a tiny shard is as right as FAISS's warning is loud
        if kind in _CODEBOOKS:
            index.pq.cp.min_points_per_centroid = 1
            index.pq.cp.max_points_per_centroid = _CODEBOOK_ROWS // int(index.pq.ksub)
            index.pq.cp.niter = _CODEBOOK_TURNS
        index.train(sample)
        return cls(kind, index)

    @property
    def memory_bytes(self) -> int:
        """What the codes, their ids, the centroids and the quantizer keep. FAISS's tables for L2 are not made (load)."""
        lists = self._index.invlists
        rows = sum(lists.list_size(i) for i in range(self.nlist))
        codebook = 4 * self._index.d * 2**self._index.pq.nbits if self.kind in _CODEBOOKS else 0
        return int(rows * (self._index.code_size + 8) + 4 * self.nlist * self._index.d + codebook)

    def add(self, vectors: Matrix) -> None:
        """The next rows, in position order."""
        self._index.add(vectors)

    def nominate(self, queries: Matrix, fetch: int, chosen: Chosen | None, probes: int) -> Positions:
        """(m, fetch) int64 positions near each query, by the codes nearest first, padded with -1."""
        if chosen is None and self.on_gpu is not None and max(fetch, probes) <= _GPU_MOST:
            on_gpu: Positions = self.on_gpu.search(queries, fetch, params=faiss.SearchParametersIVF(nprobe=probes))[1]
            return on_gpu
        if chosen is None:
            params = faiss.SearchParametersIVF(nprobe=probes)
        else:
            params = faiss.SearchParametersIVF(nprobe=probes, sel=chosen.selector)
        found: Positions = self._index.search(queries, fetch, params=params)[1]
        return found

    def save(self, folder: Path, number: int) -> dict[str, str]:
        """Write the index file, synced; its name and sha256."""
        return write_index(self._index, folder, number)

    @classmethod
    def load(cls, kind: str, folder: Path, number: int) -> IvfLists:
        """The lists that were saved; their digest must have been checked. FAISS's tables of products of centroids and codes
        (kind ivf_pq by L2) would be 1 KiB times nlist times sub-vectors, and are left out."""
        return cls(kind, faiss.read_index(str(folder / faiss_name(number)), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE))


def list_count(rows: int) -> int:
    """How many lists so many rows get: 4 * sqrt(n), and no fewer than 39 rows in each."""
    return max(1, min(int(4 * np.sqrt(rows)), rows // 39))


def sample_rows(nlist: int) -> int:
    """How many rows training wants."""
    return max(nlist * _POINTS_PER_LIST, 2_048)


def _to_gpu(index: Any) -> Any:
    """A copy of the lists on the first GPU, or None where FAISS has none."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True  # the tables of 96 sub-vectors fit a kernel's shared memory in half precision only
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)
