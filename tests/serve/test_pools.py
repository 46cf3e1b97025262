"""Whoever waits in vain for one thing keeps nobody from another: a head of its own that hangs, and all else that blocks beside it."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from raystore.errors import DeadlineMissed
from raystore.serve.answer.asked import Asked
from raystore.serve.answer.deadline import run_within
from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.operator import Operator
from raystore.serve.run.away import AwayHead, Terms
from raystore.serve.watch.merger import Merger
from tests.serve.conftest import Served, recorded
from tests.serve.serving import Serving, told

DEADLINE_S = 2.0
GO = threading.Event()


class Hanging:
    """Serve's handle of a head whose replica never answers, as far as one method of it goes. `at_once`: the call itself hangs."""

    def __init__(self, at_once: bool) -> None:
        self.asked = 0
        self._at_once = at_once

    @property
    def predict(self) -> Hanging:
        return self

    def remote(self, *_: Any) -> Hanging:
        self.asked += 1
        if self._at_once:
            GO.wait(60)
        return self

    def result(self, *, timeout_s: float) -> Any:
        return Future().result(timeout_s)  # type: ignore[var-annotated]


@pytest.fixture
def rooms(served: Served) -> Iterator[Rooms]:
    GO.clear()
    yield served.rooms
    GO.set()


@pytest.mark.parametrize("at_once", [False, True], ids=["its answer hangs", "the call hangs"])
def test_a_head_of_its_own_that_hangs_keeps_only_its_own_requests_and_those_until_their_deadline(
    rooms: Rooms, at_once: bool
) -> None:
    name = f"p-calm-{at_once:d}"
    recorded(rooms, name, "refunds@1")
    service = Serving(rooms).serve({name: {"head": "refunds@2", "log": {"collection": "kept", "required": True}}})
    handle = Hanging(at_once)
    hung = recorded(rooms, "p-hung", "refunds@2")
    away = AwayHead(handle, rooms.head(hung.head), rooms.pools.heads("p-hung"), lambda: Terms(30))
    orchestrator = service.orchestrator
    orchestrator.update({**orchestrator.live, **rooms.live({"p-hung": hung}, away=lambda _: away)})
    operator = Operator(rooms, partial(told, Merger(), service.metrics))

    async def one(i: int) -> float:
        begun = time.monotonic()
        asked = [Asked(id=f"h-{i}", item="a card")]
        with pytest.raises(DeadlineMissed):
            await orchestrator.predict("p-hung", asked, request_id=f"h-{i}", until=begun + DEADLINE_S)
        return time.monotonic() - begun

    async def all_of_it() -> tuple[list[float], float]:
        asking = [asyncio.ensure_future(one(i)) for i in range(60)]
        while handle.asked < 16 and not any(each.done() for each in asking):
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        answer = await orchestrator.predict(name, [Asked(id=f"{name}-1", item="a card")], request_id="c")
        assert answer["logged"] == [f"{name}-1"]
        assert (await operator.told()).series is not None
        assert (await operator.rollback(name, None)).after == "refunds@1"
        meanwhile = time.monotonic() - begun
        assert not any(each.done() for each in asking)
        return await asyncio.gather(*asking), meanwhile

    took, meanwhile = asyncio.run(all_of_it())
    assert meanwhile < DEADLINE_S
    assert min(took) > DEADLINE_S - 0.1
    assert max(took) < DEADLINE_S + 1
    assert 16 <= handle.asked < 60, "those that found no thread in time are not asked for later"


def within(call: Callable[[], object], until: float | None, leaving: str | None = None) -> str:
    """What is said of a call that does not end in time."""

    async def ask() -> None:
        with ThreadPoolExecutor(1) as threads:
            try:
                await run_within(threads, call, until, leaving)
            finally:
                GO.set()

    with pytest.raises(DeadlineMissed) as raised:
        asyncio.run(ask())
    return str(raised.value)


def test_a_call_that_changes_nothing_is_left_behind_at_its_deadline() -> None:
    GO.clear()
    said = within(partial(GO.wait, 30), time.monotonic() + 0.2, "while it was tried")
    assert re.sub(r"0\.\d+ s", "0.2 s", said) == (
        "the request was given 0.2 s, and they ran out while it was tried. Nothing was answered."
    )


def test_a_call_that_knows_its_deadline_says_itself_that_it_missed_it() -> None:
    def knows() -> None:
        time.sleep(0.2)
        raise DeadlineMissed(deadline_s=7, stage="in its own words")

    assert within(knows, time.monotonic() + 0.2, "while it was tried") == (
        "the request was given 7 s, and they ran out in its own words. Nothing was answered."
    )
