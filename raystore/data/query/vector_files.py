"""Products with a column of vectors, at the speed of memory.

A scan of 1,000,000 x 384 vectors through Lance's reader takes 1 to 2 s here, nearly all of it page faults of fresh memory
(1.5 GB are 430,000 pages). The same bytes mapped (`vector_runs.py`) take what a product over vectors in memory takes, and
nothing is kept: the system's page cache is the cache.

A dot product is NumPy's `vecdot`: each row's by itself, so that a score does not depend on the block it was computed in.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raystore.data.query.row_table import Positions, RowTable
from raystore.data.query.vector_runs import find_runs, matrix_of, vectors_at
from raystore.vectors import Matrix

Result = TypeVar("Result")
Scores = npt.NDArray[np.float32]

_BLOCK_ROWS = 32_768
_DOT_ROWS = 1_024  # 1.5 MB of 384 numbers: stays in a core's cache while several queries pass over it


@dataclass(frozen=True)
class Block:
    """Vectors (b, d) and the addresses (b,) of their rows, ascending; rows that were deleted may be among plain ones."""

    addresses: Positions
    vectors: Matrix


def dots(rows: RowTable, column: str, queries: Matrix) -> Scores:
    """(m, n) float32: the dot product of each query with each row's vector, by position; NaN where a row has none.

    Args:
        queries: (m, d) float32.

    Cost: one pass over the vectors for all queries, at the speed of memory.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    out = np.full((len(queries), len(rows)), np.nan, dtype=np.float32)
    order, addresses = _by_address(rows)

    def score(block: Block) -> None:
        here, live = _live(block, addresses)
        scores = np.empty((len(queries), len(block.vectors)), dtype=np.float32)
        for start in range(0, len(block.vectors), _DOT_ROWS):
            part = slice(start, start + _DOT_ROWS)
            for i, query in enumerate(queries):
                np.vecdot(block.vectors[part], query, out=scores[i, part])
        out[:, here if order is None else order[here]] = scores if live is None else scores[:, live]

    for _ in on_threads(score, blocks(rows.dataset, column)):
        pass
    return out


def gather(rows: RowTable, column: str, positions: Positions) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """The vectors (p, d) of the rows at `positions`, and which of them have one (p,); zeros where there is none."""
    dim = int(rows.dataset.schema.field(column).type.list_size)
    out, has = np.zeros((len(positions), dim), dtype=np.float32), np.zeros(len(positions), dtype=bool)
    order = np.argsort(rows.addresses[positions], kind="stable")
    wanted = rows.addresses[positions][order]
    plain, others = find_runs(rows.dataset, column)
    for fragment, run in plain:
        begin = (fragment << 32) + run.first
        lo, hi = np.searchsorted(wanted, [begin, begin + run.n])
        if hi > lo:
            places = order[lo:hi]
            out[places] = vectors_at(run, wanted[lo:hi] - begin)
            has[places] = True
    inside = np.isin(wanted >> 32, others)
    if inside.any():
        places = order[inside]
        taken = rows.take(positions[places], [column]).column(column).combine_chunks()
        valid = np.asarray(taken.is_valid())
        out[places[valid]] = matrix_of(taken.filter(pa.array(valid)))
        has[places] = valid
    return out, has


def blocks(dataset: lance.LanceDataset, column: str) -> Iterator[Block]:
    """All vectors of the column, file by file; rows without one are left out. Cost: the pages are read when a block is used."""
    plain, others = find_runs(dataset, column)
    for fragment, run in plain:
        for start in range(0, run.n, _BLOCK_ROWS):
            n = min(_BLOCK_ROWS, run.n - start)
            first = (fragment << 32) + run.first + start
            yield Block(np.arange(first, first + n, dtype=np.int64), vectors_at(run, slice(start, start + n)))
    if others:
        fragments = [dataset.get_fragment(number) for number in others]
        scanner = dataset.scanner(columns=[column], fragments=fragments, with_row_address=True, batch_size=8_192)
        for batch in scanner.to_batches():
            vectors = batch.column(column)
            if vectors.null_count:
                batch = batch.filter(vectors.is_valid())
            if len(batch):
                yield Block(batch.column("_rowaddr").to_numpy().astype(np.int64), matrix_of(batch.column(column)))


def on_threads(work: Callable[[Block], Result], given: Iterable[Block]) -> Iterator[Result]:
    """What `work` makes of each block, in their order, on as many threads as this process has cores; a few blocks ahead."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n == 1:
        yield from map(work, given)
        return
    with ThreadPoolExecutor(n) as pool:
        running: deque[Future[Result]] = deque()
        for block in given:
            running.append(pool.submit(work, block))
            if len(running) == 2 * n:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _by_address(rows: RowTable) -> tuple[Positions | None, Positions]:
    """(the positions in the order of the addresses, the addresses ascending); None where that is the order of the positions."""
    if not (rows.addresses[1:] < rows.addresses[:-1]).any():
        return None, rows.addresses
    order = np.argsort(rows.addresses)
    return order, rows.addresses[order]


def _live(block: Block, addresses: Positions) -> tuple[Positions | slice, Positions | None]:
    """Where the block's rows stand among `addresses`, and which of the block's rows those are; None where all are there."""
    first, last = block.addresses[0], block.addresses[-1]
    if last - first != len(block.addresses) - 1:  # Lance read it: rows that are there, some between them without a vector
        return np.searchsorted(addresses, block.addresses), None
    lo, hi = np.searchsorted(addresses, [first, last + 1])
    return slice(int(lo), int(hi)), None if hi - lo == len(block.addresses) else addresses[lo:hi] - first
