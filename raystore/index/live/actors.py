"""Shards as Ray actors, `replicas` of each: RAY, a thin shell around replica.py and gather.py.

An actor is named after its shard's digest, in a namespace of the store: whoever joins the same Ray finds the actors that
are there, and an index that was folded goes on with those whose shard did not change. The replicas of a shard stand on
different nodes where there are several. An actor opens its files by digest, or writes its rows again from the
collection, and does so too when Ray restarts it.

A query goes to one replica of every shard, to the next after a short wait or a failure, and waits until a deadline
(gather.py); a shard that no replica of answered is reported as missing. Calls that lost the race are left to end: to
cancel one whose reply arrives just then aborts this process (Ray 2.60; docs/LOG.md).

Cost: one actor call (0.6 to 0.8 ms) plus the slowest shard. Actors reserve no CPU (num_cpus=0): a search must not
wait for a training job to end. Each uses its shard's share of its node's cores as FAISS threads.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.errors import JobFailed, RaystoreError, ShardsMissing
from raystore.index.live.gather import Course, Replicas, ShardAnswers, Waits
from raystore.index.live.replica import Problem, Reply, ShardActor, shard_digest
from raystore.index.manifest import IndexManifest, ShardRecord, newest_number
from raystore.index.source import RowIds
from raystore.layout import FP12, Layout
from raystore.session import root_cause, start_ray
from raystore.vectors import Matrix

START_DEADLINE_S = 120.0  # to start and load all shards, which happens once
START_GRACE_S = 2.0  # for the other replicas, once every shard has one that serves
STARTS = 2  # of a replica that ends while it starts
DEADLINE_S = 5.0  # of one query; a killed actor serves again after 1.7 to 3.6 s
BATCH = 256  # a batch of n times as many queries has n times the deadline
PING_S, MOST_PING_S = 0.2, 5.0  # between two questions to a replica that is left out, growing
_PUT_BYTES = 2**16  # an argument above this goes into the object store once, not over the wire once a call
_LOOK_S = 1.0  # at most so long in one ray.wait

Replica = tuple[int, int]  # the shard's number, the replica's


class Replaced(Exception):
    """A newer index was published and whoever switched to it first ended these actors."""


def namespace(layout: Layout) -> str:
    """Of one store's shard actors, the same in every process that opens it."""
    return f"raystore-{hashlib.sha256(str(layout.root.resolve()).encode()).hexdigest()[:FP12]}"


def actor_name(manifest: IndexManifest, record: ShardRecord, replica: int) -> str:
    return f"{_prefix(manifest)}{shard_digest(manifest, record)}/{replica}"


class ActorShards:
    """All shards of one index as actors, found or started. Safe to use from many threads.

    Actors of the same collection and encoder that the newest index does not name are ended.

    Raises:
        ShardsMissing: no shard could be started.
        Replaced: a newer index took over meanwhile.
    """

    def __init__(self, layout: Layout, number: int, manifest: IndexManifest, *, deadline_s: float = DEADLINE_S) -> None:
        self.number = number
        self.manifest = manifest
        self.deadline_s = deadline_s
        self.problems: dict[int, str] = {}
        self._layout = layout
        self._ray: Any = start_ray()
        self._job = self._ray.get_runtime_context().get_job_id()
        self._records = {record.number: record for record in manifest.shards}
        self._replicas = Replicas(self._records, manifest.replicas)
        self._waits = Waits()
        self._lock = threading.Lock()
        self._others: dict[Any, Replica] = {}  # open calls that no search waits for: late ones, losers, pings
        self._pings: dict[Replica, tuple[float, float]] = {}  # when the next is due, and the gap after that
        self._places: dict[Replica, str] = {}
        pairs = [(shard, replica) for shard in self._records for replica in range(manifest.replicas)]
        self._actors = {pair: self._actor(pair) for pair in pairs}
        self._start()
        self._end_strays()

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        without: RowIds | None = None,
        probes: int | None = None,
        refine: int | None = None,
    ) -> ShardAnswers:
        """Every shard's k best, or its number among the missing ones.

        Raises:
            ShardsMissing: not one shard answered before the deadline.
            Replaced: a newer index took over and these actors are gone.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32).view(np.ndarray)
        shared = self._shared(queries)
        replies, missing = self._gather(
            {
                shard: (
                    shared,
                    k,
                    self._shared(_within(allowed, record)),
                    self._shared(_within(without, record)),
                    probes,
                    refine,
                )
                for shard, record in self._records.items()
            },
            len(queries),
        )
        if not replies:
            raise ShardsMissing(index=self._label, missing=missing)
        for shard, reply in replies.items():
            self._note(shard, reply.problem)
        return ShardAnswers({shard: replies[shard].found for shard in sorted(replies)}, missing)

    def status(self) -> list[dict[str, Any]]:
        """One line a replica: whether it answers, and what it says of itself."""
        refs = {pair: actor.status.remote() for pair, actor in self._actors.items()}
        done, _ = self._ray.wait(list(refs.values()), num_returns=len(refs), timeout=self.deadline_s)
        lines = []
        for (shard, replica), ref in refs.items():
            said: dict[str, Any] = {}
            if ref in done:
                try:
                    said = self._ray.get(ref)
                except self._ray.exceptions.RayError:
                    said = {}
            lines.append({"shard": shard, "replica": replica, "answers": bool(said), **said})
        return lines

    @property
    def connected(self) -> bool:
        """Whether this process is still in the Ray these actors were found in."""
        return bool(self._ray.is_initialized()) and self._ray.get_runtime_context().get_job_id() == self._job

    @property
    def left_out(self) -> list[Replica]:
        """(shard, replica) pairs that failed or were late, and have not answered since."""
        return sorted(self._replicas.left_out)

    def stop(self) -> None:
        """End the actors, for every process that uses them."""
        for actor in self._actors.values():
            self._ray.kill(actor)

    @property
    def _label(self) -> str:
        return f"{_prefix(self.manifest)}{self.number}"

    def _actor(self, pair: Replica) -> Any:
        """The replica's actor, started where there is none."""
        shard, replica = pair
        manifest, record = self.manifest, self._records[shard]
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        place, shared_by = self._place(pair)
        return (
            self._ray.remote(ShardActor)
            .options(
                name=actor_name(manifest, record, replica),
                namespace=namespace(self._layout),
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                max_task_retries=0,
                num_cpus=0,
                # Hard: a soft one put 10 of 12 zero-CPU actors elsewhere (Ray 2.60). With its node the actor is gone for
                # good, and whoever asks it next starts it on another.
                scheduling_strategy=affinity(place, soft=False),
            )
            .remote(
                str(self._layout.root),
                manifest.collection,
                manifest.fingerprint,
                shard_digest(manifest, record),
                # The shards of a node share its cores by rows. Replicas do not: a query is at one of them.
                min(1.0, shared_by * record.rows / max(1, manifest.rows)),
            )
        )

    def _place(self, pair: Replica) -> tuple[str, int]:
        """The node for that replica: where it stands while that lives, else one without another replica of the shard, with
        the fewest actors; and over how many nodes the shards are spread."""
        shard, _ = pair
        alive = sorted(node["NodeID"] for node in self._ray.nodes() if node["Alive"])
        with self._lock:
            if self._places.get(pair) not in alive:
                self._places.pop(pair, None)
                beside = {self._places.get((shard, replica)) for replica in range(self._replicas.replicas)}
                load = Counter(self._places.values())
                self._places[pair] = min(alive, key=lambda node: (node in beside, load[node], node))
            return self._places[pair], min(len(alive), len(self._records))

    def _start(self) -> None:
        """Wait until every shard has a replica that serves, and a little for the others."""
        deadline = time.monotonic() + START_DEADLINE_S
        waiting = {self._call(pair, "status"): pair for pair in self._actors}
        for pair in waiting.values():
            self._replicas.asked(*pair)
        ends = dict.fromkeys(self._actors, 0)
        serving: set[int] = set()
        while waiting and (left := deadline - time.monotonic()) > 0:
            done, _ = self._ray.wait(list(waiting), num_returns=1, timeout=min(left, _LOOK_S))
            for ref in done:
                pair = waiting.pop(ref)
                said = self._outcome(ref, pair)
                if said is not None:
                    serving.add(pair[0])
                    self._note(pair[0], said["problem"] and Problem(said["index"], said["problem"]))
                    continue
                ends[pair] += 1
                if ends[pair] < STARTS:
                    self._replicas.asked(*pair)
                    waiting[self._call(pair, "status")] = pair
            if serving == set(self._records):
                deadline = min(deadline, time.monotonic() + START_GRACE_S)
        for pair in waiting.values():
            self._replicas.late(*pair)
        self._leave(waiting)
        if not serving:
            raise ShardsMissing(index=self._label, missing=sorted(self._records))

    def _end_strays(self) -> None:
        """End the actors that no index in use needs. First the list, then the look at the number: the actors of an index
        that is published between the two cannot be on it."""
        listed = self._ray.util.list_named_actors(all_namespaces=True)
        if self._replaced():
            return
        mine = {actor_name(self.manifest, self._records[shard], replica) for shard, replica in self._actors}
        for entry in listed:
            name, where = entry["name"], entry["namespace"]
            if where == namespace(self._layout) and name.startswith(_prefix(self.manifest)) and name not in mine:
                try:
                    self._ray.kill(self._ray.get_actor(name, namespace=where))
                except ValueError:  # ended already
                    continue

    def _gather(self, arguments: dict[int, tuple[Any, ...]], m: int) -> tuple[dict[int, Reply], list[int]]:
        """Replies by shard, and the shards without one at the deadline."""
        self._tend()
        started = time.monotonic()
        deadline = started + self.deadline_s * max(1.0, m / BATCH)
        course = Course(self._replicas, self._records, self._waits.hedge_s(m), started)
        replies: dict[int, Reply] = {}
        raised: set[Replica] = set()
        waiting: dict[Any, Replica] = {}
        try:
            while course.missing and (now := time.monotonic()) < deadline:
                for pair in course.due(now):
                    waiting[self._call(pair, "search", *arguments[pair[0]])] = pair
                pause = max(0.0, min(deadline, course.wake_at(), now + _LOOK_S) - now)
                if not waiting:  # whom there is to ask has failed in this moment
                    time.sleep(pause)
                    continue
                done, _ = self._ray.wait(list(waiting), num_returns=1 if course.hurried else len(waiting), timeout=pause)
                for ref in done:
                    if ref not in waiting:  # its shard has an answer by now
                        continue
                    pair = waiting.pop(ref)
                    try:
                        reply = self._outcome(ref, pair)
                    except JobFailed:  # of its disk or its memory, perhaps: then another replica can
                        raised.add(pair)
                        if sum(shard == pair[0] for shard, _ in raised) == self._replicas.replicas:
                            raise
                        reply = None
                    if reply is None:
                        course.failed(*pair, time.monotonic())
                        continue
                    replies[pair[0]] = reply
                    self._waits.took(m, course.answered(*pair, time.monotonic()))
                    losers = [ref for ref, (shard, _) in waiting.items() if shard == pair[0]]
                    self._leave({ref: waiting.pop(ref) for ref in losers})
            for pair in waiting.values():
                self._replicas.late(*pair)
        finally:
            self._leave(waiting)
        return replies, course.missing

    def _call(self, pair: Replica, method: str, *arguments: Any) -> Any:
        """The reference of the reply. Whoever calls has counted the call with `_replicas` and sees to its outcome."""
        return getattr(self._actors[pair], method).remote(*arguments)

    def _outcome(self, ref: Any, pair: Replica) -> Any:
        """What the replica replied, None where it died or is starting; the call counts as ended.

        Raises:
            Replaced: it is gone because a newer index took over.
            RaystoreError: what it raised.
        """
        errors = self._ray.exceptions
        try:
            reply = self._ray.get(ref)
        except errors.RayTaskError as error:
            self._replicas.ended(*pair, serves=False)
            raise root_cause(error, f"shard {pair[0]} of index {self._label}", "Try again.") from None
        except errors.RayError as error:
            self._replicas.ended(*pair, serves=False)
            # Restarting, or gone for good, alone or with its node: then there is none of its name.
            if isinstance(error, (errors.ActorDiedError, errors.ActorUnschedulableError)):
                if self._replaced():
                    raise Replaced from None
                self._actors[pair] = self._actor(pair)
            return None
        self._replicas.ended(*pair, serves=True)
        return reply

    def _leave(self, calls: dict[Any, Replica]) -> None:
        """Let calls end by themselves; that they did is seen at a later search."""
        with self._lock:
            self._others.update(calls)

    def _tend(self) -> None:
        """See which calls ended that no search waits for, and ask the replicas that are left out whether they serve again.
        Costs nothing while there are none."""
        with self._lock:
            calls = list(self._others)
        done = self._ray.wait(calls, num_returns=len(calls), timeout=0)[0] if calls else []
        for ref in done:
            with self._lock:
                pair = self._others.pop(ref, None)
            if pair is None:  # another thread's
                continue
            try:
                served = self._outcome(ref, pair) is not None
            except RaystoreError:  # about a search that is over
                served = False
            if served:
                with self._lock:
                    self._pings.pop(pair, None)
        for pair in self._replicas.idle():
            now = time.monotonic()
            with self._lock:
                due, gap = self._pings.get(pair, (0.0, PING_S))
                if due > now:
                    continue
                self._pings[pair] = now + gap, min(2 * gap, MOST_PING_S)
            self._replicas.asked(*pair)
            self._leave({self._call(pair, "status"): pair})

    def _note(self, shard: int, problem: Problem | None) -> None:
        """A problem of an older number was repaired since; that actor goes on with the rows it wrote then."""
        if problem is not None and problem.number == self.number:
            self.problems[shard] = problem.said

    def _shared(self, array: npt.NDArray[Any] | None) -> Any:
        return self._ray.put(array) if array is not None and array.nbytes > _PUT_BYTES else array

    def _replaced(self) -> bool:
        manifest = self.manifest
        return newest_number(self._layout, manifest.collection, manifest.fingerprint) != self.number


def _prefix(manifest: IndexManifest) -> str:
    return f"{manifest.collection}/{manifest.fingerprint[:FP12]}/"


def _within(row_ids: RowIds | None, record: ShardRecord) -> RowIds | None:
    if row_ids is None:
        return None
    return row_ids[np.searchsorted(row_ids, record.row_id_lo) : np.searchsorted(row_ids, record.row_id_hi)]
