"""The rows of a collection that have a vector of both encoders: what a bridge is fitted on. Reads vectors and labels, no content."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from raystore.data.collection import CollectionTable
from raystore.errors import ColumnNotFound
from raystore.layout import vector_column
from raystore.migrate.bridge.fit import Pairs

_ALIKE = 3  # digits by which two vectors are the same item's: batches move the seventh


def count_pairs(table: CollectionTable, old: str, new: str) -> int:
    """How many rows have a vector of both encoders, by full fingerprint. Cost: one pass over which are null."""
    return int(table.rows.dataset().count_rows(_both(table, old, new)))


def read_pairs(
    table: CollectionTable,
    old: str,
    new: str,
    most: int,
    *,
    labels: str | Mapping[str, str] | None = None,
    seed: int = 0,
) -> Pairs:
    """Up to `most` of the rows with a vector of both encoders, drawn at random; of rows with the same old vector one.

    The same text twice would otherwise stand on both sides of a split, and be found.

    Args:
        labels: a kept column, or {id: label}; rows without one are pairs all the same.

    Raises:
        PassportMismatch: the collection holds no vectors of one of them. ColumnNotFound.

    Cost: one pass over which are null, then 20 ms a 1,000 rows.
    """
    condition = _both(table, old, new)
    column = labels if isinstance(labels, str) else None
    if column is not None and column not in table.columns:
        raise ColumnNotFound(name=column, where=f"collection '{table.name}'", existing=list(table.columns))
    rows = table.rows.dataset().scanner(columns=[], filter=condition, with_row_id=True).to_table()
    row_ids = np.sort(rows.column("_rowid").to_numpy().astype(np.int64))
    drawn = np.random.default_rng(seed).permutation(len(row_ids))[:most]
    row_ids = row_ids[np.sort(drawn)]
    a, b = (table.vectors_at(fingerprint, row_ids) for fingerprint in (old, new))
    there = a[0] & b[0]  # a row may have been erased meanwhile
    x, y = np.asarray(a[1])[there[a[0]]], np.asarray(b[1])[there[b[0]]]
    kept = _different(x)
    codes = None
    if labels is not None:
        codes = _codes(table, row_ids[there][kept], labels)
    return Pairs(np.ascontiguousarray(x[kept]), np.ascontiguousarray(y[kept]), codes)


def _both(table: CollectionTable, old: str, new: str) -> str:
    for fingerprint in (old, new):
        table.check_encoder(fingerprint)
    return f"{vector_column(old)} IS NOT NULL AND {vector_column(new)} IS NOT NULL"


def _different(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The places of the rows, of those that are alike the first; ascending."""
    rounded = np.ascontiguousarray(np.round(rows, _ALIKE) + 0.0)  # -0.0 has other bytes than 0.0
    whole = rounded.view(np.dtype((np.void, rounded.dtype.itemsize * rounded.shape[1]))).reshape(-1)
    return np.sort(np.unique(whole, return_index=True)[1]).astype(np.int64)


def _codes(
    table: CollectionTable, row_ids: npt.NDArray[np.int64], labels: str | Mapping[str, str]
) -> npt.NDArray[np.int64]:
    column = "id" if isinstance(labels, Mapping) else labels
    found: dict[int, str | None] = {}
    for start in range(0, len(row_ids), 2_000):
        rows = table.rows_by_row_id(row_ids[start : start + 2_000], [column])
        values = rows.column(column).to_pylist()
        if isinstance(labels, Mapping):
            values = [labels.get(id_) for id_ in values]
        found.update(zip(rows.column("_rowid").to_pylist(), values, strict=True))
    said = [found.get(row) for row in row_ids.tolist()]
    places = {label: i for i, label in enumerate(sorted({str(label) for label in said if label is not None}))}
    return np.array([-1 if label is None else places[str(label)] for label in said], dtype=np.int64)
