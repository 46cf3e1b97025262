"""Until when somebody waits for what a thread or a task works at, and threads that work no longer than that.

Kept beside the calls, as a context variable: between a route and an encoder in another process stand a collection's log and a batch,
which know no deadlines. Costs about 1 us. Pure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from raystore.errors import DeadlineMissed

T = TypeVar("T")

_OWN_WORDS_S = 0.1  # in which a call that knows its deadline says itself that it missed it


class _Given(NamedTuple):
    until: float  # time.monotonic()
    seconds: float  # how long that was when it was said


_PRESENT: ContextVar[_Given | None] = ContextVar("deadline", default=None)


@contextmanager
def waited_until(until: float | None) -> Iterator[None]:
    """What is done within it nobody waits for after `until`, the time.monotonic(); None: somebody waits for ever."""
    token = _PRESENT.set(None if until is None else _Given(until, until - time.monotonic()))
    try:
        yield
    finally:
        _PRESENT.reset(token)


def present_until() -> float | None:
    """The deadline of what this thread, or task, works at."""
    given = _PRESENT.get()
    return None if given is None else given.until


def check_in_time(stage: str) -> None:
    """Raises DeadlineMissed where nobody waits any more; `stage` says in its sentence when that was found out."""
    given = _PRESENT.get()
    if given is not None and time.monotonic() > given.until:
        raise _missed(given.seconds, stage)


async def run_within(threads: Executor, call: Callable[[], T], until: float | None, leaving: str | None = None) -> T:
    """What `call` returned, run in one of the threads, where `check_in_time` holds it to `until`.

    Args:
        leaving: of a call that changes nothing, what the sentence says where it is left behind soon after `until`. By default one that
            was begun is waited for: only it knows where it can stop.

    Raises:
        DeadlineMissed: no thread was free in time, and it was not begun; or it was left behind.
    """

    def work() -> T:
        with waited_until(until):
            return call()

    if until is None:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
    left_s = until - time.monotonic()
    future = threads.submit(work)
    answer, loop = asyncio.wrap_future(future), asyncio.get_running_loop()
    late: str | None = None
    timer: asyncio.TimerHandle

    def leave() -> None:
        nonlocal late, timer
        if future.cancel():
            late = "before a thread was free for it"
        elif leaving is not None:
            timer = loop.call_later(_OWN_WORDS_S, leave_behind, leaving)

    def leave_behind(stage: str) -> None:
        nonlocal late
        late = stage
        answer.cancel()

    timer = loop.call_later(max(0.0, left_s), leave)
    try:
        return await answer
    except asyncio.CancelledError:
        if late is not None:
            raise _missed(left_s, late) from None
        raise
    finally:
        timer.cancel()


def _missed(given_s: float, stage: str) -> DeadlineMissed:
    return DeadlineMissed(deadline_s=max(0.0, round(given_s, 3)), stage=stage)
