"""Rules in shadow whose hooks fail again and again are asked more and more rarely: to fail costs the cores that answer, for nothing."""

from __future__ import annotations

from collections.abc import Callable

_IN_A_ROW = 3  # failures before it rests: a hook may fail on a request, and look at others well
_FIRST_S, _LONGEST_S = 1.0, 60.0


class Resting:
    """By rule, how often its hook failed in a row, and until when it is not asked; doubled by each failure after a rest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_a_row: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def rests(self, rule: str) -> bool:
        return self._clock() < self._until.get(rule, 0.0)

    def failed(self, rule: str) -> None:
        self._in_a_row[rule] = n = self._in_a_row.get(rule, 0) + 1
        if n >= _IN_A_ROW:
            self._until[rule] = self._clock() + min(_LONGEST_S, _FIRST_S * 2.0 ** min(n - _IN_A_ROW, 10))

    def worked(self, rule: str) -> None:
        self._in_a_row.pop(rule, None)
        self._until.pop(rule, None)
