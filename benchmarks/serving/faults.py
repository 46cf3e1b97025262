"""Ten times the load there is room for; changes under load; and an encoder's replica that is killed again and again."""

from __future__ import annotations

import re
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.load import BROKEN, UNANSWERED, Answers, arrivals, closed, evenly
from serving.predict import COLOCATED, own
from serving.servers import Raystore, memory_mb, raystore
from serving.store import Kept, questions
from serving.turns import show

TIMES = 10
GOODPUT = 0.8
MEMORY = 1.3
ALLOWED = {200, 429, 503}
RATE = 50.0  # requests a second while something changes
PEAK_CLIENTS = 32
CONNECTIONS = 4_096
KILL_EVERY_S = 10.0
AGAIN_S = 60.0
ROUTED_S = 2.0  # until requests are sent to a replica that was just made
PAUSE_S = 5.0
_HEAD = re.compile(rb'"lineage":\{[^}]*?"head":"([^"]+)"')


def overload(kept: Kept, *, seconds: float = 60.0) -> dict[str, Any]:
    """Statuses, good answers and memory under ten times the peak, requests coming evenly whether or not others are answered."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a socket for each request that waits
    with raystore(kept, COLOCATED) as server:
        requests = server.requests(questions())
        closed(server.address, requests, connections=PEAK_CLIENTS, seconds=max(5.0, seconds / 6))
        peak = closed(server.address, requests, connections=PEAK_CLIENTS, seconds=max(5.0, seconds / 6)).rate
        replicas = server.replicas()
        held = memory_mb(replicas)
        with _Highest(lambda: memory_mb(replicas)) as highest:
            found = arrivals(server.address, requests, evenly(TIMES * peak, lambda t: t < seconds), most=CONNECTIONS)
        after = closed(server.address, requests, connections=PEAK_CLIENTS, seconds=max(5.0, seconds / 6)).rate
    figures = {
        "statuses": _statuses(found),
        "only_allowed": set(found.statuses) <= ALLOWED,
        "retry_after": found.retry_after,
        "unsent": found.unsent,
        "goodput_over_peak": round(found.rate / peak, 3),
        "memory_over_before": round(highest.value / held, 3),
        "peak_after_over_before": round(after / peak, 3),
        "peak_per_s": round(peak, 1),
        "asked_per_s": round((sum(found.statuses.values()) + found.unsent) / found.wall_s, 1),
        "p50_ms": round(found.ms(50), 1),
        "p99_ms": round(found.ms(99), 1),
        "memory_mb": [round(held), round(highest.value)],
        "goals": {"statuses": sorted(ALLOWED), "goodput": GOODPUT, "memory": MEMORY},
        "seconds": seconds,
    }
    reached = figures["only_allowed"] and found.rate >= GOODPUT * peak and highest.value <= MEMORY * held
    show(f"{TIMES}x the peak for {seconds:g} s", [(name, str(value)) for name, value in figures.items()])
    return {"what": f"{TIMES} times the peak load, open loop", **figures, "reached": reached}


def rolling(kept: Kept, *, rounds: int = 3) -> dict[str, Any]:
    """Failed requests at 50 a second while a head is promoted and rolled back, and encoder replicas are replaced one by one."""
    spec = own(replicas=2)
    spec["deployments"] = {"intent": {"head": "intent@1", "shadow": ["intent@2"]}}
    with raystore(kept, spec) as server:
        done = _Done()

        def change() -> None:
            for turn in range(1, rounds + 1):
                time.sleep(PAUSE_S)
                server.send("/v1/deployments/intent/promote", {"head": "intent@2"})
                done.say("promoted intent@2")
                time.sleep(PAUSE_S)
                server.send("/v1/deployments/intent/rollback", {})
                done.say("rolled back")
                time.sleep(PAUSE_S)
                before = {each.pid for each in server.replicas("encoder-minilm")}
                # Replicas that are made with something else are others.
                spec["encoders"]["minilm"]["batch"] = {"wait_ms": float(turn)}
                server.deploy(spec)
                after = {each.pid for each in server.replicas("encoder-minilm")}
                done.say(f"{len(before - after)} of {len(before)} encoder replicas replaced")
            time.sleep(PAUSE_S)

        found = _under_load(server, change, done)
    return _changes("heads and encoder replicas changed", found, done)


def kill(kept: Kept, *, seconds: float = 120.0) -> dict[str, Any]:
    """Failed requests at 50 a second while one of two encoder replicas is killed every ten seconds: the one that is longer there.

    Where the other one is not up again after ten seconds, a kill waits for it.
    """
    with raystore(kept, own(replicas=2)) as server:
        done = _Done()

        def change() -> None:
            for _ in range(int(seconds / KILL_EVERY_S)):
                begun = time.monotonic()
                time.sleep(KILL_EVERY_S - ROUTED_S)
                while (
                    len(ready := server.replicas("encoder-minilm", ready=True)) < 2 and time.monotonic() < begun + AGAIN_S
                ):
                    time.sleep(0.2)
                time.sleep(ROUTED_S)
                min(ready, key=lambda each: each.create_time()).kill()
                done.say(f"one of {len(ready)} killed")
            time.sleep(PAUSE_S)

        found = _under_load(server, change, done)
    return _changes("an encoder replica killed", found, done)


class _Done:
    """What was done, and when, in seconds since `begin`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._begun = 0.0

    def begin(self) -> None:
        self._begun = time.monotonic()

    def say(self, what: str) -> None:
        self.lines.append(f"{time.monotonic() - self._begun:.1f} s: {what}")


def _under_load(server: Raystore, change: Callable[[], None], done: _Done) -> Answers:
    """What became of requests while `change` ran."""
    requests = server.requests(questions())
    closed(server.address, requests, connections=8, seconds=3.0)
    with ThreadPoolExecutor(1) as thread:
        done.begin()
        changing = thread.submit(change)
        found = arrivals(server.address, requests, evenly(RATE, lambda _: not changing.done()), look=_head)
        changing.result()
    return found


def _changes(what: str, found: Answers, done: _Done) -> dict[str, Any]:
    figures = {
        "requests": sum(found.statuses.values()),
        "failed": found.failed,
        "unsent": found.unsent,
        "statuses": _statuses(found),
        "heads": dict(found.words),
        "done": done.lines,
        "failed_at_s": {str(second): n for second, n in sorted(found.failed_at.items())},
        "p50_ms": round(found.ms(50), 1),
        "p99_ms": round(found.ms(99), 1),
        "worst_ms": round(found.ms(100), 1),
        "seconds": round(found.wall_s, 1),
        "goal": 0,
        "reached": found.failed == found.unsent == 0,
    }
    show(f"{what}, {RATE:g} requests a second", [(name, str(value)) for name, value in figures.items()])
    return {"what": f"failed requests while: {what}, at {RATE:g} a second", **figures}


def _statuses(found: Answers) -> dict[str, int]:
    names = {BROKEN: "broken", UNANSWERED: "unanswered"}
    return {names.get(status, str(status)): n for status, n in sorted(found.statuses.items())}


def _head(answer: bytes) -> str | None:
    found = _HEAD.search(answer)
    return found[1].decode() if found else None


class _Highest:
    """The highest of what is looked at twice a second, in a thread."""

    def __init__(self, look: Callable[[], float]) -> None:
        self._look = look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.value = 0.0

    def __enter__(self) -> _Highest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.5):
            self.value = max(self.value, self._look())
