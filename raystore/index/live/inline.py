"""Shards in this process, one after the other, each with all cores. No Ray, no replicas, nothing to wait for."""

from __future__ import annotations

from collections.abc import Mapping

from raystore.errors import ShardCorrupt
from raystore.index.live.gather import ShardAnswers
from raystore.index.shards.shard import Shard
from raystore.index.source import RowIds
from raystore.vectors import Matrix


class InlineShards:
    """Shards by number. The same face as raystore.index.live.actors.ActorShards, and the same answers."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self.shards = dict(shards)
        self.problems: dict[int, str] = {}

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
        """Every shard's k best.

        Raises:
            ShardCorrupt: a block of a file was not what it should be when it was first read; `problems` then says of
                which shard. Nothing of it was answered.
        """
        answers = {}
        for number, shard in self.shards.items():
            try:
                found = shard.search(queries, k, allowed=allowed, without=without, probes=probes, refine=refine)
            except ShardCorrupt as error:
                self.problems[number] = str(error)
                raise
            answers[number] = found
        return ShardAnswers(answers)
