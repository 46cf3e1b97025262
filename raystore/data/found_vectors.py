"""The vectors of those of some ids that a collection still holds; what is gone or was never embedded is left out, not an error.

Knows nothing of snapshots. Cost: for few ids 20 us each, for many one streaming read of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.data.collection import CollectionTable
from raystore.data.keyed import quoted
from raystore.layout import vector_column
from raystore.vectors import Vectors, mark

# Beyond this many ids, one scan of the vectors beats looking the ids up.
_SCAN_FROM_IDS = 20_000
_LOOKUP = 2_000


class Found(NamedTuple):
    """Vectors (m, d) float32 and where in the asked ids they belong, (m,) int64 ascending."""

    vectors: Vectors
    places: npt.NDArray[np.int64]


def find_vectors(table: CollectionTable, ids: Sequence[str], fingerprint: str) -> Found:
    """The vectors of the ids (each stands once) that the collection holds with a vector of this encoder.

    Raises:
        PassportMismatch: the collection holds no vectors of this encoder.
    """
    out = np.empty((len(ids), table.dim(fingerprint)), np.float32)
    has = np.zeros(len(ids), np.bool_)
    places = {id_: place for place, id_ in enumerate(ids)}
    if len(ids) >= _SCAN_FROM_IDS:
        for batch in table.scan(fingerprint):
            at = np.fromiter((places.get(id_, -1) for id_ in batch.ids.to_pylist()), np.int64, len(batch.ids))
            out[at[at >= 0]] = batch.vectors[at >= 0]
            has[at[at >= 0]] = True
    else:
        column, dataset = vector_column(fingerprint), table.rows.dataset()
        for start in range(0, len(ids), _LOOKUP):
            listed = ", ".join(quoted(id_) for id_ in ids[start : start + _LOOKUP])
            rows = dataset.to_table(columns=["id", column], filter=f"id IN ({listed}) AND {column} IS NOT NULL")
            at = np.array([places[id_] for id_ in rows.column("id").to_pylist()], np.int64)
            flat = rows.column(column).combine_chunks()
            if len(at):
                out[at] = flat.flatten().to_numpy(zero_copy_only=False).reshape(len(at), -1)
                has[at] = True
    return Found(mark(out if has.all() else out[has], fingerprint), np.flatnonzero(has))


def known_ids(table: CollectionTable, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(n,) whether the collection holds each of the ids (each stands once). Cost: as `find_vectors`, without the vectors."""
    places = {id_: place for place, id_ in enumerate(ids)}
    known = np.zeros(len(ids), np.bool_)
    dataset = table.rows.dataset()
    chunks = [ids[start : start + _LOOKUP] for start in range(0, len(ids), _LOOKUP)] if len(ids) < _SCAN_FROM_IDS else [[]]
    for chunk in chunks:
        condition = f"id IN ({', '.join(map(quoted, chunk))})" if chunk else None
        for batch in dataset.scanner(columns=["id"], filter=condition, batch_size=65_536).to_batches():
            at = np.fromiter((places.get(id_, -1) for id_ in batch.column("id").to_pylist()), np.int64, len(batch))
            known[at[at >= 0]] = True
    return known
