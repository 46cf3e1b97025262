"""The encoders in memory of one process: what waits for each, and whether it still encodes its golden inputs as it did."""

from __future__ import annotations

import time
from collections.abc import Iterable

from raystore.encoders.records import read_encoder
from raystore.layout import Layout
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.watch import table
from raystore.serve.watch.golden import watch_golden
from raystore.serve.watch.metrics import Metrics


class WatchedEncoders:
    def __init__(self, layout: Layout, metrics: Metrics) -> None:
        self._layout = layout
        self._metrics = metrics
        self._tried = -float("inf")

    def look(self, encoders: Iterable[BatchingEncoder]) -> None:
        for encoder in encoders:
            self._metrics.set(table.QUEUE_DEPTH, len(encoder), queue_of(encoder))
            self._metrics.set(table.ENCODER_LOADED, 1, encoder.label)

    def try_golden(self, encoders: Iterable[BatchingEncoder], every_s: float) -> None:
        """Encode the golden inputs, where the last time is so long ago."""
        if time.monotonic() - self._tried >= every_s:
            self._tried = time.monotonic()
            watch_golden(self._metrics, [(e, read_encoder(self._layout, e.fingerprint).golden(e.label)) for e in encoders])


def queue_of(encoder: BatchingEncoder) -> str:
    return f"encode {encoder.label}"
