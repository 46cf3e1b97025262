"""A snapshot as a source of examples: ids and labels from the snapshot, vectors from its collection, in any process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raystore.data.collection import CollectionTable
from raystore.data.snapshot import SCHEMA
from raystore.layout import Layout
from raystore.train.source import Examples, Labels


@dataclass(frozen=True)
class SnapshotSource:
    """`VectorSource` over one snapshot and one encoder. Small and picklable: it names folders, it holds no row.

    Rows of a split are taken every `world`-th from `rank` on, in the order of their ids, so the slices depend on
    nothing but the snapshot.
    """

    root: str
    collection: str
    fingerprint: str
    folder: str
    classes: tuple[str, ...]

    def labels(self, split: str) -> Labels:
        return self._labels(self._rows(split))

    def load(self, split: str, rank: int, world: int) -> Examples:
        rows = self._rows(split)
        own = rows.take(pa.array(range(rank, len(rows), world), pa.int64()))
        table = CollectionTable.open(Layout(Path(self.root)), self.collection)
        return Examples(
            vectors=np.asarray(table.vectors_of(own.column("id").to_pylist(), self.fingerprint)),
            labels=self._labels(own),
            weights=own.column("weight").to_numpy().astype(np.float32),
        )

    @cached_property
    def _number(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.classes)}

    def _rows(self, split: str) -> pa.Table:
        rows = pq.read_table(Path(self.folder) / "rows.parquet", schema=SCHEMA)
        return rows.filter(pc.equal(rows.column("split"), split))

    def _labels(self, rows: pa.Table) -> Labels:
        return np.array([self._number[label] for label in rows.column("label").to_pylist()], dtype=np.int64)
