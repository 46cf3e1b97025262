"""Where the time of a request went, by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raystore.serve.watch.finished import Stage


@dataclass
class Timer:
    """Its stages in order, one name perhaps twice; since it was made. They do not overlap."""

    stages: list[Stage] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _waited_s: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = time.perf_counter()
        self._waited_s = 0.0
        try:
            yield
        finally:
            if self._waited_s:
                self.stages.append(Stage("queue", before - self._start, self._waited_s))
                before += self._waited_s
            self.stages.append(Stage(name, before - self._start, time.perf_counter() - before))

    def waited(self, seconds: float) -> None:
        """The stage that is under way began with waiting for so long, which is the stage "queue"."""
        self._waited_s += seconds

    def by_stage(self) -> dict[str, float]:
        """Seconds of each stage, of one that ran twice the sum."""
        found: dict[str, float] = {}
        for name, _, seconds in self.stages:
            found[name] = found.get(name, 0.0) + seconds
        return found

    def done(self) -> dict[str, float]:
        """Milliseconds by stage, and in `total`."""
        found = {name: round(1e3 * seconds, 3) for name, seconds in self.by_stage().items()}
        found["total"] = round(1e3 * (time.perf_counter() - self._start), 3)
        return found
