"""Embed one reference: read a slice, skip what is known, encode the rest, commit, set the bad rows aside.

The pure part of an embedding job; `ingest.py` runs it inline or on Ray. Content lives in this process, from the read to
the encode, and nowhere else: what goes out are vectors, kept columns, counts, and reasons that quote nothing. Where a row
gets vectors of several encoders, its content is read once, and all of them stand in one commit.
A batch is committed before the next is read, so a worker killed anywhere does at most one batch again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.columns import fingerprints_of, vector_array
from raystore.data.encoding import JobEncoders
from raystore.data.job import EmbedCounts, EmbedPlan, JobEncoder, batch_rows, batches_of
from raystore.data.job_rows import JobRow, payloads_of, row_ids_of, usable_rows
from raystore.data.kept_rows import KEPT, read_kept
from raystore.data.kept_source import open_source
from raystore.data.keyed import PAYLOAD, Filled, KeyedTable, Known
from raystore.data.readers import Block, Reference, read
from raystore.data.rows import id_problem, row_table
from raystore.data.set_aside import BadRow, set_aside_table, set_rows_aside
from raystore.encoders.ahead import ahead
from raystore.errors import JobFailed, RaystoreError
from raystore.layout import Layout, vector_column

_OTHER_CONTENT = "the id is known with another content"
_NOT_AS_BEFORE = "the content is not what was embedded before"


def is_done(reference: Reference, plan: EmbedPlan, table: KeyedTable) -> bool:
    """True when nothing is left to do in the slice. Reads the id column only.

    That is: every id was in the table before the job began, with a vector of each of its encoders. An id that this job itself
    wrote may be another row's: then the contents have to be compared.
    """
    if plan.check or reference.kind == KEPT:  # a slice of kept rows is read from those that are left
        return False
    dataset = table.dataset()
    several = len(fingerprints_of(dataset.schema)) > 1
    # Ids made of row numbers need no reading.
    whole = [Block(reference.first_row, {}, reference.n_rows)]
    for block in whole if plan.id is None else read(reference, plan.id_columns, 16_384):
        ids = row_ids_of(block, reference.path, plan.id, plan.id_prefix)
        usable = [i for i in ids if id_problem(i) is None]
        if several and any(table.null_in(vector_column(each), usable) for each in plan.fingerprints):
            return False
        if plan.fill_only:
            continue
        known = {key for key, row in table.known(usable, dataset).items() if row.added <= plan.start_version}
        if len(usable) < len(ids) or len(known) < len(set(usable)):
            return False
    return True


class Embedder:
    """Embeds references into one collection. One per process; made where the work is done, never sent.

    `encoders` are the plan's, by fingerprint; one object under two fingerprints encodes a row once for both.
    """

    def __init__(self, layout: Layout, plan: EmbedPlan, encoders: Mapping[str, JobEncoder], store_key: bytes) -> None:
        self._table = CollectionTable.open(layout, plan.collection)
        # With one encoder every row has its vector, and nobody needs to look.
        self._may_lack = len(self._table.fingerprints) > 1
        self._aside = set_aside_table(layout, plan.collection)
        self._source = open_source(self._table)
        self._plan = plan
        self._dims = {each: self._table.dim(each) for each in plan.fingerprints}
        self._encoders = JobEncoders(encoders, plan)
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
        rows, bad = usable_rows(self._plan, block, ids, start, self._encoders.max_chars)
        counts = EmbedCounts(read=stop - start)
        known = self._table.rows.known([r.id for r in rows])
        lacking = self._lacking(known) if self._may_lack else {}
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
                row.lacks = self._plan.fingerprints
                fresh.append(row)
                known[row.id] = Known(payload, self._plan.start_version + 1)
            elif row.id in lacking and seen.payload != payload:
                bad.append((row.number, row.id, _NOT_AS_BEFORE))
            elif row.id in lacking:
                row.lacks = lacking.pop(row.id)
                late.append(row)
            elif self._is_another(seen, payload):
                bad.append((row.number, row.id, _OTHER_CONTENT))
            else:
                counts.known += 1
        failed = self._encoders.encode([*fresh, *late])
        # First the bad rows: once the good ones are in, a slice may be done, and nobody reads it again after a kill.
        self._set_aside(source, bad + failed, counts)
        numbers = {number for number, _, _ in failed}
        self._commit(source, [row for row in fresh if row.number not in numbers], counts)
        self._fill(source, [row for row in late if row.number not in numbers], counts)
        return counts

    def _lacking(self, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Of those ids whose row lacks a vector of the plan's encoders, which encoders' it lacks."""
        asked = list(ids)
        found: dict[str, tuple[str, ...]] = {}
        for fingerprint in self._plan.fingerprints:
            for id_ in self._table.rows.null_in(vector_column(fingerprint), asked):
                found[id_] = (*found.get(id_, ()), fingerprint)
        return found

    def _wanting(self, bad: Sequence[BadRow], counts: EmbedCounts) -> list[BadRow]:
        """Those bad rows that a job which only fills was to fill; the others were never in the collection."""
        lacking = self._lacking(id_ for _, id_, _ in bad if id_ is not None)
        found = [entry for entry in bad if entry[1] in lacking]
        counts.absent += len(bad) - len(found)
        return found

    def _commit(self, source: str, rows: Sequence[JobRow], counts: EmbedCounts) -> None:
        if not rows:
            return
        if self._source is not None:
            self._source.keep([row.id for row in rows], [row.payload for row in rows], [row.content for row in rows])
        outcome = self._table.rows.commit([self._as_table(rows)], refuse_differing=False)[0]
        counts.added += outcome.added
        # A key another worker committed meanwhile: the same row sent twice, or another row with its id.
        counts.known += outcome.known
        self._encoded(rows, outcome.added, counts)
        self._set_aside(source, _of_ids(rows, outcome.differing, _OTHER_CONTENT), counts)
        if self._may_lack and outcome.known:  # by a job with another encoder, perhaps
            filled = self._write_late(rows).filled
            counts.known -= filled
            counts.filled += filled
            self._encoded(rows, filled, counts)

    def _fill(self, source: str, rows: Sequence[JobRow], counts: EmbedCounts) -> None:
        if not rows:
            return
        outcome = self._write_late(rows)
        counts.filled += outcome.filled
        counts.known += outcome.known
        counts.absent += len(outcome.absent)  # erased meanwhile
        self._encoded(rows, outcome.filled, counts)
        self._set_aside(source, _of_ids(rows, outcome.differing, _NOT_AS_BEFORE), counts)

    def _write_late(self, rows: Sequence[JobRow]) -> Filled:
        """The vectors that the rows lack, each written where there is still none."""
        lacked = [each for each in self._plan.fingerprints if any(each in row.vectors for row in rows)]
        columns = {vector_column(each): self._vectors(rows, each) for each in lacked}
        payloads = pa.array([row.payload for row in rows], pa.binary(32))
        values = pa.table({"id": [row.id for row in rows], PAYLOAD: payloads, **columns})
        return self._table.fill(values, lacked)

    def _vectors(self, rows: Sequence[JobRow], fingerprint: str) -> pa.FixedSizeListArray:
        """One vector a row, null where the row was not to get one of this encoder."""
        vectors = np.zeros((len(rows), self._dims[fingerprint]), np.float32)
        has = np.zeros(len(rows), np.bool_)
        for place, row in enumerate(rows):
            if fingerprint in row.vectors:
                vectors[place], has[place] = row.vectors[fingerprint], True
        return vector_array(vectors, has)

    def _encoded(self, rows: Sequence[JobRow], written: int, counts: EmbedCounts) -> None:
        counts.add(EmbedCounts(encoded_by=self._encoders.ran_on(rows, written)))

    def _is_another(self, seen: Known, payload: bytes) -> bool:
        """A known id with other content: looked for where asked, and always among the rows this job itself wrote."""
        return seen.payload != payload and (self._plan.check or seen.added > self._plan.start_version)

    def _as_table(self, rows: Sequence[JobRow]) -> pa.Table:
        return row_table(
            ids=[row.id for row in rows],
            payloads=[row.payload for row in rows],
            vectors={each: self._vectors(rows, each) for each in self._plan.fingerprints},
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


def _of_ids(rows: Sequence[JobRow], ids: Iterable[str], reason: str) -> list[BadRow]:
    numbers = {row.id: row.number for row in rows}
    return [(numbers[id_], id_, reason) for id_ in ids]
