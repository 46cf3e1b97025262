"""Rows that are on the disk at once and in their table soon after: files beside it, one write and one sync for all who call at once.

    <begun>-<random>.rows   of one `Journal` of a process: records of a length, a checksum and an Arrow stream
    ....sealed              the same, to which nothing is appended any more: about to be taken into the table
    ....damaged             what could not be read to its end, kept for people

What `append` returned for survives a kill and a power cut; a record torn by one was never acknowledged. A key stands in the journal and
the table together once: who appends looks in both under the lock that each commit to the table takes at its end, and who commits
looks under it whether a key of its rows was appended meanwhile. Knows no Lance and no lease (`journaled.py`).
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from raystore.layout import disk_full_is_said, sync

log = logging.getLogger("raystore")

_HEAD = struct.Struct("<II")  # bytes of the record, and their CRC-32
_OPEN, _SEALED, _DAMAGED = ".rows", ".sealed", ".damaged"


@dataclass(frozen=True)
class Appended:
    """What became of one group of rows: `added` to the journal, `known` left alone, `differing` known with another payload."""

    added: int
    known: int
    differing: tuple[str, ...]


@dataclass
class _Seen:
    """What this object knows of a segment: payloads by key, how far it was read, and how far it is surely on the disk."""

    payloads: dict[str, bytes] = field(default_factory=dict)
    read: int = 0
    synced: int = 0


class Journal:
    """Of one table. Safe in many threads and processes.

    Args:
        key, payload: the columns of a row's key and of what tells whether it is the same row.
        lock: nobody commits to the table, and nobody else is in it, meanwhile.
    """

    def __init__(self, folder: Path, key: str, payload: str, lock: Callable[[], AbstractContextManager[object]]) -> None:
        self.folder = folder
        self._key, self._payload = key, payload
        self._lock = lock
        self._guard = threading.RLock()  # of what follows; taken under the lock
        self._seen: dict[str, _Seen] = {}
        self._mine: str | None = None  # the stem of the segment that this process appends to
        self._file, self._pid = -1, 0

    def __del__(self) -> None:
        self._let_go()

    def append(
        self, groups: Sequence[pa.Table], in_table: Callable[[Sequence[str]], Mapping[str, bytes]]
    ) -> list[Appended]:
        """Keep the new rows of several callers; on the disk when this returns.

        Args:
            groups: the keys of each are unique. A group of which a key is known with another payload is left out whole.
            in_table: the payloads of those of the keys that the table's newest version holds.

        Returns:
            One Appended a group. A key that stands in two groups counts for the first.

        Raises:
            WriterBlocked, DiskFull: nothing was kept.
        """
        with disk_full_is_said(self.folder, "keeping rows for a table"), self._lock(), self._guard:
            self._look()  # before the table is looked at: what left a segment is in the table by then
            keys = [group.column(self._key).to_pylist() for group in groups]
            asked = [key for each in keys for key in each]
            known = self._waiting(asked)
            known.update(in_table([key for key in asked if key not in known]))
            outcomes: list[Appended] = []
            fresh: list[pa.Table] = []
            payloads: dict[str, bytes] = {}
            for group, group_keys in zip(groups, keys, strict=True):
                given = dict(zip(group_keys, group.column(self._payload).to_pylist(), strict=True))
                old = [key for key in group_keys if key in known]
                differing = tuple(key for key in old if known[key] != given[key])
                if differing:
                    outcomes.append(Appended(0, len(old) - len(differing), differing))
                    continue
                new = [place for place, key in enumerate(group_keys) if key not in known]
                outcomes.append(Appended(len(new), len(old), ()))
                if new:
                    fresh.append(group if len(new) == len(group_keys) else group.take(new))
                    added = {group_keys[place]: given[group_keys[place]] for place in new}
                    known.update(added)
                    payloads.update(added)
            if fresh:
                self._write(b"".join(map(_record, fresh))).payloads.update(payloads)
            return outcomes

    def payloads(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Of those of the keys that wait, durably. Raises WriterBlocked."""
        with self._lock(), self._guard:
            self._look()
            return self._waiting(keys)

    def waits(self) -> bool:
        """Whether there are rows to be taken into the table. One look at a folder."""
        return bool(self._segments())

    @property
    def seen_bytes(self) -> int:
        """Of the rows that wait, as far as this process saw when it appended last."""
        return sum(seen.read for seen in list(self._seen.values()))

    @property
    def n_bytes(self) -> int:
        """Of the rows that wait, as they lie on the disk. A look at a folder and its files."""
        return sum(_size(path) for path in self._segments().values())

    def seal(self, lock: Callable[[], AbstractContextManager[object]]) -> list[Path]:
        """The segments there are; nothing is appended to them any more. `lock` is the same one, which its caller may be refused."""
        sealed = []
        with lock():
            for stem, path in self._segments().items():
                target = self.folder / f"{stem}{_SEALED}"
                if path != target:
                    os.rename(path, target)
                sealed.append(target)
        return sealed

    def appended(self, keys: Sequence[str]) -> bool:
        """Whether one of the keys was appended since `seal`, by anybody. The caller holds the lock."""
        with self._guard:
            opened = [stem for stem, path in self._look().items() if path.suffix == _OPEN]
            found = [self._seen[stem].payloads for stem in opened]
            return any(found) and any(key in payloads for payloads in found for key in keys)

    def read(self, segments: Sequence[Path]) -> tuple[pa.Table | None, dict[Path, int]]:
        """The rows of sealed segments, in the order of their writing in each; and of each, how many bytes at its end are no row."""
        tables: list[pa.Table] = []
        left: dict[Path, int] = {}
        for path in segments:
            data = _bytes(path)
            bodies = list(_bodies(data))
            tables += [pa.ipc.open_stream(body).read_all() for body in bodies]
            left[path] = len(data) - sum(_HEAD.size + len(body) for body in bodies)
        return (pa.concat_tables(tables, promote_options="default") if tables else None), left

    def remove(self, left: Mapping[Path, int]) -> None:
        """The rows of these segments are in the table. What could not be read to its end is kept aside."""
        for path, n_bytes in left.items():
            if n_bytes:
                aside = path.with_suffix(_DAMAGED)
                with suppress(FileNotFoundError):
                    os.rename(path, aside)
                    log.warning(
                        "the last %d bytes of '%s' are no whole rows; a crash cut them, or the disk", n_bytes, aside
                    )
            else:
                path.unlink(missing_ok=True)

    def damaged(self) -> list[Path]:
        """Files that were kept aside."""
        return sorted(self.folder.glob(f"*{_DAMAGED}"))

    def _segments(self) -> dict[str, Path]:
        """By stem, the oldest first."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return {}
        paths = [self.folder / name for name in names if name.endswith((_OPEN, _SEALED))]
        return {path.stem: path for path in paths}

    def _look(self) -> dict[str, Path]:
        """The segments; what others appended to them, and which left, is taken note of."""
        segments = self._segments()
        for stem in self._seen.keys() - segments.keys():
            del self._seen[stem]
        mine = None if self._mine is None or os.getpid() != self._pid else segments.get(self._mine)
        if mine is None or mine.suffix != _OPEN:
            self._let_go()
        for stem, path in segments.items():
            seen = self._seen.setdefault(stem, _Seen())
            if _size(path) > seen.read:
                self._take_note(seen, path)
        return segments

    def _take_note(self, seen: _Seen, path: Path) -> None:
        for body in _bodies(_bytes(path, seen.read)):
            rows = pa.ipc.open_stream(body).read_all()
            seen.payloads.update(
                zip(rows.column(self._key).to_pylist(), rows.column(self._payload).to_pylist(), strict=True)
            )
            seen.read += _HEAD.size + len(body)

    def _waiting(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for stem, seen in self._seen.items():
            here = {key: seen.payloads[key] for key in keys if key in seen.payloads}
            if here and seen.synced < seen.read:  # of a process that may have been killed before it synced
                self._sync(stem, seen)
            found.update(here)
        return found

    def _sync(self, stem: str, seen: _Seen) -> None:
        path = self._segments().get(stem)
        if path is not None:
            with suppress(FileNotFoundError):  # it left meanwhile
                sync(path)
        seen.synced = seen.read

    def _write(self, data: bytes) -> _Seen:
        """The data is on the disk, in the segment that is returned."""
        if self._mine is None:
            self._begin()
        seen = self._seen[str(self._mine)]
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file, data[written:], seen.read + written)
            os.fsync(self._file)
        except BaseException:
            # What a failed sync left on the disk nobody knows: the segment ends where it was sure to, and nothing is appended to it.
            with suppress(OSError):
                os.ftruncate(self._file, seen.read)
                if not seen.read:
                    (self.folder / f"{self._mine}{_OPEN}").unlink()
            self._let_go()
            raise
        seen.read = seen.synced = seen.read + len(data)
        return seen

    def _begin(self) -> None:
        self.folder.mkdir(exist_ok=True)
        sync(self.folder.parent)  # each time: who made the folder may have been killed before it did
        stem = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(self.folder / f"{stem}{_OPEN}", flags, 0o666)
        try:
            sync(self.folder)
        except BaseException:
            os.close(file)
            raise
        self._file, self._mine, self._pid = file, stem, os.getpid()
        self._seen[stem] = _Seen()

    def _let_go(self) -> None:
        """Another segment is begun with the next rows; this one is read like anybody's."""
        if self._file >= 0:
            os.close(self._file)
        self._mine, self._file = None, -1


def _record(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    body: bytes = sink.getvalue().to_pybytes()
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _bodies(data: bytes) -> Iterator[bytes]:
    """The whole records at the beginning of the data."""
    at = 0
    while at + _HEAD.size <= len(data):
        size, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + size]
        if len(body) < size or not size or zlib.crc32(body) != checksum:
            return
        yield body
        at += _HEAD.size + size


def _bytes(path: Path, start: int = 0) -> bytes:
    """From there to the file's end; none where it left meanwhile: another writer took its rows into the table."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read()
    except FileNotFoundError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
