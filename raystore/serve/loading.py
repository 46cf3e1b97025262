"""From a store's root to an orchestrator: what a replica opens, and what it keeps in memory.

Opens the catalog and the rooms, never the facade. Costs what loading the encoders costs (about a second each from
an export, 3 to 6 s through torch); heads are small. Knows no HTTP and no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack

from raystore.access import ApiKeys, is_loopback
from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.current import default_first
from raystore.data.log import LogResult, RowLog
from raystore.data.sandbox.process import SandboxLimits, SqlSandbox
from raystore.data.tables.table import table_names
from raystore.encoders import Encoders, LoadedEncoder, open_encoder
from raystore.encoders.bridged import Bridge, is_bridged, read_bridge
from raystore.encoders.records import KIND
from raystore.encoders.together import leaders_of
from raystore.errors import EncoderNotFound, KeyRequired, ModelUnusable
from raystore.index.search.asked import SearchOptions
from raystore.index.search.searcher import IndexSearcher
from raystore.migrate.bridge import mark_bridged
from raystore.secret import load_store_key
from raystore.serve.auth import Door
from raystore.serve.batching import BatchingEncoder
from raystore.serve.orchestrator import Orchestrator
from raystore.serve.served import Found, Known, Live
from raystore.serve.spec import AppSpec, DeploymentRecord, deployment_records, record_deployment
from raystore.train.classify.register import open_head
from raystore.train.heads import Head
from raystore.train.registry import Heads
from raystore.vectors import Vectors


class Rooms:
    """A store as serving needs it: catalog, key, encoders, heads."""

    def __init__(self, root: str | Path) -> None:
        self.layout, about = open_root(root, create=False)
        self.catalog = Catalog(self.layout)
        self.store_key = load_store_key(self.layout, about["key_id"])
        self.encoders = Encoders(self.catalog)
        self.heads = Heads(self.catalog)
        self._opened: dict[str, OpenCollection] = {}

    def door(self, spec: AppSpec) -> Door:
        """Who may come in at the spec's address. KeyRequired where it is no loopback address and the store has no key."""
        if is_loopback(spec.host):
            return Door(None)
        keys = ApiKeys(self.layout, self.store_key)
        if not keys.names():
            raise KeyRequired(reason=f"{spec.host} can be reached from other machines, and this store has no key yet")
        return Door(keys)

    def records(self, spec: AppSpec) -> dict[str, DeploymentRecord]:
        """What the spec serves, recorded; without deployments in it, every deployment of the store.

        Raises:
            HeadNotFound, CollectionNotFound, PassportMismatch: the spec names what is not there or does not fit.
        """
        if not spec.deployments:
            return deployment_records(self.catalog)
        return {
            name: self.record(name, wanted.head, log=wanted.log, through=wanted.through)
            for name, wanted in spec.deployments.items()
        }

    def record(
        self, name: str, head: str, *, encoder: str | None = None, log: str | None = None, through: str | None = None
    ) -> DeploymentRecord:
        """The published record of one deployment; see `record_deployment`. `encoder`, `log` and `through` are names."""
        asked = self.encoders.get(encoder) if encoder is not None else None
        reader = self.encoders.get(through) if through is not None else None
        return record_deployment(
            self.catalog,
            name,
            self.heads.get(head),
            encoder=(asked.label, asked.fingerprint) if asked else None,
            log=(log, CollectionTable.open(self.layout, log).fingerprints) if log is not None else None,
            through=read_bridge(self.layout, reader.fingerprint, reader.label) if reader else None,
        )

    def live(self, records: Mapping[str, DeploymentRecord]) -> dict[str, Live]:
        """The records with their heads in memory; those that ask a collection share what its searches keep."""
        return {name: Live(record, self._asking(self.heads.get(record.head))) for name, record in records.items()}

    def opened(self, name: str) -> OpenCollection:
        """The collection, opened once."""
        if name not in self._opened:  # two threads may make two, of which one is kept
            self._opened.setdefault(name, OpenCollection(self.catalog, name, self.store_key))
        return self._opened[name]

    def _asking(self, head: Head) -> Head:
        if head.voters is None:
            return head
        return replace(head, asks=open_head(head, self.opened(head.voters.collection).searcher(head.fingerprint)))

    def orchestrator(self, spec: AppSpec, *, threads: int | None = None) -> Orchestrator:
        """An orchestrator over this store that serves nothing yet; `update` it. `threads` are the encoder's."""

        def load(fingerprint: str) -> LoadedEncoder:
            return open_encoder(self.layout, fingerprint, threads=threads, name=self.encoders.get(fingerprint).name)

        return Orchestrator(
            load_encoder=load,
            resolve_encoder=lambda model: self.encoders.resolve(model).fingerprint,
            known_encoders=self.known,
            open_collection=self.opened,
            collection_names=lambda: [n for n in collection_names(self.layout) if spec.serves(n)],
            table_names=lambda: [n for n in table_names(self.catalog) if spec.serves_table(n)],
            sandbox=SqlSandbox(self.catalog, SandboxLimits(**spec.sql.model_dump())),
        )

    def known(self) -> list[Known]:
        """Every encoder that has a name, by name; loads none."""
        found = []
        for name in self.encoders.names():
            record = self.catalog.alias(KIND, name)
            try:
                passport = self.encoders.resolve(name)
            except (EncoderNotFound, ModelUnusable):  # its folder is gone or damaged: it cannot be used, the others can
                continue
            since = datetime.fromisoformat(record["published_at"]).timestamp() if record else 0
            found.append(Known(name, passport.fingerprint, passport.modalities, passport.dim, int(since)))
        return found


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

    def vectors_of(self, ids: Sequence[str], fingerprint: str) -> Vectors:
        return self._table.vectors_of(ids, fingerprint)

    def log(
        self, rows: Sequence[Mapping[str, Any]], encoders: Mapping[str, BatchingEncoder], fingerprint: str | None
    ) -> LogResult:
        """See `RowLog.log`; `encoders` are all of the collection's, of which a row with a text gets a vector each."""
        key = tuple(encoders)
        log = self._logs.get(key)
        if log is None:  # two threads may make two; commits are safe either way, only grouped apart
            log = self._logs.setdefault(key, RowLog(self._table, encoders, self._store_key))
        return log.log(rows, fingerprint=fingerprint)

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
