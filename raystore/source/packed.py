"""An encoder in a folder of its own: written by a store, opened where content arises, without a store, a network or Ray.

    manifest.json              format, name, fingerprint, the backends it runs on, the digest of every other file
    encoders/<fp12>/           as in a store: passport, golden vectors, exports; of a bridge also those of its host
    models/model-<fp12>/1/     the weights, only where torch is to run them

The folder is read as a store's would be, so whatever a store can open, a packed folder can hold. Nothing in it is pickled. Cost
of opening: every file is digested (0.1 s for 90 MB), the model is loaded, its golden inputs are encoded again. With an export
neither torch nor transformers is imported.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystore import __version__
from raystore.catalog import Catalog
from raystore.encoders.backends import BACKENDS, choose_backend, exported_backends, is_installed
from raystore.encoders.bridged import host_of, is_bridged, read_bridge
from raystore.encoders.exports import export_folder
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.opening import open_encoder
from raystore.encoders.records import StoredEncoder, open_source, read_encoder, source_record
from raystore.encoders.registry import Encoders
from raystore.encoders.source import MODEL_FILES, Source, file_digest, store_source
from raystore.errors import ExtraNotInstalled, GoldenMoved, InvalidArguments, ModelUnusable
from raystore.layout import FP12, Layout, disk_full_is_said, new_folder

FORMAT = 1
MANIFEST = "manifest.json"
_PARTS = ("passport.json", "golden.safetensors", "graph", "bridge")


@dataclass(frozen=True)
class Packed:
    """A packed encoder: its folder, what it is, what it runs on, and what it weighs."""

    folder: Path
    name: str
    fingerprint: str
    backends: tuple[str, ...]
    n_bytes: int

    @property
    def label(self) -> str:
        return f"{self.name}@{self.fingerprint[:FP12]}"


def pack(catalog: Catalog, name: str, folder: str | Path, *, backends: Sequence[str] = ()) -> Packed:
    """Write the encoder into a new folder; it was opened from there before it stands in its place.

    Args:
        catalog: of the store that has it (`store.catalog`).
        name: of the encoder, or its fingerprint.
        folder: new or empty.
        backends: what it is to run on: openvino, onnx, torch. By default the first of them that is exact enough here. torch
            brings the weights along, and takes torch to be installed where it is opened.

    Raises:
        EncoderNotFound, AlreadyExists, InvalidArguments, ExtraNotInstalled, ModelUnusable, GoldenMoved, DiskFull.
    """
    encoder = Encoders(catalog).get(name)
    stored = read_encoder(catalog.layout, encoder.fingerprint)
    chosen = _backends(catalog.layout, stored, backends)
    target = Path(folder).expanduser().absolute()
    with disk_full_is_said(target.parent, "packing an encoder"), new_folder(target) as stage:
        for backend in chosen:
            for fingerprint, runs in _needed(catalog.layout, encoder.fingerprint, backend):
                _copy(catalog, fingerprint, runs, stage)
        manifest = {
            "format": FORMAT,
            "name": encoder.name,
            "fingerprint": encoder.fingerprint,
            "backends": list(chosen),
            "files": {path: file_digest(stage / path) for path in _files(stage)},
            "raystore": __version__,
        }
        (stage / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
        for backend in chosen:
            open_packed(stage, backend=backend)
    return read_packed(target)


def read_packed(folder: str | Path) -> Packed:
    """What a folder holds, every byte of it checked against its manifest. Loads no model.

    Raises:
        ModelUnusable: it is no packed encoder, or a file is missing, was changed, or is not in the manifest.
    """
    root = Path(folder).expanduser().absolute()
    try:
        about = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        digests: dict[str, str] = dict(about["files"])
        name, fingerprint = str(about["name"]), str(about["fingerprint"])
        backends = tuple(str(backend) for backend in about["backends"])
        known = about["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        raise _unusable(root, f"it holds no {MANIFEST} of a packed encoder") from None
    if not known:
        raise _unusable(root, "it was packed by another version of raystore")
    found = _files(root)
    if strange := sorted({*found} - {*digests, MANIFEST}):
        raise _unusable(root, f"'{strange[0]}' is not in its manifest")
    for path, digest in digests.items():
        if path not in found:
            raise _unusable(root, f"'{path}' is missing")
        if file_digest(root / path) != digest:
            raise _unusable(root, f"'{path}' is not the file that was packed")
    n_bytes = sum((root / path).stat().st_size for path in found)
    return Packed(root, name, fingerprint, backends, n_bytes)


def open_packed(folder: str | Path, *, backend: str | None = None, threads: int | None = None) -> LoadedEncoder:
    """The encoder in memory, its files digested and its golden inputs encoded again.

    Args:
        backend: one it was packed for; by default RAYSTORE_BACKEND, else the first of them that is installed.
        threads: None is every core.

    Raises:
        ModelUnusable, GoldenMoved, ExtraNotInstalled; InvalidArguments: it was not packed for that backend.
    """
    packed = read_packed(folder)
    chosen = _chosen(packed, backend)
    return open_encoder(Layout(packed.folder), packed.fingerprint, threads=threads, backend=chosen, name=packed.name)


def _chosen(packed: Packed, asked: str | None) -> str:
    wanted, demanded = choose_backend(asked)
    if demanded and wanted not in packed.backends:
        problem = f"'{packed.folder}' was packed for {' and '.join(packed.backends)}, not for {wanted}: pack it with --backend {wanted}"
        raise InvalidArguments(call="open a packed encoder", problems=[problem])
    if demanded:
        return wanted
    exported = exported_backends()
    for backend in packed.backends:
        if backend not in exported or is_installed(exported[backend]):
            return backend
    missing = exported[packed.backends[0]]
    raise ExtraNotInstalled(what=f"{missing.name} encoders", package=missing.package, extra=missing.extra)


def _backends(layout: Layout, stored: StoredEncoder, asked: Sequence[str]) -> tuple[str, ...]:
    """Those it will be packed for, each of which opens in this store."""
    if wrong := [backend for backend in asked if backend not in BACKENDS]:
        problems = [f"a backend is one of {', '.join(BACKENDS)}, not '{backend[:40]}'" for backend in wrong]
        raise InvalidArguments(call="pack an encoder", problems=problems)
    if asked:
        chosen = tuple(dict.fromkeys(asked))
        for backend in chosen:
            open_encoder(layout, stored.passport.fingerprint, backend=backend)
        return chosen
    exported = exported_backends()
    for backend in BACKENDS[1:]:
        if not is_installed(exported[backend]):
            continue
        try:
            open_encoder(layout, stored.passport.fingerprint, backend=backend)
        except (ModelUnusable, GoldenMoved, InvalidArguments):  # not exact enough, or of a class that runs on another
            continue
        return (backend,)
    open_encoder(layout, stored.passport.fingerprint, backend="torch")
    return ("torch",)


def _needed(layout: Layout, fingerprint: str, backend: str) -> Iterator[tuple[str, str | None]]:
    """The encoders that opening this one reads, and what each is run on; None where its own files are enough."""
    stored = read_encoder(layout, fingerprint)
    if is_bridged(stored.passport):
        yield fingerprint, None
        yield from _needed(layout, host_of(read_bridge(layout, fingerprint)), backend)
    elif stored.passport.equivalence == "torch-fp32":
        yield fingerprint, backend
    elif backend == "torch":  # another precision of a model: the base's weights
        yield fingerprint, None
        yield str(stored.card.derived_from), "torch"
    else:
        yield fingerprint, None


def _copy(catalog: Catalog, fingerprint: str, backend: str | None, stage: Path) -> None:
    layout, to = catalog.layout, Layout(stage)
    folder, target = layout.encoder(fingerprint), to.encoder(fingerprint)
    target.mkdir(parents=True, exist_ok=True)
    for part in _PARTS:
        if (folder / part).is_dir():
            shutil.copytree(folder / part, target / part, dirs_exist_ok=True)
        elif (folder / part).is_file():
            shutil.copyfile(folder / part, target / part)
    if backend == "torch":
        _copy_weights(catalog, fingerprint, to)
    elif backend is not None:
        shutil.copytree(
            export_folder(layout, fingerprint, backend), export_folder(to, fingerprint, backend), dirs_exist_ok=True
        )


def _copy_weights(catalog: Catalog, fingerprint: str, to: Layout) -> None:
    """The model's files, and the one record that says where they lie."""
    source, options = open_source(catalog, fingerprint, fingerprint[:FP12])
    folder = to.models(f"model-{fingerprint[:FP12]}") / "1"
    for path in sorted({p for pattern in MODEL_FILES for p in source.folder.rglob(pattern) if p.is_file()}):
        copy = folder / path.relative_to(source.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    packed = Source(store_source(folder.relative_to(to.root).as_posix()), folder)
    record: dict[str, Any] = {"source": source_record(packed, options)}
    file = to.encoder_sources(fingerprint) / "1.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _unusable(root: Path, found: str) -> ModelUnusable:
    return ModelUnusable(
        model=str(root),
        found=found,
        advice="Copy the folder again, whole, or pack it anew: raystore encoder pack NAME FOLDER.",
    )
