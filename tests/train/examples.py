"""Small clustered data on the unit sphere, and a stand-in for a group of workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from raystore.train.source import ArraySource, Examples, Task

CLASSES = ["card lost", "naïve 'quote'", "退款"]


def clusters(n: int, n_classes: int = 3, dim: int = 16, seed: int = 0, spread: float = 0.35) -> Examples:
    """Unit rows around one centre a class; classes overlap, so that no score is perfect."""
    centres = np.random.default_rng(99).normal(size=(n_classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    rows = centres[labels] / np.sqrt(dim) + spread * rng.normal(size=(n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Examples(rows.astype(np.float32), labels.astype(np.int64), np.ones(n, dtype=np.float32))


def source(n: int = 600, dim: int = 16) -> ArraySource:
    return ArraySource(
        {
            "train": clusters(n, dim=dim),
            "val": clusters(200, dim=dim, seed=1),
            "test": clusters(200, dim=dim, seed=2),
        }
    )


class ThreadGroup:
    """`size` threads as workers: `reduce` is a barrier, a sum in rank order, a barrier.

    It stands for gloo's all_reduce, of which a fit needs no more than that all get the same sum.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._slots: list[np.ndarray | None] = [None] * size
        self._barrier = threading.Barrier(size, timeout=60)

    def reduce(self, rank: int) -> Callable[[np.ndarray], np.ndarray]:
        def summed(array: np.ndarray) -> np.ndarray:
            self._slots[rank] = np.array(array)
            self._barrier.wait()
            result = np.sum(self._slots, axis=0)
            self._barrier.wait()
            return result

        return summed

    def run(self, work: Callable[[int, Callable[[np.ndarray], np.ndarray]], Any]) -> list[Any]:
        """What each rank's work returned; the first failure is raised and ends the others' waiting."""
        with ThreadPoolExecutor(self.size) as pool:
            running = [pool.submit(work, rank, self.reduce(rank)) for rank in range(self.size)]
            for future in running:
                future.add_done_callback(lambda done: self._barrier.abort() if done.exception() else None)
            return [future.result() for future in running]


def tagged(n: int, n_labels: int = 4, dim: int = 16, seed: int = 0) -> Examples:
    """Unit rows with any number of labels: each label is a direction of its own, and a row leans towards those it has."""
    directions = np.random.default_rng(98).normal(size=(n_labels, dim))
    rng = np.random.default_rng(seed)
    has = (rng.random((n, n_labels)) < 0.35).astype(np.float32)
    rows = has @ directions / np.sqrt(dim) + 0.25 * rng.normal(size=(n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Examples(rows.astype(np.float32), has, np.ones(n, np.float32))


def numbers(n: int, dim: int = 16, seed: int = 0) -> Examples:
    """Unit rows and a number that is linear in them, far from 0, with noise."""
    slope = np.random.default_rng(97).normal(size=dim)
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = 1_000 + 40 * rows @ slope + 2 * rng.normal(size=n)
    return Examples(rows.astype(np.float32), labels, np.ones(n, np.float32))


MAKERS: dict[Task, Callable[..., Examples]] = {"classes": clusters, "labels": tagged, "number": numbers}
NAMED: dict[Task, list[str]] = {"classes": CLASSES, "labels": ["late", "broken", "naïve 'quote'", "退款"], "number": []}


def source_of(task: Task, n: int = 600) -> ArraySource:
    make = MAKERS[task]
    return ArraySource({"train": make(n), "val": make(200, seed=1), "test": make(200, seed=2)})


def slice_of(examples: Examples, rank: int, world: int) -> Examples:
    return Examples(*(array[rank::world] for array in examples))
