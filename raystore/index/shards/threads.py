"""How many threads FAISS uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _faiss

faiss: Any = _faiss  # its stubs know neither search parameters by keyword nor selectors over arrays


@contextmanager
def faiss_threads(n: int | None) -> Iterator[None]:
    """FAISS uses n threads inside; None leaves it alone. The setting belongs to the calling thread only."""
    if n is None:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
