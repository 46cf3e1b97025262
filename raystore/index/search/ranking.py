"""From the rows a view finds nearest to the rows a search answers: above a score, behind a page, one a value, not all alike.

What is answered is a choice from the ranking of all rows, best first. A view gives the beginning of that ranking; where
the choice needs more of it, four times as much is asked, for the queries that lack it, up to `limit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raystore.index.search.asked import Asked
from raystore.index.search.diversity import most_marginal
from raystore.index.shards.exact import Positions, Scores
from raystore.index.source import RowIds
from raystore.vectors import Matrix, pair_scores

QUERIES = 1_024  # that are searched at once
_CELLS = 2**21  # queries times rows, of one look: 24 MiB of row ids and scores
_GROWTH = 4

Values = Callable[[RowIds], Mapping[int, Any]]  # of the column `distinct`, by row id; rows that are gone are left out
Rows = Callable[
    [RowIds], tuple[RowIds, Matrix]
]  # those of the ascending row ids that are still there, and their unit vectors


class Found(Protocol):
    """As view.Gathered: row ids (m, k) padded with -1, scores (m, k) padded with -inf, k the rows there are at most, and what
    they cover."""

    @property
    def rows(self) -> RowIds: ...
    @property
    def scores(self) -> Scores: ...
    @property
    def names(self) -> Mapping[int, str]: ...
    @property
    def missing(self) -> Sequence[int]: ...
    @property
    def exact(self) -> bool: ...
    @property
    def coverage(self) -> float: ...
    @property
    def version(self) -> int: ...
    @property
    def number(self) -> int | None: ...


class Ranked(Protocol):
    """As view.View: the rows of one version, nearest first."""

    @property
    def rows(self) -> int: ...
    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        probes: int | None = None,
        refine: int | None = None,
    ) -> Found: ...


@dataclass
class Answers:
    """What m queries are answered, and what was searched for it. `ranks`: where in the ranking each answer's last row stands."""

    rows: list[RowIds]
    scores: list[Scores]
    ids: list[list[str]]
    ranks: list[int]
    missing: set[int] = field(default_factory=set)
    coverage: float = 1.0
    exact: bool = True
    truncated: bool = False
    version: int | None = None
    number: int | None = None

    def note(self, found: Found) -> None:
        # An index that is replaced between two looks is followed; what is said of the rows holds from the earlier version on.
        self.version = found.version if self.version is None else min(self.version, found.version)
        self.number = found.number
        self.missing.update(found.missing)
        self.coverage = min(self.coverage, found.coverage)
        self.exact = self.exact and found.exact and not found.missing


def answer(view: Ranked, queries: Matrix, asked: Asked, allowed: RowIds | None, values: Values, vectors: Rows) -> Answers:
    """The answers of m prepared queries, in their order.

    Args:
        allowed: only these row ids (ascending), or None for all.
        values, vectors: read what `distinct` and `diversity` ask about rows.
    """
    m = len(queries)
    answers = Answers([_NO_ROWS] * m, [_NO_SCORES] * m, [[] for _ in range(m)], [0] * m)
    pending, fetch = np.arange(m), min(asked.first_look, max(1, view.rows))
    while len(pending):
        left: list[int] = []
        for part in _parts(pending, fetch):
            found = view.search(queries[part], fetch, allowed=allowed, probes=asked.probes, refine=asked.refine)
            answers.note(found)
            if asked.plain:
                _take_all(answers, part, found)
            else:
                left += _take(
                    answers,
                    part,
                    found,
                    asked,
                    values,
                    ends=fetch >= view.rows or found.rows.shape[1] < fetch,
                    last=fetch >= asked.farthest,
                )
        pending, fetch = np.array(left, dtype=np.int64), min(_GROWTH * fetch, asked.farthest, max(1, view.rows))
    if asked.diversity is not None:
        _diversify(answers, queries, asked, vectors)
    return answers


_NO_ROWS: RowIds = np.empty(0, dtype=np.int64)
_NO_SCORES: Scores = np.empty(0, dtype=np.float32)


def _parts(queries: Positions, fetch: int) -> Iterator[Positions]:
    size = max(1, min(QUERIES, _CELLS // fetch))
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def _take_all(answers: Answers, part: Positions, found: Found) -> None:
    names = found.names
    lengths = np.count_nonzero(found.rows >= 0, axis=1).tolist()
    for at, n, rows, scores, listed in zip(
        part.tolist(), lengths, found.rows, found.scores, found.rows.tolist(), strict=True
    ):
        answers.rows[at], answers.scores[at], answers.ranks[at] = rows[:n], scores[:n], n
        answers.ids[at] = [names[row] for row in listed[:n]]


def _take(
    answers: Answers, part: Positions, found: Found, asked: Asked, values: Values, *, ends: bool, last: bool
) -> list[int]:
    """Put the answers that are complete into their places; the queries that are to be looked at farther."""
    left: list[int] = []
    value_of = None if asked.distinct is None else values(np.unique(found.rows[found.rows >= 0]))
    for at, rows, scores in zip(part.tolist(), found.rows, found.scores, strict=True):
        kept = _chosen(rows, scores, asked, found.names, value_of)
        full = len(kept) >= asked.needed
        over = ends or rows[-1] < 0 or (asked.min_score is not None and bool(scores[-1] < np.float32(asked.min_score)))
        if not (full or over or last):
            left.append(at)
            continue
        answers.truncated |= asked.every if full else not over
        kept = kept[: asked.page if asked.diversity is None else asked.needed]
        answers.rows[at], answers.scores[at] = rows[kept], scores[kept]
        answers.ids[at] = [found.names[row] for row in rows[kept].tolist()]
        answers.ranks[at] = int(kept[-1]) + 1 if len(kept) else asked.begun
    return left


def _chosen(
    rows: RowIds, scores: Scores, asked: Asked, names: Mapping[int, str], value_of: Mapping[int, Any] | None
) -> Positions:
    """The positions of the rows that may be answered, in the order of the ranking."""
    chosen = rows >= 0
    if asked.min_score is not None:
        chosen &= scores >= np.float32(asked.min_score)
    if asked.without:
        chosen[chosen] = [names[row] not in asked.without for row in rows[chosen].tolist()]
    if value_of is not None:
        # Before the page is cut: a value that an earlier page answered stays answered.
        chosen[chosen] = _first_of_each([value_of.get(row, _GONE) for row in rows[chosen].tolist()])
    if asked.place is not None:
        chosen &= (scores < asked.place.score) | ((scores == asked.place.score) & (rows > asked.place.row))
    return np.flatnonzero(chosen)


_GONE = object()


def _first_of_each(values: Sequence[Any]) -> list[bool]:
    """Where each value stands for the first time. A row without one is like no other; a row that is gone is left out."""
    seen: set[Any] = {_GONE}
    first = []
    for value in values:
        first.append(value is None or value not in seen)
        seen.add(value)
    return first


def _diversify(answers: Answers, queries: Matrix, asked: Asked, vectors: Rows) -> None:
    """Of each query's pool, the rows that maximal marginal relevance chooses."""
    there, held = vectors(np.unique(np.concatenate([_NO_ROWS, *answers.rows])))
    for at, query in enumerate(queries):
        rows, scores, ids = answers.rows[at], answers.scores[at], answers.ids[at]
        still = np.flatnonzero(np.isin(rows, there))
        pool = held[np.searchsorted(there, rows[still])]
        # Of length 1, so that relevance and likeness are on one scale whatever the index's metric is.
        direction = query / max(float(np.linalg.norm(query)), np.finfo(np.float32).tiny)
        relevance = pair_scores(np.broadcast_to(direction.astype(np.float32), pool.shape), pool)
        chosen = still[most_marginal(relevance, pool, asked.page, asked.diversity or 0.0)]
        answers.rows[at], answers.scores[at] = rows[chosen], scores[chosen]
        answers.ids[at] = [ids[i] for i in chosen.tolist()]
