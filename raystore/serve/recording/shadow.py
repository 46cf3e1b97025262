"""A shadow: a head, or an encoder and its head, that is asked what the live head was asked.

Shadows of one encoder share it, and what it made of a request: a candidate encoder is in memory once, however many heads stand on it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from raystore.serve.answer.loading import Rooms
from raystore.serve.answer.said import Spoken, spoken
from raystore.serve.kept.predictions import PredictionRow
from raystore.serve.recording.seen import Seen
from raystore.serve.spec.records import ShadowRef
from raystore.vectors import Vectors, mark

_REMEMBERED = 64  # requests: shadows of one encoder come to the same one soon after each other


class Candidate:
    """An encoder that answers nobody; loaded when it is first asked, which takes seconds. One request at a time."""

    def __init__(self, rooms: Rooms, fingerprint: str) -> None:
        self._rooms = rooms
        self._fingerprint = fingerprint
        self._encoder: Any = None
        self._made: OrderedDict[bytes, Vectors] = OrderedDict()  # by the digest of the sealed message
        self._turn = threading.Lock()

    def encode(self, message: bytes) -> Vectors:
        """The vectors of sealed items. SealBroken, and what the encoder raises."""
        key = hashlib.blake2b(message, digest_size=16).digest()
        with self._turn:
            made = self._made.get(key)
            if made is None:
                if self._encoder is None:
                    self._encoder = self._rooms.load_encoder(self._fingerprint, threads=1)
                items = self._rooms.seal.open(message)
                made = self._made[key] = self._encoder.encode(items)
                if len(self._made) > _REMEMBERED:
                    self._made.popitem(last=False)
            return made


class Candidates:
    """The candidate encoders of a process: one of each fingerprint, gone with the last shadow that asks it. Safe in many threads."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._there: WeakValueDictionary[str, Candidate] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, fingerprint: str) -> Candidate:
        with self._lock:
            found = self._there.get(fingerprint)
            if found is None:
                found = self._there[fingerprint] = Candidate(self._rooms, fingerprint)
            return found


class Shadow:
    """Loads its head when it is first asked, which takes milliseconds; `candidate` is its encoder."""

    def __init__(self, rooms: Rooms, shadow: ShadowRef, candidate: Candidate) -> None:
        self._rooms = rooms
        self._shadow = shadow
        self._candidate = candidate
        self._head: Any = None

    def rows(self, batch: Sequence[Seen]) -> list[list[PredictionRow] | None]:
        """What it says of the items of each request; None of one that it would have to encode and that came without content.

        The head is asked the first request alone, and how long that took is told; it is asked all others at once, which takes half
        as long for each and whose time would say nothing about one.
        """
        if self._head is None:
            self._head = self._rooms.head(self._shadow.head)
        vectors = [self._vectors(seen) for seen in batch]
        known = [(seen, rows) for seen, rows in zip(batch, vectors, strict=True) if rows is not None]
        told = iter([*self._said(known[:1], timed=True), *self._said(known[1:], timed=False)])
        return [None if rows is None else next(told) for rows in vectors]

    def _said(self, known: Sequence[tuple[Seen, Vectors]], *, timed: bool) -> list[list[PredictionRow]]:
        if not known:
            return []
        vectors = np.concatenate([np.asarray(rows) for _, rows in known])
        before = time.perf_counter()
        predicted = self._head.predict(mark(vectors, self._shadow.fingerprint))
        ms = 1e3 * (time.perf_counter() - before) if timed else None
        words = iter(spoken(self._head.task, predicted, len(vectors), 2))
        return [[self._row(live, next(words), ms) for live in seen.rows] for seen, _ in known]

    def _row(self, live: PredictionRow, one: Spoken, ms: float | None) -> PredictionRow:
        return replace(
            live,
            role="shadow",
            head=self._shadow.head,
            answered=None,
            rules=(),
            review=False,
            latency_ms=ms,
            label=one.said.label,
            labels=one.said.labels,
            value=one.said.value,
            confidence=one.said.confidence,
            abstained=one.said.abstained,
            margin=one.facts.get("margin"),
            second=one.facts.get("second"),
        )

    def _vectors(self, seen: Seen) -> Vectors | None:
        if seen.fingerprint == self._shadow.fingerprint:
            return mark(np.ascontiguousarray(seen.vectors), seen.fingerprint)
        return None if seen.content is None else self._candidate.encode(seen.content)
