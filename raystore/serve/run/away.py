"""Encoders and heads that are Serve deployments of their own, as the ingress asks them. Content travels sealed.

One call carries a whole batch of concurrent requests, so the hop (some 3 ms) is shared. Encoding and predicting change nothing, so a
call may be made twice: again at once where its replica died, and of another replica beside the first where the answer is late. Ray
learns of a killed replica within some seconds, and until then what it was sent just hangs. No call outlives the deadline of what it
is made for (`answer/deadline.py`), which an encoder is told, so that it drops what nobody waits for.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from raystore.encoders.items import Encoded, Item
from raystore.encoders.loaded import MAX_CHARS
from raystore.encoders.passport import Passport
from raystore.errors import DeadlineMissed, Overloaded, RaystoreError
from raystore.serve.answer.deadline import present_until, run_within
from raystore.serve.answer.served import Predicted
from raystore.serve.recording.seal import Seal
from raystore.train.heads import Head, Predictions
from raystore.train.source import Task
from raystore.vectors import Vectors, mark

log = logging.getLogger("raystore.serve")

_PAUSE_S = 0.25  # where several replicas were lost in one call
_AT_ONCE = 4  # calls that one message may have under way
_LOOK_S = 0.01  # how long each of several calls is waited for in turn
_FIRST_S = 1.0  # waited for the first calls, before there is anything to go by
_MORE_S = 0.15
_TIMES = 3.0
_RECENT = 64
_SIZE = 256  # characters that take about as long as what every call takes
_IMAGE_CHARS = 800


class Handle(Protocol):
    """A Serve deployment's handle, as far as it is used here."""

    def __getattr__(self, method: str) -> Any: ...


class Terms(NamedTuple):
    """How a deployment of its own is asked, as the file has it now."""

    deadline_s: float  # of what is asked for without a deadline of its own, as rows that are logged behind an answer
    replicas: int = 1  # the most there may be; one alone is not asked twice
    at_once: int = 1  # batches that one of them encodes


class Patience:
    """How long an answer is waited for before another replica is asked too: by what calls of late needed for their size.

    Nine of ten needed less than `usual`; three times that and some more keeps the second calls few, whatever the machine.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def seconds(self, size: float) -> float:
        recent = sorted(self._recent)
        usual = recent[len(recent) * 9 // 10] * (1 + size) if recent else _FIRST_S
        return _MORE_S + _TIMES * usual

    def took(self, seconds: float, size: float) -> None:
        self._recent.append(seconds / (1 + size))


def asked(call: Callable[[], Any], timeout_s: float, patience: Patience | None = None, size: float = 0.0) -> Any:
    """What a call through a handle returned, made again where its replica died. Not for an event loop.

    Args:
        call: makes the call; Serve sends each to the replica with the fewest calls under way, so not to one that hangs.
        timeout_s: over all calls.
        patience: when another call is made beside the ones that did not answer; the first answer is taken. None: never.
        size: of what is sent; `patience` goes by it.

    Raises:
        RaystoreError: what the replica raised. DeadlineMissed: none answered in that time. Overloaded: too many calls wait for one.
    """
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    until = time.monotonic() + timeout_s
    next_s = 0.0  # when the next call is made
    calls: list[tuple[float, Any]] = []
    lost = 0
    while (now := time.monotonic()) < until:
        if now >= next_s and len(calls) < _AT_ONCE:
            calls.append((now, call()))
            next_s = now + patience.seconds(size) if patience is not None else math.inf
        if not calls:
            time.sleep(min(next_s, until) - now)
        for begun, answer in tuple(calls):
            soonest = min(until, next_s) if len(calls) == 1 else time.monotonic() + _LOOK_S
            try:
                found = answer.result(timeout_s=max(0.0, soonest - time.monotonic()))
            except RayTaskError as error:  # what the replica's own code raised
                if isinstance(error.cause, RaystoreError):
                    raise error.cause from None
                raise RuntimeError(f"a replica raised {type(error.cause).__name__}") from None
            except TimeoutError:
                continue
            except BackPressureError as error:
                calls.remove((begun, answer))
                if not calls:
                    raise Overloaded(limit=error.args[1]) from None
            except (RayActorError, DeploymentUnavailableError) as error:
                calls.remove((begun, answer))
                log.warning("a replica was lost (%s); asking another", type(error).__name__)
                next_s = time.monotonic() + (_PAUSE_S if lost else 0.0)
                lost += 1
            else:
                if patience is not None:
                    patience.took(time.monotonic() - begun, size)
                return found
    raise DeadlineMissed(deadline_s=max(0.0, round(timeout_s, 3)), stage="while another process was asked")


class AwayEncoder:
    """An encoder in a deployment of its own: a `batching.ServedEncoder`."""

    max_chars = MAX_CHARS
    tells_batches = True  # what it takes at once its replicas count, over all who ask

    def __init__(self, handle: Handle, seal: Seal, passport: Passport, label: str, terms: Callable[[], Terms]) -> None:
        self.passport = passport
        self.fingerprint = passport.fingerprint
        self.label = label
        self.dim = passport.dim
        self._handle = handle
        self._seal = seal
        self._terms = terms
        self._encoding = Patience()
        self._counting = Patience()

    @property
    def at_once(self) -> int:
        return self._terms().at_once

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        message, until = self._seal.seal(items), self._until()
        call = lambda: self._handle.encode.remote(message, until - time.monotonic())  # noqa: E731
        vectors, places, problems = self._asked(call, until, self._encoding, items)
        return Encoded(mark(vectors, self.fingerprint), np.asarray(places), problems)

    def count_tokens(self, texts: Sequence[str]) -> int:
        message, until = self._seal.seal(list(texts)), self._until()
        return int(self._asked(lambda: self._handle.count_tokens.remote(message), until, self._counting, texts))

    def _until(self) -> float:
        return _ending(self._terms().deadline_s)

    def _asked(self, call: Callable[[], Any], until: float, patience: Patience, items: Sequence[Item]) -> Any:
        size = sum(len(item) if isinstance(item, str) else _IMAGE_CHARS for item in items) / _SIZE
        return asked(call, until - time.monotonic(), patience if self._terms().replicas > 1 else None, size)


def _ending(deadline_s: float) -> float:
    """The time.monotonic() until which an answer is waited for: the deadline of the present, or so long from now."""
    until = present_until()
    return until if until is not None else time.monotonic() + deadline_s


class AwayHead:
    """A head in a deployment of its own: an `answer.served.ServedHead`. `head` is the same one here, for what it is."""

    def __init__(self, handle: Handle, head: Head, threads: Executor, terms: Callable[[], Terms]) -> None:
        self._handle = handle
        self._head = head
        self._threads = threads
        self._terms = terms
        self._patience = Patience()

    @property
    def task(self) -> Task:
        return self._head.task

    @property
    def classes(self) -> Sequence[str]:
        return self._head.classes

    async def ask(self, vectors: Vectors) -> Predicted:
        rows = np.asarray(vectors)
        deadline_s, replicas, _ = self._terms()
        until = _ending(deadline_s)
        call = partial(self._handle.predict.remote, self._head.label, rows, vectors.fingerprint)
        patience = self._patience if replicas > 1 else None

        def answer() -> Predictions:  # in a thread, for which it may have waited
            found: Predictions = asked(call, until - time.monotonic(), patience, float(len(rows)))
            return found if found.classes else found._replace(classes=self._head.classes)

        return await run_within(self._threads, answer, until, leaving="while another process was asked")
