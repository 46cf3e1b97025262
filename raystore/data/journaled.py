"""A keyed table with a journal: rows that are durable after one sync, where a commit costs 10 ms and more, and in the table soon after.

Whoever commits takes in first what waits, for that was acknowledged before; a service does it behind its answers. Readers of the
table see its rows from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from raystore.data.fence import Lease
from raystore.data.journal import Appended, Journal
from raystore.data.keyed import PAYLOAD, Committed, Filled, KeyedTable
from raystore.data.known_keys import KnownKeys

log = logging.getLogger("raystore")

MOST_BYTES = 64 * 2**20  # that may wait; 30,000 rows of one vector of 384 numbers


class _Overtaken(Exception):
    """Rows were appended meanwhile under a key of those that were about to be committed."""


class JournaledTable(KeyedTable):
    """`journal` is the folder of the rows that wait; every writer of the table names the same."""

    def __init__(self, path: Path, fence_folder: Path, key: str, journal: Path) -> None:
        super().__init__(path, fence_folder, key)
        self._journal = Journal(journal, key, PAYLOAD, self.fence.between_commits)
        self._known_keys = KnownKeys(key)
        self._schema: tuple[object, pa.Schema] = (None, pa.schema([]))  # of the dataset

    def append(self, groups: Sequence[pa.Table]) -> list[Appended]:
        """Write several callers' rows into the journal; durable when it returns, and in the table with the next `take_in` or commit.

        Args:
            groups: as `commit` takes them. A group of which a key is known with another payload is left out whole.

        Returns:
            One Appended a group. A key that stands in two groups counts for the first.

        Raises:
            WriterBlocked, DiskFull: nothing was written. pa.ArrowInvalid: a column is not what the table's is.

        Cost: one write and one sync; a look-up, some 2 ms, where a key may be known.
        """
        if self._journal.seen_bytes > MOST_BYTES:  # nobody takes them in, and whoever tries is told why
            self.take_in()
        return self._journal.append([self._as_held(group) for group in groups], self._payloads)

    def take_in(self) -> int:
        """How many rows waited in the journal; they are in the table now. Raises WriterBlocked, DiskFull: they wait on.

        Cost: a commit where rows wait, else a look at a folder. Who appends meanwhile does not wait for it.
        """
        return self._held("taking rows in from the journal", self._take_in_held) if self._journal.waits() else 0

    @property
    def waiting_bytes(self) -> int:
        """Of the rows that wait, as they lie on the disk."""
        return self._journal.n_bytes

    def damaged(self) -> list[Path]:
        """Files of the journal with bytes at their end that are no whole rows; the rows before those were taken in."""
        return self._journal.damaged()

    def payloads(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Of those of the keys that the table or the journal holds, durably. Raises WriterBlocked."""
        waiting = self._journal.payloads(keys)  # first: what left it meanwhile is in the table
        return {**self._payloads([key for key in keys if key not in waiting]), **waiting}

    def know_keys(self) -> None:
        """Look at the keys that came since the last time, so that nobody who appends has to. Cost: .5 s for a million."""
        self._known_keys.follow(self._newest().dataset)

    def fill_columns(
        self, rows: pa.Table, stamps: Mapping[str, str | None], also: Mapping[str, str] = MappingProxyType({})
    ) -> Filled:
        """See `KeyedTable.fill_columns`; rows that wait are filled too."""
        self.take_in()
        return super().fill_columns(rows, stamps, also)

    def _commit_held(self, groups: Sequence[pa.Table], lease: Lease, refuse_differing: bool) -> list[Committed]:
        while True:
            self._take_in_held(lease)
            try:
                return super()._commit_held(groups, lease, refuse_differing)
            except _Overtaken:
                continue

    @contextmanager
    def _committing(self, rows: pa.Table, lease: Lease, version: int) -> Iterator[None]:
        with lease.committing(version):
            if self._journal.appended(rows.column(self.key).to_pylist()):
                raise _Overtaken
            yield

    def _take_in_held(self, lease: Lease) -> int:
        if not self._journal.waits():
            return 0
        # Sealed by the lease's holder alone: what another one sealed would look, to a commit under way, as if it were taken in.
        segments = self._journal.seal(partial(lease.committing, 0))
        rows, left = self._journal.read(segments)
        if rows is not None:
            [outcome] = super()._commit_held([rows], lease, refuse_differing=False)
            if outcome.differing:  # only where the file system's locks hold nobody off
                n = len(outcome.differing)
                log.error("%d rows of '%s' were written twice, and differ; the first ones stay", n, self.path)
            self._sync_manifest(int(self.dataset(lease).version))  # some may be of a commit that was killed before it did
        self._journal.remove(left)
        return 0 if rows is None else len(rows)

    def _payloads(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Of those of the keys that the newest version holds, durably."""
        newest = self._newest()
        maybe = self._known_keys.may_hold(keys, newest.dataset)
        found = self.known(maybe, newest.dataset) if maybe else {}
        if found:
            self._sync_manifest(newest.version)  # committed by a process that may have been killed before it did
        return {key: each.payload for key, each in found.items()}

    def _as_held(self, rows: pa.Table) -> pa.Table:
        """With the table's types: a row that does not fit them is refused here, not when all are taken in."""
        dataset = self._newest().dataset
        if self._schema[0] is not dataset:
            self._schema = (dataset, dataset.schema)
        held = self._schema[1]
        wanted = [held.field(field.name) if field.name in held.names else field for field in rows.schema]
        same = all(field.type == own.type for field, own in zip(wanted, rows.schema, strict=True))
        return rows if same else rows.cast(pa.schema(wanted))
