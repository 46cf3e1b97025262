"""Search a collection by vectors: through its newest index and the rows added since, or through all its rows.

An `IndexSearcher` keeps in memory what it searches: the shards (or the actors' names), the rows no shard holds (the
tail), and which rows are still there. All follow the collection's version and the index's number, which are read at
each search, so a row is found, or is gone, as soon as its commit returned.

Cost of a search: the shards (shard.py, actors.py), 0.1 ms for the two versions, and 1 ms of Lance where columns
are asked. The first search after a commit also reads the row ids (3 ms at 200,000 rows) and the new vectors.
Without an index the vectors stay in this process: n * d * 4 bytes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from raystore.errors import InvalidArguments
from raystore.index.actors import DEADLINE_S, ActorShards, Gathered, Replaced
from raystore.index.build import build_shard, open_shard
from raystore.index.exact import Scores
from raystore.index.manifest import IndexManifest, newest_number, publish_repaired, read_manifest
from raystore.index.merge import merge
from raystore.index.result import SearchResult, hits_table
from raystore.index.shard import Shard
from raystore.index.source import ROW_ID_END, RowIds, VectorSource, read_rows
from raystore.layout import Layout
from raystore.session import has_ray
from raystore.vectors import Matrix, as_unit_rows, check_fingerprint

log = logging.getLogger("raystore")

# A tail this long is no tail: without an index the rows kept in memory are then read anew as one block.
_TAIL_ROWS = 20_000
_TAIL_SHARDS = 8  # commits whose rows are kept apart before the tail is read anew as one


class Shards(Protocol):
    """The part of a collection that is searched as shards: `row_ids` ascending, and their search."""

    row_ids: RowIds

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        without: RowIds | None = None,
        probes: int | None = None,
    ) -> Gathered: ...


class InlineShards:
    """Shards in this process, one after the other, each with all cores."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self.row_ids: RowIds = np.concatenate([np.empty(0, dtype=np.int64), *(shard.row_ids for shard in shards)])

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        without: RowIds | None = None,
        probes: int | None = None,
    ) -> Gathered:
        answers = [shard.search(queries, k, allowed=allowed, without=without, probes=probes) for shard in self.shards]
        names: dict[int, str] = {}
        for shard, (rows, _) in zip(self.shards, answers, strict=True):
            names |= shard.names_of(rows)
        return Gathered(answers, names, [])


@dataclass(frozen=True)
class _Base:
    """What the tail is counted from: an index, or (number None) the rows as they were once read."""

    number: int | None
    manifest: IndexManifest | None
    shards: Shards

    def usable(self, number: int | None) -> bool:
        """Whether this is still the index in use, and its actors are in the Ray we are in."""
        return self.number == number and (not isinstance(self.shards, ActorShards) or self.shards.connected)


@dataclass(frozen=True)
class _View:
    """One version of the collection over one base."""

    version: int
    base: _Base
    tail: InlineShards  # rows that no shard of the base holds
    gone: RowIds  # rows of either that have been erased since
    rows: int


class IndexSearcher:
    """Search one vector column of one collection. Safe to call from many threads."""

    def __init__(
        self, source: VectorSource, layout: Layout, collection: str, fingerprint: str, *, deadline_s: float = DEADLINE_S
    ) -> None:
        self.collection = collection
        self.fingerprint = fingerprint
        self.dim = source.dim(fingerprint)
        self._source = source
        self._layout = layout
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._view: _View | None = None

    def search(
        self,
        queries: object,
        k: int = 10,
        *,
        where: str | None = None,
        columns: Sequence[str] = (),
        probes: int | None = None,
    ) -> SearchResult:
        """The k rows nearest to each query, by cosine.

        Args:
            queries: (m, d) vectors, or one of d numbers; vectors of another encoder are refused.
            k: neighbours per query; more than there are rows is fine.
            where: only rows this predicate selects.
            columns: columns of the hits to return in `rows`.
            probes: lists of an ivf index to visit, instead of the number chosen when it was built.

        Raises:
            InvalidArguments: k or probes below 1.
            PassportMismatch, DimensionMismatch, InvalidVectors: queries that cannot be compared.
            SqlRefused, ColumnNotFound: a predicate or column that cannot be.
            ShardsMissing: no shard of the index answered. One of several is reported in `missing` instead.
        """
        call = f"search of collection '{self.collection}'"
        _check(call, k, probes)
        check_fingerprint(
            queries, self.fingerprint, f"collection '{self.collection}'", "Encode the query with the collection's encoder."
        )
        unit = as_unit_rows(queries, self.dim, call)
        allowed = self._source.row_ids(where) if where else None
        while True:
            view = self._current()
            wanted = min(k, max(1, view.rows))
            try:
                gathered = view.base.shards.search(unit, wanted, allowed=allowed, without=view.gone, probes=probes)
            except Replaced:  # a newer index was published in this moment: ask that one
                continue
            break
        later = view.tail.search(unit, wanted, allowed=allowed, without=view.gone)
        found, scores = merge([*gathered.answers, *later.answers], len(unit), wanted)
        names = {**gathered.names, **later.names}
        return self._result(view, found, scores, names, columns, list(gathered.missing))

    def close(self, *, stop_actors: bool = False) -> None:
        """Let go of the vectors. Actors go on serving other processes unless `stop_actors`; a later search loads anew."""
        with self._lock:
            view, self._view = self._view, None
        shards = None if view is None else view.base.shards
        if stop_actors and isinstance(shards, ActorShards) and shards.connected:
            shards.stop()

    def _result(
        self,
        view: _View,
        found: RowIds,
        scores: Scores,
        names: dict[int, str],
        columns: Sequence[str],
        missing: list[int],
    ) -> SearchResult:
        table: pa.Table | None = None
        place: dict[int, int] = {}
        if columns:
            table = self._source.rows_by_row_id(np.unique(found[found >= 0]), list(columns))
            place = {row_id: i for i, row_id in enumerate(table.column("_rowid").to_pylist())}
            names = {row_id: names[row_id] for row_id in place}  # a row erased in this moment has no columns any more
        hits = [
            [(row, score) for row, score in zip(line, of, strict=True) if row in names]
            for line, of in zip(found.tolist(), scores, strict=True)
        ]
        ids = [[names[row] for row, _ in line] for line in hits]
        lines = [np.array([score for _, score in line], dtype=np.float32) for line in hits]
        rows: pa.Table | None = None
        if table is not None:
            order = pa.array([place[row] for line in hits for row, _ in line], pa.int64())
            rows = hits_table(ids, lines, table.select(list(columns)).take(order))
        manifest = view.base.manifest
        lost = sum(manifest.shards[shard].rows for shard in missing) if manifest else 0
        return SearchResult(
            ids=ids,
            scores=lines,
            rows=rows,
            coverage=1.0 if not lost else 1 - lost / max(lost, len(view.base.shards.row_ids) + len(view.tail.row_ids)),
            missing=missing,
            fingerprint=self.fingerprint,
            index_version=view.base.number,
            collection_version=view.version,
            exact=not missing and (manifest is None or manifest.kind == "exact"),
            columns=tuple(columns),
        )

    def _current(self) -> _View:
        """The view of the newest version and index, made anew where either moved."""
        version = self._source.version
        number = newest_number(self._layout, self.collection, self.fingerprint)
        view = self._view
        if view is not None and view.version == version and view.base.usable(number):
            return view
        with self._lock:
            view = self._view
            base = view.base if view is not None and view.base.usable(number) else None
            if view is not None and base is not None and view.version == version:
                return view
            base = base or self._open_base(number, version)
            fresh = self._look(base, version)
            if base.number is None and len(fresh.tail.row_ids) > max(_TAIL_ROWS, len(base.shards.row_ids) // 4):
                fresh = self._look(self._open_base(None, version), version)
            self._view = fresh
        replaced = view.base.shards if view is not None and view.base.number != fresh.base.number else None
        if (
            isinstance(replaced, ActorShards) and replaced.connected
        ):  # a newer index serves; who asks the old one is sent to it
            replaced.stop()
        return fresh

    def _look(self, base: _Base, version: int) -> _View:
        live = self._source.row_ids()
        old = self._view
        tail = old.tail if old is not None and old.base is base else InlineShards([])
        fresh = np.setdiff1d(live, np.concatenate([base.shards.row_ids, tail.row_ids]), assume_unique=True)
        # Row ids grow, so what is new stands at the end; an older one had no vector when the base was read. It may have
        # one now (a job filled it), and it may never get one: it is asked for, so that no commit reads everything behind it.
        fresh = self._source.with_vector(self.fingerprint, fresh)
        if len(fresh):
            known = tail.shards if len(tail.shards) < _TAIL_SHARDS else ()
            held = np.concatenate([base.shards.row_ids, *(shard.row_ids for shard in known)])
            first = int((fresh if known else np.concatenate([fresh, tail.row_ids])).min())
            rows = read_rows(self._source, self.fingerprint, row_ids=(first, ROW_ID_END))
            rows = rows.where(~np.isin(rows.row_ids, held, assume_unique=True))
            if len(rows.row_ids):
                tail = InlineShards([*known, Shard.build(rows.row_ids, rows.vectors, ids=rows.ids)])
        gone = np.sort(np.setdiff1d(np.concatenate([base.shards.row_ids, tail.row_ids]), live, assume_unique=True))
        return _View(version, base, tail, gone, len(live))

    def _open_base(self, number: int | None, version: int) -> _Base:
        if number is None:
            everything = build_shard(self._source, self.fingerprint, row_ids=(0, ROW_ID_END), as_of=version, kind="exact")
            return _Base(None, None, InlineShards([everything]))
        manifest = read_manifest(self._layout, self.collection, self.fingerprint, number)
        # The same shards give the same answers in this process: a Ray of its own is not worth 5 s to a single search.
        if manifest.served == "actors" and has_ray():
            actors = ActorShards(self._source, self._layout, number, manifest, deadline_s=self._deadline_s)
            if actors.problems:  # they answer already; their files are made good for the next start
                opened = {s: open_shard(self._source, self._layout, number, manifest, s) for s in actors.problems}
                self._repair(
                    number, manifest, {s: shard for s, (shard, problem) in opened.items() if problem}, actors.problems
                )
            return _Base(number, manifest, actors)
        opened = {s: open_shard(self._source, self._layout, number, manifest, s) for s in range(len(manifest.shards))}
        problems = {s: str(problem) for s, (_, problem) in opened.items() if problem is not None}
        if problems:
            number, manifest = self._repair(number, manifest, {s: opened[s][0] for s in problems}, problems)
        return _Base(number, manifest, InlineShards([shard for shard, _ in opened.values()]))

    def _repair(
        self, number: int, manifest: IndexManifest, repaired: dict[int, Shard], problems: dict[int, str]
    ) -> tuple[int, IndexManifest]:
        """Publish the shards that were built again, and say so."""
        if not repaired:  # another process did it already
            return number, manifest
        fresh, whole = publish_repaired(self._layout, number, manifest, repaired)
        for shard in repaired:
            log.warning(
                "collection '%s': shard %s of index %s was rebuilt from the collection and published as index %s: %s",
                self.collection, shard, number, fresh, problems[shard],
            )  # fmt: skip
        return fresh, whole


def _check(call: str, k: object, probes: object) -> None:
    problems = []
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        problems.append(f"k is {k!r}, expected a number from 1")
    if probes is not None and (isinstance(probes, bool) or not isinstance(probes, (int, np.integer)) or probes < 1):
        problems.append(f"probes is {probes!r}, expected a number from 1, or None")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
