"""An encoder leaves a collection: its vectors, what was built over them, and every byte of both.

What stands on it is found by whoever calls (heads, deployments and published copies are other rooms') and handed in as sentences.
Records stay: the encoder itself, snapshots, heads, and two of this in aliases/retired/<collection>: "begun" before anything goes,
"done" after the last byte. A begun one that no done one follows is finished by the next call. Cost: the collection is read and
written once, and a grace period for those who read it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from raystore.catalog import Catalog, Record
from raystore.data.collection import CollectionTable
from raystore.data.current import default_first
from raystore.data.dropping import drop_columns
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.layout import bridged_column, filled_column, numbers, vector_column
from raystore.markup import facts_html
from raystore.progress import Progress

KIND = "retired"  # of alias records
GRACE_S = 30.0  # for requests that opened a version from before


@dataclass(frozen=True)
class Retired:
    """What went: `rows` had a vector of the encoder, of them `lost` no other, and `bridged` none but what a bridge made of it;
    `overruled` are the reasons against that were forced."""

    collection: str
    encoder: str
    fingerprint: str
    rows: int
    lost: int
    bridged: int
    indexes: int
    graphs: int
    freed_bytes: int
    reason: str | None
    overruled: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lost = f", {self.lost:,} of which had no other" if self.lost else ""
        lost += f", {self.bridged:,} of which have a bridged one alone" if self.bridged else ""
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


def count_bridged_alone(table: CollectionTable, fingerprint: str) -> int:
    """How many rows have a vector of this encoder, and of others none but bridged ones. Cost: as of `count_without_other`."""
    dataset, others = table.rows.dataset(), [each for each in table.fingerprints if each != fingerprint]
    there = dataset.schema.names
    bridged = {vector_column(each): bridged_column(each) for each in others if bridged_column(each) in there}
    if not bridged:
        return 0
    no_true = [
        f"({column} IS NULL OR {bridged[column]} IS NOT NULL)" if column in bridged else f"{column} IS NULL"
        for column in map(vector_column, others)
    ]
    some = " OR ".join(f"{column} IS NOT NULL" for column in bridged)
    return int(dataset.count_rows(" AND ".join([f"{vector_column(fingerprint)} IS NOT NULL", *no_true, f"({some})"])))


def retire(
    catalog: Catalog,
    table: CollectionTable,
    encoder: Encoder,
    *,
    standing: Sequence[str] = (),
    force: str | None = None,
    grace_s: float | None = None,
    progress: Progress | None = None,
) -> Retired:
    """What went; the work of `Collection.retire_encoder`. A killed call is simply repeated, and says what went in both.

    Args:
        standing: what stands on the encoder's vectors here, a sentence each.
        force: the reason for which it is done in spite of that; kept in the record.
        grace_s: how long files of earlier versions stay for those who read them; None is 30 s. Logs and searches go on meanwhile.

    Raises:
        InvalidArguments: it is needed (all reasons at once), it is the only encoder, or the reason says nothing.
        PassportMismatch: the collection holds no vectors of it.
        WriterBlocked, DiskFull, LeaseLost, StoreUnusable: what is committed is safe; call it again.
    """
    layout, fingerprint = catalog.layout, encoder.fingerprint
    records = layout.aliases(KIND, table.name)
    folders = layout.indexes(table.name, fingerprint), layout.graphs(table.name, fingerprint)
    begun = None if fingerprint in table.fingerprints else _unfinished(catalog, records, fingerprint)
    if begun is None:
        begun = _checked(catalog, table, encoder, standing, force)
        begun |= {"indexes": len(numbers(folders[0])), "graphs": len(list(folders[1].glob("*.lance")))}
        begun |= {"bytes_before": _size(table.rows.path, *folders)}
        catalog.put(records, {**begun, "state": "begun"})
    columns = [vector_column(fingerprint), filled_column(fingerprint), bridged_column(fingerprint)]
    table.rows.take_in()  # while it holds the columns that they have
    drop_columns(table.rows, columns, grace_s=GRACE_S if grace_s is None else grace_s, progress=progress)
    for folder in folders:
        while folder.exists():
            with suppress(FileNotFoundError):  # another call deletes it too
                shutil.rmtree(folder)
    done = {**begun, "freed_bytes": max(0, begun["bytes_before"] - _size(table.rows.path))}
    catalog.put(records, {**done, "state": "done"})
    told = {each.name: done[each.name] for each in fields(Retired) if each.name in done}
    return Retired(**{**told, "collection": table.name, "overruled": tuple(done["overruled"])})


def _unfinished(catalog: Catalog, folder: Path, fingerprint: str) -> Record | None:
    """The facts of the newest record of this encoder, if that only says that it was begun."""
    for number in reversed(numbers(folder)):
        record = catalog.record(folder, number)
        if record is not None and record["fingerprint"] == fingerprint:
            return record if record["state"] == "begun" else None
    return None


def _checked(
    catalog: Catalog, table: CollectionTable, encoder: Encoder, standing: Sequence[str], force: str | None
) -> Record:
    """The facts of what is about to go."""
    call = f"retire_encoder('{encoder.name}') of '{table.name}'"
    fingerprint = encoder.fingerprint
    table.check_encoder(fingerprint, encoder.label)
    if table.fingerprints == [fingerprint]:
        problem = (
            f"{encoder.label} is its only encoder: without it the rows cannot be searched, and force= does not change that"
        )
        raise InvalidArguments(call=call, problems=[problem])
    against: list[str] = []
    if default_first(catalog, table)[0] == fingerprint:
        against.append(f"it is what '{table.name}' is asked by: use_encoder cuts over to another")
    against += standing
    if lost := count_without_other(table, fingerprint):
        against.append(f"{lost:,} rows have a vector of no other encoder: bridge or re-embed them first")
    if bridged := count_bridged_alone(table, fingerprint):
        against.append(
            f"{bridged:,} rows have beside its vector a bridged one alone: their last true one goes, and with it the way back"
        )
    if force is not None and not force.strip():
        raise InvalidArguments(call=call, problems=["force= is the reason that is kept, and it is empty"])
    if against and force is None:
        raise InvalidArguments(call=call, problems=[*against, "force='<reason>' does it all the same; the reason is kept"])
    rows = table.count() - table.count_lacking(fingerprint)
    facts = {"fingerprint": fingerprint, "encoder": encoder.label, "rows": rows, "lost": lost, "bridged": bridged}
    return {**facts, "reason": force, "overruled": against}


def _size(*folders: Path) -> int:
    total = 0
    for folder in folders:
        for at, _, found in os.walk(folder):
            for name in found:
                with suppress(FileNotFoundError):  # deleted while we look: the collection is in use
                    total += (Path(at) / name).stat().st_size
    return total
