"""Where the time of a request went, by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raystore.serve.watch.finished import Stage


@dataclass
class Timer:
    """Its stages in order, one name perhaps twice; since it was made."""

    stages: list[Stage] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            self.stages.append(Stage(name, before - self._start, time.perf_counter() - before))

    def done(self) -> dict[str, float]:
        """Milliseconds by stage, and in `total`."""
        found: dict[str, float] = {}
        for name, _, seconds in self.stages:
            found[name] = found.get(name, 0.0) + 1e3 * seconds
        found["total"] = 1e3 * (time.perf_counter() - self._start)
        return {name: round(ms, 3) for name, ms in found.items()}
