"""How much a replica takes at once: requests, and among them bodies that are still coming and streams that are open.

One for HTTP and gRPC together, for as long as the process lives: a changed file changes its limits and not its counts. Who sends
slowly and who keeps a stream open takes a place, of which each may have a part only; so there are always some for requests that come
whole. One bound over all is what HAProxy can hold before a replica too (`run/haproxy_door.py`). Of one event loop, without a lock.
Costs some 2 us a request. Knows no HTTP and no orchestrator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from raystore.access import Principal
from raystore.errors import BodyTooSlow, Overloaded
from raystore.serve.spec.app import Limits


def limits_of(principal: Principal, limits: Limits) -> Limits:
    """The limits of one request: its key's own where those are lower."""
    if principal.sizes is None:
        return limits
    own = {name: most for name, most in principal.sizes if most is not None}
    return limits.model_copy(update={name: min(most, getattr(limits, name)) for name, most in own.items()})


class Admission:
    def __init__(self, limits: Limits, changed: Callable[[int], None] = lambda _: None) -> None:
        """
        Args:
            limits: may be set anew at any time, from any thread.
            changed: told how many requests are here.
        """
        self.limits = limits
        self._changed = changed
        self._here = 0
        self._streams = 0
        self._coming: dict[asyncio.Timeout, None] = {}  # the oldest first

    def enter(self) -> None:
        """Take a place, or raise Overloaded. To be given back by `leave`."""
        if self._here >= self.limits.max_requests:
            raise Overloaded(limit=self.limits.max_requests)
        self._count(1)

    def leave(self) -> None:
        self._count(-1)

    def open_stream(self) -> None:
        """Of a request that has its place: it is a stream. Raises Overloaded. To be given back by `close_stream`."""
        if self._streams >= self.limits.max_streams:
            raise Overloaded(limit=self.limits.max_streams, what="streams are open")
        self._streams += 1

    def close_stream(self) -> None:
        self._streams -= 1

    def coming(self, within_s: float) -> Coming:
        """The time in which a body is read; see `Coming`."""
        return Coming(self._coming, self.limits.max_sending, within_s)

    def _count(self, by: int) -> None:
        self._here += by
        self._changed(self._here)


class Coming:
    """Bounds the reading of a body, with `async with`. Where too many come at once, the one that has been coming longest has to go: so
    bodies that come at once pass, however many others are slow.

    Raises:
        BodyTooSlow: it was not whole in time.
        Overloaded: it had to go.
    """

    def __init__(self, coming: dict[asyncio.Timeout, None], most: int, within_s: float) -> None:
        self._coming = coming
        self._most = most
        self._within_s = within_s
        self._patience = asyncio.timeout(within_s)

    async def __aenter__(self) -> None:
        while len(self._coming) >= self._most:
            oldest = next(iter(self._coming))
            del self._coming[oldest]
            if not oldest.expired():
                oldest.reschedule(0)
        await self._patience.__aenter__()
        self._coming[self._patience] = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        had_to_go = self._patience not in self._coming
        self._coming.pop(self._patience, None)
        try:
            await self._patience.__aexit__(kind, error, trace)
        except TimeoutError:
            if had_to_go:
                raise Overloaded(limit=self._most, what="requests are still being sent") from None
            raise BodyTooSlow(what="the body of this request", within_s=self._within_s) from None
