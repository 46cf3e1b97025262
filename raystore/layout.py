"""Every path the store writes; no other file joins store paths.

Knows names and folders. Knows nothing of what the files hold, and touches the disk only in the helpers
at the end, which publish: a temporary name, then a rename or an exclusive link.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystore.errors import AlreadyExists, DiskFull, InvalidName

FORMAT = 1
FP12 = 12  # hex digits of a fingerprint that stand in paths and column names

_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DASHED = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def check_name(noun: str, name: object, *, dashes: bool = False) -> str:
    """The name itself, if it may stand in a path and in SQL; otherwise InvalidName."""
    pattern = _DASHED if dashes else _PLAIN
    if isinstance(name, str) and pattern.fullmatch(name):
        return name
    extra = ", digits, '_' or '-'" if dashes else ", digits or '_'"
    raise InvalidName(
        noun=noun, name=str(name)[:80], expected=f"1 to 63 characters, a small letter first, then small letters{extra}"
    )


def vector_column(fingerprint: str) -> str:
    """The column of a collection that holds this encoder's vectors."""
    return f"vec_{fingerprint[:FP12]}"


def filled_column(fingerprint: str) -> str:
    """The hidden Lance column that numbers the commits which filled the encoder's vectors into rows that were there."""
    return f"_filled_{fingerprint[:FP12]}"


def bridged_column(fingerprint: str) -> str:
    """The hidden Lance column that numbers the commits which filled rows by a bridge into this encoder's column."""
    return f"_bridged_{fingerprint[:FP12]}"


@dataclass(frozen=True)
class Layout:
    """Paths under one root. All are absolute; none is made by looking at it."""

    root: Path

    @property
    def store_file(self) -> Path:
        return self.root / "store.json"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def api_keys(self) -> Path:
        return self.root / "access" / "keys"

    @property
    def collections(self) -> Path:
        return self.root / "collections"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def deployments(self) -> Path:
        return self.root / "deployments"

    def aliases(self, kind: str, name: str | None = None) -> Path:
        folder = self.root / "aliases" / kind
        return folder if name is None else folder / name

    def encoder(self, fingerprint: str) -> Path:
        return self.root / "encoders" / fingerprint[:FP12]

    def encoder_sources(self, fingerprint: str) -> Path:
        return self.encoder(fingerprint) / "sources"

    def encoders(self) -> Path:
        return self.root / "encoders"

    def collection(self, name: str) -> Path:
        return self.collections / name

    def rows(self, name: str) -> Path:
        return self.collection(name) / "rows.lance"

    def set_aside(self, name: str) -> Path:
        return self.collection(name) / "set_aside.lance"

    def collection_fence(self, name: str) -> Path:
        return self.collection(name) / "fence"

    def journal(self, name: str) -> Path:
        return self.collection(name) / "journal"

    def source(self, name: str) -> Path:
        return self.collection(name) / "source.lance"

    def source_fence(self, name: str) -> Path:
        return self.collection(name) / "source.fence"

    def jobs(self, collection: str) -> Path:
        return self.collection(collection) / "jobs"

    def table(self, name: str) -> Path:
        return self.tables / f"{name}.lance"

    def table_fence(self, name: str) -> Path:
        return self.tables / f"{name}.fence"

    def snapshots(self, name: str | None = None) -> Path:
        folder = self.root / "snapshots"
        return folder if name is None else folder / name

    def heads(self, name: str | None = None) -> Path:
        folder = self.root / "heads"
        return folder if name is None else folder / name

    def head_notes(self, name: str, number: int) -> Path:
        return self.heads(name) / "notes" / str(number)

    def indexes(self, collection: str, fingerprint: str) -> Path:
        return self.root / "indexes" / collection / fingerprint[:FP12]

    def graphs(self, collection: str, fingerprint: str) -> Path:
        return self.root / "graphs" / collection / fingerprint[:FP12]

    def tunings(self, collection: str | None = None) -> Path:
        folder = self.root / "tunings"
        return folder if collection is None else folder / collection

    def models(self, name: str | None = None) -> Path:
        folder = self.root / "models"
        return folder if name is None else folder / name

    def runs(self, name: str | None = None) -> Path:
        folder = self.root / "runs"
        return folder if name is None else folder / name

    def run_notes(self, name: str, number: int) -> Path:
        return self.runs(name) / "notes" / str(number)

    def deployment(self, name: str) -> Path:
        return self.deployments / name


def numbers(folder: Path) -> list[int]:
    """The published numbers in a folder, lowest first; files `n.json` and folders `n` count alike."""
    if not folder.is_dir():
        return []
    found = (p.name.removesuffix(".json") for p in folder.iterdir())
    return sorted(int(name) for name in found if name.isascii() and name.isdigit())


def names(folder: Path) -> list[str]:
    """The names that stand in a folder of names, sorted."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


@contextmanager
def disk_full_is_said(folder: Path, doing: str) -> Iterator[None]:
    """Turn 'no space left' (from the OS, Arrow or Lance) into DiskFull; let everything else pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "StorageFull" in str(error):
            raise DiskFull(folder=str(folder), doing=doing) from None
        raise


def write_json(path: Path, value: Mapping[str, Any], tmp: Path, *, exclusive: bool = False) -> None:
    """Write JSON whole or not at all: synced under a temporary name in `tmp`, then renamed.

    With `exclusive`, an existing `path` is left alone and FileExistsError raised (a hard link is atomic and refuses).
    """
    tmp.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = tmp / f"{uuid.uuid4().hex}.json"
    with disk_full_is_said(path.parent, f"writing {path.name}"):
        try:
            with part.open("w", encoding="utf-8") as file:
                json.dump(value, file, indent=1, sort_keys=True, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            if exclusive:
                os.link(part, path)
            else:
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    sync(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


@contextmanager
def staging(tmp: Path) -> Iterator[Path]:
    """An empty folder to write a numbered thing into; gone afterwards unless `publish` moved it."""
    stage = tmp / uuid.uuid4().hex
    stage.mkdir(parents=True)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, parent: Path, *, only: int | None = None) -> int:
    """The number n under which the finished folder `stage` now stands as `parent/n`.

    Files are synced first. Racing publishers get different numbers: a rename onto a folder that is
    there and not empty fails, and the next number is tried. With `only`, that number or FileExistsError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sync_tree(stage)
    number = only or (numbers(parent) or [0])[-1] + 1
    while True:
        try:
            os.rename(stage, parent / str(number))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if only is not None:
                raise FileExistsError(str(parent / str(number))) from None
            number += 1
            continue
        sync(parent)
        return number


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, wherever that is, to write into; it stands in its place when the block ends, gone if it fails.

    Raises:
        AlreadyExists: the target is a file, or a folder that is not empty.
    """
    taken = AlreadyExists(noun="folder", name=str(target), advice="Name a new or an empty folder.")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise taken
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.parent / f".{target.name[:100]}-{uuid.uuid4().hex}"
    stage.mkdir()
    try:
        yield stage
        sync_tree(stage)
        os.rename(stage, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise taken from None
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Everything under the folder is on the disk when this returns."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """A file's bytes, or a folder's entries, are on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
