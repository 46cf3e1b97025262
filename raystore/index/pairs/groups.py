"""Which rows hang together through pairs: connected components, pairs given a batch at a time. Pure NumPy and SciPy.

Union by the lower row, pointer jumping on whole arrays (Shiloach & Vishkin 1982, "An O(log n) parallel connectivity
algorithm"). Cost: 8 bytes a row, and for each batch a few passes over its pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Places = npt.NDArray[np.int64]


class Groups:
    """The components of n rows, each on its own at first."""

    def __init__(self, n: int) -> None:
        self._above = np.arange(n, dtype=np.int64)

    def join(self, a: Places, b: Places) -> None:
        """The rows at places a[i] and b[i] are in one group from now on."""
        ends, which = np.unique(self._tops(np.concatenate([a, b])), return_inverse=True)
        if not len(ends):
            return
        left, right = which[: len(a)], which[len(a) :]
        edges = coo_matrix((np.ones(len(a), dtype=bool), (left, right)), shape=(len(ends), len(ends)))
        _, part = connected_components(edges, directed=False)
        lowest = np.full(part.max() + 1, len(self._above), dtype=np.int64)
        np.minimum.at(lowest, part, ends)
        self._above[ends] = lowest[part]

    def tops(self) -> Places:
        """(n,) the lowest place in each row's group: a row that is in no pair has its own."""
        self._above = self._tops(np.arange(len(self._above)))
        return self._above

    def _tops(self, places: Places) -> Places:
        top = self._above[places]
        while True:
            higher = self._above[top]
            if np.array_equal(higher, top):
                return top
            top = higher
