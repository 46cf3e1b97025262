"""One replica of the orchestrator: the application over it, kept up to date with the store.

`reconfigure` and the follower swap what answers without closing a connection: a promotion is a record in the catalog, which every
replica finds within a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from raystore.encoders.backends import streams_of
from raystore.encoders.registry import Encoders
from raystore.errors import DeadlineMissed, JobFailed, Overloaded, RaystoreError
from raystore.serve.answer.batching import ServedEncoder
from raystore.serve.answer.live import Live
from raystore.serve.answer.loading import Rooms
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.answer.served import ServedHead
from raystore.serve.door.admission import Admission
from raystore.serve.door.auth import Door
from raystore.serve.grpc.server import make_grpc_server
from raystore.serve.http.app import make_app
from raystore.serve.http.common import Threads
from raystore.serve.lane import Lane
from raystore.serve.operate.operator import Operator
from raystore.serve.recording.seen import Seen
from raystore.serve.run.away import AwayEncoder, AwayHead, Handle, Terms, asked
from raystore.serve.run.follow import Follower
from raystore.serve.run.front import Front
from raystore.serve.run.process import find_balancer, keep_calls_on_loopback, take_turns_quickly
from raystore.serve.run.watching import Watching
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.watch import table
from raystore.serve.watch.finished import Teller, tell_metrics
from raystore.serve.watch.metrics import OTHER, Metrics
from raystore.session import no_core_files

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger("raystore.serve")

_BATCH = 512  # items of one message to the recording process
_PAUSE_S = 0.5  # between two messages
_TELL_S = 10.0
_GRACE_S = 5.0
_OTHERS_S = 180.0  # as long as `deploy` waits; then what needs no other process is answered


class Ingress:
    def __init__(
        self,
        root: str,
        threads: int,
        encoders: Mapping[str, Handle],
        heads: Mapping[str, Handle],
        recording: Handle | None,
        *,
        colocate: bool = True,
    ) -> None:
        """
        Args:
            threads: of the encoders in this process.
            encoders: those that are deployments of their own, by fingerprint.
            heads: deployments whose live head is one of its own, by name.
            recording: the recording process, where there is one.
            colocate: whether encoders of deployments may stand in this process.
        """
        no_core_files()
        keep_calls_on_loopback()
        take_turns_quickly()
        self._rooms = Rooms(root)
        self._threads = threads
        self._away_encoders = encoders
        self._away_heads = heads
        self._recording = recording
        self._colocate = colocate
        self._metrics = Metrics("ingress")
        self._spec = self._wanted = AppSpec()
        self._admission = Admission(self._spec.limits, partial(self._metrics.set, table.IN_FLIGHT))
        self._records: dict[str, DeploymentRecord] = {}
        self._orchestrator: Orchestrator | None = None
        self._outbox: Lane[Seen] | None = None
        self._app: ASGIApp | None = None
        self._blocking = Threads()
        self._door: Door | None = None
        self._tellers: list[Teller] = []
        self._grpc: Any = None
        self._grpc_of: tuple[object, ...] | None = None
        self._grpc_leaving: list[asyncio.Future[None]] = []
        self._balancer = find_balancer()
        if self._balancer is not None:
            self._balancer.keep_renewed()
        self._watching = Watching(self._rooms.layout, self._metrics, recording, encoders, heads, self._count_shed)
        self._follower = Follower(self._rooms.catalog, self._change)

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve what the configuration says; called once before the first request and at each change."""
        spec = AppSpec.model_validate(config["spec"])
        records = {n: DeploymentRecord.model_validate(r) for n, r in config["records"].items()}
        self._wanted = spec
        if self._orchestrator is None:
            await asyncio.to_thread(self._wait_for_others)
        await asyncio.to_thread(self._follower.follow, records)  # requests are answered meanwhile
        if self._balancer is not None:
            await asyncio.to_thread(self._balancer.limit, spec.limits.max_requests)
        await self._listen_for_grpc(spec)

    def _wait_for_others(self) -> None:
        """Until encoders and heads of their own answer: what ran before goes on until then, and for good where they never do."""
        until = time.monotonic() + _OTHERS_S
        for handle in (*self._away_encoders.values(), *self._away_heads.values()):
            with suppress(DeadlineMissed, Overloaded):
                asked(handle.snapshot.remote, until - time.monotonic())

    async def _listen_for_grpc(self, spec: AppSpec) -> None:
        """A new server, where what it is made of changed. Replicas of a node share the port, so it starts before the earlier ends."""
        made_of = spec.host, spec.grpc, spec.tls, spec.limits, self._door, tuple(self._tellers)
        if made_of == self._grpc_of:
            return
        server = None
        if spec.grpc is not None and self._door is not None:
            tellers = [tell_metrics(self._metrics), *self._tellers]
            threads = self._rooms.pools.grpc
            server = make_grpc_server(
                lambda: self._orchestrator, spec, self._door, self._admission, threads=threads, tellers=tellers
            )
            await server.start()
        before, self._grpc, self._grpc_of = self._grpc, server, made_of
        if before is not None:  # what is under way there is answered beside the new one
            self._grpc_leaving.append(asyncio.ensure_future(before.stop(spec.limits.deadline_s)))

    def _change(self, records: Mapping[str, DeploymentRecord]) -> Mapping[str, DeploymentRecord]:
        """Serve these as the wanted spec says, and return those that are served now. One call at a time: the follower's."""
        spec, before = self._wanted, self._orchestrator
        if before is None or _served(spec) != _served(self._spec):
            orchestrator = self._made(spec)
            if before is not None:
                orchestrator.adopt(before)
        else:
            orchestrator = before
        present, failed = self._each_taken_up(records, orchestrator, spec)
        self._tell_what_failed(before.failed if before is not None else {}, failed)
        orchestrator.update(present, failed)
        taken = {name: live.record for name, live in present.items()}
        self._tell_what_answers(taken)
        self._records = taken
        if self._app is None or orchestrator is not before or spec != self._spec:
            self._put_before(orchestrator, spec)
        self._spec, self._orchestrator = spec, orchestrator
        if before is not None and before is not orchestrator:
            before.close()
        return taken

    def _each_taken_up(
        self, records: Mapping[str, DeploymentRecord], orchestrator: Orchestrator, spec: AppSpec
    ) -> tuple[dict[str, Live], dict[str, tuple[int, str]]]:
        """What answers from now on, and the numbers that cannot with why not. Where one cannot, what answered before goes on; raises
        where none can."""
        before = self._orchestrator.live if self._orchestrator is not None else {}
        held = before if self._spec.replicas.most == spec.replicas.most else {}
        present: dict[str, Live] = {}
        failed: dict[str, Exception] = {}
        for name, record in records.items():
            if name in held and held[name].record == record:
                present[name] = held[name]
                continue
            try:
                present[name] = self._taken_up(record, orchestrator, spec)
            except Exception as error:  # noqa: BLE001 - of a model, a file, a hook: the others are served all the same
                failed[name] = error
                if name in before:
                    present[name] = before[name]
        if failed and not present:
            raise next(iter(failed.values()))
        for name, why in failed.items():
            told = why if isinstance(why, RaystoreError) else type(why).__name__
            log.error("number %d of deployment %s is not taken up: %s", records[name].number, name, told)
        return present, {name: (records[name].number, type(why).__name__) for name, why in failed.items()}

    def _has_place(self, record: DeploymentRecord) -> bool:
        """Whether its encoder and its head may stand here, or run where this replica can ask them."""
        encodes = self._colocate or record.reads in self._away_encoders
        return encodes and (record.own is None or record.name in self._away_heads)

    def _taken_up(self, record: DeploymentRecord, orchestrator: Orchestrator, spec: AppSpec) -> Live:
        """The deployment with its head, and its encoder loaded.

        JobFailed: they run elsewhere, this replica cannot ask them, and something else answers: what is told by the record came with
        replicas that can, which are on their way. Where nothing answers it is better to load them here.
        """
        answers = self._orchestrator is not None and record.name in self._orchestrator.live
        if answers and not self._has_place(record):
            raise JobFailed(
                job=f"serving '{record.name}'",
                reason="its encoder or head is a deployment of its own that this replica cannot ask",
                advice="Replicas that can are on their way, or deploy the file again.",
            )
        orchestrator.encoder(record.reads)
        share = 1 / spec.replicas.most
        live = self._rooms.live({record.name: record}, away=self._away_head, share=share, metrics=self._metrics)
        return live[record.name]

    def _put_before(self, orchestrator: Orchestrator, spec: AppSpec) -> None:
        """The door and the application as the spec says; not at a promotion, for FastAPI never lets go of an application."""
        if self._outbox is not None:
            self._outbox.most = spec.recording.queue
        self._door = door = self._rooms.door(spec, self._door)
        self._admission.limits = spec.limits
        door.warm()
        self._tellers = tellers = self._watching.watch(
            spec.watch, lambda: orchestrator.encoders, lambda: self._queues(orchestrator)
        )
        operator = Operator(self._rooms, self._watching.told, self._operate if self._recording is not None else None)
        self._app = make_app(
            lambda: self._orchestrator, spec, door, self._metrics, tellers, operator, self._admission, self._blocking
        )

    def _queues(self, orchestrator: Orchestrator) -> dict[str, tuple[int, int]]:
        outbox = {"recording": (len(self._outbox), self._spec.recording.queue)} if self._outbox is not None else {}
        return {**orchestrator.queues, **outbox}

    def _operate(self, call: str, *arguments: Any, **named: Any) -> Any:
        assert self._recording is not None
        handle = self._recording
        return asked(lambda: handle.operate.remote(call, arguments, named), self._spec.limits.deadline_s)

    def _made(self, spec: AppSpec) -> Orchestrator:
        if self._recording is not None and self._outbox is None:
            self._outbox = Lane(
                "outbox",
                self._send,
                most=spec.recording.queue,
                batch=_BATCH,
                pause_s=_PAUSE_S,
                size=len,
                bytes_of=lambda seen: seen.n_bytes,
                dropped=self._untold,
            )
        return self._rooms.orchestrator(
            spec,
            metrics=self._metrics,
            threads=self._threads,
            away=self._away_encoder,
            tell=self._outbox.put if self._outbox is not None else None,
        )

    def _away_encoder(self, fingerprint: str) -> ServedEncoder | None:
        handle = self._away_encoders.get(fingerprint)
        if handle is None:
            return None
        encoder = Encoders(self._rooms.catalog).get(fingerprint)

        def terms() -> Terms:
            placed = self._wanted.encoders.get(encoder.name)  # it is asked for these while they are taken up
            if placed is None:
                return Terms(self._spec.limits.deadline_s)
            at_once = 1 if placed.gpu else streams_of(int(placed.cpus))
            return Terms(self._spec.limits.deadline_s, placed.replicas.most, at_once)

        return AwayEncoder(handle, self._rooms.seal, encoder.passport, encoder.label, terms)

    def _away_head(self, record: DeploymentRecord) -> ServedHead | None:
        handle = self._away_heads.get(record.name)
        if handle is None or record.own is None:
            return None
        replicas = record.own.replicas.most
        terms = lambda: Terms(self._spec.limits.deadline_s, replicas)  # noqa: E731
        return AwayHead(handle, self._rooms.head(record.head), self._rooms.pools.heads(record.name), terms)

    def _send(self, batch: Sequence[Seen]) -> None:
        assert self._recording is not None
        handle = self._recording
        asked(lambda: handle.take.remote(batch), _TELL_S)

    def _untold(self, batch: Sequence[Seen], reason: str) -> None:
        for seen in batch:
            self._metrics.count(table.RECORDING_DROPPED, seen.deployment, reason, by=len(seen))

    def _count_shed(self) -> None:
        """What HAProxy refused for the replicas of this node, as if one of them had."""
        for path, n in (self._balancer.shed() if self._balancer is not None else {}).items():
            kind, _, name = path.partition("/")
            mine = kind == "predict" and name in self._records
            route, deployment = ("/v1/predict/{deployment}", name) if mine else (OTHER, "")
            self._metrics.count(table.REQUESTS, route, deployment, "503", by=n)
            self._metrics.count(table.ERRORS, route, "Overloaded", by=n)

    def _tell_what_answers(self, records: Mapping[str, DeploymentRecord]) -> None:
        for name in {*self._records, *records}:
            self._metrics.forget(table.DEPLOYMENT_INFO, name)
        for name, record in records.items():
            self._metrics.set(table.DEPLOYMENT_INFO, 1, name, str(record.number), record.head, record.encoder)
            # There from the start, so that Prometheus sees the first rise.
            if record.log is not None:
                self._metrics.count(table.LOG_DROPPED, record.log.collection, "full", by=0)
            if self._outbox is not None:
                self._metrics.count(table.RECORDING_DROPPED, name, "full", by=0)
            if record.shadow:
                self._metrics.count(table.SHADOW_DROPPED, name, "full", by=0)

    def _tell_what_failed(self, before: Mapping[str, tuple[int, str]], failed: Mapping[str, tuple[int, str]]) -> None:
        """What fails again keeps its series: an alert that waits would begin anew at a gap."""
        for name, (number, _) in before.items():
            if name not in failed or failed[name][0] != number:
                self._metrics.forget(table.DEPLOYMENT_FAILED, name, str(number))
        for name, (number, _) in failed.items():
            self._metrics.set(table.DEPLOYMENT_FAILED, 1, name, str(number))

    async def _end(self) -> None:
        """Before the process ends: answers under way are given, what waits to be logged or told goes out."""
        if self._grpc is not None:
            self._grpc_leaving.append(asyncio.ensure_future(self._grpc.stop(self._spec.limits.deadline_s)))
        await asyncio.gather(*self._grpc_leaving)
        if self._orchestrator is not None:
            await asyncio.to_thread(self._orchestrator.drain, _GRACE_S)
        if self._outbox is not None:
            await asyncio.to_thread(self._outbox.close, _GRACE_S)
        await asyncio.to_thread(self._watching.close)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Front(lambda: self._app, self._end)


def _served(spec: AppSpec) -> tuple[object, ...]:
    """What an orchestrator is made with; where it changes, another is made."""
    return spec.collections, spec.models, spec.tables, spec.sql, spec.batch, spec.encoders, spec.watch.drift
