"""Embed one reference: read a slice, skip what is known, encode the rest, commit, set the bad rows aside.

The pure part of an embedding job; `ingest.py` runs it inline or on Ray. Content lives in this process, from the read to
the encode, and nowhere else: what goes out are vectors, kept columns, counts, and reasons that quote nothing.
A batch is committed before the next is read, so a worker killed anywhere does at most one batch again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.columns import fingerprints_of, vector_array
from raystore.data.job import EmbedCounts, EmbedPlan, JobEncoder, batch_rows, batches_of
from raystore.data.job_rows import JobRow, payloads_of, row_ids_of, usable_rows
from raystore.data.kept_rows import KEPT, read_kept
from raystore.data.kept_source import open_source
from raystore.data.keyed import PAYLOAD, Filled, KeyedTable, Known
from raystore.data.readers import Block, Reference, read
from raystore.data.rows import id_problem, row_table, unusable
from raystore.data.set_aside import BadRow, set_aside_table, set_rows_aside
from raystore.encoders.ahead import ahead
from raystore.errors import JobFailed, RaystoreError
from raystore.layout import Layout, vector_column
from raystore.vectors import Matrix, as_unit_rows

_BROKEN_FROM_ROWS = 8  # an encoder that fails on as many rows, and on no other, is broken itself
_OTHER_CONTENT = "the id is known with another content"
_NOT_AS_BEFORE = "the content is not what was embedded before"


def is_done(reference: Reference, plan: EmbedPlan, table: KeyedTable) -> bool:
    """True when nothing is left to do in the slice. Reads the id column only.

    That is: every id was in the table before the job began, with a vector of this encoder. An id that this job itself
    wrote may be another row's: then the contents have to be compared.
    """
    if plan.check or reference.kind == KEPT:  # a slice of kept rows is read from those that are left
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
        blocks = self._blocks(reference)
        # The next block is read and parsed while this one is encoded; a kept one is read for what is left by then.
        for block in blocks if self._plan.from_kept else ahead(blocks):
            total.add(self._embed_block(reference.path, block, progress))
        if self._plan.from_kept and total.read < reference.n_rows:
            without = reference.n_rows - total.read
            rest = EmbedCounts(read=without, absent=without)
            total.add(rest)
            if progress:
                progress(rest)
        return total

    def _blocks(self, reference: Reference) -> Iterator[Block]:
        if reference.kind == KEPT and self._source is not None:
            return read_kept(self._table, self._source, reference, self._plan)
        return read(reference, self._plan.columns, batch_rows(self._plan))

    def _embed_block(self, source: str, block: Block, progress: Callable[[EmbedCounts], None] | None) -> EmbedCounts:
        total = EmbedCounts()
        for start, stop in batches_of(block, self._plan.content):
            counts = self._embed_rows(source, block, start, stop)
            total.add(counts)
            if progress:
                progress(counts)
        return total

    def _embed_rows(self, source: str, block: Block, start: int, stop: int) -> EmbedCounts:
        ids = row_ids_of(block, source, self._plan.id, self._plan.id_prefix)[start:stop]
        rows, bad = usable_rows(self._plan, block, ids, start, self._encoder.max_chars)
        counts = EmbedCounts(read=stop - start)
        known = self._table.rows.known([r.id for r in rows])
        lacking = self._table.rows.null_in(self._column, list(known)) if self._may_lack else set()
        if self._plan.fill_only:
            bad = self._wanting(bad, counts)
        fresh: list[JobRow] = []
        late: list[JobRow] = []
        for row, payload in zip(rows, payloads_of(self._plan, self._key, rows), strict=True):
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

    def _wanting(self, bad: Sequence[BadRow], counts: EmbedCounts) -> list[BadRow]:
        """Those bad rows that a job which only fills was to fill; the others were never in the collection."""
        lacking = self._table.rows.null_in(self._column, [id_ for _, id_, _ in bad if id_ is not None])
        found = [entry for entry in bad if entry[1] in lacking]
        counts.absent += len(bad) - len(found)
        return found

    def _commit(self, source: str, rows: Sequence[JobRow], vectors: Matrix, counts: EmbedCounts) -> None:
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

    def _fill(self, source: str, rows: Sequence[JobRow], vectors: Matrix, counts: EmbedCounts) -> None:
        if not rows:
            return
        outcome = self._write_late(rows, vectors)
        counts.filled += outcome.filled
        counts.known += outcome.known
        counts.absent += len(outcome.absent)  # erased meanwhile
        self._encoded(outcome.filled, counts)
        self._set_aside(source, _of_ids(rows, outcome.differing, _NOT_AS_BEFORE), counts)

    def _write_late(self, rows: Sequence[JobRow], vectors: Matrix) -> Filled:
        values = pa.table(
            {
                "id": [row.id for row in rows],
                PAYLOAD: pa.array([row.payload for row in rows], pa.binary(32)),
                self._column: vector_array(_of_rows(rows, vectors)),
            }
        )
        return self._table.fill(values, self._plan.fingerprint)

    def _encoded(self, rows: int, counts: EmbedCounts) -> None:
        by = f"{self._encoder.backend} on {self._encoder.device}"
        counts.add(EmbedCounts(encoded_by={by: rows} if rows else {}))

    def _is_another(self, seen: Known, payload: bytes) -> bool:
        """A known id with other content: looked for where asked, and always among the rows this job itself wrote."""
        return seen.payload != payload and (self._plan.check or seen.added > self._plan.start_version)

    def _encode(self, rows: Sequence[JobRow]) -> tuple[Matrix, list[BadRow]]:
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
        bad: list[BadRow] = []
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

    def _encode_batch(self, rows: Sequence[JobRow], first: int = 0) -> tuple[Matrix, list[BadRow]]:
        encoded = self._encoder.encode_each([row.content for row in rows])
        vectors = as_unit_rows(encoded.vectors, self._encoder.dim, "encode")
        for vector_row, place in enumerate(encoded.places.tolist()):
            rows[place].vector_row = first + vector_row
        modality = self._plan.modality
        return vectors, [(rows[i].number, rows[i].id, unusable(modality, said)) for i, said in encoded.problems.items()]

    def _as_table(self, rows: Sequence[JobRow], vectors: Matrix) -> pa.Table:
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

    def _set_aside(self, source: str, bad: Sequence[BadRow], counts: EmbedCounts) -> None:
        if not bad:
            return
        counts.set_aside += len(bad)
        for _, _, reason in bad:
            counts.reasons[reason] = counts.reasons.get(reason, 0) + 1
        # Rows of the kept source have no number that stays the same until they fail again.
        numbered = bad if not self._plan.from_kept else [(None, id_, reason) for _, id_, reason in bad]
        set_rows_aside(self._aside, source, numbered)


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


def _of_rows(rows: Sequence[JobRow], vectors: Matrix) -> Matrix:
    return vectors[np.array([row.vector_row for row in rows], np.int64)]


def _of_ids(rows: Sequence[JobRow], ids: Iterable[str], reason: str) -> list[BadRow]:
    numbers = {row.id: row.number for row in rows}
    return [(numbers[id_], id_, reason) for id_ in ids]
