"""Is the index in use still what it was built to be? Its recall against an exact scan of the collection, its pace, its coverage.

The queries are rows of the collection, each left out of its own answer, or given. They go the way every search goes:
shards or actors, what was added and erased since, ids.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from raystore.errors import IndexNotFound, InvalidArguments
from raystore.index.manifest import latest
from raystore.index.merge import merge
from raystore.index.metric import Metric, as_queries
from raystore.index.search.result import SearchResult
from raystore.index.shards.exact import Scores, flat_top_k, longest, nothing
from raystore.index.source import RowIds, VectorSource
from raystore.index.tune.measure import Pace, interval, pace_of, recall_of
from raystore.layout import FP12, Layout
from raystore.markup import facts_html
from raystore.progress import Progress
from raystore.vectors import Matrix, as_unit_rows, check_fingerprint

QUERIES = 200
_SECONDS = 1.0  # of each of the two paces
_SEED = 20261121


class Searcher(Protocol):
    """Whatever searches the collection: index/search/searcher.py's IndexSearcher."""

    def search(self, queries: object, k: int = 10) -> SearchResult: ...


@dataclass(frozen=True)
class IndexCheck:
    """What was measured of index `number`. `tail` rows came after it and are searched beside it; `gone` were erased from it since.

    `verdict` is "holds", "below" or "unsure" (the interval reaches to both sides of the target), or "incomplete" where
    shards did not answer.
    """

    collection: str
    fingerprint: str
    number: int
    kind: str
    served: str
    version: int
    target_recall: float
    recall: float
    recall_low: float
    recall_high: float
    k: int
    queries: int
    p50_ms: float
    p95_ms: float
    queries_per_s: float
    rows: int
    tail: int
    gone: int
    coverage: float
    missing: tuple[int, ...]

    @property
    def verdict(self) -> str:
        if self.missing:
            return "incomplete"
        if self.recall_low >= self.target_recall:
            return "holds"
        return "below" if self.recall_high < self.target_recall else "unsure"

    @property
    def advice(self) -> str:
        """What to do about it; nothing where it holds."""
        again = f"raystore index build {self.collection} --kind {self.kind} --recall {self.target_recall:g}"
        return {
            "holds": "",
            "incomplete": f"Shards {', '.join(map(str, self.missing))} did not answer: see that their actors run.",
            "below": f"Choose its probes anew: {again}; or see what other kinds reach: raystore index tune {self.collection}.",
            "unsure": f"Check it with more queries than {self.queries:,}.",
        }[self.verdict]

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "missing": list(self.missing), "verdict": self.verdict, "advice": self.advice}

    @property
    def shown(self) -> dict[str, str]:
        beside = f", {self.tail:,} beside it" if self.tail else ""
        erased = f", {self.gone:,} erased since it was written" if self.gone else ""
        return {
            "verdict": f"{self.verdict}: asked for recall {self.target_recall:g}",
            "recall": f"{self.recall:.3f} ({self.recall_low:.3f} to {self.recall_high:.3f}) at {self.k}, {self.queries:,} queries",
            "one query": f"{self.p50_ms:.2f} ms at p50, {self.p95_ms:.2f} ms at p95",
            "batches": f"{self.queries_per_s:,.0f} queries a second",
            "rows": f"{self.rows - self.tail:,} in the index{beside}{erased}",
            "coverage": f"{self.coverage:.4g}",
            "index": f"{self.number}, kind {self.kind}, {self.served}, encoder {self.fingerprint[:FP12]}, version {self.version}",
        }

    def __str__(self) -> str:
        lines = [f"Index {self.number} of {self.collection}"]
        lines += [f"  {name:<10}{said}" for name, said in self.shown.items()]
        return "\n".join([*lines, *([self.advice] if self.advice else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return facts_html(f"Index {self.number} of {self.collection}", self.shown, self.advice)


def check(
    searcher: Searcher,
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    k: int = 10,
    queries: object = None,
    sample: int = QUERIES,
    progress: Progress | None = None,
) -> IndexCheck:
    """The index in use, measured again.

    Args:
        queries: (m, d) vectors as users ask them; without, `sample` rows of the collection.
        progress: called with rows compared so far and rows in all.

    Raises:
        IndexNotFound: there is none.
        InvalidArguments: k or sample below 1, no rows to ask with.
        PassportMismatch, DimensionMismatch, InvalidVectors: queries that cannot be compared.

    Cost: one scan of all vectors, m*n*d multiply-adds, and some seconds of searches. Rows written meanwhile are left out,
    rows erased meanwhile count as not found.
    """
    call = f"check of the index over collection '{collection}'"
    problems = [
        f"{name} is {value!r}, expected a number from 1" for name, value in {"k": k, "sample": sample}.items() if value < 1
    ]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    found = latest(layout, collection, fingerprint)
    if found is None:
        raise IndexNotFound(name="newest", where=f"collection '{collection}' for encoder {fingerprint[:FP12]}")
    number, manifest = found
    own: RowIds | None = None
    if queries is None:
        own, asked = _rows_to_ask(source, fingerprint, sample)
    else:
        check_fingerprint(queries, fingerprint, call, "Encode the queries with the collection's encoder.")
        asked = as_queries(queries, manifest.dim, manifest.metric, call)
    if not len(asked):
        raise InvalidArguments(call=call, problems=["there are no rows to ask with"])
    fetch = k + (own is not None)  # a row's own place is taken from its answer
    result = searcher.search(asked, fetch)
    scan = _Scan(asked, fetch, manifest.metric)
    version = result.collection_version
    indexed = scan.add(source, fingerprint, None, min(manifest.version, version), progress, manifest.rows)
    tail = (
        scan.add(source, fingerprint, manifest.version, version, progress, manifest.rows)
        if version > manifest.version
        else 0
    )
    truth = scan.scores if own is None else _without(scan.rows, scan.scores, own)
    answered = _answered(result, fetch)
    shares = recall_of(answered if own is None else _without_names(result, answered, source, own), truth)
    low, high = (1.0, 1.0) if result.exact and shares.min() == 1 else interval(shares)
    pace = _pace(searcher, asked, k)
    return IndexCheck(
        collection=collection,
        fingerprint=fingerprint,
        number=number,
        kind=manifest.kind,
        served=manifest.served,
        version=version,
        target_recall=manifest.target_recall,
        recall=float(shares.mean()),
        recall_low=low,
        recall_high=high,
        k=k,
        queries=len(asked),
        p50_ms=pace.p50_ms,
        p95_ms=pace.p95_ms,
        queries_per_s=pace.queries_per_s,
        rows=indexed + tail,
        tail=tail,
        gone=max(0, manifest.rows - indexed),
        coverage=result.coverage,
        missing=tuple(result.missing),
    )


class _Scan:
    """The k best rows of all that were added, exactly: their row ids and scores."""

    def __init__(self, queries: Matrix, k: int, metric: Metric) -> None:
        self._queries = queries
        self._k = k
        self._metric = metric
        self._rows = 0
        self.rows, self.scores = nothing(len(queries), k)

    def add(
        self,
        source: VectorSource,
        fingerprint: str,
        since: int | None,
        as_of: int,
        progress: Progress | None,
        expected: int,
    ) -> int:
        """How many rows have a vector that came after `since` and not after `as_of`, all of them compared."""
        before = self._rows
        for batch in source.scan(fingerprint, columns=(), since=since, as_of=as_of):
            vectors = np.ascontiguousarray(as_unit_rows(batch.vectors, self._queries.shape[1], "index check"))
            at, scores = flat_top_k(vectors, self._queries, self._k, self._metric, longest_row=longest(vectors))
            row_ids = np.where(at >= 0, np.asarray(batch.row_ids)[at], -1)
            self.rows, self.scores = merge([(self.rows, self.scores), (row_ids, scores)], len(self._queries), self._k)
            self._rows += len(vectors)
            if progress is not None:
                progress(self._rows, max(expected, self._rows))
        return self._rows - before


def _rows_to_ask(source: VectorSource, fingerprint: str, n: int) -> tuple[RowIds, Matrix]:
    live = source.row_ids()
    drawn = np.sort(np.random.default_rng(_SEED).choice(live, min(len(live), n), replace=False))
    present, vectors = source.vectors_at(fingerprint, drawn)
    return drawn[present], as_unit_rows(vectors, source.dim(fingerprint), "index check") if len(vectors) else vectors


def _pace(searcher: Searcher, queries: Matrix, k: int) -> Pace:
    return pace_of(lambda asked: _answered(searcher.search(asked, k), k), queries, seconds=_SECONDS)


def _answered(result: SearchResult, k: int) -> Scores:
    """(m, k) scores, padded with -inf."""
    scores = np.full((len(result.scores), k), -np.inf, dtype=np.float32)
    for line, found in zip(scores, result.scores, strict=True):
        line[: len(found)] = found[:k]
    return scores


def _without(rows: RowIds, scores: Scores, own: RowIds) -> Scores:
    """The scores without that of the query's own row, or without the last, where its own is not among them."""
    mine = rows == own[:, None]
    mine[~mine.any(axis=1), -1] = True
    kept: Scores = scores[~mine].reshape(len(scores), -1)
    return kept


def _without_names(result: SearchResult, scores: Scores, source: VectorSource, own: RowIds) -> Scores:
    names = source.rows_by_row_id(own, ["id"])
    of = dict(zip(names.column("_rowid").to_pylist(), names.column("id").to_pylist(), strict=True))
    mine = np.zeros(scores.shape, dtype=bool)
    for line, ids, row in zip(mine, result.ids, own.tolist(), strict=True):
        line[ids.index(of[row]) if of.get(row) in ids else -1] = True
    kept: Scores = scores[~mine].reshape(len(scores), -1)
    return kept
