"""What runs in the other deployments of the application: a head, the recording process; encoders are in `encoder.py`. Thin shells.

Serve makes the classes in replicas of their own; none listens for anybody but the ingress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.operations import Operations
from raystore.serve.recording.recorder import Recorder
from raystore.serve.recording.seen import Seen
from raystore.serve.run.follow import Follower
from raystore.serve.run.process import keep_calls_on_loopback, let_others_first, limit_memory, take_turns_quickly
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.json_logs import write_json_logs
from raystore.serve.watch.merger import Merger, Told
from raystore.serve.watch.metrics import Metrics, Snapshot
from raystore.session import no_core_files
from raystore.train.heads import Predictions
from raystore.vectors import Matrix, mark

_DRAIN_S = 10.0


class HeadReplica:
    """Heads of one deployment: the live one, and after a promotion the next."""

    def __init__(self, root: str) -> None:
        no_core_files()
        keep_calls_on_loopback()
        take_turns_quickly()
        self._rooms = Rooms(root)
        self._metrics = Metrics("head")

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        write_json_logs(config["json_logs"])

    def predict(self, head: str, rows: Matrix, fingerprint: str) -> Predictions:
        asked = self._rooms.head(head)
        found = asked.predict(mark(rows, fingerprint))
        # Of a head that was trained they never change, and whoever asks has them.
        return found if asked.asks is not None else found._replace(classes=())

    def snapshot(self) -> Snapshot:
        return self._metrics.snapshot()


class RecordingReplica:
    """Shadows, kept predictions, drift: see `recording.recorder`."""

    def __init__(self, root: str, memory_mb: int) -> None:
        no_core_files()
        keep_calls_on_loopback()
        let_others_first()  # those who wait for an answer
        self._rooms = Rooms(root)
        self._memory_mb = memory_mb
        self._metrics = Metrics("recording")
        self._merger = Merger()
        self._operations = Operations(self._rooms)
        self._watch = Watch()
        self._recorder: Recorder | None = None
        self._follower = Follower(self._rooms.catalog, self._change)

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        records = {n: DeploymentRecord.model_validate(r) for n, r in config["records"].items()}
        self._watch = watch = Watch(**config["watch"])
        write_json_logs(watch.json_logs)
        if self._recorder is None:
            self._recorder = Recorder(self._rooms, watch, self._metrics)
            limit_memory(self._memory_mb)
        self._recorder.watch(watch)
        self._recorder.allow(config["cpus"])
        self._follower.follow(records)

    def _change(self, records: Mapping[str, DeploymentRecord]) -> Mapping[str, DeploymentRecord]:
        assert self._recorder is not None
        self._recorder.update({name: record for name, record in records.items() if record.is_told(self._watch)})
        return records

    def take(self, batch: Sequence[Seen]) -> None:
        assert self._recorder is not None
        self._recorder.take(batch)

    def operate(self, call: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """A method of `Operations`: here, since claims are held in one process."""
        return getattr(self._operations, call)(*arguments, **named)

    def heard(self, told: Mapping[str, Snapshot]) -> None:
        """The metrics of other processes."""
        for source, snapshot in told.items():
            self._merger.put(source, snapshot)

    def ended(self, source: str, snapshot: Snapshot) -> None:
        """The last metrics of a process."""
        self._merger.end(source, snapshot)

    def told(self, told: Mapping[str, Snapshot]) -> Told:
        """The metrics of all processes, after those of the one that asks."""
        self.heard(told)
        if self._recorder is not None:
            self._recorder.look()
        self._merger.put("recording", self._metrics.snapshot())
        return self._merger.told()

    def __del__(self) -> None:
        """What waits is written down before the replica ends: Serve calls this then."""
        if self._recorder is not None:
            self._recorder.drain(_DRAIN_S)
            self._recorder.close()
