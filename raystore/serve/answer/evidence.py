"""The labelled rows that are nearest to what was asked: of a head that asks rows its voters, of another one rows of its snapshot.

Cost: one search of the collection an item, between which the deadline is looked at; the ids and labels of a snapshot are read once
and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from raystore.serve.answer.deadline import check_in_time
from raystore.vectors import Matrix, Vectors

_AT_FIRST, _MOST = 4, 1_000  # of the rows nearest, so many times as many as wanted, then more: not all are labelled
_VOTED = 16  # rows whose voters are looked for at once
_STAGE = "while evidence was looked for"


class Nearest(Protocol):
    """Ids and scores of the k rows nearest to one query, nearest first."""

    def __call__(self, query: Matrix, k: int) -> tuple[Sequence[str], Sequence[float]]: ...


class SnapshotEvidence:
    """Rows of a snapshot, by cosine."""

    def __init__(self, nearest: Nearest, labels: Callable[[], Mapping[str, Any]]) -> None:
        """
        Args:
            nearest: searches the snapshot's collection.
            labels: reads the snapshot's labels by id; called once.
        """
        self._nearest = nearest
        self._read = labels
        self._labels: Mapping[str, Any] | None = None

    def __call__(self, vectors: Vectors, n: int) -> list[list[dict[str, Any]]]:
        """Of each row of `vectors` the n labelled rows nearest, or those there are among the 1,000 nearest of the collection."""
        if self._labels is None:
            self._labels = self._read()
        found = []
        for i in range(len(vectors)):
            check_in_time(_STAGE)
            found.append(self._of(vectors[i : i + 1], n, self._labels))
        return found

    def _of(self, query: Matrix, n: int, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
        k = _AT_FIRST * n
        while True:
            ids, scores = self._nearest(query, min(k, _MOST))
            found = [
                {"id": id_, "label": str(labels[id_]), "score": float(score)}
                for id_, score in zip(ids, scores, strict=True)
                if id_ in labels
            ]
            if len(found) >= n or k >= _MOST or len(ids) < min(k, _MOST):
                return found[:n]
            k *= 4


class VotersEvidence:
    """The voters of a head that asks labelled rows, as they are now."""

    def __init__(self, classify: Callable[[Vectors], Sequence[Sequence[Any]]]) -> None:
        self._classify = classify

    def __call__(self, vectors: Vectors, n: int) -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = []
        for start in range(0, len(vectors), _VOTED):
            check_in_time(_STAGE)
            voters = self._classify(cast("Vectors", vectors[start : start + _VOTED]))
            found += [
                [{"id": each.id, "label": str(each.label), "score": float(each.score)} for each in near[:n]]
                for near in voters
            ]
        return found
