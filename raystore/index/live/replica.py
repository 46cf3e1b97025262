"""One replica of one shard, in a process of its own: what a shard actor runs. Knows no Ray.

It is named by its shard's digest, not by an index number: when its process starts again it looks for the newest index that
has the shard, since the one it was started for may be gone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

from raystore.errors import IndexNotFound, ShardCorrupt
from raystore.index.build.run import open_shard, rebuild_shard
from raystore.index.manifest import IndexManifest, ShardRecord, index_folder, read_manifest
from raystore.index.shards.shard import Found, Shard
from raystore.index.source import RowIds, open_source
from raystore.layout import FP12, Layout, numbers
from raystore.session import no_core_files
from raystore.vectors import Matrix

log = logging.getLogger("raystore")


class Problem(NamedTuple):
    """What was wrong with a shard's files, and the newest index that had them then."""

    number: int
    said: str


class Reply(NamedTuple):
    found: Found
    problem: Problem | None


def shard_digest(manifest: IndexManifest, record: ShardRecord) -> str:
    """12 digits of everything a shard is opened by: equal in two indexes where one shard serves both."""
    facts = (record.model_dump_json(), manifest.kind, manifest.metric, str(manifest.dim), str(manifest.cache_bytes))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:FP12]


class ShardActor:
    """Holds vectors, row ids and ids; no columns and no content.

    Args:
        digest: of the shard, as shard_digest has it.
        share: of the cores of its node, for FAISS.

    Raises:
        IndexNotFound: no index of the collection has that shard any more.
    """

    def __init__(self, root: str, collection: str, fingerprint: str, digest: str, share: float) -> None:
        no_core_files()
        self._layout = Layout(Path(root))
        self._source = open_source(root, collection)
        self._key = (collection, fingerprint, digest)
        self._threads = max(1, round(share * (os.cpu_count() or 1)))
        self._problem: Problem | None = None
        self._number, manifest, place = self._newest()
        self._shard, problem = open_shard(self._source, self._layout, self._number, manifest, place, threads=self._threads)
        if problem is not None:
            self._note(problem)

    def search(
        self,
        queries: Matrix,
        k: int,
        allowed: RowIds | None,
        without: RowIds | None,
        probes: int | None,
        refine: int | None,
    ) -> Reply:
        """The shard's answer; where a block of its files is found bad now, from rows written again."""
        try:
            return self._reply(queries, k, allowed, without, probes, refine)
        except ShardCorrupt as error:
            self._mend(error)
        return self._reply(queries, k, allowed, without, probes, refine)

    def status(self) -> dict[str, Any]:
        """What it holds, from which index, where, and what was wrong with its files."""
        return {
            "rows": self._shard.rows,
            "index": self._number,
            "rebuilt": int(self._problem is not None),
            "problem": self._problem and self._problem.said,
            "threads": self._threads,
            "memory_bytes": self._shard.memory_bytes,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def _reply(
        self,
        queries: Matrix,
        k: int,
        allowed: RowIds | None,
        without: RowIds | None,
        probes: int | None,
        refine: int | None,
    ) -> Reply:
        found = self._shard.search(
            queries, k, allowed=allowed, without=without, probes=probes, refine=refine, threads=self._threads
        )
        return Reply(found, self._problem)

    def _newest(self) -> tuple[int, IndexManifest, int]:
        """The newest index that has this shard, and the shard's place in it."""
        collection, fingerprint, digest = self._key
        for number in reversed(numbers(self._layout.indexes(collection, fingerprint))):
            try:
                manifest = read_manifest(self._layout, collection, fingerprint, number)
            except IndexNotFound:  # removed in this moment
                continue
            for place, record in enumerate(manifest.shards):
                if shard_digest(manifest, record) == digest:
                    return number, manifest, place
        raise IndexNotFound(name=digest, where=f"the shards of collection '{collection}'", existing=[])

    def _mend(self, error: ShardCorrupt) -> None:
        """Open the shard from a newer index, whose files may be repaired already, or else from rows written again."""
        number, manifest, place = self._newest()
        if number != self._number:
            self._number = number
            folder = index_folder(self._layout, manifest.collection, manifest.fingerprint, number)
            try:
                self._shard = Shard.load(folder, manifest.shards[place], manifest)
                self._problem = None
                return
            except ShardCorrupt as newer:
                error = newer
        self._shard = rebuild_shard(self._source, self._layout, manifest, place, threads=self._threads)
        self._note(error)

    def _note(self, problem: ShardCorrupt) -> None:
        self._problem = Problem(self._number, str(problem))
        log.warning("index %s: %s", self._number, problem)
