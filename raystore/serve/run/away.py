"""Encoders and heads that are Serve deployments of their own, as the ingress asks them. Content travels sealed.

One call carries a whole batch of concurrent requests, so the hop (some 3 ms) is shared. A call whose replica died is made again:
encoding and predicting change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from raystore.encoders.items import Encoded, Item
from raystore.encoders.loaded import MAX_CHARS
from raystore.encoders.passport import Passport
from raystore.errors import RaystoreError
from raystore.serve.answer.served import Predicted
from raystore.serve.recording.seal import Seal
from raystore.train.heads import Head, Predictions
from raystore.train.source import Task
from raystore.vectors import Vectors, mark

log = logging.getLogger("raystore.serve")

T = TypeVar("T")
_TRIES = 8
_PAUSE_S = 0.25  # a replica that died is replaced in 2 to 4 s; the others are asked meanwhile


class Handle(Protocol):
    """A Serve deployment's handle, as far as it is used here."""

    def __getattr__(self, method: str) -> Any: ...


def asked(call: Callable[[], Any], timeout_s: float) -> Any:
    """What a call through a handle returned, made again where its replica died. Not for an event loop.

    Raises:
        RaystoreError: what the replica raised. TimeoutError.
    """
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve.exceptions import DeploymentUnavailableError

    for left in reversed(range(_TRIES)):
        try:
            return call().result(timeout_s=timeout_s)
        except RayTaskError as error:  # what the replica's own code raised
            if isinstance(error.cause, RaystoreError):
                raise error.cause from None
            raise RuntimeError(f"a replica raised {type(error.cause).__name__}") from None
        except (RayActorError, DeploymentUnavailableError) as error:
            if not left:
                raise
            log.warning("a replica was lost (%s); asking another", type(error).__name__)
            time.sleep(_PAUSE_S)
    raise AssertionError


class AwayEncoder:
    """An encoder in a deployment of its own: a `batching.ServedEncoder`."""

    max_chars = MAX_CHARS

    def __init__(self, handle: Handle, seal: Seal, passport: Passport, label: str, timeout_s: float) -> None:
        self.passport = passport
        self.fingerprint = passport.fingerprint
        self.label = label
        self.dim = passport.dim
        self._handle = handle
        self._seal = seal
        self._timeout_s = timeout_s

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        message = self._seal.seal(items)
        vectors, places, problems = asked(lambda: self._handle.encode.remote(message), self._timeout_s)
        return Encoded(mark(vectors, self.fingerprint), np.asarray(places), problems)

    def count_tokens(self, texts: Sequence[str]) -> int:
        message = self._seal.seal(list(texts))
        return int(asked(lambda: self._handle.count_tokens.remote(message), self._timeout_s))


class AwayHead:
    """A head in a deployment of its own: an `answer.served.ServedHead`. `head` is the same one here, for what it is."""

    def __init__(self, handle: Handle, head: Head, threads: Executor, timeout_s: float) -> None:
        self._handle = handle
        self._head = head
        self._threads = threads
        self._timeout_s = timeout_s

    @property
    def task(self) -> Task:
        return self._head.task

    @property
    def classes(self) -> Sequence[str]:
        return self._head.classes

    async def ask(self, vectors: Vectors) -> Predicted:
        rows = np.asarray(vectors)
        call = partial(self._handle.predict.remote, self._head.label, rows, vectors.fingerprint)
        found: Predictions = await asyncio.get_running_loop().run_in_executor(self._threads, asked, call, self._timeout_s)
        return found
