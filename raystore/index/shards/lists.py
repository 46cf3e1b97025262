"""The kind "disk": lists in a file, of which a search reads only the nearest `probes`. It nominates positions.

In memory stand the centroids, what finds the nearest of them, and 25 bytes a list; the codes (8 bits a number) and the
positions stay in `shard-0000.lists`, where list l is block l. On this machine the file is mapped, and FAISS scans it in
place; at a home the lists that a batch needs are fetched, all at once, and scanned in a copy. Either way a list's digest
is checked before FAISS sees it, and the positions that come out before they index anything.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss as _faiss
import numpy as np

from raystore.errors import ShardCorrupt
from raystore.index.metric import Metric, faiss_metric
from raystore.index.shards.blocks import BlockFile, BlockTable, Numbers
from raystore.index.shards.centroids import nearest_lists, search_lists, train_centroids
from raystore.index.shards.chosen import Chosen
from raystore.index.shards.list_file import ListWriter, lists_name
from raystore.index.shards.nominator import faiss_name, write_index
from raystore.index.shards.vector_file import VectorFile
from raystore.vectors import Matrix

if TYPE_CHECKING:
    from raystore.index.manifest import ShardRecord
    from raystore.index.shards.shard import IndexFacts

faiss: Any = _faiss

_SAMPLE_PER_LIST = 64
_SAMPLE_BYTES = 512 * 2**20
_FETCHED_BYTES = 64 * 2**20  # of lists held at once, beside the cache, while a batch is answered from a home


class ListsBuilder:
    """Writes a shard's lists beside its vectors: trained at once, then filled a batch at a time. Keeps no row.

    Memory: the sample (512 MiB at most) while it trains, then the centroids and the list writer's 64 MiB.
    """

    def __init__(self, vectors: VectorFile, metric: Metric, folder: Path, number: int) -> None:
        """`vectors` are the shard's, n of them, at least 39 for each list: a sample is what centroids and codes are learned from."""
        n, dim = len(vectors), vectors.dim
        nlist = list_count(n)
        wanted = min(n, nlist * _SAMPLE_PER_LIST, max(nlist, _SAMPLE_BYTES // (4 * dim)))
        sample = vectors.rows(np.linspace(0, n - 1, wanted).astype(np.int64))
        centroids = train_centroids(sample, nlist, metric)
        self._nearest = nearest_lists(centroids, metric)
        self._index = _scanner(self._nearest, len(centroids), metric)
        self._index.train(sample)
        self._lists = ListWriter(folder / lists_name(number), len(centroids), self._index.code_size, n)
        self._rows = 0

    def add(self, vectors: Matrix) -> None:
        """The next rows, in position order."""
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        lists = self._nearest.search(rows, 1)[1][:, 0]
        codes = self._index.sq.compute_codes(rows)
        self._lists.add(lists, codes, np.arange(self._rows, self._rows + len(rows)))
        self._rows += len(rows)

    def save(self, folder: Path, number: int) -> dict[str, str]:
        """All files are on the disk; name and sha256 of the small ones."""
        table = folder / f"{lists_name(number)}.blocks"
        return {table.name: self._lists.close().save(table), **write_index(self._index, folder, number)}


class DiskLists:
    """Lists in a file. `blocks` counts what was read of it."""

    def __init__(self, index: Any, blocks: BlockFile, rows: int, metric: Metric) -> None:
        self.blocks, self.nlist = blocks, int(index.nlist)
        self._index, self._rows, self._metric = index, rows, metric
        self._nearest = faiss.downcast_index(index.quantizer)
        self._row_bytes = int(index.code_size) + 8
        self._sizes = np.diff(blocks.table.offsets) // self._row_bytes
        self._blocks_read = 0
        self._mapped: Any = None
        if blocks.mapped is not None:
            self._mapped = self._scanner_over(_mapped_lists(blocks, self._sizes, index.code_size), self.nlist)

    @classmethod
    def load(cls, folder: Path, record: ShardRecord, index: IndexFacts) -> DiskLists:
        """The lists that were written; the digest of the .faiss file must have been checked.

        Raises:
            ShardCorrupt: the table of blocks is not what the manifest says, or the lists are missing or of another length.

        Cost: the centroids are read; of the lists nothing.
        """
        found = faiss.read_index(str(folder / faiss_name(record.number)))
        path = folder / lists_name(record.number)
        table = BlockTable.load(path.with_name(f"{path.name}.blocks"), record.files.get(f"{path.name}.blocks", ""))
        blocks = BlockFile.open(path, table, home=record.home, cache_bytes=index.cache_bytes)
        if len(table) != found.nlist or table.size != record.rows * (found.code_size + 8):
            raise ShardCorrupt(path=blocks.address, found=f"it does not hold {record.rows} rows in {found.nlist} lists")
        return cls(found, blocks, record.rows, index.metric)

    @property
    def memory_bytes(self) -> int:
        """Private memory: centroids, their graph, FAISS's entry and ours of each list. The mapped lists are not counted."""
        graph = self.nlist * (2 * 32 * 4 + 16) if hasattr(self._nearest, "hnsw") else 0
        return 4 * self.nlist * int(self._index.d) + graph + self.nlist * (48 + 24 + 8) + self.blocks.memory_bytes

    def nominate(self, queries: Matrix, fetch: int, chosen: Chosen | None, probes: int) -> Numbers:
        """(m, fetch) int64 positions near each query, padded with -1; nearest by their codes first.

        Raises:
            ShardCorrupt: a list, read for the first time, is not what was written.

        Cost: `probes` lists of codes a query, each query in one thread: two that share one out wait for each other (90 ms
        instead of 4 on two cores that had other work too). At a home every list that the batch needs is read once: those
        that are missing all at once where they take no more than 64 MiB, else so many at a time.
        """
        distances, lists = search_lists(self._nearest, queries, probes)
        selector = None if chosen is None else chosen.selector
        needed = np.unique(lists[lists >= 0])
        if self._mapped is None:
            found = self._scan_fetched(queries, fetch, distances, lists, needed, selector)
        else:
            self.blocks.verify(needed)
            if self._reads_disk():
                self.blocks.will_need(needed)
            found = _scan(self._mapped, queries, fetch, distances, lists, selector)[1]
        if found.size and (found.min() < -1 or found.max() >= self._rows):
            raise ShardCorrupt(path=self.blocks.address, found=f"a list names a row that is not one of its {self._rows}")
        return found

    def _reads_disk(self) -> bool:
        """Whether this process read from a disk since it was asked last. While it does not, the lists are in memory, and
        asking the system for each of them costs as much as a quarter of the search."""
        before, self._blocks_read = self._blocks_read, resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        return self._blocks_read != before

    def _scan_fetched(
        self, queries: Matrix, fetch: int, distances: Matrix, lists: Numbers, needed: Numbers, selector: Any
    ) -> Numbers:
        """Group by group of the lists that are needed, each fetched once, the best so far kept beside."""
        best = np.full((len(queries), fetch), -np.inf, dtype=np.float32)
        found = np.full((len(queries), fetch), -1, dtype=np.int64)
        groups = np.cumsum(self._sizes[needed] * self._row_bytes) // _FETCHED_BYTES
        for group in np.unique(groups):
            some = needed[groups == group]
            places = max(len(some), lists.shape[1])  # FAISS visits no more lists than there are
            index = self._scanner_over(self._fetched_lists(some, places), places)
            here = np.searchsorted(some, lists).clip(0, len(some) - 1)
            here = np.where(some[here] == lists, here, -1)  # (m, probes): the group's lists by their place in it
            scores, positions = _scan(index, queries, fetch, distances, here, selector)
            scores = np.where(positions < 0, -np.inf, -scores if self._metric == "l2" else scores)
            scores, positions = np.hstack([best, scores]), np.hstack([found, positions])
            order = np.argsort(-scores, axis=1, kind="stable")[:, :fetch]
            best, found = np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
        return found

    def _fetched_lists(self, numbers: Numbers, places: int) -> Any:
        """A copy of those lists in the first of so many places."""
        code_size = self._row_bytes - 8
        lists = faiss.ArrayInvertedLists(places, code_size)
        for i, block in enumerate(self.blocks.read(numbers.tolist())):
            n = len(block) // self._row_bytes
            if n:
                codes = np.frombuffer(block, dtype=np.uint8, count=n * code_size)
                positions = np.frombuffer(block[n * code_size :], dtype=np.int64)
                lists.add_entries(i, n, faiss.swig_ptr(positions), faiss.swig_ptr(codes))
        return lists

    def _scanner_over(self, lists: Any, nlist: int) -> Any:
        index = _scanner(self._nearest, nlist, self._metric)
        index.sq = self._index.sq
        index.replace_invlists(lists, False)
        index.referenced_objects.append(lists)
        index.is_trained, index.ntotal = True, self._rows
        return index


def list_count(rows: int) -> int:
    """How many lists so many rows get: 8 * sqrt(n), and no fewer than 39 rows in each."""
    return max(1, min(int(8 * np.sqrt(rows)), rows // 39))


def _scanner(nearest: Any, nlist: int, metric: Metric) -> Any:
    """IVF over 8-bit codes of the rows themselves, not of what is left beside a centroid: a list is scanned without knowing its own."""
    code = faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexIVFScalarQuantizer(nearest, nearest.d, nlist, code, faiss_metric(metric), False)


def _scan(
    index: Any, queries: Matrix, fetch: int, distances: Matrix, lists: Numbers, selector: Any
) -> tuple[Matrix, Numbers]:
    """IndexIVF.search of lists that are known; FAISS's Python form of it takes no selector."""
    scores = np.empty((len(queries), fetch), dtype=np.float32)
    found = np.empty((len(queries), fetch), dtype=np.int64)
    queries, lists = np.ascontiguousarray(queries), np.ascontiguousarray(lists)  # alive while FAISS reads them
    params = faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=selector)
    arrays = [faiss.swig_ptr(array) for array in (lists, distances, scores, found)]
    index.search_preassigned_c(len(queries), faiss.swig_ptr(queries), fetch, *arrays, False, params)
    return scores, found


def _mapped_lists(blocks: BlockFile, sizes: Numbers, code_size: int) -> Any:
    """FAISS's own lists on disk, over the file as it is: none of FAISS's index files says where they lie."""
    lists = faiss.OnDiskInvertedLists()
    for size, offset in zip(sizes.tolist(), blocks.table.offsets[:-1].tolist(), strict=True):
        entry = faiss.OnDiskOneList()
        entry.size, entry.capacity, entry.offset = size, size, offset
        lists.lists.push_back(entry)
    lists.nlist, lists.code_size = len(sizes), code_size
    lists.filename, lists.read_only, lists.totsize = blocks.address, True, blocks.table.size
    if blocks.table.size:
        lists.do_mmap()
    return lists
