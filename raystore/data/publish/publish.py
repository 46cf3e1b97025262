"""A Parquet copy of a collection that is kept current: rows, labels, predictions and, for who may, vectors.

Every call brings new rows as new files, takes rows that are gone out of the files that hold them, and writes again what changed.
Where a collection is published to is recorded in the store, so that an erase finds it. The files, and how they change without
a reader seeing halves, are in folder.py; which, in plan.py; what is in them, in parts.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.access import LOCAL, Principal, Verb
from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.keyed import ADDED
from raystore.data.publish.folder import Folder, Manifest, PublishedFolder
from raystore.data.publish.parts import (
    LabelsPart,
    Part,
    Predictions,
    PredictionsPart,
    RowsPart,
    WhatIsLeft,
    filled_since,
)
from raystore.data.publish.plan import Commits, Range, plan
from raystore.data.snapshots.export import VECTOR
from raystore.data.tables.table import SourceTable, open_table, table_names
from raystore.data.tabular import html_table, text_table
from raystore.errors import InvalidArguments, NotAllowed, WriterBlocked, listed
from raystore.layout import check_name, disk_full_is_said, read_json
from raystore.progress import Progress

KIND = "publication"
FILE_ROWS = 1_000_000
FILE_ROWS_WITH_VECTORS = 100_000  # 150 MB of 384 numbers


@dataclass(frozen=True)
class Published:
    """What a call did, and what stands now.

    Attributes:
        uri, collection, version: where, of what, as of which version; `manifest` is the number of the present manifest.
        rows: by folder ("rows", "labels/outcomes", "predictions/refunds") how many rows its files have.
        added, gone: rows of the collection that came, and that left since the last call (erased).
        written, removed: the files that changed, by path under the address.
    """

    uri: str
    collection: str
    version: int
    manifest: int
    rows: dict[str, int]
    added: int
    gone: int
    written: list[str]
    removed: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self._title()}\n{text_table(*self._table())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table(), caption=self._title())

    def _title(self) -> str:
        did = f"{self.added:,} rows came, {self.gone:,} left, {len(self.written):,} files written, {len(self.removed):,} removed"
        return f"'{self.collection}' version {self.version} at {self.uri}, manifest {self.manifest}: {did}"

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        return ["folder", "rows"], [[name, n] for name, n in self.rows.items()]


@dataclass(frozen=True)
class Publication:
    """Where a collection is published to, and what of it, as the last call said."""

    collection: str
    uri: str
    columns: tuple[str, ...] | None
    fingerprint: str | None
    labels: dict[str, str]
    predictions: dict[str, str]


def publish(
    table: CollectionTable,
    uri: str,
    *,
    columns: Sequence[str] | None = None,
    labels: Mapping[str, SourceTable] | None = None,
    predictions: Mapping[str, Predictions] | None = None,
    vectors: bool = False,
    fingerprint: str | None = None,
    principal: Principal = LOCAL,
    progress: Progress | None = None,
) -> Published:
    """Bring the copy of the collection at `uri` up to date; the first call makes it.

    `rows/part-<from>-<to>.parquet` has a row a row, `labels/<name>/part-...` the rows of a source table that name one of them,
    `predictions/<name>/part-...` what a head says; files of a folder share no row. `_manifests/<n>.json` lists files, versions and
    digests. What an earlier call published and this one does not name (a label table, the vectors) is removed.

    Args:
        uri: a local folder, or an address that fsspec knows (file://, memory://, s3:// with s3fs; only the first two are tested).
        columns: of the collection, beside `id`; None means all of them, also ones added later.
        labels: source tables by the name of their folder, each with an id column.
        predictions: heads by the name of their folder.
        vectors: also a column `vector`, list<float32> unit rows, of `fingerprint` or else the collection's first encoder; null where
            a row has none. Needs the verb "vectors".
        progress: called with rows read and rows to read, summed over the folders; never where nothing is written.

    Raises:
        NotAllowed: vectors were asked for and the principal may not read them.
        InvalidArguments, AlreadyExists: the folder holds something else, or another collection.
        WriterBlocked: another call is publishing there.
        DiskFull: the copy is as it was; call again. So it is after any crash: the next call completes.

    Cost: one pass over the commit numbers (8 bytes a row) where nothing changed; else the new rows, and the files that lost some.
    """
    fingerprint = (fingerprint or table.fingerprints[0]) if vectors else None
    if vectors and not principal.may(Verb.VECTORS):
        raise NotAllowed(principal=principal.name, verb=Verb.VECTORS)
    _check(table, columns, labels or {}, predictions or {}, vectors)
    if fingerprint is not None:
        table.check_encoder(fingerprint)
    folder = PublishedFolder(uri)
    asked = Publication(
        collection=table.name,
        uri=folder.uri,
        columns=tuple(columns) if columns is not None else None,
        fingerprint=fingerprint,
        labels={name: source.name for name, source in (labels or {}).items()},
        predictions={name: p.head for name, p in (predictions or {}).items()},
    )
    parts: list[Part] = [RowsPart(table, _columns(table, columns), fingerprint)]
    parts += [LabelsPart(table, source, name) for name, source in (labels or {}).items()]
    parts += [PredictionsPart(table, p, name) for name, p in (predictions or {}).items()]
    return _publish(table, folder, asked, lambda _: parts, progress)


def publications(catalog: Catalog, collection: str) -> list[Publication]:
    """Everywhere the collection was ever published to, in the order of the addresses' digests."""
    found = []
    for name in catalog.alias_names(KIND):
        record = catalog.alias(KIND, name)
        if record is not None and record["collection"] == collection:
            columns = None if record["columns"] is None else tuple(record["columns"])
            told = (record["uri"], columns, record["fingerprint"], record["labels"], record["predictions"])
            found.append(Publication(collection, *told))
    return found


def republish_all(
    catalog: Catalog,
    collection: str,
    *,
    predictions: Callable[[str], Predictions | None] | None = None,
    progress: Progress | None = None,
) -> list[Published]:
    """Bring every copy of the collection up to date, as they were last asked for; what an erase calls, after its rows are gone.

    Args:
        predictions: maps a head's "name@number" to what it predicts. Where it gives None, or is None itself, and where a label table
            is gone, the folder's files lose the rows that are gone and get no new ones; the next `publish` brings those.
        progress: as of `publish`, copy by copy.

    Raises:
        WriterBlocked, and what the file systems raise: the copies before it are done. Call again.
    """
    table = CollectionTable.open(catalog.layout, collection)
    done = []
    for asked in publications(catalog, collection):
        folder = PublishedFolder(asked.uri)
        parts: list[Part] = []
        if asked.columns is None or set(asked.columns) <= set(table.visible):
            parts.append(RowsPart(table, _columns(table, asked.columns), asked.fingerprint))
        known = set(table_names(catalog))
        parts += [
            LabelsPart(table, open_table(catalog, source), name) for name, source in asked.labels.items() if source in known
        ]
        heads = {name: predictions(head) for name, head in asked.predictions.items()} if predictions is not None else {}
        parts += [PredictionsPart(table, found, name) for name, found in heads.items() if found is not None]
        made = {part.folder for part in parts}

        def every(
            now: Manifest, folder: PublishedFolder = folder, made: set[str] = made, parts: list[Part] = parts
        ) -> list[Part]:
            return [*parts, *(_what_is_left(table, folder, name, now) for name in now.folders if name not in made)]

        done.append(_publish(table, folder, asked, every, progress))
    return done


def _check(
    table: CollectionTable,
    columns: Sequence[str] | None,
    labels: Mapping[str, SourceTable],
    predictions: Mapping[str, Predictions],
    vectors: bool,
) -> None:
    problems = []
    unknown = [c for c in columns or () if c not in table.visible]
    if unknown:
        problems.append(f"there is no column {listed(unknown)}; there are: {', '.join(table.visible)}")
    if vectors and VECTOR in _columns(table, None if columns is None else [c for c in columns if c not in unknown]):
        problems.append(
            f"the collection has a column '{VECTOR}', which is what the vectors are called; leave it out of columns="
        )
    problems += [f"table '{s.name}' has no id column to join by; register it with id=" for s in labels.values() if not s.id]
    for name in (*labels, *predictions):
        check_name("a published folder", name, dashes=True)
    if problems:
        raise InvalidArguments(call=f"publish '{table.name}'", problems=problems)


def _columns(table: CollectionTable, columns: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(table.visible if columns is None else dict.fromkeys(["id", *columns]))


def _what_is_left(table: CollectionTable, folder: PublishedFolder, name: str, now: Manifest) -> WhatIsLeft:
    """A part that reads the folder's own files."""
    own = now.folders[name]

    there = folder.standing(now)[name]
    whole = [file for file in own.files if there.get(file.name) == file.bytes]
    schema = folder.schema(name, whole[0]) if whole else pa.schema([("id", pa.string())])

    def standing(first: int, last: int) -> Iterator[pa.Table] | None:
        asked = [file for file in own.files if first <= file.first and file.last <= last]
        if not all(file in whole for file in asked):
            return None
        return (rows for file in asked for rows in folder.read(name, file))

    return WhatIsLeft(table, name, own.key, str(own.key.get("id", "id")), schema, standing)


def _publish(
    table: CollectionTable,
    folder: PublishedFolder,
    asked: Publication,
    make: Callable[[Manifest], Sequence[Part]],
    progress: Progress | None,
) -> Published:
    catalog = Catalog(table.layout)
    source = {"store": str(read_json(table.layout.store_file)["key_id"]), "collection": table.name}
    with _turn(catalog, asked):
        now = folder.manifest()
        if now.number and now.source != source:
            other = f"'{now.source.get('collection')}' of store key {now.source.get('store')}"
            problem = f"the folder '{folder.uri}' holds collection {other}; name another one"
            raise InvalidArguments(call=f"publish '{table.name}'", problems=[problem])
        _record(catalog, asked)
        with disk_full_is_said(table.layout.root, f"publishing '{table.name}' to {folder.uri}"):
            if now.number:
                folder.settle(now)  # what a call before this one could not finish
            else:
                folder.clear_staged()
            return _bring_up_to_date(table, folder, source, now, make(now), progress)


def _bring_up_to_date(
    table: CollectionTable,
    folder: PublishedFolder,
    source: dict[str, str],
    now: Manifest,
    parts: Sequence[Part],
    progress: Progress | None,
) -> Published:
    version = table.version
    commits = _commits(table, version)
    standing = folder.standing(now)
    written: list[str] = []
    folders: dict[str, Folder] = {}
    befores = [now.folders.get(part.folder, Folder({}, 0, [])) for part in parts]
    planned = [
        _ranges(table, part, before, commits, standing.get(part.folder, {}))
        for part, before in zip(parts, befores, strict=True)
    ]
    read = _Read(progress, sum(commits.rows(r.first, r.last) for ranges in planned for r in ranges if r.kept is None))
    for part, before, ranges in zip(parts, befores, planned, strict=True):
        kept = [r.kept for r in ranges if r.kept is not None]
        staged = [
            folder.stage(
                now.number + 1, part.folder, r.first, r.last, part.schema, read.counted(part.batches(r.first, r.last))
            )
            for r in ranges
            if r.kept is None
        ]
        fresh = [f"{part.folder}/{file.name}" for file in staged]
        files = sorted([*kept, *staged], key=lambda file: (file.first, file.last))
        written += fresh
        folders[part.folder] = Folder(part.key, version if fresh else before.version, files)
    removed = sorted(
        {f"{name}/{file}" for name, found in standing.items() for file in found}
        - {f"{name}/{file.name}" for name, found in folders.items() for file in found.files}
    )
    rows_before = now.folders["rows"].files if "rows" in now.folders else []
    last = rows_before[-1].last if rows_before else 0
    manifest = now
    if written or removed or folders.keys() != now.folders.keys():
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        manifest = Manifest(now.number + 1, source, version, stamp, folders)
        folder.commit(manifest)
        folder.settle(manifest)
    return Published(
        uri=folder.uri,
        collection=table.name,
        version=version,
        manifest=manifest.number,
        rows={name: sum(file.rows for file in found.files) for name, found in manifest.folders.items()},
        added=int(commits.counts[commits.numbers > last].sum()),
        gone=sum(max(0, file.ids - commits.rows(file.first, file.last)) for file in rows_before),
        written=written,
        removed=removed,
    )


class _Read:
    """Counts the collection's rows as they are read, of how many."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def counted(self, batches: Iterable[tuple[int, pa.Table]]) -> Iterator[tuple[int, pa.Table]]:
        for covered, rows in batches:
            yield covered, rows
            self._done += max(covered, 0)
            if self._progress is not None:
                self._progress(self._done, self._total)


def _ranges(
    table: CollectionTable, part: Part, before: Folder, commits: Commits, standing: Mapping[str, int]
) -> list[Range]:
    """The files that the part's folder should have: those that stay, and those to be made."""
    can_grow = not isinstance(part, WhatIsLeft)
    ranges = plan(
        before.files,
        commits,
        stale=filled_since(table, part.encoder, before.version),
        all_stale=bool(before.files) and part.key != before.key,
        absent=[f.name for f in before.files if standing.get(f.name) != f.bytes] if can_grow else (),
        target_rows=FILE_ROWS if part.encoder is None or part.folder != "rows" else FILE_ROWS_WITH_VECTORS,
    )
    return ranges if can_grow else [r for r in ranges if r.replaces]


def _commits(table: CollectionTable, version: int) -> Commits:
    rows = table.rows.dataset().to_table(columns=[ADDED], filter=f"{ADDED} <= {int(version)}")
    numbers, counts = np.unique(rows.column(ADDED).to_numpy(), return_counts=True)
    return Commits(numbers.astype(np.int64), counts.astype(np.int64))


def _record_name(asked: Publication) -> str:
    return f"{asked.collection}-{hashlib.sha256(asked.uri.encode()).hexdigest()[:16]}"


def _record(catalog: Catalog, asked: Publication) -> None:
    """Say in the store where the copy is, before anything is written there."""
    record = {**asdict(asked), "columns": None if asked.columns is None else list(asked.columns)}
    known = catalog.alias(KIND, _record_name(asked))
    if known is None or any(known.get(key) != value for key, value in record.items()):
        catalog.set_alias(KIND, _record_name(asked), record)


@contextmanager
def _turn(catalog: Catalog, asked: Publication) -> Iterator[None]:
    """One publisher at a time. The lock lies in the store, where every publisher of it looks, wherever the copy is; the kernel lets
    go of it when the process ends, however it ends."""
    lock = catalog.layout.aliases(KIND, _record_name(asked)) / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WriterBlocked(folder=asked.uri, waited_s=0.0, holder="another call that publishes there") from None
        yield
