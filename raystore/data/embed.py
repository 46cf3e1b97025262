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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable, fingerprints_of, vector_array
from raystore.data.kept_source import open_source
from raystore.data.keyed import PAYLOAD, PRIMARY_KEY, Filled, KeyedTable, Known
from raystore.data.readers import Block, Reference, parse_text, read
from raystore.data.rows import (
    as_time,
    content_problem,
    id_problem,
    is_unicode,
    kept_value,
    payload_digests,
    row_table,
    unusable,
)
from raystore.encoders.items import Encoded, Item
from raystore.encoders.passport import Modality
from raystore.errors import JobFailed, RaystoreError
from raystore.layout import Layout, vector_column
from raystore.vectors import Matrix, as_unit_rows

# A commit takes 6 ms, so it may come often: at most this much work is done again after a kill.
BATCH_ROWS = 1_024
BATCH_CHARS = 262_144
BATCH_BYTES = 64 * 2**20  # of images in memory at once
_IMAGE_ROWS = 256  # some seconds of work, where a text takes a few milliseconds
_BROKEN_FROM_ROWS = 8  # an encoder that fails on as many rows, and on no other, is broken itself
_OTHER_CONTENT = "the id is known with another content"
_NOT_AS_BEFORE = "the content is not what was embedded before"

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


class JobEncoder(Protocol):
    """What a job needs of an encoder."""

    @property
    def dim(self) -> int: ...
    @property
    def max_chars(self) -> int: ...
    @property
    def backend(self) -> str: ...
    @property
    def device(self) -> str: ...
    def encode_each(self, items: Sequence[Item]) -> Encoded: ...


@dataclass(frozen=True)
class EmbedPlan:
    """What a job does with each row. Columns are names in the source files; `content` is the one to embed.

    `fill_only`: rows that the collection holds without a vector of this encoder get one, and no row is added.
    """

    collection: str
    fingerprint: str
    content: str
    modality: Modality
    id: str | None
    subject: str | None
    tenant: str | None
    time: str | None
    kept_types: dict[str, str]
    id_prefix: str
    check: bool
    start_version: int
    fill_only: bool = False

    @property
    def id_columns(self) -> list[str]:
        return [self.id] if self.id else []

    @property
    def columns(self) -> list[str]:
        named = [self.id, self.content, self.subject, self.tenant, self.time, *self.kept_types]
        return list(dict.fromkeys(c for c in named if c is not None))


@dataclass
class EmbedCounts:
    """What became of the rows read: added + filled + known + absent + set_aside = read.

    `filled` rows were there and got their vector of this encoder; `absent` ones are not in the collection, where a job
    only fills. `encoded_by` counts rows by backend and device, as "openvino on cpu".
    """

    OUTCOMES: ClassVar = ("added", "filled", "known", "absent", "set_aside")

    read: int = 0
    added: int = 0
    filled: int = 0
    known: int = 0
    absent: int = 0
    set_aside: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    encoded_by: dict[str, int] = field(default_factory=dict, compare=False)

    def add(self, other: EmbedCounts) -> None:
        for name in ("read", *self.OUTCOMES):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.reasons, other.reasons), (self.encoded_by, other.encoded_by)):
            for name, n in theirs.items():
                mine[name] = mine.get(name, 0) + n


def batch_rows(plan: EmbedPlan) -> int:
    """How many rows are read at a time."""
    return _IMAGE_ROWS if plan.modality == "image" else BATCH_ROWS


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
    """True when nothing is left to do in the slice. Reads the id column only.

    That is: every id was in the table before the job began, with a vector of this encoder. An id that this job itself
    wrote may be another row's: then the contents have to be compared.
    """
    if plan.check:
        return False
    dataset = table.dataset()
    column, several = vector_column(plan.fingerprint), len(fingerprints_of(dataset.schema)) > 1
    # Ids made of row numbers need no reading.
    whole = [Block(reference.first_row, {}, reference.n_rows)]
    for block in whole if plan.id is None else read(reference, plan.id_columns, 16_384):
        ids = row_ids_of(block, reference.path, plan.id, plan.id_prefix)
        usable = [i for i in ids if id_problem(i) is None]
        if several and table.null_in(column, usable):
            return False
        if plan.fill_only:
            continue
        known = {key for key, row in table.known(usable, dataset).items() if row.added <= plan.start_version}
        if len(usable) < len(ids) or len(known) < len(set(usable)):
            return False
    return True


class Embedder:
    """Embeds references into one collection. One per process; made where the work is done, never sent."""

    def __init__(self, layout: Layout, plan: EmbedPlan, encoder: JobEncoder, store_key: bytes) -> None:
        self._table = CollectionTable.open(layout, plan.collection)
        self._column = vector_column(plan.fingerprint)
        # With one encoder every row has its vector, and nobody needs to look.
        self._may_lack = len(self._table.fingerprints) > 1
        self._aside = set_aside_table(layout, plan.collection)
        self._source = open_source(self._table)
        self._plan = plan
        self._encoder = encoder
        self._key = store_key

    def embed(self, reference: Reference, progress: Callable[[EmbedCounts], None] | None = None) -> EmbedCounts:
        """What became of the slice's rows; all of it is committed when this returns.

        Raises:
            JobFailed: something nobody foresaw. Its own words may quote a row, so its kind and place are said instead.
        """
        rows = f"rows {reference.first_row} to {reference.first_row + reference.n_rows - 1} of '{reference.path}'"
        return _without_words(f"embedding {rows}", lambda: self._embed(reference, progress))

    def embed_block(self, source: str, block: Block, progress: Callable[[EmbedCounts], None] | None = None) -> EmbedCounts:
        """What became of the rows of a block that came from `source`; all of it is committed when this returns.

        Raises:
            JobFailed: as `embed`.
        """
        return _without_words(f"embedding rows of '{source}'", lambda: self._embed_block(source, block, progress))

    def _embed(self, reference: Reference, progress: Callable[[EmbedCounts], None] | None) -> EmbedCounts:
        total = EmbedCounts()
        if is_done(reference, self._plan, self._table.rows):
            total.read = total.known = reference.n_rows
            if progress:
                progress(total)
            return total
        for block in read(reference, self._plan.columns, batch_rows(self._plan)):
            total.add(self._embed_block(reference.path, block, progress))
        return total

    def _embed_block(self, source: str, block: Block, progress: Callable[[EmbedCounts], None] | None) -> EmbedCounts:
        total = EmbedCounts()
        for start, stop in _cut(block, self._plan.content):
            counts = self._embed_rows(source, block, start, stop)
            total.add(counts)
            if progress:
                progress(counts)
        return total

    def _embed_rows(self, source: str, block: Block, start: int, stop: int) -> EmbedCounts:
        ids = row_ids_of(block, source, self._plan.id, self._plan.id_prefix)[start:stop]
        rows, bad = self._usable(block, ids, start)
        counts = EmbedCounts(read=stop - start)
        known = self._table.rows.known([r.id for r in rows])
        lacking = self._table.rows.null_in(self._column, list(known)) if self._may_lack else set()
        if self._plan.fill_only:
            bad = self._wanting(bad, counts)
        fresh: list[_Row] = []
        late: list[_Row] = []
        for row, payload in zip(rows, self._payloads(rows), strict=True):
            row.payload = payload
            seen = known.get(row.id)
            if seen is None and self._plan.fill_only:
                counts.absent += 1
            elif seen is None:
                fresh.append(row)
                known[row.id] = Known(payload, self._plan.start_version + 1)
            elif row.id in lacking and seen.payload != payload:
                bad.append((row.number, row.id, _NOT_AS_BEFORE))
            elif row.id in lacking:
                late.append(row)
                lacking.discard(row.id)
            elif self._is_another(seen, payload):
                bad.append((row.number, row.id, _OTHER_CONTENT))
            else:
                counts.known += 1
        vectors, failed = self._encode([*fresh, *late])
        # First the bad rows: once the good ones are in, a slice may be done, and nobody reads it again after a kill.
        self._set_aside(source, bad + failed, counts)
        self._commit(source, [row for row in fresh if row.vector_row is not None], vectors, counts)
        self._fill(source, [row for row in late if row.vector_row is not None], vectors, counts)
        return counts

    def _wanting(self, bad: Sequence[_Bad], counts: EmbedCounts) -> list[_Bad]:
        """Those bad rows that a job which only fills was to fill; the others were never in the collection."""
        lacking = self._table.rows.null_in(self._column, [id_ for _, id_, _ in bad if id_ is not None])
        found = [entry for entry in bad if entry[1] in lacking]
        counts.absent += len(bad) - len(found)
        return found

    def _commit(self, source: str, rows: Sequence[_Row], vectors: Matrix, counts: EmbedCounts) -> None:
        if not rows:
            return
        if self._source is not None:
            self._source.keep([row.id for row in rows], [row.payload for row in rows], [row.content for row in rows])
        outcome = self._table.rows.commit([self._as_table(rows, vectors)], refuse_differing=False)[0]
        counts.added += outcome.added
        # A key another worker committed meanwhile: the same row sent twice, or another row with its id.
        counts.known += outcome.known
        self._encoded(outcome.added, counts)
        self._set_aside(source, _of_ids(rows, outcome.differing, _OTHER_CONTENT), counts)
        if self._may_lack and outcome.known:  # by a job with another encoder, perhaps
            filled = self._write_late(rows, vectors).filled
            counts.known -= filled
            counts.filled += filled
            self._encoded(filled, counts)

    def _fill(self, source: str, rows: Sequence[_Row], vectors: Matrix, counts: EmbedCounts) -> None:
        if not rows:
            return
        outcome = self._write_late(rows, vectors)
        counts.filled += outcome.filled
        counts.known += outcome.known
        counts.absent += len(outcome.absent)  # erased meanwhile
        self._encoded(outcome.filled, counts)
        self._set_aside(source, _of_ids(rows, outcome.differing, _NOT_AS_BEFORE), counts)

    def _write_late(self, rows: Sequence[_Row], vectors: Matrix) -> Filled:
        values = pa.table(
            {
                "id": [row.id for row in rows],
                PAYLOAD: pa.array([row.payload for row in rows], pa.binary(32)),
                self._column: vector_array(_of_rows(rows, vectors)),
            }
        )
        return self._table.rows.fill(values, self._column)

    def _encoded(self, rows: int, counts: EmbedCounts) -> None:
        by = f"{self._encoder.backend} on {self._encoder.device}"
        counts.add(EmbedCounts(encoded_by={by: rows} if rows else {}))

    def _is_another(self, seen: Known, payload: bytes) -> bool:
        """A known id with other content: looked for where asked, and always among the rows this job itself wrote."""
        return seen.payload != payload and (self._plan.check or seen.added > self._plan.start_version)

    def _usable(self, block: Block, ids: Sequence[Any], start: int) -> tuple[list[_Row], list[_Bad]]:
        plan, good, bad = self._plan, [], []
        for place, id_ in enumerate(ids):
            i = start + place
            number = block.first_row + i
            named = id_ if id_problem(id_) is None else None
            reason = block.unreadable.get(number) or id_problem(id_)
            row = _Row(number, named or "")
            if reason is None:
                row.content = block.columns[plan.content][i]
                reason = content_problem(row.content, plan.modality, self._encoder.max_chars)
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
            [row.content.encode() if isinstance(row.content, str) else row.content for row in rows],
            [row.subject for row in rows],
            [row.tenant for row in rows],
            {name: [row.kept[name] for row in rows] for name in self._plan.kept_types},
        )

    def _encode(self, rows: Sequence[_Row]) -> tuple[Matrix, list[_Bad]]:
        """Vectors of the rows that encode, each row told its place, and the others named.

        An encoder says itself which items it cannot encode. Where it fails on a batch, each row is tried alone.
        """
        if not rows:
            return np.empty((0, self._encoder.dim), np.float32), []
        try:
            return self._encode_batch(rows)
        except (ValueError, RuntimeError):
            pass
        parts: list[Matrix] = []
        bad: list[_Bad] = []
        failures: dict[str, int] = {}
        for row in rows:
            try:
                vectors, problems = self._encode_batch([row], sum(map(len, parts)))
            except (ValueError, RuntimeError) as error:  # the encoder's own words may quote the content
                name = type(error).__name__
                bad.append((row.number, row.id, f"the encoder failed on it ({name})"))
                failures[name] = failures.get(name, 0) + 1
            else:
                parts.append(vectors)
                bad += problems
        if len(rows) >= _BROKEN_FROM_ROWS and sum(failures.values()) == len(rows):
            raise JobFailed(
                job=f"embedding into '{self._plan.collection}'",
                reason=f"the encoder failed on each of {len(rows)} rows ({', '.join(failures)}), so it is not the rows",
                advice="None of them was set aside. Mend the encoder ('raystore encoder verify') and run the same call again.",
            )
        return np.concatenate([np.empty((0, self._encoder.dim), np.float32), *parts]), bad

    def _encode_batch(self, rows: Sequence[_Row], first: int = 0) -> tuple[Matrix, list[_Bad]]:
        encoded = self._encoder.encode_each([row.content for row in rows])
        vectors = as_unit_rows(encoded.vectors, self._encoder.dim, "encode")
        for vector_row, place in enumerate(encoded.places.tolist()):
            rows[place].vector_row = first + vector_row
        modality = self._plan.modality
        return vectors, [(rows[i].number, rows[i].id, unusable(modality, said)) for i, said in encoded.problems.items()]

    def _as_table(self, rows: Sequence[_Row], vectors: Matrix) -> pa.Table:
        return row_table(
            ids=[row.id for row in rows],
            payloads=[row.payload for row in rows],
            vectors={self._plan.fingerprint: vector_array(_of_rows(rows, vectors))},
            subjects=[row.subject for row in rows],
            tenants=[row.tenant for row in rows],
            times=[row.time for row in rows],
            kept={name: [row.kept[name] for row in rows] for name in self._plan.kept_types},
            kept_types=self._plan.kept_types,
        )

    def _set_aside(self, source: str, bad: Sequence[_Bad], counts: EmbedCounts) -> None:
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


def _without_words(job: str, work: Callable[[], EmbedCounts]) -> EmbedCounts:
    """What `work` returns. Of an error nobody foresaw its kind and place are said: its own words may quote a row."""
    try:
        return work()
    except (RaystoreError, OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  Ray writes what leaves a worker into its log files
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
    # Raised outside the handler: chained, the other error would travel with this one.
    advice = "What is committed is safe: run the same call again, it goes on where it stopped."
    raise JobFailed(job=job, reason=reason, advice=advice)


@dataclass
class _Row:
    number: int
    id: str
    content: Item = ""
    subject: str | None = None
    tenant: str | None = None
    time: datetime | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    vector_row: int | None = None


_Bad = tuple[int, str | None, str]  # row number, its id where it has one, reason


def _of_rows(rows: Sequence[_Row], vectors: Matrix) -> Matrix:
    return vectors[np.array([row.vector_row for row in rows], np.int64)]


def _of_ids(rows: Sequence[_Row], ids: Iterable[str], reason: str) -> list[_Bad]:
    numbers = {row.id: row.number for row in rows}
    return [(numbers[id_], id_, reason) for id_ in ids]


def _cut(block: Block, content: str) -> list[tuple[int, int]]:
    """The block in runs of at most BATCH_CHARS characters or BATCH_BYTES bytes, so that a commit is never far away."""
    runs, start, share = [], 0, 0.0
    for i, value in enumerate(block.columns[content]):
        share += len(value) / BATCH_CHARS if isinstance(value, str) else 0
        share += len(value) / BATCH_BYTES if isinstance(value, bytes) else 0
        if share >= 1:
            runs.append((start, i + 1))
            start, share = i + 1, 0.0
    if start < block.n_rows:
        runs.append((start, block.n_rows))
    return runs
