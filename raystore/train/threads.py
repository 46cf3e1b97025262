"""One BLAS and one torch thread for as long as a fit runs in this process; knows no fit.

Thread pools inside the libraries wait by spinning. Where two of them meet, or other processes want the same
cores, they wait for each other: a fit that takes 0.7 s on two idle cores took 13 s on busy ones. So fits give
each library one thread and, where there is work for more, spread it over threads of their own, which sleep.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_holders = 0
_threads = 1  # what torch had before the first holder came
_lift_blas: Callable[[], None] | None = None


@contextmanager
def libraries_on_one_thread() -> Iterator[int]:
    """How many threads the caller may use itself: what torch had. All is as it was when the last holder leaves.

    The limits belong to the process, so fits in several threads share them. torch.set_num_threads also acts on
    the calling thread, hence each holder sets and restores.
    """
    global _holders, _threads, _lift_blas
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with _lock:
        _holders += 1
        if _holders == 1:
            _threads = torch.get_num_threads()
            _lift_blas = threadpool_limits(limits=1, user_api="blas").restore_original_limits
        torch.set_num_threads(1)
    try:
        yield _threads
    finally:
        with _lock:
            _holders -= 1
            torch.set_num_threads(_threads)
            if _holders == 0 and _lift_blas is not None:
                _lift_blas()
