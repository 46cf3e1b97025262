"""A snapshot as a source of examples: ids and labels from the snapshot, vectors from its collection, in any process.

Rows whose ids the collection has lost since (erased) are left out everywhere and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.encoders.registry import Encoders
from raystore.errors import EncoderNotFound, InvalidArguments, ItemNotFound
from raystore.layout import Layout
from raystore.train.source import Examples, Labels, Targets, Task

_COLUMNS = ["id", "entity", "label", "split", "weight"]


@dataclass(frozen=True)
class SnapshotSource:
    """`VectorSource` over one snapshot and one encoder. Small and picklable: it names folders; rows it has read stay behind.

    Rows of a split are taken every `world`-th from `rank` on, in the order of their ids, so the slices depend on
    nothing but the snapshot.
    """

    root: str
    collection: str
    fingerprint: str
    folder: str
    classes: tuple[str, ...]
    task: Task = "classes"

    def labels(self, split: str) -> Targets:
        return self._targets(self._present(split))

    def load(self, split: str, rank: int, world: int) -> Examples:
        rows = self._of(split, self._rows)
        own = rows.take(pa.array(range(rank, len(rows), world), pa.int64()))
        # Present rows are told from lost ones by the very read that gives their vectors, so an erase beside us is no error.
        try:
            present, vectors = self._table().vectors_present(own.column("id").to_pylist(), self.fingerprint)
        except ItemNotFound:
            raise self._lacking() from None
        own = own.filter(pa.array(present))
        weights = own.column("weight").to_numpy().astype(np.float32)
        return Examples(np.asarray(vectors), self._targets(own), weights)

    def entities(self, split: str) -> Labels:
        codes: Labels = self._present(split).column("_entity").to_numpy().astype(np.int64)
        return codes

    def ids(self, split: str) -> list[str]:
        ids: list[str] = self._present(split).column("id").to_pylist()
        return ids

    @property
    def erased(self) -> int:
        return int(np.count_nonzero(~self._mask))

    def _lacking(self) -> InvalidArguments:
        """What to say where a row that is there has no vector of the encoder: of how many that holds, and what fills them."""
        ids = self._rows.filter(pa.array(self._mask)).column("id").to_pylist()
        found, _ = self._table().vectors_found(ids, self.fingerprint)
        try:
            encoder = Encoders(Catalog(Layout(Path(self.root)))).get(self.fingerprint).name
        except EncoderNotFound:
            encoder = self.fingerprint[:12]
        lacking = int(np.count_nonzero(~found))
        folder = Path(self.folder)
        problem = (
            f"{lacking:,} of {len(self._rows):,} rows of the snapshot have no vector of {encoder}; "
            f"collection.add_encoder('{encoder}') fills them"
        )
        return InvalidArguments(call=f"snapshot '{folder.parent.name}@{folder.name}'", problems=[problem])

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _table(self) -> CollectionTable:
        return CollectionTable.open(Layout(Path(self.root)), self.collection)

    @cached_property
    def _rows(self) -> pa.Table:
        """All rows of the snapshot, with the entities' codes."""
        rows = pq.read_table(Path(self.folder) / "rows.parquet", columns=_COLUMNS)
        codes = rows.column("entity").combine_chunks().dictionary_encode().indices
        return rows.append_column("_entity", codes)

    @cached_property
    def _mask(self) -> Any:
        """(n,) bool: which rows the collection still has."""
        return self._table().has_ids(self._rows.column("id").to_pylist())

    @staticmethod
    def _of(split: str, rows: pa.Table) -> pa.Table:
        return rows.filter(pc.equal(rows.column("split"), split))

    def _present(self, split: str) -> pa.Table:
        return self._of(split, self._rows.filter(pa.array(self._mask)))

    def _targets(self, rows: pa.Table) -> Targets:
        label = rows.column("label").combine_chunks()
        if self.task == "number":
            numbers: Targets = label.to_numpy(zero_copy_only=False).astype(np.float64)
            return numbers
        if self.task == "classes":
            return _codes(label, self.classes)
        matrix = np.zeros((len(label), len(self.classes)), dtype=np.float32)
        matrix[pc.list_parent_indices(label).to_numpy(), _codes(pc.list_flatten(label), self.classes)] = 1
        return matrix


def _codes(labels: pa.Array, classes: tuple[str, ...]) -> Labels:
    """Each label's place among the classes."""
    found = pc.index_in(labels, value_set=pa.array(classes, labels.type))
    codes: Labels = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes
