"""Folders of image files: one row a file, at any depth, in the order of their names.

Columns: `image` (the file's bytes), `name` (its path relative to the folder, with '/') and `folder` (the first folder below
the root, which class folders name after the class; None for a file directly in the root).

Only names that end in .jpg .jpeg .png .gif .webp .bmp .tif .tiff are rows. Hidden files and folders, which begin with a dot
(macOS's '._' files among them), and Thumbs.db are skipped; links to folders are not followed. A slice is the names from the
first to the last, so a file added behind the planning changes no other slice.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from raystore.data.readers.files import IMAGES, Entry, is_url, join, list_folder, open_input, suffix
from raystore.data.readers.reference import Block, Reference, Row, SourceFile, blocks, slice_rows

COLUMNS = {"image": "binary", "name": "string", "folder": "string"}
MAX_IMAGE_BYTES = 64 * 2**20  # a file that size is no photograph; it is never read
# What is wrong with one file; other errors (no more descriptors, no answer) would be every row's, and end the job.
_OF_ONE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.EISDIR, errno.ENOTDIR}


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "Thumbs.db"


def is_image(name: str) -> bool:
    """True for a file name that is shown and ends like an image's."""
    return not is_hidden(name) and suffix(name) in IMAGES


def walk(folder: str, first: str = "", last: str = "", *, sizes: bool = False) -> Iterator[tuple[str, Entry]]:
    """Names and entries of the image files, in the order of the names' parts, from `first` to `last` where they are given.

    Folders that hold nothing in between are not listed.
    """
    return _walk(folder, (), tuple(first.split("/")) if first else (), tuple(last.split("/")) if last else (), sizes)


def _walk(
    folder: str, above: tuple[str, ...], low: tuple[str, ...], high: tuple[str, ...], sizes: bool
) -> Iterator[tuple[str, Entry]]:
    for entry in list_folder(folder, sizes=sizes):
        name = entry.name
        if is_hidden(name) or (low and name < low[0]) or (high and name > high[0]):
            continue
        if entry.is_folder:
            below_low = low[1:] if low and name == low[0] else ()
            below_high = high[1:] if high and name == high[0] else ()
            yield from _walk(join(folder, name), (*above, name), below_low, below_high, sizes)
        elif is_image(name):
            yield "/".join((*above, name)), entry


def plan(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    names: list[str] = []
    size, modified = 0, ""
    for name, entry in walk(path, sizes=True):
        names.append(name)
        size += entry.size_bytes or 0
        modified = max(modified, entry.modified or "")
    step = slice_rows(len(names), workers, images=True)
    references = []
    for start in range(0, len(names), step):
        part = names[start : start + step]
        stop = start + len(part)
        references.append(Reference(path, kind, start, len(part), start, stop, first=part[0], last=part[-1]))
    return SourceFile(path, kind, len(names), COLUMNS, size, modified or None), references


def read(reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int) -> Iterator[Block]:
    return blocks(_rows(reference, columns), reference.first_row, columns, batch_rows, batch_bytes)


def _rows(reference: Reference, columns: Sequence[str]) -> Iterator[Row]:
    found = 0
    for name, _ in walk(reference.path, reference.first, reference.last):
        found += 1
        data, problem = _load(join(reference.path, name)) if "image" in columns else (None, None)
        yield Row(named(name) | {"image": data}, len(data or b""), problem)
    for _ in range(reference.n_rows - found):
        yield Row({}, 0, "the file is gone since the job was planned")


def named(name: str) -> dict[str, str | bytes | None]:
    """The columns `name` and `folder` of an image. Names are only names: '..' and '/' lead nowhere."""
    parts = [part for part in name.split("/")[:-1] if part not in ("", ".", "..")]
    return {"name": name, "folder": parts[0] if parts else None}


def too_large(size: int) -> str | None:
    """Why an image of that many bytes is not read, or None."""
    return f"the image is {size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read" if size > MAX_IMAGE_BYTES else None


def _load(path: str) -> tuple[bytes | None, str | None]:
    """The file's bytes, or the reason why it cannot be read."""
    try:
        with open_input(path) as file:
            problem = too_large(file.size())
            return (None, problem) if problem else (file.read(), None)
    except OSError as error:
        # A filesystem behind a URL gives no number, and its failures are not the file's, but for these two.
        if error.errno not in _OF_ONE_FILE and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise
        where = "the file" if not is_url(path) else "the object"
        return None, f"{where} cannot be read ({type(error).__name__})"
