"""The store a user meets: `raystore.open(root)`. The work stands in the rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from raystore.access import ApiKeys
from raystore.catalog import Catalog, open_root
from raystore.collection import Collection
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.query.engine import SqlEngine, SqlResult
from raystore.data.rows import as_time
from raystore.data.snapshots.label_rule import define_rule
from raystore.data.snapshots.snapshot import SnapshotRecord, freeze
from raystore.data.tables.table import SourceTable, open_table, refresh_table, register_table, table_names
from raystore.deploying import Deployments
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import InvalidArguments
from raystore.markup import facts_html
from raystore.progress import Progress, shown
from raystore.secret import load_store_key
from raystore.session import INLINE_BELOW, choose_workers, use_cluster
from raystore.snapshots import Reference, Snapshots
from raystore.tuning import Tuning

if TYPE_CHECKING:
    from raystore.impact import Impact
    from raystore.lineage import Lineage
    from raystore.migrate.bridge import Bridged
    from raystore.serve.run.deploy import Running
    from raystore.train.compare.compare import Comparison
    from raystore.train.heads import Head, Kind
    from raystore.train.registry import Heads
    from raystore.train.snapshot_source import SnapshotSource
    from raystore.train.sweep import Sweep
    from raystore.vectors import Vectors


def open(root: str | Path, *, ray: str | None = None, create: bool = True) -> Store:
    """The store at `root`; an empty or new folder becomes one.

    Args:
        root: a local folder. Several processes may open it and write at once.
        ray: address of a Ray cluster to run jobs on; without it, jobs start Ray on this machine when they need it.
        create: whether a missing store is made.

    Raises:
        StoreNotFound, StoreUnusable: nothing there, a folder that is no store, a newer format, an object-store address.

    Cost: a millisecond. No server, no Ray, no model is started or loaded.
    """
    return Store(root, ray=ray, create=create)


class Store(Tuning):
    """A root and everything under it; see `raystore.open`."""

    def __init__(self, root: str | Path, *, ray: str | None = None, create: bool = True) -> None:
        self.layout, about = open_root(root, create=create)
        if ray:
            use_cluster(ray)
        self.key = load_store_key(self.layout, about["key_id"])
        self.catalog = Catalog(self.layout)
        self.encoders = Encoders(self.catalog)
        self.keys = ApiKeys(self.layout, self.key)
        self.sql_engine = SqlEngine(self.catalog, self.encoder, nearest=self._nearest)
        self.snapshots = Snapshots(self)
        self.deployments = Deployments(self)
        self._collections: dict[str, Collection] = {}
        self._used: dict[str, Encoder] = {}

    @property
    def root(self) -> Path:
        return self.layout.root

    def __repr__(self) -> str:
        held = {
            "collection": len(self.collections),
            "table": len(self.tables),
            "encoder": len(self.encoders),
            "head": len(self.heads),
        }
        counted = (f"{n} {noun}{'' if n == 1 else 's'}" for noun, n in held.items())
        return f"<store {self.root}: {', '.join(counted)}>"

    def _repr_html_(self) -> str:
        facts = {
            "collections": self.collections,
            "tables": self.tables,
            "encoders": self.encoders.names(),
            "snapshots": self.snapshots.names(),
            "heads": self.heads.names(),
        }
        return facts_html(f"Store {self.root}", facts)

    def encoder(self, name_or_fingerprint: str) -> Encoder:
        """The encoder a name means now; its model is loaded once a store, whoever asks for it."""
        found = self.encoders.get(name_or_fingerprint)
        return self._used.setdefault(f"{found.name}@{found.fingerprint}", found)

    # --- collections and tables --------------------------------------------------------------------------------------

    @property
    def collections(self) -> list[str]:
        return collection_names(self.layout)

    def create_collection(
        self,
        name: str,
        *,
        encoder: str | Encoder | Sequence[str | Encoder],
        columns: Mapping[str, str] | None = None,
        keep_source: bool = False,
        exist_ok: bool = False,
    ) -> Collection:
        """The new, empty collection for the vectors of one encoder, or of several.

        Args:
            encoder: of several the first is the one it is asked by, until `collection.use_encoder` chooses another.
            columns: kept columns and their types (string, int64, float64, bool, timestamp, date).
            keep_source: keep the raw texts and images too, in plain, beside the vectors: `collection.source(ids)`. Nothing
                else in a store holds them. It is chosen here for good.
            exist_ok: open the collection if it is there, holds this encoder's vectors and keeps its content as asked.

        Raises:
            InvalidName, InvalidArguments, AlreadyExists, EncoderNotFound; PassportMismatch with `exist_ok` and another encoder.
        """
        asked = [encoder] if isinstance(encoder, (str, Encoder)) else list(encoder)
        passports = [self.encoders.resolve(each) if isinstance(each, str) else each.passport for each in asked]
        if not passports:
            raise InvalidArguments(call=f"create_collection('{name}')", problems=["encoder= names none"])
        if exist_ok and name in self.collections:
            collection = self.collection(name)
            for passport in passports:
                collection._table.check_encoder(passport.fingerprint)
            if keep_source and not collection._table.keeps_source:
                problem = f"collection '{name}' is there and keeps no content; that is chosen when a collection is made"
                raise InvalidArguments(call=f"create_collection('{name}')", problems=[problem])
            return collection
        dims = {passport.fingerprint: passport.dim for passport in passports}
        CollectionTable.create(self.layout, name, dims, columns, keep_source=keep_source)
        return self.collection(name)

    def collection(self, name: str) -> Collection:
        """CollectionNotFound names the collections there are."""
        if name not in self._collections:
            self._collections[name] = Collection(self, CollectionTable.open(self.layout, name))
        return self._collections[name]

    @property
    def tables(self) -> list[str]:
        return table_names(self.catalog)

    def register_table(
        self,
        name: str,
        data: Any,
        *,
        id: str | None = None,
        subject: str | None = None,
        time: str | None = None,
        columns: Sequence[str] | None = None,
        query: str | None = None,
        mode: Literal["replace", "append"] = "replace",
    ) -> SourceTable:
        """The source table's new version; the same data again makes none.

        Args:
            data: Parquet, CSV or JSONL path(s), an Arrow table or stream, a pandas or Polars frame, a list of dicts, a DuckDB
                or SQLite file, or an open ADBC or DBAPI connection; the last three with `query`.
            id, subject: its key columns; they become strings, so that they join a collection's.
            time: when the event of a row happened. A table with it can make labels and features as of an item's time.
            columns: keep these beside the key columns; None keeps all, so name them where the data holds protected text.
            query: a SELECT, or a table's name.
            mode: "replace": the version holds exactly `data`; "append": the rows before, and these.

        Raises:
            InvalidArguments: all that is wrong with the data; nothing was written. AlreadyExists, LeaseLost, DiskFull.

        Cost: one streaming pass; a batch in memory.
        """
        return register_table(
            self.catalog, name, data, id=id, subject=subject, time=time, columns=columns, query=query, mode=mode
        )

    def refresh_table(self, name: str, *, connection: Any = None) -> SourceTable:
        """The table read again from where it was registered from; a new version only where the data changed.

        Args:
            connection: needed where it was registered from a connection; the query is kept.
        """
        return refresh_table(self.catalog, name, connection=connection)

    def table(self, name: str, version: int | None = None, *, as_of: str | datetime | None = None) -> SourceTable:
        """The newest version, a numbered one, or the newest that was there at a time."""
        return open_table(self.catalog, name, version, as_of=_moment(as_of, f"table('{name}')"))

    def sql(
        self,
        query: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        vectors: bool = False,
        as_of: str | datetime | None = None,
    ) -> SqlResult:
        """The query's rows: `.to_arrow()`, `.to_pandas()`, `.to_polars()`, `.to_dicts()`, `.to_ray()`, and `.batches()`,
        which streams what is larger than memory.

        Collections and tables stand in one namespace; DuckDB's SQL, one SELECT. `similarity(encoder, 'text')` is a row's
        cosine to a text, an item, an image or a sum of vectors; `nearest`, `knn_label`, `cosine`, `norm` and `vector_of`
        stand in docs/sql.md. `FROM outcomes AT (VERSION => 3)` reads an earlier version.

        Args:
            params: values for `$name` or `?`.
            vectors: show the vector columns too.
            as_of: read everything as it was at this time: collections and tables of events without rows whose time is later
                (nor those without one), other source tables in their version then. `$as_of` in the query is this time.

        Raises:
            SqlRefused: it does not parse or bind, writes, or is several statements. TableNotFound, EncoderNotFound.
        """
        return self.sql_engine.run(query, params, vectors=vectors, as_of=_moment(as_of, "sql"))

    def explain(self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> str:
        """What running the query would do: the vectors that are computed first, then DuckDB's plan."""
        return self.sql_engine.explain(query, params)

    def _nearest(self, table: CollectionTable, query: Vectors, k: int, _: int | None) -> pa.Table:
        """For SQL's nearest() over a collection's newest version: (id, score), through the index where there is one."""
        found = self.collection(table.name).search(vector=query, k=k, encoder=query.fingerprint)
        return pa.table({"id": pa.array(found.ids[0], pa.string()), "score": pa.array(found.scores[0], pa.float32())})

    def build_bridge(
        self,
        name: str,
        old: str | Encoder,
        new: str | Encoder,
        *,
        collection: str,
        back: str | None = None,
        pairs: int = 20_000,
        kinds: Sequence[str] | None = None,
        labels: str | Mapping[str, str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Bridged:
        """The map from the old encoder's space into the new one's (`name`), and back (`back`, by default '<name>-back'): encoders of
        their own, fitted on a collection's rows that have a vector of both, and measured on such rows held out.

        Through the forward one, rows whose content is gone live in the new space (`collection.bridge_rows`); through the back
        one, new queries find old rows, and old heads go on serving (`search(through=)`, `deploy(through=)`).

        Args:
            pairs: rows drawn at random, at most.
            kinds: of "procrustes", "low-rank" and "mlp"; None tries all (the MLP from 1,000 pairs) and keeps the best of each
                direction, of the way back one that takes at most 50 us a query.
            labels: a kept column or {id: label}: then it is also measured what searches by label keep of re-embedding's.

        Raises:
            InvalidArguments: fewer than 100 pairs, names that cannot be; all are named. PassportMismatch: the collection lacks one.

        Cost: reads no content and loads no model; some minutes for 20,000 pairs, of which the MLP takes most.
        """
        from raystore.migrate.bridge import build_bridge

        table = self.collection(collection).table
        first, second = (self.encoders.get(e if isinstance(e, str) else e.fingerprint) for e in (old, new))
        with shown(progress, f"fitting {name}", "maps") as advance:
            return build_bridge(
                self.catalog, table, name, first, second,
                back=back, pairs=pairs, kinds=kinds, labels=labels, seed=seed, progress=advance,
            )  # fmt: skip

    # --- snapshots, heads, deployments -------------------------------------------------------------------------------

    def snapshot(
        self,
        name: str,
        sql: str,
        *,
        params: Mapping[str, Any] | None = None,
        label: str | None = None,
        task: Literal["classes", "labels", "number"] = "classes",
        split: Mapping[str, Any] | Literal["given"] | None = None,
        features: Mapping[str, str] | None = None,
        cap: int | None = None,
        minimum: int | None = None,
        weights: Literal["balanced"] | None = None,
        as_of: str | datetime | None = None,
        notes: str = "",
    ) -> SnapshotRecord:
        """The frozen training set: rows of one collection with a label, split by entity, under a content hash.

        Args:
            sql: a query giving `id` and, unless an event makes it, `label`; optionally `entity` (else the row's subject,
                else its id; an entity never stands on two sides), `weight`, and `split` (train, val or test; null leaves
                it to the rule).
            label: how several rows of an id become one label ("first", "last", "majority", "any", an aggregate, or a
                rule's name), or an event: "refund within 30 days of t.time". See docs/snapshots.md.
            task: "classes", "labels" (a list of texts: several at once) or "number" (regression).
            split: fractions of train, val and test (by default .8, .1, .1), by the hash of the entity; or {"by": "time",
                "val": ..., "test": ...}, {"by": "group", "column": ...}, or "given" by the SQL alone.
            features: columns that stand beside the label, each the latest of an event table at the item's time:
                {"plan": "accounts.plan"}.
            cap: at most so many training rows of a class. minimum: classes with fewer rows, or none on train, are left out.
            weights: "balanced" gives each class the same weight in train.
            as_of: the moment it is taken at, by default now: what came later is not seen.
            notes: kept with it.

        Raises:
            SnapshotRefused: no rows, repeated ids, rows without a label, classes missing from train; all are named.
            SqlRefused, InvalidArguments.
        """
        return freeze(
            self.catalog, self.sql_engine, name, sql,
            params=params, label=label, task=task, split=split, features=features,
            cap=cap, minimum=minimum, weights=weights, as_of=as_of, notes=notes,
        )  # fmt: skip

    def define_label_rule(self, name: str, expression: str) -> str:
        """The rule's name and number, 'strict@1': an aggregate over the rows of an id, for `snapshot(label="strict")`."""
        return define_rule(self.catalog, name, expression)

    @property
    def heads(self) -> Heads:
        from raystore.train.registry import Heads

        return Heads(self.catalog)

    def train_head(
        self,
        name: str,
        *,
        snapshot: Reference,
        kind: Kind = "linear",
        encoder: str | None = None,
        workers: int | None = None,
        seed: int = 0,
        precision: float | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Head:
        """The new head `name@n`: a shallow model on the vectors of the snapshot's rows, calibrated, with its report.

        Args:
            snapshot: the training set; its test side is what `head.report` is about, and its task what is learned.
            kind: "linear" (logistic regression; ridge for numbers), "mlp" or "knn".
            encoder: needed only where the collection holds several encoders' vectors and none of them is its current one.
            workers: 0 trains in this process, more on so many Ray Train workers; by default inline below 200,000 rows.
            precision: abstain below the lowest confidence at which so large a share of the kept rows of val is right.
            options: linear: loss, l2 (a list: the best on val), class_weight, max_iter, tol; mlp: hidden, dropout,
                learning_rate, weight_decay, batch_rows, max_epochs, patience, seeds; knn: k, power. See docs/heads.md.

        Raises:
            SnapshotNotFound, InvalidArguments, PassportMismatch, JobFailed.
        """
        from raystore.train.fit import train_head

        training, n_rows = self._training(name, snapshot, encoder, "train_head")
        chosen = choose_workers(workers, n_rows, INLINE_BELOW.head_rows, f"head '{name}'")
        with shown(progress, f"training {name}", "passes") as advance:
            return train_head(
                self.layout, **training, kind=kind, workers=chosen, seed=seed, precision=precision, options=options,
                progress=advance,
            )  # fmt: skip

    def sweep_heads(
        self,
        name: str,
        *,
        snapshot: Reference,
        settings: Sequence[Mapping[str, Any]],
        encoder: str | None = None,
        workers: int | None = None,
        seed: int = 0,
        precision: float | None = None,
        progress: Progress | None = None,
    ) -> Sweep:
        """Many settings tried side by side, by their loss on val; `.head` is the best one's, published as `name@n`.

        Args:
            settings: each {"kind": "linear", ...options of `train_head`}.
            workers: 0 tries one after the other in this process, else so many Ray actors; by default inline below 200,000 rows.

        Raises:
            As `train_head`; JobFailed where every setting failed.
        """
        from raystore.train.sweep import sweep

        training, n_rows = self._training(name, snapshot, encoder, "sweep_heads")
        chosen = choose_workers(workers, n_rows, INLINE_BELOW.head_rows, f"sweep of '{name}'")
        with shown(progress, f"trying settings for {name}", "settings") as advance:
            return sweep(
                self.layout, **training, settings=settings, workers=chosen, seed=seed, precision=precision, progress=advance
            )

    def register_classifier(
        self,
        name: str,
        collection: str,
        *,
        labels: str | Mapping[str, str],
        labelled: str | None = None,
        k: int = 20,
        probes: int | None = None,
        threshold: float | None = None,
        encoder: str | None = None,
    ) -> Head:
        """`collection.classify` as head `name@n`: named, reported on, deployed and rolled back like any other.

        It holds no weights, so its predictions follow the collection and its labels; its report is about labelled rows, each
        classified without itself.

        Args:
            labels, labelled, k, probes, threshold: as of `Collection.classify`.

        Raises:
            CollectionNotFound, TableNotFound, ColumnNotFound, InvalidName, InvalidArguments.
        """
        return self.collection(collection).classifier_head(
            name, labels=labels, labelled=labelled, k=k, probes=probes, threshold=threshold, encoder=encoder
        )

    def compare_heads(self, a: Head | str, b: Head | str, *, on: Reference | None = None) -> Comparison:
        """What head `b` gains and loses against `a`: paired tests, classes, rows that changed sides. Their encoders may differ.

        Args:
            on: the snapshot whose test side (else val) both are asked about, such as this month's; rows that one of the heads
                was fitted on or calibrated with are left out. Without it, the rows of a's report, which must be b's too.

        Raises:
            HeadNotFound, SnapshotNotFound; InvalidArguments: other tasks, or other rows.
        """
        from raystore.train.compare.heads import compare_heads

        first, second = (self.heads.get(head) if isinstance(head, str) else head for head in (a, b))
        if on is None:
            return compare_heads(first, second, self._source_of(first), self._source_of(second))
        record = self.snapshots[on]
        sources = [self._source(record, head.fingerprint) for head in (first, second)]
        seen = {id_ for head in (first, second) for side in ("train", "val") for id_ in self._source_of(head).ids(side)}
        split = "test" if record.spec["counts"]["test"] else "val"
        return compare_heads(first, second, *sources, split=split, classes=record.classes, snapshot=record.label, seen=seen)

    def _training(self, name: str, snapshot: Reference, encoder: str | None, call: str) -> tuple[dict[str, Any], int]:
        """What every way of training is told: from the snapshot, its rows and their vectors of one encoder."""
        record = self.snapshots[snapshot]
        asked = self.collection(record.collection).the_encoder(encoder, f"{call}('{name}')")
        training = {
            "name": name,
            "classes": record.classes,
            "source": self._source(record, asked.fingerprint),
            "fingerprint": asked.fingerprint,
            "encoder_label": asked.label,
            "snapshot": {"name": record.name, "number": record.number, "hash": record.hash},
            "task": record.task,
        }
        return training, sum(record.spec["counts"].values())

    def _source(self, record: SnapshotRecord, fingerprint: str) -> SnapshotSource:
        from raystore.train.snapshot_source import SnapshotSource

        return SnapshotSource(
            str(self.root),
            record.collection,
            fingerprint,
            str(record.folder),
            tuple(record.classes),
            record.task,  # type: ignore[arg-type]
        )

    def _source_of(self, head: Head) -> SnapshotSource:
        if head.voters is not None:
            problem = f"head '{head.label}' has no snapshot whose sides are known: it asks {head.voters}, as they are now"
            raise InvalidArguments(call="compare", problems=[problem])
        return self._source(self.snapshots[f"{head.snapshot['name']}@{head.snapshot['number']}"], head.fingerprint)

    def deploy(
        self,
        name: str,
        *,
        head: str | Head | Mapping[str, Any],
        log: str | Mapping[str, Any] | None = None,
        through: str | None = None,
        shadow: Sequence[str | Mapping[str, Any]] = (),
        canary: Mapping[str, Any] | None = None,
        rules: Mapping[str, Any] | None = None,
        review: str | Mapping[str, Any] | None = None,
        keep: Sequence[str] = (),
        host: str | None = None,
        port: int | None = None,
        replicas: int | None = None,
    ) -> Running:
        """The running deployment, ready: `.url`, `.wait()`, `.stop()`; `POST {url}/v1/predict/{name}`.

        The store has one Serve application; deploying again changes it in place: it goes on serving what it served, with the
        limits, the door and the placement it has. Where none runs it is started with all deployments of the store. The
        arguments are those of the deployment file (docs/deployments.md), which has more.

        Args:
            head: `refunds` (its newest), `refunds@2`, or a Head.
            log: a collection that keeps an embedding of each prediction.
            through: a bridge back to the head's encoder (`build_bridge`): a newer encoder reads what is sent, and the head goes
                on answering. Answers say so in `bridged`, with what was measured.
            shadow: heads that see what the live head sees, after the answer: `store.deployments.reports(name)`.
            canary: a head that answers a part: {"head": "refunds@3", "percent": 5}.
            rules: before and after the head.
            review: a source table that people's labels land in.
            keep: columns of requests that are kept beside their predictions.
            host: beyond loopback every request needs a key (`store.keys.create`). By default as the application runs, or 127.0.0.1;
                so `port`, or 8000, and `replicas`, or 1.

        Raises:
            HeadNotFound, CollectionNotFound, PassportMismatch, InvalidArguments, KeyRequired, AddressInUse, JobFailed.
        """
        from raystore.serve.answer.loading import Rooms
        from raystore.serve.operate.check import refuse_misfits
        from raystore.serve.run.deploy import as_it_runs, deploy
        from raystore.serve.spec.read import parse_spec
        from raystore.train.heads import Head

        asked = {
            "head": head.label if isinstance(head, Head) else head,
            "log": log,
            "through": through,
            "shadow": list(shadow),
            "canary": canary,
            "rules": rules or {},
            "review": review,
            "keep": list(keep),
        }
        named = {key: value for key, value in asked.items() if value not in (None, [], {})}
        given = {"host": host, "port": port, "replicas": replicas}
        app = {key: value for key, value in given.items() if value is not None}
        spec = parse_spec({**app, "deployments": {name: named}}, f"deploy('{name}')")
        rooms = Rooms(self.root)
        refuse_misfits(spec, rooms)
        present, served = as_it_runs(rooms.layout, **app)
        rooms.record(name, spec.deployments[name])
        return deploy(self.root, present, served=None if served is None else {*served, name})

    def impact(self, thing: Any) -> Impact:
        """What stands on a thing: on an encoder its collections, indexes, heads, deployments and derived encoders; on a snapshot
        the heads that were trained on it; on a head what deploys it.

        Args:
            thing: an Encoder, SnapshotRecord or Head, or the name of one.
        """
        from raystore.impact import impact

        return impact(self.catalog, thing)

    def lineage(self, thing: Any) -> Lineage:
        """Where a prediction, deployment, head or snapshot comes from: head, snapshot, SQL and versions, encoder.

        Args:
            thing: a /v1/predict answer, a Head, a SnapshotRecord, or the name of a deployment, head or snapshot.
        """
        from raystore.lineage import trace

        return trace(self.catalog, thing)


def _moment(as_of: str | datetime | None, call: str) -> datetime | None:
    """UTC; InvalidArguments where it is no time."""
    try:
        return as_time(as_of)
    except ValueError:
        problem = f"as_of is {as_of!r}, expected a datetime or an ISO 8601 string"
        raise InvalidArguments(call=call, problems=[problem]) from None
