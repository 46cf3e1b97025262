"""Fills the column of a forward bridge: each row that lacks its vector gets a copy of its true one, or its old one bridged.

Which rows are bridged is exact: their column `_bridged_<fp12>` holds the number of the commit that filled them, written in that
commit. Knows no content, no model and no Ray; a matrix product a batch, so writing is what takes the time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array, vector_matrix
from raystore.data.keyed import PAYLOAD, quoted
from raystore.encoders.bridged import Bridge, read_bridge
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.index.search.result import SearchResult
from raystore.layout import Layout, bridged_column, vector_column
from raystore.markup import facts_html
from raystore.progress import Progress

_BATCH = 4_096  # rows a commit


@dataclass(frozen=True)
class BridgeReport:
    """What became of the rows that lacked a vector of the forward encoder: `bridged` got their old vector as the map sees it,
    `copied` had a true vector of the new encoder and got a copy, `left` have neither."""

    collection: str
    encoder: str
    fingerprint: str
    lacking: int
    bridged: int
    copied: int
    left: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        return (self.bridged + self.copied) / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        left = f"; {self.left:,} have none, for they have no vector of either encoder" if self.left else ""
        return (
            f"{self.collection}: {self.bridged:,} rows were bridged into {self.encoder} and {self.copied:,} got a copy of their true "
            f"vector{left}; {self.seconds:.1f} s, {self.rows_per_s:,.0f} rows/s"
        )

    def _repr_html_(self) -> str:
        title = f"{self.bridged:,} rows of {self.collection} were bridged into {self.encoder}"
        return facts_html(title, {**asdict(self), "rows_per_s": self.rows_per_s})


def bridge_rows(
    layout: Layout, table: CollectionTable, forward: Encoder, *, progress: Progress | None = None
) -> BridgeReport:
    """Every row of the collection that can have one gets a vector in the forward encoder's column.

    Committed in batches of 4,096: after a kill the same call goes on with what is lacking. Rows logged meanwhile get the new
    encoder's own vector, from the moment the column is there.

    Args:
        progress: called with rows done, and those that lacked a vector.

    Raises:
        InvalidArguments: the encoder is no bridge, or leads back.
        PassportMismatch: the collection holds no vectors of the encoder that it leads from.
        DiskFull, WriterBlocked: what is committed is safe; run it again.
    """
    began = time.monotonic()
    bridge = read_bridge(layout, forward.fingerprint, forward.label)
    if bridge.direction != "forward":
        problem = (
            f"{forward.label} leads from the new encoder back into the old one's space, where each row has its true vector"
        )
        raise InvalidArguments(call=f"bridge rows of '{table.name}'", problems=[problem])
    table.check_encoder(bridge.source)
    table.add_encoder(forward.fingerprint, forward.dim)
    table.rows.add_columns([pa.field(bridged_column(forward.fingerprint), pa.int64())])
    lacking = table.row_ids_lacking(forward.fingerprint)
    bridged = copied = 0
    for start in range(0, len(lacking), _BATCH):
        part = lacking[start : start + _BATCH]
        done = _fill(table, bridge, part)
        bridged, copied = bridged + done[0], copied + done[1]
        if progress is not None:
            progress(start + len(part), len(lacking))
    return BridgeReport(
        collection=table.name,
        encoder=forward.label,
        fingerprint=forward.fingerprint,
        lacking=len(lacking),
        bridged=bridged,
        copied=copied,
        left=table.count_lacking(forward.fingerprint),
        seconds=time.monotonic() - began,
    )


def bridged_ids(table: CollectionTable, fingerprint: str, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(n,) which of the ids have a bridged vector of the encoder, and not a true one; an id that is not there has none.

    Cost: as a look-up of the ids, 20 us each.
    """
    column, dataset = bridged_column(fingerprint), table.rows.dataset()
    found: set[str] = set()
    for start in range(0, len(ids) if column in dataset.schema.names else 0, 2_000):
        listed = ", ".join(quoted(str(id_)) for id_ in ids[start : start + 2_000])
        rows = dataset.to_table(columns=["id"], filter=f"id IN ({listed}) AND {column} IS NOT NULL")
        found.update(rows.column("id").to_pylist())
    return np.array([id_ in found for id_ in ids], dtype=np.bool_)


def mark_bridged(table: CollectionTable, bridge: Bridge, found: SearchResult) -> SearchResult:
    """The answer of a search of a forward bridge's column, which says of each hit whether its vector was mapped; and where one was,
    by which bridge, and how well that finds.

    Cost: as `bridged_ids`, of the different ids found.
    """
    ids = list(dict.fromkeys(id_ for hits in found.ids for id_ in hits))
    mapped = dict(zip(ids, bridged_ids(table, bridge.fingerprint, ids).tolist(), strict=True))
    flags = [[mapped[id_] for id_ in hits] for hits in found.ids]
    return replace(found, bridged=bridge.said if any(mapped.values()) else None, bridged_hits=flags)


def _fill(table: CollectionTable, bridge: Bridge, row_ids: npt.NDArray[np.int64]) -> tuple[int, int]:
    """How many of the rows were bridged, and how many got a copy."""
    dataset = table.rows.dataset()
    old, new, own = (vector_column(each) for each in (bridge.source, bridge.target, bridge.fingerprint))
    there = [column for column in (new, old) if column in dataset.schema.names]
    condition = f"_rowid IN ({', '.join(map(str, row_ids.tolist()))})"
    rows = dataset.scanner(columns=["id", PAYLOAD, *there], filter=condition).to_table()
    true = _valid(rows, new)
    mapped = _valid(rows, old) & ~true
    copied = bridged = 0
    if true.any():
        part = rows.filter(pa.array(true))
        given = pa.table({"id": part["id"], PAYLOAD: part[PAYLOAD], own: part[new]})
        copied = table.fill(given, bridge.fingerprint).filled
    if mapped.any():
        part = rows.filter(pa.array(mapped))
        vectors = bridge.cross(vector_matrix(part[old].combine_chunks()))
        given = pa.table({"id": part["id"], PAYLOAD: part[PAYLOAD], own: vector_array(np.asarray(vectors))})
        bridged = table.fill(
            given, bridge.fingerprint, also={bridge.fingerprint: bridged_column(bridge.fingerprint)}
        ).filled
    return bridged, copied


def _valid(rows: pa.Table, column: str) -> npt.NDArray[np.bool_]:
    if column not in rows.schema.names:
        return np.zeros(len(rows), dtype=np.bool_)
    mask: npt.NDArray[np.bool_] = rows.column(column).is_valid().to_numpy().astype(np.bool_)
    return mask
