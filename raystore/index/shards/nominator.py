"""What every approximate kind does for a shard: name the positions that may be near. The shard scores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import faiss as _faiss

from raystore.index.shards.blocks import file_digest
from raystore.index.shards.chosen import Chosen
from raystore.index.shards.exact import Positions
from raystore.layout import disk_full_is_said, sync
from raystore.vectors import Matrix

faiss: Any = _faiss


class Nominator(Protocol):
    """`nlist` lists, of which `probes` are visited; None for a graph, whose probes are its ef."""

    @property
    def nlist(self) -> int | None: ...

    @property
    def memory_bytes(self) -> int:
        """Private memory; mapped files are not counted."""

    def nominate(self, queries: Matrix, fetch: int, chosen: Chosen | None, probes: int) -> Positions:
        """(m, fetch) int64 positions near each query, by the codes nearest first, padded with -1."""


def faiss_name(number: int) -> str:
    return f"shard-{number:04d}.faiss"


def write_index(index: Any, folder: Path, number: int) -> dict[str, str]:
    path = folder / faiss_name(number)
    with disk_full_is_said(folder, f"writing {path.name}"):
        try:
            faiss.write_index(index, str(path))
        except RuntimeError as error:  # FAISS's word for every failed write; it repeats the system's
            raise OSError(f"cannot write '{path}': {error}") from None
        sync(path)
    return {path.name: file_digest(path)}
