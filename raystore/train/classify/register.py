"""Classifiers as they are asked for, and as heads: published under a name, in numbered versions, with a report of their own.

A head of kind "neighbours" holds no weights: `head.json` names the collection, the place of the labels, and k; the vectors of
descriptions, where there are any, are its one array. So what it says follows the rows, and an erased one is gone from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.errors import HeadCorrupt
from raystore.index.manifest import latest
from raystore.index.search.searcher import IndexSearcher
from raystore.layout import Layout, check_name
from raystore.train.calibration import softmax
from raystore.train.classify.asked import Searcher
from raystore.train.classify.calibrate import LEAST, temperature_of
from raystore.train.classify.classifier import Classifier
from raystore.train.classify.labels import Labelled
from raystore.train.classify.vote import Codes, class_votes, vote_shares
from raystore.train.classify.voters import K, Voters, check_threshold, voters_of
from raystore.train.classify.zero_shot import sentence_of
from raystore.train.heads import DESCRIPTIONS, Head, HeadRecord
from raystore.train.metrics import accuracy
from raystore.train.report.report import Baselines, Report, measure
from raystore.vectors import Matrix, as_unit_rows

LEFT_OUT = "left-out"  # what the report calls the rows it is measured on
_MEASURED = 2_048
_BASELINE = 10


class Encodes(Protocol):
    """As raystore.encoders.registry.Encoder."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def encode(self) -> Callable[[Sequence[str]], Matrix]: ...


class Classifiers:
    """The classifiers of one collection, kept as they were asked for: labels and calibration are read once."""

    def __init__(self, catalog: Catalog, table: CollectionTable) -> None:
        self._catalog = catalog
        self._table = table
        self._kept: dict[tuple[str, str], Classifier] = {}

    def get(
        self,
        searcher: Searcher,
        encoder: Encodes,
        *,
        labels: str | Mapping[str, str],
        labelled: str | None = None,
        k: int = K,
        probes: int | None = None,
    ) -> Classifier:
        """The classifier of these arguments; see `voters_of`.

        Args:
            searcher: of the collection's vectors of this encoder.
        """
        name = self._table.name
        found = latest(self._table.layout, name, encoder.fingerprint)
        nlist = max((shard.nlist or 1 for shard in found[1].shards), default=1) if found and probes is not None else None
        voters = voters_of(f"classify in '{name}'", name, labels, labelled=labelled, k=k, probes=probes, nlist=nlist)
        key = encoder.fingerprint, voters.model_dump_json()
        kept = self._kept.get(key)
        if kept is None:
            fresh = Classifier(
                self._catalog, self._table, searcher, encoder.fingerprint, voters, descriptions=_encoded(encoder, voters)
            )
            kept = self._kept.setdefault(key, fresh)
        return kept

    def clear(self) -> None:
        self._kept.clear()


def register_classifier(
    layout: Layout, name: str, classifier: Classifier, encoder_label: str, *, threshold: float | None = None
) -> Head:
    """The classifier, published as head `name@n`.

    Its report is about a sample of the labelled rows, each classified by the nine tenths of the rows it is not among; the
    temperature of its probabilities is fitted on the odd ones, so that the even ones, which are reported, have no part in it.
    Without labelled rows nothing is measured.

    Raises:
        InvalidName, InvalidArguments: of the name, and the threshold.
    """
    check_name("a head", name, dashes=True)
    check_threshold(f"register_classifier('{name}')", threshold)
    started = time.perf_counter()
    voters, descriptions = classifier.voters, classifier.descriptions
    report = _report(name, classifier, encoder_label, threshold, started)
    record = HeadRecord(
        name=name,
        kind="neighbours",
        classes=classifier.classes,
        fingerprint=classifier.fingerprint,
        encoder=encoder_label,
        dim=classifier.dim,
        voters=voters,
        threshold=threshold,
    )
    arrays = {} if descriptions is None else {DESCRIPTIONS: descriptions}
    return Head(record, arrays, report, asks=classifier).save(layout)


def open_head(head: Head, searcher: Searcher | None = None) -> Classifier:
    """What a head of kind "neighbours" asks, opened in this process.

    Args:
        searcher: of the collection's vectors of the head's encoder; without it one is opened, with memory of its own.

    Raises:
        HeadCorrupt: it is not published. CollectionNotFound, TableNotFound, PassportMismatch: what it asks is gone.
    """
    voters = head.record.voters
    if voters is None or head.root is None:
        raise HeadCorrupt(path=head.label, found="it is not published, so the rows it asks are not to be found")
    layout = Layout(Path(head.root))
    table = CollectionTable.open(layout, voters.collection)
    table.check_encoder(head.fingerprint, head.encoder)
    return Classifier(
        Catalog(layout),
        table,
        searcher or IndexSearcher(table, layout, voters.collection, head.fingerprint),
        head.fingerprint,
        voters,
        descriptions=head.arrays.get(DESCRIPTIONS),
        classes=head.record.classes,
    )


def _encoded(encoder: Encodes, voters: Voters) -> Matrix | None:
    if not voters.described:
        return None
    vectors = encoder.encode([sentence_of(name, text) for name, text in voters.described.items()])
    return np.asarray(as_unit_rows(vectors, vectors.shape[1], "descriptions"))


def _report(name: str, classifier: Classifier, encoder: str, threshold: float | None, started: float) -> Report:
    voters = classifier.voters
    settings = {"k": voters.k, "probes": voters.probes, "labels": voters.labels, "described": len(voters.described)}
    sampled = classifier.sample(_MEASURED)
    labelled, sample = (None, None) if sampled is None else sampled
    if labelled is None or sample is None or len(sample.codes) < 2 * LEAST:
        return Report(
            head=name,
            split=LEFT_OUT,
            n={"train": 0 if labelled is None else len(labelled.row_ids), LEFT_OUT: 0},
            entities=0,
            scores={"accuracy": 0.0, "macro_f1": 0.0, "log_loss": 0.0, "ece": 0.0},
            baselines=Baselines(majority=0.0, knn10=0.0, knn10_train_rows=0, knn10_rows=0),
            seconds=time.perf_counter() - started,
            settings=settings,
            encoder=encoder,
            snapshot=str(voters),
        )
    codes, votes, others = sample
    fitted = np.arange(len(codes)) % 2 == 1
    temperature = temperature_of(votes.logits[fitted], codes[fitted], others[fitted])
    asked = ~fitted
    return measure(
        name,
        LEFT_OUT,
        codes[asked],
        softmax(votes.logits[asked], temperature),
        list(classifier.classes),
        n={"train": len(labelled.row_ids), LEFT_OUT: int(asked.sum())},
        temperature=temperature,
        threshold=threshold,
        baselines=_baselines(labelled, codes[asked], votes.codes[asked], votes.cosines[asked]),
        seconds=time.perf_counter() - started,
        settings=settings,
        encoder=encoder,
        snapshot=str(voters),
    )


def _baselines(labelled: Labelled, codes: Codes, near: Codes, cosines: Matrix) -> Baselines:
    """Of always the most frequent class, and of the 10 nearest, their votes weighing their cosines."""
    near, cosines = near[:, :_BASELINE], cosines[:, :_BASELINE]
    votes = class_votes(vote_shares(cosines, real=near >= 0, power=1.0), np.maximum(near, 0), len(labelled.counts))
    return Baselines(
        majority=float((codes == labelled.counts.argmax()).mean()),
        knn10=accuracy(codes, votes.round(6).argmax(axis=1)),
        knn10_train_rows=len(labelled.row_ids),
        knn10_rows=len(codes),
    )
