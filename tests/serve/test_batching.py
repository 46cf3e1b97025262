from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from raystore.serve.batching import BatchingEncoder
from raystore.vectors import Vectors, mark


class Lengths:
    """Encodes a text as its length, one axis; holds the first call until it is let go. Enough to see who shares a batch."""

    fingerprint = "a" * 64
    dim = 1
    max_chars = 100

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(len(texts))
        if len(self.batches) == 1:
            self.go.wait(10)
        if "bad" in texts:
            raise ValueError("bad")
        return mark(np.array([[len(t)] for t in texts], np.float32), self.fingerprint)


def test_what_arrives_during_a_batch_makes_the_next_and_each_gets_its_own() -> None:
    inner = Lengths()
    encoder = BatchingEncoder(inner, max_batch=6)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(encoder.encode, ["x"])
        while not inner.batches:
            pass
        rest = [pool.submit(encoder.encode, ["y" * n, "z" * n]) for n in range(2, 6)]
        while len(encoder._waiting) < 4:
            pass
        inner.go.set()
        assert first.result().tolist() == [[1]]
        assert [f.result().tolist() for f in rest] == [[[n], [n]] for n in range(2, 6)]
    assert inner.batches == [1, 6, 2]
    assert rest[0].result().fingerprint == inner.fingerprint


def test_one_requests_failure_is_not_anothers() -> None:
    inner = Lengths()
    encoder = BatchingEncoder(inner)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(encoder.encode, ["x"])
        while not inner.batches:
            pass
        bad, good = pool.submit(encoder.encode, ["bad"]), pool.submit(encoder.encode, ["fine"])
        while len(encoder._waiting) < 2:
            pass
        inner.go.set()
        first.result()
        assert good.result().tolist() == [[4]]
        with pytest.raises(ValueError, match="bad"):
            bad.result()
