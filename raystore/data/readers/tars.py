"""Tars of image files: one row an image, sliced by the byte offsets of its members.

The columns are those of a folder of images: `image`, `name` (the member's, without a leading './') and `folder`. The same names
are skipped, as are other files and members that are no regular files. Planning reads the headers alone, in one pass; a slice
walks its own headers again, so a reference holds two offsets however many members there are. A tar that breaks off is
refused, even where it does between two members: its end would be two blocks of zeros.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence

from raystore.data.readers import reference as slices
from raystore.data.readers.files import is_url, open_input
from raystore.data.readers.images import COLUMNS, is_hidden, is_image, named, too_large
from raystore.data.readers.reference import Block, Reference, Row, SourceFile, blocks, slice_rows

# A header is 512 bytes. Behind a URL each jump is a request, so what lies between two headers is read along.
_BUFFER_BYTES, _REMOTE_BUFFER_BYTES = 8 * 2**10, 4 * 2**20


def plan(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    offsets = []  # where image MIN_SLICE_IMAGES*i begins
    total = 0
    with _open(path) as file:
        for offset, _ in _members(file, 0, None):
            if total % slices.MIN_SLICE_IMAGES == 0:
                offsets.append(offset)
            total += 1
        end = file.tell()
    step = -(-slice_rows(total, workers, images=True) // slices.MIN_SLICE_IMAGES)
    references = []
    for i in range(0, len(offsets), step):
        first = i * slices.MIN_SLICE_IMAGES
        rows = min(step * slices.MIN_SLICE_IMAGES, total - first)
        stop = offsets[i + step] if i + step < len(offsets) else end
        references.append(Reference(path, kind, first, rows, offsets[i], stop))
    return SourceFile(path, kind, total, COLUMNS), references


def read(reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int) -> Iterator[Block]:
    return blocks(_rows(reference, columns), reference.first_row, columns, batch_rows, batch_bytes)


def _rows(reference: Reference, columns: Sequence[str]) -> Iterator[Row]:
    found = 0
    with _open(reference.path) as file:
        try:
            for _, member in _members(file, reference.start, reference.stop):
                data, problem = _load(file, member) if "image" in columns else (None, None)
                yield Row(named(_name(member)) | {"image": data}, len(data or b""), problem)
                found += 1
        except tarfile.TarError:  # it was whole when it was planned
            pass
    for _ in range(reference.n_rows - found):
        yield Row({}, 0, "the tar breaks off before this member")


def _open(path: str) -> io.BufferedReader:
    return io.BufferedReader(open_input(path), _REMOTE_BUFFER_BYTES if is_url(path) else _BUFFER_BYTES)


def _members(file: io.BufferedReader, start: int, stop: int | None) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """The image members that begin from `start` to before `stop`, each with the offset of its first header.

    Afterwards the file stands at its end mark, or at `stop`. It may be read and moved between two members.

    Raises:
        tarfile.ReadError: the tar breaks off, or a header is none.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # `tarfile` would keep every member, and take a broken header in the middle for the end: its headers are read one by one.
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        offset = start
        while stop is None or offset < stop:
            file.seek(offset)
            header = file.read(tarfile.BLOCKSIZE)
            file.seek(offset)
            if header == tarfile.NUL * tarfile.BLOCKSIZE:
                return
            try:
                member = tarfile.TarInfo.fromtarfile(tar)
            except (tarfile.TarError, ValueError, RecursionError) as error:
                raise tarfile.ReadError(type(error).__name__) from None
            if not offset < tar.offset <= size:  # a size below zero would lead in a circle
                raise tarfile.ReadError("a member breaks off")
            begins, offset = offset, tar.offset
            if member.isreg() and not member.issparse() and _is_row(member.name):
                yield begins, member


def _is_row(name: str) -> bool:
    *folders, last = name.split("/")
    return is_image(last) and not any(is_hidden(part) for part in folders if part not in (".", ".."))


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _load(file: io.BufferedReader, member: tarfile.TarInfo) -> tuple[bytes | None, str | None]:
    problem = too_large(member.size)
    if problem:
        return None, problem
    file.seek(member.offset_data)
    return file.read(member.size), None
