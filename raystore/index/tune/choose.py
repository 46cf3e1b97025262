"""Which trial to take within a budget of recall, memory and latency; where none fits, the nearest, and what would have to give.

Pure. A trial reaches a recall when the low end of its interval does: then other queries will find as many too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raystore.encoders.plan import said_bytes
from raystore.index.kinds import TABLE
from raystore.index.tune.table import Trial

_AS_FAST = 0.8  # of the fastest: among those, the one that holds least


@dataclass(frozen=True)
class Budget:
    """What an index over `rows` vectors must keep; None asks nothing."""

    recall: float
    rows: int
    memory_bytes: int | None = None
    p95_ms: float | None = None

    def over(self, trial: Trial) -> dict[str, float]:
        """By how much the trial misses what is asked, by name; 1 is nearly, 2 is twice too much."""
        found = {}
        if trial.recall_low < self.recall:
            found["recall"] = (1 - trial.recall_low) / max(1 - self.recall, 1e-4)
        if self.memory_bytes is not None and self.memory(trial) > self.memory_bytes:
            found["memory"] = self.memory(trial) / max(self.memory_bytes, 1)
        if self.p95_ms is not None and trial.p95_ms > self.p95_ms:
            found["p95"] = trial.p95_ms / self.p95_ms
        return found

    def memory(self, trial: Trial) -> float:
        return trial.memory_bytes * self.rows

    def __str__(self) -> str:
        asked = [f"recall {self.recall:g}"]
        asked += [] if self.memory_bytes is None else [f"{said_bytes(self.memory_bytes)} of memory"]
        asked += [] if self.p95_ms is None else [f"{self.p95_ms:g} ms at p95"]
        return ", ".join(asked)


@dataclass(frozen=True)
class Choice:
    """A place in the trials and why; or none, and what comes nearest."""

    at: int | None
    explanation: str
    unmet: str | None = None


def choose(trials: Sequence[Trial], budget: Budget) -> Choice:
    """The fastest in batches of those that keep the budget; of those nearly as fast, the one that holds least memory."""
    if not trials:
        return Choice(None, "", "Nothing was measured.")
    fit = [i for i, trial in enumerate(trials) if not budget.over(trial)]
    if not fit:
        return Choice(None, "", _unmet(trials, budget))
    fastest = max(trials[i].queries_per_s for i in fit)
    near = [i for i in fit if trials[i].queries_per_s >= _AS_FAST * fastest]
    # Of one kind all settings hold the same: there the fastest.
    at = min(near, key=lambda i: (round(trials[i].memory_bytes, 1), -trials[i].queries_per_s))
    taken = trials[at]
    kinds = {trials[i].kind for i in fit}
    beside = "no other kind keeps the budget"
    if len(kinds) > 1:
        beside = f"of the {len(kinds)} kinds that keep the budget none is more than {1 / _AS_FAST - 1:.0%} faster"
        larger = [trials[i] for i in near if trials[i].memory_bytes > taken.memory_bytes]
        if larger:
            most = max(larger, key=lambda each: each.queries_per_s)
            beside += (
                f", and {most.kind} ({most.queries_per_s:,.0f} a second) holds {said_bytes(most.memory_bytes)} a vector"
            )
    why = (
        f"{taken.setting}: {TABLE[taken.kind].says}. Recall {taken.said_recall}, {taken.p95_ms:.2f} ms at p95, "
        f"{taken.queries_per_s:,.0f} queries a second in batches, {said_bytes(budget.memory(taken))} of memory; {beside}."
    )
    return Choice(at, why)


def _unmet(trials: Sequence[Trial], budget: Budget) -> str:
    nearest = min(trials, key=lambda each: (max(budget.over(each).values()), len(budget.over(each))))
    said = (
        f"Nothing measured keeps {budget}. Nearest is {nearest.setting}: recall {nearest.said_recall}, "
        f"{said_bytes(budget.memory(nearest))}, {nearest.p95_ms:.2f} ms at p95."
    )
    gives = _would_do(trials, budget)
    return f"{said} It would do to ask for {', or '.join(gives)}." if gives else said


def _would_do(trials: Sequence[Trial], budget: Budget) -> list[str]:
    """The least change of each one demand with which the others can be kept."""

    def only(demand: str) -> list[Trial]:
        return [trial for trial in trials if set(budget.over(trial)) == {demand}]

    found = []
    if recall := only("recall"):
        most = max(recall, key=lambda each: each.recall_low)
        found.append(f"recall {int(most.recall_low * 1000) / 1000:g} ({most.setting})")
    if memory := only("memory"):
        least = min(memory, key=budget.memory)
        found.append(f"{said_bytes(_up(budget.memory(least)))} of memory ({least.setting})")
    if p95 := only("p95"):
        fastest = min(p95, key=lambda each: each.p95_ms)
        found.append(f"{_up(fastest.p95_ms):g} ms at p95 ({fastest.setting})")
    return found


def _up(value: float) -> float:
    """The next number of two digits: what is said to do must do."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return round(math.ceil(value / digit) * digit, 9)
