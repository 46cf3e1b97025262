"""How long a training goes on and how fast it learns at each moment. Pure; its clock is handed in.

Source of the curve: linear warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, without restarts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raystore.fine_tune.recipe import Recipe

LOOKS = 10  # at val in all, where the recipe does not say


@dataclass(frozen=True)
class Schedule:
    """`steps` at most, and with `budget_s` as many of them as fit: progress is then the larger share, of steps or of seconds.

    The learning rate follows progress, so that a training in a budget ends its cosine in time, at whatever pace it went.
    """

    steps: int
    warmup: float
    budget_s: float | None = None
    evaluate_every: int | None = None

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int, *, budget_s: float | None = None) -> Schedule:
        """`steps`, else `epochs` of the sampler's."""
        steps = recipe.steps or max(1, math.ceil(recipe.epochs * steps_per_epoch))
        return cls(steps, recipe.warmup, budget_s, recipe.evaluate_every)

    def progress(self, step: int, seconds: float, reserved: float = 0.0) -> float:
        """0 to 1, after `step` steps and `seconds`; the last look at val will take `reserved` seconds of the budget."""
        done = step / self.steps
        if self.budget_s is not None:
            done = max(done, seconds / max(self.budget_s - reserved, 1e-9))
        return min(done, 1.0)

    def rate(self, progress: float) -> float:
        """The share of the learning rate of a step that begins at this progress; the first is not at 0."""
        if progress < self.warmup:
            return min(1.0, (progress + 0.5 / self.steps) / self.warmup)
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))

    def looks_at_val(self, step: int, before: float, after: float) -> bool:
        """Whether val is looked at after this step, whose progress was `before` and is `after`."""
        if self.evaluate_every is not None:
            return step % self.evaluate_every == 0 or after >= 1
        return int(before * LOOKS) != int(after * LOOKS) or after >= 1

    def steps_by(self, step: int, progress: float) -> int:
        """How many steps there will be in all, at the pace so far."""
        if self.budget_s is None or progress <= step / self.steps:
            return self.steps
        return max(step, min(self.steps, round(step / max(progress, 1e-9))))
