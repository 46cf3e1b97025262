"""One shard: rows, their vectors, and what nominates the near ones. Knows row ids, vectors and files; no Ray, no collection.

A shard is three files (write.py writes them): the row ids and ids, mapped; the vectors in that order, mapped and
checked block by block when first read; and, for every kind but exact, an index that nominates positions. Whatever
nominates, every answer carries the canonical scores of metric.py over the true vectors, so a row scores the same through
any kind, any shard, and the rows that are in no shard yet.
FAISS corrupts memory on files it did not write (two open bugs of its own), so a file's digest is checked before FAISS sees it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from raystore.index.manifest import ShardRecord
from raystore.index.merge import merge
from raystore.index.metric import Metric
from raystore.index.shards.blocks import CACHE_BYTES, check_file
from raystore.index.shards.chosen import Chosen
from raystore.index.shards.exact import Positions, Scores, best_first, flat_top_k, longest, nothing
from raystore.index.shards.hnsw import Graph
from raystore.index.shards.ivf import IvfLists
from raystore.index.shards.lists import DiskLists
from raystore.index.shards.nominator import Nominator, faiss_name
from raystore.index.shards.refine import best_of, rough_scores
from raystore.index.shards.rows_file import ShardRows, joined_ids, read_rows_file, rows_name
from raystore.index.shards.shard_vectors import HeldVectors, ShardVectors
from raystore.index.shards.threads import faiss_threads
from raystore.index.shards.vector_file import VectorFile
from raystore.index.source import RowIds
from raystore.vectors import Matrix

_SUBSET_ROWS = (
    10_000  # an approximate search for this few allowed rows is done exactly, whatever their share (15 ms at d = 384)
)
_BLOCK_ROWS = 65_536  # rows gathered at once for a subset: 100 MB at d = 384
_BATCH = 20  # queries from which FAISS multiplies matrices (distance_compute_blas_threshold), unless a selector is given
_FEW = 256  # rows left out, which an exact search rather fetches too and drops


class Found(NamedTuple):
    """k rows a query: `rows` (m, k) int64 row ids padded with -1, canonical `scores` (m, k) float32 padded with -inf, highest
    first, equal scores with the lower row id first; `exact`: whether no row of the shard could have been overlooked."""

    rows: RowIds
    scores: Scores
    exact: bool


class IndexFacts(Protocol):
    """What a shard needs of its index's manifest."""

    @property
    def metric(self) -> Metric: ...
    @property
    def kind(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...


class ShardFacts(NamedTuple):
    """The same where there is no manifest yet."""

    kind: str
    metric: Metric
    dim: int
    cache_bytes: int = CACHE_BYTES


class Shard:
    """`rows` rows of `dim` numbers, searchable from any thread.

    `row_ids` (n,) int64 ascending; position i is row_ids[i]. `nprobe` is how many of the `nlist` lists a search visits (of
    hnsw, its ef), `refine` how many rows are nominated for each neighbour asked, and `recall` what a sample of the shard's
    own rows reached with both at 10 neighbours. `memory_bytes` is private memory; mapped files are `disk_bytes`.
    """

    def __init__(
        self,
        kind: str,
        metric: Metric,
        row_ids: RowIds,
        ids: pa.LargeStringArray,
        vectors: ShardVectors,
        dim: int,
        nominator: Nominator | None = None,
        *,
        nprobe: int | None = None,
        refine: int = 1,
        recall: float | None = None,
        memory_bytes: int = 0,
        disk_bytes: int = 0,
    ) -> None:
        self.kind, self.metric, self.dim = kind, metric, dim
        self.row_ids = row_ids
        self.rows = len(row_ids)
        self.nlist = None if nominator is None else nominator.nlist
        self.nprobe, self.refine, self.recall = nprobe, refine, recall
        self.memory_bytes = memory_bytes + (0 if nominator is None else nominator.memory_bytes)
        self.disk_bytes = disk_bytes
        self.named = ShardRows(row_ids, ids)
        self._vectors = vectors
        self._nominator = nominator
        self._longest: float | None = 1.0 + 1e-5 if metric == "cosine" else None
        self._asked: tuple[RowIds | None, RowIds | None, Chosen] | None = None

    @classmethod
    def load(cls, folder: Path, record: ShardRecord, index: IndexFacts) -> Shard:
        """The shard that was written, its small files first compared with the digests in `record.files`.

        Raises:
            ShardCorrupt: a file is missing, cut short or changed. Nothing has read it.
        """
        number, files = record.number, record.files
        kind = record.kind or index.kind
        for name in (rows_name(number), faiss_name(number))[: 1 if kind == "exact" else 2]:
            check_file(folder / name, files.get(name, ""))
        rows = read_rows_file(folder, number)
        vectors = VectorFile.open(
            folder, number, files, len(rows), index.dim, home=record.home, cache_bytes=index.cache_bytes
        )
        nominator: Nominator | None = None
        if kind == "hnsw":
            nominator = Graph.load(folder, number)
        elif kind == "disk":
            nominator = DiskLists.load(folder, record, index)
        elif kind != "exact":
            nominator = IvfLists.load(kind, folder, number)
        return cls(
            kind,
            index.metric,
            rows.row_ids,
            rows.ids,
            vectors,
            index.dim,
            nominator,
            nprobe=record.nprobe,
            refine=record.refine,
            recall=record.recall,
            disk_bytes=record.disk_bytes,
        )

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        without: RowIds | None = None,
        probes: int | None = None,
        refine: int | None = None,
        threads: int | None = None,
    ) -> Found:
        """The k rows nearest to each query.

        Args:
            queries: (m, d) float32 as metric.as_queries makes them.
            k: neighbours per query; more than there are rows is fine.
            allowed: only these row ids, ascending; ids of other shards are ignored. None allows every row. What follows from
                the array is kept while the same array is asked again, so it must not be changed.
            without: never these row ids (erased since the shard was built), ascending; kept likewise.
            probes: lists to visit (of hnsw, ef), instead of the shard's own nprobe.
            refine: rows to nominate for each neighbour, instead of the shard's own.

        Raises:
            ShardCorrupt: a block of the files, read for the first time, is not what was written.

        Cost: exact n*d multiply-adds a query; a list kind about nprobe/nlist of its codes, and k*refine vectors of the file.
        Where so few rows are allowed that the visited lists could miss them, the allowed rows are searched exactly.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32).view(np.ndarray)
        chosen = self._chosen(allowed, without)
        available = self.rows if chosen is None else chosen.count
        if not available or not len(queries):
            return Found(*nothing(len(queries), k), True)
        with faiss_threads(threads):
            if self._nominator is None:
                return self._named(*self._scan(queries, k, chosen), True)
            each = self.refine if refine is None else refine
            probes = min(probes or self.nprobe or 1, self.nlist or self.rows)
            if self._scans(k * each, available, chosen, probes):
                return self._named(*self._scan(queries, k, chosen), True)
            return self._named(*self._probe(self._nominator, queries, k, k * each, chosen, probes), False)

    def nearest(self, queries: Matrix, k: int) -> tuple[Positions, Scores]:
        """The k <= n best positions for each query and their scores, by comparing every row."""
        return self._scan(queries, k, None)

    def nominate(self, queries: Matrix, fetch: int, probes: int) -> Positions:
        """(m, fetch) int64 positions that an approximate kind names, nearest by its codes first; padded with -1."""
        if self._nominator is None:
            raise ValueError("an exact shard nominates nothing")
        return self._nominator.nominate(queries, fetch, None, probes)

    def rough_scores(self, queries: Matrix, positions: Positions) -> Scores:
        """(m, c) float32 scores of the rows at `positions` (m, c), right but for rounding; -inf where a position is -1."""
        return rough_scores(queries, positions, self._vectors, self.metric)

    def vectors_at(self, positions: Positions) -> Matrix:
        """(c, d) float32 copies."""
        return self._vectors.rows(positions)

    def names_of(self, row_ids: RowIds) -> dict[int, str]:
        """The ids of those row ids, in any order and shape, that are in this shard."""
        return self.named.names_of(np.unique(row_ids))

    def positions_of(self, row_ids: RowIds) -> Positions:
        """Where those of the (ascending) row ids stand that are in this shard."""
        return self.named.positions_of(row_ids)

    def _chosen(self, allowed: RowIds | None, without: RowIds | None) -> Chosen | None:
        """The positions a search may answer with; None is all of them."""
        if allowed is None and (without is None or not len(without)):
            return None
        asked = self._asked
        if asked is None or asked[0] is not allowed or asked[1] is not without:
            mask = np.full(self.rows, allowed is None)
            if allowed is not None:
                mask[self.positions_of(allowed)] = True
            if without is not None:
                mask[self.positions_of(without)] = False
            self._asked = asked = (allowed, without, Chosen(mask))
        return asked[2] if asked[2].left_out else None

    def _named(self, positions: Positions, scores: Scores, exact: bool) -> Found:
        rows = self.row_ids[positions]
        none = positions < 0
        if none.any():
            rows[none] = -1
        return Found(rows, scores, exact)

    def _scans(self, fetch: int, available: int, chosen: Chosen | None, probes: int) -> bool:
        """Whether comparing every row that may be answered costs no more than nominating, or is what was asked."""
        if 4 * fetch >= available:
            return True
        if chosen is None:
            return False
        return available <= max(_SUBSET_ROWS, self.rows * probes // (self.nlist or self.rows))

    def _scan(self, queries: Matrix, k: int, chosen: Chosen | None) -> tuple[Positions, Scores]:
        """Every row that may be answered, compared."""
        if chosen is None or chosen.left_out <= _FEW:
            fetch = min(k + (0 if chosen is None else chosen.left_out), self.rows)
            positions, scores = self._scan_parts(queries, fetch, None)
            if chosen is None and fetch == k:
                return positions, scores
            if chosen is not None:
                gone = (positions >= 0) & ~chosen.mask[positions]
                positions, scores = np.where(gone, -1, positions), np.where(gone, np.float32(-np.inf), scores)
            return best_first(positions, scores, k)
        if self._nominator is None and len(queries) < _BATCH and chosen.count > self.rows // 8:
            return self._scan_parts(queries, k, chosen)
        return self._scan_subset(queries, k, chosen.positions)

    def _scan_parts(self, queries: Matrix, k: int, chosen: Chosen | None) -> tuple[Positions, Scores]:
        """In place, as one part where the kind is exact."""
        found = []
        for start, part in self._vectors.parts(self.rows if self._nominator is None else _BLOCK_ROWS):
            selector, selected = (None, 0) if chosen is None else (chosen.selector, chosen.count)
            at, scores = flat_top_k(
                part, queries, k, self.metric, longest_row=self._longest_row(), selector=selector, selected=selected
            )
            found.append((np.where(at >= 0, at + start, -1) if start else at, scores))
        return found[0] if len(found) == 1 else merge(found, len(queries), k)

    def _scan_subset(self, queries: Matrix, k: int, positions: Positions) -> tuple[Positions, Scores]:
        """The rows at those positions, gathered block by block: for few rows, or for many queries at once, where FAISS with
        a selector would compute pair by pair."""
        found = []
        for start in range(0, len(positions), _BLOCK_ROWS):
            block = positions[start : start + _BLOCK_ROWS]
            vectors = self._vectors.rows(block)
            at, scores = flat_top_k(vectors, queries, k, self.metric, longest_row=self._longest or longest(vectors))
            found.append((np.where(at >= 0, block[at], -1), scores))
        return found[0] if len(found) == 1 else merge(found, len(queries), k)

    def _longest_row(self) -> float:
        if self._longest is None:
            self._longest = max(longest(part) for _, part in self._vectors.parts(_BLOCK_ROWS))
        return self._longest

    def _probe(
        self, nominator: Nominator, queries: Matrix, k: int, fetch: int, chosen: Chosen | None, probes: int
    ) -> tuple[Positions, Scores]:
        """The best of what is nominated. Where the visited lists hold too few rows that may be answered, twice as many are
        visited for those queries, and so on."""
        nominated = nominator.nominate(queries, fetch, chosen, probes)
        most = self.nlist or self.rows
        short = _short(nominated, k)
        while len(short) and probes < most:
            probes = min(2 * probes, most)
            nominated[short] = nominator.nominate(np.ascontiguousarray(queries[short]), fetch, chosen, probes)
            short = short[_short(nominated[short], k)]
        return best_of(queries, nominated, k, self._vectors, self.metric)


def memory_shard(row_ids: RowIds, vectors: Matrix, ids: pa.Array | pa.ChunkedArray, metric: Metric) -> Shard:
    """An exact shard over arrays in memory, which it keeps: for rows that no file holds yet.

    `row_ids` (n,) must ascend, `vectors` (n, d) float32 C order, `ids` n strings.
    """
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    held = HeldVectors(np.ascontiguousarray(vectors, dtype=np.float32))
    size = held.vectors.nbytes + 8 * len(row_ids)
    return Shard("exact", metric, row_ids, joined_ids(chunks), held, held.vectors.shape[1], memory_bytes=size)


def _short(nominated: Positions, k: int) -> Positions:
    """The queries with fewer than k nominated rows: the padding stands at the end."""
    return np.flatnonzero(nominated[:, k - 1] < 0)
