"""How much a replica takes at once: requests that are answered, bodies that are still coming, streams that are open.

One for HTTP and gRPC together, for as long as the process lives: a changed file changes its limits and not its counts. A request counts
as under way from when its body is whole, a stream while lines of it are answered; so who sends slowly takes no place of those that
are answered. Of one event loop, without a lock. Costs some 2 us a request. Knows no HTTP and no orchestrator.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from raystore.errors import BodyTooSlow, Overloaded
from raystore.serve.spec.app import Limits


class Admission:
    def __init__(self, limits: Limits, changed: Callable[[int], None] = lambda _: None) -> None:
        """
        Args:
            limits: may be set anew at any time, from any thread.
            changed: told how many requests are under way.
        """
        self.limits = limits
        self._changed = changed
        self._under_way = 0
        self._streams = 0
        self._coming: dict[asyncio.Timeout, None] = {}  # the oldest first
        self._waiting: deque[asyncio.Future[None]] = deque()

    def check(self) -> None:
        """Raises Overloaded where no place is free now: then there is no use in reading what else a request sends."""
        if self._under_way >= self.limits.max_requests:
            raise Overloaded(limit=self.limits.max_requests)

    def enter(self) -> None:
        """Take a place among the requests under way, or raise Overloaded. To be given back by `leave`."""
        self.check()
        self._count(1)

    async def turn(self, until: float) -> None:
        """As `enter`, and wait for a place until then (time.monotonic()); who waits longest has the next."""
        if self._under_way < self.limits.max_requests:
            self._count(1)
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():  # it was given in the moment that waiting ended
                self.leave()
            with suppress(ValueError):
                self._waiting.remove(mine)
            if isinstance(error, TimeoutError):
                raise Overloaded(limit=self.limits.max_requests) from None
            raise

    def leave(self) -> None:
        self._count(-1)
        while self._waiting and self._under_way < self.limits.max_requests:
            first = self._waiting.popleft()
            if not first.done():
                self._count(1)
                first.set_result(None)

    def open_stream(self) -> None:
        """Take a place among the open streams, or raise Overloaded. To be given back by `close_stream`."""
        if self._streams >= self.limits.max_streams:
            raise Overloaded(limit=self.limits.max_streams, what="streams are open")
        self._streams += 1

    def close_stream(self) -> None:
        self._streams -= 1

    def coming(self, within_s: float) -> Coming:
        """The time in which a body is read; see `Coming`."""
        return Coming(self._coming, self.limits.max_sending, within_s)

    def _count(self, by: int) -> None:
        self._under_way += by
        self._changed(self._under_way)


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
