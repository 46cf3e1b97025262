"""Answers: encoder -> head -> lineage, and what happens to an answer afterwards. Pure: no HTTP, no Ray, no file.

It holds the deployments and their heads, and is handed ways in: how an encoder is loaded, how a collection is opened, what encoders
there are, whom to tell of what was seen. What it was handed is kept, so a request loads nothing that an earlier one did. Safe in many
threads; a change of deployments swaps one dictionary. `predict` runs in an event loop, which encoding, logging and slow heads do not
hold up.

It holds texts and images only while it encodes them and never puts one into an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from raystore.data.sandbox.process import Rows
from raystore.encoders.items import Item
from raystore.errors import DeploymentNotFound, InvalidArguments
from raystore.serve.answer.asked import Asked
from raystore.serve.answer.batching import BatchingEncoder, ServedEncoder
from raystore.serve.answer.collections import Collections
from raystore.serve.answer.deadline import check_in_time, present_until, run_within, waited_until
from raystore.serve.answer.keeping import Row, append, commit, rows_of
from raystore.serve.answer.live import Live
from raystore.serve.answer.predicting import Part, predict_parts
from raystore.serve.answer.served import Known, ServedCollection, ServedSql
from raystore.serve.answer.shared import Shared
from raystore.serve.answer.timer import Timer
from raystore.serve.recording.seal import Seal
from raystore.serve.recording.seen import Seen
from raystore.serve.recording.tell import seen_of
from raystore.serve.rules.said import Passed
from raystore.serve.spec.app import Batch
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.watch import table
from raystore.serve.watch.metrics import Metrics, count_batch
from raystore.vectors import Vectors

# Threads that look for evidence: a search for each item of a request, beside which logs have to find a thread.
_EVIDENCE = 2


class Orchestrator:
    """What stands behind the routes. Every answer is a plain dictionary that carries the fingerprint."""

    def __init__(
        self,
        *,
        load_encoder: Callable[[str], ServedEncoder],
        resolve_encoder: Callable[[str], str],
        known_encoders: Callable[[], Sequence[Known]],
        open_collection: Callable[[str], ServedCollection],
        collection_names: Callable[[], Sequence[str]],
        table_names: Callable[[], Sequence[str]],
        sandbox: ServedSql,
        threads: Executor,
        seal: Seal,
        metrics: Metrics,
        tell: Callable[[Seen], None] | None = None,
        tells: Callable[[DeploymentRecord], bool] = lambda record: record.keeps_predictions,
        batch: Callable[[str], tuple[Batch, int]] = lambda _: (Batch(), 1),
        where: str = "this service",
    ) -> None:
        """
        Args:
            load_encoder: the encoder of a fingerprint, in memory and golden-checked; slow, called once each.
            resolve_encoder: the fingerprint of a name, label or fingerprint; EncoderNotFound.
            known_encoders: those of the store, by name.
            open_collection: a collection by name; whoever opens it keeps it.
            collection_names, table_names: those this service serves; tables are for SQL alone.
            sandbox: runs SQL away from here.
            threads: where rows are logged that are required.
            seal: what content is sealed with that is told on.
            metrics: of this process.
            tell: told of every request to a deployment that `tells`; returns at once.
            tells: whether somebody wants to know of a deployment's requests.
            batch: of a fingerprint, what is encoded at once, and in how many replicas.
            where: what error sentences call this service.
        """
        self._load_encoder = load_encoder
        self._resolve_encoder = resolve_encoder
        self._known_encoders = known_encoders
        self.table_names = table_names
        self._sandbox = sandbox
        self._threads = threads
        self._evidence_threads = ThreadPoolExecutor(_EVIDENCE, thread_name_prefix="raystore-evidence")
        self._seal = seal
        self._metrics = metrics
        self._tell = tell
        self._tells = tells
        self._batch = batch
        self._where = where
        self._live: dict[str, Live] = {}
        self.failed: Mapping[str, tuple[int, str]] = {}
        self._encoders: dict[str, BatchingEncoder] = {}
        self._shared = Shared(self._commit, self._take_in, self._lost)
        self.collections = Collections(
            open_collection=open_collection,
            names=collection_names,
            encoder=self.encoder,
            resolve_encoder=resolve_encoder,
            where=where,
            logged=self._logged,
        )

    @property
    def live(self) -> Mapping[str, Live]:
        return self._live

    @property
    def encoders(self) -> list[BatchingEncoder]:
        """Those that are in memory."""
        return list(self._encoders.values())

    @property
    def queues(self) -> dict[str, tuple[int, int]]:
        """What waits, by name, and what may: rows of logs that are not required, and bytes of the journals of those that are."""
        logs = {f"log {name}": (len(lane), lane.most) for name, lane in self._shared.lanes.items()}
        return logs | {f"journal {name}": self.collections.opened(name).journal for name in self._shared.journals}

    def update(self, deployments: Mapping[str, Live], failed: Mapping[str, tuple[int, str]] | None = None) -> None:
        """Serve these from now on. Their encoders are loaded first; requests under way end with what they began with.

        Args:
            failed: the numbers of deployments that could not be taken up, and why not, a word each.
        """
        for deployment in deployments.values():
            self.encoder(deployment.record.reads)
        self._live, self.failed = dict(deployments), dict(failed or {})
        self._shared.commit, self._shared.take_in = self._commit, self._take_in
        for name, lane in self._shared.lanes.items():
            lane.most = self._log_queue(name, lane.most)
        for log in [each.record.log for each in deployments.values()]:
            if log is not None and log.required:  # another one takes in with its first commit
                self._shared.appended(log.collection)  # what a process that was killed left, and its keys come to mind

    def adopt(self, other: Orchestrator) -> None:
        """Share with another orchestrator of this store the encoders in memory, and the rows that wait to be logged: this one logs them
        from its next `update` on, also those of requests under way there."""
        self._shared = other._shared

    def close(self) -> None:
        """Let go of what does not end by itself. Requests under way are still answered."""
        self._sandbox.close()
        for encoder in self.encoders:
            encoder.close()

    def drain(self, wait_s: float) -> None:
        """Log what waits to be logged, for so long at most."""
        self._shared.drain(wait_s)

    def encoder(self, fingerprint: str) -> BatchingEncoder:
        found = self._encoders.get(fingerprint)
        if found is None:
            with self._shared.loading:
                found = self._encoders.get(fingerprint)
                if found is None:
                    limits, replicas = self._batch(fingerprint)
                    loaded = self._shared.loaded.get(fingerprint) or self._load_encoder(fingerprint)
                    self._shared.loaded[fingerprint] = loaded
                    # What an encoder away takes at once its replicas count: what several processes send becomes one batch there.
                    seen = (
                        None
                        if getattr(loaded, "tells_batches", False)
                        else partial(count_batch, self._metrics, loaded.label)
                    )
                    found = BatchingEncoder(loaded, limits, turns=replicas * loaded.at_once, seen=seen)
                    self._encoders[fingerprint] = found
        return found

    def deployment(self, name: str) -> Live:
        """Raises DeploymentNotFound with the names there are."""
        live = self._live.get(name)
        if live is None:
            raise DeploymentNotFound(name=name, where=self._where, existing=sorted(self._live))
        return live

    def models(self) -> list[dict[str, Any]]:
        """The store's encoders by name, as OpenAI's clients list models."""
        return [_card(known) for known in self._known_encoders()]

    def model(self, name: str) -> dict[str, Any]:
        """The encoder of a name, label or fingerprint; one that has no name any more goes by its fingerprint.

        Raises:
            EncoderNotFound: with the names there are.
        """
        fingerprint = self._resolve_encoder(name)
        same = [known for known in self._known_encoders() if known.fingerprint == fingerprint]
        asked = [known for known in same if known.name == name]
        if same:
            return _card((asked or same)[0])
        passport = self.encoder(fingerprint).passport
        return _card(Known(fingerprint, fingerprint, passport.modalities, passport.dim, created=0))

    async def predict(
        self,
        name: str,
        asked: Sequence[Asked],
        *,
        fingerprint: str | None = None,
        top: int = 5,
        evidence: int = 0,
        who: str = "local",
        request_id: str,
        until: float | None = None,
        timer: Timer | None = None,
    ) -> dict[str, Any]:
        """A prediction per item, in order; durable in the log's collection first, where the deployment requires it.

        Args:
            fingerprint: of the encoder that made the vectors among `asked`.
            top: labels to name with their probabilities.
            evidence: labelled rows to name that are nearest.
            who: the name of who asks, for rules.
            until: the time.monotonic() after which nobody waits for the answer.
            timer: whose stages the caller tells on; without, they are counted here.

        Raises:
            DeploymentNotFound: with the names there are.
            ItemsUnusable: items the encoder does not take or cannot read.
            PassportMismatch, InvalidVectors, DimensionMismatch: vectors that are not of the deployment's encoder.
            RuleRefused, ColumnsRequired, QuotaExceeded, HookFailed: a rule.
            DeadlineMissed. And what a log raises: nothing was answered then.
        """
        with waited_until(until):
            return await self._predict(name, asked, fingerprint, top, evidence, who, request_id, timer)

    async def _predict(
        self,
        name: str,
        asked: Sequence[Asked],
        fingerprint: str | None,
        top: int,
        evidence: int,
        who: str,
        request_id: str,
        given: Timer | None,
    ) -> dict[str, Any]:
        timer = given or Timer()
        deployments, live = self._live, self.deployment(name)
        predictions: list[dict[str, Any]] = [{}] * len(asked)
        logged: list[str] = []
        passed: list[Passed] = []
        try:
            parts = await predict_parts(
                name,
                asked,
                deployments=deployments,
                encoder=self.encoder,
                fingerprint=fingerprint,
                who=who,
                top=top,
                timer=timer,
                where=self._where,
                passed=passed,
                fired=partial(self._metrics.count, table.RULES_FIRED),
            )
            for part in parts:
                for one in part.items:
                    predictions[one.place] = one.prediction
                if evidence and part.live.evidence is not None:
                    with timer.stage("evidence"):
                        ask = partial(part.live.evidence, part.vectors, evidence)
                        found = await run_within(self._evidence_threads, ask, present_until())
                    for one, near in zip(part.items, found, strict=True):
                        predictions[one.place]["evidence"] = near
                    check_in_time("before it was answered")
            for part in parts:  # at last: what is answered 504 is not logged
                if part.live.record.log is not None:
                    with timer.stage("log"):
                        logged += await self._log(part)
        except BaseException:  # nothing is answered, so nothing counts in a quota
            for each in passed:
                each.give_back()
            raise
        for part in parts:
            self._count(part)
            if self._tell is not None and self._tells(part.live.record):
                self._tell(seen_of(part, request_id, who, self._seal))
        if given is None:
            for stage, seconds in timer.by_stage().items():
                self._metrics.observe(table.STAGE_SECONDS, seconds, name, stage)
        others = {
            (part.live.record.name, one.by.head): part.live.lineage_of(one.by) for part in parts for one in part.items
        }
        others.pop((live.record.name, live.record.head), None)
        return {
            "predictions": predictions,
            "lineage": live.lineage,
            "others": list(others.values()),
            "fingerprint": live.record.fingerprint,
            "bridged": self._bridged(live),
            "logged": logged or None,
            "request_id": request_id,
            "timings_ms": timer.done(),
        }

    def _bridged(self, live: Live) -> dict[str, Any] | None:
        if live.record.through is None:
            return None
        bridge = self.encoder(live.record.reads).bridge
        return None if bridge is None else bridge.said

    def _count(self, part: Part) -> None:
        metrics, record = self._metrics, part.live.record
        for one in part.items:
            said = one.said
            if said.label is not None:
                metrics.count(table.PREDICTIONS, record.name, one.by.head, said.label)
            elif said.value is not None:
                metrics.count(table.PREDICTIONS, record.name, one.by.head, "")
            for label in said.labels or ():
                metrics.count(table.PREDICTIONS, record.name, one.by.head, label)
            if said.abstained:
                metrics.count(table.ABSTENTIONS, record.name, said.why or "")

    async def _log(self, part: Part) -> list[str]:
        """The ids of the rows that are durable now."""
        record = part.live.record
        assert record.log is not None
        name = record.log.collection
        collection = self.collections.opened(name)
        rows = rows_of(part, collection, self.encoder(record.reads))
        if not rows:
            return []
        if record.log.required:
            await run_within(self._threads, partial(self._append, name, rows), present_until())
            return [each.row["id"] for each in rows]
        self._shared.put(name, rows, self._log_queue(name, record.log.queue))
        return []

    def _log_queue(self, collection: str, otherwise: int) -> int:
        """Rows that may wait to be logged there: the most that a deployment allows."""
        logs = [live.record.log for live in self._live.values()]
        queues = [log.queue for log in logs if log is not None and log.collection == collection and not log.required]
        return max(queues, default=otherwise)

    def _lost(self, collection: str, reason: str, rows: int) -> None:
        self._metrics.count(table.LOG_DROPPED, collection, reason, by=rows)

    def _commit(self, name: str, rows: Sequence[Row]) -> None:
        collection = self.collections.opened(name)
        added = self.collections.with_encoders(collection, lambda encoders: commit(collection, encoders, rows))
        self._logged(name, added)

    def _append(self, name: str, rows: Sequence[Row]) -> None:
        collection = self.collections.opened(name)
        added = self.collections.with_encoders(collection, lambda encoders: append(collection, encoders, rows))
        self._shared.appended(name)
        self._logged(name, added)

    def _take_in(self, name: str) -> None:
        self.collections.opened(name).take_in()

    def _logged(self, collection: str, added: int) -> None:
        self._metrics.count(table.LOGGED, collection, by=added)

    def count_error(self, route: str, error: str) -> None:
        """Of a line of a stream, whose request is answered all the same."""
        self._metrics.count(table.ERRORS, route, error)

    def embed(
        self, items: Sequence[Item], model: str, *, dimensions: int | None = None, timer: Timer | None = None
    ) -> tuple[Vectors, BatchingEncoder, int]:
        """The vectors of the items, the encoder that made them, and how many tokens it read of the texts.

        Raises:
            EncoderNotFound: with the names there are.
            InvalidArguments: `dimensions` is not the encoder's own.
            ItemsUnusable: items the encoder does not take or cannot read.
            DeadlineMissed.
        """
        timer = timer or Timer()
        encoder = self.encoder(self._resolve_encoder(model))
        if dimensions not in (None, encoder.dim):
            problem = (
                f"dimensions is {dimensions}, and this encoder has {encoder.dim} only; "
                "where its model was trained to be cut, register it with dimensions= under a name of its own"
            )
            raise InvalidArguments(call="embeddings", problems=[problem])
        texts = [item for item in items if isinstance(item, str)]
        with timer.stage("encode"):
            return encoder.encode(items, timer=timer), encoder, encoder.count_tokens(texts) if texts else 0

    def sql(
        self, query: str, params: Mapping[str, Any], *, limit: int, form: Literal["json", "arrow"] = "json"
    ) -> tuple[Rows, float]:
        """The query's rows over what this service serves, and the seconds they took.

        Raises:
            QueryRefused, QueryStopped, QueryBusy, DeadlineMissed: see `SqlSandbox.run`.
        """
        started = time.perf_counter()
        served = {"collections": self.collections.names(), "tables": self.table_names()}
        rows = self._sandbox.run(query, params, **served, limit=limit, form=form, until=present_until())
        return rows, round(time.perf_counter() - started, 4)


def _card(known: Known) -> dict[str, Any]:
    return {
        "id": known.name,
        "created": known.created,
        "fingerprint": known.fingerprint,
        "modalities": known.modalities,
        "dimensions": known.dim,
    }
