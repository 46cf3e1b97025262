"""Do the newest requests look like the head's snapshot? A window of vectors, labels and scores against a reference, in memory.

Three questions, since each is blind to something: are the shares of labels, scores and places in the space still those (population
stability index), did the mean move, can a classifier tell the newest from the reference? Holds vectors, never content. Knows no store,
no HTTP and no Ray.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raystore.data.drift.drift import classifier_areas
from raystore.data.drift.psi import psi
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix

LEAST = 100  # rows on each side: below that the index moves by more than a tenth by chance
# The widest axes of the reference, not distances to its mean: those hardly move in many dimensions, whatever shifts (docs/watch.md).
_AXES = 5
_PARTS = 10
_ROWS_A_PART = 10
# Rows of a side that the classifier is fitted on: by chance its area lies within 0.5 +- 0.03 then.
_TOLD_APART = 1_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What a head learned to expect: rows of its snapshot, best of val or test, for of rows it was fitted on a head is surer.

    Vectors (n, d) float32 unit rows; for each the label the head gives (of several, the likeliest) and how sure it is, or the
    number it gives; each may be missing.
    """

    vectors: Matrix
    labels: Sequence[str] | None = None
    scores: npt.ArrayLike | None = None


@dataclass(frozen=True)
class DriftNow:
    """The window against the reference. Indices are what is left above chance, so 0 is none; None: nothing to compare.

    An index below 0.1 is usually taken for no change, above 0.25 for one that matters. `mean_shift` is 1 and `auc` 0.5 without
    drift.
    """

    rows: int
    reference_rows: int
    psi_labels: float | None
    psi_scores: float | None
    psi_embedding: float
    mean_shift: float
    auc: float
    measured_at: float  # seconds since 1970

    @property
    def psi(self) -> dict[str, float]:
        """The indices there are, by what they are of."""
        all_of = {"labels": self.psi_labels, "scores": self.psi_scores, "embedding": self.psi_embedding}
        return {of: index for of, index in all_of.items() if index is not None}


class DriftWatch:
    """The newest rows of a deployment, compared with its reference when asked. Safe in many threads."""

    def __init__(
        self, reference: Reference, *, window: int = 2_000, seed: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            reference: LEAST rows at least.
            window: how many of the newest rows are kept, LEAST at least.
            seed: decides which rows the classifier is fitted on.

        Raises:
            InvalidArguments: fewer rows, or labels and scores that are not one a row.

        Memory: window * d float32, and as much of the reference, up to 1,000 rows. Cost: one d x d eigenproblem; of 2,000 rows of
            384 numbers 40 ms.
        """
        vectors = np.asarray(reference.vectors, np.float32)
        _check(reference, window)
        self._seed = seed
        self._clock = clock
        self._n = len(vectors)
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        self._spread = float(vectors.var(axis=0, dtype=np.float64).sum())
        centred = vectors - self._mean.astype(np.float32)
        self._axes = np.linalg.eigh(centred.T @ centred)[1][:, : -_AXES - 1 : -1]  # (d, k), widest first
        projected = centred @ self._axes
        self._axis_parts = [_parts(column) for column in projected.T]
        self._axis_counts = [_count(column, parts) for column, parts in zip(projected.T, self._axis_parts, strict=True)]
        scores = None if reference.scores is None else np.asarray(reference.scores, np.float64)
        self._score_parts = None if scores is None else _parts(scores)
        self._score_counts = None if self._score_parts is None or scores is None else _count(scores, self._score_parts)
        self._label_counts = None if reference.labels is None else Counter(reference.labels)
        self._reference = _some(vectors, np.random.default_rng(seed))
        self._vectors = np.zeros((window, vectors.shape[1]), np.float32)
        self._labels: list[str] = [""] * window
        self._scores = np.zeros(window)
        self._added = 0
        self._lock = threading.Lock()

    def add(self, vectors: Matrix, labels: Sequence[str] = (), scores: npt.ArrayLike = ()) -> None:
        """Take up rows in their order; the oldest give way. `labels` and `scores` as in the reference, where that has them.

        Raises:
            InvalidArguments: they are not one a row; nothing was taken up.

        Cost: 6 us of one row.
        """
        wanted = {"labels": (self._label_counts, labels), "scores": (self._score_parts, np.asarray(scores, np.float64))}
        problems = [
            f"{len(found)} {what} of {len(vectors)} rows, expected one a row"
            for what, (expected, found) in wanted.items()
            if expected is not None and len(found) != len(vectors)
        ]
        if problems:
            raise InvalidArguments(call="watch drift", problems=problems)
        rows = np.asarray(vectors, np.float32)[-len(self._vectors) :]
        if not len(rows):
            return
        with self._lock:
            at = np.arange(self._added, self._added + len(rows)) % len(self._vectors)
            self._vectors[at] = rows
            if self._label_counts is not None:
                for place, label in zip(at, labels[-len(rows) :], strict=True):
                    self._labels[place] = label
            if self._score_parts is not None:
                self._scores[at] = np.asarray(scores, np.float64)[-len(rows) :]
            self._added += len(rows)

    def measure(self) -> DriftNow | None:
        """The window as it is now; None until it has LEAST rows.

        Cost: 2,000 rows of 384 numbers on both sides: some 90 ms of one core, most of it the classifier's.
        """
        with self._lock:
            n = min(self._added, len(self._vectors))
            vectors, labels, scores = self._vectors[:n].copy(), self._labels[:n], self._scores[:n].copy()
        if n < LEAST:
            return None
        projected = (vectors - self._mean.astype(np.float32)) @ self._axes
        by_axis = zip(projected.T, self._axis_parts, self._axis_counts, strict=True)
        of_labels = None if self._label_counts is None else stability_of_labels(self._label_counts, Counter(labels))
        of_scores = None
        if self._score_parts is not None and self._score_counts is not None:
            of_scores = stability(self._score_counts, _count(scores, self._score_parts))
        return DriftNow(
            rows=n,
            reference_rows=self._n,
            psi_labels=of_labels,
            psi_scores=of_scores,
            psi_embedding=max(stability(counts, _count(column, parts)) for column, parts, counts in by_axis),
            mean_shift=self._mean_shift(vectors),
            auc=self._auc(vectors),
            measured_at=self._clock(),
        )

    def _mean_shift(self, vectors: Matrix) -> float:
        """The distance of the two means over what two samples of these sizes, both like the reference, lie apart (in the mean square).

        For halves of the reference that is its split-half spread; the trace of its covariance gives it for any sizes.
        """
        by_chance = self._spread * (1 / self._n + 1 / len(vectors))
        distance = float(np.linalg.norm(vectors.mean(axis=0, dtype=np.float64) - self._mean))
        return distance / float(np.sqrt(max(by_chance, 1e-12)))

    def _auc(self, vectors: Matrix) -> float:
        """The area of the classifier of `raystore.data.drift`, which a drift report gives too."""
        rng = np.random.default_rng(self._seed)
        rows = np.concatenate([self._reference, _some(vectors, rng)])
        truth = np.arange(len(rows))[None] < len(self._reference)
        return float(classifier_areas(rows, truth, rng)[0])


def stability(expected: Floats, found: Floats) -> float:
    """The population stability index of two counts over the same parts, less what chance gives, 0 at least.

    Without drift its mean is (B - 1)(1/N + 1/M), which for 77 labels and 500 rows a side is over 0.3. With that taken off, the usual
    bounds of 0.1 and 0.25 mean the same for any number of parts and rows.

    Source: Siddiqi, Credit Risk Scorecards (2006), the bounds; Yurdakul & Naranjo, Statistical Properties of the Population Stability
    Index, Journal of Risk Model Validation 14 (2020), the distribution.
    """
    by_chance = (len(expected) - 1) * float(1 / expected.sum() + 1 / found.sum())
    return max(0.0, psi(expected, found) - by_chance)


def stability_of_labels(expected: Counter[str], found: Counter[str]) -> float:
    """The index of two counts of labels. Those too rare to count on the smaller side (10 rows) share a part with their neighbours in
    the alphabet: parts made by how often a label was seen would be biased, since what is rare in one sample is less so in the next.
    """
    least = _ROWS_A_PART * expected.total() / min(expected.total(), found.total())
    labels = sorted(expected.keys() | found.keys())
    parts = [np.zeros(2)]
    for label in labels:
        if parts[-1][0] >= least:
            parts.append(np.zeros(2))
        parts[-1] += expected[label], found[label]
    if parts[-1][0] < least and len(parts) > 1:
        last = parts.pop()
        parts[-1] += last
    counts = np.array(parts)
    return stability(counts[:, 0], counts[:, 1])


def _some(vectors: Matrix, rng: np.random.Generator) -> Matrix:
    """As many of the rows as the classifier is fitted on."""
    return vectors[np.sort(rng.permutation(len(vectors))[:_TOLD_APART])]


def _parts(values: Floats) -> Floats:
    """The bounds between tenths of the values; fewer where many values are equal."""
    return np.unique(np.quantile(values, np.linspace(0, 1, _PARTS + 1)[1:-1]))


def _count(values: Floats, bounds: Floats) -> Floats:
    return np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1).astype(np.float64)


def _check(reference: Reference, window: int) -> None:
    n = len(reference.vectors)
    problems = [] if n >= LEAST else [f"the reference has {n} rows, expected {LEAST} or more"]
    if window < LEAST:
        problems.append(f"window is {window}, expected {LEAST} or more")
    for what, given in (("labels", reference.labels), ("scores", reference.scores)):
        if given is not None and len(np.asarray(given)) != n:
            problems.append(f"the reference has {len(np.asarray(given))} {what} and {n} rows, expected one a row")
    if problems:
        raise InvalidArguments(call="watch drift", problems=problems)
