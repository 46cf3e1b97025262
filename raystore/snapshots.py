"""The snapshots a user meets: `store.snapshots`. The work stands in the room `data`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raystore.access import LOCAL, Principal
from raystore.data.snapshots.snapshot import Rebuilt, SnapshotRecord, open_snapshot, rebuild, refresh, snapshot_names
from raystore.markup import rows_html
from raystore.progress import Progress, shown

if TYPE_CHECKING:
    import ray.data

    from raystore.collection import Collection
    from raystore.data.collection import CollectionTable
    from raystore.data.drift.report import DriftReport
    from raystore.data.snapshots.diff import SnapshotDiff
    from raystore.data.snapshots.leaks import LeakReport
    from raystore.encoders.registry import Encoder
    from raystore.store import Store

Reference = SnapshotRecord | str  # a record, "refunds" (the newest) or "refunds@1"


class Snapshots:
    """The snapshots of a store: `snapshots["refunds"]` is the newest, `snapshots["refunds@1"]` a numbered one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._catalog = store.catalog

    def __getitem__(self, reference: Reference) -> SnapshotRecord:
        return reference if isinstance(reference, SnapshotRecord) else open_snapshot(self._catalog, reference)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"Snapshots({', '.join(self.names()) or 'none'})"

    def _repr_html_(self) -> str:
        rows = [
            {"snapshot": s.label, "of": s.collection, **s.spec["counts"], "classes": len(s.classes), "hash": s.hash[:12]}
            for s in map(self.__getitem__, self.names())
        ]
        return rows_html(rows, title=f"{len(rows)} snapshots")

    def names(self) -> list[str]:
        return snapshot_names(self._catalog)

    def rebuild(self, snapshot: Reference) -> Rebuilt:
        """What the snapshot's SQL and rules give today as of its pinned versions: its hash, whether that is the same, and the
        ids that were erased since. Nothing is published."""
        return rebuild(self._store.sql_engine, self[snapshot])

    def refresh(self, snapshot: Reference, *, as_of: str | datetime | None = None) -> SnapshotRecord:
        """The same SQL and rules on today's data, as of now or a given moment, under the next number; the same rows again make none."""
        return refresh(self._catalog, self._store.sql_engine, self[snapshot], as_of=as_of)

    def diff(self, a: Reference, b: Reference) -> SnapshotDiff:
        """Rows in, out, relabelled, and moved between sides from `a` to `b`, by class.

        Raises:
            SnapshotNotFound; InvalidArguments: they sample different collections.
        """
        from raystore.data.snapshots.diff import diff

        return diff(self[a], self[b])

    def leaks(
        self,
        snapshot: Reference,
        *,
        encoder: str | Encoder | None = None,
        threshold: float = 0.98,
        limit: int = 100,
        progress: Progress | None = None,
    ) -> LeakReport:
        """What stands on two sides of the split: entities, ids, and rows whose vectors are nearly the same.

        Args:
            encoder: whose vectors are compared; needed only where the collection has several and none of them is current.
            threshold: the cosine from which two rows count as near duplicates.
            limit: pairs that are listed; all are counted.
            progress: called with rows compared and rows to compare; without it, a bar on a terminal and in a notebook.
        """
        from raystore.data.snapshots.leaks import leak_check

        record = self[snapshot]
        collection, asked = self._vectors(record, encoder, "leaks")
        with shown(progress, f"comparing the sides of {record.label}") as advance:
            return leak_check(
                record, collection.table, asked.fingerprint, threshold=threshold, limit=limit, progress=advance
            )

    def drift(self, a: Reference, b: Reference, *, encoder: str | Encoder | None = None, seed: int = 0) -> DriftReport:
        """Whether `b` comes from where `a` came from: shares of the classes, and the embeddings under two tests.

        Args:
            encoder: whose vectors are compared; needed only where the collection has several and none of them is current.
        """
        from raystore.data.drift.samples import snapshot_drift

        first, second = self[a], self[b]
        collection, asked = self._vectors(first, encoder, "drift")
        return snapshot_drift(first, second, collection.table, asked.fingerprint, seed=seed)

    def export(
        self,
        snapshot: Reference,
        target: str | Path,
        *,
        format: Literal["parquet", "huggingface"] = "parquet",
        vectors: bool | str | Encoder = False,
        principal: Principal = LOCAL,
    ) -> Path:
        """The folder that was written: ids, labels, sides and weights, one file a side, and the spec.

        Args:
            target: a folder that is empty or does not exist.
            format: "huggingface" is a folder that `datasets.load_dataset` opens.
            vectors: True, or an encoder of several, writes a vector beside each row.
            principal: who asks; vectors need the verb `vectors`.

        Raises:
            InvalidArguments, NotAllowed.
        """
        from raystore.data.snapshots.export import export

        record = self[snapshot]
        table, fingerprint = self._asked(record, vectors, "export")
        return export(record, table, target, format=format, fingerprint=fingerprint, principal=principal)

    def to_ray(
        self,
        snapshot: Reference,
        *,
        side: Literal["train", "val", "test"] | None = None,
        vectors: bool | str | Encoder = False,
        principal: Principal = LOCAL,
    ) -> ray.data.Dataset:
        """The rows as a Ray Dataset, of one side or all, with a column `vector` where asked for; see `export`."""
        from raystore.data.snapshots.to_ray import to_ray

        record = self[snapshot]
        table, fingerprint = self._asked(record, vectors, "to_ray")
        return to_ray(record, table, side=side, fingerprint=fingerprint, principal=principal)

    def _asked(
        self, record: SnapshotRecord, vectors: bool | str | Encoder, call: str
    ) -> tuple[CollectionTable, str | None]:
        if vectors is False:
            return self._store.collection(record.collection).table, None
        collection, encoder = self._vectors(record, None if vectors is True else vectors, call)
        return collection.table, encoder.fingerprint

    def _vectors(self, record: SnapshotRecord, encoder: str | Encoder | None, call: str) -> tuple[Collection, Encoder]:
        collection = self._store.collection(record.collection)
        return collection, collection.the_encoder(encoder, f"{call} of snapshot '{record.label}'")
