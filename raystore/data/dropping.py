"""Columns that leave a table with every byte they had.

Dropping a column changes the schema alone: its values stay in the data files, and Lance's compaction leaves a file alone that has
no deleted row. So one row of each such fragment is written anew, which marks its old place as deleted; then compaction rewrites
the fragment. Rows keep their row ids, values and `_added`. Last, after a grace period, go the versions from before and the files
that no version since has: no reader of a newer version, and no writer, needs one of them.

Cost: the table is read and written once, 32,768 rows or one fragment a turn, and other writers get theirs in between. Knows columns
and fragments; knows nothing of encoders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import lance
import pyarrow as pa
from lance.optimize import Compaction

from raystore.data.fence import Lease
from raystore.data.keyed import KeyedTable, lock_errors_are_said
from raystore.errors import LeaseLost, StoreUnusable
from raystore.layout import disk_full_is_said
from raystore.progress import Progress

Done = TypeVar("Done")

_ROWS_A_TURN = 32_768  # of fragments that are rewritten while others wait: with 384 numbers 50 MB
_PAUSE_S = 0.05  # after a turn: a writer that waits looks for the lease every 45 ms at the latest
_TRIES = 5  # of a turn whose lease another writer took over
_COMPACTION = {"materialize_deletions": True, "materialize_deletions_threshold": 0.0, "num_threads": 1, "batch_size": 1_024}


def drop_columns(rows: KeyedTable, columns: Sequence[str], *, grace_s: float, progress: Progress | None = None) -> None:
    """The columns and their bytes are gone. Those that are not there are passed over, so a killed call is simply repeated.

    From the first commit on nobody sees the columns. Whoever opened a version from before the last turn can read it for the grace
    period; then its files are gone, and whoever asks again reads the newest.

    Args:
        grace_s: waited before files are deleted; nobody else waits meanwhile.
        progress: called with fragments rewritten, and those that held a dropped column.

    Raises:
        WriterBlocked, DiskFull, LeaseLost: what is committed is safe; call it again.
    """
    with disk_full_is_said(rows.path, "dropping columns"):
        _turn(rows, lambda lease: _drop(rows, columns, lease))
        in_all = len(_stale(rows.dataset()))
        while stale := _stale(rows.dataset()):
            _turn(rows, lambda lease: _rewrite_some(rows, lease))
            left = len(_stale(rows.dataset()))
            if left >= len(stale):
                found = f"{left} fragments of '{rows.path.name}' that hold a dropped column after they were rewritten"
                raise StoreUnusable(root=str(rows.path), found=found, advice="Call it again when nobody else writes.")
            if progress is not None:
                progress(in_all - left, in_all)
            time.sleep(_PAUSE_S)
        clean, dead = _turn(rows, lambda lease: _dead(rows, lease))
        older = [each for found in rows.dataset().versions() if (each := int(found["version"])) < clean]
        if older or dead:
            time.sleep(grace_s)
            _turn(rows, lambda lease: _delete(rows, older, dead, lease))


def _turn(rows: KeyedTable, work: Callable[[Lease], Done]) -> Done:
    """What `work` returns, done under a lease; tried again where another writer took it over."""
    tried = 0
    while True:
        tried += 1
        try:
            # A rewrite may outlast an ordinary lease.
            with rows.fence.hold(rows.fence.wait_s / 2) as lease, lock_errors_are_said(lease):
                return work(lease)
        except LeaseLost:
            if tried == _TRIES:
                raise


def _drop(rows: KeyedTable, columns: Sequence[str], lease: Lease) -> None:
    dataset = rows.dataset(lease)
    if there := [column for column in columns if column in dataset.schema.names]:
        dataset.drop_columns(there)
        rows._sync_manifest(int(rows.dataset(lease).version))


def _rewrite_some(rows: KeyedTable, lease: Lease) -> None:
    chosen: list[lance.LanceFragment] = []
    dataset = rows.dataset(lease)
    for fragment in _stale(dataset):
        if chosen and sum(each.physical_rows for each in chosen) + fragment.physical_rows > _ROWS_A_TURN:
            break
        chosen.append(fragment)
    if not chosen:
        return
    numbers = {fragment.fragment_id for fragment in chosen}
    first = pa.concat_tables([fragment.head(1) for fragment in chosen])
    rows._rewrite(dataset, first, int(dataset.version) + 1, lease)
    lease.renew()
    dataset = rows.dataset(lease)
    options = {
        **_COMPACTION,
        # Without the first, small neighbours would be merged into the turn; without the second, a large fragment cut up.
        "excluded_fragment_ids": [f.fragment_id for f in dataset.get_fragments() if f.fragment_id not in numbers],
        "target_rows_per_fragment": max(_ROWS_A_TURN, *(fragment.physical_rows for fragment in chosen)),
    }
    done = []
    for task in Compaction.plan(dataset, options).tasks:
        done.append(task.execute(dataset))
        rows._sync_fragments(done[-1].new_fragments)
        lease.renew()
    if done:
        Compaction.commit(dataset, done)
        rows._sync_manifest(int(rows.dataset(lease).version))


def _dead(rows: KeyedTable, lease: Lease) -> tuple[int, list[str]]:
    """The newest version, and the data files that are not of it: no later one takes them up, since files are written and committed
    under one lease. Those that a killed writer left are among them."""
    folder = rows.path / "data"
    listed = os.listdir(folder) if folder.is_dir() else []  # a table without rows has none
    dataset = rows.dataset(lease)
    held = {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}
    with lease.committing(int(dataset.version)):  # nobody took over meanwhile, whose file might be among them
        return int(dataset.version), [name for name in listed if name not in held]


def _delete(rows: KeyedTable, versions: Sequence[int], files: Sequence[str], lease: Lease) -> None:
    if versions:
        rows.dataset(lease).cleanup_old_versions(versions=list(versions))
    for name in files:
        (rows.path / "data" / name).unlink(missing_ok=True)


def _stale(dataset: lance.LanceDataset) -> list[lance.LanceFragment]:
    """The fragments whose files hold a field that the schema has not."""
    held = {field.id() for field in dataset.lance_schema.fields()}
    return [
        fragment
        for fragment in dataset.get_fragments()
        if any(field >= 0 and field not in held for file in fragment.data_files() for field in file.fields)
    ]
