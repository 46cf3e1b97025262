"""Columns that leave a table with every byte they had.

Dropping a column changes the schema alone: its values stay in the data files, and Lance's compaction leaves a file alone that has
no deleted row. So one row of each such fragment is written anew, which marks its old place as deleted; then compaction rewrites
the fragment, and the old files and versions are removed. Rows keep their row ids, values and `_added`.

Cost: the table is read and written once, a fragment or a few at a time, and other writers get their turn in between. Knows
columns and fragments; knows nothing of encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
from lance.optimize import Compaction

from raystore.data.fence import Lease
from raystore.data.keyed import KeyedTable, lost_lease_is_said
from raystore.errors import StoreUnusable
from raystore.layout import disk_full_is_said
from raystore.progress import Progress

_ROWS_A_TURN = 262_144  # of fragments that are rewritten while others wait
_COMPACTION = {"materialize_deletions": True, "materialize_deletions_threshold": 0.0, "num_threads": 1, "batch_size": 1_024}


def drop_columns(rows: KeyedTable, columns: Sequence[str], *, progress: Progress | None = None) -> int:
    """How many bytes the table's folder lost. Columns that are not there are passed over, so a killed call is simply repeated.

    From the first commit on nobody sees the columns. Whoever reads a version from before the end may find its files gone, and
    reads the newest when asked again.

    Args:
        progress: called with fragments rewritten, and those that held a dropped column.

    Raises:
        WriterBlocked, DiskFull: what is committed is safe; call it again.
    """
    before = _size(rows.path)
    with disk_full_is_said(rows.path, "dropping columns"):
        with _held(rows) as lease:
            dataset = rows.dataset(lease)
            if there := [column for column in columns if column in dataset.schema.names]:
                with lost_lease_is_said(lease):
                    dataset.drop_columns(there)
        in_all = len(_stale(rows.dataset()))
        while stale := _stale(rows.dataset()):
            _rewrite_some(rows)
            left = len(_stale(rows.dataset()))
            if left >= len(stale):
                found = f"{left} fragments of '{rows.path.name}' that hold a dropped column after they were rewritten"
                raise StoreUnusable(root=str(rows.path), found=found, advice="Call it again when nobody else writes.")
            if progress is not None:
                progress(in_all - left, in_all)
        with _held(rows) as lease, lost_lease_is_said(lease):
            rows.dataset(lease).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    return max(0, before - _size(rows.path))


def holds_dropped(rows: KeyedTable) -> bool:
    """Whether data files hold values of a column that the table has no more. Cost: reads no row."""
    return bool(_stale(rows.dataset()))


def _rewrite_some(rows: KeyedTable) -> None:
    with _held(rows) as lease:
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
        done = []
        for task in Compaction.plan(dataset, dict(_COMPACTION)).tasks:
            if numbers & {fragment.id for fragment in task.fragments}:
                done.append(task.execute(dataset))
                rows._sync_fragments(done[-1].new_fragments)
                lease.renew()
        if done:
            with lost_lease_is_said(lease):
                Compaction.commit(dataset, done)
            rows._sync_manifest(int(rows.dataset(lease).version))


def _held(rows: KeyedTable) -> AbstractContextManager[Lease]:
    return rows.fence.hold(rows.fence.wait_s / 2)  # a rewrite may outlast an ordinary lease


def _stale(dataset: lance.LanceDataset) -> list[lance.LanceFragment]:
    """The fragments whose files hold a field that the schema has not."""
    held = {field.id() for field in dataset.lance_schema.fields()}
    return [
        fragment
        for fragment in dataset.get_fragments()
        if any(field >= 0 and field not in held for file in fragment.data_files() for field in file.fields)
    ]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
