"""Which of its encoders a collection is asked by where nobody names one: its current encoder.

    aliases/current/<collection>/<n>.json    fingerprint, what it was before, and why it changed; the highest is the present

A collection that was never cut over has no record, and is asked by its first encoder. A cut-over is one new record, so every
process sees it at its next call, whole. Knows fingerprints; knows nothing of models or of how rows got their vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from raystore.catalog import Catalog, Record
from raystore.data.collection import CollectionTable
from raystore.errors import InvalidArguments
from raystore.layout import numbers

KIND = "current"  # of alias records


@dataclass(frozen=True)
class Current:
    """A cut-over: from `before` to `fingerprint`, at a time (ISO 8601, UTC). `undoes` is the number of the one it took back."""

    collection: str
    number: int
    fingerprint: str
    before: str
    reason: str | None
    at: str
    undoes: int | None = None


def current_of(catalog: Catalog, table: CollectionTable) -> Current | None:
    """The newest cut-over to an encoder that the collection holds; None where there was none."""
    found = catalog.latest(catalog.layout.aliases(KIND, table.name))
    if found is None or found[1]["fingerprint"] not in table.fingerprints:
        return None
    return _read(table.name, *found)


def default_first(catalog: Catalog, table: CollectionTable) -> list[str]:
    """The collection's encoders: first the one that it is asked by, then the others, oldest column first.

    Cost: nothing where there is one encoder, else a small file (50 us).
    """
    fingerprints = table.fingerprints
    if len(fingerprints) > 1 and (current := current_of(catalog, table)) is not None:
        fingerprints.remove(current.fingerprint)
        fingerprints.insert(0, current.fingerprint)
    return fingerprints


def history(catalog: Catalog, collection: str) -> list[Current]:
    """Every cut-over, oldest first."""
    folder = catalog.layout.aliases(KIND, collection)
    return [_read(collection, n, record) for n in numbers(folder) if (record := catalog.record(folder, n)) is not None]


def cut_over(catalog: Catalog, table: CollectionTable, fingerprint: str, reason: str | None = None) -> Current:
    """The record that says so: from now on the collection is asked by this encoder. Where it is already, that record.

    Raises:
        PassportMismatch: the collection holds no vectors of it.
    """
    table.check_encoder(fingerprint)
    while True:
        number = _next(catalog, table)
        now = current_of(catalog, table)
        if now is not None and now.fingerprint == fingerprint:
            return now
        before = default_first(catalog, table)[0]
        if made := _put(catalog, table, number, {"fingerprint": fingerprint, "before": before, "reason": reason}):
            return made


def before_of(catalog: Catalog, table: CollectionTable) -> Current | None:
    """The cut-over that stands, which `roll_back` would take back; None where there is none left."""
    records = {each.number: each for each in history(catalog, table.name)}
    number = max(records, default=0)
    while number and (undone := records[number].undoes) is not None:
        number = undone - 1  # as it stood before the one that was taken back
    return records.get(number)


def roll_back(catalog: Catalog, table: CollectionTable, reason: str | None = None) -> Current:
    """The record that takes the cut-over back which stands; called again, the one before it.

    Raises:
        InvalidArguments: there is none, or the collection holds no vectors of the encoder before it any more.
    """
    call = f"roll_back_encoder of '{table.name}'"
    while True:
        number = _next(catalog, table)
        standing = before_of(catalog, table)
        if standing is None:
            problem = "it was not cut over from one encoder to another, so there is nothing to go back to"
            raise InvalidArguments(call=call, problems=[problem])
        held = table.fingerprints
        if standing.before not in held:
            problem = f"it holds no vectors of the encoder before, {standing.before}; it has: {', '.join(held)}"
            raise InvalidArguments(call=call, problems=[problem])
        before = default_first(catalog, table)[0]
        record = {"fingerprint": standing.before, "before": before, "reason": reason, "undoes": standing.number}
        if made := _put(catalog, table, number, record):
            return made


def _next(catalog: Catalog, table: CollectionTable) -> int:
    """The next record's number, asked before anything is looked at: who finds it taken looks again."""
    return (numbers(catalog.layout.aliases(KIND, table.name)) or [0])[-1] + 1


def _put(catalog: Catalog, table: CollectionTable, number: int, record: Record) -> Current | None:
    """The record under that number; None where another process took it."""
    folder = catalog.layout.aliases(KIND, table.name)
    try:
        catalog.put(folder, record, only=number)
    except FileExistsError:
        return None
    put = catalog.record(folder, number)
    assert put is not None
    return _read(table.name, number, put)


def _read(collection: str, number: int, record: Record) -> Current:
    return Current(
        collection=collection,
        number=number,
        fingerprint=record["fingerprint"],
        before=record["before"],
        reason=record.get("reason"),
        at=record["published_at"],
        undoes=record.get("undoes"),
    )
