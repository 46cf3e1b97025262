"""One shard: some rows of one vector column in a FAISS index. Knows row ids, vectors and two files; no Ray, no collection.

Kinds: "exact" (IndexFlatIP) and "ivf" (IVF over flat vectors, inner product). Both answer with the canonical scores
of exact.py, so a row scores the same through either kind, any shard, and the rows that are in no shard yet.
FAISS corrupts memory on files it did not write (faiss#5400, #4811), so a file's digest is checked before FAISS sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss as _faiss
import numpy as np
import pyarrow as pa

from raystore.errors import ShardCorrupt
from raystore.index.exact import OVERFETCH, Positions, Scores, best_first, flat_top_k, score_candidates
from raystore.index.merge import Answer, merge
from raystore.index.source import RowIds
from raystore.layout import disk_full_is_said
from raystore.vectors import Matrix

faiss: Any = _faiss  # its stubs know neither search parameters by keyword nor selectors over arrays

Kind = Literal["exact", "ivf"]
KINDS: tuple[str, ...] = get_args(Kind)

TARGET_RECALL = 0.95
_MEASURED_RECALL = 0.97  # what the sample must reach, so that other queries stay above the target
_SAMPLE = 256
_ROWS_PER_LIST = 39  # FAISS's own minimum of training points per centroid
_SUBSET_ROWS = 10_000  # an IVF search for this few allowed rows is done exactly, whatever their share (15 ms at d = 384)
_BLOCK_ROWS = 65_536  # rows gathered at once for a subset: 100 MB at d = 384
_BATCH = 20  # queries from which FAISS multiplies matrices (distance_compute_blas_threshold), unless a selector is given


@contextmanager
def faiss_threads(n: int | None) -> Iterator[None]:
    """FAISS uses n threads inside; None leaves it alone. The setting belongs to the calling thread only."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@dataclass(frozen=True)
class Shard:
    """n rows, searchable. `row_ids` (n,) int64 ascending; position i of the FAISS index is row_ids[i].

    `nprobe` is how many of an IVF's `nlist` lists a search visits; `recall` is what a sample of the shard's own rows
    reached with it, at 10 neighbours, against the exact answer.
    """

    kind: str
    row_ids: RowIds
    index: Any
    ids: Any = None  # pa.ChunkedArray of n strings, so that an answer needs no look-up in the collection
    nlist: int | None = None
    nprobe: int | None = None
    recall: float | None = None

    @classmethod
    def build(
        cls, row_ids: RowIds, vectors: Matrix, kind: str = "exact", *, ids: Any = None, threads: int | None = None
    ) -> Shard:
        """The shard over unit rows `vectors` (n, d) float32, which it copies; `row_ids` must ascend.

        Cost: exact one copy; ivf a k-means of 4*sqrt(n) lists, then an exact search for 256 rows to choose nprobe.
        An ivf of fewer than 2 * 39 rows would have one list, and is one.
        """
        with faiss_threads(threads):
            flat = faiss.IndexFlatIP(vectors.shape[1])
            if kind == "exact":
                flat.add(vectors)
                return cls("exact", row_ids, flat, ids)
            nlist = max(1, min(int(4 * np.sqrt(len(row_ids))), len(row_ids) // _ROWS_PER_LIST))
            index = faiss.IndexIVFFlat(flat, vectors.shape[1], nlist, faiss.METRIC_INNER_PRODUCT)
            index.cp.max_points_per_centroid = 128
            index.cp.min_points_per_centroid = 1  # one list of a tiny shard is as right as FAISS's warning is loud
            if len(row_ids):
                index.train(vectors)
                index.add(vectors)
            index.make_direct_map()  # positions -> vectors, for canonical scores
            shard = cls("ivf", row_ids, index, ids, nlist, nlist, 1.0)
            nprobe, recall = _choose_nprobe(shard, vectors)
            return cls("ivf", row_ids, index, ids, nlist, nprobe, recall)

    @property
    def rows(self) -> int:
        return len(self.row_ids)

    def vectors_at(self, positions: Positions) -> Matrix:
        """(c, d) float32, the bits that were added."""
        if self.kind == "exact":
            n, d = self.index.ntotal, self.index.d
            stored: Matrix = faiss.rev_swig_ptr(self.index.get_xb(), n * d).reshape(n, d)  # a view, not a copy
            return stored[positions]
        found: Matrix = self.index.reconstruct_batch(positions)
        return found

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        without: RowIds | None = None,
        probes: int | None = None,
        threads: int | None = None,
    ) -> Answer:
        """The k rows nearest to each query, by cosine.

        Args:
            queries: (m, d) float32 unit rows.
            k: neighbours per query; more than there are rows is fine.
            allowed: only these row ids, ascending; ids of other shards are ignored. None allows every row.
            without: never these row ids (erased since the shard was built), ascending.
            probes: lists an ivf visits, instead of its own nprobe.

        Returns:
            row ids (m, k) int64 padded with -1, canonical scores (m, k) float32 padded with -inf, highest first,
            equal scores with the lower row id first.

        Cost: exact n*d multiply-adds a query; ivf about nprobe/nlist of it. Where so few rows are allowed that the
        visited lists could miss them, an ivf searches the allowed rows exactly.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32).view(np.ndarray)
        with faiss_threads(threads):
            chosen = self._chosen(allowed, without)
            positions, scores = self._search(queries, k, chosen, min(probes or self.nprobe or 1, self.nlist or 1))
        rows = np.full(positions.shape, -1, dtype=np.int64)
        rows[positions >= 0] = self.row_ids[positions[positions >= 0]]
        return rows, scores

    def _chosen(self, allowed: RowIds | None, without: RowIds | None) -> Positions | None:
        """The positions a search may answer with, ascending; None is all of them."""
        if allowed is None and (without is None or not len(without)):
            return None
        chosen = np.arange(self.rows) if allowed is None else self.positions_of(allowed)
        if without is not None and len(without):
            chosen = np.setdiff1d(chosen, self.positions_of(without), assume_unique=True)
        return None if len(chosen) == self.rows else chosen

    def names_of(self, row_ids: RowIds) -> dict[int, str]:
        """The ids of those row ids that are in this shard."""
        wanted = np.unique(row_ids)
        at = self.positions_of(wanted)
        return dict(zip(self.row_ids[at].tolist(), self.ids.take(at).to_pylist(), strict=True))

    def positions_of(self, row_ids: RowIds) -> Positions:
        """Where those of the (ascending) row ids stand that are in this shard."""
        if not self.rows or not len(row_ids):
            return np.empty(0, dtype=np.int64)
        mine = row_ids[np.searchsorted(row_ids, self.row_ids[0]) : np.searchsorted(row_ids, self.row_ids[-1], "right")]
        at: Positions = np.searchsorted(self.row_ids, mine)
        present: Positions = at[self.row_ids[at] == mine]
        return present

    def _search(self, queries: Matrix, k: int, chosen: Positions | None, probes: int) -> tuple[Positions, Scores]:
        if chosen is None:
            if self.kind == "exact":
                return flat_top_k(self.index, self.vectors_at, queries, k)
            return self._probe(queries, k, None, self.rows, probes)
        if self.kind == "exact" and len(queries) < _BATCH:
            params = faiss.SearchParameters(sel=self._selector(chosen))
            return flat_top_k(self.index, self.vectors_at, queries, k, params=params, selected=len(chosen))
        if self.kind == "exact" or len(chosen) <= max(_SUBSET_ROWS, self.rows * probes // (self.nlist or 1)):
            return self._search_subset(queries, k, chosen)
        return self._probe(queries, k, chosen, len(chosen), probes)

    def _selector(self, chosen: Positions) -> Any:
        bits = np.zeros(self.rows, dtype=bool)
        bits[chosen] = True
        return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))

    def _search_subset(self, queries: Matrix, k: int, chosen: Positions) -> tuple[Positions, Scores]:
        """Exactly over the chosen rows, gathered block by block: for few rows, or for many queries at once, where
        FAISS with a selector would compute pair by pair."""
        parts = []
        for start in range(0, len(chosen), _BLOCK_ROWS):
            block = chosen[start : start + _BLOCK_ROWS]
            vectors = self.vectors_at(block)
            flat = faiss.IndexFlatIP(vectors.shape[1])
            flat.add(vectors)
            at, scores = flat_top_k(flat, vectors.__getitem__, queries, k)
            parts.append((np.where(at >= 0, block[at], -1), scores))
        return merge(parts, len(queries), k)

    def _probe(
        self, queries: Matrix, k: int, chosen: Positions | None, available: int, probes: int
    ) -> tuple[Positions, Scores]:
        """Through the lists; more of them where too few rows came back (a filter that fits few lists)."""
        fetch = min(available, k + OVERFETCH)
        if fetch == 0 or not len(queries):
            return best_first(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), k)
        selector = self._selector(chosen) if chosen is not None else None
        params = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        _, nominated = self.index.search(queries, fetch, params=params)
        short = np.flatnonzero(nominated[:, min(k, available) - 1] < 0)
        while len(short) and probes < (self.nlist or 1):
            probes = min(2 * probes, self.nlist or 1)
            params = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
            nominated[short] = self.index.search(queries[short], fetch, params=params)[1]
            short = short[nominated[short, min(k, available) - 1] < 0]
        return best_first(nominated, score_candidates(queries, nominated, self.vectors_at), k)

    def save(self, folder: Path, number: int) -> dict[str, str]:
        """Write the shard's two files into `folder`; their sha256 digests by file name."""
        index_name, rows_name = file_names(number)
        with disk_full_is_said(folder, f"writing {index_name}"):
            _write_index(self.index, folder / index_name)
            _write_rows(folder / rows_name, self.row_ids, self.ids)
        return {name: digest(folder / name) for name in (index_name, rows_name)}

    @classmethod
    def load(
        cls,
        folder: Path,
        number: int,
        files: Mapping[str, str],
        *,
        kind: str,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> Shard:
        """The shard that was saved, its files first compared with the digests in `files`.

        Raises:
            ShardCorrupt: a file is missing, cut short or changed. FAISS has not read it.
        """
        index_name, rows_name = file_names(number)
        for name in (index_name, rows_name):
            _check(folder / name, files.get(name, ""))
        index = faiss.read_index(str(folder / index_name))
        row_ids, ids = _read_rows(folder / rows_name)
        return cls(kind, row_ids, index, ids, index.nlist if kind == "ivf" else None, nprobe, recall)


def file_names(number: int) -> tuple[str, str]:
    return f"shard-{number:04d}.faiss", f"shard-{number:04d}.rows.arrow"


def _write_index(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS's word for every failed write; it repeats the system's
        raise OSError(f"cannot write '{path}': {error}") from None


def _write_rows(path: Path, row_ids: RowIds, ids: Any) -> None:
    table = pa.table({"row_id": row_ids, "id": ids if ids is not None else pa.nulls(len(row_ids), pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_rows(path: Path) -> tuple[RowIds, Any]:
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    return table.column("row_id").to_numpy(), table.column("id")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str) -> None:
    try:
        found = digest(path)
    except FileNotFoundError:
        raise ShardCorrupt(path=str(path), found="it is missing") from None
    if found != expected:
        size = path.stat().st_size
        raise ShardCorrupt(
            path=str(path),
            found=f"its sha256 is {found[:12]} ({size} bytes), the manifest says {expected[:12] or 'nothing'}",
        )


def _choose_nprobe(shard: Shard, vectors: Matrix) -> tuple[int, float]:
    """The fewest lists (in steps of a quarter) with which a sample of the rows finds its 10 neighbours, and how well.

    A row's first neighbour is itself and free, so it is left out of the count.
    """
    n, nlist = shard.rows, shard.nlist or 1
    if nlist == 1:
        return 1, 1.0
    sample = np.ascontiguousarray(vectors[np.linspace(0, n - 1, min(_SAMPLE, n)).astype(np.int64)])
    truth = faiss.knn(sample, vectors, min(11, n), metric=faiss.METRIC_INNER_PRODUCT)[1][:, 1:]
    nprobe = max(1, nlist // 64)
    while True:
        found = shard.index.search(sample, min(11, n), params=faiss.SearchParametersIVF(nprobe=nprobe))[1][:, 1:]
        recall = float(np.mean([len(np.intersect1d(t, f)) / truth.shape[1] for t, f in zip(truth, found, strict=True)]))
        if recall >= _MEASURED_RECALL or nprobe == nlist:
            return nprobe, round(recall, 4)
        nprobe = min(nlist, nprobe + max(1, nprobe // 4))
