"""How many workers of which kind an embedding job has: what was asked for, and what a Ray with its resources gives.

Pure: knows no Ray, no job and no encoder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raystore.errors import InvalidArguments
from raystore.session import INLINE_BELOW

log = logging.getLogger("raystore")

Range = tuple[int, int]  # least, most
Workers = int | Sequence[int] | None


@dataclass(frozen=True)
class Pool:
    """(least, most) workers of each kind; a pool without any is inline, which is work in the calling process."""

    cpu: Range = (0, 0)
    gpu: Range = (0, 0)
    gpus_per_worker: float = 1.0

    @property
    def most(self) -> int:
        return self.cpu[1] + self.gpu[1]

    def __str__(self) -> str:
        kinds = [
            f"{least if least == most else f'{least} to {most}'} {noun}{'s' if most > 1 else ''}"
            for (least, most), noun in ((self.cpu, "Ray worker"), (self.gpu, "GPU worker"))
            if most
        ]
        return " and ".join(kinds) or "inline"


@dataclass(frozen=True)
class AskedPool:
    """What the caller asked for, None where nothing was said: then it is decided by the rows and by what Ray has."""

    workers: Range | None = None
    gpu_workers: Range | None = None
    gpus_per_worker: float = 1.0

    @property
    def slices_for(self) -> int:
        """For how many workers files are cut. Two kinds get smaller slices: a slow worker's last one holds up the end."""
        cpu, gpu = (most for _, most in (self.workers or (0, 0), self.gpu_workers or (0, 0)))
        return max(1, (cpu + gpu) * (4 if cpu and gpu else 1))

    def is_inline(self, n_rows: int) -> bool:
        if self.gpu_workers is not None and self.gpu_workers[1]:
            return False
        return n_rows < INLINE_BELOW.embed_rows if self.workers is None else self.workers[1] == 0

    def say(self, pool: Pool, n_rows: int, call: str) -> None:
        """Log what was chosen, where the caller left it open."""
        if self.workers is None and self.gpu_workers is None:
            log.info("%s: %s rows, %s", call, n_rows, pool)

    def on(self, resources: Mapping[str, float], n_slices: int, call: str) -> Pool:
        """The pool on a Ray with these resources, no larger than there are slices.

        Raises:
            InvalidArguments: GPU workers were asked for, and this Ray has too few GPUs for the least of them.
        """
        gpus, share = resources.get("GPU", 0.0), self.gpus_per_worker
        room = int(gpus) * int(1 / share + 1e-9)  # a worker's part lies on one GPU
        gpu = self.gpu_workers
        if gpu is None:
            gpu = (room, room) if self.workers is None else (0, 0)
        if gpu[0] > room:
            problem = (
                f"gpu_workers={gpu[0]} do not fit: this Ray has {gpus:g} GPUs, which hold {room} with "
                f"gpus_per_worker={share:g}; ask for fewer, or leave gpu_workers out"
            )
            raise InvalidArguments(call=call, problems=[problem])
        gpu = (max(1, gpu[0]), gpu[1]) if room and gpu[1] else (0, 0)
        cores = max(1, os.cpu_count() or 1)
        cpu = self.workers or (0, 0)
        if cpu[1] + gpu[1] == 0:  # nobody said, or GPU workers "if there are any", of which there are none
            cpu = (cores, cores)
        return Pool(_at_most(cpu, n_slices), _at_most(gpu, n_slices), share)


def _at_most(size: Range, n: int) -> Range:
    return min(size[0], n), min(size[1], n)


def check_pool(workers: Workers, gpu_workers: Workers, gpus_per_worker: float, call: str) -> AskedPool:
    """What was asked for, in one form. Raises InvalidArguments with every problem."""
    problems: list[str] = []
    asked = AskedPool(
        _range("workers", workers, 1, "expected 0 (inline) or more", problems),
        _range("gpu_workers", gpu_workers, 0, "expected 0 or more", problems),
        gpus_per_worker,
    )
    if not 0 < gpus_per_worker <= 1:
        problems.append(f"gpus_per_worker is {gpus_per_worker:g}, expected more than 0 and at most 1")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return asked


def _range(name: str, given: Workers, least: int, expected: str, problems: list[str]) -> Range | None:
    if given is None:
        return None
    if isinstance(given, int):
        if given < 0:
            problems.append(f"{name} is {given}, {expected}")
        return given, given
    ends = list(given)
    if len(ends) == 2 and all(isinstance(end, int) for end in ends) and least <= ends[0] <= ends[1] and ends[1] > 0:
        return ends[0], ends[1]
    above = "" if least else ", most above 0"
    problems.append(f"{name} is {tuple(ends)}, expected (least, most) with {least} <= least <= most{above}")
    return None
