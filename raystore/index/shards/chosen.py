"""Which rows of a shard a search may answer with, in the two forms that are searched by. Pure but for FAISS's selector."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from raystore.index.shards.exact import Positions

faiss: Any = _faiss


class Chosen:
    """`count` of a shard's rows, by position. Immutable; a searcher keeps it for as long as it asks the same."""

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))

    @property
    def left_out(self) -> int:
        return len(self.mask) - self.count

    @cached_property
    def positions(self) -> Positions:
        """Ascending, (count,) int64."""
        return np.flatnonzero(self.mask)

    @cached_property
    def selector(self) -> Any:
        """faiss.IDSelectorBitmap over positions; it keeps its bits alive."""
        return faiss.IDSelectorBitmap(np.packbits(self.mask, bitorder="little"))
