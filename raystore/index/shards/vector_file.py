"""The vectors of a shard, float32 rows in position order in one file and nothing else, mapped or fetched, 16 rows a block.

What every kind's scores are computed from: an index in memory only nominates rows. Knows no row ids and no FAISS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from raystore.errors import ShardCorrupt
from raystore.index.shards.blocks import CACHE_BYTES, BlockFile, BlockTable, BlockWriter, Numbers
from raystore.vectors import Matrix

ROWS_PER_BLOCK = 16  # of 384 numbers each: 24 KiB, which hash in 20 us
_BLOCKS_AT_ONCE = 2_048  # fetched from a home: 48 MiB at d = 384


def name_of(number: int) -> str:
    return f"shard-{number:04d}.vectors"


def table_name_of(number: int) -> str:
    return f"{name_of(number)}.blocks"


class VectorFileWriter:
    """Writes vectors to `path` a batch at a time, and their table of blocks beside it; keeps less than a block of them."""

    def __init__(self, path: Path, dim: int) -> None:
        self.rows = 0
        self._path, self._dim = path, dim
        self._blocks = BlockWriter(path)
        self._rest = np.empty((0, dim), dtype=np.float32)

    def add(self, vectors: Matrix) -> None:
        """Rows (m, d) that follow the ones before."""
        self.rows += len(vectors)
        rows = np.asarray(vectors, dtype=np.float32)
        if len(self._rest):
            fill = ROWS_PER_BLOCK - len(self._rest)
            self._rest, rows = np.concatenate([self._rest, rows[:fill]]), rows[fill:]
            if len(self._rest) < ROWS_PER_BLOCK:
                return
            self._write(self._rest)
        whole = len(rows) // ROWS_PER_BLOCK * ROWS_PER_BLOCK
        self._write(rows[:whole])
        self._rest = rows[whole:].copy()

    def close(self) -> dict[str, str]:
        """Both files are on the disk; the sha256 of the table of blocks by its name."""
        self._write(self._rest)
        table = self._path.with_name(f"{self._path.name}.blocks")
        return {table.name: self._blocks.close().save(table)}

    def _write(self, rows: Matrix) -> None:
        if len(rows):
            self._blocks.add(np.ascontiguousarray(rows).data, each=ROWS_PER_BLOCK * self._dim * 4)


class VectorFile:
    """len(file) rows of `dim` numbers. `blocks` counts what was read; `disk_bytes` is the length of the file."""

    def __init__(self, blocks: BlockFile, n: int, dim: int) -> None:
        self.blocks, self.dim = blocks, dim
        self._n = n
        mapped = blocks.mapped
        self._matrix = None if mapped is None else np.frombuffer(mapped, dtype=np.float32).reshape(n, dim)

    @classmethod
    def open(
        cls,
        folder: Path,
        number: int,
        files: Mapping[str, str],
        rows: int,
        dim: int,
        *,
        home: str | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> VectorFile:
        """Shard `number`'s vectors, of which `files` says the sha256 of the table of blocks.

        Args:
            folder: where the table lies, and without `home` the vectors too.
            home: the address of the folder where the vectors lie instead; read blocks are kept in a cache of `cache_bytes`.

        Raises:
            ShardCorrupt: the table is not what the manifest says, or the file is missing or of another length.
        """
        name = table_name_of(number)
        table = BlockTable.load(folder / name, files.get(name, ""))
        blocks = BlockFile.open(folder / name_of(number), table, home=home, cache_bytes=cache_bytes)
        starts = np.arange(0, rows, ROWS_PER_BLOCK, dtype=np.int64) * dim * 4
        if not np.array_equal(table.offsets, np.append(starts, rows * dim * 4)):
            raise ShardCorrupt(path=blocks.address, found=f"it does not hold {rows} rows of {dim} numbers")
        return cls(blocks, rows, dim)

    def __len__(self) -> int:
        return self._n

    @property
    def disk_bytes(self) -> int:
        return self.blocks.table.size

    def rows(self, positions: Numbers) -> Matrix:
        """(c, d) float32 copies of the rows at (c,) positions, in that order, repeats allowed.

        Raises:
            IndexError: a position is not in 0 to n - 1.
            ShardCorrupt: a block that holds one is not what was written.

        Cost: mapped, a copy of the rows, and 20 us for each block touched the first time. At a home, one round of ranged
        reads for each 2,048 blocks that are not kept.
        """
        if len(positions) and (positions.min() < 0 or positions.max() >= self._n):
            raise IndexError(f"positions reach from {positions.min()} to {positions.max()}, the file has {self._n} rows")
        numbers = positions // ROWS_PER_BLOCK
        if self._matrix is not None:
            self.blocks.verify(numbers)
            return self._matrix[positions]
        found = np.empty((len(positions), self.dim), dtype=np.float32)
        order = np.argsort(numbers, kind="stable")
        wanted, first = np.unique(numbers[order], return_index=True)
        edges = np.append(first, len(order))
        for start in range(0, len(wanted), _BLOCKS_AT_ONCE):
            some = wanted[start : start + _BLOCKS_AT_ONCE]
            for i, block in enumerate(self.blocks.read(some.tolist()), start):
                at = order[edges[i] : edges[i + 1]]
                found[at] = self._rows_of(block)[positions[at] % ROWS_PER_BLOCK]
        return found

    def whole(self, positions: Numbers) -> Matrix | None:
        """(n, d), a read-only view of a mapped file, of which the blocks that hold the positions are verified; None at a home.

        Raises:
            ShardCorrupt: a block that holds one is not what was written.
        """
        if self._matrix is not None:
            self.blocks.verify(positions // ROWS_PER_BLOCK)
        return self._matrix

    def parts(self, n: int) -> Iterator[tuple[int, Matrix]]:
        """Every row, in order: where a part starts, and (about n, d) float32, n rounded up to whole blocks.

        Mapped, the parts are read-only views, and nothing is copied.
        """
        step = max(1, -(-n // ROWS_PER_BLOCK))
        for first in range(0, len(self.blocks.table), step):
            numbers = np.arange(first, min(first + step, len(self.blocks.table)))
            start, end = first * ROWS_PER_BLOCK, min((first + step) * ROWS_PER_BLOCK, self._n)
            if self._matrix is not None:
                self.blocks.verify(numbers)
                yield start, self._matrix[start:end]
            else:
                yield start, np.concatenate([self._rows_of(block) for block in self.blocks.read(numbers.tolist())])

    def _rows_of(self, block: memoryview) -> Matrix:
        return np.frombuffer(block, dtype=np.float32).reshape(-1, self.dim)
