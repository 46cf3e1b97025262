"""One Lance table whose rows are written once each: append under the fence, after an anti-join on the key.

A commit looks its keys up through the key's BTREE index, writes what is new as a fragment, syncs it to disk,
and appends the fragment while the lease is checked. The median commit of one row takes some 7 ms at 10,000 and at
1,000,000 rows (`benchmarks/append.py`). The key's index is safe only because of the fence: with it, racing
`merge_insert`s duplicate keys (docs/LOG.md).

Knows nothing of encoders or of what a row means. Every row carries `_added`, the number of its commit.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata, write_fragments

from raystore.data.fence import Fence, Lease
from raystore.data.tidying import clean_up_behind, merge_tier
from raystore.errors import LeaseLost
from raystore.layout import disk_full_is_said, sync, sync_tree

log = logging.getLogger("raystore")
Done = TypeVar("Done")

ADDED = "_added"
PAYLOAD = "_payload"
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}

# A fragment for each commit would make every scan slow, so small ones are merged in tiers, like a log-structured
# merge tree: 32 fragments of a tier become one, until it has outgrown the tier. One commit rewrites about as many rows as
# the tier holds: 1,024 where rows come singly, however many millions are beside them.
_TIERS = (1_024, 16_384, 262_144)
# Looking whether there is something to merge costs a commit of one row a fifth of its time, so not every commit looks.
_LOOKED_EVERY = 8
_LOOKUP_CHUNK = 2_000
# A look-up of a key in the index costs what a scan of some 500 to 1,000 keys costs (20k to 1M rows, 100 to 10,000 keys).
_ROWS_SCANNED_A_KEY = 500
# A look-up scans the keys its index has not seen, some 4 ms for as many.
_UNINDEXED_ROWS = 32_768
# What a kept dataset may hold of Lance's own: its defaults are 6 GiB and 1 GiB.
_CACHES = {"index_cache_size_bytes": 2**25, "metadata_cache_size_bytes": 2**25}


@dataclass(frozen=True)
class Known:
    """What the table already holds under a key."""

    payload: bytes
    added: int


@dataclass(frozen=True)
class Committed:
    """What became of one group of rows: `added` written, `known` left alone, `differing` known with another payload."""

    version: int
    added: int
    known: int
    differing: dict[str, Known]


@dataclass(frozen=True)
class Filled:
    """What became of values for a column that was null: `filled` written, `known` there already, and the keys whose row
    has another payload (`differing`) or is not there (`absent`)."""

    version: int
    filled: int
    known: int
    differing: tuple[str, ...]
    absent: tuple[str, ...]


def quoted(value: str) -> str:
    """A Lance string literal."""
    return "'" + value.replace("'", "''") + "'"


Signs = tuple[int, int, int]  # inode, time of the last change and size of a file or folder


@dataclass(frozen=True)
class _Kept:
    """A dataset that was the newest, and the signs by which it still is."""

    dataset: lance.LanceDataset
    version: int
    manifest: Path
    next_manifest: Path
    signs: tuple[Signs | None, Signs | None]  # of the folder of manifests and of the manifest


class KeyedTable:
    """A Lance table at `path` with a unique, non-null string column `key`.

    Always reads the newest version. The last dataset is kept, and is the newest while three things hold: its version's
    manifest is the file it was, there is none of the next version, and the folder of manifests has not changed. That costs
    three looks at the file system (5 us), where opening costs 0.1 to 0.7 ms.
    """

    def __init__(self, path: Path, fence_folder: Path, key: str) -> None:
        self.path = path
        self.fence = Fence(fence_folder)
        self.key = key
        self._versions = path / "_versions"
        self._kept: _Kept | None = None
        self._writes = 0  # of this object; its first one looks what is due, for many processes write once

    @staticmethod
    def create(path: Path, tmp: Path, schema: pa.Schema, key: str) -> None:
        """Make the empty table, whole or not at all. Raises FileExistsError if there is one."""
        stage = tmp / uuid.uuid4().hex
        stage.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_is_said(path.parent, "making a table"):
            dataset = lance.write_dataset(schema.empty_table(), str(stage), schema=schema, enable_stable_row_ids=True)
            dataset.create_scalar_index(key, "BTREE")
            sync_tree(stage)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(stage, path)
            except OSError:
                shutil.rmtree(stage, ignore_errors=True)
                raise FileExistsError(str(path)) from None
            sync(path.parent)

    def exists(self) -> bool:
        return self._versions.is_dir()

    def dataset(self, lease: Lease | None = None) -> lance.LanceDataset:
        """The newest version, an object of the caller's own; to write with `lease`, opened anew."""
        if lease is not None:
            return lance.dataset(str(self.path), commit_lock=lease.committing)
        kept = self._newest()
        return kept.dataset.checkout_version(kept.version)

    @property
    def version(self) -> int:
        return self._newest().version

    def _newest(self) -> _Kept:
        kept = self._kept
        if kept is not None and self._is_newest(kept):
            return kept
        folder = _signs(self._versions)  # looked at first: what changes while the table is opened makes it opened again
        dataset = lance.dataset(str(self.path), **_CACHES)
        version = int(dataset.version)
        manifest = self._manifest(version)
        kept = _Kept(dataset, version, manifest, self._manifest(version + 1), (folder, _signs(manifest)))
        self._kept = kept
        return kept

    def _is_newest(self, kept: _Kept) -> bool:
        # The folder's time alone moves in steps of the kernel's clock (4 ms), in which two commits can fall; the next
        # manifest alone can have been written and, an hour later, cleaned up. The manifest's own signs tell a table that was
        # dropped and made again.
        return (
            kept.signs[1] is not None
            and _signs(kept.next_manifest) is None
            and (_signs(self._versions), _signs(kept.manifest)) == kept.signs
        )

    def _manifest(self, version: int) -> Path:
        # Lance names the manifest of version v by 2^64-1-v, so that the newest sorts first.
        return self._versions / f"{2**64 - 1 - version:020d}.manifest"

    def known(self, keys: Sequence[str], dataset: lance.LanceDataset | None = None) -> dict[str, Known]:
        """Which of the keys the table holds. Cost: about 2 ms and 20 us a key, at any table size, or one scan of the keys."""
        dataset = dataset or self.dataset()
        found: dict[str, Known] = {}
        for rows in (
            self._scan_keys(keys, dataset) if self._is_scan_cheaper(keys, dataset) else self._look_up(keys, dataset)
        ):
            for key, payload, added in zip(*(rows.column(c).to_pylist() for c in (self.key, PAYLOAD, ADDED)), strict=True):
                found[key] = Known(payload, added)
        return found

    @staticmethod
    def _is_scan_cheaper(keys: Sequence[str], dataset: lance.LanceDataset) -> bool:
        return len(keys) * _ROWS_SCANNED_A_KEY >= int(dataset.count_rows())

    def _scan_keys(self, keys: Sequence[str], dataset: lance.LanceDataset) -> Iterator[pa.RecordBatch]:
        wanted = pa.array(keys, pa.string())
        for rows in dataset.scanner(columns=[self.key, PAYLOAD, ADDED], batch_size=65_536).to_batches():
            yield rows.filter(pc.is_in(rows.column(self.key), wanted))

    def _look_up(self, keys: Sequence[str], dataset: lance.LanceDataset) -> Iterator[pa.Table]:
        for start in range(0, len(keys), _LOOKUP_CHUNK):
            listed = ", ".join(quoted(k) for k in keys[start : start + _LOOKUP_CHUNK])
            yield dataset.to_table(columns=[self.key, PAYLOAD, ADDED], filter=f"{self.key} IN ({listed})")

    def null_in(self, column: str, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose row has no value in that column. Cost: as a look-up of the keys; 7 ms for 1,000."""
        dataset = self.dataset()
        found: set[str] = set()
        for start in range(0, len(keys), _LOOKUP_CHUNK):
            listed = ", ".join(quoted(k) for k in keys[start : start + _LOOKUP_CHUNK])
            rows = dataset.to_table(columns=[self.key], filter=f"{self.key} IN ({listed}) AND {column} IS NULL")
            found.update(rows.column(self.key).to_pylist())
        return found

    def commit(self, groups: Sequence[pa.Table], *, refuse_differing: bool) -> list[Committed]:
        """Write several callers' rows in one commit; durable when it returns.

        Args:
            groups: tables with the table's columns but `_added`; the key column unique within a group.
            refuse_differing: leave a group out whole when one of its keys is known with another payload.
                Otherwise such rows alone are left out.

        Returns:
            One Committed a group. A key that stands in two groups counts for the first.

        Raises:
            WriterBlocked, DiskFull: nothing was written.
        """
        return self._held("writing rows", lambda lease: self._commit_held(groups, lease, refuse_differing))

    def fill(self, rows: pa.Table, column: str, *, stamp: str | None = None) -> Filled:
        """Write values into a column where it is null; see `fill_columns`. `stamp` is the column beside it."""
        return self.fill_columns(rows, {column: stamp})

    def fill_columns(
        self, rows: pa.Table, stamps: Mapping[str, str | None], also: Mapping[str, str] = MappingProxyType({})
    ) -> Filled:
        """Write values into columns where they are null, in one commit; durable when it returns.

        The rows keep their row ids, their other values and their `_added`: that a value came late, only its stamp says.

        Args:
            rows: the key, the payload and the columns, null where there is no value to write; keys unique.
            stamps: beside each column, the int64 column that gets the number of this commit where its value is written.
            also: beside some of the columns, one more that gets it.

        Returns:
            `filled` counts the rows that got a value, `known` those that lacked none of what was given.

        Raises:
            WriterBlocked, DiskFull: nothing was written.
        """
        return self._held("filling a column", lambda lease: self._fill_held(rows, stamps, also, lease))

    def _held(self, doing: str, work: Callable[[Lease], Done]) -> Done:
        """What `work` returns, done under the fence; every few times, whatever maintenance is due then."""
        lease_s = self.fence.lease_s
        while True:
            try:
                with disk_full_is_said(self.path, doing), self.fence.hold(lease_s) as lease:
                    outcome = work(lease)
                    if self._writes % _LOOKED_EVERY == 0:
                        self._maintain(lease)
                    self._writes += 1
                    return outcome
            except LeaseLost:
                # A slow disk can outlast a lease. Nothing was committed, so the same rows are tried with a longer one.
                # But never so long that a writer stopped under it would block the others out of their patience.
                if lease_s >= self.fence.wait_s / 2:
                    raise
                lease_s = min(max(2 * lease_s, 1.0), self.fence.wait_s / 2)

    def _commit_held(self, groups: Sequence[pa.Table], lease: Lease, refuse_differing: bool) -> list[Committed]:
        dataset = self.dataset(lease)
        keys = [group.column(self.key).to_pylist() for group in groups]
        seen = self.known([key for group_keys in keys for key in group_keys], dataset)
        version = int(dataset.version) + 1
        outcomes: list[Committed] = []
        fresh: list[pa.Table] = []
        for group, group_keys in zip(groups, keys, strict=True):
            old = {k: seen[k] for k in group_keys if k in seen} if seen else {}
            payloads = group.column(PAYLOAD).to_pylist() if old or len(groups) > 1 else []
            differing = {k: old[k] for k, p in zip(group_keys, payloads, strict=False) if k in old and old[k].payload != p}
            if differing and refuse_differing:
                outcomes.append(Committed(version - 1, 0, len(old) - len(differing), differing))
                continue
            new = [i for i, k in enumerate(group_keys) if k not in old]
            newest = version if new or any(row.added == version for row in old.values()) else version - 1
            outcomes.append(Committed(newest, len(new), len(old) - len(differing), differing))
            if new and len(groups) > 1:  # what this group adds is known to the groups behind it
                seen.update((group_keys[i], Known(payloads[i], version)) for i in new)
            if new:
                fresh.append(group if len(new) == len(group_keys) else group.take(new))
        if fresh:
            self._append(dataset, pa.concat_tables(fresh, promote_options="default"), version, lease)
        elif seen:  # committed by a process that may have been killed before it synced what it wrote
            self._sync_manifest(version - 1)
        return outcomes

    def _append(self, dataset: lance.LanceDataset, rows: pa.Table, version: int, lease: Lease) -> None:
        rows = rows.append_column(ADDED, pa.repeat(pa.scalar(version, pa.int64()), len(rows)))
        schema = dataset.schema
        columns = [
            rows.column(f.name).cast(f.type) if f.name in rows.schema.names else pa.nulls(len(rows), f.type) for f in schema
        ]
        fragments = write_fragments(pa.table(columns, schema=schema), dataset, mode="append", schema=schema)
        self._sync_fragments(fragments)
        with lock_errors_are_said(lease):
            lance.LanceDataset.commit(
                dataset,
                lance.LanceOperation.Append(fragments),
                read_version=dataset.version,
                commit_lock=partial(self._committing, rows, lease),
            )
        self._sync_manifest(version)

    def _committing(self, rows: pa.Table, lease: Lease, version: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Around the commit of these rows itself."""
        return lease.committing(version)

    def _fill_held(self, rows: pa.Table, stamps: Mapping[str, str | None], also: Mapping[str, str], lease: Lease) -> Filled:
        dataset = self.dataset(lease)
        keys = rows.column(self.key).to_pylist()
        held = dataset.to_table(filter=f"{self.key} IN ({', '.join(map(quoted, keys))})") if keys else None
        if held is None:
            return Filled(int(dataset.version), 0, 0, (), ())
        given = dict(zip(keys, rows.column(PAYLOAD).to_pylist(), strict=True))
        places = {key: place for place, key in enumerate(keys)}
        present = held.column(self.key).to_pylist()
        payloads = held.column(PAYLOAD).to_pylist()
        same = np.array([given[key] == payload for key, payload in zip(present, payloads, strict=True)], np.bool_)
        at = np.array([places[key] for key in present], np.int64)
        written = {
            column: same & _mask(held.column(column).is_null()) & _mask(rows.column(column).is_valid())[at]
            for column in stamps
        }
        filled = np.logical_or.reduce(list(written.values()))
        outcome = Filled(
            version=int(dataset.version) + int(filled.any()),
            filled=int(filled.sum()),
            known=int((same & ~filled).sum()),
            differing=tuple(sorted(key for key, is_same in zip(present, same, strict=True) if not is_same)),
            absent=tuple(sorted(places.keys() - set(present))),
        )
        if filled.any():
            chosen = np.flatnonzero(filled)
            whole = held.take(chosen)
            for column, stamp in stamps.items():
                new = written[column][chosen]
                whole = _put(whole, column, rows.column(column).take(at[chosen]), new)
                for each in filter(None, (stamp, also.get(column))):
                    whole = _put(whole, each, pa.repeat(pa.scalar(outcome.version, pa.int64()), len(chosen)), new)
            self._rewrite(dataset, whole, outcome.version, lease)
        return outcome

    def _rewrite(self, dataset: lance.LanceDataset, rows: pa.Table, version: int, lease: Lease) -> None:
        """Put whole rows in the place of those with the same keys.

        A merge of the one column would rewrite every fragment it touches; whole rows are written once, as a fragment.
        """
        update, _ = dataset.merge_insert(self.key).when_matched_update_all().execute_uncommitted(rows)
        operation = update.operation
        self._sync_fragments(operation.new_fragments)
        for fragment in operation.updated_fragments:
            sync(self.path / fragment.deletion_file.path(fragment.id))
        if operation.updated_fragments:
            sync(self.path / "_deletions")
        with lock_errors_are_said(lease):
            lance.LanceDataset.commit(dataset, update, commit_lock=lease.committing)
        self._sync_manifest(version)

    def _maintain(self, lease: Lease) -> None:
        """Merge small fragments where a tier has filled up, and take new rows into the key's index.

        The rows are committed already, so what goes wrong here (a full disk, a lost lease) fails nobody's call: whoever
        writes next finds the same work to do. Merged rows are on the disk before they take the place of their sources.
        """
        try:
            with lock_errors_are_said(lease):
                dataset = self.dataset(lease)
                tier = merge_tier(dataset, _TIERS, self._sync_fragments)
                unindexed = int(dataset.count_rows()) - int(dataset.describe_indices()[0].num_rows_indexed)
                if tier is None and unindexed < _UNINDEXED_ROWS:
                    if self._writes == 0:  # what another process left, which may have ended long ago
                        clean_up_behind(self.path)
                    return
                # Merging into the last index segment alone costs 6 ms at a million rows, into all of them 90.
                merged = None if tier == _TIERS[-1] else 1
                self.dataset(lease).optimize.optimize_indices(num_indices_to_merge=merged)
                newest = self.dataset(lease)
                for segment in newest.describe_indices()[0].segments:
                    sync_tree(self.path / "_indices" / segment.uuid)
                self._sync_manifest(int(newest.version))
                clean_up_behind(self.path)
        except (LeaseLost, OSError, RuntimeError, ValueError) as error:
            log.warning(
                "fragments of '%s' were not merged (%s); a later commit tries again", self.path, type(error).__name__
            )

    def _sync_fragments(self, fragments: Sequence[FragmentMetadata]) -> None:
        for fragment in fragments:
            for file in fragment.files:
                sync(self.path / "data" / file.path)
        sync(self.path / "data")

    def _sync_manifest(self, version: int) -> None:
        sync(self._manifest(version))
        sync(self._versions)

    def add_columns(self, fields: Sequence[pa.Field]) -> None:
        """Add nullable columns that are not there yet."""
        with disk_full_is_said(self.path, "adding columns"), self.fence.hold() as lease:
            dataset = self.dataset(lease)
            missing = [f for f in fields if f.name not in dataset.schema.names]
            if missing:
                with lock_errors_are_said(lease):
                    dataset.add_columns(pa.schema(missing))


def _mask(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = values.to_numpy().astype(np.bool_)
    return mask


def _put(rows: pa.Table, column: str, values: pa.Array | pa.ChunkedArray, chosen: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows with these values in the column where `chosen` says so, and their own elsewhere."""
    number = rows.schema.get_field_index(column)
    field = rows.schema.field(number)
    both = pa.chunked_array([*rows.column(number).chunks, *pa.chunked_array(values).chunks], field.type)
    places = np.arange(len(rows)) + np.where(chosen, len(rows), 0)
    return rows.set_column(number, field, both.take(places))


def _signs(path: Path) -> Signs | None:
    """By which a file or folder is known to be the same; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def lock_errors_are_said(lease: Lease) -> Iterator[None]:
    """Lance reports what its commit lock raised, an interrupt too, as an OSError; raise what it was."""
    try:
        yield
    except OSError:
        if lease.raised is not None:
            raise lease.raised from None
        raise
