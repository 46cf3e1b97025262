"""A collection's log and search as they are asked for from outside. Pure: handed how collections and encoders are opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

import numpy as np

from raystore.encoders.bridged import Bridge
from raystore.encoders.items import Item
from raystore.errors import CollectionNotFound, InvalidArguments, PassportMismatch
from raystore.index.search.asked import SearchOptions
from raystore.index.search.question import question
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.deadline import check_in_time
from raystore.serve.answer.served import ServedCollection
from raystore.serve.answer.timer import Timer
from raystore.vectors import Vectors, as_unit_rows, mark

T = TypeVar("T")


class Collections:
    """The collections a service knows; those it serves by name to others, any to its own deployments."""

    def __init__(
        self,
        *,
        open_collection: Callable[[str], ServedCollection],
        names: Callable[[], Sequence[str]],
        encoder: Callable[[str], BatchingEncoder],
        resolve_encoder: Callable[[str], str],
        where: str,
        logged: Callable[[str, int], None] = lambda _name, _added: None,
    ) -> None:
        """
        Args:
            open_collection: by name; whoever opens it keeps it.
            names: those that are served.
            encoder: of a fingerprint, in memory.
            resolve_encoder: the fingerprint of a name, label or fingerprint.
            where: what error sentences call this service.
            logged: told of a collection and how many rows were added.
        """
        self._logged = logged
        self.opened = open_collection  # any of the store: what a deployment logs to need not be served
        self.names = names
        self._encoder = encoder
        self._resolve_encoder = resolve_encoder
        self._where = where

    def served(self, name: str) -> ServedCollection:
        """Raises CollectionNotFound with the names that are served."""
        existing = self.names()
        if name not in existing:
            raise CollectionNotFound(name=name, where=self._where, existing=sorted(existing))
        return self.opened(name)

    def with_encoders(self, collection: ServedCollection, write: Callable[[Mapping[str, BatchingEncoder]], T]) -> T:
        """What `write` returned, given all encoders of the collection: a logged row gets a vector of each, for its content is not kept.
        Again, where one of them was retired before the rows were written."""
        while True:
            encoders = {fingerprint: self._encoder(loaded) for fingerprint, loaded in collection.loaded_as.items()}
            try:
                return write(encoders)
            except PassportMismatch:
                if set(encoders) == set(collection.fingerprints):
                    raise

    def log(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        fingerprint: str | None = None,
        request_id: str,
        timer: Timer | None = None,
    ) -> dict[str, Any]:
        """What was added; durable when it returns. Raises what `RowLog.log` raises, and DeadlineMissed, before anything is written."""
        check_in_time("before the rows were looked at")
        timer = timer or Timer()
        collection = self.served(name)
        self._encoder_of(name, collection, fingerprint)  # raises where the vectors are of none of its encoders
        with timer.stage("log"):
            result = self.with_encoders(collection, lambda encoders: collection.log(rows, encoders, fingerprint))
        self._logged(name, result.added)
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
        timer: Timer | None = None,
        **options: Unpack[SearchOptions],
    ) -> dict[str, Any]:
        """The rows nearest to a text or an image, to a row by its id (itself among them) or to a vector, moved towards the liked rows
        and away from the unliked ones; `options` as `IndexSearcher.search` takes them.

        Args:
            fingerprint: the encoder to search by; of a vector through a bridge, the one that made it.
            through: the name of a bridge that leads to the encoder that is searched.

        Raises:
            CollectionNotFound, ItemsUnusable, ItemNotFound, PassportMismatch, DimensionMismatch, InvalidVectors, InvalidArguments,
            SqlRefused (`where`), ColumnNotFound, ShardsMissing, DeadlineMissed.
        """
        timer = timer or Timer()
        collection = self.served(name)
        bridge = None if through is None else self._bridge(through)
        asked = fingerprint if bridge is None else bridge.target
        chosen = self._encoder_of(name, collection, asked)
        with timer.stage("encode"):
            base: Vectors | None = None
            if bridge is not None and item is not None:
                base = bridge.ask(self._encoder(bridge.fingerprint).encode([item], timer=timer))
            elif bridge is not None and vector is not None:
                base = bridge.ask(mark(np.asarray(vector, np.float32), fingerprint or bridge.source))
            elif item is not None:
                base = self._encoder(chosen).encode([item], timer=timer)
            elif id is not None:
                base = collection.vectors_of([id], chosen)
            elif vector is not None:
                base = mark(as_unit_rows(vector, self._encoder(chosen).dim, "search"), chosen)
            query, without = question(collection, chosen, base, like, unlike, "search")
        check_in_time("before the collection was searched")
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
        encoder = self._encoder(self._resolve_encoder(name))
        if encoder.bridge is None:
            problem = f"through names {encoder.label}, which is no bridge between two encoders"
            raise InvalidArguments(call="search", problems=[problem])
        return encoder.bridge

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
