"""Whether the newest requests of a deployment still look like what its head learned from; measured now and then, in a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from raystore.data.snapshots.snapshot import open_snapshot
from raystore.errors import RaystoreError
from raystore.serve.answer.loading import Rooms
from raystore.serve.recording.seen import Seen
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.spec.watch import Watch
from raystore.serve.watch import table
from raystore.serve.watch.drift import LEAST, DriftWatch, Reference
from raystore.serve.watch.metrics import Metrics
from raystore.train.snapshot_source import SnapshotSource
from raystore.vectors import Matrix, mark

log = logging.getLogger("raystore.serve")

_GAUGES = (table.DRIFT_PSI, table.DRIFT_MEAN_SHIFT, table.DRIFT_AUC, table.DRIFT_MEASURED)


class Drifting:
    """Of one deployment. Nothing is measured where its head's snapshot, or the vectors of it, are gone or too few."""

    def __init__(self, rooms: Rooms, watch: Watch, metrics: Metrics) -> None:
        self._rooms = rooms
        self._watch = watch
        self._metrics = metrics
        self._record: DeploymentRecord | None = None
        self._looks: DriftWatch | None = None
        self._unmade = False  # the record's reference failed to be made
        self._told = ""
        self._of_classes = False
        self._closed = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raystore-drift", daemon=True)
        self._thread.start()

    def expect(self, record: DeploymentRecord) -> None:
        """Compare with this record's head from now on."""
        changed = self._record is None or record.head != self._record.head
        self._record = record
        if changed:
            self._looks = None
            for gauge in _GAUGES:
                self._metrics.forget(gauge, record.name)
            self._wake.set()

    def add(self, seen: Seen) -> None:
        looks, record = self._looks, self._record
        if looks is None or record is None or seen.fingerprint != record.fingerprint:
            return
        if self._of_classes:
            looks.add(seen.vectors, [row.label or "" for row in seen.rows], [row.confidence or 0.0 for row in seen.rows])
        else:
            looks.add(seen.vectors)

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            woken = self._wake.wait(self._watch.drift_every_s)
            self._wake.clear()
            if self._closed:
                return
            record = self._record
            if record is None:
                continue
            try:
                if woken or self._unmade:
                    self._looks, self._unmade = None, True
                    self._looks = self._made(record)
                    self._unmade = False
                elif self._looks is not None:
                    self._measure(record.name, self._looks)
                self._told = ""
            except Exception as error:  # noqa: BLE001 - it is tried again when it is time to measure
                self._tell(record.name, str(error) if isinstance(error, RaystoreError) else type(error).__name__)

    def _tell(self, name: str, problem: str) -> None:
        if problem != self._told:  # it may stay, and once a minute nobody wants to read it
            log.warning("drift of deployment %s is not measured: %s", name, problem)
        self._told = problem

    def _measure(self, name: str, looks: DriftWatch) -> None:
        found = looks.measure()
        if found is None:
            return
        for of, value in found.psi.items():
            self._metrics.set(table.DRIFT_PSI, value, name, of)
        self._metrics.set(table.DRIFT_MEAN_SHIFT, found.mean_shift, name)
        self._metrics.set(table.DRIFT_AUC, found.auc, name)
        self._metrics.set(table.DRIFT_MEASURED, time.time(), name)

    def _made(self, record: DeploymentRecord) -> DriftWatch | None:
        """Rows of the head's snapshot that it was not fitted on, where there are enough; what it says of them is the reference."""
        if record.snapshot is None:
            return None
        head = self._rooms.head(record.head)
        snapshot = open_snapshot(self._rooms.catalog, f"{record.snapshot.name}@{record.snapshot.number}")
        source = SnapshotSource(
            str(self._rooms.layout.root),
            snapshot.collection,
            record.fingerprint,
            str(snapshot.folder),
            tuple(head.classes),
            head.task,
        )
        rows = self._rows(source, snapshot.spec["counts"])
        if len(rows) < LEAST:
            return None
        window = self._watch.drift_window
        chosen = rows[np.random.default_rng(0).permutation(len(rows))[:window]]
        predicted = head.predict(mark(chosen, record.fingerprint))
        self._of_classes = head.task == "classes"
        labels = [str(label) for label in predicted.labels] if self._of_classes else None
        scores = predicted.confidence if self._of_classes else None
        return DriftWatch(Reference(chosen, labels, scores), window=window)

    def _rows(self, source: SnapshotSource, counts: Mapping[str, int]) -> Matrix:
        """Vectors of test and val, with train's where those are fewer than LEAST: of many rows a part, twice the window at most."""
        held_out = self._part(source, ("test", "val"), counts)
        if len(held_out) >= LEAST:
            return held_out
        return np.concatenate([held_out, self._part(source, ("train",), counts)])

    def _part(self, source: SnapshotSource, sides: Sequence[str], counts: Mapping[str, int]) -> Matrix:
        every = max(1, sum(counts[side] for side in sides) // self._watch.drift_window)
        return np.concatenate([np.asarray(source.load(side, 0, every).vectors) for side in sides])
