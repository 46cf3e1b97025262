"""The store a user meets: `raystore.open(root)`. The work stands in the rooms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystore.access import ApiKeys
from raystore.catalog import Catalog, open_root
from raystore.collection import Collection
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.snapshot import Rebuilt, SnapshotRecord, freeze, open_snapshot, rebuild, snapshot_names
from raystore.data.sql import SqlEngine, SqlResult
from raystore.data.tables import SourceTable, open_table, register_table, table_names
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import InvalidArguments
from raystore.secret import load_store_key
from raystore.session import INLINE_BELOW, choose_workers, use_cluster

if TYPE_CHECKING:
    from raystore.lineage import Lineage
    from raystore.serve.deploy import Running
    from raystore.train.heads import Head, Heads, Kind


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


class Snapshots:
    """The snapshots of a store: `snapshots["refunds"]` is the newest, `snapshots["refunds@1"]` a numbered one."""

    def __init__(self, catalog: Catalog, engine: SqlEngine) -> None:
        self._catalog = catalog
        self._engine = engine

    def __getitem__(self, reference: str) -> SnapshotRecord:
        return open_snapshot(self._catalog, reference)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def names(self) -> list[str]:
        return snapshot_names(self._catalog)

    def rebuild(self, snapshot: SnapshotRecord | str) -> Rebuilt:
        """What the snapshot's SQL gives today as of its pinned versions: its hash, and whether that is the same."""
        record = open_snapshot(self._catalog, snapshot) if isinstance(snapshot, str) else snapshot
        return rebuild(self._engine, record)


class Store:
    """A root and everything under it; see `raystore.open`."""

    def __init__(self, root: str | Path, *, ray: str | None = None, create: bool = True) -> None:
        self.layout, about = open_root(root, create=create)
        if ray:
            use_cluster(ray)
        self.key = load_store_key(self.layout, about["key_id"])
        self.catalog = Catalog(self.layout)
        self.encoders = Encoders(self.catalog)
        self.keys = ApiKeys(self.layout, self.key)
        self._engine = SqlEngine(self.catalog, self.encoder)
        self.snapshots = Snapshots(self.catalog, self._engine)
        self._collections: dict[str, Collection] = {}
        self._used: dict[str, Encoder] = {}

    @property
    def root(self) -> Path:
        return self.layout.root

    def __repr__(self) -> str:
        return (
            f"<store {self.root}: {len(self.collections)} collections, {len(self.tables)} tables, "
            f"{len(self.encoders)} encoders, {len(self.heads)} heads>"
        )

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
        encoder: str | Encoder,
        columns: Mapping[str, str] | None = None,
        keep_source: bool = False,
        exist_ok: bool = False,
    ) -> Collection:
        """The new, empty collection for the vectors of one encoder.

        Args:
            columns: kept columns and their types (string, int64, float64, bool, timestamp, date).
            keep_source: keep the raw texts and images too, in plain, beside the vectors: `collection.source(ids)`. Nothing
                else in a store holds them. It is chosen here for good.
            exist_ok: open the collection if it is there, holds this encoder's vectors and keeps its content as asked.

        Raises:
            InvalidName, InvalidArguments, AlreadyExists, EncoderNotFound; PassportMismatch with `exist_ok` and another encoder.
        """
        passport = self.encoders.resolve(encoder) if isinstance(encoder, str) else encoder.passport
        if exist_ok and name in self.collections:
            collection = self.collection(name)
            collection._table.check_encoder(passport.fingerprint)
            if keep_source and not collection._table.keeps_source:
                problem = f"collection '{name}' is there and keeps no content; that is chosen when a collection is made"
                raise InvalidArguments(call=f"create_collection('{name}')", problems=[problem])
            return collection
        dims = {passport.fingerprint: passport.dim}
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
        columns: Sequence[str] | None = None,
    ) -> SourceTable:
        """The source table's new version, holding exactly `data`; the same data again makes none.

        Args:
            data: Parquet, CSV or JSONL path(s), an Arrow table, a pandas DataFrame, or a list of dicts.
            id, subject: its key columns; they become strings, so that they join a collection's.
            columns: keep these beside the key columns; None keeps all, so name them where the data holds protected text.
        """
        return register_table(self.catalog, name, data, id=id, subject=subject, columns=columns)

    def table(self, name: str, version: int | None = None) -> SourceTable:
        return open_table(self.catalog, name, version)

    def sql(
        self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, vectors: bool = False
    ) -> SqlResult:
        """The query's rows: `.to_arrow()`, `.to_pandas()`, `.to_dicts()`.

        Collections and tables stand in one namespace; DuckDB's SQL, one SELECT. In it,
        `similarity(encoder, 'text')` and `similarity(encoder, item('id'))` are a row's cosine to a text or an item of
        the collection in FROM (qualify with several: `similarity(t.encoder, ...)`), and `FROM outcomes AT (VERSION => 3)`
        reads an earlier version.

        Args:
            params: values for `$name` or `?`.
            vectors: show the vector columns too.

        Raises:
            SqlRefused: it does not parse or bind, writes, or is several statements. TableNotFound, EncoderNotFound.
        """
        return self._engine.run(query, params, vectors=vectors)

    # --- snapshots, heads, deployments -------------------------------------------------------------------------------

    def snapshot(
        self,
        name: str,
        sql: str,
        *,
        params: Mapping[str, Any] | None = None,
        split: Mapping[str, float] | None = None,
    ) -> SnapshotRecord:
        """The frozen training set: rows of one collection with a label, split by entity, under a content hash.

        Args:
            sql: a query giving `id` and `label`, optionally `entity` (else the row's subject, else its id; an entity
                never stands on two sides), `weight`, and `split` (train, val or test; null leaves it to the hash).
            split: fractions of train, val and test, by default .8, .1, .1.

        Raises:
            SnapshotRefused: no rows, repeated ids, rows without a label, classes missing from train; all are named.
            SqlRefused, InvalidArguments.
        """
        return freeze(self.catalog, self._engine, name, sql, params, split)

    @property
    def heads(self) -> Heads:
        from raystore.train.heads import Heads

        return Heads(self.catalog)

    def train_head(
        self,
        name: str,
        *,
        snapshot: SnapshotRecord | str,
        kind: Kind = "linear",
        encoder: str | None = None,
        workers: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Head:
        """The new head `name@n`: a linear model or small MLP on the vectors of the snapshot's rows, calibrated.

        Args:
            snapshot: the training set; its test side is what `head.report` is about.
            kind: "linear" (multinomial logistic regression) or "mlp".
            encoder: needed only where the collection holds several encoders' vectors.
            workers: 0 trains in this process, more on so many Ray Train workers; by default inline below 200,000 rows.
            options: linear: l2, max_iter, tol; mlp: hidden, dropout, learning_rate, weight_decay, batch_rows,
                max_epochs, patience.

        Raises:
            SnapshotNotFound, InvalidArguments, PassportMismatch, JobFailed.
        """
        from raystore.train.fit import train_head
        from raystore.train.snapshot_source import SnapshotSource

        record = open_snapshot(self.catalog, snapshot) if isinstance(snapshot, str) else snapshot
        collection = self.collection(record.collection)
        if encoder is None and len(collection.encoders) > 1:
            labels = ", ".join(e.label for e in collection.encoders)
            problem = (
                f"collection '{collection.name}' holds vectors of several encoders ({labels}): choose one with encoder="
            )
            raise InvalidArguments(call=f"train_head('{name}')", problems=[problem])
        asked = collection.encoder(encoder)
        n_rows = sum(record.spec["counts"].values())
        return train_head(
            self.layout,
            name=name,
            kind=kind,
            classes=record.classes,
            source=SnapshotSource(
                str(self.root), record.collection, asked.fingerprint, str(record.folder), tuple(record.classes)
            ),
            fingerprint=asked.fingerprint,
            encoder_label=asked.label,
            snapshot={"name": record.name, "number": record.number, "hash": record.hash},
            workers=choose_workers(workers, n_rows, INLINE_BELOW.head_rows, f"head '{name}'"),
            seed=seed,
            options=options,
        )

    def deploy(
        self,
        name: str,
        *,
        head: str | Head,
        log: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        replicas: int = 1,
    ) -> Running:
        """The running deployment, ready: `.url`, `.wait()`, `.stop()`; `POST {url}/v1/predict/{name}`.

        The store has one Serve application with all its deployments; deploying again changes it in place.

        Args:
            head: `refunds` (its newest), `refunds@2`, or a Head.
            log: a collection that keeps an embedding of each prediction.
            host: beyond loopback every request needs a key (`store.keys.create`).

        Raises:
            HeadNotFound, CollectionNotFound, PassportMismatch, KeyRequired, AddressInUse, JobFailed.
        """
        from raystore.serve.deploy import deploy
        from raystore.serve.loading import Rooms
        from raystore.serve.spec import parse_spec

        spec = parse_spec({"host": host, "port": port, "replicas": replicas}, f"deploy('{name}')")
        Rooms(self.root).record(name, head if isinstance(head, str) else head.label, log=log)
        return deploy(self.root, spec)

    def lineage(self, thing: Any) -> Lineage:
        """Where a prediction, deployment, head or snapshot comes from: head, snapshot, SQL and versions, encoder.

        Args:
            thing: a /v1/predict answer, a Head, a SnapshotRecord, or the name of a deployment, head or snapshot.
        """
        from raystore.lineage import trace

        return trace(self.catalog, thing)
