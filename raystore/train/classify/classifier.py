"""Which class is a text of? Asks the index for the nearest labelled rows, counts their votes, and says when it cannot tell.

Nothing is trained: what a row's label adds or takes away is in the next answer. Kept in memory are which rows have which label
(labels.py) and a calibration by rows that were left out, made anew when a tenth of the labels has moved since.

Cost of an answer: one search among the labelled rows, and the votes: 20 us in batches. The first one also reads the labels and
calibrates with 512 searches, a tenth of them at once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.errors import InvalidArguments
from raystore.train.calibration import softmax
from raystore.train.classify.asked import Searcher, View, Votes, cosines_of, evidence_of, joined, named, parts_of
from raystore.train.classify.calibrate import SAMPLE, Calibration, calibrate, evenly, far_below, folds
from raystore.train.classify.labels import NONE, Labelled, LabelledRows
from raystore.train.classify.result import Classified
from raystore.train.classify.vote import Codes, class_votes, log_votes, vote_shares
from raystore.train.classify.voters import Voters, check_threshold
from raystore.train.classify.zero_shot import Described, pseudo_votes
from raystore.train.heads import Predictions
from raystore.vectors import Matrix, as_unit_rows, check_fingerprint

_MOVED = 0.1  # the share of labels that calls for a new calibration


class Sample(NamedTuple):
    """Labelled rows, each asked about without its fold: their `codes`, their `votes`, and how many more rows their classes had."""

    codes: Codes
    votes: Votes
    others: Codes


class _State(NamedTuple):
    """What is known at one version: the labels, and what was calibrated by an earlier state of them."""

    version: int
    labelled: Labelled | None
    calibration: Calibration
    described_far: float | None
    by: Labelled | None
    by_rows: int


class Classifier:
    """Classifies by the labelled rows of one collection, by descriptions, or by both. Safe to call from many threads."""

    def __init__(
        self,
        catalog: Catalog,
        table: CollectionTable,
        searcher: Searcher,
        fingerprint: str,
        voters: Voters,
        *,
        descriptions: Matrix | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        """
        Args:
            descriptions: (c, d) the vectors of `voters.described`, in their order.
            classes: to stand first, in this order, after the described ones.

        Raises:
            TableNotFound, ColumnNotFound, InvalidArguments: there are no such labels.
        """
        self.voters = voters
        self.fingerprint = fingerprint
        self.dim = table.dim(fingerprint)
        self._call = f"classify in '{table.name}'"
        self._table = table
        self._searcher = searcher
        self._described = Described(voters.described, descriptions) if descriptions is not None else None
        first = tuple(dict.fromkeys([*voters.described, *classes]))
        self._labelled = LabelledRows(catalog, table, fingerprint, voters.labels, first) if voters.labels else None
        self._lock = threading.Lock()
        self._state: _State | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities. It only grows; one that nothing speaks for any more has a probability of 0."""
        return self._labelled.classes if self._labelled else tuple(self.voters.described)

    @property
    def descriptions(self) -> Matrix | None:
        return self._described.vectors if self._described else None

    def classify(
        self, vectors: object, *, threshold: float | None = None, leave_out: Sequence[str | None] = ()
    ) -> Classified:
        """The class of each vector, how sure that is, and the rows that say so.

        Args:
            vectors: (m, d), or one of d numbers; vectors of another encoder are refused.
            threshold: abstain below this confidence.
            leave_out: for each vector the id of a row that has no vote, itself in most cases.

        Raises:
            InvalidArguments: no row has a label, a threshold that is none. PassportMismatch, DimensionMismatch, InvalidVectors.
            ShardsMissing: no shard of the index answered.
        """
        check_threshold(self._call, threshold)
        rows = self._unit(vectors)
        view = self._searcher.view()
        state = self._current(view)
        classes = self.classes
        labels: list[str] = []
        why: list[str | None] = []
        voted: list[Votes] = []
        probabilities: list[Matrix] = []
        for part in parts_of(len(rows)):
            votes = self._votes(view, state.labelled, rows[part], ids=leave_out[part] if leave_out else ())
            found = softmax(votes.logits, state.calibration.temperature)
            probabilities.append(_wide(found, len(classes)))
            labels += [classes[i] for i in found.argmax(axis=1).tolist()]
            why += _why(votes, found.max(axis=1), state, threshold)
            voted.append(votes)
        together = np.concatenate(probabilities)
        met = [votes.found for votes in voted if votes.found is not None]
        return Classified(
            labels=labels,
            probabilities=together,
            confidence=together.max(axis=1),
            abstained=np.array([reason is not None for reason in why], dtype=np.bool_),
            why=why,
            evidence=evidence_of(voted, classes),
            classes=classes,
            fingerprint=self.fingerprint,
            index_version=view.number,
            collection_version=view.version,
            labels_version=state.labelled.labels_version if state.labelled else None,
            coverage=min([1.0, *(found.coverage for found in met)]),
            missing=sorted({shard for found in met for shard in found.missing}),
            exact=all(found.exact and not found.missing for found in met),
        )

    def predict(
        self, vectors: object, *, threshold: float | None = None, leave_out: Sequence[str | None] = ()
    ) -> Predictions:
        """The same as a head says it, without the evidence; see `classify`."""
        told = self.classify(vectors, threshold=threshold, leave_out=leave_out)
        return Predictions(told.labels, told.probabilities, told.confidence, told.abstained, told.classes)

    def sample(self, most: int = SAMPLE) -> tuple[Labelled, Sample | None] | None:
        """The labelled rows as they are now, and a sample of them asked about without themselves (None of a single row); None
        where none has a label."""
        view = self._searcher.view()
        labelled = self._labelled.at(view.version) if self._labelled else None
        if labelled is None or not len(labelled.row_ids):
            return None
        return labelled, self._sample(view, labelled, most)

    def _unit(self, vectors: object) -> Matrix:
        check_fingerprint(vectors, self.fingerprint, self._call, "Encode with the encoder of the labelled rows.")
        return np.asarray(as_unit_rows(vectors, self.dim, self._call))

    def _current(self, view: View) -> _State:
        """The labels at the view's version, with the calibration that still holds."""
        with self._lock:
            labelled = self._labelled.at(view.version) if self._labelled else None
            state = self._state
            if state is not None and state.version == view.version and state.labelled is labelled:
                return state
            if state is None or self._has_moved(state, labelled, view.rows):
                state = self._calibrated(view, labelled)
            self._state = state = state._replace(version=view.version, labelled=labelled)
            return state

    def _has_moved(self, state: _State, labelled: Labelled | None, rows: int) -> bool:
        if labelled is None or state.by is None:
            return abs(rows - state.by_rows) > _MOVED * state.by_rows
        return labelled.moved_from(state.by) > _MOVED * len(state.by.row_ids) or bool(
            ((labelled.counts > 0) != _wide(state.by.counts[None] > 0, len(labelled.counts))[0]).any()
        )

    def _calibrated(self, view: View, labelled: Labelled | None) -> _State:
        calibration, described_far = Calibration(), None
        if labelled is not None and len(labelled.row_ids):
            sampled = self._sample(view, labelled, SAMPLE)
            if sampled is not None:
                calibration = calibrate(sampled.votes.logits, sampled.codes, sampled.votes.nearest, sampled.others)
        if self._described is not None:
            row_ids = self._table.pin(self.fingerprint).row_ids()
            _, vectors = self._table.vectors_at(self.fingerprint, row_ids[evenly(len(row_ids), SAMPLE)])
            described_far = far_below(self._described.cosines(np.asarray(vectors)).max(axis=1))
        return _State(view.version, labelled, calibration, described_far, labelled, view.rows)

    def _sample(self, view: View, labelled: Labelled, most: int) -> Sample | None:
        """See `sample`; the rows of one fold stand together."""
        at = evenly(len(labelled.row_ids), most)
        found, vectors = self._table.vectors_at(self.fingerprint, labelled.row_ids[at])
        at, rows, fold = at[found], np.asarray(vectors), folds(labelled.codes)
        codes, votes, others = [], [], []
        for number in np.unique(fold[at]).tolist():
            beside = labelled.only(fold != number)
            if not len(beside.row_ids):  # a single row
                continue
            mine = fold[at] == number
            codes.append(labelled.codes[at[mine]])
            others.append(beside.counts[codes[-1]])
            votes += [self._votes(view, beside, rows[mine][part]) for part in parts_of(int(mine.sum()))]
        return Sample(np.concatenate(codes), joined(votes), np.concatenate(others)) if votes else None

    def _votes(
        self,
        view: View,
        labelled: Labelled | None,
        rows: Matrix,
        *,
        ids: Sequence[str | None] = (),
    ) -> Votes:
        """The votes for unit rows. `ids` (m,) are of rows that have none."""
        described = self._described.cosines(rows) if self._described else None
        nearest = described.max(axis=1) if described is not None else None
        n_classes = len(labelled.counts) if labelled is not None else len(self.classes)
        if labelled is None or not len(labelled.row_ids):
            if self._described is None or described is None:
                problem = f"no row has a label in '{self.voters.labels}'"
                raise InvalidArguments(call=self._call, problems=[problem])
            logits = log_votes(np.zeros(1), 0, self._described.shares(described, n_classes))
            none = np.empty((len(rows), 0), dtype=np.int64)
            return Votes(none, none, none.astype(np.float32), logits, nearest, None)
        k, extra = self.voters.k, int(bool(ids))
        whole = labelled.version == view.version and len(labelled.row_ids) == view.rows
        found = view.search(rows, k + extra, allowed=None if whole else labelled.row_ids, probes=self.voters.probes)
        near, cosines, codes = found.rows, cosines_of(found.scores, view.metric), labelled.codes_of(found.rows)
        if extra:
            itself = named(near, found.names, ids)
            last = np.argsort(itself | (codes == NONE), axis=1, kind="stable")[:, :k]
            codes = np.where(itself, NONE, codes)
            near, cosines, codes = (
                np.take_along_axis(near, last, axis=1),
                np.take_along_axis(cosines, last, axis=1),
                np.take_along_axis(codes, last, axis=1),
            )
        real = codes != NONE
        votes = class_votes(vote_shares(cosines, real=real), np.where(real, codes, 0), n_classes)
        spread = self._spread(labelled, described)
        return Votes(near, codes, cosines, log_votes(votes, real.sum(axis=1, keepdims=True), spread), nearest, found)

    def _spread(self, labelled: Labelled, described: Matrix | None) -> Any:
        """(c,) or (m, c): one vote over the classes that have a label or a description, and what the descriptions say."""
        counts = labelled.counts
        present = counts > 0
        if self._described is None or described is None:
            return present / (int(np.count_nonzero(present)) or 1)
        present[: len(self._described.vectors)] = True
        pseudo = pseudo_votes(counts, self.voters.k) * self._described.shares(described, len(labelled.counts))
        return present / np.count_nonzero(present) + pseudo


def _wide(rows: Any, width: int) -> Any:
    """The rows with columns of nothing for the classes that came meanwhile."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) if rows.shape[1] < width else rows


def _why(votes: Votes, confidence: Matrix, state: _State, threshold: float | None) -> list[str | None]:
    """Why it abstains, row by row; None where it does not."""
    said: list[str | None] = [None] * len(confidence)
    tests = []
    if state.calibration.far is not None:
        tests.append((votes.nearest, state.calibration.far, "the nearest labelled row"))
    if state.described_far is not None and votes.described is not None:
        tests.append((votes.described, state.described_far, "the nearest description"))
    if threshold is not None:
        for i in np.flatnonzero(confidence < np.float32(threshold)).tolist():
            said[i] = f"its confidence of {confidence[i]:.3f} is below the threshold of {threshold:g}"
    if tests:
        far = np.all([cosines < np.float32(least) for cosines, least, _ in tests], axis=0)
        for i in np.flatnonzero(far).tolist():
            parts = [
                f"{what} is at {cosines[i]:.3f}, 99% of the rows have one at {least:.3f}" for cosines, least, what in tests
            ]
            said[i] = f"it is far from everything: {'; '.join(parts)}"
    if votes.found is not None:
        for i in np.flatnonzero((votes.codes == NONE).all(axis=1)).tolist():
            said[i] = "no labelled row answered"
    return said
