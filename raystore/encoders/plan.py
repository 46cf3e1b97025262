"""What an embedding job will take: hours, money, disk. Pure arithmetic; what it starts from is measured elsewhere.

A job is a start (workers, encoder, golden check) and then rows at one pace. Knows no store, no encoder and no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from raystore.errors import InvalidArguments
from raystore.markup import facts_html

_UNSURE = 0.5  # a share; a pace that may be wrong by more says nothing
_UNKNOWN = 0.25  # what is said where the work was committed at so few moments that nothing shows how even it was


@dataclass(frozen=True)
class EmbedPlanReport:
    """`seconds` is the whole job; `machines` is how many like the measured one run it; `cost` is in the price's money."""

    items: int
    rows_per_s: float
    startup_s: float
    workers: int
    machines: int
    dim: int
    seconds: float
    cost: float | None
    price_per_hour: float | None
    vector_bytes: int
    row_bytes: int
    index_bytes: int

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    @property
    def disk_bytes(self) -> int:
        """The collection, and an index over it."""
        return self.row_bytes + self.index_bytes

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "hours": self.hours, "disk_bytes": self.disk_bytes}

    def __str__(self) -> str:
        how = "in one process" if self.workers == 0 else f"on {self.workers} workers"
        many = f", {self.machines} machines like this one" if self.machines > 1 else ""
        lines = [
            f"{self.items:,} items {how}{many}: {said_time(self.seconds)}",
            f"  pace   {self.rows_per_s:,.1f} items/s after {self.startup_s:.0f} s to start",
        ]
        if self.cost is not None:
            lines.append(f"  money  {self.cost:,.2f} at {self.price_per_hour:g} a machine and hour")
        lines += [
            f"  disk   {said_bytes(self.disk_bytes)}: rows {said_bytes(self.row_bytes)} (of it vectors, float32 x "
            f"{self.dim}, {said_bytes(self.vector_bytes)}), an index of them {said_bytes(self.index_bytes)}",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        facts = {
            "time": said_time(self.seconds),
            "items_per_s": f"{self.rows_per_s:,.1f}",
            "start": said_time(self.startup_s),
            "workers": self.workers or "in one process",
            "machines": self.machines,
            "money": None if self.cost is None else f"{self.cost:,.2f} at {self.price_per_hour:g} a machine and hour",
            "disk": f"{said_bytes(self.disk_bytes)}: rows {said_bytes(self.row_bytes)}, index {said_bytes(self.index_bytes)}",
        }
        title = f"Embedding {self.items:,} items"
        return facts_html(title, {name: fact for name, fact in facts.items() if fact is not None})


def plan_embed(
    items: int,
    rows_per_s: float,
    startup_s: float,
    workers: int,
    dim: int,
    price: float | None = None,
    *,
    row_bytes: float | None = None,
    index_bytes: float | None = None,
    machines: int = 1,
) -> EmbedPlanReport:
    """Time, money and disk of a job.

    Args:
        rows_per_s: the pace of one machine, after the start; all its workers together.
        startup_s: from the call to the first row: workers, encoder, golden check.
        workers: of the whole job; 0 is the calling process.
        price: of a machine an hour.
        row_bytes: on disk, of a row; without it the vector, 32 bytes of HMAC, 8 of version and 24 of id.
        index_bytes: of a row in an index; without it the vector, its number and the id.
        machines: that share the rows.

    Raises:
        InvalidArguments: every number that makes no sense is named.
    """
    checks = {
        "items": items >= 0,
        "rows_per_s": rows_per_s > 0 and math.isfinite(rows_per_s),
        "startup_s": startup_s >= 0 and math.isfinite(startup_s),
        "workers": workers >= 0,
        "dim": dim >= 1,
        "price": price is None or (price >= 0 and math.isfinite(price)),
        "machines": machines >= 1,
    }
    problems = [f"{name} makes no sense" for name, good in checks.items() if not good]
    if problems:
        raise InvalidArguments(call="plan embed", problems=problems)
    seconds = startup_s + items / (rows_per_s * machines)
    return EmbedPlanReport(
        items=items,
        rows_per_s=rows_per_s * machines,
        startup_s=startup_s,
        workers=workers,
        machines=machines,
        dim=dim,
        seconds=seconds,
        cost=None if price is None else price * machines * seconds / 3600,
        price_per_hour=price,
        vector_bytes=4 * dim * items,
        row_bytes=round(items * (row_bytes if row_bytes is not None else 4 * dim + 64)),
        index_bytes=round(items * (index_bytes if index_bytes is not None else 4 * dim + 32)),
    )


@dataclass(frozen=True)
class Pace:
    """Rows a second over `steady_s` seconds of work. `margin` is the share that it may be wrong by, None where the work took
    no longer than starts differ."""

    rows_per_s: float
    steady_s: float
    margin: float | None

    def __str__(self) -> str:
        many = f"{self.steady_s:.1f} s of work"
        if self.margin is None or self.margin > _UNSURE:
            return f"the pace is not sure after {many}: a larger sample tells more"
        return f"the pace is sure to about {max(1, round(100 * self.margin))}% after {many}"


def pace_of(points: Sequence[tuple[float, int]], seconds: float, rows: int, start_s: float, noise_s: float) -> Pace:
    """The pace of a job that took `seconds` for `rows` rows that were embedded, of which `start_s` went into its start.

    Args:
        points: (seconds since the call, rows done by then), as progress told them; how even they are says how sure it is.
        start_s: what a job of the same kind takes that has nothing to do.
        noise_s: what one start may differ by from another.
    """
    steady = max(seconds - start_s, 0.05 * seconds, 1e-6)
    margin = None if seconds - start_s <= noise_s else max(_unevenness(points, seconds, start_s), noise_s / steady)
    return Pace(rows / steady, steady, margin)


def _unevenness(points: Sequence[tuple[float, int]], seconds: float, start_s: float) -> float:
    """How far the pace up to the middle of the work lies from the whole, as a share: the median over the commits there."""
    done_last = max((done for _, done in points), default=0)
    commits: list[tuple[float, int]] = []
    for at, done in points:
        if done > (commits[-1][1] if commits else 0):
            commits.append((at, done))
    shares = [((at - start_s) / (seconds - start_s), done / done_last) for at, done in commits]
    off = [abs(done / passed - 1) for passed, done in shares if 0.25 <= passed <= 0.75]
    return median(off) if off else _UNKNOWN


def said_time(seconds: float) -> str:
    """'45 s', '12 min', '3.4 hours', '5.2 days'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def said_bytes(n: float) -> str:
    """'1.5 GB', decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"
