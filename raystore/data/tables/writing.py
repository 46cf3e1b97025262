"""A source table's rows on the disk: one Lance table, to which a version adds rows and from which none ever goes.

Every row carries `_added`, the version that brought it. Rows come as a stream: each batch is digested and written before the
next is asked for, so memory follows neither the table nor the data. What was written and never announced (a crash, a failure)
is cleared by the next writer. Runs under the table's fence. Knows nothing of catalogs and of what the columns mean.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from raystore.data.columns import column_twins
from raystore.data.fence import Lease
from raystore.data.keyed import lock_errors_are_said
from raystore.data.tables.columns import Stream
from raystore.data.tidying import clean_up_behind, merge_tier
from raystore.errors import InvalidArguments, LeaseLost, RaystoreError
from raystore.layout import sync, sync_tree

log = logging.getLogger("raystore")

ADDED = "_added"
DIGEST_ROWS = 4_096  # part of every digest: with another number the same data is no longer known
# As in a collection: 32 fragments of a tier become one, so that a row appended each minute does not make scans slow.
_TIERS = (16_384, 262_144, 1_048_576)


class Stored(NamedTuple):
    """What the last announced version left: its number, Lance's, and every column that some version has."""

    version: int = 0
    commit: int = 0
    columns: Sequence[str] = ()


class Written(NamedTuple):
    """A version's rows, written and not committed: `added` of them, and the digest of columns and rows."""

    dataset: lance.LanceDataset
    fragments: list[FragmentMetadata]
    added: int
    digest: str


def write_rows(path: Path, tmp: Path, stream: Stream, stored: Stored, lease: Lease, call: str) -> Written:
    """Write the stream as the rows of the version after `stored`; nothing is committed.

    Raises:
        InvalidArguments: columns that changed their type; whatever the stream raises. Nothing is left of the rows.
        LeaseLost: another writer took over.

    Cost: one pass over the stream, a batch of 4,096 rows and Lance's pages in memory.
    """
    with lock_errors_are_said(lease):
        dataset = _prepared(path, tmp, stream.schema, stored, lease, call)
    feed = _Feed(stream, stored.version + 1, lease)
    before = set(os.listdir(path / "data")) if (path / "data").is_dir() else set()
    try:
        reader = pa.RecordBatchReader.from_batches(feed.schema, iter(feed))
        fragments = write_fragments(reader, dataset, mode="append")
    except (OSError, ValueError, RuntimeError):
        try:
            with lease.committing(stored.version + 1):  # else what is new there may be another writer's
                _remove(path, set(os.listdir(path / "data")) - before if (path / "data").is_dir() else ())
        except LeaseLost as lost:
            raise (feed.error if isinstance(feed.error, RaystoreError) else lost) from None
        if isinstance(feed.error, (RaystoreError, OSError)):
            raise feed.error from None
        if feed.error is not None:  # whose words, which Lance repeats, may quote a row
            problem = f"the rows cannot be read ({type(feed.error).__name__})"
            raise InvalidArguments(call=call, problems=[problem]) from None
        raise
    return Written(dataset, fragments, feed.digest.rows, feed.digest.hexdigest())


def drop_rows(path: Path, written: Written) -> None:
    """Remove rows that were written and are not wanted after all."""
    _remove(path, [file.path for fragment in written.fragments for file in fragment.files])


def commit_rows(path: Path, written: Written, lease: Lease) -> int:
    """Make the rows part of the table, durably; Lance's number of the commit. No reader sees them before they are announced."""
    dataset = written.dataset
    if written.fragments:
        try:
            _sync_files(path, written.fragments)
        except FileNotFoundError:
            with lease.committing(0):  # LeaseLost: whoever took over has cleared a first version that was never announced
                raise
        with lock_errors_are_said(lease):
            dataset = lance.LanceDataset.commit(
                dataset,
                lance.LanceOperation.Append(written.fragments),
                read_version=dataset.version,
                commit_lock=lease.committing,
            )
    _sync_manifest(path, int(dataset.version))
    return int(dataset.version)


def _sync_files(path: Path, fragments: Iterable[FragmentMetadata]) -> None:
    for fragment in fragments:
        for file in fragment.files:
            sync(path / "data" / file.path)
    sync(path / "data")


def _sync_manifest(path: Path, version: int) -> None:
    # Lance names the manifest of version v by 2^64-1-v, so that the newest sorts first.
    sync(path / "_versions" / f"{2**64 - 1 - version:020d}.manifest")
    sync(path / "_versions")


def merge_fragments(path: Path, lease: Lease) -> None:
    """Merge small fragments where a tier has filled up. What goes wrong here fails nobody's call: the next writer tries again."""
    try:
        with lock_errors_are_said(lease):
            dataset = lance.dataset(str(path), commit_lock=lease.committing)
            if merge_tier(dataset, _TIERS, partial(_sync_files, path)) is not None:
                _sync_manifest(path, int(lance.dataset(str(path)).version))
                clean_up_behind(path)
    except (LeaseLost, OSError, RuntimeError, ValueError) as error:
        log.warning("fragments of '%s' were not merged (%s); the next version tries again", path, type(error).__name__)


def known_types(path: Path, columns: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of those of the columns that the table has."""
    if not columns or not (path / "_versions").is_dir():
        return {}
    return {f.name: f.type for f in lance.dataset(str(path)).schema if f.name in columns}


def _prepared(path: Path, tmp: Path, schema: pa.Schema, stored: Stored, lease: Lease, call: str) -> lance.LanceDataset:
    """The table, with the columns the rows need, and without what was never announced."""
    if not stored.version:
        stage = tmp / uuid.uuid4().hex
        stage.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        lance.write_dataset(_stamped(schema).empty_table(), str(stage), enable_stable_row_ids=True)
        sync_tree(stage)
        with lease.committing(1):
            shutil.rmtree(path, ignore_errors=True)
            os.rename(stage, path)
        sync(path.parent)
        return lance.dataset(str(path), commit_lock=lease.committing)
    dataset = lance.dataset(str(path), commit_lock=lease.committing)
    if dataset.version != stored.commit:
        dataset.delete(f"{ADDED} > {stored.version}")
        unannounced = [name for name in dataset.schema.names if name not in {*stored.columns, ADDED}]
        if unannounced:
            dataset.drop_columns(unannounced)
        _sync_present(path)
    _check_types(schema, {f.name: f.type for f in dataset.schema}, call)
    added = [f for f in schema if f.name not in dataset.schema.names]
    if added:
        dataset.add_columns(pa.schema(added))
    return dataset


def _sync_present(path: Path) -> None:
    """As `sync_tree`, while files that only old versions had are removed (`tidying.clean_up_behind`)."""
    for folder, _, files in os.walk(path):
        for each in (*files, "."):
            with suppress(FileNotFoundError):
                sync(Path(folder) / each)


def _check_types(schema: pa.Schema, types: Mapping[str, pa.DataType], call: str) -> None:
    problems = [
        f"column '{f.name}' is {f.type}, but was {types[f.name]} in earlier versions"
        for f in schema
        if f.name in types and types[f.name] != f.type
    ]
    problems += [
        f"column '{name}' was '{before}' in earlier versions, which SQL does not tell apart"
        for before, name in column_twins([*types, *(name for name in schema.names if name not in types)])
    ]
    if problems:
        raise InvalidArguments(call=call, problems=[*problems, "register it under a new name, or cast the columns"])


def _stamped(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*(pa.field(f.name, f.type) for f in schema), pa.field(ADDED, pa.int64())])


class _Feed:
    """The batches on their way to Lance: digested, counted, stamped. Lance reports what is raised here as a text; see `error`."""

    def __init__(self, stream: Stream, version: int, lease: Lease) -> None:
        self.schema = _stamped(stream.schema)
        self.digest = Digest(stream.schema)
        self.error: Exception | None = None
        self._batches = stream.batches
        self._version = pa.scalar(version, pa.int64())
        self._lease = lease

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in rechunked(self._batches, DIGEST_ROWS):
                self._lease.renew()
                self.digest.update(batch)
                yield pa.record_batch([*batch.columns, pa.repeat(self._version, len(batch))], schema=self.schema)
        except Exception as error:  # of whatever kind: a reader may be anybody's generator
            self.error = error
            raise


def rechunked(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly so many, and the rest."""
    held: list[pa.RecordBatch] = []
    n_held = 0
    for batch in batches:
        start = 0
        while n_held + len(batch) - start >= rows:
            taken = rows - n_held
            held.append(batch.slice(start, taken))
            yield pa.concat_batches(held) if len(held) > 1 else held[0]
            held, n_held, start = [], 0, start + taken
        if start < len(batch):
            held.append(batch.slice(start))
            n_held += len(batch) - start
    if held:
        yield pa.concat_batches(held)


class Digest:
    """SHA-256 over columns and rows, as Arrow IPC batches of `DIGEST_ROWS` rows: equal for equal columns, types, values and
    order of rows, however they were cut. The batches given must be cut so."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._sink = _Hasher()
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), schema.remove_metadata())
        self._places = pa.array(np.arange(DIGEST_ROWS))

    def update(self, batch: pa.RecordBatch) -> None:
        # Taken anew, a null has no value behind it and no buffer an offset.
        self._writer.write_batch(batch.take(self._places[: len(batch)]).replace_schema_metadata(None))
        self.rows += len(batch)

    def hexdigest(self) -> str:
        self._writer.close()
        return self._sink.hash.hexdigest()


class _Hasher:
    """A sink that hashes what Arrow writes."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None: ...
    def close(self) -> None: ...
    def writable(self) -> bool:
        return True


def _remove(path: Path, files: Iterable[str]) -> None:
    for name in files:
        (path / "data" / name).unlink(missing_ok=True)
