"""Search a collection by vectors: through its newest index and the rows added since, or through all its rows.

An `IndexSearcher` checks what is asked, turns a predicate into row ids, and answers from a view (view.py): the newest version
of the collection over its newest index, read at each search, so a row is found, or is gone, as soon as its commit returned.
What an answer is chosen by beside nearness stands in ranking.py.

Cost of a search: the view's, 30 us of checks, 1 ms of Lance where columns are asked, and one pass over the columns that a
predicate names, once a version.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.errors import InvalidArguments
from raystore.index.live.actors import DEADLINE_S
from raystore.index.live.view import View, Views
from raystore.index.metric import as_queries
from raystore.index.search.asked import LIMIT, Asked, check_asked
from raystore.index.search.paging import Place
from raystore.index.search.ranking import Answers, answer
from raystore.index.search.result import SearchResult, hits_table
from raystore.index.source import RowIds, VectorSource
from raystore.layout import Layout
from raystore.vectors import Matrix, as_unit_rows, check_fingerprint

_FILTER_BYTES = 64 * 2**20  # of row ids that predicates selected, kept while the view lasts
# A page's last row scores what it scored, but for what rounding makes of the same text encoded in other company.
_SAME_QUERY = 0.02


class IndexSearcher:
    """Search one vector column of one collection. Safe to call from many threads."""

    def __init__(
        self, source: VectorSource, layout: Layout, collection: str, fingerprint: str, *, deadline_s: float = DEADLINE_S
    ) -> None:
        self.collection = collection
        self.fingerprint = fingerprint
        self.dim = source.dim(fingerprint)
        self._source = source
        self._views = Views(source, layout, collection, fingerprint, deadline_s=deadline_s)
        self._filters = _Filters(source)

    def view(self) -> View:
        """The newest version over the newest index: for who searches by row ids of their own."""
        return self._views.current()

    def search(
        self,
        queries: object,
        k: int | None = None,
        *,
        where: str | None = None,
        columns: Sequence[str] = (),
        probes: int | None = None,
        refine: int | None = None,
        min_score: float | None = None,
        limit: int = LIMIT,
        after: str | None = None,
        distinct: str | None = None,
        diversity: float | None = None,
        without: Sequence[str] = (),
    ) -> SearchResult:
        """The rows nearest to each query, best first, ties to the row added first.

        Args:
            queries: (m, d) vectors, or one of d numbers; vectors of another encoder are refused. Any number of them: 1,024 are
                searched at once.
            k: neighbours per query, 10 by default; more than there are rows is fine. With `min_score` and no k, all.
            where: only rows this predicate selects.
            columns: columns of the hits to return in `rows`.
            probes: lists to visit instead of the number chosen when the index was built; of kind hnsw, its ef.
            refine: rows to nominate for each neighbour, instead of the number chosen then.
            min_score: only rows that score at least so much.
            limit: rows of the ranking to look at behind the page before, where min_score, distinct or diversity ask for more
                than k; `truncated` says that it was met before the answer was complete.
            after: the `cursor` of the page before, of the same search with one query. Rows added or erased meanwhile neither
                repeat nor shift what follows.
            distinct: a column; of rows that have one value in it only the nearest. Rows without a value all count.
            diversity: 0 to 1: choose rows that are not all alike (diversity.py), in the order they are chosen.
            without: ids that are no answer.

        Raises:
            InvalidArguments: numbers out of range, a cursor of another search; with everything that is wrong.
            PassportMismatch, DimensionMismatch, InvalidVectors: queries that cannot be compared.
            SqlRefused, ColumnNotFound: a predicate or column that cannot be.
            ShardsMissing: no shard of the index answered. One of several is reported in `missing` instead.
        """
        call = f"search of collection '{self.collection}'"
        check_fingerprint(
            queries, self.fingerprint, f"collection '{self.collection}'", "Encode the query with the collection's encoder."
        )
        view = self._views.current()
        manifest = view.manifest
        prepared = as_queries(queries, self.dim, view.metric, call)
        asked = check_asked(
            call,
            fingerprint=self.fingerprint,
            metric=view.metric,
            queries=len(prepared),
            nlist=max((s.nlist or 0 for s in manifest.shards), default=0) or None if manifest else None,
            k=k,
            where=where,
            columns=columns,
            probes=probes,
            refine=refine,
            min_score=min_score,
            limit=limit,
            after=after,
            distinct=distinct,
            diversity=diversity,
            without=without,
        )
        if asked.place is not None:
            asked = replace(asked, place=_where_it_stands(view, prepared, asked.place, call))
        allowed = self._filters.row_ids(view, where) if where else None
        answers = answer(view, prepared, asked, allowed, lambda rows: self._values(rows, distinct), self._vectors)
        return self._result(view, asked, answers, columns)

    def close(self, *, stop_actors: bool = False) -> None:
        """Let go of the vectors. Actors go on serving other processes unless `stop_actors`; a later search loads anew."""
        self._views.close(stop_actors=stop_actors)

    def _values(self, rows: RowIds, column: str | None) -> Mapping[int, Any]:
        if column is None:
            return {}
        table = self._source.rows_by_row_id(rows, [column])
        return dict(zip(table.column("_rowid").to_pylist(), table.column(column).to_pylist(), strict=True))

    def _vectors(self, rows: RowIds) -> tuple[RowIds, Matrix]:
        there, vectors = self._source.vectors_at(self.fingerprint, rows)
        return rows[there], as_unit_rows(vectors, self.dim, "search")

    def _result(self, view: View, asked: Asked, answers: Answers, columns: Sequence[str]) -> SearchResult:
        cursor = None
        if len(answers.rows) == 1 and asked.diversity is None and len(answers.rows[0]) == asked.page:
            place = Place(answers.ranks[0], float(answers.scores[0][-1]), int(answers.rows[0][-1]))
            cursor = asked.cursor(place)
        return SearchResult(
            ids=answers.ids,
            scores=answers.scores,
            rows=self._columns(answers, columns) if columns else None,
            coverage=answers.coverage,
            missing=sorted(answers.missing),
            fingerprint=self.fingerprint,
            index_version=view.number if answers.version is None else answers.number,
            collection_version=view.version if answers.version is None else answers.version,
            exact=answers.exact,
            metric=view.metric,
            truncated=answers.truncated,
            cursor=cursor,
            columns=tuple(columns),
        )

    def _columns(self, answers: Answers, columns: Sequence[str]) -> pa.Table:
        """The asked columns of every hit. A row that was erased in this moment has none, and leaves the answers."""
        table = self._source.rows_by_row_id(np.unique(np.concatenate([_NO_ROWS, *answers.rows])), list(columns))
        place = {row: i for i, row in enumerate(table.column("_rowid").to_pylist())}
        for at, rows in enumerate(answers.rows):
            there = [i for i, row in enumerate(rows.tolist()) if row in place]
            if len(there) < len(rows):
                answers.rows[at], answers.scores[at] = rows[there], answers.scores[at][there]
                answers.ids[at] = [answers.ids[at][i] for i in there]
        order = pa.array([place[row] for rows in answers.rows for row in rows.tolist()], pa.int64())
        return hits_table(answers.ids, answers.scores, table.select(list(columns)).take(order))


_NO_ROWS: RowIds = np.empty(0, dtype=np.int64)


def _where_it_stands(view: View, query: Matrix, place: Place, call: str) -> Place:
    """The place with the score its row has now, while it is there: the same text encoded in another batch is another vector,
    by rounding. InvalidArguments where it is another query's."""
    found = view.search(query, 1, allowed=np.array([place.row], dtype=np.int64))
    if found.rows[0, 0] != place.row:
        return place
    score = float(found.scores[0, 0])
    if abs(score - place.score) > _SAME_QUERY * max(1.0, abs(place.score)):
        raise InvalidArguments(call=call, problems=["after is the cursor of another query"])
    return place._replace(score=score)


class _Filters:
    """The row ids that predicates select, kept while nothing is committed and no index is published."""

    def __init__(self, source: VectorSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._of: weakref.ref[View] | None = None
        self._kept: OrderedDict[str, RowIds] = OrderedDict()

    def row_ids(self, view: View, where: str) -> RowIds:
        """Of the newest version, which is the view's or later: a row that was erased since is in neither."""
        with self._lock:
            if self._of is None or self._of() is not view:
                self._of = weakref.ref(view)
                self._kept.clear()
            if where in self._kept:
                self._kept.move_to_end(where)
                return self._kept[where]
        rows = self._source.row_ids(where)
        with self._lock:
            if self._of() is view:
                self._kept[where] = rows
                while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _FILTER_BYTES:
                    self._kept.popitem(last=False)
        return rows
