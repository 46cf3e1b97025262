"""The next batch is made while the present one is encoded: a generator run one step ahead, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")

_END = object()


def ahead(source: Iterator[T], depth: int = 1) -> Iterator[T]:
    """What `source` yields, in its order, up to `depth` items made in advance; its error is raised in its place.

    Cost: a thread, 0.1 ms. Leaving the loop early ends the thread after the item it is making.
    """
    queue: Queue[object] = Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=0.1)
            except Full:
                continue
            return

    def make() -> None:
        try:
            for item in source:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  raised where the item is waited for
            put(_Failed(error))
        else:
            put(_END)

    thread = threading.Thread(target=make, name="raystore-ahead", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error
