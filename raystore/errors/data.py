"""Rows, vectors, tables, SQL, snapshots and shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raystore.errors.base import RaystoreError, first_five, listed


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidRows(RaystoreError, ValueError):
    """`problems` are (row number, id or None, reason); nothing of the call was written."""

    status = 422
    collection: str
    n_rows: int
    problems: Sequence[tuple[int, str | None, str]]

    def __str__(self) -> str:
        told = [
            f"row {row}" + (f" (id '{id_}')" if id_ is not None else "") + f": {reason}"
            for row, id_, reason in self.problems
        ]
        return (
            f"{len({row for row, _, _ in self.problems})} of {self.n_rows} rows for collection '{self.collection}' cannot be "
            f"written: {first_five(told)}. Nothing was written."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidVectors(RaystoreError, ValueError):
    """`problems` are (row number, reason)."""

    status = 422
    call: str
    n_vectors: int
    problems: Sequence[tuple[int, str]]

    def __str__(self) -> str:
        told = first_five([f"vector {row} {reason}" for row, reason in self.problems])
        return f"{self.call}: {len(self.problems)} of {self.n_vectors} vectors are unusable: {told}."


@dataclass(eq=False, kw_only=True, repr=False)
class ItemsUnusable(RaystoreError, ValueError):
    """Texts or images that cannot be encoded; `problems` are (place from 0, reason), and quote nothing."""

    status = 422
    call: str
    n_items: int
    problems: Sequence[tuple[int, str]]

    def __str__(self) -> str:
        told = first_five([f"item {place} {reason}" for place, reason in self.problems])
        return f"{self.call}: {len(self.problems)} of {self.n_items} items are unusable: {told}."


@dataclass(eq=False, kw_only=True, repr=False)
class DimensionMismatch(RaystoreError, ValueError):
    status = 422
    call: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.call}: expected vectors of {self.expected} numbers, found {self.found}."


@dataclass(eq=False, kw_only=True, repr=False)
class SqlRefused(RaystoreError, ValueError):
    status = 422
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        return f"this SQL was not run: {self.reason}." + (f" {self.advice}" if self.advice else "")


@dataclass(eq=False, kw_only=True, repr=False)
class SnapshotRefused(RaystoreError, ValueError):
    status = 422
    name: str
    problems: Sequence[str]

    def __str__(self) -> str:
        return f"snapshot '{self.name}' was not taken: " + "; ".join(self.problems) + "."


@dataclass(eq=False, kw_only=True, repr=False)
class IdConflict(RaystoreError, ValueError):
    status = 409
    collection: str
    ids: Sequence[str]

    def __str__(self) -> str:
        return (
            f"collection '{self.collection}' already holds {listed(self.ids)} with another payload. A row never "
            "changes: log the new content under a new id. Nothing was written."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class LeaseLost(RaystoreError, RuntimeError):
    status = 503
    folder: str
    token: int
    found: int

    def __str__(self) -> str:
        return (
            f"the writer lease {self.token} on '{self.folder}' ran out and writer {self.found} took over; "
            "nothing was committed. Repeat the call."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class WriterBlocked(RaystoreError, TimeoutError):
    status = 503
    folder: str
    waited_s: float
    holder: str

    def __str__(self) -> str:
        return (
            f"waited {self.waited_s:.1f} s to write to '{self.folder}', held by {self.holder}. Nothing was written. "
            "Repeat the call; if it stays so, end that process."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class ShardCorrupt(RaystoreError, ValueError):
    path: str
    found: str

    def __str__(self) -> str:
        return f"index file '{self.path}' is unusable: {self.found}. It was not loaded; the shard is rebuilt."


@dataclass(eq=False, kw_only=True, repr=False)
class ShardsMissing(RaystoreError, RuntimeError):
    status = 503
    index: str
    missing: Sequence[int]

    def __str__(self) -> str:
        return f"no shard of index {self.index} answered (missing: {list(self.missing)}). Try again; they restart by themselves."


@dataclass(eq=False, kw_only=True, repr=False)
class QueryRefused(SqlRefused):
    """SQL over HTTP that was not run: `reason` and `advice` hold names of the store and of SQL, nothing of the query's own."""


@dataclass(eq=False, kw_only=True, repr=False)
class QueryStopped(RaystoreError, RuntimeError):
    status = 422
    reason: str

    def __str__(self) -> str:
        return f"this SQL was stopped: {self.reason}. Ask for less: filter, group, or LIMIT."


@dataclass(eq=False, kw_only=True, repr=False)
class QueryBusy(RaystoreError, RuntimeError):
    status = 503
    limit: int

    def __str__(self) -> str:
        return f"{self.limit} SQL queries run here at once, and as many are running. Try again."
