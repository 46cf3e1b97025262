"""How a search is asked: its arguments, checked all together. Pure.

`k`, `limit` and the rest mean the same in Python, in the shell and over HTTP; this is the one place that checks them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TypedDict

import numpy as np

from raystore.errors import InvalidArguments
from raystore.index.metric import Metric
from raystore.index.search.diversity import POOL, POOL_LEAST
from raystore.index.search.paging import Place, from_cursor, to_cursor

K = 10  # neighbours, where nothing else says how many
LIMIT = 10_000


class SearchOptions(TypedDict, total=False):
    """What `IndexSearcher.search` takes beside the queries; the names are those of the shell and of HTTP."""

    k: int | None
    where: str | None
    columns: Sequence[str]
    probes: int | None
    refine: int | None
    min_score: float | None
    limit: int
    after: str | None
    distinct: str | None
    diversity: float | None


@dataclass(frozen=True)
class Asked:
    """The arguments of one search that decide which rows are answered."""

    k: int | None
    where: str | None
    probes: int | None
    refine: int | None
    min_score: float | None
    limit: int
    distinct: str | None
    diversity: float | None
    without: frozenset[str]
    place: Place | None  # behind which the answer begins
    identity: str  # of the search, for its cursors

    @property
    def plain(self) -> bool:
        """Whether the k nearest rows are the answer, as they come."""
        return (
            self.min_score is None
            and self.place is None
            and self.distinct is None
            and self.diversity is None
            and not self.without
        )

    @property
    def every(self) -> bool:
        """Whether every row above a score is asked, and not so many."""
        return self.k is None and self.min_score is not None and self.diversity is None

    @property
    def page(self) -> int:
        """Rows of one answer, at most."""
        if self.k is not None:
            return self.k
        return self.limit if self.every else K

    @property
    def needed(self) -> int:
        """Rows to be found for one answer: what diversity chooses from, or one more than `limit` to know of a next one."""
        if self.diversity is not None:
            return max(self.page, min(self.limit, max(POOL * self.page, POOL_LEAST)))
        return self.page + self.every

    @property
    def begun(self) -> int:
        """Rows of the ranking that earlier pages went through."""
        return self.place.rank if self.place else 0

    @property
    def farthest(self) -> int:
        """Rows of the ranking to look at, at most."""
        return self.begun + max(self.needed, self.limit) + len(self.without)

    @property
    def first_look(self) -> int:
        """Rows of the ranking to look at to begin with. A range is felt for: most are short."""
        wanted = min(self.needed, 128) if self.every else self.needed
        spread = 2 if self.distinct is not None else 1
        return min(self.farthest, self.begun + spread * wanted + len(self.without))

    def cursor(self, place: Place) -> str:
        return to_cursor(place, self.identity)


def check_asked(
    call: str,
    *,
    fingerprint: str,
    metric: Metric,
    queries: int,
    nlist: int | None,
    k: int | None,
    where: str | None,
    columns: Sequence[str],
    probes: int | None,
    refine: int | None,
    min_score: float | None,
    limit: int,
    after: str | None,
    distinct: str | None,
    diversity: float | None,
    without: Sequence[str],
) -> Asked:
    """The arguments, as a search takes them.

    Args:
        queries: how many there are.
        nlist: lists of the index's largest shard, or None where it has none.

    Raises:
        InvalidArguments: with everything that is wrong.
    """
    problems = []
    if k is not None and not _whole(k):
        problems.append(f"k is {_shown(k)}, expected a number from 1")
    wrong: dict[str, object] = {"where": where, "distinct": distinct}
    problems += [f"{name} is {_shown(v)}, expected text" for name, v in wrong.items() if not isinstance(v, (str, NoneType))]
    if isinstance(columns, str) or not all(isinstance(column, str) for column in columns):
        problems.append("columns is not a list of names")
    if probes is not None and (not _whole(probes) or (nlist is not None and probes > nlist)):
        expected = "a number from 1" if nlist is None else f"a number from 1 to {nlist}, the lists of its largest shard"
        problems.append(f"probes is {_shown(probes)}, expected {expected}, or None")
    if refine is not None and not _whole(refine):
        problems.append(f"refine is {_shown(refine)}, expected a number from 1, or None")
    if min_score is not None and not _finite(min_score):
        problems.append(f"min_score is {_shown(min_score)}, expected a finite number, or None")
    if not _whole(limit):
        problems.append(f"limit is {_shown(limit)}, expected a number from 1")
    if diversity is not None and not (_finite(diversity) and 0 <= diversity <= 1):
        problems.append(f"diversity is {_shown(diversity)}, expected a number from 0 to 1, or None")
    least = None if min_score is None or not _finite(min_score) else float(min_score)
    identity = repr((fingerprint, metric, where, least, distinct, sorted(without)))
    place = None
    if after is not None:
        place = from_cursor(str(after), identity)
        if place is None:
            same = "its where, min_score, distinct, like and unlike must be the same"
            problems.append(f"after is no cursor of this search: {same} as on the page before")
        if queries != 1:
            problems.append(f"after continues one query, found {queries}")
        if diversity is not None:
            problems.append("after and diversity do not go together: a diverse answer has no next page")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return Asked(
        k=None if k is None else int(k),
        where=where,
        probes=None if probes is None else int(probes),
        refine=None if refine is None else int(refine),
        min_score=least,
        limit=int(limit),
        distinct=distinct,
        diversity=None if diversity is None else float(diversity),
        without=frozenset(without),
        place=place,
        identity=identity,
    )


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    """A number as it is; of anything else only the type, since it may be a text that was put into the wrong argument."""
    return str(value) if isinstance(value, (int, float, np.integer, np.floating)) else f"a {type(value).__name__}"
