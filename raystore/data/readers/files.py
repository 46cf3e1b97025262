"""Where sources are: local paths and URLs, opened, listed and looked at in one way.

A URL is `scheme://...`, opened by pyarrow (s3, gs, abfs, hdfs: options behind a '?') or, where pyarrow has no such scheme,
by fsspec. A `file://` URL is the local path it names. Credentials come from the environment. Knows no file format.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

import fsspec
import fsspec.core
import pyarrow as pa
import pyarrow.fs as pafs

# What a table can be read from, and what else holds rows to embed: suffix -> kind.
TABLES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
IMAGES = dict.fromkeys((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"), "images")
SOURCES = {**TABLES, ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".lance": "lance", ".tar": "tar", **IMAGES}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class NotOpened(ValueError):
    """A URL that nobody here can open; says why, in words without content."""


@dataclass(frozen=True)
class Entry:
    """What stands at a path; size and time are None where they were not asked for or are not known."""

    name: str
    is_folder: bool
    size_bytes: int | None = None
    modified: str | None = None  # ISO 8601, UTC


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def as_local(path: str) -> str:
    """A `file://` URL as the path it names, so that a file has one name; anything else as it is.

    Raises:
        NotOpened: the URL names another machine.
    """
    if not path.lower().startswith("file://"):
        return path
    rest = path[len("file://") :].removeprefix("localhost")
    if not rest.startswith("/"):
        raise NotOpened("a file:// URL names a path on this machine, file:///folder/file")
    return unquote(rest, errors="surrogateescape")


def holds_password(path: str) -> bool:
    """True for `scheme://user:password@...`, which would be written into every record of the job."""
    netloc = path.partition("://")[2].partition("/")[0]
    return is_url(path) and "@" in netloc and ":" in netloc.rpartition("@")[0]


def suffix(path: str) -> str:
    """The suffix that tells the kind, in lower case; a URL's options are no part of it."""
    return os.path.splitext(path.partition("?")[0] if is_url(path) else path)[1].lower()  # noqa: PTH122  called for each image


def kind_of(path: str) -> str:
    """The kind of a source that `find_files` found: by its suffix, or "images" for a folder."""
    kind = SOURCES.get(suffix(path), "images")
    if kind in ("lance", "images"):
        return kind
    entry = look(path)
    return "images" if entry is not None and entry.is_folder else kind


def join(folder: str, name: str) -> str:
    """The path of `name` (which may hold slashes) in a folder."""
    if not is_url(folder):
        return f"{folder.rstrip('/')}/{name}"
    base, mark, options = folder.partition("?")
    return f"{base.rstrip('/')}/{quote(name, errors='surrogateescape') if _arrow_root(folder) else name}{mark}{options}"


def open_input(path: str) -> pa.NativeFile:
    """The file, open for reading at any offset. Close it, or use it in a `with`.

    Raises:
        OSError: FileNotFoundError, PermissionError and their kin.
    """
    if not is_url(path):
        return pa.OSFile(os.fsencode(path))  # names that are no UTF-8 are refused as str
    system, inner = filesystem(path)
    return system.open_input_file(inner)


def look(path: str) -> Entry | None:
    """What stands at the path, or None. A URL costs a request."""
    if not is_url(path):
        try:
            found = os.stat(path)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_folder = stat.S_ISDIR(found.st_mode)
        return Entry(PurePosixPath(path).name, is_folder, None if is_folder else found.st_size, _iso(found.st_mtime))
    system, inner = filesystem(path)
    return _entry(system.get_file_info([inner])[0])


def list_folder(path: str, *, sizes: bool = False) -> list[Entry]:
    """The regular files and folders in a folder, sorted by name; no content is read.

    A link to a file is a file, even where it leads nowhere (whoever opens it learns so); a link to a folder is left out, since
    it may lead in a circle; pipes, sockets and devices are left out. `sizes` costs one look at each local file.
    """
    if is_url(path):
        system, inner = filesystem(path)
        entries = (_entry(info) for info in system.get_file_info(pafs.FileSelector(inner)))
        return sorted((e for e in entries if e is not None and e.name), key=lambda e: e.name)
    with os.scandir(path) as found:
        return sorted(_local(found, sizes), key=lambda e: e.name)


def _local(found: Iterator[os.DirEntry[str]], sizes: bool) -> Iterator[Entry]:
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield Entry(entry.name, True)
        elif entry.is_file():
            facts = entry.stat() if sizes else None
            yield Entry(entry.name, False, facts.st_size, _iso(facts.st_mtime)) if facts else Entry(entry.name, False)
        elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
            yield Entry(entry.name, False)


def _entry(info: pafs.FileInfo) -> Entry | None:
    if info.type not in (pafs.FileType.File, pafs.FileType.Directory):
        return None
    is_folder = info.type == pafs.FileType.Directory
    modified = _iso(info.mtime.timestamp()) if info.mtime is not None else None
    return Entry(info.base_name, is_folder, None if is_folder else info.size, modified)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URL, and the path inside it.

    Raises:
        NotOpened: nobody knows the scheme, or what serves it is not installed.
        OSError: the filesystem does not answer.
    """
    root = _arrow_root(url)
    if root is not None:
        system, base = root
        rest = unquote(_split(url)[1], errors="surrogateescape").rstrip("/")
        return system, f"{base.rstrip('/')}/{rest}".rstrip("/") if base else rest
    scheme = url.partition("://")[0]
    if scheme not in fsspec.available_protocols():
        raise NotOpened(f"neither pyarrow nor fsspec has a filesystem for {scheme}://")
    try:
        found, inner = fsspec.core.url_to_fs(url)
    except ImportError as error:  # fsspec's own words: which package is missing
        raise NotOpened(str(error)) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(found)), inner


def _split(url: str) -> tuple[str, str]:
    """`scheme://host/` with the options, and the path behind the host."""
    base, mark, options = url.partition("?")
    scheme, _, tail = base.partition("://")
    host, _, rest = tail.partition("/")
    return f"{scheme}://{host}/{mark}{options}", rest


def _arrow_root(url: str) -> tuple[pafs.FileSystem, str] | None:
    return _open_root(_split(url)[0])


@lru_cache(maxsize=64)
def _open_root(root: str) -> tuple[pafs.FileSystem, str] | None:
    """pyarrow's filesystem and its path of the root; None where pyarrow has no such scheme. Asking S3 costs a request."""
    try:
        system, base = pafs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return system, base
