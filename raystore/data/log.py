"""`log`: a few rows from a running service, durable when the call returns.

Rows are checked, embedded in this process with every encoder of the collection that takes them, and committed, or appended
to the collection's journal; callers of many threads share a write. The content is used and forgotten: neither the table nor any
error holds it, so an encoder that is left out here can never make up for it. A row sent again changes nothing and is not embedded
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.columns import TYPES, vector_array
from raystore.data.grouped import Grouped
from raystore.data.kept_source import open_source
from raystore.data.rows import Incoming, check_rows, payload_digests, row_table, unusable
from raystore.encoders.bridged import Bridge
from raystore.encoders.items import Item
from raystore.encoders.passport import Modality
from raystore.errors import DimensionMismatch, IdConflict, InvalidArguments, InvalidRows, InvalidVectors, ItemsUnusable
from raystore.layout import FP12
from raystore.markup import facts_html
from raystore.vectors import Matrix, Vectors, as_unit_rows, check_fingerprint


class Takes(Protocol):
    @property
    def modalities(self) -> Sequence[Modality]: ...


class RowEncoder(Protocol):
    """What logging needs of an encoder; `passport` says what it takes."""

    @property
    def passport(self) -> Takes: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_chars(self) -> int: ...
    def encode(self, items: Sequence[Item]) -> Vectors: ...


@dataclass(frozen=True)
class LogResult:
    """What a call wrote: the collection's version that holds it, rows added, rows known before (unchanged).

    `fingerprint` is that of the encoder the collection is asked by.
    """

    version: int
    added: int
    known: int
    fingerprint: str

    def _repr_html_(self) -> str:
        return facts_html(f"{self.added:,} rows added", asdict(self))


@dataclass(frozen=True)
class _Checked:
    """Rows as they were checked, and their payloads."""

    incoming: Incoming
    payloads: list[bytes]
    fingerprint: str | None
    encoded: Mapping[str, Mapping[str, Matrix]]


def _undeclared(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], columns: Mapping[str, str]
) -> list[tuple[int, str | None, str]]:
    """A problem for each column that is not there and was not asked for."""
    problems: list[tuple[int, str | None, str]] = []
    for name in names:  # the name is not said: over HTTP it is the sender's input, and may be anything
        number = next(i for i, row in enumerate(rows) if isinstance(row, Mapping) and name in row)
        known = ", ".join(columns) or "none"
        problems.append((number, None, f"a key is no kept column of the collection (it has: {known})"))
    return problems


class RowLog:
    """Writes rows into one collection with one or several of its encoders. Safe to share between threads.

    A row gets a vector of each encoder that takes its content; of the collection's other encoders it has none. The encoders are
    given alone, or several by fingerprint, the one that the collection is asked by first; one object under two fingerprints
    encodes an item once for both.
    """

    def __init__(self, table: CollectionTable, encoders: RowEncoder | Mapping[str, RowEncoder], store_key: bytes) -> None:
        self._encoders = dict(encoders) if isinstance(encoders, Mapping) else {encoders.fingerprint: encoders}
        if not self._encoders:
            problem = "it has no encoder, so nothing can be embedded into it"
            raise InvalidArguments(call=f"log into '{table.name}'", problems=[problem])
        for fingerprint in self._encoders:
            table.check_encoder(fingerprint)
        self._table = table
        self._first = next(iter(self._encoders))
        self._max_chars = min(encoder.max_chars for encoder in self._encoders.values())
        self._key = store_key
        self._source = open_source(table)
        self._commits = Grouped(partial(table.rows.commit, refuse_differing=True))
        self._appends = Grouped(table.rows.append)

    def log(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        fingerprint: str | None = None,
        add_columns: bool = False,
        encoded: Mapping[str, Mapping[str, Matrix]] | None = None,
    ) -> LogResult:
        """What was written; durable when this returns.

        Args:
            rows: mappings with `id` and one of `text`, `image` (a file's bytes) and `vector`, optionally `subject`,
                `tenant`, `time` (now, if absent), and any kept columns.
            fingerprint: the encoder of the vectors given; needed with `vector`, so that no stranger's gets in. Not a forward
                bridge's: its column says of each row whether its vector was mapped, and a given one says nothing of that.
            add_columns: add kept columns the collection does not have yet, nullable, typed by their values. Otherwise
                they are refused: a misspelt 'text' must not become a column that keeps the text.
            encoded: by fingerprint and id, vectors of contents that the caller has encoded already. Such a row is known again by its
                content: of one text, two batches make vectors that differ in the last bit.

        Raises:
            InvalidRows: some rows cannot be written; all of them are named, and nothing was written.
            PassportMismatch: the vectors are another encoder's.
            IdConflict: an id is known with another payload; nothing was written.
            DiskFull, WriterBlocked: nothing was written; repeat the call.
        """
        checked = self._checked(rows, fingerprint, encoded or {}, add_columns)
        if checked is None:
            return LogResult(self._table.version, 0, 0, self._first)
        fresh, known = self._fresh(checked)
        if fresh is None:
            return LogResult(self._table.version, 0, known, self._first)
        outcome = self._commits.submit(fresh)
        self._refuse(outcome.differing)  # another writer wrote one of the ids between the look-up and the commit
        return LogResult(outcome.version, outcome.added, known + outcome.known, self._first)

    def append(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        fingerprint: str | None = None,
        encoded: Mapping[str, Mapping[str, Matrix]] | None = None,
    ) -> int:
        """How many rows were added to the collection's journal: durable when this returns, and in the collection after the next
        `take_in` or commit of anybody.

        Arguments, and what is raised, as `log` has them. Cost: a sync, where `log` costs a commit.
        """
        checked = self._checked(rows, fingerprint, encoded or {}, add_columns=False)
        if checked is None:
            return 0
        fresh, _ = self._fresh(checked)
        if fresh is None:
            return 0
        outcome = self._appends.submit(fresh)
        self._refuse(outcome.differing)
        return outcome.added

    def _refuse(self, differing: Iterable[str]) -> None:
        ids = list(differing)
        if ids:
            raise IdConflict(collection=self._table.name, ids=ids)

    def _checked(
        self,
        rows: Sequence[Mapping[str, Any]],
        fingerprint: str | None,
        encoded: Mapping[str, Mapping[str, Matrix]],
        add_columns: bool,
    ) -> _Checked | None:
        """The rows, which can be written; None where there are none. Raises as `log` does."""
        rows = list(rows)
        while True:
            columns = self._table.columns
            incoming, problems = check_rows(rows, columns, self._max_chars)
            problems += self._check_items(incoming)
            if any(v is not None for v in incoming.vectors):
                problems += self._check_vectors(incoming, fingerprint)
            new_columns = [pa.field(n, TYPES[t]) for n, t in incoming.kept_types.items() if n not in columns]
            if new_columns and not add_columns:
                problems += _undeclared(rows, [field.name for field in new_columns], columns)
            if problems:
                found = sorted(problems, key=lambda p: p[0])
                raise InvalidRows(collection=self._table.name, n_rows=len(rows), problems=found)
            if not incoming.ids:
                return None
            if not new_columns:
                break
            # Another writer may be adding the same column with another type: the rows are checked again with what is there.
            self._table.rows.add_columns(new_columns)
        contents = [
            np.asarray(vector, np.float32).tobytes() if item is None else item.encode() if isinstance(item, str) else item
            for item, vector in zip(incoming.items, incoming.vectors, strict=True)
        ]
        payloads = payload_digests(self._key, contents, incoming.subjects, incoming.tenants, incoming.kept)
        return _Checked(incoming, payloads, fingerprint, encoded)

    def _check_items(self, incoming: Incoming) -> list[tuple[int, str | None, str]]:
        """A problem for each item that no encoder of the collection takes: its row would have no vector at all."""
        taken = {m for encoder in self._encoders.values() for m in encoder.passport.modalities}
        expected = " and ".join(f"{m}s" for m in sorted(taken))
        return [
            (number, incoming.ids[number] or None, f"its {modality_of(item)} is not what the collection embeds: {expected}")
            for number, item in enumerate(incoming.items)
            if isinstance(item, (str, bytes)) and modality_of(item) not in taken
        ]

    def _check_vectors(self, incoming: Incoming, fingerprint: str | None) -> list[tuple[int, str | None, str]]:
        if fingerprint is None:
            number = next(i for i, v in enumerate(incoming.vectors) if v is not None)
            return [(number, None, "vectors are given without fingerprint=, so nobody knows which encoder made them")]
        dim = self._table.dim(fingerprint)
        if (target := self._leads_to(fingerprint)) is not None:
            number = next(i for i, v in enumerate(incoming.vectors) if v is not None)
            problem = (
                f"fingerprint= is a bridge's, {fingerprint[:FP12]}, which says nothing of whether a vector is true or was mapped: "
                f"give the own vectors of the encoder that it leads to, with fingerprint='{target}', or the content"
            )
            return [(number, None, problem)]
        problems: list[tuple[int, str | None, str]] = []
        for number, vector in enumerate(incoming.vectors):
            if vector is None:
                continue
            check_fingerprint(
                vector, fingerprint, f"log into '{self._table.name}'", "Give fingerprint= of the encoder that made them."
            )
            try:
                unit = as_unit_rows(vector, dim, "log")
                incoming.vectors[number] = unit[0]
                reason = None if len(unit) == 1 else f"is a list of {len(unit)} vectors, expected one"
            except InvalidVectors as error:
                reason = error.problems[0][1]
            except DimensionMismatch as error:
                reason = f"has {error.found} numbers, expected {error.expected}"
            if reason:
                problems.append((number, incoming.ids[number] or None, f"the vector {reason}"))
        return problems

    def _leads_to(self, fingerprint: str) -> str | None:
        """Of a forward bridge the encoder in whose space its column lies; None of every other encoder."""
        encoder = self._encoders.get(fingerprint)
        bridge: Bridge | None = getattr(encoder, "bridge", None)
        if bridge is not None:
            return bridge.target if bridge.direction == "forward" else None
        return None if encoder is None or encoder.fingerprint == fingerprint else encoder.fingerprint

    def _fresh(self, checked: _Checked) -> tuple[pa.Table | None, int]:
        """The rows that are not known, embedded, as they are committed; and how many are known."""
        incoming, payloads = checked.incoming, checked.payloads
        # A known row is not encoded again. Where nothing is to be encoded, the commit alone looks, and saves its caller some 2 ms.
        known = self._table.rows.payloads(incoming.ids) if self._is_encoding(incoming, checked.encoded) else {}
        self._refuse(i for i, p in zip(incoming.ids, payloads, strict=True) if known.get(i, p) != p)
        new = [row for row, id_ in enumerate(incoming.ids) if id_ not in known]
        if not new:
            return None, len(known)
        now = datetime.now(UTC)
        fresh = row_table(
            ids=[incoming.ids[i] for i in new],
            payloads=[payloads[i] for i in new],
            vectors=self._vectors(incoming, new, checked.fingerprint, checked.encoded),
            subjects=[incoming.subjects[i] for i in new],
            tenants=[incoming.tenants[i] for i in new],
            times=[incoming.times[i] or now for i in new],
            kept={name: [values[i] for i in new] for name, values in incoming.kept.items()},
            kept_types=incoming.kept_types,
        )
        if self._source is not None:
            items = [incoming.items[i] for i in new]
            self._source.keep([incoming.ids[i] for i in new], [payloads[i] for i in new], items)
        return fresh, len(known)

    def _is_encoding(self, incoming: Incoming, ready: Mapping[str, Mapping[str, Matrix]]) -> bool:
        """Whether a row brings content that was not encoded yet by some encoder that takes it, or that is to be kept."""
        if self._source is not None:
            return True
        items = [(id_, item) for id_, item in zip(incoming.ids, incoming.items, strict=True) if item is not None]
        return any(
            id_ not in ready.get(encoder.fingerprint, {}) and modality_of(item) in encoder.passport.modalities
            for encoder in self._encoders.values()
            for id_, item in items
        )

    def _vectors(
        self,
        incoming: Incoming,
        rows: Sequence[int],
        fingerprint: str | None,
        ready: Mapping[str, Mapping[str, Matrix]],
    ) -> dict[str, pa.FixedSizeListArray]:
        """By fingerprint a vector of each of the rows, null where the encoder does not take the row's content.

        Raises:
            InvalidRows: an item that passed its checks and has no vector all the same.
        """
        found: dict[str, pa.FixedSizeListArray] = {}
        given = {place: i for place, i in enumerate(rows) if incoming.items[i] is None}
        encoded: dict[int, Vectors] = {}  # of the items, by the encoder as an object
        for name in dict.fromkeys([*self._encoders, *([fingerprint] if fingerprint and given else [])]):
            encoder = self._encoders.get(name)
            dim = encoder.dim if encoder else self._table.dim(name)
            vectors = np.zeros((len(rows), dim), dtype=np.float32)
            has = np.zeros(len(rows), dtype=np.bool_)
            # A vector is the encoder's whose it is, and of a bridge into its space: there it is what the bridge would encode.
            if fingerprint is not None and fingerprint in (name, encoder.fingerprint if encoder else None):
                for place, i in given.items():
                    vectors[place], has[place] = incoming.vectors[i], True
            if encoder is not None:
                taken = encoder.passport.modalities
                items = {p: item for p, i in enumerate(rows) if (item := incoming.items[i]) and modality_of(item) in taken}
                done = ready.get(encoder.fingerprint, {})
                for place in [place for place in items if incoming.ids[rows[place]] in done]:
                    vectors[place], has[place] = done[incoming.ids[rows[place]]], True
                    del items[place]
                if items:
                    if id(encoder) not in encoded:
                        numbers = [rows[p] for p in items]
                        encoded[id(encoder)] = self._encode(encoder, list(items.values()), numbers, incoming)
                    vectors[list(items)], has[list(items)] = encoded[id(encoder)], True
            found[name] = vector_array(vectors, has)
        return found

    def _encode(self, encoder: RowEncoder, items: Sequence[Item], numbers: Sequence[int], incoming: Incoming) -> Vectors:
        try:
            return encoder.encode(items)
        except ItemsUnusable as error:
            problems = [
                (numbers[place], incoming.ids[numbers[place]], unusable(modality_of(items[place]), reason))
                for place, reason in error.problems
            ]
        raise InvalidRows(collection=self._table.name, n_rows=len(incoming.ids), problems=problems)


def modality_of(item: Item) -> Modality:
    return "text" if isinstance(item, str) else "image"
