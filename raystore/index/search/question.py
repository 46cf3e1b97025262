"""What is asked for: a vector moved towards liked rows and away from unliked ones, or the profile of many. Pure NumPy.

Knows no index: it makes the vectors that `search.py` compares, and says which rows are no answer. Cost: one read of the
vectors of the rows that are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from raystore.data.keyed import quoted
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix, Vectors, as_unit_rows, check_fingerprint, mark

# Rocchio's weights of the liked and of the unliked (Manning, Raghavan and Schütze, Introduction to Information Retrieval,
# section 9.1.1); what was asked has 1.
BETA, GAMMA = 0.75, 0.15

_NO_DIRECTION = 1e-6  # a shorter vector is what rounding left of rows that cancel out
_IDS_PER_PREDICATE = 1_000


class HasVectors(Protocol):
    """The part of a collection that is read here."""

    def vectors_of(self, ids: Sequence[str], fingerprint: str) -> Vectors:
        """(n, d) unit rows in the order of the ids; ItemNotFound."""


class HasTimes(HasVectors, Protocol):
    def to_arrow(self, columns: Sequence[str] | None = None, where: str | None = None) -> Any:
        """A pa.Table of the rows a predicate selects."""


class Question(NamedTuple):
    """`vectors` to search by, (m, d), and the ids that are no answer: those the question was made from."""

    vectors: object
    without: tuple[str, ...]


def check_given(call: str, given: Mapping[str, object], like: Sequence[str], unlike: Sequence[str]) -> None:
    """Raise InvalidArguments, with all problems, unless something is asked and only one thing is.

    Args:
        given: what can be searched by, by the name of its argument; None where it was not given.
    """
    names = [name for name, value in given.items() if value is not None]
    *but_last, last = given
    listed = f"{', '.join(but_last)} and {last}"
    problems = []
    if len(names) > 1 or not (names or len(like) or len(unlike)):
        found = " and ".join(names) or "none"
        problems.append(f"expected {'at most' if len(like) else 'exactly'} one of {listed}, found {found}")
    elif not names and not len(like):
        problems.append(f"unlike= alone says nothing to search by: expected like, or one of {listed}")
    for name, ids in (("like", like), ("unlike", unlike)):
        if isinstance(ids, str) or not all(isinstance(id_, str) for id_ in ids):
            problems.append(f"{name}= is not a list of ids")
    if not problems and (both := len(set(like) & set(unlike))):
        problems.append(f"{both} {'id is' if both == 1 else 'ids are'} both in like= and in unlike=")
    if problems:
        raise InvalidArguments(call=call, problems=problems)


def question(
    source: HasVectors, fingerprint: str, base: object | None, like: Sequence[str], unlike: Sequence[str], call: str
) -> Question:
    """What to search by: `base` as it is, or moved towards the liked rows and away from the unliked ones.

    Args:
        base: (m, d) vectors, or None where the liked rows alone are the question.

    Raises:
        ItemNotFound: an id that is not there, or has no vector of this encoder.
        PassportMismatch, DimensionMismatch, InvalidVectors: a base that cannot be compared.
        InvalidArguments: what is left has no direction.
    """
    if not like and not unlike:
        return Question(base, ())
    check_fingerprint(base, fingerprint, call, "Encode the query with the collection's encoder.")
    read = source.vectors_of([*like, *unlike], fingerprint)
    rows = as_unit_rows(read, read.shape[1], call)
    start = None if base is None else as_unit_rows(base, rows.shape[1], call)
    moved = rocchio(start, rows[: len(like)], rows[len(like) :])
    return Question(mark(_directed(moved, call, "what is asked, liked and unliked"), fingerprint), (*like, *unlike))


def rocchio(base: Matrix | None, liked: Matrix, unliked: Matrix) -> npt.NDArray[np.float64]:
    """(m, d): base + .75 * the mean of the liked - .15 * the mean of the unliked rows; not of length 1.

    Args:
        base: (m, d) unit rows; None counts as one row of zeros.
        liked, unliked: (a, d) and (b, d) unit rows, either may be empty.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, equation 9.3.
    """
    moved = np.zeros((1, liked.shape[1])) if base is None else base.astype(np.float64)
    if len(liked):
        moved = moved + BETA * liked.mean(axis=0, dtype=np.float64)
    if len(unliked):
        moved = moved - GAMMA * unliked.mean(axis=0, dtype=np.float64)
    return moved


def profile(
    source: HasTimes, fingerprint: str, ids: Sequence[str], *, half_life: timedelta | None = None, call: str = "profile"
) -> Vectors:
    """(1, d) the unit vector of many rows together: their mean, in which a row counts half as much as one that is
    `half_life` younger.

    Raises:
        InvalidArguments: no ids; a half life that is no time; rows without a time under a half life; rows that cancel out.
        ItemNotFound: an id that is not there, or has no vector of this encoder.
    """
    problems = []
    if isinstance(ids, str) or not len(ids) or not all(isinstance(id_, str) for id_ in ids):
        problems.append("expected one id or more")
    if half_life is not None and half_life <= timedelta(0):
        problems.append(f"half_life is {half_life}, expected a time above 0")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    read = source.vectors_of(ids, fingerprint)
    rows = as_unit_rows(read, read.shape[1], call)
    seconds = np.zeros(len(ids)) if half_life is None else _seconds(source, ids, call)
    mean = decayed_mean(rows, seconds, 1.0 if half_life is None else half_life.total_seconds())
    return mark(_directed(mean, call, "these rows"), fingerprint)


def decayed_mean(rows: Matrix, seconds: npt.NDArray[np.float64], half_life_s: float) -> npt.NDArray[np.float64]:
    """(1, d) the mean of (n, d) rows, weighted by 2 ** ((seconds - the newest) / half_life_s); not of length 1.

    Only differences of time count, so it does not move while nothing is added.
    """
    weights = np.exp2((seconds - seconds.max()) / half_life_s)
    mean: npt.NDArray[np.float64] = (weights @ rows.astype(np.float64))[None, :] / weights.sum()
    return mean


def _seconds(source: HasTimes, ids: Sequence[str], call: str) -> npt.NDArray[np.float64]:
    """When each row was, in seconds since 1970."""
    found: dict[str, float] = {}
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), _IDS_PER_PREDICATE):
        part = unique[start : start + _IDS_PER_PREDICATE]
        rows = source.to_arrow(["id", "time"], where=f"id IN ({', '.join(map(quoted, part))})").to_pylist()
        found |= {row["id"]: row["time"].timestamp() for row in rows if row["time"] is not None}
    lacking = sum(id_ not in found for id_ in unique)
    if lacking:
        problem = f"{lacking} of {len(unique)} rows have no time, so half_life= cannot weigh them"
        raise InvalidArguments(call=call, problems=[problem])
    return np.array([found[id_] for id_ in ids], dtype=np.float64)


def _directed(rows: npt.NDArray[np.float64], call: str, what: str) -> Matrix:
    """The rows at length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if len(rows) and lengths.min() < _NO_DIRECTION:
        raise InvalidArguments(call=call, problems=[f"{what} cancel out: nothing is left to search by"])
    unit: Matrix = (rows / lengths).astype(np.float32)
    return unit
