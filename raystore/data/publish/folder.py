"""The folder a publication stands in, on any file system that fsspec knows: manifests, and Parquet files that appear whole.

    rows/part-<from>-<to>.parquet, labels/<table>/..., predictions/<head>/...    what warehouses read, by a glob
    _manifests/<n>.json                                                          which files those are; the highest n is the present
    _staged/<n>/...                                                              files on their way

Files are written under `_staged/<n>`, then manifest n is created, and that decides: what it lists is then moved in place, each move a
rename onto the name, and what it does not list is removed. A crash before the manifest changes nothing; after it, the next call
goes on with the moves. Files of one folder never share a row at any moment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from raystore.data.publish.plan import PartFile, part_name
from raystore.errors import AlreadyExists, ExtraNotInstalled, InvalidArguments
from raystore.layout import sync, write_json

_MANIFESTS, _STAGED = "_manifests", "_staged"
_FOLDERS = ("rows", "labels", "predictions")
_MANIFESTS_KEPT = 20
_PART = re.compile(r"part-\d{12,}-\d{12,}\.parquet")


@dataclass(frozen=True)
class Folder:
    """The files of one table of a publication. `key` is what they were made with, `version` the collection's when."""

    key: dict[str, Any]
    version: int
    files: list[PartFile]


@dataclass(frozen=True)
class Manifest:
    """What a publication holds: by folder ("rows", "labels/outcomes", "predictions/refunds") its files."""

    number: int = 0
    source: dict[str, str] = field(default_factory=dict)
    version: int = 0
    created_at: str = ""
    folders: dict[str, Folder] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "source": self.source,
            "version": self.version,
            "created_at": self.created_at,
            "folders": {},
        }
        for name, folder in self.folders.items():
            files = [{"path": f"{name}/{file.name}", **asdict(file)} for file in folder.files]
            told["folders"][name] = {"key": folder.key, "version": folder.version, "files": files}
        return told

    @staticmethod
    def from_dict(number: int, told: dict[str, Any]) -> Manifest:
        folders = {
            name: Folder(
                found["key"],
                found["version"],
                [PartFile(**{k: v for k, v in file.items() if k != "path"}) for file in found["files"]],
            )
            for name, found in told["folders"].items()
        }
        return Manifest(number, told["source"], told["version"], told["created_at"], folders)


class PublishedFolder:
    """One publication's folder. Whoever writes holds the publication's lock."""

    def __init__(self, uri: str) -> None:
        self.fs, root = file_system(uri, "publish")
        if isinstance(self.fs, LocalFileSystem):
            root = str(Path(root).expanduser().absolute())
        self.root = root.rstrip("/")
        self.uri: str = self.fs.unstrip_protocol(self.root)

    def manifest(self) -> Manifest:
        """The present one; number 0 where nothing was published yet.

        Raises:
            AlreadyExists: the folder holds something that no publication put there.
        """
        self.fs.invalidate_cache()
        numbers = self._numbers()
        if numbers:
            told = json.loads(self.fs.cat_file(self._path(_MANIFESTS, f"{numbers[-1]}.json")))
            return Manifest.from_dict(numbers[-1], told)
        if set(self._children("")) - {_MANIFESTS, _STAGED}:
            advice = "Name a new or an empty folder, or the one this collection is published to."
            raise AlreadyExists(noun="folder", name=self.uri, advice=advice)
        return Manifest()

    def standing(self, manifest: Manifest) -> dict[str, dict[str, int]]:
        """By folder the part files that stand in it and their sizes; by every folder there is, listed or not."""
        found: dict[str, dict[str, int]] = {name: {} for name in manifest.folders}
        for top in _FOLDERS:
            base = self._path(top)
            listed = self.fs.find(base, detail=True) if self.fs.isdir(base) else {}
            for path, about in listed.items():
                folder, _, name = str(path)[len(self.root) + 1 :].rpartition("/")
                if _PART.fullmatch(name):
                    found.setdefault(folder, {})[name] = int(about["size"])
        return found

    # --- writing --------------------------------------------------------------------------------------------------------

    def clear_staged(self) -> None:
        if self.fs.isdir(self._path(_STAGED)):
            self.fs.rm(self._path(_STAGED), recursive=True)

    def stage(
        self, number: int, folder: str, first: int, last: int, schema: pa.Schema, batches: Iterable[tuple[int, pa.Table]]
    ) -> PartFile:
        """Write one file for manifest `number`. `batches` are tables with how many of the collection's rows each covers."""
        path = self._path(_STAGED, str(number), folder, part_name(first, last))
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        ids = rows = 0
        with self.fs.open(path, "wb") as file:
            hashed = _Hashed(file)
            # Snappy and Parquet's own types: what every warehouse reads.
            with pq.ParquetWriter(pa.PythonFile(hashed, mode="w"), schema, compression="snappy") as writer:
                for covered, table in batches:
                    ids += covered
                    rows += len(table)
                    if len(table):
                        writer.write_table(table.select(schema.names).cast(schema))
        if isinstance(self.fs, LocalFileSystem):
            sync(Path(path))
        return PartFile(first, last, ids, rows, hashed.size, hashed.digest.hexdigest())

    def commit(self, manifest: Manifest) -> None:
        """Create the manifest under its number, which must be free. From here on it is what the folder becomes."""
        path = self._path(_MANIFESTS, f"{manifest.number}.json")
        if isinstance(self.fs, LocalFileSystem):
            write_json(Path(path), manifest.to_dict(), Path(self._path(_STAGED)), exclusive=True)
        else:
            self.fs.makedirs(self._path(_MANIFESTS), exist_ok=True)
            self.fs.pipe_file(path, json.dumps(manifest.to_dict(), indent=1).encode(), mode="create")

    def settle(self, manifest: Manifest) -> None:
        """Make the folder what the manifest says. Idempotent: it may be cut short anywhere and called again."""
        staged = self._path(_STAGED, str(manifest.number))
        waiting = {str(path)[len(staged) + 1 :] for path in (self.fs.find(staged) if self.fs.isdir(staged) else ())}
        standing = self.standing(manifest)
        for name, folder in manifest.folders.items():
            wanted = {file.name for file in folder.files}
            for file in folder.files:
                if f"{name}/{file.name}" not in waiting:
                    continue
                for old in sorted(standing[name].keys() - wanted):  # what was merged goes before the merged file comes
                    first, last = _range(old)
                    if first >= file.first and last <= file.last:
                        self.fs.rm_file(self._path(name, old))
                        del standing[name][old]
                self.fs.makedirs(self._path(name), exist_ok=True)
                self._move(f"{staged}/{name}/{file.name}", self._path(name, file.name))
        for name, files in standing.items():
            wanted = {file.name for file in manifest.folders[name].files} if name in manifest.folders else set()
            for old in sorted(files.keys() - wanted):
                self.fs.rm_file(self._path(name, old))
        self._tidy(manifest)

    def read(self, folder: str, file: PartFile) -> Iterable[pa.Table]:
        """The rows of a file that stands, some thousand at a time."""
        with self.fs.open(self._path(folder, file.name), "rb") as opened:
            for batch in pq.ParquetFile(opened).iter_batches(8_192):
                yield pa.Table.from_batches([batch])

    def schema(self, folder: str, file: PartFile) -> pa.Schema:
        with self.fs.open(self._path(folder, file.name), "rb") as opened:
            return pq.read_schema(opened)

    def _move(self, source: str, target: str) -> None:
        if isinstance(self.fs, LocalFileSystem):
            self.fs.mv(source, target)  # a rename: readers see the old file or the new one
            sync(Path(target).parent)
        else:
            self.fs.mv(source, target)

    def _tidy(self, manifest: Manifest) -> None:
        self.clear_staged()
        for number in self._numbers()[:-_MANIFESTS_KEPT]:
            self.fs.rm_file(self._path(_MANIFESTS, f"{number}.json"))
        for top in ("labels", "predictions"):  # an object store has no empty folders, a disk has
            for name in self._children(top):
                folder = f"{top}/{name}"
                if folder not in manifest.folders and self.fs.isdir(self._path(folder)) and not self._children(folder):
                    self.fs.rmdir(self._path(folder))

    def _numbers(self) -> list[int]:
        names = (name.removesuffix(".json") for name in self._children(_MANIFESTS))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _children(self, folder: str) -> list[str]:
        path = self._path(folder) if folder else self.root
        if not self.fs.isdir(path):
            return []
        return sorted(str(child).rstrip("/").rpartition("/")[2] for child in self.fs.ls(path, detail=False))

    def _path(self, *parts: str) -> str:
        return "/".join([self.root, *parts])


def file_system(uri: str, call: str) -> tuple[Any, str]:
    """Where an address leads, and the path there.

    Raises:
        InvalidArguments: no such file system is known. ExtraNotInstalled: its package is missing.
    """
    scheme = uri.partition("://")[0].rpartition("::")[2] if "://" in uri else "file"
    try:
        fsspec.get_filesystem_class(scheme)
        found: tuple[Any, str] = fsspec.core.url_to_fs(uri)
    except ValueError:
        problem = f"no file system is known for {scheme}://; name a folder, or an address that fsspec knows"
        raise InvalidArguments(call=call, problems=[problem]) from None
    except ImportError as error:
        package = getattr(error.__cause__ or error, "name", None) or "a package that is missing"
        raise ExtraNotInstalled(what=f"addresses of {scheme}://", package=package) from None
    return found


def _range(name: str) -> tuple[int, int]:
    first, last = name.removesuffix(".parquet").split("-")[1:]
    return int(first), int(last)


class _Hashed:
    """A file to write into that counts and hashes what it gets."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None: ...
    def close(self) -> None: ...
    def writable(self) -> bool:
        return True
