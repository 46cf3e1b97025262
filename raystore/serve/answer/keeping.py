"""What predictions leave in a collection: the embedding and kept columns of an item; its content only where the collection's owner
chose to keep that (`keep_source`).

Required: durable before the answer, in the collection's journal, which is taken in behind it. Else behind a queue, bounded by rows
and by bytes, which one thread empties in groups; what does not fit is dropped and counted. A row's id is the item's, so a request
that is repeated under its id leaves one row. The content goes along as far as the log, which knows a row again by its keyed digest,
and encodes it for those of the collection's encoders that have not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raystore.errors import (
    DimensionMismatch,
    IdConflict,
    InvalidRows,
    InvalidVectors,
    ItemsUnusable,
)
from raystore.serve.answer.asked import share
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.predicting import Part
from raystore.serve.answer.served import ServedCollection
from raystore.serve.lane import RETRY_S, Lane, patiently, weight
from raystore.vectors import Matrix

log = logging.getLogger("raystore.serve")

Dropped = Callable[[str, str, int], None]  # collection, reason, rows
_GROUP = 256  # rows of one commit
# A commit costs some 7 ms of the cores that answer, for one row as for many: so rows wait a little for others.
_PAUSE_S = 0.5
_TAKEN_IN_S = 1.0
# A row is refused, and others may be written.
_OF_ROWS = (InvalidRows, InvalidVectors, ItemsUnusable, DimensionMismatch, IdConflict)


@dataclass(frozen=True)
class Row:
    """A row for a collection's log; `vector` is of the encoder `fingerprint`, where its content was encoded with that already."""

    row: dict[str, Any]
    fingerprint: str
    vector: Matrix | None

    @property
    def n_bytes(self) -> int:
        vector = self.row.get("vector", self.vector)
        return weight(self.row.values()) + (0 if vector is None else vector.nbytes)


def rows_of(part: Part, collection: ServedCollection, reads: BatchingEncoder) -> list[Row]:
    """The rows of those items that the log's sample takes; `reads` is the encoder that read them."""
    record = part.live.record
    policy = record.log
    assert policy is not None
    rows = []
    for one, vector in zip(part.items, part.vectors, strict=True):
        item = one.asked
        if policy.sample < 1 and share(f"log {record.name}", item.id) >= policy.sample:
            continue
        row: dict[str, Any] = {"id": item.id}
        if item.item is None:
            row["vector"] = vector
        else:
            row["text" if isinstance(item.item, str) else "image"] = item.item
        for name in ("subject", "tenant", "time"):
            if getattr(item, name) is not None:
                row[name] = getattr(item, name)
        row |= {name: value for name, value in item.columns.items() if name in collection.columns}
        # A bridge's vectors are not logged: its column would not say whether they were mapped.
        known = item.item is not None and reads.bridge is None
        rows.append(Row(row, record.fingerprint, vector if known else None))
    return rows


def commit(collection: ServedCollection, encoders: Mapping[str, BatchingEncoder], rows: Sequence[Row]) -> int:
    """How many of the rows were added, durably; all are of one fingerprint. Raises what `RowLog.log` raises."""
    return collection.log([each.row for each in rows], encoders, rows[0].fingerprint, _encoded(rows)).added


def append(collection: ServedCollection, encoders: Mapping[str, BatchingEncoder], rows: Sequence[Row]) -> int:
    """As `commit`, into the journal: they are in the collection when somebody takes them in."""
    return collection.append([each.row for each in rows], encoders, rows[0].fingerprint, _encoded(rows))


def _encoded(rows: Sequence[Row]) -> dict[str, dict[str, Matrix]]:
    return {rows[0].fingerprint: {each.row["id"]: each.vector for each in rows if each.vector is not None}}


def take_in_lane(name: str, take_in: Callable[[], object]) -> Lane[None]:
    """The lane that takes a collection's journal in, once a second at most; one thing in it is enough. What could not be taken in
    waits on in the journal, for the next time or another writer."""
    return Lane(
        f"take-in-{name}",
        lambda _: patiently(take_in),
        most=1,
        batch=2,  # never whole, so that one waits out the pause
        pause_s=_TAKEN_IN_S,
        dropped=lambda *_: None,
    )


def log_lane(
    name: str, most: int, commit: Callable[[Sequence[Row]], object], dropped: Dropped, *, retry_s: float = RETRY_S
) -> Lane[Row]:
    """The lane of a collection whose log is not required.

    Args:
        commit: logs rows of one fingerprint.
        dropped: told of rows that were given up.
        retry_s: before rows are tried again that a disk or another writer kept from being written; doubled each time.
    """

    def work(batch: list[Row]) -> None:
        for fingerprint in dict.fromkeys(each.fingerprint for each in batch):
            write_some([each for each in batch if each.fingerprint == fingerprint])

    def write_some(rows: list[Row]) -> None:
        """All at once; where a row is refused, the halves apart, so that it takes no other with it. What was not written is counted
        here, whatever the reason: a lane would count the whole batch."""
        try:
            patiently(lambda: commit(rows), retry_s=retry_s)
        except Exception as error:  # noqa: BLE001 - of a table, an encoder, a remote call: counted, and never fatal
            if isinstance(error, _OF_ROWS) and len(rows) > 1:
                half = len(rows) // 2
                write_some(rows[:half])
                write_some(rows[half:])
                return
            log.warning("%d rows were not logged to collection '%s': %s", len(rows), name, type(error).__name__)
            dropped(name, type(error).__name__, len(rows))

    return Lane(
        f"log-{name}",
        work,
        most=most,
        batch=_GROUP,
        pause_s=_PAUSE_S,
        bytes_of=lambda each: each.n_bytes,
        dropped=lambda rows, reason: dropped(name, reason, len(rows)),
    )
