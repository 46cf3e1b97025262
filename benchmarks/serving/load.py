"""Requests over loopback and what became of them: as fast as they are answered (`closed`), or when they are due (`arrivals`).

HTTP/1.1 with keep-alive over asyncio's plain sockets; requests are prepared bytes, of an answer the status and content-length are read.
A request costs it some 0.1 ms: the generator runs on the cores of what it measures, and a full client (httpx: 1 ms) would be
measured too. Latencies of due requests count from when they were due, so a server that stalls is charged for all that waited.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, takewhile

import numpy as np

BROKEN, UNANSWERED = 0, 1  # in place of a status: the connection ended before the answer did; no answer came
_IDLE_S = 1.0  # a connection that was idle longer is not used again: its server may just be closing it
_ANSWER_S = 40.0  # how long answers are waited for after the last request
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Address = tuple[str, int]
Look = Callable[[bytes], str | None]


def post(address: Address, path: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Answers:
    """`seconds` are of answers with status 200, in the order they came; `words` counts what `look` found in them."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0  # how long requests were sent
    late: int = 0  # good answers that came after that
    unsent: int = 0  # due when every connection was taken
    retry_after: int = 0  # refusals that say when to come again
    failed_at: Counter[int] = field(default_factory=Counter)  # of `arrivals`: failures by the second they came in

    @property
    def good(self) -> int:
        return self.statuses[200]

    @property
    def failed(self) -> int:
        return sum(self.statuses.values()) - self.good

    @property
    def rate(self) -> float:
        """Good answers a second, while requests were sent."""
        return (self.good - self.late) / self.wall_s

    def ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1e3 if self.seconds else float("nan")


class _Connection(asyncio.Protocol):
    def __init__(self, done: Callable[[_Connection, int, bytes], None]) -> None:
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._read = bytearray()
        self._ends = -1  # where the answer does, once its head was read
        self.since = 0.0
        self.busy = False
        self.used = time.perf_counter()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, since: float) -> None:
        assert self._transport is not None
        self.since, self.busy = since, True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        read = self._read
        read += data
        if self._ends < 0:
            head = read.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(read, 0, head + 2)
            if length is None:
                raise RuntimeError("an answer without content-length")
            self._ends = head + 4 + int(length[1])
        if len(read) >= self._ends:
            answer, status = bytes(read), int(read[9:12])
            read.clear()
            self._ends, self.busy, self.used = -1, False, time.perf_counter()
            if _CLOSE.search(answer, 0, answer.find(b"\r\n\r\n")):
                self._leave()
            self._done(self, status, answer)

    def _leave(self) -> None:
        """It is not used again: its other end said that it closes it, as HAProxy does before it is replaced."""
        self._transport, transport = None, self._transport
        if transport is not None:
            transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self.busy = False
            self._done(self, BROKEN, b"")

    def close(self) -> None:
        self.busy = False
        if self._transport is not None:
            self._transport.abort()


def closed(
    address: Address, requests: Sequence[bytes], *, connections: int, seconds: float, warm_s: float = 0.5, start: int = 0
) -> Answers:
    """What `connections` clients got that each wait for their answer and ask again, for so long after the first `warm_s`.

    Args:
        requests: asked in turns, from `start` on.
    """
    return asyncio.run(_closed(address, requests, connections, seconds, warm_s, start))


async def _closed(
    address: Address, requests: Sequence[bytes], connections: int, seconds: float, warm_s: float, start: int
) -> Answers:
    found = Answers(wall_s=seconds)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    begun = time.perf_counter() + warm_s
    end = begun + seconds
    turn, clients = start, connections
    pool: set[_Connection] = set()

    def ask(connection: _Connection) -> None:
        nonlocal turn
        turn += 1
        connection.ask(requests[turn % len(requests)], time.perf_counter())

    def done(connection: _Connection, status: int, answer: bytes) -> None:
        nonlocal clients
        now = time.perf_counter()
        if begun <= now < end:
            _count(found, status, now - connection.since, answer)
        if now >= end:
            clients -= 1
            if clients == 0:  # nothing of this is left to be answered while something else is measured
                ended.set()
        elif connection.open:
            ask(connection)
        else:
            pool.discard(connection)
            opening.add(loop.create_task(again()))

    async def again() -> None:
        try:
            _, connection = await loop.create_connection(lambda: _Connection(done), *address)
        except OSError:
            _count(found, BROKEN, 0, b"")
            await asyncio.sleep(0.05)
            opening.add(loop.create_task(again()))
            return
        pool.add(connection)
        ask(connection)

    opening = {loop.create_task(again()) for _ in range(connections)}
    with suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), warm_s + seconds + _ANSWER_S)
    for task in opening:
        task.cancel()
    for connection in pool:
        connection.close()
    await asyncio.sleep(0)
    return found


def arrivals(
    address: Address,
    requests: Sequence[bytes],
    due: Iterable[float],
    *,
    most: int = 1_024,
    start: int = 0,
    look: Look | None = None,
) -> Answers:
    """What became of requests that come at their times, whether or not those before are answered.

    Args:
        due: seconds from now, ascending.
        most: connections; what is due while all of them wait is not sent, and counted.
        look: a word for each good answer, or None.
    """
    return asyncio.run(_arrivals(address, requests, due, most, start, look))


async def _arrivals(
    address: Address, requests: Sequence[bytes], due: Iterable[float], most: int, start: int, look: Look | None
) -> Answers:
    found = Answers()
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    opening: set[asyncio.Task[None]] = set()
    busy: set[_Connection] = set()

    def done(connection: _Connection, status: int, answer: bytes) -> None:
        now = time.perf_counter()
        _count(found, status, now - connection.since, answer, look)
        if status != 200:
            found.failed_at[int(now - begun)] += 1
        elif found.wall_s:
            found.late += 1
        busy.discard(connection)
        if connection.open:
            idle.append(connection)

    async def opened(request: bytes, since: float) -> None:
        try:
            _, connection = await loop.create_connection(lambda: _Connection(done), *address)
        except OSError:
            _count(found, BROKEN, 0, b"")
            return
        busy.add(connection)
        connection.ask(request, since)

    def send(request: bytes, since: float) -> None:
        while idle:
            connection = idle.pop()  # the one used last: those that nobody needs grow old
            if connection.open and time.perf_counter() - connection.used < _IDLE_S:
                busy.add(connection)
                connection.ask(request, since)
                return
            connection.close()
        if len(busy) + len(opening) >= most:
            found.unsent += 1
            return
        task = loop.create_task(opened(request, since))
        opening.add(task)
        task.add_done_callback(opening.discard)

    begun = time.perf_counter()
    for i, offset in enumerate(due):
        wait = begun + offset - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        elif i % 64 == 0:
            await asyncio.sleep(0)  # late: answers are read all the same
        send(requests[(start + i) % len(requests)], begun + offset)
    found.wall_s = time.perf_counter() - begun
    last = time.perf_counter() + _ANSWER_S
    while (opening or busy) and time.perf_counter() < last:
        await asyncio.sleep(0.01)
    for connection in [*idle, *busy]:
        if connection.busy:
            _count(found, UNANSWERED, 0, b"")
        connection.close()
    await asyncio.sleep(0)
    return found


def _count(found: Answers, status: int, seconds: float, answer: bytes, look: Look | None = None) -> None:
    found.statuses[status] += 1
    if status == 200:
        found.seconds.append(seconds)
        if look is not None and (word := look(answer)) is not None:
            found.words[word] += 1
    elif status in (429, 503):
        found.retry_after += b"\r\nretry-after:" in answer[:1_000].lower()


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of requests that come independently of each other, `rate` a second on average."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.5) + 50))
    return [float(each) for each in times[times < seconds]]


def evenly(rate: float, going: Callable[[float], bool]) -> Iterator[float]:
    """Times with equal steps between them, as long as `going` says so of the next one."""
    return takewhile(going, (i / rate for i in count()))
