"""Shards in this process, one after the other, each with all cores. No Ray, no replicas, nothing to wait for."""

from __future__ import annotations

from collections.abc import Mapping

from raystore.errors import ShardCorrupt
from raystore.index.build.run import open_shard
from raystore.index.live.gather import ShardAnswers
from raystore.index.manifest import IndexManifest
from raystore.index.shards.shard import Shard
from raystore.index.source import RowIds, VectorSource
from raystore.layout import Layout
from raystore.vectors import Matrix


class InlineShards:
    """Shards by number. The same face as raystore.index.actors.ActorShards, and the same answers."""

    def __init__(self, shards: Mapping[int, Shard], problems: Mapping[int, str] | None = None) -> None:
        self.shards = dict(shards)
        self.problems = dict(problems or {})

    @classmethod
    def open(cls, source: VectorSource, layout: Layout, number: int, manifest: IndexManifest) -> InlineShards:
        """All shards of an index, from their files or, said in `problems`, from the collection."""
        opened = {
            record.number: open_shard(source, layout, number, manifest, place)
            for place, record in enumerate(manifest.shards)
        }
        return cls(
            {shard: found for shard, (found, _) in opened.items()},
            {shard: str(problem) for shard, (_, problem) in opened.items() if problem is not None},
        )

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
