"""The blocking client. What it sends and when stands in `flow.py` and `calls.py`; here it meets a socket."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack

import httpx

from raystore.client import transport
from raystore.client.calls import (
    Asked,
    Embeddings,
    Given,
    embeddings_call,
    log_call,
    predict_call,
    search_call,
    shadow_call,
    status_call,
)
from raystore.client.flow import Broken, Call, Flow, Patience, Reply, Send, exchange, new_request_id, part_id
from raystore.client.stream import WINDOW, StreamedLine, stream_call, windows
from raystore.serve.wire.log import LogAnswer
from raystore.serve.wire.predict import PredictAnswer
from raystore.serve.wire.search import SearchAnswer

T = TypeVar("T")


class Client:
    """A raystore service by its address. Safe to share between threads; close it, or use it as a context.

    Args:
        url: like http://127.0.0.1:8000.
        key: an API key, or a token of the identity provider; not needed on loopback.
        timeout_s: how long a call may take, repetitions and waits among it, unless it names a `deadline_s` of its own.
        retries: repetitions after connection errors, 429, 502 and 503, with full jitter and no sooner than Retry-After says.
        connections: kept open at most.
        verify: how certificates are checked, as httpx takes it.

    Every method raises ServiceRefused, ServiceDenied, ServiceBusy or ServiceError for what the service answered,
    ServiceUnreachable where there was no answer, and InvalidArguments for what cannot be sent. None holds what was sent.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 30,
        retries: int = 3,
        connections: int = 32,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._address = transport.Address(url, key)
        self._patience = Patience(timeout_s, retries)
        self._http = httpx.Client(**transport.settings(connections, verify))

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self._address.base

    def close(self) -> None:
        self._http.close()

    def predict(
        self,
        deployment: str,
        item: Given = None,
        *,
        items: Sequence[Given] | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> PredictAnswer:
        """A prediction for one item, or for each of `items`, in order.

        Args:
            item: a text, the bytes of an image file, or a vector (a list, an array, a row of `encode`).
            items: such, or mappings with the fields of an item: `text`, `image` or `vector`, `id`, `subject`, `columns` ..
            request_id: by which the service knows a repetition; by default a new one.
            asked: `id`, `subject`, `tenant`, `time`, `columns` of the one item; `fingerprint` of vectors (those of `encode`
                carry it), `top` labels, `evidence` rows.
        """
        return self._ask(predict_call(deployment, item, items=items, **asked), request_id, deadline_s)

    def predict_stream(
        self,
        deployment: str,
        items: Iterable[Given],
        *,
        fingerprint: str | None = None,
        top: int | None = None,
        evidence: int | None = None,
        window: int = WINDOW,
        request_id: str | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[StreamedLine]:
        """A line for each item of an iterable of any length, in order; an item that cannot be predicted does not stop the others.

        `window` items are taken and sent at a time, with a deadline and repetitions of their own; 1 for a live feed.
        """
        id_, start = new_request_id(request_id), 0
        for i, part in enumerate(windows(items, window)):
            call = stream_call(deployment, part, start, fingerprint=fingerprint, top=top, evidence=evidence)
            yield from self._ask(call, part_id(id_, i), deadline_s)
            start += len(part)

    def log(
        self,
        collection: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        fingerprint: str | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
    ) -> LogAnswer:
        """What was added; durable when it returns. A row that is sent again changes nothing.

        Args:
            rows: with `id` and one of `text`, `image` (bytes) and `vector`; `subject`, `tenant`, `time`; kept columns.
            fingerprint: the encoder of the vectors; those of `encode` carry it.
        """
        return self._ask(log_call(collection, rows, fingerprint), request_id, deadline_s)

    def search(
        self,
        collection: str,
        item: Given = None,
        *,
        request_id: str | None = None,
        deadline_s: float | None = None,
        **asked: Any,
    ) -> SearchAnswer:
        """The nearest rows; `asked` are the fields of `SearchRequest` (k, where, columns, like, min_score ..)."""
        return self._ask(search_call(collection, item, **asked), request_id, deadline_s)

    def embeddings(
        self, model: str, items: Sequence[str | bytes], *, request_id: str | None = None, deadline_s: float | None = None
    ) -> Embeddings:
        """The vectors of texts and images, by an encoder's name, label or fingerprint."""
        return self._ask(embeddings_call(model, items), request_id, deadline_s)

    def status(self, *, deadline_s: float | None = None) -> dict[str, Any]:
        """What the service says of itself and its deployments."""
        return self._ask(status_call(), None, deadline_s)

    def shadow(
        self,
        deployment: str,
        *,
        labels: str | None = None,
        since: datetime | str | None = None,
        deadline_s: float | None = None,
    ) -> dict[str, Any]:
        """The reports on a deployment's shadows.

        Args:
            labels: where labels have arrived, as 'table.column'; then live and shadow are compared with them too.
            since: a time; only predictions from then on count. Without a zone it is UTC.
        """
        return self._ask(shadow_call(deployment, labels, since), None, deadline_s)

    def _ask(self, call: Call[T], request_id: str | None, deadline_s: float | None) -> T:
        given = self._patience
        patience = given if deadline_s is None else Patience(deadline_s, given.retries, given.clock, given.draw)
        return self._drive(call, exchange(call, patience, new_request_id(request_id), self.url))

    def _drive(self, call: Call[T], flow: Flow[T]) -> T:
        came: Reply | Broken | None = None
        while True:
            try:
                step = flow.send(came)
            except StopIteration as stop:
                found: T = stop.value
                return found
            if isinstance(step, Send):
                came = self._attempt(call, step)
            else:
                time.sleep(step.seconds)

    def _attempt(self, call: Call[T], send: Send) -> Reply | Broken:
        ends = time.monotonic() + send.timeout_s
        try:
            with self._http.stream(**transport.arguments(self._address, call, send)) as response:
                parts: list[bytes] = []
                for part in response.iter_bytes():
                    if parts and time.monotonic() > ends:  # httpx bounds each read, not all of them
                        return Broken("the time was up while the answer came")
                    parts.append(part)
                return Reply(response.status_code, dict(response.headers), b"".join(parts))
        except transport.FAILURES as error:
            return transport.broken(error)
