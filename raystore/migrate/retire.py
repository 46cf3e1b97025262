"""An encoder leaves a collection: its vectors, what was built over them, and every byte of both.

What stands on it is found by whoever calls (heads, deployments and published copies are other rooms') and handed in as sentences.
Records stay: the encoder itself, snapshots, heads, and a record of this, in aliases/retired/<collection>. Cost: the collection is
read and written once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.current import default_first
from raystore.data.dropping import drop_columns, holds_dropped
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.layout import bridged_column, filled_column, numbers, vector_column
from raystore.markup import facts_html
from raystore.progress import Progress

KIND = "retired"  # of alias records


@dataclass(frozen=True)
class Retired:
    """What went: `rows` had a vector of the encoder, of them `lost` no other; `overruled` are the reasons against that were forced."""

    collection: str
    encoder: str
    fingerprint: str
    rows: int
    lost: int
    indexes: int
    graphs: int
    freed_bytes: int
    reason: str | None
    overruled: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lost = f", {self.lost:,} of which had no other" if self.lost else ""
        forced = f"\nforced ({self.reason}) against: {'; '.join(self.overruled)}" if self.overruled else ""
        return (
            f"{self.collection}: the vectors of {self.encoder} are gone, of {self.rows:,} rows{lost}, with {self.indexes} indexes and "
            f"{self.graphs} tables of pairs; {self.freed_bytes:,} bytes are free{forced}"
        )

    def _repr_html_(self) -> str:
        return facts_html(f"{self.encoder} was retired from {self.collection}", self.to_dict())


def count_without_other(table: CollectionTable, fingerprint: str) -> int:
    """How many rows have a vector of this encoder and of no other. Cost: one pass over which are null."""
    others = [f"{vector_column(each)} IS NULL" for each in table.fingerprints if each != fingerprint]
    condition = " AND ".join([f"{vector_column(fingerprint)} IS NOT NULL", *others])
    return int(table.rows.dataset().count_rows(condition))


def retire(
    catalog: Catalog,
    table: CollectionTable,
    encoder: Encoder,
    *,
    standing: Sequence[str] = (),
    force: str | None = None,
    progress: Progress | None = None,
) -> Retired:
    """What went; the work of `Collection.retire_encoder`. A killed call is simply repeated.

    Args:
        standing: what stands on the encoder's vectors here, a sentence each.
        force: the reason for which it is done in spite of that; kept in the record.

    Raises:
        InvalidArguments: it is needed (all reasons at once), it is the only encoder, or the reason says nothing.
        PassportMismatch: the collection holds no vectors of it. WriterBlocked, DiskFull.
    """
    call = f"retire_encoder('{encoder.name}') of '{table.name}'"
    layout, fingerprint = catalog.layout, encoder.fingerprint
    folders = layout.indexes(table.name, fingerprint), layout.graphs(table.name, fingerprint)
    begun = fingerprint not in table.fingerprints and holds_dropped(table.rows)  # a call before this one was killed
    rows = lost = 0
    against: list[str] = []
    if not begun:
        table.check_encoder(fingerprint, encoder.label)
        if table.fingerprints == [fingerprint]:
            problem = f"{encoder.label} is its only encoder: without it the rows cannot be searched, and force= does not change that"
            raise InvalidArguments(call=call, problems=[problem])
        lost = count_without_other(table, fingerprint)
        rows = table.count() - table.count_lacking(fingerprint)
        if default_first(catalog, table)[0] == fingerprint:
            against.append(f"it is what '{table.name}' is asked by: use_encoder cuts over to another")
        against += standing
        if lost:
            against.append(f"{lost:,} rows have a vector of no other encoder: bridge or re-embed them first")
        if force is not None and not force.strip():
            raise InvalidArguments(call=call, problems=["force= is the reason that is kept, and it is empty"])
        if against and force is None:
            raise InvalidArguments(
                call=call, problems=[*against, "force='<reason>' does it all the same; the reason is kept"]
            )
    counted = len(numbers(folders[0])), len(list(folders[1].glob("*.lance")))
    record = {"fingerprint": fingerprint, "encoder": encoder.label, "rows": rows, "lost": lost, "reason": force}
    catalog.put(layout.aliases(KIND, table.name), {**record, "overruled": against})
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    columns = [vector_column(fingerprint), filled_column(fingerprint), bridged_column(fingerprint)]
    freed = drop_columns(table.rows, columns, progress=progress)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return Retired(
        collection=table.name,
        encoder=encoder.label,
        fingerprint=fingerprint,
        rows=rows,
        lost=lost,
        indexes=counted[0],
        graphs=counted[1],
        freed_bytes=freed + size,
        reason=force,
        overruled=tuple(against),
    )
