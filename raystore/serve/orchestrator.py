"""Answers: encoder -> head -> lineage, and a collection's log and search. Pure: no HTTP, no Ray, no file.

It holds the deployments' records and heads, and is handed three ways in: how an encoder is loaded, how a
collection is opened, what encoders there are. What it was handed is kept, so a request loads nothing that an
earlier one did. Safe in many threads: a change of deployments swaps one dictionary.

It holds texts and images only while it encodes them and never puts one into an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from raystore.data.sandbox.process import Rows
from raystore.encoders.bridged import Bridge
from raystore.encoders.items import Item
from raystore.errors import CollectionNotFound, DeploymentNotFound, InvalidArguments, PassportMismatch
from raystore.index.search.asked import SearchOptions
from raystore.index.search.question import question
from raystore.serve.batching import BatchingEncoder, ServedEncoder
from raystore.serve.served import Known, Live, Predicted, ServedCollection, ServedHead, ServedSql
from raystore.serve.spec import DeploymentRecord
from raystore.vectors import Vectors, as_unit_rows, mark


@dataclass
class Timer:
    """Milliseconds by stage; `total` since it was made."""

    stages: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = round(1e3 * (time.perf_counter() - before), 3)

    def done(self) -> dict[str, float]:
        return {**self.stages, "total": round(1e3 * (time.perf_counter() - self._start), 3)}


class Orchestrator:
    """What stands behind the routes. Every answer is a plain dictionary that carries the fingerprint."""

    def __init__(
        self,
        *,
        load_encoder: Callable[[str], ServedEncoder],
        resolve_encoder: Callable[[str], str],
        known_encoders: Callable[[], Sequence[Known]],
        open_collection: Callable[[str], ServedCollection],
        collection_names: Callable[[], Sequence[str]],
        table_names: Callable[[], Sequence[str]],
        sandbox: ServedSql,
        where: str = "this service",
    ) -> None:
        """
        Args:
            load_encoder: the encoder of a fingerprint, in memory and golden-checked; slow, called once each.
            resolve_encoder: the fingerprint of a name, label or fingerprint; EncoderNotFound.
            known_encoders: those of the store, by name.
            open_collection: a collection by name; called once each.
            collection_names, table_names: those this service serves; tables are for SQL alone.
            sandbox: runs SQL away from here.
            where: what error sentences call this service.
        """
        self._load_encoder = load_encoder
        self._resolve_encoder = resolve_encoder
        self._known_encoders = known_encoders
        self._open_collection = open_collection
        self._collection_names = collection_names
        self._table_names = table_names
        self._sandbox = sandbox
        self._where = where
        self._live: dict[str, Live] = {}
        self._encoders: dict[str, BatchingEncoder] = {}
        self._collections: dict[str, ServedCollection] = {}
        self._loading = threading.Lock()

    @property
    def live(self) -> Mapping[str, Live]:
        return self._live

    def update(self, deployments: Mapping[str, Live]) -> None:
        """Serve these from now on. Their encoders are loaded first; requests under way end with what they began with."""
        for deployment in deployments.values():
            self.encoder(deployment.record.reads)
        self._live = dict(deployments)

    def adopt(self, other: Orchestrator) -> None:
        """Take over the encoders another orchestrator of this store has in memory."""
        self._encoders.update(other._encoders)

    def close(self) -> None:
        """Let go of what does not end by itself. Requests under way are still answered."""
        self._sandbox.close()

    def encoder(self, fingerprint: str) -> BatchingEncoder:
        found = self._encoders.get(fingerprint)
        if found is None:
            with self._loading:
                found = self._encoders.get(fingerprint)
                if found is None:
                    found = self._encoders[fingerprint] = BatchingEncoder(self._load_encoder(fingerprint))
        return found

    def collection(self, name: str) -> ServedCollection:
        """Raises CollectionNotFound with the names that are served."""
        existing = self._collection_names()
        if name not in existing:
            raise CollectionNotFound(name=name, where=self._where, existing=sorted(existing))
        if name not in self._collections:
            self._collections[name] = self._open_collection(name)
        return self._collections[name]

    def models(self) -> list[dict[str, Any]]:
        """The store's encoders by name, as OpenAI's clients list models."""
        return [_card(known) for known in self._known_encoders()]

    def model(self, name: str) -> dict[str, Any]:
        """The encoder of a name, label or fingerprint; one that has no name any more goes by its fingerprint.

        Raises:
            EncoderNotFound: with the names there are.
        """
        fingerprint = self._resolve_encoder(name)
        same = [known for known in self._known_encoders() if known.fingerprint == fingerprint]
        asked = [known for known in same if known.name == name]
        if same:
            return _card((asked or same)[0])
        passport = self.encoder(fingerprint).passport
        return _card(Known(fingerprint, fingerprint, passport.modalities, passport.dim, created=0))

    def predict(self, name: str, items: Sequence[Item], *, top: int, request_id: str) -> dict[str, Any]:
        """A prediction per item, in order; durable in the log's collection, where there is one, before it returns.

        Raises:
            DeploymentNotFound: with the names there are.
            ItemsUnusable: items the encoder does not take or cannot read.
            And what a log raises: nothing was answered then.
        """
        live = self._live.get(name)
        if live is None:
            raise DeploymentNotFound(name=name, where=self._where, existing=sorted(self._live))
        timer = Timer()
        with timer.stage("encode"):
            encoder = self.encoder(live.record.reads)
            vectors = encoder.encode(items)
            if live.record.through is not None and encoder.bridge is not None:
                vectors = encoder.bridge.ask(vectors)
        with timer.stage("head"):
            predicted = live.head.predict(vectors)
        logged = None
        if live.record.log is not None:
            with timer.stage("log"):
                logged = self._keep(live.record, live.record.log, items, vectors, request_id)
        return {
            "predictions": [_prediction(live.head, predicted, i, top) for i in range(len(items))],
            "lineage": live.lineage,
            "fingerprint": live.record.fingerprint,
            "bridged": encoder.bridge.said if live.record.through is not None and encoder.bridge else None,
            "logged": logged,
            "request_id": request_id,
            "timings_ms": timer.done(),
        }

    def _keep(
        self, record: DeploymentRecord, name: str, items: Sequence[Item], vectors: Vectors, request_id: str
    ) -> list[str]:
        ids = [request_id] if len(vectors) == 1 else [f"{request_id}-{i}" for i in range(len(vectors))]
        collection = self._opened(name)
        encoders = self._encoders_of(collection)
        # A bridge's vectors are not logged: its column would not say whether they were mapped.
        if len(encoders) == 1 and self.encoder(record.reads).bridge is None:
            rows = [{"id": id_, "vector": vector} for id_, vector in zip(ids, vectors, strict=True)]
        else:  # the others need the content, and it is gone when this request is answered
            rows = [
                {"id": id_, "text" if isinstance(item, str) else "image": item}
                for id_, item in zip(ids, items, strict=True)
            ]
        collection.log(rows, encoders, record.fingerprint)
        return ids

    def _encoders_of(self, collection: ServedCollection) -> dict[str, BatchingEncoder]:
        """All encoders of a collection: a logged row gets a vector of each, for its content is not kept."""
        return {fingerprint: self.encoder(loaded) for fingerprint, loaded in collection.loaded_as.items()}

    def _opened(self, name: str) -> ServedCollection:
        """A collection a deployment logs to; it need not be among those that are served."""
        if name not in self._collections:
            self._collections[name] = self._open_collection(name)
        return self._collections[name]

    def log(
        self, name: str, rows: Sequence[Mapping[str, Any]], *, fingerprint: str | None = None, request_id: str
    ) -> dict[str, Any]:
        """What was added; durable when it returns. Raises what `RowLog.log` raises."""
        collection = self.collection(name)
        timer = Timer()
        self._encoder_of(name, collection, fingerprint)  # raises where the vectors are of none of its encoders
        result = collection.log(rows, self._encoders_of(collection), fingerprint)
        return {
            "added": result.added,
            "known": result.known,
            "version": result.version,
            "fingerprint": result.fingerprint,
            "request_id": request_id,
            "timings_ms": timer.done(),
        }

    def search(
        self,
        name: str,
        *,
        item: Item | None = None,
        id: str | None = None,
        vector: Sequence[float] | None = None,
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        fingerprint: str | None = None,
        through: str | None = None,
        request_id: str,
        **options: Unpack[SearchOptions],
    ) -> dict[str, Any]:
        """The rows nearest to a text or an image, to a row by its id (itself among them) or to a vector, moved towards the liked rows
        and away from the unliked ones; `options` as `IndexSearcher.search` takes them.

        Args:
            fingerprint: the encoder to search by; of a vector through a bridge, the one that made it.
            through: the name of a bridge that leads to the encoder that is searched.

        Raises:
            CollectionNotFound, ItemsUnusable, ItemNotFound, PassportMismatch, DimensionMismatch, InvalidVectors, InvalidArguments,
            SqlRefused (`where`), ColumnNotFound, ShardsMissing.
        """
        collection = self.collection(name)
        timer = Timer()
        bridge = None if through is None else self._bridge(through)
        asked = fingerprint if bridge is None else bridge.target
        chosen = self._encoder_of(name, collection, asked)
        with timer.stage("encode"):
            base: Vectors | None = None
            if bridge is not None and item is not None:
                base = bridge.ask(self.encoder(bridge.fingerprint).encode([item]))
            elif bridge is not None and vector is not None:
                base = bridge.ask(mark(np.asarray(vector, np.float32), fingerprint or bridge.source))
            elif item is not None:
                base = self.encoder(chosen).encode([item])
            elif id is not None:
                base = collection.vectors_of([id], chosen)
            elif vector is not None:
                base = mark(as_unit_rows(vector, self.encoder(chosen).dim, "search"), chosen)
            query, without = question(collection, chosen, base, like, unlike, "search")
        with timer.stage("search"):
            found = collection.search(query, fingerprint=chosen, without=without, **options)
        return {
            "hits": [
                {"id": i, "score": s, "columns": c, "bridged": m}
                for i, s, c, m in zip(found.ids, found.scores, found.columns, found.mapped, strict=True)
            ],
            "cursor": found.cursor,
            "truncated": found.truncated,
            "coverage": found.coverage,
            "missing": found.missing,
            "exact": found.exact,
            "metric": found.metric,
            "version": found.version,
            "index_version": found.index_version,
            "fingerprint": chosen,
            "bridged": bridge.said if bridge is not None else found.bridged,
            "request_id": request_id,
            "timings_ms": timer.done(),
        }

    def _bridge(self, name: str) -> Bridge:
        """The bridge of that name. EncoderNotFound, InvalidArguments where it is none."""
        encoder = self.encoder(self._resolve_encoder(name))
        if encoder.bridge is None:
            problem = f"through names {encoder.label}, which is no bridge between two encoders"
            raise InvalidArguments(call="search", problems=[problem])
        return encoder.bridge

    def embed(
        self, items: Sequence[Item], model: str, *, dimensions: int | None = None
    ) -> tuple[Vectors, BatchingEncoder, int]:
        """The vectors of the items, the encoder that made them, and how many tokens it read of the texts.

        Raises:
            EncoderNotFound: with the names there are.
            InvalidArguments: `dimensions` is not the encoder's own.
            ItemsUnusable: items the encoder does not take or cannot read.
        """
        encoder = self.encoder(self._resolve_encoder(model))
        if dimensions not in (None, encoder.dim):
            problem = (
                f"dimensions is {dimensions}, and this encoder has {encoder.dim} only; "
                "where its model was trained to be cut, register it with dimensions= under a name of its own"
            )
            raise InvalidArguments(call="embeddings", problems=[problem])
        texts = [item for item in items if isinstance(item, str)]
        return encoder.encode(items), encoder, encoder.count_tokens(texts) if texts else 0

    def sql(
        self, query: str, params: Mapping[str, Any], *, limit: int, form: Literal["json", "arrow"] = "json"
    ) -> tuple[Rows, float]:
        """The query's rows over what this service serves, and the seconds they took.

        Raises:
            QueryRefused, QueryStopped, QueryBusy: see `SqlSandbox.run`.
        """
        started = time.perf_counter()
        served = {"collections": self._collection_names(), "tables": self._table_names()}
        rows = self._sandbox.run(query, params, **served, limit=limit, form=form)
        return rows, round(time.perf_counter() - started, 4)

    def _encoder_of(self, name: str, collection: ServedCollection, fingerprint: str | None) -> str:
        """The encoder to use on a collection: the one asked for, else its current one. PassportMismatch where it does not fit."""
        held = collection.fingerprints
        if fingerprint is not None and fingerprint in held:
            return fingerprint
        if fingerprint is not None or not held:
            raise PassportMismatch(
                asker=f"collection '{name}'",
                expected=" or ".join(held) or "no encoder",
                found=fingerprint or "no fingerprint",
                advice="Encode with the collection's encoder, or use a collection made for this one.",
            )
        return held[0]


def _card(known: Known) -> dict[str, Any]:
    return {
        "id": known.name,
        "created": known.created,
        "fingerprint": known.fingerprint,
        "modalities": known.modalities,
        "dimensions": known.dim,
    }


def _prediction(head: ServedHead, predicted: Predicted, i: int, top: int) -> dict[str, Any]:
    """One row of what a head says, as `wire.Prediction` and its siblings have it."""
    if head.task == "number":
        return {"value": float(predicted.labels[i])}
    shared = {
        "confidence": float(predicted.confidence[i]),
        "probabilities": _top(head.classes, predicted.probabilities[i], top),
    }
    if head.task == "labels":
        return {"labels": [str(label) for label in predicted.labels[i]], **shared}
    return {"label": str(predicted.labels[i]), "abstained": bool(predicted.abstained[i]), **shared}


def _top(classes: Sequence[str], probabilities: npt.NDArray[np.float32], n: int) -> list[dict[str, Any]]:
    """The n most likely labels, highest first; ties keep the order of the classes."""
    best = np.argsort(-probabilities, kind="stable")[:n]
    return [{"label": str(classes[i]), "probability": float(probabilities[i])} for i in best]
