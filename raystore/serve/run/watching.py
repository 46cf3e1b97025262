"""What a replica does beside answering: its metrics are merged with the others', its encoders tried, its requests logged and traced."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable

from raystore.encoders.records import read_encoder
from raystore.layout import Layout
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.lane import Lane
from raystore.serve.run.away import Handle, asked
from raystore.serve.spec.watch import Watch
from raystore.serve.watch import table
from raystore.serve.watch.finished import Teller
from raystore.serve.watch.golden import watch_golden
from raystore.serve.watch.json_logs import start_json_logs, stop_json_logs, tell_log
from raystore.serve.watch.merging import Series, merge, series_of
from raystore.serve.watch.metrics import Metrics
from raystore.serve.watch.traces import Traces, open_traces

log = logging.getLogger("raystore.serve")

_EVERY_S = 2.0
_MERGED_S = 5.0  # how long the merged metrics are waited for; then this process's own are told


class Watching:
    """Of one ingress replica."""

    def __init__(self, layout: Layout, metrics: Metrics, recording: Handle | None) -> None:
        self._layout = layout
        self._metrics = metrics
        self._recording = recording
        self._source = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._watch = Watch()
        self._encoders: Callable[[], Iterable[BatchingEncoder]] = tuple
        self._lanes: Callable[[], dict[str, tuple[Lane[object], int]]] = dict
        self._json: logging.Handler | None = None
        self._traces: Traces | None = None
        self._tellers: list[Teller] = []
        self._thread: threading.Thread | None = None

    def watch(
        self,
        spec: Watch,
        encoders: Callable[[], Iterable[BatchingEncoder]],
        lanes: Callable[[], dict[str, tuple[Lane[object], int]]],
    ) -> list[Teller]:
        """Whom to tell of requests, from now on.

        Args:
            encoders: those that are in memory here.
            lanes: the queues there are, by name, and what each may hold.
        """
        self._encoders, self._lanes = encoders, lanes
        if spec != self._watch or not self._thread:
            self._open(spec)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="raystore-watch", daemon=True)
            self._thread.start()
        return self._tellers

    def series(self) -> Series:
        """The metrics of all processes, or of this one alone where the merged ones do not come. Blocks."""
        self._look()
        snapshot = self._metrics.snapshot()
        if self._recording is not None:
            handle = self._recording
            try:
                merged: Series = asked(lambda: handle.series.remote(self._source, snapshot), _MERGED_S)
                return merged
            except Exception as error:  # noqa: BLE001 - metrics are told whatever became of the other process
                log.warning("the metrics of all processes are not to be had: %s", type(error).__name__)
        return merge([series_of(snapshot)])

    def _open(self, spec: Watch) -> None:
        if self._json is not None:
            stop_json_logs(self._json)
        if self._traces is not None:
            self._traces.close()
        self._watch = spec
        self._json = start_json_logs() if spec.json_logs else None
        self._traces = open_traces(spec)
        self._tellers = [*([tell_log()] if spec.json_logs else []), *([self._traces.tell] if self._traces else [])]

    def _look(self) -> None:
        for name, (lane, most) in self._lanes().items():
            self._metrics.set(table.QUEUE_DEPTH, len(lane), name)
            self._metrics.set(table.QUEUE_LIMIT, most, name)
        for encoder in self._encoders():
            self._metrics.set(table.QUEUE_DEPTH, len(encoder), f"encode {encoder.label}")
            self._metrics.set(table.ENCODER_LOADED, 1, encoder.label)

    def _run(self) -> None:
        tried = 0.0
        while True:
            time.sleep(_EVERY_S)
            try:
                self._look()
                if self._recording is not None:
                    handle, snapshot = self._recording, self._metrics.snapshot()
                    asked(lambda: handle.heard.remote(self._source, snapshot), _MERGED_S)  # noqa: B023 - asked at once
                if time.monotonic() - tried >= self._watch.golden_every_s:
                    tried = time.monotonic()
                    expected = [(e, read_encoder(self._layout, e.fingerprint).golden(e.label)) for e in self._encoders()]
                    watch_golden(self._metrics, expected)
            except Exception as error:  # noqa: BLE001 - watching goes on, whatever a look ran into
                log.warning("a look at this replica failed: %s", type(error).__name__)
