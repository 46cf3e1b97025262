"""Search of bytes: which files, and which of a process's own memory, hold a string, in any of several spellings.

Finds the string as UTF-8, UTF-16, UTF-32, hexadecimal and base64 at every alignment, in plain files and inside Lance
tables, Parquet, gzip and zstandard files, which are unpacked. Does not find: other compression, encryption, token
numbers, a string cut into pieces shorter than the mark. An ASCII mark reads the same in JSON and in a URL.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq

_CHUNK = 2**24


def spellings(mark: str) -> dict[str, bytes]:
    plain = mark.encode("ascii")
    found = {
        "utf-8": plain,
        "utf-16-le": mark.encode("utf-16-le"),
        "utf-16-be": mark.encode("utf-16-be"),
        "utf-32-le": mark.encode("utf-32-le"),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
    }
    for shift, lost in ((0, 0), (1, 2), (2, 3)):  # characters that mix the mark's bits with what stands before it
        encoded = base64.b64encode(b"\0" * shift + plain).rstrip(b"=")
        found[f"base64+{shift}"] = encoded[lost : len(encoded) - 1]
    return found


def spellings_in(chunks: Iterable[bytes], mark: str) -> set[str]:
    """The spellings of the mark that stand in the bytes, also across two chunks."""
    needles = spellings(mark)
    overlap = max(map(len, needles.values()))
    found: set[str] = set()
    tail = b""
    for chunk in chunks:
        block = tail + chunk
        found |= {name for name, needle in needles.items() if name not in found and needle in block}
        tail = block[-overlap:]
    return found


def files_holding(folder: Path, mark: str) -> dict[str, set[str]]:
    """Every file under the folder (or the file itself) that holds the mark, by path, with the spellings found."""
    found: dict[str, set[str]] = {}
    paths = [folder, *folder.rglob("*")] if folder.is_dir() else [folder]
    for path in paths:
        spelled = spellings_in([str(path.name).encode("utf-8", "surrogateescape")], mark)
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # a log that was rotated away meanwhile
                spelled |= spellings_in(_chunks(path), mark) | spellings_in(_unpacked(path), mark)
        elif path.suffix == ".lance" and (path / "_versions").is_dir():
            spelled |= spellings_in(_table_bytes(lance.dataset(str(path)).to_table()), mark)
        if spelled:
            found[str(path)] = spelled
    return found


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _unpacked(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        yield from _table_bytes(pq.read_table(path))
    codec = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(head[:2])
    if codec:
        with pa.CompressedInputStream(pa.OSFile(str(path)), codec) as stream:
            while chunk := stream.read(_CHUNK):
                yield bytes(chunk)


def _table_bytes(table: pa.Table) -> Iterator[bytes]:
    for column in table.columns:
        for chunk in column.chunks:
            plain = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
            yield from (memoryview(buffer).tobytes() for buffer in plain.buffers() if buffer is not None)
            yield b"\0"


def object_store_holding(mark: str) -> set[str]:
    """The spellings of the mark that stand in this Ray's object store: its pages, mapped into the driver."""
    found: set[str] = set()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if "/dev/shm/plasma" in line:
            low, high = (int(edge, 16) for edge in line.split()[0].split("-"))
            found |= spellings_in(_memory(low, high), mark)
    return found


def _memory(low: int, high: int) -> Iterator[bytes]:
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        memory.seek(low)
        while (left := high - memory.tell()) > 0:
            yield memory.read(min(left, _CHUNK))
