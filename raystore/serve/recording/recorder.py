"""Takes what replicas tell, asks the shadows, writes predictions down, and looks for drift; in threads of its own.

Live predictions are written at once, in groups. Each shadow has a lane: a head that sleeps or raises is late alone, and what it cannot
take is dropped and counted. A shadow whose encoder is another one encodes the sealed content here. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from raystore.errors import RaystoreError
from raystore.serve.answer.asked import share
from raystore.serve.answer.loading import Rooms, hook_failed
from raystore.serve.kept.predictions import PredictionRow, Predictions, predictions_name
from raystore.serve.lane import Lane, patiently
from raystore.serve.recording.budget import Budget
from raystore.serve.recording.drifting import Drifting
from raystore.serve.recording.seen import Seen, bytes_of_row
from raystore.serve.recording.shadow import Candidates, Shadow
from raystore.serve.rules.engine import Rules
from raystore.serve.spec.alias import settle
from raystore.serve.spec.records import DeploymentRecord, ShadowRef
from raystore.serve.spec.rules import RulesSpec
from raystore.serve.spec.watch import Watch
from raystore.serve.watch import table
from raystore.serve.watch.metrics import Metrics

log = logging.getLogger("raystore.serve")

_ROWS = 2_000  # prediction rows of one commit
# Between two commits of a deployment: each costs 10 to 30 ms of the cores that answer, whatever it holds.
_PAUSE_S = 2.0
_DRAIN_S = 5.0  # for a deployment that is recorded no more
_WAITING_ROWS = 50_000
_WAITING_SEEN = 2_000  # requests that a shadow may be behind
# Items that a shadow head is asked at once. One that encodes is asked a request at a time: content that does not open is dropped alone.
_TOGETHER = 256


class Recorder:
    """Of all deployments of a store that keep predictions, or whose drift is watched."""

    def __init__(self, rooms: Rooms, watch: Watch, metrics: Metrics) -> None:
        self._rooms = rooms
        self._watch = watch
        self._metrics = metrics
        self._budget = Budget()
        self._candidates = Candidates(rooms)
        self._deployments: dict[str, _Deployment] = {}

    def update(self, records: Mapping[str, DeploymentRecord]) -> None:
        """Record for these from now on; a shadow that stays keeps what it has in memory. An alias that a promotion was kept from
        moving is moved."""
        for name in [name for name in self._deployments if name not in records]:
            gone = self._deployments.pop(name)
            gone.drain(time.monotonic() + _DRAIN_S)
            gone.close()
        for name, record in records.items():
            present = self._deployments.get(name)
            if present is None:
                made = _Deployment(record, self._rooms, self._candidates, self._watch, self._metrics, self._budget)
                self._deployments[name] = made
            elif present.record != record:
                present.update(record)
            settle(self._rooms.catalog, name)
        self._budget.share_among(sum(len(each.lanes) for each in self._deployments.values()))

    def allow(self, cores: float | None) -> None:
        """Let shadows keep so many cores busy from now on; None: an eighth of the machine's."""
        self._budget.allow(cores)

    def watch(self, watch: Watch) -> None:
        """Look for drift as this says, from now on."""
        if watch != self._watch:
            self._watch = watch
            for deployment in self._deployments.values():
                deployment.watch(watch)

    def take(self, batch: Sequence[Seen]) -> None:
        """Returns at once. What there is no room for is dropped and counted, and so is what is of a deployment that is recorded no
        more, or not yet: replicas take a change up when they see it, this process when it does."""
        of: dict[str, list[Seen]] = {}
        for seen in batch:
            of.setdefault(seen.deployment, []).append(seen)
        for name, seens in of.items():
            deployment = self._deployments.get(name)
            if deployment is None:
                self._metrics.count(table.RECORDING_DROPPED, name, "unknown deployment", by=sum(map(len, seens)))
            else:
                deployment.take(seens)

    def drain(self, wait_s: float) -> bool:
        """Whether everything that was taken was written down within that time."""
        until = time.monotonic() + wait_s
        return all([each.drain(until) for each in self._deployments.values()])  # noqa: C419 - of all, whatever one says

    def look(self) -> None:
        """Tell what others change too: how many items wait for a label, which comes over HTTP or from another process. Where nothing
        changed that costs a look at a folder or two."""
        for deployment in list(self._deployments.values()):
            deployment.look()

    def close(self) -> None:
        for deployment in self._deployments.values():
            deployment.close()


class _Deployment:
    def __init__(
        self,
        record: DeploymentRecord,
        rooms: Rooms,
        candidates: Candidates,
        watch: Watch,
        metrics: Metrics,
        budget: Budget,
    ) -> None:
        self._rooms = rooms
        self._budget = budget
        self._candidates = candidates
        self._metrics = metrics
        self._kept: dict[tuple[str, ...], Predictions] = {}
        self._rows: Lane[tuple[tuple[str, ...], PredictionRow]] = Lane(
            f"predictions-{record.name}", self._write, most=_WAITING_ROWS, batch=_ROWS, pause_s=_PAUSE_S,
            bytes_of=lambda each: bytes_of_row(each[1]), dropped=lambda rows, reason: self._lost(reason, len(rows)),
        )  # fmt: skip
        self._shadows: dict[str, Lane[Seen]] = {}
        self._rules: Lane[Seen] | None = None
        self._looked_at: RulesSpec | None = None
        self._drifting = Drifting(rooms, watch, metrics)
        self.update(record)

    def watch(self, watch: Watch) -> None:
        self._drifting.close()
        self._drifting = Drifting(self._rooms, watch, self._metrics)
        self._drifting.expect(self.record)

    def update(self, record: DeploymentRecord) -> None:
        self.record = record
        if record.review is None:
            self._metrics.forget(table.REVIEW_OPEN, record.name)
        else:  # there from the start, so that Prometheus sees the first rise
            self._metrics.count(table.REVIEW_LEFT_OUT, record.name, by=0)
        wanted = {shadow.head: shadow for shadow in record.shadow}
        for head in [head for head in self._shadows if head not in wanted]:
            self._shadows.pop(head).close()
        for head, shadow in wanted.items():
            if head not in self._shadows:
                together = _TOGETHER if shadow.fingerprint == record.fingerprint else 1
                self._shadows[head] = self._lane(f"shadow-{head}", self._asks(shadow), together)
        if record.rules != self._looked_at:  # their quotas count on otherwise
            if self._rules is not None:
                self._rules.close()
            looks = (
                self._looks(Rules(record.rules, failed=partial(hook_failed, self._metrics, record.name)))
                if record.rules.shadow
                else None
            )
            # A hook may wait for somebody; a head computes, and an encoder does so in threads of its own.
            self._rules = self._lane(f"rules-{record.name}", looks, clock=time.thread_time) if looks else None
            self._looked_at = record.rules
        self._drifting.expect(record)

    def _lane(
        self, name: str, work: Callable[[list[Seen]], None], batch: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> Lane[Seen]:
        return Lane(
            name,
            work,
            most=_WAITING_SEEN,
            batch=batch,
            size=len,
            bytes_of=lambda seen: seen.n_bytes,
            dropped=lambda seen, why: self._dropped(why, sum(map(len, seen))),
            rest=self._budget.rest_s,
            clock=clock,
        )

    def take(self, batch: Sequence[Seen]) -> None:
        record = self.record
        if record.keeps_predictions:  # else its drift is looked for, and nothing more
            self._rows.put(*((record.keep, row) for seen in batch for row in seen.rows))
        for shadow in record.shadow:
            if (lane := self._shadows.get(shadow.head)) is not None:
                lane.put(*(seen for seen in batch if self._is_shown(shadow, seen)))
        if self._rules is not None:
            self._rules.put(*(seen for seen in batch if seen.facts))
        for seen in batch:
            self._drifting.add(seen)

    def _is_shown(self, shadow: ShadowRef, seen: Seen) -> bool:
        return shadow.sample >= 1 or share(f"shadow {self.record.name} {shadow.head}", seen.request_id) < shadow.sample

    def drain(self, until: float) -> bool:
        asked = [lane.drain(max(0.0, until - time.monotonic())) for lane in self.lanes]
        return all(asked) and self._rows.drain(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self._rows.close()
        self._drifting.close()
        self._metrics.forget(table.REVIEW_OPEN, self.record.name)

    @property
    def lanes(self) -> list[Lane[Seen]]:
        return [*self._shadows.values(), *([self._rules] if self._rules else [])]

    def _asks(self, shadow: ShadowRef) -> Callable[[list[Seen]], None]:
        """The work of a shadow's lane: loads the head, and its encoder, when the first request comes."""
        asked = Shadow(self._rooms, shadow, self._candidates.get(shadow.fingerprint))

        def work(batch: list[Seen]) -> None:
            said = asked.rows(batch)
            pairs = [(seen, rows) for seen, rows in zip(batch, said, strict=True) if rows is not None]
            untold = sum(len(seen) for seen, rows in zip(batch, said, strict=True) if rows is None)
            if untold:
                self._dropped("no content", untold)
            if not pairs:
                return
            record = self.record
            rows = [row for _, of_one in pairs for row in of_one]
            lives = [live for seen, _ in pairs for live in seen.rows]
            differ = sum(_differs(row, live) for row, live in zip(rows, lives, strict=True))
            self._metrics.count(table.SHADOW_PREDICTIONS, record.name, shadow.head, by=len(rows))
            self._metrics.count(table.SHADOW_DISAGREEMENTS, record.name, shadow.head, by=differ)
            self._metrics.observe(table.SHADOW_SECONDS, (rows[0].latency_ms or 0.0) / 1e3, record.name, shadow.head)
            self._rows.put(*((record.keep, row) for row in rows))

        return work

    def _looks(self, rules: Rules) -> Callable[[list[Seen]], None]:
        def work(batch: list[Seen]) -> None:
            fired: Counter[str] = Counter()
            for seen in batch:
                for facts, said in zip(seen.facts, seen.said, strict=True):
                    fired.update(rules.shadow(facts, said).keys())  # a rule that fires and changes nothing fires too
            for rule, times in fired.items():
                self._metrics.count(table.RULES_FIRED, self.record.name, rule, by=times)

        return work

    def _write(self, batch: list[tuple[tuple[str, ...], PredictionRow]]) -> None:
        for keep in dict.fromkeys(keep for keep, _ in batch):
            rows = [row for each, row in batch if each == keep]
            try:
                self._append(keep, rows)
            except Exception as error:  # noqa: BLE001 - the others are written; the lane would count them all
                told = error if isinstance(error, RaystoreError) else type(error).__name__
                log.warning("%d predictions of deployment %s were not kept: %s", len(rows), self.record.name, told)
                self._lost(type(error).__name__, len(rows))
        self.look()

    def _append(self, keep: tuple[str, ...], rows: Sequence[PredictionRow]) -> None:
        kept = self._kept.get(keep)
        if kept is None:
            record = self.record.model_copy(update={"keep": keep})
            kept = self._kept[keep] = Predictions.of(self._rooms.catalog, record)
        queue = self._rooms.reviews.get(self.record)
        admitted = queue.admit(rows) if queue is not None else rows
        patiently(partial(kept.append, admitted))
        left_out = sum(row.review for row in rows) - sum(row.review for row in admitted)
        if left_out:
            self._metrics.count(table.REVIEW_LEFT_OUT, self.record.name, by=left_out)

    def look(self) -> None:
        """Tell how many items of the review queue wait for a label."""
        record = self.record
        if record.review is None or not self._rooms.layout.rows(predictions_name(record.name)).exists():
            return
        try:
            queue = self._rooms.reviews.get(record)
            if queue is not None:
                self._metrics.set(table.REVIEW_OPEN, queue.counts().open, record.name)
        except Exception as error:  # noqa: BLE001 - it is looked at again with the next metrics
            told = error if isinstance(error, RaystoreError) else type(error).__name__
            log.warning("how many items of deployment %s wait for a label is not known: %s", record.name, told)

    def _lost(self, reason: str, n: int) -> None:
        self._metrics.count(table.RECORDING_DROPPED, self.record.name, reason, by=n)

    def _dropped(self, reason: str, n: int) -> None:
        self._metrics.count(table.SHADOW_DROPPED, self.record.name, reason, by=n)


def _differs(row: PredictionRow, live: PredictionRow) -> bool:
    return (row.label, row.labels, row.value) != (live.label, live.labels, live.value)
