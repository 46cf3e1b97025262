"""Which keys a table surely does not hold, by 8 bytes a key in memory: a look-up in the table costs 2 ms, and this some microseconds.

Rows that left a table stay in here, so that what may be there has to be looked up; what is said not to be there is not.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import lance
import numpy as np
import numpy.typing as npt

_MOST = 20_000_000  # keys: 160 MB. Of a larger table every key may be there.
_RECENT = 100_000  # keys in a set of Python's, before they are sorted in among the others
_BATCH = 65_536


class KnownKeys:
    """Of one table, whose versions are shown to it as they come. Safe in many threads."""

    def __init__(self, key: str, *, most: int = _MOST) -> None:
        self._key = key
        self._most = most
        self._dataset: lance.LanceDataset | None = None  # the last one; its version alone would not tell a table made anew
        self._files: frozenset[str] = (
            frozenset()
        )  # whose keys are known; not fragments, whose numbers a table made anew has again
        self._sorted: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: set[int] = set()
        self._lock = threading.Lock()

    def may_hold(self, keys: Sequence[str], dataset: lance.LanceDataset) -> list[str]:
        """Those of the keys that this version may hold. Cost: of a dataset not seen before, the scan of its new fragments' keys."""
        with self._lock:
            self._follow(dataset)
            if len(self._sorted) + len(self._recent) > self._most:
                return list(keys)
            hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
            among = self._among_sorted(hashes)
            return [key for key, is_in, of in zip(keys, among, hashes.tolist(), strict=True) if is_in or of in self._recent]

    def _follow(self, dataset: lance.LanceDataset) -> None:
        if dataset is self._dataset:
            return
        fragments = {fragment.data_files()[0].path: fragment for fragment in dataset.get_fragments()}
        fresh = [fragment for file, fragment in fragments.items() if file not in self._files]
        if fresh and len(self._sorted) + len(self._recent) <= self._most:
            for rows in dataset.scanner(columns=[self._key], fragments=fresh, batch_size=_BATCH).to_batches():
                self._add(np.fromiter(map(hash, rows.column(self._key).to_pylist()), np.int64, len(rows)))
        self._files, self._dataset = frozenset(fragments), dataset

    def _add(self, hashes: npt.NDArray[np.int64]) -> None:
        # Merged fragments bring what is known already.
        self._recent.update(hashes[~self._among_sorted(hashes)].tolist())
        if len(self._recent) > _RECENT:
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.int64)]))
            self._recent = set()

    def _among_sorted(self, hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        if not len(self._sorted):
            return np.zeros(len(hashes), np.bool_)
        places = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        found: npt.NDArray[np.bool_] = self._sorted[places] == hashes
        return found
