"""Which replica of a shard is asked, when another one is asked too, and what came back. Pure: no Ray, no clock of its own.

A query goes to one replica of every shard. Where that one has not answered after a short wait, the next is asked as well
and the first answer counts (hedged requests: Dean and Barroso, The Tail at Scale, CACM 2013). The wait follows what
answers took lately, so that about one query in twenty is asked twice at most. A replica that failed, or that had to be
hedged, is left out until it has answered something.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from raystore.index.shards.shard import Found
from raystore.index.source import RowIds
from raystore.vectors import Matrix

LEAST_HEDGE_S = 0.02
FIRST_HEDGE_S = 0.1  # while nothing is known of how long answers take
PAUSE_S = 0.1  # before a replica that just failed is asked again
_HEDGE_TIMES = 3.0
_KEPT, _ENOUGH = 64, 8  # answers remembered of each size of batch, and how many of them say something


@dataclass(frozen=True)
class ShardAnswers:
    """The shards' answers by shard number, and the numbers of the shards that did not answer."""

    answers: Mapping[int, Found]
    missing: Sequence[int] = ()

    @property
    def exact(self) -> bool:
        return not self.missing and all(found.exact for found in self.answers.values())


class Shards(Protocol):
    """The part of a collection that is searched as shards, in this process or in others."""

    @property
    def problems(self) -> Mapping[int, str]:
        """What was wrong with the files of which shards, at load or in a search since: they are served from rows read
        again from the collection, and their files are to be published anew."""

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
        """Every shard's k best, or its number among the missing ones. Arguments as of Shard.search."""


class Waits:
    """How long answers took lately, by the size of the batch. Safe to use from many threads."""

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = {}

    def took(self, m: int, seconds: float) -> None:
        self._took.setdefault(m.bit_length(), deque(maxlen=_KEPT)).append(seconds)

    def hedge_s(self, m: int) -> float:
        """How long a batch of m queries is given before another replica is asked: three times the 95th percentile of
        such batches, or, where none was seen, of smaller ones, as if cost grew with the number of queries."""
        size = m.bit_length()
        known = [s for s in range(size, -1, -1) if len(self._took.get(s, ())) >= _ENOUGH]
        if not known:
            return FIRST_HEDGE_S * max(1.0, m / 8)
        lately = sorted(self._took[known[0]].copy())
        return max(LEAST_HEDGE_S, _HEDGE_TIMES * lately[int(0.95 * (len(lately) - 1))] * 2.0 ** (size - known[0]))


class Replicas:
    """Whose turn it is among the replicas of each shard. Safe to use from many threads."""

    def __init__(self, shards: Collection[int], replicas: int) -> None:
        self._lock = threading.Lock()
        self._open = {(shard, replica): 0 for shard in shards for replica in range(replicas)}
        self._turn = dict.fromkeys(shards, 0)
        self._left_out: set[tuple[int, int]] = set()
        self.replicas = replicas

    @property
    def left_out(self) -> set[tuple[int, int]]:
        """(shard, replica) pairs that are asked only where no other is left."""
        with self._lock:
            return set(self._left_out)

    def ask(self, shard: int, besides: Collection[int] = ()) -> int | None:
        """The replica to ask now, counted as asked: one that serves, with the fewest calls open, in turn. None where all
        are in `besides`."""
        with self._lock:
            turn = self._turn[shard]
            chosen = min(
                (replica for replica in range(self.replicas) if replica not in besides),
                key=lambda r: ((shard, r) in self._left_out, self._open[shard, r], (r - turn) % self.replicas),
                default=None,
            )
            if chosen is not None:
                self._turn[shard] = (chosen + 1) % self.replicas
                self._open[shard, chosen] += 1
            return chosen

    def asked(self, shard: int, replica: int) -> None:
        """A call that was not chosen here (a ping) is open."""
        with self._lock:
            self._open[shard, replica] += 1

    def ended(self, shard: int, replica: int, *, serves: bool) -> None:
        """A call ended: the replica serves again, or is left out."""
        with self._lock:
            self._open[shard, replica] -= 1
            (self._left_out.discard if serves else self._left_out.add)((shard, replica))

    def late(self, shard: int, replica: int) -> None:
        with self._lock:
            self._left_out.add((shard, replica))

    def idle(self) -> list[tuple[int, int]]:
        """Those left out of whom nothing is awaited: they need a ping to be seen again."""
        with self._lock:
            return [pair for pair in self._left_out if not self._open[pair]]


@dataclass
class _Shard:
    next_at: float  # when a replica is asked, next or first
    out: dict[int, float] = field(default_factory=dict)  # replicas that have not answered, and when they were asked
    tried: set[int] = field(default_factory=set)


class Course:
    """One query's way through the shards: `due` says whom to ask now; tell it who answered and who failed."""

    def __init__(self, replicas: Replicas, shards: Collection[int], hedge_s: float, now: float) -> None:
        self._replicas = replicas
        self._hedge_s = hedge_s
        self._open = {shard: _Shard(now) for shard in shards}

    @property
    def missing(self) -> list[int]:
        """Shards without an answer so far, ascending."""
        return sorted(self._open)

    def due(self, now: float) -> list[tuple[int, int]]:
        """(shard, replica) pairs to ask now."""
        calls = []
        for shard, state in self._open.items():
            if state.next_at > now:
                continue
            for slow in state.out:  # it had its time
                self._replicas.late(shard, slow)
            replica = self._replicas.ask(shard, state.out.keys() | state.tried)
            if replica is None:
                replica = self._replicas.ask(shard, state.out.keys())
            state.next_at = inf
            if replica is not None:
                state.out[replica] = now
                state.tried.add(replica)
                calls.append((shard, replica))
                if len(state.tried) < self._replicas.replicas:
                    state.next_at = now + self._hedge_s
        return calls

    def wake_at(self) -> float:
        """When somebody may be due again, if nothing comes before."""
        return min((state.next_at for state in self._open.values()), default=inf)

    @property
    def hurried(self) -> bool:
        """Whether one reply may change whom to wait for: several replicas of a shard were asked."""
        return any(len(state.tried) > 1 for state in self._open.values())

    def answered(self, shard: int, replica: int, now: float) -> float:
        """The shard is done; how long the replica took."""
        return now - self._open.pop(shard).out[replica]

    def failed(self, shard: int, replica: int, now: float) -> None:
        """Ask another at once; where all were tried, whichever is free after a pause."""
        state = self._open[shard]
        del state.out[replica]
        pause = 0.0 if len(state.tried) < self._replicas.replicas else PAUSE_S
        state.next_at = min(state.next_at, now + pause)
