"""What predictions leave in a collection: the embedding and kept columns of an item, never its content.

Required: durable before the answer. Else behind a bounded queue, which one thread empties in groups; what does not fit is
dropped and counted. A row's id is the item's, so a request that is repeated under its id leaves one row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raystore.errors import RaystoreError
from raystore.serve.answer.asked import share
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.predicting import Part
from raystore.serve.answer.served import ServedCollection
from raystore.serve.lane import Lane

log = logging.getLogger("raystore.serve")

Dropped = Callable[[str, str, int], None]  # collection, reason, rows
_GROUP = 256  # rows of one commit


def rows_of(
    part: Part, collection: ServedCollection, encoders: Mapping[str, BatchingEncoder], reads: BatchingEncoder
) -> list[dict[str, Any]]:
    """The rows of those items that the log's sample takes, ready for the collection's log.

    Args:
        encoders: all of the collection's, by fingerprint.
        reads: the encoder that read the items.
    """
    record = part.live.record
    policy = record.log
    assert policy is not None
    # A bridge's vectors are not logged: its column would not say whether they were mapped.
    alone = len(encoders) == 1 and reads.bridge is None
    rows = []
    for one, vector in zip(part.items, part.vectors, strict=True):
        item = one.asked
        if policy.sample < 1 and share(f"log {record.name}", item.id) >= policy.sample:
            continue
        row: dict[str, Any] = {"id": item.id}
        if alone or item.item is None:
            row["vector"] = vector
        else:  # the collection's other encoders need the content, and it is gone when this request is answered
            row["text" if isinstance(item.item, str) else "image"] = item.item
        for name in ("subject", "tenant", "time"):
            if getattr(item, name) is not None:
                row[name] = getattr(item, name)
        row |= {name: value for name, value in item.columns.items() if name in collection.columns}
        rows.append(row)
    return rows


def log_lane(
    name: str, most: int, commit: Callable[[Sequence[Mapping[str, Any]], str], object], dropped: Dropped
) -> Lane[tuple[dict[str, Any], str]]:
    """The lane of a collection whose log is not required: rows, each with the fingerprint of its vectors.

    Args:
        commit: logs rows of one fingerprint.
        dropped: told of rows that were given up.
    """

    def work(batch: list[tuple[dict[str, Any], str]]) -> None:
        for fingerprint in dict.fromkeys(each for _, each in batch):
            _commit([row for row, each in batch if each == fingerprint], fingerprint)

    def _commit(rows: list[dict[str, Any]], fingerprint: str) -> None:
        """All at once; where that is refused, row by row, so that one bad row takes no other with it."""
        try:
            commit(rows, fingerprint)
        except RaystoreError as error:
            if len(rows) > 1:
                for row in rows:
                    _commit([row], fingerprint)
                return
            log.warning("a row was not logged to collection '%s': %s", name, type(error).__name__)
            dropped(name, type(error).__name__, 1)

    return Lane(f"log-{name}", work, most=most, batch=_GROUP, dropped=lambda rows, reason: dropped(name, reason, len(rows)))
