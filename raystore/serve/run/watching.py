"""What a replica does beside answering: its metrics are merged with the others', its encoders tried, its requests logged and traced."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping

from raystore.layout import Layout
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.run.away import Handle, asked
from raystore.serve.run.watched import WatchedEncoders, queue_of
from raystore.serve.spec.watch import Watch
from raystore.serve.watch import table
from raystore.serve.watch.finished import Teller
from raystore.serve.watch.json_logs import tell_log, write_json_logs
from raystore.serve.watch.merger import Merger, Told
from raystore.serve.watch.metrics import Metrics, Snapshot
from raystore.serve.watch.traces import Traces, open_traces

log = logging.getLogger("raystore.serve")

_EVERY_S = 2.0
_MERGED_S = 5.0  # how long another process is waited for; then what is known here is told
_AWAY_S = 1.0  # how long replicas of encoders and heads of their own are waited for
_LAST_S = 1.0


class Watching:
    """Of one ingress replica."""

    def __init__(
        self,
        layout: Layout,
        metrics: Metrics,
        recording: Handle | None,
        encoders: Mapping[str, Handle],
        heads: Mapping[str, Handle],
        before_look: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            recording: where the metrics of all processes are added up; by default here.
            encoders: those that are deployments of their own, by fingerprint.
            heads: the same of heads, by deployment.
            before_look: counts what others know of this replica, before its metrics are taken.
        """
        self._before_look = before_look
        self._metrics = metrics
        self._recording = recording
        self._away = frozenset(encoders)
        self._asked = (*encoders.values(), *heads.values())
        self._source = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._merger = Merger()
        self._golden = WatchedEncoders(layout, metrics)
        self._watch = Watch()
        self._encoders: Callable[[], Iterable[BatchingEncoder]] = tuple
        self._queues: Callable[[], dict[str, tuple[int, int]]] = dict
        self._traces: Traces | None = None
        self._tellers: list[Teller] = []
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def watch(
        self,
        spec: Watch,
        encoders: Callable[[], Iterable[BatchingEncoder]],
        queues: Callable[[], dict[str, tuple[int, int]]],
    ) -> list[Teller]:
        """Whom to tell of requests, from now on.

        Args:
            encoders: those that are asked here, wherever they run.
            queues: what waits in each, by name, and what may.
        """
        self._encoders, self._queues = encoders, queues
        if spec != self._watch or not self._thread:
            self._open(spec)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="raystore-watch", daemon=True)
            self._thread.start()
        return self._tellers

    def told(self) -> Told:
        """What all processes tell, or what is known of them here where the merged metrics do not come. Blocks."""
        mine = self._look()
        here = self._merger.told()
        if self._recording is not None:
            handle = self._recording
            try:
                merged: Told = asked(lambda: handle.told.remote(mine), _MERGED_S)
                return merged._replace(up_s=here.up_s)
            except Exception as error:  # noqa: BLE001 - metrics are told whatever became of the other process
                log.warning("the metrics of all processes are not to be had: %s", type(error).__name__)
        return here

    def close(self) -> None:
        """Before the process ends: what it counted last and the spans that wait go out, and its gauges are told no more."""
        self._ended.set()
        if self._traces is not None:
            self._traces.close()
        if self._recording is not None:
            handle, snapshot = self._recording, self._metrics.snapshot()
            try:
                asked(lambda: handle.ended.remote(self._source, snapshot), _LAST_S)
            except Exception as error:  # noqa: BLE001 - the other process may have ended before
                log.info("the last counts of this process were not told: %s", type(error).__name__)

    def _open(self, spec: Watch) -> None:
        if self._traces is not None:
            self._traces.close()
        self._watch = spec
        write_json_logs(spec.json_logs)
        self._traces = open_traces(spec)
        self._tellers = [*([tell_log()] if spec.json_logs else []), *([self._traces.tell] if self._traces else [])]

    def _here(self) -> list[BatchingEncoder]:
        return [encoder for encoder in self._encoders() if encoder.fingerprint not in self._away]

    def _look(self) -> dict[str, Snapshot]:
        """The metrics of this process, by its name, as they are now."""
        for name, (waiting, most) in self._queues().items():
            self._metrics.set(table.QUEUE_DEPTH, waiting, name)
            self._metrics.set(table.QUEUE_LIMIT, most, name)
        self._golden.look(self._here())
        for encoder in self._encoders():
            if encoder.fingerprint in self._away:  # what waits here for its replicas; they tell the rest
                self._metrics.set(table.QUEUE_DEPTH, len(encoder), queue_of(encoder))
        self._before_look()
        snapshot = self._metrics.snapshot()
        self._merger.put(self._source, snapshot)
        return {self._source: snapshot}

    def _elsewhere(self) -> dict[str, Snapshot]:
        """The metrics of each replica of encoders and heads of their own. Who does not answer now does the next time."""
        found: dict[str, Snapshot] = {}
        for handle in self._asked:
            try:
                answers = handle.broadcast("snapshot").results(timeout_s=_AWAY_S, return_exceptions=True)
            except Exception as error:  # noqa: BLE001 - no replica is up, or Serve does not say in time which
                log.info("replicas do not tell their metrics now: %s", type(error).__name__)
                continue
            found |= {each["id"]: each for each in answers if not isinstance(each, BaseException)}
        for source, snapshot in found.items():
            self._merger.put(source, snapshot)
        return found

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            try:
                told = self._look() | self._elsewhere()
                if self._recording is not None:
                    handle = self._recording
                    asked(lambda: handle.heard.remote(told), _MERGED_S)  # noqa: B023 - asked at once
                self._golden.try_golden(self._here(), self._watch.golden_every_s)
            except Exception as error:  # noqa: BLE001 - watching goes on, whatever a look ran into
                log.warning("a look at this replica failed: %s", type(error).__name__)
