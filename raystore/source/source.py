"""Embedding inside the product's own process. What leaves it is a vector, its fingerprint, and the columns that were declared.

    with Source("http://127.0.0.1:8000", "minilm.pack", columns=["product"], spool="spool") as source:
        source.log("tickets", [{"text": text, "subject": "c-9", "product": "card"}])
        source.predict("triage", text).predictions[0].label

Costs the encoder's memory in this process (290 MB in all for all-MiniLM-L6-v2 on OpenVINO) and its time for each item. Knows no
store and no Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from raystore.client import Client
from raystore.encoders.items import Item
from raystore.errors import InvalidArguments, InvalidRows, ItemsUnusable, ServiceError, ServiceUnreachable, SpoolFull
from raystore.serve.wire.predict import PredictAnswer
from raystore.source.packed import open_packed
from raystore.source.record import Record
from raystore.source.rows import CONTENTS, KNOWN, check
from raystore.source.sender import Sender, may_pass
from raystore.source.spool import Spool
from raystore.vectors import Matrix, Vectors, as_unit_rows, check_fingerprint

MAX_SPOOL_BYTES = 256 * 2**20
_ROWS_AT_ONCE = 256  # what a service takes by default
_BYTES_AT_ONCE = 4 * 2**20  # of its 16 MiB, and a number of a vector is some 22 bytes of JSON
_CLOSE_S = 5.0
_DIRECT_S = 5.0  # where there is a spool, a caller waits no longer for the service


@dataclass(frozen=True)
class Logged:
    """What became of a call's rows, by id in the order given: `sent` are durable in the collection, `spooled` on this disk."""

    ids: list[str]
    sent: int
    spooled: int


@dataclass(frozen=True)
class SourceState:
    """What the spool holds and how sending goes, since the source was opened."""

    pending_rows: int = 0
    refused_rows: int = 0
    spool_bytes: int = 0
    sent_rows: int = 0  # from the spool
    full_rows: int = 0  # not kept, for the spool was full
    damaged_rows: int = 0
    last_error: str | None = None


class Source:
    """An encoder in this process and the service its vectors go to. Safe to share between threads; not over a fork.

    Args:
        service: its address, or a `Client`, which stays the caller's to close.
        encoder: a folder that `raystore encoder pack` wrote; opened, verified and golden-checked here.
        key: of the service.
        columns: the kept columns that may leave this process. Any other key of a row is refused.
        spool: a folder where logged rows wait while the service cannot be reached; without one such a call raises.
        max_spool_bytes: of the spool; beyond it rows are refused (SpoolFull), and none is dropped.
        backend, threads: of the encoder; see `open_packed`.
        timeout_s: of a call to the service.

    Raises:
        ModelUnusable, GoldenMoved, ExtraNotInstalled, InvalidArguments, SpoolUnusable.
    """

    def __init__(
        self,
        service: str | Client,
        encoder: str | Path,
        *,
        key: str | None = None,
        columns: Sequence[str] = (),
        spool: str | Path | None = None,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
        backend: str | None = None,
        threads: int | None = None,
        timeout_s: float = 30,
    ) -> None:
        if (
            isinstance(columns, str)
            or not all(isinstance(c, str) and c for c in columns)
            or {*columns} & {*KNOWN, *CONTENTS}
        ):
            problem = f"columns= is a list of names, none of them {', '.join((*KNOWN, *CONTENTS))}"
            raise InvalidArguments(call="Source", problems=[problem])
        if isinstance(service, Client) and key is not None:
            raise InvalidArguments(call="Source", problems=["key= belongs to the client: give it there"])
        self.columns = tuple(columns)
        self.encoder = open_packed(encoder, backend=backend, threads=threads)
        self.fingerprint = self.encoder.fingerprint
        self._own = not isinstance(service, Client)
        self._client = service if isinstance(service, Client) else Client(service, key=key, timeout_s=timeout_s)
        self._rows_at_once = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (22 * self.encoder.dim + 1000)))
        self._full_rows = 0
        self._counting = threading.Lock()
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        if spool is not None:
            self._spool = Spool(spool, max_spool_bytes)
            self._sender = Sender(self._spool, self._send_now, self._rows_at_once)

    def __repr__(self) -> str:
        return f"Source({self._client.url!r}, {self.encoder.label!r}, spool={str(self._spool.folder) if self._spool else None!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> SourceState:
        if self._spool is None or self._sender is None:
            return SourceState()
        return SourceState(
            pending_rows=self._spool.pending_rows,
            refused_rows=self._spool.refused_rows,
            spool_bytes=self._spool.n_bytes,
            sent_rows=self._sender.sent_rows,
            full_rows=self._full_rows,
            damaged_rows=self._sender.damaged_rows,
            last_error=self._sender.last_error,
        )

    def encode(self, items: Sequence[Item]) -> Vectors:
        """(n, dim) unit rows of texts and image files, marked with the fingerprint. Nothing leaves the process."""
        return self.encoder.encode(items)

    def log(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> Logged:
        """Embed the rows here and keep them there; when this returns, each is durable in the collection or in the spool.

        Rows with an id may be logged again and change nothing: such a row is encoded by itself, so that its vector comes out the same
        bit for bit on the same machine. Rows without one get one, and are encoded together.

        Args:
            rows: with one of `text`, `image` (bytes) and `vector`; `id`, `subject`, `tenant`, `time` (now); declared columns.

        Raises:
            InvalidRows: nothing left the process.
            ServiceRefused: the service will not take them, and says why; of several hundred rows the first may be written.
            ServiceDenied, ServiceUnreachable, ServiceBusy, ServiceError: where there is no spool.
            SpoolFull, DiskFull: the rows that were not sent are not kept.
        """
        given = check(rows, self.columns, self.encoder.max_chars, collection, now=datetime.now(UTC))
        vectors = self._vectors(given.items, given.vectors, given.named, len(given.rows), collection, given.rows)
        records = [
            Record(collection, self.fingerprint, row, vector) for row, vector in zip(given.rows, vectors, strict=True)
        ]
        sent = self._send_or_count(records)
        if sent < len(records):
            self._keep(records[sent:])
        return Logged([row["id"] for row in given.rows], sent, len(records) - sent)

    def predict(
        self,
        deployment: str,
        item: Item | None = None,
        *,
        items: Sequence[Item | Mapping[str, Any]] | None = None,
        columns: Mapping[str, str | int | float | bool | None] | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
        **asked: Any,
    ) -> PredictAnswer:
        """As `Client.predict`, with the content embedded here: what is sent is the vector and what is declared.

        Args:
            items: texts, image bytes, or mappings with `text`, `image` or `vector` and the fields of a row of `log`.
            columns: of the one item, of those that were declared.
            asked: `id`, `subject`, `tenant`, `time` of the one item; `top`, `evidence`.
        """
        if (item is None) == (items is None):
            raise InvalidArguments(call="predict", problems=["expected one item (a text or image bytes), or items="])
        options = {name: asked.pop(name) for name in ("top", "evidence") if name in asked}
        if unknown := [name for name in asked if name not in KNOWN]:
            raise InvalidArguments(call="predict", problems=[f"unknown: {', '.join(sorted(unknown))}"])
        if items is not None and (asked or columns):
            raise InvalidArguments(call="predict", problems=["with items=, what is known of an item stands in its mapping"])
        rows = [_row(each) for each in items] if items is not None else [{**_row(item), **asked, **dict(columns or {})}]
        given = check(rows, self.columns, self.encoder.max_chars, f"predict {deployment}", now=None)
        vectors = self._vectors(given.items, given.vectors, set(), len(rows), f"predict {deployment}", given.rows)
        wire = [_item(row, vectors[i], keep_id=i in given.named) for i, row in enumerate(given.rows)]
        return self._client.predict(
            deployment, items=wire, fingerprint=self.fingerprint, request_id=request_id, deadline_s=deadline_s, **options
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Send what the spool holds, now; whether it is empty. Rows the service refused for good are set aside and do not count."""
        return self._sender.flush(timeout_s) if self._sender is not None else True

    def restore_refused(self) -> int:
        """Send the refused rows again, once their cause is gone; how many there are."""
        if self._spool is None or self._sender is None:
            return 0
        restored = self._spool.restore()
        self._sender.wake()
        return restored

    def close(self) -> None:
        """Stop sending. What the spool holds stays there, for the next source on it."""
        if self._sender is not None:
            self._sender.stop(_CLOSE_S)
        if self._spool is not None:
            self._spool.close()
        if self._own:
            self._client.close()

    def _vectors(
        self,
        items: Mapping[int, Item],
        vectors: Mapping[int, Any],
        alone: set[int],
        n: int,
        where: str,
        rows: Sequence[Mapping[str, Any]],
    ) -> Matrix:
        """(n, dim) unit rows by place; items `alone` are encoded one at a time."""
        found = np.empty((n, self.encoder.dim), np.float32)
        for place, vector in vectors.items():
            check_fingerprint(vector, self.fingerprint, "this source", "Give it vectors of its own encoder.")
            found[place] = as_unit_rows(vector, self.encoder.dim, "log")[0]
        together = [place for place in items if place not in alone]
        groups = [[place] for place in items if place in alone] + ([together] if together else [])
        problems = []
        for places in groups:
            try:
                found[places] = self.encoder.encode([items[place] for place in places])
            except ItemsUnusable as error:
                problems += [
                    (places[i], str(rows[places[i]]["id"]), f"the content {reason}") for i, reason in error.problems
                ]
        if problems:
            raise InvalidRows(collection=where, n_rows=n, problems=sorted(problems))
        return found

    def _send_or_count(self, records: Sequence[Record]) -> int:
        """How many of the records, from the first, are durable in the service; those behind are for the spool."""
        if self._spool is not None and self._spool.pending_rows:
            return 0  # behind those that wait
        for start in range(0, len(records), self._rows_at_once):
            try:
                self._send_now(records[start : start + self._rows_at_once], _DIRECT_S if self._spool is not None else None)
            except (ServiceUnreachable, ServiceError) as error:
                if self._spool is None or not may_pass(error):
                    raise
                return start
        return len(records)

    def _send_now(self, records: Sequence[Record], deadline_s: float | None = None) -> None:
        first, rows = records[0], [record.wire for record in records]
        self._client.log(first.collection, rows, fingerprint=first.fingerprint, deadline_s=deadline_s)

    def _keep(self, records: Sequence[Record]) -> None:
        assert self._spool is not None
        assert self._sender is not None
        try:
            self._spool.append(records)
        except SpoolFull:
            with self._counting:
                self._full_rows += len(records)
            raise
        self._sender.wake()


def _row(item: Any) -> dict[str, Any]:
    """A row of an item as `predict` takes it."""
    if isinstance(item, Mapping):
        inner = item.get("columns") or {}
        return {**{name: value for name, value in item.items() if name != "columns"}, **inner}
    return {"image" if isinstance(item, bytes) else "text": item}


def _item(row: Mapping[str, Any], vector: Matrix, *, keep_id: bool) -> dict[str, Any]:
    """What is sent of it: the service names items without an id by the request."""
    known = {name: value for name, value in row.items() if name in KNOWN and (name != "id" or keep_id)}
    columns = {name: value for name, value in row.items() if name not in KNOWN}
    return {**known, "vector": vector.tolist(), **({"columns": columns} if columns else {})}
