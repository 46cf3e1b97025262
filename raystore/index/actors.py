"""Shards as Ray actors: RAY, a thin shell around Shard and merge.

One named, detached actor a shard, in a namespace of the store and index number: whoever joins the same Ray finds the
actors that are there. An actor loads its file by digest, or builds its rows again from the collection, and does so
too when Ray restarts it. A query goes to all shards at once and waits for them until a deadline; a shard that died
under it is asked once more, and then reported as missing.

Cost: one actor call (0.6 to 0.8 ms) plus the slowest shard. Actors reserve no CPU (num_cpus=0): a search must not
wait for a training job to end; each uses its even share of the cores as FAISS threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raystore.errors import ShardsMissing
from raystore.index.build import open_shard
from raystore.index.manifest import IndexManifest, newest_number, read_manifest
from raystore.index.merge import Answer
from raystore.index.source import RowIds, VectorSource, open_source
from raystore.layout import FP12, Layout
from raystore.session import root_cause, start_ray, thread_count
from raystore.vectors import Matrix

log = logging.getLogger("raystore")

START_DEADLINE_S = 120.0  # to start and load all shards, which happens once
DEADLINE_S = 5.0  # of one query; a killed actor serves again after 1.7 to 3.6 s


@dataclass(frozen=True)
class Gathered:
    """The answers of the shards that answered, the ids of their rows, and the numbers of those that did not."""

    answers: Sequence[Answer]
    names: Mapping[int, str]
    missing: Sequence[int]


class Replaced(Exception):
    """A newer index was published and whoever switched to it first ended these actors."""


class ShardActor:
    """One shard in a process of its own. Holds vectors, row ids and ids; no columns and no content."""

    def __init__(self, root: str, collection: str, fingerprint: str, number: int, shard: int, threads: int) -> None:
        layout = Layout(Path(root))
        manifest = read_manifest(layout, collection, fingerprint, number)
        self._number = shard
        self._threads = threads
        self._shard, problem = open_shard(open_source(root, collection), layout, number, manifest, shard, threads=threads)
        self._problem = None if problem is None else str(problem)
        if problem is not None:
            log.warning("shard %s: %s", shard, problem)

    def search(
        self, queries: Matrix, k: int, allowed: RowIds | None, without: RowIds | None, probes: int | None
    ) -> tuple[Answer, dict[int, str]]:
        answer = self._shard.search(queries, k, allowed=allowed, without=without, probes=probes, threads=self._threads)
        return answer, self._shard.names_of(answer[0])

    def row_ids(self) -> RowIds:
        return self._shard.row_ids

    def status(self) -> dict[str, Any]:
        """What it holds, where, and what was wrong with its file if it had to build its rows again."""
        return {
            "shard": self._number,
            "rows": self._shard.rows,
            "rebuilt": int(self._problem is not None),
            "problem": self._problem,
            "threads": self._threads,
            "pid": os.getpid(),
        }


def namespace(layout: Layout) -> str:
    """Of one store's shard actors, the same in every process that opens it."""
    return f"raystore-{hashlib.sha256(str(layout.root.resolve()).encode()).hexdigest()[:FP12]}"


class ActorShards:
    """All shards of one index as actors, found or started.

    Raises:
        ShardsMissing: no shard could be started.
    """

    def __init__(
        self, source: VectorSource, layout: Layout, number: int, manifest: IndexManifest, *, deadline_s: float = DEADLINE_S
    ) -> None:
        self.number = number
        self.manifest = manifest
        self.deadline_s = deadline_s
        self._layout = layout
        self._ray: Any = start_ray()
        self._job = self._ray.get_runtime_context().get_job_id()
        self._actors = [self._actor(shard) for shard in range(len(manifest.shards))]
        found = self._ask_all("row_ids", START_DEADLINE_S)
        if not found:
            raise ShardsMissing(index=self._label, missing=list(range(len(manifest.shards))))
        if len(found) < len(manifest.shards):
            # The rows of a shard that could not start are its own all the same: reported missing, not searched elsewhere.
            known = source.row_ids(as_of=manifest.version)
            found |= {r.number: _within(known, r.row_id_lo, r.row_id_hi) for r in manifest.shards if r.number not in found}
        self.row_ids: RowIds = np.concatenate([found[shard] for shard in sorted(found)])  # ranges ascend with the number
        self.problems = {
            s: said["problem"] for s, said in self._ask_all("status", START_DEADLINE_S).items() if said["rebuilt"]
        }

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        without: RowIds | None = None,
        probes: int | None = None,
    ) -> Gathered:
        """Every shard's k best, or its number among the missing ones.

        Raises:
            ShardsMissing: not one shard answered before the deadline.
            Replaced: a newer index took over and these actors are gone.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32).view(np.ndarray)
        shared = self._ray.put(queries) if queries.nbytes > 2**16 else queries  # once, not once a shard
        arguments = [
            (shared, k, _within(allowed, r.row_id_lo, r.row_id_hi), _within(without, r.row_id_lo, r.row_id_hi), probes)
            for r in self.manifest.shards
        ]
        found = self._ask_all("search", self.deadline_s, arguments)
        missing = [shard for shard in range(len(self._actors)) if shard not in found]
        if not found:
            raise ShardsMissing(index=self._label, missing=missing)
        names = {row_id: id_ for _, part in found.values() for row_id, id_ in part.items()}
        return Gathered([found[shard][0] for shard in sorted(found)], names, missing)

    def status(self) -> list[dict[str, Any]]:
        """One line a shard that answers: rows, pid, threads, and whether it was rebuilt."""
        return list(self._ask_all("status", self.deadline_s).values())

    @property
    def connected(self) -> bool:
        """Whether this process is still in the Ray these actors were found in."""
        return bool(self._ray.is_initialized()) and self._ray.get_runtime_context().get_job_id() == self._job

    def stop(self) -> None:
        """End the actors, for every process that uses them."""
        for actor in self._actors:
            self._ray.kill(actor)

    @property
    def _label(self) -> str:
        return f"{self.manifest.collection}/{self.manifest.fingerprint[:FP12]}/{self.number}"

    def _replaced(self) -> bool:
        manifest = self.manifest
        return newest_number(self._layout, manifest.collection, manifest.fingerprint) != self.number

    def _actor(self, shard: int) -> Any:
        """The shard's actor, started where there is none."""
        shards = len(self.manifest.shards)
        return (
            self._ray.remote(ShardActor)
            .options(
                name=f"{self._label}/shard-{shard}",
                namespace=namespace(self._layout),
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                num_cpus=0,
                scheduling_strategy="SPREAD",
            )
            .remote(
                str(self._layout.root),
                self.manifest.collection,
                self.manifest.fingerprint,
                self.number,
                shard,
                thread_count(shards),
            )
        )

    def _ask_all(self, method: str, deadline_s: float, arguments: Sequence[tuple[Any, ...]] = ()) -> dict[int, Any]:
        """Answers by shard, of those that came before the deadline; a shard that died is asked once more."""
        deadline = time.monotonic() + deadline_s
        errors = self._ray.exceptions
        found: dict[int, Any] = {}
        again: set[int] = set()

        def ask(shard: int) -> Any:
            return getattr(self._actors[shard], method).remote(*(arguments[shard] if arguments else ()))

        waiting = {ask(shard): shard for shard in range(len(self._actors))}
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            done, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=left)
            for ref in done:
                shard = waiting.pop(ref)
                try:
                    found[shard] = self._ray.get(ref)
                except errors.ActorDiedError:
                    if self._replaced():
                        raise Replaced from None
                    if shard not in again:
                        again.add(shard)
                        self._actors[shard] = self._actor(shard)
                        waiting[ask(shard)] = shard
                except errors.RayActorError:  # it is restarting
                    if shard not in again:
                        again.add(shard)
                        waiting[ask(shard)] = shard
                except errors.RayError as error:
                    raise root_cause(error, f"{method} of shard {shard} of index {self._label}", "Try again.") from None
        for ref in waiting:
            self._ray.cancel(ref)
        return found


def _within(row_ids: RowIds | None, lo: int, hi: int) -> RowIds | None:
    """The part of ascending row ids that a shard can hold, so that each is sent its own share."""
    return None if row_ids is None else row_ids[np.searchsorted(row_ids, lo) : np.searchsorted(row_ids, hi)]
