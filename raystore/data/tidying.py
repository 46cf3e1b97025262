"""A Lance table that is written often stays small: fragments merged in tiers, and old versions gone behind its writers.

Knows fragments and versions; knows nothing of rows or keys.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import lance
from lance.fragment import FragmentMetadata
from lance.optimize import Compaction, RewriteResult

log = logging.getLogger("raystore")

FRAGMENTS_A_TIER = 32
VERSIONS_KEPT = timedelta(hours=1)  # readers that opened an older version have this long to finish
# Cleaning up reads every manifest there is, some .2 ms each, so with ten commits a second it would soon cost more than the merges
# it followed. Behind them and this seldom it is some seconds of one core each time, for which no writer waits; only the end of a
# process that began it does.
_CLEANED_EVERY = timedelta(minutes=10)
# As fast as Lance's own choice at these sizes, and a job's memory stays level: 50 MB more from 10,000 to 200,000 rows of
# 32 numbers, where it was 110 (`benchmarks/memory.py`).
_MERGE = {"num_threads": 1, "batch_size": 1_024}

_cleaning: set[Path] = set()
_lock = threading.Lock()


def merge_tier(
    dataset: lance.LanceDataset, tiers: Sequence[int], synced: Callable[[Sequence[FragmentMetadata]], None]
) -> int | None:
    """The lowest tier that has filled up, its fragments merged, about as many rows as it holds; None where there is nothing to merge.

    Args:
        tiers: rows of a fragment that has outgrown each, ascending.
        synced: writes new fragments to the disk, before they take the place of their sources.
    """
    sizes = [f.physical_rows for f in dataset.get_fragments()]
    for lower, tier in pairwise((0, *tiers)):
        full = sum(lower <= size < tier for size in sizes) >= FRAGMENTS_A_TIER
        plan = Compaction.plan(dataset, {"target_rows_per_fragment": tier, **_MERGE}) if full else None
        if plan is None or not plan.num_tasks():  # small fragments with large ones between them wait for a higher tier
            continue
        rewrites, rows = [], 0
        for task in plan.tasks:
            if rows < tier:
                rewrites.append(_without_row_versions(task.execute(dataset)))
                synced(rewrites[-1].new_fragments)
                rows += sum(fragment.physical_rows for fragment in task.fragments)
        Compaction.commit(dataset, rewrites)
        return tier
    return None


def _without_row_versions(rewrite: RewriteResult) -> RewriteResult:
    """The same, but for the numbers of the versions that wrote each row, which nobody here reads. Lance keeps them in the manifest, 20
    bytes for every row that was written alone, and each commit writes the manifest anew: 20 MB at a million such rows."""
    try:
        facts = json.loads(rewrite.json())
        for fragment in facts["new_fragments"]:
            fragment["created_at_version_meta"] = fragment["last_updated_at_version_meta"] = None
        return RewriteResult.from_json(json.dumps(facts))
    except (KeyError, TypeError, ValueError):  # of another Lance than the tested one: larger manifests harm no row
        return rewrite


def clean_up_behind(path: Path) -> None:
    """Remove versions that are too old, and the files that were theirs alone, in a thread, where that was not done for a while.

    Writers go on meanwhile: what a version from within the hour has stays, and so do files that are of no version yet.
    """
    with _lock:
        if path in _cleaning or not _is_due(path / "_versions"):
            return
        _cleaning.add(path)
    try:
        # Not a daemon: one that is inside Lance when Python ends aborts the process.
        threading.Thread(target=_clean_up, args=(path,), name="raystore-clean-up").start()
    except RuntimeError:  # no room for a thread, or Python is ending: a later commit tries again
        _done(path)


def _is_due(versions: Path) -> bool:
    oldest = max(name for name in os.listdir(versions) if name.endswith(".manifest"))  # the newest sorts first
    try:
        age_s = time.time() - (versions / oldest).stat().st_mtime
    except FileNotFoundError:  # another process is at it
        return False
    return age_s > (VERSIONS_KEPT + _CLEANED_EVERY).total_seconds()


def _clean_up(path: Path) -> None:
    try:
        lance.dataset(str(path)).cleanup_old_versions(older_than=VERSIONS_KEPT)
    except (OSError, RuntimeError, ValueError) as error:  # another process does it too, or the table was dropped
        log.warning("old versions of '%s' were not removed (%s); a later commit tries again", path, type(error).__name__)
    finally:
        _done(path)


def _done(path: Path) -> None:
    with _lock:
        _cleaning.discard(path)
