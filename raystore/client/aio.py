"""The client for asyncio: as `Client`, with `await`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
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


class AsyncClient:
    """As `Client`, for one event loop; methods, arguments and errors are the same."""

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
        self._http = httpx.AsyncClient(**transport.settings(connections, verify))

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def url(self) -> str:
        return self._address.base

    async def aclose(self) -> None:
        await self._http.aclose()

    async def predict(
        self,
        deployment: str,
        item: Given = None,
        *,
        items: Sequence[Given] | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> PredictAnswer:
        """See `Client.predict`."""
        return await self._ask(predict_call(deployment, item, items=items, **asked), request_id, deadline_s)

    async def predict_stream(
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
    ) -> AsyncIterator[StreamedLine]:
        """See `Client.predict_stream`."""
        id_, start = new_request_id(request_id), 0
        for i, part in enumerate(windows(items, window)):
            call = stream_call(deployment, part, start, fingerprint=fingerprint, top=top, evidence=evidence)
            for line in await self._ask(call, part_id(id_, i), deadline_s):
                yield line
            start += len(part)

    async def log(
        self,
        collection: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        fingerprint: str | None = None,
        request_id: str | None = None,
        deadline_s: float | None = None,
    ) -> LogAnswer:
        """See `Client.log`."""
        return await self._ask(log_call(collection, rows, fingerprint), request_id, deadline_s)

    async def search(
        self,
        collection: str,
        item: Given = None,
        *,
        request_id: str | None = None,
        deadline_s: float | None = None,
        **asked: Any,
    ) -> SearchAnswer:
        """See `Client.search`."""
        return await self._ask(search_call(collection, item, **asked), request_id, deadline_s)

    async def embeddings(
        self, model: str, items: Sequence[str | bytes], *, request_id: str | None = None, deadline_s: float | None = None
    ) -> Embeddings:
        """See `Client.embeddings`."""
        return await self._ask(embeddings_call(model, items), request_id, deadline_s)

    async def status(self, *, deadline_s: float | None = None) -> dict[str, Any]:
        """See `Client.status`."""
        return await self._ask(status_call(), None, deadline_s)

    async def shadow(
        self,
        deployment: str,
        *,
        labels: str | None = None,
        since: datetime | str | None = None,
        deadline_s: float | None = None,
    ) -> dict[str, Any]:
        """See `Client.shadow`."""
        return await self._ask(shadow_call(deployment, labels, since), None, deadline_s)

    async def _ask(self, call: Call[T], request_id: str | None, deadline_s: float | None) -> T:
        given = self._patience
        patience = given if deadline_s is None else Patience(deadline_s, given.retries, given.clock, given.draw)
        return await self._drive(call, exchange(call, patience, new_request_id(request_id), self.url))

    async def _drive(self, call: Call[T], flow: Flow[T]) -> T:
        came: Reply | Broken | None = None
        while True:
            try:
                step = flow.send(came)
            except StopIteration as stop:
                found: T = stop.value
                return found
            if isinstance(step, Send):
                came = await self._attempt(call, step)
            else:
                await asyncio.sleep(step.seconds)

    async def _attempt(self, call: Call[T], send: Send) -> Reply | Broken:
        try:
            async with asyncio.timeout(send.timeout_s):
                response = await self._http.request(**transport.arguments(self._address, call, send))
            return Reply(response.status_code, dict(response.headers), response.content)
        except TimeoutError:
            return Broken("the time was up")
        except transport.FAILURES as error:
            return transport.broken(error)
