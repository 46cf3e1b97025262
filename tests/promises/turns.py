"""Slices handed out only once workers of both kinds have asked, so that a test of a mixed pool never depends on who is faster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from raystore.data import pool

_PATIENCE_S = 180


class BothKinds(pool._Dispenser):
    """A dispenser that answers nobody before a worker without a GPU and one with a GPU have asked."""

    def __init__(self, slices: Sequence[str]) -> None:
        super().__init__(slices)
        self._asked: set[str] = set()
        self._both = asyncio.Event()

    async def take(self, turn: str) -> str:
        self._asked.add(turn.partition(" ")[0])
        if len(self._asked) == 2:
            self._both.set()
        await asyncio.wait_for(self._both.wait(), _PATIENCE_S)
        return super().take(turn)


def wait_for_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a job on both kinds of workers begins when both are there, and each gets at least one slice."""
    monkeypatch.setattr(pool, "_Dispenser", BothKinds)
