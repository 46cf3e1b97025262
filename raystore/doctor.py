"""Is everything well? What is installed, what Ray sees, what the store holds, and whether its digests still hold.

Reads, never mends. A finding is one line; what is damaged becomes a broken line with its sentence, and the rest is
examined all the same.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from raystore import __version__
from raystore.data.collection import CollectionTable
from raystore.data.set_aside import set_aside_rows
from raystore.data.snapshots.snapshot import content_hash
from raystore.errors import RaystoreError, StoreNotFound, StoreUnusable
from raystore.index.manifest import index_folder, newest_number, read_manifest
from raystore.index.shards.verify import verify_shard
from raystore.layout import FP12, names, numbers
from raystore.serve.spec.records import DeploymentRecord
from raystore.session import start_ray
from raystore.store import Store, open

_PARTS = (
    "ray",
    "torch",
    "transformers",
    "sentence-transformers",
    "openvino",
    "pylance",
    "duckdb",
    "faiss-cpu",
    "pyarrow",
    "numpy",
)
_UNIT = 1e-3  # a stored vector's length may differ from 1 by so much


@dataclass(frozen=True)
class Check:
    what: str
    ok: bool
    found: str


def examine(root: str | Path, *, with_ray: bool = True) -> Iterator[Check]:
    """Every check as it is made, in the order of the layout.

    Cost: one read of all vectors, snapshots, heads and the index files in use; each encoder is loaded.
    """
    yield from _installed()
    if with_ray:
        yield _tried("ray", _ray)
    try:
        store = open(root, create=False)
    except StoreNotFound as error:
        yield Check("store", True, f"none yet at '{error.name}'")
    except RaystoreError as error:
        yield Check("store", False, str(error))
    else:
        free = shutil.disk_usage(store.root).free
        yield Check("store", True, f"{store.root}, {free / 2**30:.1f} GiB free")
        for what, look in _looks(store):
            yield _tried(what, look)


def _installed() -> Iterator[Check]:
    yield Check("raystore", True, f"{__version__} on Python {platform.python_version()}")
    for part in _PARTS:
        try:
            yield Check(part, True, version(part))
        except PackageNotFoundError:
            optional = part == "openvino"
            yield Check(
                part, optional, "not installed" + (" (optional: pip install 'raystore[openvino]')" if optional else "")
            )


def _ray() -> str:
    ray = start_ray()
    resources = ray.cluster_resources()
    memory = resources.get("memory", 0) / 2**30
    return f"{len(ray.nodes())} nodes, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {memory:.1f} GiB"


def _tried(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except RaystoreError as error:
        return Check(what, False, str(error))
    except FileNotFoundError as error:
        missing = f"'{error.filename}' is missing" if error.filename else "a file is missing"
        return Check(what, False, f"{missing}. Restore it from a backup.")
    except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:  # what readers say of damaged files
        return Check(what, False, f"it cannot be read ({type(error).__name__}). Restore it from a backup.")


def _looks(store: Store) -> Iterator[tuple[str, Callable[[], str]]]:
    """What there is to look at, by the names on the disk alone: finding them must not stumble over what is damaged."""
    layout = store.layout
    named = {_prefix_of(store, name) for name in store.encoders}
    for encoder in [*store.encoders, *(fp12 for fp12 in names(layout.encoders()) if fp12 not in named)]:
        yield f"encoder {encoder}", partial(_encoder, store, encoder)
    for name in store.collections:
        yield f"collection {name}", partial(_collection, store, name)
        for folder in (layout.indexes(name, fp12) for fp12 in names(layout.encoders())):
            if numbers(folder):
                yield f"index {name}@{numbers(folder)[-1]}", partial(_index, store, name, folder.name)
    for name in store.tables:
        yield f"table {name}", partial(_table, store, name)
    for name in store.snapshots:
        for number in numbers(layout.snapshots(name)):
            yield f"snapshot {name}@{number}", partial(_snapshot, store, f"{name}@{number}")
    for name in store.heads.names():
        for number in store.heads.numbers(name):
            yield f"head {name}@{number}", partial(_head, store, f"{name}@{number}")
    for name in names(layout.deployments):
        yield f"deployment {name}", partial(_deployment, store, name)


def _prefix_of(store: Store, encoder: str) -> str:
    try:
        return store.encoders.resolve(encoder).fingerprint[:FP12]
    except (RaystoreError, OSError, ValueError, LookupError):  # said when it is looked at
        return ""


def _encoder(store: Store, name: str) -> str:
    encoder = store.encoder(name)
    return f"{encoder.label}: weights hold, worst golden cosine {encoder.verify():.6f}"


def _head(store: Store, name: str) -> str:
    head = store.heads.get(name)
    learned = "numbers" if head.task == "number" else f"{len(head.classes):,} {head.task}"
    return f"digest holds; {head.kind}, {learned}, {head.report.headline_text}, on {head.encoder}"


def _collection(store: Store, name: str) -> str:
    table = CollectionTable.open(store.layout, name)
    for fingerprint in table.fingerprints:
        bad = sum(
            int((~(np.abs(np.linalg.norm(batch.vectors, axis=1) - 1) < _UNIT)).sum()) for batch in table.scan(fingerprint)
        )
        if bad:
            raise StoreUnusable(
                root=str(store.root),
                found=f"{bad:,} vectors of collection {name} are no unit vectors",
                advice="Restore the collection from a backup.",
            )
    aside, waiting, damaged = len(set_aside_rows(store.layout, name)), table.rows.waiting_bytes, table.rows.damaged()
    held = "vectors hold" if table.fingerprints else "no vectors"
    return (
        f"{table.count():,} rows, version {table.version}, {held}"
        + (f"; {aside:,} set aside" if aside else "")
        + (f"; {waiting:,} bytes wait in its journal, for the next write or service that logs to it" if waiting else "")
        + (f"; a crash or the disk cut {', '.join(f'journal/{path.name}' for path in damaged)}" if damaged else "")
    )


def _index(store: Store, name: str, fp12: str) -> str:
    fingerprint = store.encoders.resolve(fp12).fingerprint
    number = newest_number(store.layout, name, fingerprint) or 0
    manifest = read_manifest(store.layout, name, fingerprint, number)
    folder = index_folder(store.layout, name, fingerprint, number)
    for shard in manifest.shards:
        verify_shard(folder, shard)
    return f"digests hold; {manifest.kind}, {len(manifest.shards)} shards, {manifest.rows:,} rows"


def _table(store: Store, name: str) -> str:
    table = store.table(name)
    found = table.to_arrow().num_rows
    if found != table.n_rows:
        raise StoreUnusable(
            root=str(store.root),
            found=f"table {name} version {table.version} holds {found:,} rows, {table.n_rows:,} were registered",
            advice="Register its data again.",
        )
    return f"version {table.version}, {found:,} rows"


def _snapshot(store: Store, reference: str) -> str:
    record = store.snapshots[reference]
    rows = record.rows()
    if content_hash(rows) != record.hash:
        raise StoreUnusable(
            root=str(store.root),
            found=f"the rows of snapshot {reference} no longer have the hash they were frozen with",
            advice=f"Compare with 'raystore snapshot rebuild {reference}', or restore it from a backup.",
        )
    return f"hash holds; {len(rows):,} rows of {record.collection}, {len(record.classes)} classes"


def _deployment(store: Store, name: str) -> str:
    found = store.catalog.latest(store.layout.deployment(name))
    assert found is not None  # its folder is made with its first record
    record = DeploymentRecord.model_validate(
        {**{key: value for key, value in found[1].items() if key != "published_at"}, "number": found[0]}
    )
    head = store.heads.get(record.head)
    log = f", logs to {store.collection(record.log.collection).name}" if record.log else ""
    return f"answers with head {head.label}{log}"
