"""A stream of items, answered in order: what came together is let in, predicted and answered together. For HTTP and gRPC alike.

The door is asked again for each group, so a key that was revoked, or has ended, ends its open streams too; and each block of lines
counts as a request, by the rates of whoever sends it. What goes over a rate waits, which holds the sender, as long as a request may
last. What nobody foresaw becomes an error of its line, too, and the others go on. Knows lines by their numbers alone: how one is read
and written is the face's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from raystore.errors import BodyTooSlow, RateExceeded, RaystoreError
from raystore.serve.answer.asked import Asked
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.door.admission import Admission
from raystore.serve.door.problems import InvalidRequestError

LINES = 64  # that are predicted together at most; so many, or as many bytes as a body may have, count as one request

T = TypeVar("T")
log = logging.getLogger("raystore.serve")


class Again(Protocol):
    """The door, asked again by whom it let in; raises what it would raise at first. `counted`: as one request more."""

    async def __call__(self, *, counted: bool) -> object: ...


@dataclass(frozen=True)
class Line:
    """What is said of one item: a prediction, or what was wrong."""

    number: int
    prediction: Mapping[str, Any] | None = None
    error: Exception | None = None


class Stream(Generic[T]):
    """One stream.

    Args:
        found: the orchestrator of the moment: a stream outlives changes of what is deployed.
        route: whose errors those of lines are, in metrics.
        deployment: that answers.
        options: fingerprint, top and evidence.
        who, request_id: as they are told to the orchestrator.
        admission: the limits of the moment.
        again: the door.
        read: the item of a line, by its number and what was sent; None where the line is empty. Raises what is wrong with it.
        size: bytes of what was sent.
    """

    def __init__(
        self,
        *,
        found: Callable[[], Orchestrator],
        route: str,
        deployment: str,
        options: Mapping[str, Any],
        who: str,
        request_id: str,
        admission: Admission,
        again: Again,
        read: Callable[[int, T], Asked | None],
        size: Callable[[T], int],
    ) -> None:
        self._found = found
        self._route = route
        self._deployment = deployment
        self._asking = {**options, "who": who, "request_id": request_id}
        self._admission = admission
        self._again = again
        self._read = read
        self._size = size
        self._bytes = 0
        self._counted = 1  # the request that opened it
        self.done = 0
        self.failed = 0
        self.lineage: Mapping[str, Any] | None = None

    async def answers(self, groups: AsyncIterator[Sequence[T]]) -> AsyncIterator[list[Line]]:
        """The lines of each group, in order.

        Raises:
            KeyRequired, NotAllowed, ProviderUnreachable: who sends is not let in any more.
            RateExceeded: it would have to wait longer than a request may last.
            BodyTooSlow: no line came for too long.
        """
        while (group := await self._next(groups)) is not None:
            await self._let_in(group)
            start, self.done = self.done, self.done + len(group)
            lines: list[Line] = []
            good: list[tuple[int, Asked]] = []
            for number, sent in enumerate(group, start):
                try:
                    asked = self._read(number, sent)
                except Exception as error:  # noqa: BLE001 - of what a line can hold: told in it, and the others go on
                    lines.append(Line(number, error=error))
                else:
                    if asked is not None:
                        good.append((number, asked))
            lines += await self._predicted(good, time.monotonic() + self._admission.limits.deadline_s) if good else []
            lines.sort(key=lambda line: line.number)
            wrong = [line.error for line in lines if line.error is not None]
            self.failed += len(wrong)
            self._log_unforeseen(wrong)
            for each in wrong:
                self._found().count_error(self._route, _kind(each))
            yield lines

    def _log_unforeseen(self, wrong: Sequence[Exception]) -> None:
        """A line for each type, and never its text, which may quote an item."""
        for kind in sorted({_kind(each) for each in wrong if not isinstance(each, (InvalidRequestError, RaystoreError))}):
            log.error("request %s failed with %s", self._asking["request_id"], kind)

    async def _next(self, groups: AsyncIterator[Sequence[T]]) -> Sequence[T] | None:
        within_s = self._admission.limits.stream_idle_s
        patience = asyncio.timeout(within_s)
        try:
            async with patience:
                return await anext(groups, None)
        except TimeoutError:
            if not patience.expired():
                raise
            raise BodyTooSlow(what="the next line of this stream", within_s=within_s) from None

    async def _let_in(self, group: Sequence[T]) -> None:
        self._bytes += sum(map(self._size, group))
        most = self._admission.limits.max_body_bytes
        requests = max(-(-(self.done + len(group)) // LINES), -(-self._bytes // most))
        if requests <= self._counted:
            await self._again(counted=False)
        until = time.monotonic() + self._admission.limits.deadline_s
        while self._counted < requests:
            try:
                await self._again(counted=True)
                self._counted += 1
            except RateExceeded as error:
                if time.monotonic() + error.retry_after_s > until:
                    raise
                await asyncio.sleep(error.retry_after_s)

    async def _predicted(self, good: Sequence[tuple[int, Asked]], until: float) -> list[Line]:
        """Together; or one by one, where together one of them fails."""
        try:
            answer = await self._found().predict(
                self._deployment, [asked for _, asked in good], until=until, **self._asking
            )
            told = list(zip(good, answer["predictions"], strict=True))
        except Exception as error:  # noqa: BLE001 - of an encoder, a head, a remote call: told in its line, and the others go on
            if len(good) == 1:
                return [Line(good[0][0], error=error)]
            return [line for one in good for line in await self._predicted([one], until)]
        self.lineage = answer["lineage"]
        return [Line(number, prediction=prediction) for (number, _), prediction in told]


def _kind(error: Exception) -> str:
    """As answers name it."""
    return "InvalidRequest" if isinstance(error, InvalidRequestError) else type(error).__name__
