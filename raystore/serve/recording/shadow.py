"""A shadow: a head, or an encoder and its head, that is asked what the live head was asked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from raystore.serve.answer.loading import Rooms
from raystore.serve.answer.said import spoken
from raystore.serve.kept.predictions import PredictionRow
from raystore.serve.recording.seal import Seal
from raystore.serve.recording.seen import Seen
from raystore.serve.spec.records import ShadowRef
from raystore.vectors import Vectors, mark


class Shadow:
    """Loads what it needs when it is first asked: a head takes milliseconds, an encoder seconds."""

    def __init__(self, rooms: Rooms, seal: Seal, shadow: ShadowRef) -> None:
        self._rooms = rooms
        self._seal = seal
        self._shadow = shadow
        self._head: Any = None
        self._encoder: Any = None

    def rows(self, seen: Seen) -> list[PredictionRow] | None:
        """What it says of each item; None where it would have to encode, and the items came without content."""
        if self._head is None:
            self._head = self._rooms.head(self._shadow.head)
        vectors = self._vectors(seen)
        if vectors is None:
            return None
        before = time.perf_counter()
        predicted = self._head.predict(vectors)
        ms = 1e3 * (time.perf_counter() - before)
        return [
            replace(
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
            for live, one in zip(seen.rows, spoken(self._head, predicted, len(seen), 2), strict=True)
        ]

    def _vectors(self, seen: Seen) -> Vectors | None:
        if seen.fingerprint == self._shadow.fingerprint:
            return mark(np.ascontiguousarray(seen.vectors), seen.fingerprint)
        if seen.content is None:
            return None
        if self._encoder is None:
            self._encoder = self._rooms.load_encoder(self._shadow.fingerprint, threads=1)
        encoded: Vectors = self._encoder.encode(self._seal.open(seen.content))
        return encoded
