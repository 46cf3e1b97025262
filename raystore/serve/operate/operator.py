"""What stands behind the routes of those who operate: promotions here, the rest in the process that keeps predictions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.operations import Operations
from raystore.serve.operate.promote import Promoted, promote, rollback
from raystore.serve.watch.merger import Told

T = TypeVar("T")


class Operator:
    """All of it may take a second, in threads of its own; none of it blocks the event loop."""

    def __init__(self, rooms: Rooms, told: Callable[[], Told], ask: Callable[..., Any] | None = None) -> None:
        """
        Args:
            told: the metrics of all processes; may block.
            ask: calls a method of `Operations` by its name, in the process that has them; by default they are here.
        """
        self._rooms = rooms
        self._told = told
        operations = Operations(rooms) if ask is None else None
        self._ask = ask or (lambda call, *arguments, **named: getattr(operations, call)(*arguments, **named))

    async def ask(self, call: str, *arguments: Any, **named: Any) -> Any:
        """What `Operations`'s method of that name returned."""
        return await _run(self._rooms.pools.asks, partial(self._ask, call, *arguments, **named))

    async def promote(
        self,
        head: str,
        deployment: str,
        gate: str | None,
        labels: str | None,
        since: datetime | None,
        among: Sequence[str] | None = None,
    ) -> Promoted:
        reports = None
        if gate is not None:
            reports = await self.ask("reports", deployment, labels=labels, since=since, among=among)
        call = partial(promote, self._rooms, head, deployment=deployment, gate=gate, reports=lambda _: reports or ())
        return await _run(self._rooms.pools.changes, call)

    async def rollback(self, deployment: str, to: int | None) -> Promoted:
        return await _run(self._rooms.pools.changes, partial(rollback, self._rooms, deployment, to=to))

    async def told(self) -> Told:
        """The metrics of all processes."""
        return await _run(self._rooms.pools.tells, self._told)


async def _run(threads: Executor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, call)
