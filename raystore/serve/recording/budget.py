"""How much of the machine's cores shadows may keep busy, all together: live answers need the rest of them."""

from __future__ import annotations

import os

_PART = 8  # of the machine's cores, where nobody says it
_LONGEST_S = 5.0  # the longest rest: the first call of a lane loads its head, or its encoder


class Budget:
    """Each lane has an equal part, used or not, so that one shadow takes nothing from another."""

    def __init__(self, cores: float | None = None) -> None:
        self.allow(cores)
        self._lanes = 1

    def allow(self, cores: float | None) -> None:
        """From now on so many; None: an eighth of the machine's."""
        self._cores = cores if cores is not None else (os.cpu_count() or 1) / _PART

    def share_among(self, lanes: int) -> None:
        """From now on among so many lanes."""
        self._lanes = max(1, lanes)

    def rest_s(self, worked_s: float) -> float:
        """How long a lane is idle after it worked for so long."""
        return min(_LONGEST_S, max(0.0, worked_s * (self._lanes / self._cores - 1)))
