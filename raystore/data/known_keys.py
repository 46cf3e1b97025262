"""Which keys a table surely does not hold, by 8 bytes a key in memory: a look-up in the table costs 2 ms, and this some microseconds.

Rows that left a table stay in here, so that what may be there has to be looked up; what is said not to be there is not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

import lance
import numpy as np
import numpy.typing as npt

_MOST = 20_000_000  # keys: 160 MB. Of a larger table every key may be there.
_FEW = 4_096  # keys that are looked at while somebody waits; some ms
_RECENT = 100_000  # keys in a set of Python's, before they are sorted in among the others
_BATCH = 65_536

Hashes = npt.NDArray[np.int64]


class KnownKeys:
    """Of one table, whose versions are shown to it as they come. Safe in many threads."""

    def __init__(self, key: str, *, most: int = _MOST) -> None:
        self._key = key
        self._most = most
        self._dataset: lance.LanceDataset | None = None  # the last one; its version alone would not tell a table made anew
        # Whose keys are known: files, not fragments, whose numbers a table made anew has again.
        self._files: frozenset[str] = frozenset()
        self._sorted: Hashes = np.empty(0, np.int64)
        self._recent: set[int] = set()
        self._following = threading.Lock()
        self._lock = threading.Lock()  # of all of these, and for moments alone

    def may_hold(self, keys: Sequence[str], dataset: lance.LanceDataset) -> list[str]:
        """Those of the keys that this version may hold; all where it has many that nobody followed yet."""
        with self._lock:
            if dataset is not self._dataset:
                fresh = self._fresh(dataset)
                if sum(fragment.physical_rows for fragment in fresh.values()) > _FEW or self._is_full:
                    return list(keys)
                self._add(_joined(self._hashes(dataset, fresh)))
                self._dataset, self._files = dataset, self._files | fresh.keys()
            hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
            among = self._among_sorted(hashes)
            return [key for key, is_in, of in zip(keys, among, hashes.tolist(), strict=True) if is_in or of in self._recent]

    def follow(self, dataset: lance.LanceDataset) -> None:
        """Look at the keys of its new fragments; nobody who asks waits for that. Cost: .5 s for a million keys."""
        with self._following:
            if dataset is self._dataset or self._is_full:
                return
            fresh = self._fresh(dataset)
            found: list[Hashes] = []
            for hashes in self._hashes(dataset, fresh):
                found.append(hashes)
                if len(self._sorted) + sum(map(len, found)) > self._most:
                    break
            before, hashes = self._sorted, _joined(found)
            merged = before if len(hashes) < _RECENT else np.unique(np.concatenate([before, hashes]))
            with self._lock:
                if merged is not before and self._sorted is before:
                    self._sorted = merged
                else:
                    self._add(hashes)
                if not self._is_full:
                    self._dataset, self._files = dataset, self._files | fresh.keys()

    @property
    def _is_full(self) -> bool:
        return len(self._sorted) + len(self._recent) > self._most

    def _fresh(self, dataset: lance.LanceDataset) -> Mapping[str, lance.LanceFragment]:
        fragments = {fragment.data_files()[0].path: fragment for fragment in dataset.get_fragments()}
        return {file: fragment for file, fragment in fragments.items() if file not in self._files}

    def _hashes(self, dataset: lance.LanceDataset, fresh: Mapping[str, lance.LanceFragment]) -> Iterator[Hashes]:
        if fresh:
            scanner = dataset.scanner(columns=[self._key], fragments=list(fresh.values()), batch_size=_BATCH)
            for rows in scanner.to_batches():
                yield np.fromiter(map(hash, rows.column(self._key).to_pylist()), np.int64, len(rows))

    def _add(self, hashes: Hashes) -> None:
        fresh = hashes[~self._among_sorted(hashes)]  # merged fragments bring what is known already
        if len(self._recent) + len(fresh) <= _RECENT:
            self._recent.update(fresh.tolist())
        else:
            recent = np.fromiter(self._recent, np.int64, len(self._recent))
            self._sorted = np.unique(np.concatenate([self._sorted, recent, fresh]))
            self._recent = set()

    def _among_sorted(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        if not len(self._sorted):
            return np.zeros(len(hashes), np.bool_)
        places = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        found: npt.NDArray[np.bool_] = self._sorted[places] == hashes
        return found


def _joined(parts: Iterator[Hashes] | list[Hashes]) -> Hashes:
    return np.concatenate([np.empty(0, np.int64), *parts])
