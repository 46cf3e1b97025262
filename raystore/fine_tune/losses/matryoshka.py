"""Leading dimensions that stand alone (Kusupati et al. 2022): the same loss over prefixes of the rows, made unit again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional


def prefixes(rows: Tensor, dims: tuple[int, ...]) -> Iterator[Tensor]:
    """(n, m) unit rows for each m of `dims`; the rows themselves where m is all of them."""
    for m in dims:
        # A prefix of zeros has no direction; with this eps its gradient stays below 1e6 instead of 1e12.
        yield rows if m == rows.shape[1] else functional.normalize(rows[:, :m], dim=1, eps=1e-6)
