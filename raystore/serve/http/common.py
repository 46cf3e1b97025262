"""What the routes share: the orchestrator of the moment, names in paths, threads for what blocks, fields in errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Path

from raystore.errors import ItemsUnusable
from raystore.serve.answer.deadline import run_within
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.door.problems import InvalidRequestError

T = TypeVar("T")
Provider = Callable[[], Orchestrator | None]
NAME = r"^[a-z][a-z0-9_-]{0,62}$"
Name = Annotated[str, Path(pattern=NAME)]
ModelName = Annotated[str, Path(min_length=1, max_length=200)]

_THREADS = 16


class Threads:
    """Where blocking calls run, so that the event loop stays free."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="raystore-serve")

    async def run(self, call: Callable[[], T], until: float | None = None) -> T:
        """See `run_within`."""
        return await run_within(self._pool, call, until)


class NotReadyError(Exception):
    """The orchestrator is still loading."""


def ready(provider: Provider) -> Orchestrator:
    found = provider()
    if found is None:
        raise NotReadyError
    return found


@contextmanager
def fields_named(paths: Sequence[str]) -> Iterator[None]:
    """Where items turn out to be unusable, the answer names the fields they came in."""
    try:
        yield
    except ItemsUnusable as error:
        raise InvalidRequestError([(paths[place], reason) for place, reason in error.problems]) from None
