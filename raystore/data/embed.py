"""Embed one reference: read a slice, skip what is known, encode the rest, commit, set the bad rows aside.

The pure part of an embedding job; `ingest.py` runs it inline or on Ray. Content lives in this process, from the read to
the encode, and nowhere else: what goes out are vectors, kept columns, counts, and reasons that quote nothing.
A batch is committed before the next is read, so a worker killed anywhere does at most one batch again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.keyed import PAYLOAD, PRIMARY_KEY, KeyedTable, Known
from raystore.data.log import TextEncoder
from raystore.data.readers import Block, Reference, parse_text, read
from raystore.data.rows import as_time, id_problem, is_unicode, kept_value, payload_digests, row_table, text_problem
from raystore.errors import InvalidVectors, JobFailed, RaystoreError
from raystore.layout import Layout
from raystore.vectors import Matrix, as_unit_rows

# A commit takes 6 ms, so it may come often: at most this much work is done again after a kill.
BATCH_ROWS = 1_024
BATCH_CHARS = 262_144
_BROKEN_FROM_ROWS = 8  # an encoder that fails on as many rows, and on no other, is broken itself

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


@dataclass(frozen=True)
class EmbedPlan:
    """What a job does with each row. Columns are names in the source files."""

    collection: str
    fingerprint: str
    text: str
    id: str | None
    subject: str | None
    tenant: str | None
    time: str | None
    kept_types: dict[str, str]
    id_prefix: str
    check: bool
    start_version: int

    @property
    def id_columns(self) -> list[str]:
        return [self.id] if self.id else []

    @property
    def columns(self) -> list[str]:
        named = [self.id, self.text, self.subject, self.tenant, self.time, *self.kept_types]
        return [c for c in named if c is not None]


@dataclass
class EmbedCounts:
    """What became of the rows read: added + known + set_aside = read."""

    read: int = 0
    added: int = 0
    known: int = 0
    set_aside: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: EmbedCounts) -> None:
        self.read += other.read
        self.added += other.added
        self.known += other.known
        self.set_aside += other.set_aside
        for reason, n in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + n


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


def row_ids_of(block: Block, path: str, id_column: str | None, id_prefix: str) -> list[Any]:
    """The id of each row: its column, integers in decimal digits; or file name and row number where there is none."""
    if id_column is None:
        stem = Path(path).stem
        return [f"{id_prefix}{stem}:{block.first_row + i}" for i in range(block.n_rows)]
    return [
        f"{id_prefix}{v}" if (isinstance(v, str) and v) or (isinstance(v, int) and not isinstance(v, bool)) else v
        for v in block.columns[id_column]
    ]


def is_done(reference: Reference, plan: EmbedPlan, table: KeyedTable) -> bool:
    """True when every id of the slice was in the table before the job began. Reads the id column only.

    An id that this job itself wrote may be another row's: then the contents have to be compared.
    """
    if plan.check:
        return False
    dataset = table.dataset()
    for block in read(reference, plan.id_columns or [plan.text], 16_384):
        ids = row_ids_of(block, reference.path, plan.id, plan.id_prefix)
        usable = [i for i in ids if id_problem(i) is None]
        known = {key for key, row in table.known(usable, dataset).items() if row.added <= plan.start_version}
        if len(usable) < len(ids) or len(known) < len(set(usable)):
            return False
    return True


class Embedder:
    """Embeds references into one collection. One per process; made where the work is done, never sent."""

    def __init__(self, layout: Layout, plan: EmbedPlan, encoder: TextEncoder, store_key: bytes) -> None:
        self._table = CollectionTable.open(layout, plan.collection)
        self._aside = set_aside_table(layout, plan.collection)
        self._plan = plan
        self._encoder = encoder
        self._key = store_key

    def embed(self, reference: Reference, progress: Callable[[EmbedCounts], None] | None = None) -> EmbedCounts:
        """What became of the slice's rows; all of it is committed when this returns.

        Raises:
            JobFailed: something nobody foresaw. Its own words may quote a row, so its kind and place are said instead.
        """
        try:
            return self._embed(reference, progress)
        except (RaystoreError, OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  Ray writes what leaves a worker into its log files
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        raise JobFailed(
            job=f"embedding rows {reference.first_row} to {reference.first_row + reference.n_rows - 1} of '{reference.path}'",
            reason=reason,
            advice="What is committed is safe: run the same call again, it goes on where it stopped.",
        )

    def _embed(self, reference: Reference, progress: Callable[[EmbedCounts], None] | None) -> EmbedCounts:
        total = EmbedCounts()
        if is_done(reference, self._plan, self._table.rows):
            total.read = total.known = reference.n_rows
            if progress:
                progress(total)
            return total
        for block in read(reference, self._plan.columns, BATCH_ROWS):
            for start, stop in _cut(block, self._plan.text):
                counts = self._embed_rows(reference, block, start, stop)
                total.add(counts)
                if progress:
                    progress(counts)
        return total

    def _embed_rows(self, reference: Reference, block: Block, start: int, stop: int) -> EmbedCounts:
        ids = row_ids_of(block, reference.path, self._plan.id, self._plan.id_prefix)[start:stop]
        rows, bad = self._usable(block, ids, start)
        known = self._table.rows.known([r.id for r in rows])
        payloads = self._payloads(rows)
        fresh: list[_Row] = []
        n_known = 0
        for row, payload in zip(rows, payloads, strict=True):
            row.payload = payload
            seen = known.get(row.id)
            if seen is None:
                fresh.append(row)
                known[row.id] = Known(payload, self._plan.start_version + 1)
            elif self._is_another(seen, payload):
                bad.append((row.number, row.id, "the id is known with another content"))
            else:
                n_known += 1
        vectors, failed = self._encode(fresh)
        bad += failed
        fresh = [row for row in fresh if row.vector_row is not None]
        counts = EmbedCounts(read=stop - start, known=n_known)
        # First the bad rows: once the good ones are in, a slice may be done, and nobody reads it again after a kill.
        self._set_aside(reference.path, bad, counts)
        if fresh:
            outcome = self._table.rows.commit([self._as_table(fresh, vectors)], refuse_differing=False)[0]
            counts.added = outcome.added
            # A key another worker committed meanwhile: the same row sent twice, or another row with its id.
            counts.known += outcome.known
            numbers = {row.id: row.number for row in fresh}
            differing = [(numbers[i], i, "the id is known with another content") for i in outcome.differing]
            self._set_aside(reference.path, differing, counts)
        return counts

    def _is_another(self, seen: Known, payload: bytes) -> bool:
        """A known id with other content: looked for where asked, and always among the rows this job itself wrote."""
        return seen.payload != payload and (self._plan.check or seen.added > self._plan.start_version)

    def _usable(self, block: Block, ids: Sequence[Any], start: int) -> tuple[list[_Row], list[tuple[int, str | None, str]]]:
        plan, good, bad = self._plan, [], []
        for place, id_ in enumerate(ids):
            i = start + place
            number = block.first_row + i
            named = id_ if id_problem(id_) is None else None
            reason = block.unreadable.get(number) or id_problem(id_)
            row = _Row(number, named or "")
            if reason is None:
                row.text = block.columns[plan.text][i]
                reason = text_problem(row.text, self._encoder.max_chars)
            if reason is None:
                reason = self._read_columns(row, block, i)
            if reason is None:
                good.append(row)
            else:
                bad.append((number, named, reason))
        return good, bad

    def _read_columns(self, row: _Row, block: Block, i: int) -> str | None:
        for name in ("subject", "tenant"):
            column = getattr(self._plan, name)
            value = block.columns[column][i] if column else None
            setattr(row, name, None if value is None else str(value))
            if value is not None and not is_unicode(str(value)):
                return f"column '{column}' is not valid Unicode"
        try:
            row.time = as_time(block.columns[self._plan.time][i] or None) if self._plan.time else None
        except ValueError:
            return f"column '{self._plan.time}' is no ISO 8601 time"
        for column, kind in self._plan.kept_types.items():
            try:
                row.kept[column] = kept_value(parse_text(block.columns[column][i], kind), kind)
            except ValueError as error:
                return f"column '{column}' {error}"
        return None

    def _payloads(self, rows: Sequence[_Row]) -> list[bytes]:
        return payload_digests(
            self._key,
            [row.text.encode() for row in rows],
            [row.subject for row in rows],
            [row.tenant for row in rows],
            {name: [row.kept[name] for row in rows] for name in self._plan.kept_types},
        )

    def _encode(self, rows: Sequence[_Row]) -> tuple[Matrix, list[tuple[int, str | None, str]]]:
        """Vectors of the rows that encode, in order; the others are named. A failing batch is tried row by row."""
        if not rows:
            return np.empty((0, self._encoder.dim), np.float32), []
        try:
            vectors = as_unit_rows(self._encoder.encode([row.text for row in rows]), self._encoder.dim, "encode")
        except (ValueError, RuntimeError):  # InvalidVectors among them: some row came out without a direction
            return self._encode_singly(rows)
        for i, row in enumerate(rows):
            row.vector_row = i
        return vectors, []

    def _encode_singly(self, rows: Sequence[_Row]) -> tuple[Matrix, list[tuple[int, str | None, str]]]:
        good: list[Matrix] = []
        bad: list[tuple[int, str | None, str]] = []
        failures: dict[str, int] = {}
        for row in rows:
            try:
                vector = as_unit_rows(self._encoder.encode([row.text]), self._encoder.dim, "encode")
            except InvalidVectors as error:
                bad.append((row.number, row.id, f"its vector {error.problems[0][1]}"))
            except (ValueError, RuntimeError) as error:  # the encoder's own words may quote the text
                bad.append((row.number, row.id, f"the encoder failed on it ({type(error).__name__})"))
                failures[type(error).__name__] = failures.get(type(error).__name__, 0) + 1
            else:
                row.vector_row = len(good)
                good.append(vector)
        if len(rows) >= _BROKEN_FROM_ROWS and sum(failures.values()) == len(rows):
            raise JobFailed(
                job=f"embedding into '{self._plan.collection}'",
                reason=f"the encoder failed on each of {len(rows)} rows ({', '.join(failures)}), so it is not the rows",
                advice="None of them was set aside. Mend the encoder ('raystore encoder verify') and run the same call again.",
            )
        return (np.concatenate(good) if good else np.empty((0, self._encoder.dim), np.float32)), bad

    def _as_table(self, rows: Sequence[_Row], vectors: Matrix) -> pa.Table:
        return row_table(
            ids=[row.id for row in rows],
            payloads=[row.payload for row in rows],
            vectors=vectors,
            fingerprint=self._plan.fingerprint,
            subjects=[row.subject for row in rows],
            tenants=[row.tenant for row in rows],
            times=[row.time for row in rows],
            kept={name: [row.kept[name] for row in rows] for name in self._plan.kept_types},
            kept_types=self._plan.kept_types,
        )

    def _set_aside(self, source: str, bad: Sequence[tuple[int, str | None, str]], counts: EmbedCounts) -> None:
        if not bad:
            return
        counts.set_aside += len(bad)
        for _, _, reason in bad:
            counts.reasons[reason] = counts.reasons.get(reason, 0) + 1
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
        self._aside.commit([rows], refuse_differing=False)


@dataclass
class _Row:
    number: int
    id: str
    text: str = ""
    subject: str | None = None
    tenant: str | None = None
    time: datetime | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    vector_row: int | None = None


def _cut(block: Block, text: str) -> list[tuple[int, int]]:
    """The block in runs of at most BATCH_CHARS characters, so that a commit is never far away."""
    runs, start, chars = [], 0, 0
    for i, value in enumerate(block.columns[text]):
        chars += len(value) if isinstance(value, str) else 0
        if chars >= BATCH_CHARS:
            runs.append((start, i + 1))
            start, chars = i + 1, 0
    if start < block.n_rows:
        runs.append((start, block.n_rows))
    return runs
