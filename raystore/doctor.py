"""Is everything well? What is installed, what Ray sees, what the store holds, and whether its digests still hold.

Reads, never mends. A finding is one line; what raises a RaystoreError becomes a broken line with that sentence.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raystore import __version__
from raystore.data.collection import CollectionTable
from raystore.data.embed import set_aside_table
from raystore.data.snapshot import content_hash
from raystore.errors import RaystoreError, ShardCorrupt, StoreNotFound, StoreUnusable
from raystore.index.manifest import index_folder, latest
from raystore.index.shard import digest
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


@dataclass(frozen=True)
class Check:
    what: str
    ok: bool
    found: str


def examine(root: str | Path, *, with_ray: bool = True) -> list[Check]:
    """Every check, in the order of the layout. Cost: reads all snapshots, heads and index files, loads each encoder."""
    checks = list(_installed())
    if with_ray:
        checks.append(_tried("ray", _ray))
    try:
        store = open(root, create=False)
    except StoreNotFound as error:
        return [*checks, Check("store", True, f"none yet at '{error.name}'")]
    except RaystoreError as error:
        return [*checks, Check("store", False, str(error))]
    free = shutil.disk_usage(store.root).free
    checks.append(Check("store", True, f"{store.root}, {free / 2**30:.1f} GiB free"))
    return [*checks, *_store(store)]


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
    except (OSError, RuntimeError, ValueError) as error:
        return Check(what, False, f"{type(error).__name__}")


def _store(store: Store) -> Iterator[Check]:
    for name in store.encoders:
        yield _tried(f"encoder {name}", partial(_encoder, store, name))
    for name in store.collections:
        yield _tried(f"collection {name}", partial(_collection, store, name))
        for fingerprint in CollectionTable.open(store.layout, name).fingerprints:
            found = latest(store.layout, name, fingerprint)
            if found is not None:
                yield _tried(f"index {name}/{found[0]}", partial(_index, store, name, fingerprint))
    for name in store.tables:
        yield _tried(f"table {name}", partial(_table, store, name))
    for name in store.snapshots:
        yield _tried(f"snapshot {name}", partial(_snapshot, store, name))
    for name in store.heads.names():
        yield _tried(f"head {name}", partial(_head, store, name))


def _encoder(store: Store, name: str) -> str:
    return f"weights hold, worst golden cosine {store.encoder(name).verify():.6f}"


def _head(store: Store, name: str) -> str:
    return f"digest holds, {store.heads.get(name)!r}"


def _collection(store: Store, name: str) -> str:
    collection = store.collection(name)
    aside = set_aside_table(store.layout, name).dataset().count_rows()
    return f"{len(collection):,} rows, version {collection.version}" + (f", {aside:,} set aside" if aside else "")


def _index(store: Store, name: str, fingerprint: str) -> str:
    found = latest(store.layout, name, fingerprint)
    assert found is not None
    number, manifest = found
    folder = index_folder(store.layout, name, fingerprint, number)
    for shard in manifest.shards:
        for file, expected in shard.files.items():
            path = folder / file
            if not path.is_file() or digest(path) != expected:
                raise ShardCorrupt(path=str(path), found="it is missing" if not path.is_file() else "its digest differs")
    return f"digests hold, {len(manifest.shards)} shards ({manifest.kind}), {manifest.rows:,} rows"


def _table(store: Store, name: str) -> str:
    table = store.table(name)
    return f"version {table.version}, {table.dataset().count_rows(table.filter()):,} rows"


def _snapshot(store: Store, name: str) -> str:
    record = store.snapshots[name]
    if content_hash(record.rows()) != record.hash:
        raise StoreUnusable(
            root=str(store.root),
            found=f"the rows of snapshot {name}@{record.number} no longer have the hash they were frozen with",
            advice=f"Compare with 'raystore snapshot rebuild {name}@{record.number}', or restore it from a backup.",
        )
    return f"hash holds, {record!r}"
