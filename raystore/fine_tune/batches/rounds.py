"""An endless sequence of classes, in rounds in which each class comes its number of times. Pure in (seed, place); NumPy.

Since a round's length and each class's number in it are fixed, how often a class came before any place is known without
walking there. Knows no rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from raystore.fine_tune.batches.batch import IntArray

Arrange = Callable[
    [IntArray, int, np.random.Generator], IntArray
]  # entries, number of the round, chance -> the same, ordered


class Drawn(NamedTuple):
    """`classes` (p,) codes, and `turns` (p,): how often each of them came before."""

    classes: IntArray
    turns: IntArray


class Rounds:
    """Rounds of `classes`, each `counts` times. A stretch of `apart` places, beginning at a multiple of it, holds no class twice.

    Args:
        classes, counts: (c,) codes, and how often each comes in a round.
        apart: a batch's classes, at most c, with all counts 1; 0 where a class may come twice in a batch.
        arrange: orders a round's shuffled entries.

    Memory: two rounds. Cost: a round is made when it is first asked for. A batch that straddles two rounds must know how the
    first ended; every `apart / gcd(c, apart)` rounds one ends with a batch, and from there on the order is made anew.
    """

    def __init__(self, classes: IntArray, counts: IntArray, *, apart: int, seed: int, arrange: Arrange) -> None:
        self._entries = np.repeat(classes, counts)
        self.length = len(self._entries)
        self._counts = np.zeros(int(classes.max()) + 1, dtype=np.int64)
        self._counts[classes] = counts
        self._apart, self._seed, self._arrange = apart, seed, arrange
        self._stretch = apart // math.gcd(self.length, apart) if apart else 1
        self._made: dict[int, Drawn] = {}

    def at(self, start: int, size: int) -> Drawn:
        """The `size` places from `start` on."""
        parts = []
        while size:
            number, place = divmod(start, self.length)
            drawn = self._round(number)
            part = slice(place, min(place + size, self.length))
            parts.append(Drawn(drawn.classes[part], drawn.turns[part]))
            start, size = start + part.stop - place, size - (part.stop - place)
        return Drawn(np.concatenate([part.classes for part in parts]), np.concatenate([part.turns for part in parts]))

    def forget(self, number: int) -> None:
        """Rounds from that one on are arranged anew."""
        self._made = {r: drawn for r, drawn in self._made.items() if r < number}

    def _round(self, number: int) -> Drawn:
        made = self._made
        if number in made:
            return made[number]
        first = number - number % self._stretch
        known = [r for r in made if first <= r < number]
        at = max(known, default=first - 1)
        before = made[at].classes if known else None
        for r in range(at + 1, number + 1):
            chance = np.random.default_rng([self._seed, 0, r])
            order = self._arrange(chance.permutation(self._entries), r, chance)
            tail = r * self.length % self._apart if self._apart else 0
            if before is not None and tail:
                order = _avoiding(order, before[-tail:], self._apart - tail)
            kept = {} if before is None else {r - 1: Drawn(before, self._turns(before, r - 1))}
            before = order
        made = {**kept, number: Drawn(order, self._turns(order, number))}
        self._made = made  # replaced whole: a thread that reads meanwhile sees the one or the other
        return made[number]

    def _turns(self, order: IntArray, number: int) -> IntArray:
        """(p,) the turns of a round's entries: those of earlier rounds, and those of this round that stand before."""
        if self.length == np.count_nonzero(self._counts):
            return np.full(self.length, number, dtype=np.int64)
        by_class = np.argsort(order, kind="stable")
        sizes = self._counts[order[by_class]]
        firsts = np.searchsorted(order[by_class], order[by_class])
        turns = np.empty(self.length, dtype=np.int64)
        turns[by_class] = number * sizes + np.arange(self.length) - firsts
        return turns


def _avoiding(order: IntArray, tail: IntArray, head: int) -> IntArray:
    """The order with its first `head` classes none of the tail's; what must wait comes right behind them."""
    free = np.flatnonzero(~np.isin(order, tail))[:head]
    rest = np.ones(len(order), dtype=np.bool_)
    rest[free] = False
    return np.concatenate([order[free], order[rest]])
