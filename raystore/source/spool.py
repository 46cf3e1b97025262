"""Rows that wait on the disk until the service can be reached: bounded, in order, held by one process.

    lock                 held by the process that has the spool open
    000000000001.rows    segments: a line a row (`record.py`), appended and synced before `append` returns
    sent.json            how far the rows were sent: segment and byte; written after, so that a crash sends a few again
    refused.rows         rows the service refused for good, kept for people

What `append` returned for survives a kill and a power cut. A line torn by one is cut off when the spool is opened, and was never
acknowledged. Rows are sent at least once; their ids make it once. Knows no network and no encoder. Cost of an append: one write
and one fsync.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raystore.errors import InvalidArguments, SpoolFull, SpoolUnusable
from raystore.layout import disk_full_is_said, sync
from raystore.source.record import Record, from_line, to_line

SEGMENT_BYTES = 4 * 2**20
_SUFFIX, _REFUSED, _SENT, _LOCK = ".rows", "refused.rows", "sent.json", "lock"
_OWN = (_REFUSED, _SENT, f"{_SENT}.part", _LOCK)


@dataclass(frozen=True, order=True)
class Place:
    segment: int
    offset: int


@dataclass(frozen=True)
class Batch:
    """Rows of one collection and one encoder, in order, and the place behind them. `damaged` lines were passed over."""

    records: list[Record]
    end: Place
    damaged: int = 0


class Spool:
    """Safe to share between threads; `append` from many, `next`, `sent` and `refuse` from the one that sends.

    Args:
        folder: made where it is not there, for its owner alone.
        max_bytes: of all its files together.
        segment_bytes: when the next file is begun; sent files are removed whole.

    Raises:
        SpoolUnusable: another process or another source holds it, or the folder holds other things.
    """

    def __init__(self, folder: str | Path, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 2**16:
            raise InvalidArguments(call="Source", problems=["max_spool_bytes= is a whole number of at least 65,536"])
        self.folder = Path(folder).expanduser().absolute()
        self.max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._guard = threading.RLock()
        self._pid = os.getpid()
        self._sizes: dict[int, int] = {}
        self._last = self._pending = self._refused = self._refused_bytes = 0
        self._sent = Place(0, 0)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hold = self._locked()
        try:
            self._recover()
        except BaseException:
            os.close(self._hold)
            raise

    @property
    def pending_rows(self) -> int:
        with self._guard:
            return self._pending

    @property
    def refused_rows(self) -> int:
        with self._guard:
            return self._refused

    @property
    def n_bytes(self) -> int:
        with self._guard:
            return self._bytes()

    def append(self, records: Sequence[Record]) -> None:
        """Keep the rows, all or none; they are on the disk when this returns.

        Raises:
            SpoolFull: they would go over the bound; nothing was kept.
            DiskFull: nothing was kept.
            SpoolUnusable: it was closed, or this process is a fork of the one that opened it.
        """
        if os.getpid() != self._pid:
            raise self._unusable(
                "it was opened before this process was forked", "Open a source, with a spool of its own, after the fork."
            )
        data = b"".join(map(to_line, records))
        with self._guard:
            self._check_held()
            if self._bytes() + len(data) > self.max_bytes:
                raise SpoolFull(folder=str(self.folder), rows=len(records), max_bytes=self.max_bytes)
            if self._sizes[self._last] and self._sizes[self._last] + len(data) > self._segment_bytes:
                self._begin(self._last + 1)
            self._sizes[self._last] = self._write(self._segment(self._last), self._sizes[self._last], data)
            self._pending += len(records)

    def next(self, n: int) -> Batch | None:
        """The oldest rows not sent yet, at most n, of one collection and encoder; None where all were sent."""
        with self._guard:
            start, sizes = self._sent, dict(self._sizes)
        found: list[Record] = []
        damaged, end = 0, start
        for segment in sorted(each for each in sizes if each >= start.segment):
            offset = start.offset if segment == start.segment else 0
            with self._segment(segment).open("rb") as file:
                file.seek(offset)
                while offset < sizes[segment] and len(found) < n:
                    line = file.readline()
                    record = from_line(line)
                    if record is not None and found and _kind(record) != _kind(found[0]):
                        return Batch(found, end, damaged)
                    offset += len(line)
                    end = Place(segment, offset)
                    if record is None:
                        damaged += 1
                    else:
                        found.append(record)
            if len(found) == n:
                break
        return Batch(found, end, damaged) if found or damaged else None

    def sent(self, batch: Batch) -> None:
        """The batch, which `next` gave last, need not be sent again. Files that were sent whole are removed."""
        with self._guard:
            self._check_held()
            self._pending -= len(batch.records) + batch.damaged
            self._sent = batch.end
            if self._sent.segment == self._last and self._sent.offset == self._sizes[self._last] > 0:
                self._begin(self._last + 1)
                self._sent = Place(self._last, 0)
            part = self.folder / f"{_SENT}.part"
            part.write_text(json.dumps({"segment": self._sent.segment, "offset": self._sent.offset}), encoding="utf-8")
            os.replace(part, self.folder / _SENT)
            for segment in [each for each in self._sizes if each < self._sent.segment]:
                self._segment(segment).unlink(missing_ok=True)
                del self._sizes[segment]

    def refuse(self, records: Sequence[Record]) -> None:
        """Set rows aside that the service will not take; they count towards the bound and are never sent by themselves."""
        with self._guard:
            self._check_held()
            data = b"".join(map(to_line, records))
            self._refused_bytes = self._write(self.folder / _REFUSED, self._refused_bytes, data)
            self._refused += len(records)

    def restore(self) -> int:
        """Put the refused rows back behind the others, to be sent again; how many. A crash meanwhile may leave them in both places."""
        with self._guard:  # over all of it: what the sender sets aside meanwhile must not be unlinked with the rest
            records = [record for line in self._lines(self.folder / _REFUSED) if (record := from_line(line)) is not None]
            room, self._refused_bytes = self._refused_bytes, 0  # they are only moved
            try:
                if records:
                    self.append(records)
            except BaseException:
                self._refused_bytes = room
                raise
            (self.folder / _REFUSED).unlink(missing_ok=True)
            self._refused = 0
        return len(records)

    def close(self) -> None:
        """Let go of the folder, once nobody writes; what it holds stays. Nothing is written afterwards."""
        with self._guard:
            if self._hold >= 0:
                os.close(self._hold)
                self._hold = -1

    def _check_held(self) -> None:
        if os.getpid() != self._pid:
            raise self._unusable(
                "it was opened before this process was forked", "Open a source, with a spool of its own, after the fork."
            )
        if self._hold < 0:
            raise self._unusable("it was closed", "Open the source again.")

    def _locked(self) -> int:
        hold = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(hold)
            raise self._unusable(
                "another process, or another source of this one, holds it", "Give each a folder of its own."
            ) from None
        return hold

    def _recover(self) -> None:
        strange = [p.name for p in self.folder.iterdir() if p.name not in _OWN and not _is_segment(p.name)]
        if strange:
            raise self._unusable(
                f"it holds '{sorted(strange)[0]}'", "Give it an empty folder, or one that was a spool before."
            )
        self._sizes = {int(p.stem): p.stat().st_size for p in self.folder.iterdir() if _is_segment(p.name)}
        self._last = max(self._sizes, default=0)
        if self._sizes:
            self._sizes[self._last] = self._cut(self._segment(self._last))
        else:
            (self.folder / _SENT).unlink(missing_ok=True)
            self._begin(1)
        self._refused_bytes = self._cut(self.folder / _REFUSED)
        self._refused = sum(1 for _ in self._lines(self.folder / _REFUSED))
        self._sent = self._read_sent()
        for segment in [each for each in self._sizes if each < self._sent.segment]:  # a crash between the two
            self._segment(segment).unlink(missing_ok=True)
            del self._sizes[segment]
        for segment in self._sizes:
            skip = self._sent.offset if segment == self._sent.segment else 0
            self._pending += sum(1 for _ in self._lines(self._segment(segment), skip))

    def _read_sent(self) -> Place:
        """Where sending goes on; from the beginning where nobody knows, for sending twice is harmless."""
        first = Place(min(self._sizes), 0)
        try:
            about = json.loads((self.folder / _SENT).read_text(encoding="utf-8"))
            found = Place(int(about["segment"]), int(about["offset"]))
        except (OSError, ValueError, KeyError, TypeError):
            return first
        return found if found.segment in self._sizes and 0 <= found.offset <= self._sizes[found.segment] else first

    def _cut(self, path: Path) -> int:
        """The file's size without a last line that a crash left without its end."""
        if not path.is_file():
            return 0
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                start = max(0, end - 65_536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                end = start + newline + 1 if newline >= 0 else start
                if newline >= 0:
                    break
            if end < size:
                file.truncate(end)
                os.fsync(file.fileno())
        return end

    def _begin(self, segment: int) -> None:
        """An empty segment, which is in the folder after a power cut too."""
        os.close(os.open(self._segment(segment), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        sync(self.folder)
        self._last = segment
        self._sizes[segment] = 0

    def _write(self, path: Path, size: int, data: bytes) -> int:
        """The file's size with `data` behind its first `size` bytes, synced; it is as before where that fails."""
        with disk_full_is_said(self.folder, "keeping rows that wait for the service"):
            file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(file, data[written:], size + written)
                os.fsync(file)
            except OSError:
                with suppress(OSError):  # what cannot be cut off is overwritten by the next, or cut when it is opened
                    os.ftruncate(file, size)
                raise
            finally:
                os.close(file)
        return size + len(data)

    def _lines(self, path: Path, skip: int = 0) -> list[bytes]:
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(skip)
            return file.readlines()

    def _bytes(self) -> int:
        return sum(self._sizes.values()) + self._refused_bytes

    def _segment(self, number: int) -> Path:
        return self.folder / f"{number:012d}{_SUFFIX}"

    def _unusable(self, found: str, advice: str) -> SpoolUnusable:
        return SpoolUnusable(folder=str(self.folder), found=found, advice=advice)


def _is_segment(name: str) -> bool:
    stem = name.removesuffix(_SUFFIX)
    return stem != name and len(stem) == 12 and stem.isascii() and stem.isdigit()


def _kind(record: Record) -> tuple[str, str]:
    return record.collection, record.fingerprint
