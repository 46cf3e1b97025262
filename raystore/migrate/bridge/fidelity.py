"""How good a bridge is: what it finds, on pairs that it was not fitted on. Pure NumPy.

A pair is an item with a vector of each encoder. The measure is a search: for each held-out item, the 10 rows nearest to it by
true vectors, and how many of these are among the 10 nearest where one side is bridged. Which side depends on the direction:

    forward   queries are true vectors of the new encoder, the rows they are looked for in are bridged (all of them held out)
    back      queries are bridged, the rows are true vectors of the old encoder

A map that is right to 0.97 in cosine may find two of three neighbours only: rows that are near are nearer to each other than that.
The more rows, the nearer they are: of arXiv titles, 74% were found among 1,000 and 64% among 80,000. So a recall is said with the rows
it was measured among, and judged by what is left of it among those of the collection, if it goes on falling with each doubling as it
did from half of them to all. That was 2.2 points a doubling there, and 1.5 in truth: a collection of many more rows is judged harshly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.encoders.bridged import Direction
from raystore.vectors import Matrix

K = 10
LEAST_FIDELITY = 0.90  # below it, what is found is not what the encoder itself would find: re-embed
MOST_US = 50.0  # microseconds that a query may take on its way through a bridge
# Where two of three neighbours are others, the spaces are of different kinds, and labels say nothing for a bridge: into TF-IDF's
# it found 24%, and more rows of the query's label than TF-IDF itself, for they go on lying where MiniLM put them.
_LEAST_NEIGHBOURS = 1 / 3
_BLOCK = 512  # queries at once: with 20,000 rows 40 MiB of scores

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What is said of a bridge, wherever something is said of it: `recall`, `kept`, `gallery` and `falls`, as `Fidelity` has them, and
    how many `rows` the collection has that is asked through it; 0 where nothing is known."""

    recall: float
    kept: float | None = None
    gallery: int = 0
    falls: float = 0.0
    rows: int = 0

    @property
    def expected(self) -> float:
        """The recall among all the rows, where they are more than it was measured among."""
        doublings = log2(self.rows / self.gallery) if 0 < self.gallery < self.rows else 0.0
        return max(0.0, self.recall - max(0.0, self.falls) * doublings)

    @property
    def good(self) -> bool:
        """Whether it need not be said to re-embed: recall@10 is 90%."""
        return self.expected >= LEAST_FIDELITY

    @property
    def usable(self) -> bool:
        """Whether rows are bridged by it without being told to: it is good, or label searches keep 90% and labels say something."""
        by_label = self.kept is not None and self.expected >= _LEAST_NEIGHBOURS and self.kept >= LEAST_FIDELITY
        return self.good or by_label

    @property
    def short(self) -> str:
        """What of it is too little, where it is not good: "below 90%"."""
        least = f"below {LEAST_FIDELITY:.0%}"
        if self.kept is None:
            return least
        if self.kept < LEAST_FIDELITY:
            return f"both {least}"
        return f"the first {least}" if self.usable else "and where two of three neighbours are others, labels say nothing"

    def __str__(self) -> str:
        among = f" among {self.gallery:,} rows" if self.gallery else ""
        if 0 < self.gallery < self.rows:
            among += f", about {self.expected:.0%} among all {self.rows:,}"
        return f"recall@{K} {self.recall:.1%}{among}" + (
            "" if self.kept is None else f", label searches keep {self.kept:.1%}"
        )


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
    us: float = 0.0  # microseconds of `Bridge.ask` with one query; see fit.microseconds
    falls: float = 0.0  # what the recall loses with a doubling of the rows: from half of the gallery to all of it
    rows: int = 0  # of the collection that it was built for, then; 0 where there is none

    @property
    def measured(self) -> Measured:
        return Measured(self.recall, self.kept, self.gallery, self.falls, self.rows)

    @property
    def too_slow(self) -> bool:
        """Whether no query should take so long; rows are bridged many at once, and may."""
        return self.direction == "back" and self.us > MOST_US

    @property
    def advice(self) -> str | None:
        """A sentence that says to re-embed, where recall@10 is below 90%; else None."""
        if self.measured.good:
            return None
        return (
            f"Re-embed: {self.measured} ({self.direction}, {self.n:,} held-out pairs), {self.measured.short}. "
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

    recalls: Shares
    cosines: Shares
    true: Shares
    through: Shares


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
    cosines = np.einsum("nm,nm->n", bridged, true, dtype=np.float64)
    if labels is None or query_labels is None:
        nan = np.full(len(true), np.nan)
        return Found(recalls(wanted, found), cosines, nan, nan)
    shares = [of_label(each, labels, query_labels) for each in (wanted, found)]
    return Found(recalls(wanted, found), cosines, shares[0], shares[1])


def halved(direction: Direction, bridged: Matrix, true: Matrix, gallery: Matrix, places: npt.NDArray[np.int64]) -> float:
    """The recall where each half of the gallery is searched by itself, for the queries that are of it; arguments as of `look`."""
    side = np.random.default_rng(0).permutation(len(gallery)) % 2
    found = []
    for half in (0, 1):
        inside = side == half
        asked = inside[places]
        own = (np.cumsum(inside) - 1)[places[asked]]
        found.append(look(direction, bridged[asked], true[asked], gallery[inside], own).recalls)
    return float(np.concatenate(found).mean())


def recalls(wanted: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> Shares:
    """(n,) of each query's `wanted` rows (n, k) the share that is among those `found`."""
    shares: Shares = (wanted[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1)
    return shares


def of_label(found: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], query_labels: npt.NDArray[np.int64]) -> Shares:
    """(n,) of the rows found for each query (n, k) the share with its label; NaN where it has none."""
    return np.where(query_labels >= 0, (labels[found] == query_labels[:, None]).mean(axis=1), np.nan)


def kept_of(true: Shares, through: Shares) -> float | None:
    """What label searches keep: the rows of the queries' labels that are found `through` a bridge, divided by those of `true` ones."""
    labelled = ~np.isnan(true)
    before = float(true[labelled].sum())
    return float(through[labelled].sum()) / before if before > 0 else None


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
    found, cosines, true, through = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("recalls", "cosines", "true", "through")
    )
    error = 1.96 * float(found.std(ddof=1)) / len(found) ** 0.5 if len(found) > 1 else 1.0
    recall = float(found.mean())
    return Fidelity(
        direction=direction,
        kind=kind,
        pairs=pairs,
        n=len(found),
        gallery=gallery,
        recall=recall,
        low=max(0.0, recall - error),
        high=min(1.0, recall + error),
        cosine=float(cosines.mean()),
        cosine_5=float(np.quantile(cosines, 0.05)),
        kept=kept_of(true, through),
        labelled=int((~np.isnan(true)).sum()),
    )
