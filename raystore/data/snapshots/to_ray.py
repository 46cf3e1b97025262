"""A snapshot as a Ray Dataset. Workers read slices of the snapshot's file and look their vectors up; nothing is sent to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from raystore.access import LOCAL, Principal
from raystore.data.collection import CollectionTable
from raystore.data.snapshots.export import VECTOR, check_export
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.data.snapshots.split import SIDES
from raystore.errors import InvalidArguments
from raystore.layout import Layout
from raystore.session import start_ray

_BATCH = 4_096


def to_ray(
    snapshot: SnapshotRecord,
    table: CollectionTable,
    *,
    side: str | None = None,
    fingerprint: str | None = None,
    principal: Principal = LOCAL,
) -> Any:
    """A ray.data.Dataset of the snapshot's rows that its collection still has: the snapshot's columns, in no stated order.

    Args:
        side: train, val or test alone.
        fingerprint: also a tensor column `vector`, (d,) float32, of this encoder; rows without one are left out.
        principal: vectors need the verb "vectors".

    Raises:
        NotAllowed, PassportMismatch.
        InvalidArguments: the side is none, or the table is another collection.

    Cost: the start of Ray where none runs; lazy after that.
    """
    check_export(snapshot, table, fingerprint, principal, f"to_ray of {snapshot.label}")
    if side is not None and side not in SIDES:
        problem = f"side is '{side[:20]}', expected {', '.join(SIDES)} or None for all"
        raise InvalidArguments(call=f"to_ray of {snapshot.label}", problems=[problem])
    ray = start_ray()
    # The file system is given, so that no letter of the path is read as part of an address.
    rows = ray.data.read_parquet(str(snapshot.folder / "rows.parquet"), filesystem=pyarrow.fs.LocalFileSystem())
    return rows.map_batches(
        _OfCollection(str(table.layout.root), table.name, side, fingerprint), batch_size=_BATCH, batch_format="pyarrow"
    )


@dataclass(frozen=True)
class _OfCollection:
    """Keeps the rows of one side that the collection still has, and gives them their vectors. Travels to the workers."""

    root: str
    collection: str
    side: str | None
    fingerprint: str | None

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self.side is not None:
            rows = rows.filter(pc.equal(rows.column("split"), self.side))
        table = CollectionTable.open(Layout(Path(self.root)), self.collection)
        ids = rows.column("id").to_pylist()
        if self.fingerprint is None:
            return rows.filter(pa.array(table.has_ids(ids)))
        has, vectors = table.vectors_found(ids, self.fingerprint)
        matrix = np.asarray(vectors)
        kind = pa.fixed_shape_tensor(pa.float32(), [matrix.shape[1]])
        storage = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
        return rows.filter(pa.array(has)).append_column(VECTOR, pa.ExtensionArray.from_storage(kind, storage))
