"""From a store's root to an orchestrator: what a replica opens, and what it keeps in memory.

Opens the catalog and the rooms, never the facade. Costs what loading the encoders costs (about a second each from
an export, 3 to 6 s through torch); heads are small. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from raystore.access import ApiKeys
from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.sandbox.process import SandboxLimits, SqlSandbox
from raystore.data.snapshots.snapshot import open_snapshot
from raystore.data.tables.table import table_names
from raystore.encoders import Encoders, LoadedEncoder, open_encoder
from raystore.encoders.bridged import Bridge, read_bridge
from raystore.encoders.records import KIND
from raystore.errors import EncoderNotFound, ModelUnusable, NotFound, PassportMismatch
from raystore.layout import names
from raystore.secret import load_store_key
from raystore.serve.answer.batching import ServedEncoder
from raystore.serve.answer.evidence import SnapshotEvidence, VotersEvidence
from raystore.serve.answer.heads import InlineHead
from raystore.serve.answer.live import Evidence, Live
from raystore.serve.answer.opened import OpenCollection
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.answer.pools import Pools
from raystore.serve.answer.served import Known, ServedHead
from raystore.serve.door.auth import Door, door_of
from raystore.serve.recording.seal import Seal
from raystore.serve.recording.seen import Seen
from raystore.serve.review.queues import ReviewQueues
from raystore.serve.rules.engine import Rules
from raystore.serve.spec.alias import settle
from raystore.serve.spec.app import AppSpec, Batch
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import DeploymentRecord, deployment_records, record_deployment, resolve_deployment
from raystore.serve.watch import table
from raystore.serve.watch.metrics import Metrics
from raystore.serve.watch.sparse import Sparse
from raystore.train.classify.register import open_head
from raystore.train.heads import Head
from raystore.train.registry import Heads
from raystore.vectors import Matrix

log = logging.getLogger("raystore.serve")
_failures = Sparse(log)


def hook_failed(metrics: Metrics | None, deployment: str, rule: str, found: str) -> None:
    _failures.error((deployment, rule, found), f"the hook of rule '{rule}' of deployment {deployment} {found}")
    if metrics is not None:
        metrics.count(table.HOOKS_FAILED, deployment, rule)


class Rooms:
    """A store as serving needs it, once in a process: catalog, key, encoders, heads, review queues."""

    def __init__(self, root: str | Path) -> None:
        self.layout, about = open_root(root, create=False)
        self.catalog = Catalog(self.layout)
        self.store_key = load_store_key(self.layout, about["key_id"])
        self.seal = Seal(self.store_key)
        self.encoders = Encoders(self.catalog)
        self.heads = Heads(self.catalog)
        self.reviews = ReviewQueues(self.catalog)
        self._opened: dict[str, OpenCollection] = {}
        self._heads: dict[str, Head] = {}
        self._rules: dict[str, tuple[tuple[object, ...], Rules]] = {}  # by deployment: what they were made of, and they
        self.pools = Pools()

    def door(self, spec: AppSpec, before: Door | None = None) -> Door:
        """Who may come in at the spec's address: a new door, or the one of before, changed. KeyRequired where others reach it and
        nobody could come in."""
        return door_of(spec, ApiKeys(self.layout, self.store_key), share=1 / spec.replicas.most, before=before)

    def records(self, spec: AppSpec) -> dict[str, DeploymentRecord]:
        """What the spec serves, recorded; without deployments in it, every deployment of the store.

        Raises:
            HeadNotFound, CollectionNotFound, PassportMismatch: the spec names what is not there or does not fit.
        """
        for name in names(self.layout.deployments):
            settle(self.catalog, name)  # an alias that is looked up now may be of any of them
        if not spec.deployments:
            return deployment_records(self.catalog)
        return {name: self.record(name, wanted) for name, wanted in spec.deployments.items()}

    def recorded(self, names_: Iterable[str]) -> dict[str, DeploymentRecord]:
        """The newest records of these; of one that has none, none."""
        known = deployment_records(self.catalog)
        return {name: known[name] for name in names_ if name in known}

    def record(self, name: str, wanted: DeploymentSpec, *, encoder: str | None = None) -> DeploymentRecord:
        """The published record of one deployment; see `record_deployment`. `encoder` is a name."""
        asked = self.encoders.get(encoder) if encoder is not None else None
        return record_deployment(
            self.catalog,
            name,
            wanted,
            open_head=self.heads.get,
            held=self.held,
            encoder=(asked.label, asked.fingerprint) if asked else None,
            through=self.bridge(wanted.through),
        )

    def resolved(self, name: str, wanted: DeploymentSpec) -> DeploymentRecord:
        """The record as it would be published; raises what publishing would."""
        return resolve_deployment(
            name, wanted, open_head=self.heads.get, held=self.held, through=self.bridge(wanted.through)
        )

    def held(self, collection: str) -> list[str]:
        """The fingerprints of a collection."""
        return CollectionTable.open(self.layout, collection).fingerprints

    def bridge(self, name: str | None) -> Bridge | None:
        """The bridge of that name."""
        if name is None:
            return None
        reader = self.encoders.get(name)
        return read_bridge(self.layout, reader.fingerprint, reader.label)

    def live(
        self,
        records: Mapping[str, DeploymentRecord],
        *,
        away: Callable[[DeploymentRecord], ServedHead | None] = lambda _: None,
        share: float = 1.0,
        metrics: Metrics | None = None,
    ) -> dict[str, Live]:
        """The records with their heads in memory; those that ask a collection share what its searches keep.

        Args:
            away: the live head of a record where it runs somewhere else.
            share: this replica's part of the quotas in rules, 1 / replicas.
            metrics: where hooks that fail are counted.
        """

        def of(record: DeploymentRecord) -> Live:
            head = self.head(record.head)
            canary = self.head(record.canary.head) if record.canary else None
            return Live(
                record,
                away(record) or InlineHead(head, self.pools.heads(record.name)),
                InlineHead(canary, self.pools.heads(record.name)) if canary else None,
                self._ready_rules(record, share, metrics),
                self._evidence(record, head),
            )

        return {name: of(record) for name, record in records.items()}

    def _ready_rules(self, record: DeploymentRecord, share: float, metrics: Metrics | None) -> Rules:
        """The rules of a deployment; the same again, with what their quotas counted, where another head answers by the same rules."""
        made_of = (record.rules, share, metrics)
        held = self._rules.get(record.name)
        if held is None or held[0] != made_of:
            rules = Rules(record.rules, share=share, failed=partial(hook_failed, metrics, record.name))
            held = self._rules[record.name] = (made_of, rules)
        return held[1]

    def opened(self, name: str) -> OpenCollection:
        """The collection, opened once."""
        if name not in self._opened:  # two threads may make two, of which one is kept
            self._opened.setdefault(name, OpenCollection(self.catalog, name, self.store_key))
        return self._opened[name]

    def head(self, reference: str) -> Head:
        """A head by its name, number or alias, in memory; opened once."""
        name, number = self.heads.resolve(reference)
        label = f"{name}@{number}"
        if label not in self._heads:
            self._heads[label] = self._asking(self.heads.get(label))
        return self._heads[label]

    def _asking(self, head: Head) -> Head:
        if head.voters is None:
            return head
        return replace(head, asks=open_head(head, self.opened(head.voters.collection).searcher(head.fingerprint)))

    def _evidence(self, record: DeploymentRecord, head: Head) -> Evidence | None:
        """How labelled rows are found for a head; None where those it learned from are gone."""
        asks = head.asks
        if asks is not None:
            return VotersEvidence(lambda vectors: asks.classify(vectors).evidence)
        if record.snapshot is None:
            return None
        try:
            snapshot = open_snapshot(self.catalog, f"{record.snapshot.name}@{record.snapshot.number}")
            searcher = self.opened(snapshot.collection).searcher(head.fingerprint)
        except (NotFound, PassportMismatch):
            return None

        def nearest(query: Matrix, k: int) -> tuple[Sequence[str], Sequence[float]]:
            found = searcher.search(query, k=k)
            return found.ids[0], found.scores[0].tolist()

        def labels() -> dict[str, Any]:
            rows = snapshot.rows()
            return dict(zip(rows.column("id").to_pylist(), rows.column("label").to_pylist(), strict=True))

        return SnapshotEvidence(nearest, labels)

    def orchestrator(
        self,
        spec: AppSpec,
        *,
        metrics: Metrics | None = None,
        threads: int | None = None,
        away: Callable[[str], ServedEncoder | None] = lambda _: None,
        tell: Callable[[Seen], None] | None = None,
    ) -> Orchestrator:
        """An orchestrator over this store that serves nothing yet; `update` it.

        Args:
            metrics: of this process.
            threads: the encoders'.
            away: the encoder of a fingerprint where it runs somewhere else.
            tell: told of requests to deployments that keep predictions, or whose drift is watched.
        """

        def load(fingerprint: str) -> ServedEncoder:
            found = away(fingerprint)
            return found if found is not None else self.load_encoder(fingerprint, threads)

        def batch(fingerprint: str) -> tuple[Batch, int]:
            own = spec.encoders.get(self.encoders.get(fingerprint).name)
            return (own.batch if own and own.batch else spec.batch), (own.replicas.most if own else 1)

        return Orchestrator(
            load_encoder=load,
            resolve_encoder=lambda model: self._served_encoder(model, spec),
            known_encoders=lambda: [known for known in self.known() if spec.models == "all" or known.name in spec.models],
            open_collection=self.opened,
            collection_names=lambda: [n for n in collection_names(self.layout) if spec.serves(n)],
            table_names=lambda: [n for n in table_names(self.catalog) if spec.serves_table(n)],
            sandbox=SqlSandbox(self.catalog, SandboxLimits(**spec.sql.model_dump())),
            threads=self.pools.logs,
            seal=self.seal,
            metrics=metrics or Metrics("ingress"),
            tell=tell,
            tells=lambda record: record.is_told(spec.watch),
            batch=batch,
        )

    def load_encoder(self, fingerprint: str, threads: int | None) -> LoadedEncoder:
        """The encoder in memory, golden-checked."""
        loaded = open_encoder(self.layout, fingerprint, threads=threads, name=self.encoders.get(fingerprint).name)
        loaded.share_cores()
        return loaded

    def _served_encoder(self, model: str, spec: AppSpec) -> str:
        """The fingerprint of a model that the service lets be named. EncoderNotFound with those it does."""
        fingerprint = self.encoders.resolve(model).fingerprint
        if spec.models == "all" or model in spec.models:
            return fingerprint
        named = {known.name: known.fingerprint for known in self.known() if known.name in spec.models}
        if fingerprint not in named.values():
            raise EncoderNotFound(name=model, where="this service", existing=sorted(named))
        return fingerprint

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
