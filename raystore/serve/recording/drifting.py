"""Whether the newest requests of a deployment still look like what its head learned from; measured now and then, in a thread."""

from __future__ import annotations

import logging
import threading
import time

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
from raystore.vectors import mark

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
                if woken:
                    self._looks = self._made(record)
                elif self._looks is not None:
                    self._measure(record.name, self._looks)
            except Exception as error:  # noqa: BLE001 - it is looked at again later
                told = error if isinstance(error, RaystoreError) else type(error).__name__
                log.warning("drift of deployment %s is not measured: %s", record.name, told)

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
        sides = [np.asarray(source.load(side, 0, 1).vectors) for side in ("test", "val", "train")]
        held_out = np.concatenate(sides[:2])
        rows = held_out if len(held_out) >= LEAST else np.concatenate(sides)
        if len(rows) < LEAST:
            return None
        chosen = rows[np.random.default_rng(0).permutation(len(rows))[: self._watch.drift_window]]
        predicted = head.predict(mark(chosen, record.fingerprint))
        self._of_classes = head.task == "classes"
        labels = [str(label) for label in predicted.labels] if self._of_classes else None
        scores = predicted.confidence if self._of_classes else None
        return DriftWatch(Reference(chosen, labels, scores), window=self._watch.drift_window)
