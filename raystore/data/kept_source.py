"""The raw content of a collection whose owner chose to keep it: `create_collection(..., keep_source=True)`.

    collections/<name>/source.lance     key, id, text or image, _payload, _added

Nothing else in a store holds content, and a collection made without the choice never gets this table. Whether one
keeps its source stands in the metadata of its rows, so it is as old as the collection and cannot come to differ.

A row's content is written before the row, under a key of its id and payload: a kill between the two leaves content
that no row points at, and when the row comes with another content, its own is beside it. A look-up goes through
the row's payload, so it finds the content the vector was made of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.collection import CollectionTable
from raystore.data.keyed import PAYLOAD, PRIMARY_KEY, KeyedTable, quoted
from raystore.encoders.items import Item
from raystore.encoders.passport import Modality
from raystore.errors import InvalidArguments, ItemNotFound

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("id", pa.string()),
        pa.field("text", pa.large_string()),
        pa.field("image", pa.large_binary()),
        pa.field(PAYLOAD, pa.binary(32)),
        pa.field("_added", pa.int64()),
    ]
)
_LOOKUP_CHUNK = 1_000


class KeptSource:
    """The kept content of one collection. Made by `open_source`; safe to share between threads."""

    def __init__(self, table: CollectionTable) -> None:
        layout = table.layout
        self._rows = table.rows
        self._where = f"the kept source of collection '{table.name}'"
        self.table = KeyedTable(layout.source(table.name), layout.source_fence(table.name), "key")
        if not self.table.exists():
            with contextlib.suppress(FileExistsError):  # another writer made it first
                KeyedTable.create(self.table.path, layout.tmp, _SCHEMA, "key")

    def keep(self, ids: Sequence[str], payloads: Sequence[bytes], items: Sequence[Item | None]) -> None:
        """The items are on the disk when this returns; None (a row given as a vector) has no content to keep.

        Raises:
            WriterBlocked, DiskFull: nothing was written.
        """
        given = [(i, p, item) for i, p, item in zip(ids, payloads, items, strict=True) if item is not None]
        if given:
            self.table.commit([_as_table(given)], refuse_differing=False)

    def read(self, ids: Sequence[str]) -> list[Item]:
        """The content of the rows with these ids, in their order: a str for a text, bytes for an image file.

        Raises:
            ItemNotFound: the first id that is no row, or whose row was given as a vector.
        """
        known = self._rows.known(list(dict.fromkeys(ids)))
        keys = [_key(id_, known[id_].payload) for id_ in dict.fromkeys(ids) if id_ in known]
        dataset, found = self.table.dataset(), {}
        for start in range(0, len(keys), _LOOKUP_CHUNK):
            listed = ", ".join(map(quoted, keys[start : start + _LOOKUP_CHUNK]))
            rows = dataset.to_table(columns=["id", "text", "image"], filter=f"key IN ({listed})").to_pylist()
            found.update({row["id"]: row["text"] if row["image"] is None else row["image"] for row in rows})
        missing = next((id_ for id_ in ids if id_ not in found), None)
        if missing is not None:
            raise ItemNotFound(name=missing, where=self._where)
        return [found[id_] for id_ in ids]

    def contents(self, ids: Sequence[str], payloads: Sequence[bytes], modality: Modality) -> pa.Table:
        """id, content (`text` or `image`) and payload of those of the rows that have such content, in no stated order."""
        listed = ", ".join(quoted(_key(id_, payload)) for id_, payload in zip(ids, payloads, strict=True))
        rows = self.table.dataset().to_table(columns=["id", modality, PAYLOAD], filter=f"key IN ({listed})")
        return rows.filter(pc.is_valid(rows.column(modality)))

    def mean_bytes(self) -> float:
        """Bytes of a row on the disk; 0 where Lance does not say."""
        fragments = self.table.dataset().get_fragments()
        size = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.data_files())
        return float(size / max(1, sum(fragment.physical_rows for fragment in fragments)))


def open_source(table: CollectionTable) -> KeptSource | None:
    """Where the collection keeps its content, or None where it keeps none."""
    return KeptSource(table) if table.keeps_source else None


def read_source(table: CollectionTable, ids: Sequence[str]) -> list[Item]:
    """As `KeptSource.read`. Raises InvalidArguments where the collection keeps no content."""
    source = open_source(table)
    if source is None:
        problem = f"collection '{table.name}' keeps no content; only one made with keep_source=True does"
        raise InvalidArguments(call="source", problems=[problem])
    return source.read(ids)


def _key(id_: str, payload: bytes) -> str:
    return f"{payload.hex()} {id_}"


def _as_table(rows: Sequence[tuple[str, bytes, Item]]) -> pa.Table:
    ids, payloads, items = zip(*rows, strict=True)
    return pa.table(
        {
            "key": pa.array([_key(id_, payload) for id_, payload, _ in rows], pa.string()),
            "id": pa.array(ids, pa.string()),
            "text": pa.array([item if isinstance(item, str) else None for item in items], pa.large_string()),
            "image": pa.array([item if isinstance(item, bytes) else None for item in items], pa.large_binary()),
            PAYLOAD: pa.array(payloads, pa.binary(32)),
        }
    )
