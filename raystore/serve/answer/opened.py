"""A collection as a service uses it: its log and its searches, opened as they are needed and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.current import default_first
from raystore.data.journaled import MOST_BYTES
from raystore.data.log import LogResult, RowLog
from raystore.encoders import Encoders
from raystore.encoders.bridged import Bridge, is_bridged, read_bridge
from raystore.encoders.together import leaders_of
from raystore.index.search.asked import SearchOptions
from raystore.index.search.searcher import IndexSearcher
from raystore.migrate.bridge import mark_bridged
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.served import Found
from raystore.vectors import Matrix, Vectors


class OpenCollection:
    """A collection with its log and its searches, opened as they are needed."""

    def __init__(self, catalog: Catalog, name: str, store_key: bytes) -> None:
        self._catalog = catalog
        self._layout = catalog.layout
        self._table = CollectionTable.open(catalog.layout, name)
        self._store_key = store_key
        self._logs: dict[tuple[str, ...], RowLog] = {}
        self._searchers: dict[str, IndexSearcher] = {}
        self._leaders: dict[str, str] = {}
        self._bridges: dict[str, Bridge | None] = {}

    @property
    def fingerprints(self) -> list[str]:
        """Its encoders, the one it is asked by first: looked up anew each time, so a cut-over holds from the next request on."""
        return default_first(self._catalog, self._table)

    @property
    def loaded_as(self) -> Mapping[str, str]:
        """Of each of its encoders, the one that is loaded for it."""
        fingerprints, leaders = self.fingerprints, self._leaders
        if list(leaders) != fingerprints:
            self._leaders = leaders = leaders_of(self._layout, fingerprints)
        return leaders

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns it keeps, with their types."""
        return self._table.columns

    def vectors_of(self, ids: Sequence[str], fingerprint: str) -> Vectors:
        return self._table.vectors_of(ids, fingerprint)

    def log(
        self,
        rows: Sequence[Mapping[str, Any]],
        encoders: Mapping[str, BatchingEncoder],
        fingerprint: str | None,
        encoded: Mapping[str, Mapping[str, Matrix]] | None = None,
    ) -> LogResult:
        """See `RowLog.log`; `encoders` are all of the collection's, of which a row with a text gets a vector each."""
        return self._log(encoders).log(rows, fingerprint=fingerprint, encoded=encoded)

    def append(
        self,
        rows: Sequence[Mapping[str, Any]],
        encoders: Mapping[str, BatchingEncoder],
        fingerprint: str | None,
        encoded: Mapping[str, Mapping[str, Matrix]] | None = None,
    ) -> int:
        """See `RowLog.append`; `encoders` as above."""
        return self._log(encoders).append(rows, fingerprint=fingerprint, encoded=encoded)

    def take_in(self) -> None:
        """Rows that were appended are in the collection now; see `JournaledTable`."""
        self._table.rows.take_in()
        self._table.rows.know_keys()

    @property
    def journal(self) -> tuple[int, int]:
        """The bytes of rows that wait to be taken in, and that may."""
        return self._table.rows.waiting_bytes, MOST_BYTES

    def _log(self, encoders: Mapping[str, BatchingEncoder]) -> RowLog:
        key = tuple(encoders)
        log = self._logs.get(key)
        if log is None:  # two threads may make two; writes are safe either way, only grouped apart
            log = self._logs.setdefault(key, RowLog(self._table, encoders, self._store_key))
        return log

    def searcher(self, fingerprint: str) -> IndexSearcher:
        """Of the collection's vectors of that encoder, kept."""
        searcher = self._searchers.get(fingerprint)
        if searcher is None:
            self._table.check_encoder(fingerprint)
            fresh = IndexSearcher(self._table, self._layout, self._table.name, fingerprint)
            searcher = self._searchers.setdefault(fingerprint, fresh)
        return searcher

    def search(self, query: object, *, fingerprint: str, without: Sequence[str], **options: Unpack[SearchOptions]) -> Found:
        """See `IndexSearcher.search`; of one query."""
        result = self.searcher(fingerprint).search(query, without=without, **options)
        bridge = self._bridge(fingerprint)
        if bridge is not None:
            result = mark_bridged(self._table, bridge, result)
        columns = list(result.columns)
        kept = result.rows.select(columns).to_pylist() if result.rows is not None else [{} for _ in result.ids[0]]
        return Found(
            ids=list(result.ids[0]),
            scores=[float(score) for score in result.scores[0]],
            columns=kept,
            mapped=result.bridged_hits[0] if result.bridged_hits is not None else [False] * len(result.ids[0]),
            coverage=result.coverage,
            missing=list(result.missing),
            exact=result.exact,
            metric=result.metric,
            version=result.collection_version,
            index_version=result.index_version,
            truncated=result.truncated,
            cursor=result.cursor,
            bridged=result.bridged,
        )

    def _bridge(self, fingerprint: str) -> Bridge | None:
        """The bridge that an encoder of the collection is; None where it is none."""
        if fingerprint not in self._bridges:  # a map of some MB, which never changes
            encoder = Encoders(self._catalog).get(fingerprint)
            found = read_bridge(self._layout, fingerprint, encoder.label) if is_bridged(encoder.passport) else None
            self._bridges[fingerprint] = found
        return self._bridges[fingerprint]
