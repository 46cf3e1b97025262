"""How good a bridge is: what it finds, on pairs that it was not fitted on. Pure NumPy.

A pair is an item with a vector of each encoder. The measure is a search: for each held-out item, the 10 rows nearest to it by
true vectors, and how many of these are among the 10 nearest where one side is bridged. Which side depends on the direction:

    forward   queries are true vectors of the new encoder, the rows they are looked for in are bridged (all of them held out)
    back      queries are bridged, the rows are true vectors of the old encoder

A map that is right to 0.97 in cosine may find two of three neighbours only: rows that are near are nearer to each other than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.encoders.bridged import Direction
from raystore.vectors import Matrix

K = 10
LEAST_RECALL = 0.90  # below it, what is found is not what the encoder itself would find: re-embed
_BLOCK = 512  # queries at once: with 20,000 rows 40 MiB of scores


@dataclass(frozen=True)
class Fidelity:
    """What a map reaches on pairs held out from it.

    `recall`: of the 10 nearest rows by true vectors, the share that is found (`low` to `high`: its 95% interval over queries).
    `kept`: where labels were given, the share of rows with the query's label among the 10 found, divided by the same share
    among the 10 nearest by true vectors: what a search keeps of re-embedding's. `rank`, `weight`: of a linear map.
    """

    direction: Direction
    kind: str
    pairs: int  # it was fitted on; what is kept is fitted on all, what was measured on those that were not held out
    n: int  # held-out pairs asked for
    gallery: int  # rows they were looked for in
    recall: float
    low: float
    high: float
    cosine: float  # of a bridged vector with the true one, on average
    cosine_5: float  # and its 5% quantile
    kept: float | None = None
    labelled: int = 0  # of the n, those with a label
    us: float = 0.0  # microseconds a vector takes, one at a time

    @property
    def measure(self) -> float:
        """What it is judged by: `kept` where labels were given, else `recall`."""
        return self.recall if self.kept is None else self.kept

    @property
    def advice(self) -> str | None:
        """A sentence that says to re-embed, where `measure` is below 90%; else None."""
        if self.measure >= LEAST_RECALL:
            return None
        if self.kept is None:
            found = f"of the {K} rows nearest by true vectors {self.recall:.0%} are found through this bridge"
        else:
            found = f"searches through this bridge keep {self.kept:.0%} of what re-embedding finds"
        return (
            f"Re-embed: {found} ({self.direction}, {self.n:,} held-out pairs), below {LEAST_RECALL:.0%}. "
            "Where the content is gone, dual-write until enough rows have true vectors."
        )

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """Per held-out query: `recalls` (n,) shares of the 10 found, `cosines` (n,); with labels `true` and `through` (n,), the shares
    of rows with its label, NaN where it has none."""

    recalls: npt.NDArray[np.float64]
    cosines: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]
    through: npt.NDArray[np.float64]


def look(
    direction: Direction,
    bridged: Matrix,
    true: Matrix,
    gallery: Matrix,
    places: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64] | None = None,
    query_labels: npt.NDArray[np.int64] | None = None,
) -> Found:
    """What is found of each held-out pair's 10 nearest rows.

    Args:
        bridged: (n, m) the held-out vectors as the map gives them. true: (n, m) as the encoder does.
        gallery: (g, m) true vectors of the rows that are looked for. Forward, it is `true` itself, and `bridged` is searched.
        places: (n,) each query's own row in the gallery, which is no answer.
        labels, query_labels: (g,) and (n,) codes, -1 where there is none.
    """
    k = min(K, len(gallery) - 1)
    queries, rows = (true, bridged) if direction == "forward" else (bridged, gallery)
    wanted = nearest(true, gallery, places, k)
    found = nearest(queries, rows, places, k)
    same = (wanted[:, :, None] == found[:, None, :]).any(axis=2)
    cosines = np.einsum("nm,nm->n", bridged, true, dtype=np.float64)
    nan = np.full(len(true), np.nan)
    if labels is None or query_labels is None:
        return Found(same.mean(axis=1), cosines, nan, nan)
    has = query_labels >= 0
    shares = [np.where(has, (labels[each] == query_labels[:, None]).mean(axis=1), np.nan) for each in (wanted, found)]
    return Found(same.mean(axis=1), cosines, shares[0], shares[1])


def nearest(queries: Matrix, rows: Matrix, own: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """(n, k) the rows with the highest dot products, in no order; never a query's own."""
    found = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = queries[part] @ rows.T
        scores[np.arange(len(scores)), own[part]] = -np.inf
        found[part] = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return found


def summed(direction: Direction, kind: str, pairs: int, gallery: int, parts: Sequence[Found]) -> Fidelity:
    """The fidelity over all the held-out parts; its interval is that of a mean over queries (normal, 1.96 errors)."""
    recalls, cosines, true, through = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("recalls", "cosines", "true", "through")
    )
    error = 1.96 * float(recalls.std(ddof=1)) / len(recalls) ** 0.5 if len(recalls) > 1 else 1.0
    recall = float(recalls.mean())
    labelled = ~np.isnan(true)
    before = float(true[labelled].sum())
    return Fidelity(
        direction=direction,
        kind=kind,
        pairs=pairs,
        n=len(recalls),
        gallery=gallery,
        recall=recall,
        low=max(0.0, recall - error),
        high=min(1.0, recall + error),
        cosine=float(cosines.mean()),
        cosine_5=float(np.quantile(cosines, 0.05)),
        kept=float(through[labelled].sum()) / before if before > 0 else None,
        labelled=int(labelled.sum()),
    )
