"""`shard-0000.lists`: one block a list, its codes and then its positions, written without holding them all.

List l is n_l * code_size bytes of codes and n_l int64 positions, ascending: what FAISS's OnDiskInvertedLists maps, and
what one ranged read brings. Knows numbers and bytes; no FAISS.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from raystore.index.shards.blocks import BlockTable, BlockWriter, Numbers
from raystore.layout import disk_full_is_said

Codes = npt.NDArray[np.uint8]

_GROUP_BYTES = 64 * 2**20  # of codes that are sorted in memory at once
_MOST_GROUPS = 256  # files open at once


def lists_name(number: int) -> str:
    return f"shard-{number:04d}.lists"


class ListWriter:
    """Takes rows in any order, spills them into nameless files by groups of lists, and at the end sorts one group after another.

    Memory: about 64 MiB beyond the batch that is added, for up to 256 groups (16 GiB of codes), then in proportion.
    """

    def __init__(self, path: Path, nlist: int, code_size: int, rows_hint: int) -> None:
        self._path, self._nlist, self._code_size = path, nlist, code_size
        self._row = np.dtype([("list", "<i4"), ("position", "<i8"), ("code", "u1", (code_size,))])
        groups = int(np.clip(-(-rows_hint * self._row.itemsize // _GROUP_BYTES), 1, min(_MOST_GROUPS, nlist)))
        self._edges = np.linspace(0, nlist, groups + 1).astype(np.int64)
        self._spills: list[IO[bytes]] = [_nameless(path.parent) for _ in range(groups)]

    def add(self, lists: Numbers, codes: Codes, positions: Numbers) -> None:
        """Rows (m,) with their list's number, their code (m, code_size) and their position."""
        rows = np.empty(len(lists), dtype=self._row)
        rows["list"], rows["position"], rows["code"] = lists, positions, codes
        rows = rows[np.argsort(lists, kind="stable")]
        cuts = np.searchsorted(rows["list"], self._edges)
        with disk_full_is_said(self._path.parent, f"writing {self._path.name}"):
            for spill, start, end in zip(self._spills, cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                spill.write(rows[start:end].tobytes())

    def close(self) -> BlockTable:
        """The lists in their order are on the disk; their table of blocks, of which block l is list l."""
        writer = BlockWriter(self._path)
        for i, spill in enumerate(self._spills):
            spill.seek(0)
            rows = np.frombuffer(spill.read(), dtype=self._row)
            spill.close()
            rows = rows[np.lexsort((rows["position"], rows["list"]))]
            cuts = np.searchsorted(rows["list"], np.arange(self._edges[i], self._edges[i + 1] + 1))
            for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                part = rows[start:end]
                writer.add(part["code"].tobytes() + part["position"].astype("<i8").tobytes())
        return writer.close()


def _nameless(folder: Path) -> IO[bytes]:
    """A file that is gone when it is closed, or its process ends however it ends."""
    return tempfile.TemporaryFile(dir=folder)
