"""The rows of a collection that could not be embedded: id, source, row number and reason, never content.

collections/<name>/set_aside.lance     key, id, source, row, reason, _payload, _added
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence

import pyarrow as pa

from raystore.data.keyed import PAYLOAD, PRIMARY_KEY, KeyedTable
from raystore.layout import Layout

BadRow = tuple[int | None, str | None, str]  # row number and id, where it has them, and the reason

SET_ASIDE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field(PAYLOAD, pa.binary(32)),
        pa.field("_added", pa.int64()),
    ]
)


def set_aside_table(layout: Layout, name: str) -> KeyedTable:
    """The collection's table of rows that could not be embedded: id, source file, row number, reason."""
    table = KeyedTable(layout.set_aside(name), layout.collection(name) / "set_aside.fence", "key")
    if not table.exists():
        with contextlib.suppress(FileExistsError):  # another worker made it first
            KeyedTable.create(table.path, layout.tmp, SET_ASIDE_SCHEMA, "key")
    return table


def set_aside_rows(layout: Layout, name: str) -> pa.Table:
    """id, source, row and reason of the rows that were set aside; makes no table where none was."""
    columns = ["id", "source", "row", "reason"]
    if not layout.set_aside(name).exists():
        return SET_ASIDE_SCHEMA.empty_table().select(columns)
    return set_aside_table(layout, name).dataset().to_table(columns=columns)


def set_rows_aside(table: KeyedTable, source: str, bad: Sequence[BadRow]) -> None:
    """Write the bad rows of `source` into the table of those set aside; durable when this returns."""
    # The same row failing again for the same reason is one entry; a file that was replaced makes new ones.
    digests = [hashlib.sha256(json.dumps([source, *entry]).encode()).digest() for entry in bad]
    rows = pa.table(
        {
            "key": [digest.hex() for digest in digests],
            "id": pa.array([id_ for _, id_, _ in bad], pa.string()),
            "source": [source] * len(bad),
            "row": pa.array([number for number, _, _ in bad], pa.int64()),
            "reason": [reason for _, _, reason in bad],
            PAYLOAD: pa.array(digests, pa.binary(32)),
        }
    )
    table.commit([rows], refuse_differing=False)
