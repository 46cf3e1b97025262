"""Dropout and augmentation as a pure function of seed, step, worker and chunk.

So nothing of a random generator's state is ever kept: a chunk that is embedded again by gradient caching, and a run that goes on
from a checkpoint, get the very masks and crops they had. Chunks of another size, where memory ran out, draw others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Chance:
    """One worker's chance in one step."""

    seed: int
    step: int
    rank: int = 0
    phase: int = 0

    def augment(self, chunk: int) -> np.random.Generator:
        """For crops, flips and colours of one chunk."""
        return np.random.default_rng([self.seed, self.phase, self.step, self.rank, chunk])

    @contextmanager
    def dropout(self, chunk: int, device: torch.device) -> Iterator[None]:
        """torch's own generators stand where this chunk's begin, and afterwards where they stood before."""
        import torch

        drawn = np.random.SeedSequence([self.seed, self.phase, self.step, self.rank, chunk]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(drawn[0] >> np.uint64(1)))
            yield
