"""What the index is asked for a vote, and what it answers: row ids, cosines and classes of the nearest labelled rows. Pure NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from raystore.index.metric import Metric
from raystore.index.search.ranking import QUERIES, Found, Ranked
from raystore.index.source import RowIds
from raystore.train.classify.labels import NONE
from raystore.train.classify.result import Evidence
from raystore.train.classify.vote import Codes
from raystore.vectors import Matrix


class View(Ranked, Protocol):
    """As raystore.index.view.View: one version of the collection, to be searched."""

    @property
    def version(self) -> int: ...
    @property
    def number(self) -> int | None: ...
    @property
    def metric(self) -> Metric: ...


class Searcher(Protocol):
    """As raystore.index.search.IndexSearcher."""

    def view(self) -> View:
        """The newest version over the newest index."""


class Votes(NamedTuple):
    """What m rows' nearest labelled rows say: `rows` (m, k) row ids and `codes` (m, k) classes, both -1 where there is none, their
    `cosines` (m, k), nearest first, and `logits` (m, c); `described` (m,) the cosine to the nearest description."""

    rows: RowIds
    codes: Codes
    cosines: Matrix
    logits: Matrix
    described: Matrix | None
    found: Found | None

    @property
    def nearest(self) -> Matrix:
        """(m,) the cosine to the nearest labelled row, -inf where none was found."""
        nearest: Matrix = np.where(self.codes != NONE, self.cosines, np.float32(-np.inf)).max(axis=1, initial=-np.inf)
        return nearest


def parts_of(n: int) -> Iterator[slice]:
    """The parts of n rows that are searched at once; of none, one that is empty."""
    for start in range(0, max(1, n), QUERIES):
        yield slice(start, min(n, start + QUERIES))


def cosines_of(scores: Matrix, metric: Metric) -> Matrix:
    """Of unit rows, from the scores of any metric: |a - b|**2 = 2 - 2 a.b."""
    cosines: Matrix = scores if metric != "l2" else (1 + scores / 2).astype(np.float32)
    return cosines


def named(rows: RowIds, names: Mapping[int, str], ids: Sequence[str | None]) -> Any:
    """(m, k) bool: where the row of that id stands."""
    return np.array([[names.get(row) == id_ for row in line] for line, id_ in zip(rows.tolist(), ids, strict=True)])


def joined(parts: Sequence[Votes]) -> Votes:
    """The votes of all parts as one; `found` is that of the first."""
    described = (
        None if parts[0].described is None else np.concatenate([p.described for p in parts if p.described is not None])
    )
    return Votes(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.cosines for part in parts]),
        np.concatenate([part.logits for part in parts]),
        described,
        parts[0].found,
    )


def evidence_of(parts: Sequence[Votes], classes: Sequence[str]) -> Evidence:
    """What all parts stand on."""
    names: dict[int, str] = {}
    for part in parts:
        names |= part.found.names if part.found is not None else {}
    width = max(part.rows.shape[1] for part in parts)  # fewer than k, where the collection changed between two parts
    rows, cosines, codes = (
        np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=NONE) for a in arrays])
        for arrays in zip(*((part.rows, part.cosines, part.codes) for part in parts), strict=True)
    )
    return Evidence(rows, cosines, codes, names, classes)
