"""One version of a collection over its newest index: the shards, the rows that came since (tail.py), and which rows went.

The newest version and index number are asked for at every search, so a row is found, or is gone, by the search after its
commit returned, whoever committed it. A commit is followed by reading what it added. That rows went is known by counting:
there are fewer than were known and came; only then all row ids are read.

Cost of `current`: 30 us where nothing moved. After a commit 1 ms and what it added; after an erase 15 ms more for 1,000,000
rows. Who first sees a new index opens it, while others go on with the old one; for a fold into actors, which changes no
answer and takes seconds to start, nobody waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raystore.errors import ShardCorrupt
from raystore.index.live.actors import DEADLINE_S, ActorShards, Replaced
from raystore.index.live.base import Base, NewestNumber, changes_nothing, mend, open_base
from raystore.index.live.tail import Tail
from raystore.index.live.upkeep import Upkeep
from raystore.index.manifest import IndexManifest
from raystore.index.merge import merge
from raystore.index.metric import Metric
from raystore.index.shards.exact import Scores
from raystore.index.shards.shard import Found
from raystore.index.source import Pinned, RowIds, VectorSource
from raystore.layout import Layout
from raystore.vectors import Matrix

# Without an index, this many rows beside those that were read (or a quarter of them, if that is more) are read with them anew.
_TAIL_ROWS = 20_000
_NONE: RowIds = np.empty(0, dtype=np.int64)


class Gathered(NamedTuple):
    """`rows` (m, k) int64 row ids padded with -1 and canonical `scores` (m, k) float32 padded with -inf, highest first, ties
    to the lower row id, where k is at most the number of rows; the ids of those rows; the shards that did not answer; whether
    every row was compared; the share of the rows that was searched; and the version and index number that answered, which are
    newer than the view's where a shard was found bad in the middle of a search."""

    rows: RowIds
    scores: Scores
    names: Mapping[int, str]
    missing: list[int]
    exact: bool
    coverage: float
    version: int
    number: int | None


@dataclass(frozen=True, eq=False)
class View:
    """Never changed; searched from any thread. `gone` are rows of the index's shards that have been erased, ascending."""

    version: int
    base: Base
    tail: Tail
    gone: RowIds
    live: int  # rows of the collection, with a vector or without
    fragments: frozenset[int]
    fold_at: float | None  # when the rows beside the index are to be folded in, by time.monotonic
    views: Views

    @property
    def number(self) -> int | None:
        return self.base.number

    @property
    def manifest(self) -> IndexManifest | None:
        return self.base.manifest

    @property
    def metric(self) -> Metric:
        return self.base.metric

    @property
    def base_rows(self) -> int:
        """Rows in the shards, erased ones included."""
        return self.base.rows

    @property
    def tail_rows(self) -> int:
        return self.tail.rows

    @property
    def rows(self) -> int:
        """Rows that have a vector and can be found."""
        return self.base.rows - len(self.gone) + self.tail.rows

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        allowed: RowIds | None = None,
        probes: int | None = None,
        refine: int | None = None,
    ) -> Gathered:
        """The k rows nearest to each query.

        Args:
            queries: (m, d) float32 as metric.as_queries makes them.
            k: neighbours per query; more than there are rows is fine.
            allowed: only these row ids, ascending.
            probes, refine: as of Shard.search.

        Raises:
            ShardsMissing: the index has actors, and none of them answered.
        """
        wanted = min(k, max(1, self.rows))
        gone = self.gone if len(self.gone) else None
        try:
            found = self.base.shards.search(queries, wanted, allowed=allowed, without=gone, probes=probes, refine=refine)
        except (ShardCorrupt, Replaced, OSError) as error:
            if isinstance(error, OSError) and not self.views.passed(self.base):
                raise
            self.views.mend(self.base)
            return self.views.current().search(queries, k, allowed=allowed, probes=probes, refine=refine)
        if self.base.shards.problems:
            self.views.mend_later(self.base)
        answers: list[Found] = list(found.answers.values())
        if self.tail.rows:
            answers += self.tail.search(queries, wanted, allowed)
        if len(answers) == 1:
            rows, scores = answers[0].rows, answers[0].scores
        else:
            rows, scores = merge([(answer.rows, answer.scores) for answer in answers], len(queries), wanted)
        lost = self.base.rows_of(found.missing) if found.missing else 0
        return Gathered(
            rows=rows,
            scores=scores,
            names=self._names_of(rows),
            missing=list(found.missing),
            exact=not found.missing and all(answer.exact for answer in answers),
            coverage=1 - lost / max(lost, self.base.rows + self.tail.rows) if lost else 1.0,
            version=self.version,
            number=self.number,
        )

    def _names_of(self, rows: RowIds) -> dict[int, str]:
        wanted = np.unique(rows)
        names: dict[int, str] = {}
        for part in (*self.base.named, *self.tail.named):
            names |= part.names_of(wanted)
        return names


class Views:
    """The views of one vector column of one collection, one after the other. Safe to use from many threads.

    Args:
        folds: whether rows beside the index are folded into it, in a process of its own, when they are many or old
            (`fold_rows` and `fold_after_s` of the index).
    """

    def __init__(
        self,
        source: VectorSource,
        layout: Layout,
        collection: str,
        fingerprint: str,
        *,
        deadline_s: float = DEADLINE_S,
        folds: bool = True,
    ) -> None:
        self._source = source
        self._layout = layout
        self._names = (collection, fingerprint)
        self._deadline_s = deadline_s
        self._number = NewestNumber(layout, collection, fingerprint)
        self._upkeep = Upkeep(layout, collection, fingerprint) if folds else None
        self._following = threading.Lock()
        self._opening = threading.Lock()
        self._base: Base | None = None
        self._view: View | None = None

    def current(self) -> View:
        """The newest version of the collection over the newest index; over the one before while another thread opens that."""
        version = self._source.version
        number = self._number.read()
        view = self._view
        if view is None or view.version != version or view.number != number or not view.base.alive:
            view = self._follow(self._open(number))
        if self._upkeep is not None and view.fold_at is not None and time.monotonic() >= view.fold_at:
            self._upkeep.fold()
        return view

    def close(self, *, stop_actors: bool = False) -> None:
        """Let go of the vectors. Actors go on serving other processes unless `stop_actors`; a later search loads anew."""
        with self._opening:
            base, self._base = self._base, None
        with self._following:
            self._view = None
        if self._upkeep is not None:
            self._upkeep.stop()
        if stop_actors and base is not None and isinstance(base.shards, ActorShards) and base.shards.connected:
            base.shards.stop()

    def mend(self, base: Base) -> None:
        """The base is not to be used again: shards of it that were found bad are written again and published."""
        with self._opening:
            if base.ended:
                return
            problems = dict(base.shards.problems)
            if problems and base.number is not None and base.manifest is not None:
                mend(self._source, self._layout, base.number, base.manifest, problems)
            base.ended = True

    def passed(self, base: Base) -> bool:
        """Whether a newer index is in use: files of the base that lie at a home may be gone."""
        return self._number.read() != base.number

    def mend_later(self, base: Base) -> None:
        """Actors answer from rows they wrote again; their files are published anew, while searches go on."""
        if self._upkeep is not None and base.number is not None:
            self._upkeep.mend(base.number, dict(base.shards.problems))

    def _open(self, number: int | None) -> Base:
        base = self._base
        if base is not None and base.alive:
            if base.number == number or not self._opening.acquire(blocking=False):
                return base
            if changes_nothing(self._layout, *self._names, number):
                threading.Thread(target=self._open_held, daemon=True).start()
                return base
        else:
            self._opening.acquire()
        return self._open_held()

    def _open_held(self) -> Base:
        """The newest index, opened; lets go of the lock."""
        try:
            base = self._base
            if base is None or not base.alive or base.number != self._number.read():
                names = self._names
                base = open_base(self._source, self._layout, *names, deadline_s=self._deadline_s, before=base)
                self._base = base
            return base
        finally:
            self._opening.release()

    def _follow(self, base: Base) -> View:
        with self._following:
            opened = self._base
            if opened is not None and opened.alive:
                base = opened  # another thread may have opened a newer one meanwhile
            pinned = self._source.pin(self._names[1])
            view = self._view
            if view is not None and view.version > pinned.version:  # the table was dropped and made again
                view = None
            if view is None or view.base is not base:
                view = self._first(base, view, pinned)
            elif view.version != pinned.version:
                view = self._next(view, pinned)
            if base.number is None and view.tail.rows > max(_TAIL_ROWS, base.rows // 4):
                with self._opening:
                    names = self._names
                    self._base = open_base(self._source, self._layout, *names, deadline_s=self._deadline_s, before=base)
                view = self._first(self._base, None, self._source.pin(self._names[1]))
            self._view = view
            return view

    def _first(self, base: Base, before: View | None, pinned: Pinned) -> View:
        """The first view over that base. What the view before had read of the rows since is not read again."""
        if before is not None and before.base.version <= base.version:
            came = pinned.came_after(before.version, before.fragments)
            tail = before.tail.with_rows(came).after(base.version).of_metric(base.metric)
        else:
            tail = Tail(base.metric).with_rows(pinned.came_after(base.version))
        live = pinned.row_ids()
        return self._made(base, tail.only(live), base.gone_from(live), pinned, None)

    def _next(self, view: View, pinned: Pinned) -> View:
        came = pinned.came_after(view.version, view.fragments)
        tail, gone = view.tail.with_rows(came), view.gone
        if pinned.live != view.live + came.added:
            live = pinned.row_ids()
            tail = tail.only(live)
            now_gone = view.base.gone_from(live)
            gone = gone if len(gone) == len(now_gone) else now_gone  # the same array, by which shards know what they kept
        return self._made(view.base, tail, gone, pinned, view.fold_at)

    def _made(self, base: Base, tail: Tail, gone: RowIds, pinned: Pinned, fold_at: float | None) -> View:
        manifest = base.manifest
        if manifest is None or not tail.rows:
            fold_at = None
        elif tail.rows >= manifest.fold_rows:
            fold_at = 0.0
        elif fold_at is None:
            fold_at = time.monotonic() + manifest.fold_after_s
        return View(pinned.version, base, tail, gone, pinned.live, pinned.fragments, fold_at, self)
