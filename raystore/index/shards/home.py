"""Where a file's blocks come from that do not lie on this machine: ranged reads at an address, and a cache of a stated size."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from raystore.errors import ShardCorrupt


class BlockCache:
    """Blocks that were fetched and verified, the ones used last, of at most `capacity` bytes in all.

    A block is found by its digest, so files opened twice, and equal blocks, are kept once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._lock = Lock()
        self._blocks: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, digest: bytes) -> bytes | None:
        with self._lock:
            block = self._blocks.get(digest)
            if block is not None:
                self._blocks.move_to_end(digest)
            return block

    def put(self, digest: bytes, block: bytes) -> None:
        with self._lock:
            if digest in self._blocks or len(block) > self.capacity:
                return
            self._blocks[digest] = block
            self.used += len(block)
            while self.used > self.capacity:
                self.used -= len(self._blocks.popitem(last=False)[1])


@cache
def process_cache(capacity: int) -> BlockCache:
    """This process's cache of that size: the files of an index state one size, so its shards share one cache."""
    return BlockCache(capacity)


@dataclass(frozen=True)
class Home:
    """One file on a file system that fsspec knows."""

    system: Any
    file: str
    cache: BlockCache

    def ranges(self, bounds: list[tuple[int, int]], address: str) -> list[bytes]:
        starts, ends = [start for start, _ in bounds], [end for _, end in bounds]
        try:
            found: list[bytes] = self.system.cat_ranges([self.file] * len(bounds), starts, ends, on_error="raise")
        except FileNotFoundError:
            raise ShardCorrupt(path=address, found="it is missing") from None
        return found
