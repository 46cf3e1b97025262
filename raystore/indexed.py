"""The indexes of a collection: built, listed, folded, measured. The work stands in the room `index`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raystore.data.collection import CollectionTable
from raystore.data.query.cache import parse_bytes
from raystore.index.build.run import build_index
from raystore.index.live.fold import fold_index
from raystore.index.manifest import FOLD_AFTER_S, FOLD_ROWS, IndexFacts, IndexManifest, latest, list_indexes, publish_again
from raystore.index.metric import Metric
from raystore.index.search.searcher import IndexSearcher
from raystore.index.tune.check import QUERIES, IndexCheck, check
from raystore.index.tune.run import tune
from raystore.index.tune.table import Tuning
from raystore.opened import Opened
from raystore.progress import Progress, shown
from raystore.session import INLINE_BELOW, choose_workers

if TYPE_CHECKING:
    from raystore.store import Store


class Indexed(Opened):
    """A collection and the indexes over it."""

    def __init__(self, store: Store, table: CollectionTable) -> None:
        super().__init__(store, table)
        self._searchers: dict[str, IndexSearcher] = {}

    def build_index(
        self,
        *,
        kind: str = "exact",
        shards: int | None = None,
        memory: str | int | None = None,
        metric: Metric = "cosine",
        recall: float = 0.95,
        workers: int | None = None,
        served: str | None = None,
        replicas: int = 1,
        fold_rows: int = FOLD_ROWS,
        fold_after_s: float = FOLD_AFTER_S,
        home: str | None = None,
        cache: str | int = "256MB",
        encoder: str | None = None,
        progress: Progress | None = None,
    ) -> IndexManifest:
        """The new index over the collection's vectors; searches use it from the moment it is published.

        A build that was killed goes on where it stopped when it is called again with the same arguments.

        Args:
            kind: "exact"; "ivf", "ivf_fp16", "ivf_sq8", "ivf_pq", "ivf_pqfs", "ivf_rabitq" (lists, from whole vectors to a
                bit a dimension); "hnsw" (a graph); "disk" (lists in files, for more vectors than memory). See docs/index.md.
            shards: parts it is cut into; each may live on another node. By default as many as `memory` asks for, else one.
            memory: what one shard may hold in private memory: "1GiB", or bytes.
            metric: "cosine", "ip" or "l2": the scores' meaning. Vectors of a collection have length 1, so the order is the same.
            recall: of the 10 nearest, on a sample of the rows; probes are chosen for it.
            workers: 0 builds in this process, more on so many Ray workers; by default inline below 1,000,000 rows.
            served: "inline" (in the searching process) or "actors" (Ray actors); by default actors where Ray workers built it
                or where there are replicas.
            replicas: actors a shard, on different nodes: one may die under a query.
            fold_rows, fold_after_s: rows beside the index are searched exactly; when there are so many, or one is so old,
                they are folded into it in the background.
            home: of kind "disk": an fsspec address ("s3://bucket/indexes") that the big files are put at and read from by ranges.
            cache: of what is read from `home`, kept in memory by each process.
            progress: called with the rows indexed so far and the rows in all; without it, a bar.

        Raises:
            InvalidArguments: no rows, arguments that cannot be, a budget that cannot be met (it names the nearest that can).
            DiskFull, JobFailed: nothing was published.
        """
        chosen = choose_workers(workers, len(self), INLINE_BELOW.index_rows, f"index over '{self.name}'")
        with shown(progress, f"indexing {self.name}") as advance:
            _, manifest = build_index(
                self._table,
                self._store.layout,
                self.name,
                self.encoder(encoder).fingerprint,
                kind=kind,
                shards=shards,
                memory=_bytes(memory, "build_index memory"),
                metric=metric,
                target_recall=recall,
                workers=chosen,
                served=served or ("actors" if chosen or replicas > 1 else "inline"),
                replicas=replicas,
                fold_rows=fold_rows,
                fold_after_s=fold_after_s,
                home=home,
                cache_bytes=_bytes(cache, "build_index cache") or 0,
                progress=advance,
            )
        return manifest

    def index(self, encoder: str | None = None) -> IndexManifest | None:
        """The index searches use, or None where they read the collection itself."""
        found = latest(self._store.layout, self.name, self.encoder(encoder).fingerprint)
        return found[1] if found else None

    def indexes(self, encoder: str | None = None) -> list[IndexFacts]:
        """The indexes that are kept, newest first: number, kind, rows, shards, version, made_by, memory and disk bytes. Older
        folds are removed by and by; what was built stays, to go back to (`use_index(number)`), until `fold_index(drop_gone=True)`."""
        return list_indexes(self._store.layout, self.name, self.encoder(encoder).fingerprint)

    def use_index(self, number: int, *, encoder: str | None = None) -> IndexManifest:
        """An older index, published again as the newest: searches use it from now on, with the rows since beside it.

        Raises:
            IndexNotFound: it is not kept any more.
        """
        return publish_again(self._store.layout, self.name, self.encoder(encoder).fingerprint, number)[1]

    def fold_index(self, *, drop_gone: bool = False, encoder: str | None = None) -> IndexManifest | None:
        """The index with the rows that stood beside it, in use from now on; None where there was nothing to fold.

        Searches start this by themselves in the background (`build_index(fold_rows=, fold_after_s=)`).

        Args:
            drop_gone: also write anew every shard that holds an erased row, and remove older indexes.
        """
        fingerprint = self.encoder(encoder).fingerprint
        folded = fold_index(self._table, self._store.layout, self.name, fingerprint, drop_gone=drop_gone)
        return folded[1] if folded else None

    def tune_index(
        self,
        *,
        recall: float = 0.95,
        memory: str | int | None = None,
        p95_ms: float | None = None,
        k: int = 10,
        queries: object = None,
        kinds: Sequence[str] | None = None,
        sample_rows: int = 200_000,
        encoder: str | None = None,
        progress: Progress | None = None,
    ) -> Tuning:
        """What every kind of index reaches on these vectors against exact search, and which to build: recall with its interval,
        milliseconds, bytes a vector, build time; `.choice` is None where none keeps the budget, and the nearest is said.

        Args:
            memory: that the index may hold, all shards together ("1GiB", or bytes).
            p95_ms: within which 95 of 100 single queries are answered.
            queries: (m, d) vectors as users ask them; without, rows of the collection, left out of what is indexed.
            kinds: to try; all by default.
            sample_rows: of a larger collection, rows that are tried.
        """
        with shown(progress, f"measuring {self.name}", "kinds") as advance:
            return tune(
                self._table, self._store.layout, self.name, self.encoder(encoder).fingerprint,
                recall=recall, memory_bytes=_bytes(memory, "tune_index memory"), p95_ms=p95_ms, k=k, queries=queries,
                kinds=kinds, sample_rows=sample_rows, progress=advance,
            )  # fmt: skip

    def check_index(
        self,
        *,
        k: int = 10,
        queries: object = None,
        sample: int = QUERIES,
        encoder: str | None = None,
        progress: Progress | None = None,
    ) -> IndexCheck:
        """The index in use, measured again against an exact scan: recall with its interval, pace, coverage, rows beside it.

        Args:
            queries: (m, d) vectors as users ask them; without, `sample` rows of the collection.

        Raises:
            IndexNotFound: there is none.
        """
        fingerprint = self.encoder(encoder).fingerprint
        with shown(progress, f"checking {self.name}") as advance:
            return check(
                self._searcher(fingerprint), self._table, self._store.layout, self.name, fingerprint,
                k=k, queries=queries, sample=sample, progress=advance,
            )  # fmt: skip

    def _searcher(self, fingerprint: str) -> IndexSearcher:
        if fingerprint not in self._searchers:
            opened = IndexSearcher(self._table, self._store.layout, self.name, fingerprint)
            self._searchers[fingerprint] = opened
        return self._searchers[fingerprint]


def _bytes(size: str | int | None, name: str) -> int | None:
    return parse_bytes(size, name) if isinstance(size, str) else size
