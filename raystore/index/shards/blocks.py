"""Files read block by block, each block checked once against its digest before anyone sees its bytes.

A shard's vectors and lists may be many times larger than memory, so nobody hashes them whole when they are opened:
their length is compared at once, and a block's sha256 when it is first touched. Beside the file lies its table of blocks
(offsets and digests), small, read whole; its own sha256 stands in the index's manifest.

The file lies on this machine, and is mapped, or at a `home`, an address that fsspec knows, and its blocks are fetched as
ranged reads, all that are missing at once, into a cache of a stated size. Knows nothing of vectors, lists or FAISS.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from raystore.data.publish.folder import file_system
from raystore.errors import ShardCorrupt
from raystore.index.shards.home import Home, process_cache
from raystore.layout import disk_full_is_said, sync

CACHE_BYTES = 256 * 2**20
DIGEST_BYTES = 16  # of a sha256: 2**-128 that another block passes

Numbers = npt.NDArray[np.int64]


def file_digest(path: Path) -> str:
    """The sha256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: str) -> None:
    """Nothing, where the file's sha256 is the expected one. Cost: one read of it.

    Raises:
        ShardCorrupt: it is missing, cut short or changed.
    """
    try:
        found = file_digest(path)
    except FileNotFoundError:
        raise ShardCorrupt(path=str(path), found="it is missing") from None
    if found != expected:
        size = path.stat().st_size
        says = f"its sha256 is {found[:12]} ({size} bytes), the manifest says {expected[:12] or 'nothing'}"
        raise ShardCorrupt(path=str(path), found=says)


@dataclass(frozen=True, eq=False)
class BlockTable:
    """Block i of a file is its bytes offsets[i] to offsets[i + 1], and digests[i] the first 16 bytes of their sha256.

    `offsets` (b + 1,) int64 ascending from 0, `digests` (b, 16) uint8. A block may be empty.
    """

    offsets: Numbers
    digests: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self.offsets[-1])

    def save(self, path: Path) -> str:
        """Write the table, synced; the sha256 of its file."""
        with disk_full_is_said(path.parent, f"writing {path.name}"):
            save_file({"offsets": self.offsets, "digests": self.digests}, path)
            sync(path)
        return file_digest(path)

    @classmethod
    def load(cls, path: Path, expected: str) -> BlockTable:
        """The table that was saved, its file first compared with the sha256 that the manifest says.

        Raises:
            ShardCorrupt: the file is missing, changed, or no table of blocks.
        """
        check_file(path, expected)
        try:
            found = load_file(path)
            table = cls(found["offsets"], found["digests"])
        except (SafetensorError, KeyError):
            raise ShardCorrupt(path=str(path), found="it is no table of blocks") from None
        shaped = table.offsets.shape == (len(table) + 1,) and table.digests.shape == (len(table), DIGEST_BYTES)
        typed = table.offsets.dtype == np.int64 and table.digests.dtype == np.uint8
        if not (shaped and typed and table.offsets[0] == 0 and (np.diff(table.offsets) >= 0).all()):
            raise ShardCorrupt(path=str(path), found="it is no table of blocks")
        return table


class BlockWriter:
    """Writes a file whose every `add` is a block, or a run of blocks of equal size. Nothing is kept but the digests.

    Leaving the `with` block by an error closes the file and leaves what was written to whoever owns the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._sizes = array("q")
        self._digests = bytearray()

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, data: bytes | memoryview, *, each: int | None = None) -> None:
        """One block; with `each`, as many blocks of so many bytes as `data` holds, the last one maybe shorter."""
        view = memoryview(data).cast("B")
        step = each or max(1, len(view))
        with disk_full_is_said(self._path.parent, f"writing {self._path.name}"):
            self._file.write(view)
        for start in range(0, len(view), step) if len(view) or each else (0,):
            block = view[start : start + step]
            self._sizes.append(len(block))
            self._digests += _digest(block)

    def close(self) -> BlockTable:
        """The table of the blocks, when the file is on the disk."""
        with disk_full_is_said(self._path.parent, f"writing {self._path.name}"):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        offsets = np.concatenate([[0], np.cumsum(self._sizes, dtype=np.int64)]).astype(np.int64)
        digests = np.frombuffer(bytes(self._digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        return BlockTable(offsets, digests)


class BlockFile:
    """One file of blocks, open for reading from any thread.

    Attributes:
        table: its blocks.
        reads, bytes_read: blocks that were verified, which at a home are the ranged reads, and their bytes.
    """

    def __init__(self, table: BlockTable, address: str, source: mmap.mmap | Home | None) -> None:
        self.table = table
        self.address = address
        self.reads = 0
        self.bytes_read = 0
        self._source = source
        self._view = memoryview(source if isinstance(source, mmap.mmap) else b"")
        self._verified = np.zeros(len(table), dtype=bool)

    @classmethod
    def open(cls, path: Path, table: BlockTable, *, home: str | None = None, cache_bytes: int = CACHE_BYTES) -> BlockFile:
        """The file at `path`, or the one of its name in the folder `home`.

        Raises:
            ShardCorrupt: it is missing or of another length than the table says.
            InvalidArguments, ExtraNotInstalled: `home` is no address that fsspec knows here.

        Cost: none of its bytes is read. At a home one question for its length.
        """
        if home is not None:
            system, folder = file_system(home, "home")
            file = f"{folder.rstrip('/')}/{path.name}"
            address = f"{home.rstrip('/')}/{path.name}"
            try:
                size = int(system.size(file))
            except FileNotFoundError:
                raise ShardCorrupt(path=address, found="it is missing") from None
            _check_length(address, size, table)
            return cls(table, address, Home(system, file, process_cache(cache_bytes)))
        try:
            with path.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                _check_length(str(path), size, table)
                source = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except FileNotFoundError:
            raise ShardCorrupt(path=str(path), found="it is missing") from None
        return cls(table, str(path), source)

    @property
    def mapped(self) -> memoryview | None:
        """All bytes of a file on this machine, verified or not: `verify` what is looked at. None at a home."""
        return None if isinstance(self._source, Home) else self._view

    @property
    def memory_bytes(self) -> int:
        """Private memory of its table. The mapped bytes and the cache are not counted."""
        return self.table.offsets.nbytes + self.table.digests.nbytes + self._verified.nbytes

    @property
    def cache_used(self) -> int:
        """Bytes of fetched blocks this process keeps in the file's cache; 0 for a file on this machine."""
        return self._source.cache.used if isinstance(self._source, Home) else 0

    def read(self, numbers: Iterable[int]) -> list[memoryview]:
        """The blocks' bytes, in the order asked. On this machine views of the map, at a home of what was fetched or kept.

        Raises:
            ShardCorrupt: a block is not what was written.
            OSError: the home cannot be reached.
        """
        if isinstance(self._source, Home):
            return self._fetch(self._source, numbers)
        asked = np.fromiter(numbers, dtype=np.int64)
        self.verify(asked)
        bounds = zip(self.table.offsets[asked].tolist(), self.table.offsets[asked + 1].tolist(), strict=True)
        return [self._view[start:end] for start, end in bounds]

    def verify(self, numbers: Numbers) -> None:
        """Of a file on this machine: nothing, where these blocks are what was written. Each is hashed the first time only."""
        new = numbers[~self._verified[numbers]]
        if not len(new):
            return
        new = np.unique(new)
        self.will_need(new)
        for number in new.tolist():
            self._check(number, self._bytes(number))
        self._verified[new] = True

    def will_need(self, numbers: Numbers) -> None:
        """Ask the system to read those blocks of a mapped file, all at once, where it has not."""
        if not isinstance(self._source, mmap.mmap):
            return
        starts = self.table.offsets[numbers] // mmap.PAGESIZE * mmap.PAGESIZE
        lengths = self.table.offsets[numbers + 1] - starts
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            if length:
                self._source.madvise(mmap.MADV_WILLNEED, start, length)

    def _fetch(self, home: Home, numbers: Iterable[int]) -> list[memoryview]:
        asked = [int(number) for number in numbers]
        found: dict[int, bytes] = {}
        for number in dict.fromkeys(asked):
            kept = home.cache.get(self.table.digests[number].tobytes())
            if kept is not None:
                found[number] = kept
        missing = [number for number in dict.fromkeys(asked) if number not in found]
        if missing:
            bounds = [(int(self.table.offsets[i]), int(self.table.offsets[i + 1])) for i in missing]
            for number, block in zip(missing, home.ranges(bounds, self.address), strict=True):
                self._check(number, block)
                found[number] = block
                home.cache.put(self.table.digests[number].tobytes(), block)
        return [memoryview(found[number]) for number in asked]

    def _bytes(self, number: int) -> memoryview:
        return self._view[int(self.table.offsets[number]) : int(self.table.offsets[number + 1])]

    def _check(self, number: int, block: bytes | memoryview) -> None:
        self.reads += 1
        self.bytes_read += len(block)
        found, expected = _digest(block), self.table.digests[number].tobytes()
        if found != expected:
            says = f"the sha256 of its block {number} is {found.hex()[:12]} ({len(block)} bytes), its table says "
            raise ShardCorrupt(path=self.address, found=says + expected.hex()[:12])


def send_home(path: Path, home: str) -> None:
    """Copy the file into the folder `home`, which is made, under its own name."""
    system, folder = file_system(home, "home")
    system.makedirs(folder, exist_ok=True)
    system.put_file(str(path), f"{folder.rstrip('/')}/{path.name}")


def _check_length(address: str, size: int, table: BlockTable) -> None:
    if size != table.size:
        raise ShardCorrupt(path=address, found=f"it has {size} bytes, its table of blocks says {table.size}")


def _digest(block: bytes | memoryview) -> bytes:
    return hashlib.sha256(block).digest()[:DIGEST_BYTES]
