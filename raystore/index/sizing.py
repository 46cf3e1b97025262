"""How many shards and nodes an index of N rows takes, how much memory, disk, time and money, from what `index tune` measured.

Every line of a plan says how it was reckoned. The model of time is tune/model.py; the constants below are what no tuning
measures. Checked against measured points by benchmarks/index_plan.py. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raystore.encoders.plan import said_bytes, said_time
from raystore.errors import InvalidArguments
from raystore.index.tune.model import centroids, compared, fit, grown
from raystore.index.tune.table import Trial
from raystore.markup import rows_html

PROCESS_BYTES = 512 * 2**20  # of a shard's actor before it holds anything
USABLE = 0.8  # of a node's memory
BUSY = 0.6  # of a node's time: above it queries wait for each other
HOP_MS, ACTOR_MS = 0.8, 0.5  # a scatter-gather, and what each actor in it adds (1.8 ms over two, docs/LOG.md)
SEEK_MS, BYTES_PER_MS = 0.1, 1e6  # one read of a solid-state disk, and its pace
MONTH_H = 730.0
P95_MS = 100.0

CALL = "plan"


@dataclass(frozen=True)
class Nodes:
    """What one machine has, and what an hour of it costs; `measured_cores` are those of the machine the trials ran on."""

    memory_bytes: int
    cores: int
    measured_cores: int
    price: float | None = None


@dataclass(frozen=True)
class Line:
    name: str
    said: str
    how: str


@dataclass(frozen=True)
class Placement:
    """One kind, cut into `shards` of `trial.rows` rows each, `replicas` of each, one a node. Bytes are those of all nodes."""

    trial: Trial  # as foretold for one shard
    shards: int
    replicas: int
    shard_ms: float  # of a node, for one query
    p95_ms: float  # of a query, from the asking process
    read_ms: float  # of both, what is read from disk because it does not fit in memory
    memory_bytes: float
    disk_bytes: float
    build_s: float
    cost_month: float | None

    @property
    def nodes(self) -> int:
        return self.shards * self.replicas

    @property
    def row(self) -> dict[str, Any]:
        return {
            "kind": self.trial.setting,
            "shards": self.shards,
            "replicas": self.replicas,
            "nodes": self.nodes,
            "memory": said_bytes(self.memory_bytes),
            "disk": said_bytes(self.disk_bytes),
            "p95 ms": f"{self.p95_ms:.1f}",
            "build": said_time(self.build_s),
            "a month": "" if self.cost_month is None else f"{self.cost_month:,.0f}",
        }


@dataclass(frozen=True)
class IndexPlan:
    """The cheapest placement that keeps what was asked, line by line, and the best of every other kind."""

    rows: int
    dim: int
    recall: float
    qps: float
    chosen: Placement
    lines: tuple[Line, ...]
    others: tuple[Placement, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""

        def plain(placement: Placement) -> dict[str, Any]:
            return {**asdict(placement), "trial": placement.trial.model_dump(mode="json"), "nodes": placement.nodes}

        return {
            **{name: getattr(self, name) for name in ("rows", "dim", "recall", "qps")},
            "chosen": plain(self.chosen),
            "lines": [asdict(line) for line in self.lines],
            "others": [plain(each) for each in self.others],
        }

    @property
    def title(self) -> str:
        return f"{self.rows:,} rows of {self.dim} numbers at recall {self.recall:g}, {self.qps:g} queries a second"

    def __str__(self) -> str:
        wide = max(len(line.name) for line in self.lines)
        far = max(len(line.said) for line in self.lines)
        return "\n".join([self.title, *(f"  {x.name:<{wide}}  {x.said:<{far}}  {x.how}" for x in self.lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = rows_html([asdict(line) for line in self.lines], title=self.title)
        return lines + rows_html([each.row for each in self.others], title="The other kinds") if self.others else lines


def plan_index(
    rows: int,
    trials: Sequence[Trial],
    nodes: Nodes,
    *,
    qps: float,
    dim: int | None = None,
    recall: float = 0.95,
    p95_ms: float = P95_MS,
    replicas: int = 1,
    k: int = 10,
) -> IndexPlan:
    """The placement with the fewest nodes over all kinds, shards and replicas; of as many nodes, the one that holds least.

    Args:
        trials: of one tuning, at one size or more; those of the largest are scaled, the others tell how things grow.
        p95_ms: within which a query is to be answered, hop included.
        replicas: at least so many of each shard, for nodes that die.

    Raises:
        InvalidArguments: numbers that make no sense, a recall that nothing measured reaches, or demands that no placement
            keeps, with the nearest.
    """
    _check(rows, trials, nodes, qps, dim, recall, p95_ms, replicas)
    asked = _Asked(rows, dim or trials[0].dim, recall, qps, p95_ms, replicas, k, nodes)
    size = max(each.rows for each in trials)
    reaching = [each for each in trials if each.rows == size and each.recall_low >= recall]
    if not reaching:
        most = max((each for each in trials if each.rows == size), key=lambda each: each.recall_low)
        problem = f"nothing measured reaches recall {recall:g}, the nearest is {most.setting} with {most.said_recall}"
        raise InvalidArguments(call=CALL, problems=[problem])
    every = [placement for trial in reaching for placement in _placements(trial, trials, asked)]
    keeping = [each for each in every if each.p95_ms <= p95_ms]
    if not keeping:
        raise InvalidArguments(call=CALL, problems=[_nearest(every, asked)])
    best: dict[str, Placement] = {}
    for placement in sorted(keeping, key=_rank):
        best.setdefault(placement.trial.kind, placement)
    chosen, *others = best.values()
    return IndexPlan(rows, asked.dim, recall, qps, chosen, tuple(_lines(chosen, trials, asked)), tuple(others))


@dataclass(frozen=True)
class _Asked:
    rows: int
    dim: int
    recall: float
    qps: float
    p95_ms: float
    replicas: int
    k: int
    nodes: Nodes

    @property
    def room(self) -> float:
        return USABLE * self.nodes.memory_bytes - PROCESS_BYTES


def _rank(placement: Placement) -> tuple[float, ...]:
    return placement.nodes, placement.memory_bytes, placement.p95_ms


def _placements(trial: Trial, trials: Sequence[Trial], asked: _Asked) -> Iterator[Placement]:
    """From the fewest shards that fit to many times as many: more of them are quicker, and each query visits them all."""
    model = fit(trials, trial.kind, trial.refine, asked.recall)
    shards = 1
    while asked.room > 0 and shards <= asked.rows:
        shard = grown(trial, model, math.ceil(asked.rows / shards), asked.dim)
        if shard.memory_bytes * shard.rows > asked.room:  # as many as it takes, at once
            shards = max(shards + 1, math.floor(shards * shard.memory_bytes * shard.rows / asked.room))
            continue
        placement = _placement(shard, shards, asked)
        yield placement
        if placement.shard_ms < ACTOR_MS or shards > 10_000:  # smaller ones would cost more to ask than to search
            return
        shards = math.ceil(shards * 1.25)


def _placement(shard: Trial, shards: int, asked: _Asked) -> Placement:
    nodes = asked.nodes
    read_ms = _read_ms(shard, asked)
    shard_ms = shard.p50_ms + read_ms  # FAISS searches one query on one core, and an actor one query at a time
    replicas = max(asked.replicas, math.ceil(asked.qps * shard_ms / 1000 / BUSY))
    machines = shards * replicas
    return Placement(
        trial=shard,
        shards=shards,
        replicas=replicas,
        shard_ms=shard_ms,
        p95_ms=shard.p95_ms + read_ms + HOP_MS + ACTOR_MS * shards,
        read_ms=read_ms,
        memory_bytes=machines * (shard.memory_bytes * shard.rows + PROCESS_BYTES),
        disk_bytes=machines * shard.disk_bytes * shard.rows,
        build_s=shard.build_s * nodes.measured_cores / nodes.cores,
        cost_month=None if nodes.price is None else nodes.price * machines * MONTH_H,
    )


def _read_ms(shard: Trial, asked: _Asked) -> float:
    """What a query reads from disk because the files do not fit beside the codes in the node's memory: the trials' were warm."""
    files = shard.disk_bytes * shard.rows
    cold = max(0.0, 1 - max(0.0, asked.room - shard.memory_bytes * shard.rows) / max(files, 1))
    seeks = shard.refine * asked.k if shard.refine > 1 else 0
    scanned = 0.0
    if shard.kind == "exact":
        scanned = 4.0 * shard.dim * shard.rows
    elif shard.kind == "disk":
        scanned, seeks = (shard.dim + 8.0) * compared(shard), seeks + (shard.probes or 0)
    elif shard.refine == 1:
        seeks = asked.k  # the canonical scores of what is returned
    return cold * (seeks * SEEK_MS + scanned / BYTES_PER_MS)


def _lines(placement: Placement, trials: Sequence[Trial], asked: _Asked) -> Iterator[Line]:
    shard, nodes = placement.trial, asked.nodes
    model = fit(trials, shard.kind, shard.refine, asked.recall)
    held, room = shard.memory_bytes * shard.rows, said_bytes(asked.room)
    sizes = " and ".join(f"{size:,}" for size in sorted({each.rows for each in trials if each.kind == shard.kind}))
    yield Line("kind", shard.setting, f"measured at {sizes} rows: recall {shard.said_recall}")
    yield Line(
        "shards",
        f"{placement.shards:,}",
        f"{asked.rows:,} rows / {placement.shards:,} = {shard.rows:,} a shard, one a node",
    )
    yield Line(
        "memory of one",
        said_bytes(held),
        f"{shard.memory_bytes:.1f} bytes x {shard.rows:,} rows; a node has room for {room}: {USABLE:.0%} of "
        f"{said_bytes(nodes.memory_bytes)} less {said_bytes(PROCESS_BYTES)}",
    )
    told = "measured" if model.sizes > 1 else "assumed"
    if shard.probes is not None:
        what = "ef" if shard.nlist is None else "lists"
        yield Line("probes", f"{shard.probes:,} {what}", f"grow with rows^{model.growth:.2f} ({told})")
    parts = f"{model.fixed_ms:.3g} + {compared(shard):,.0f} rows x {model.row_ms * 1e6:.3g} ns"
    parts += f" + {centroids(shard):,.0f} centroids x {model.centroid_ms * 1e6:.3g} ns" if shard.nlist else ""
    reads = f" + {placement.read_ms:.2g} ms of reads" if placement.read_ms >= 0.01 else ""
    yield Line(
        "one query",
        f"{placement.shard_ms:.2f} ms",
        f"{parts} ms, {shard.p50_ms:.3g} ms by the point that was measured, on one core{reads}",
    )
    yield Line(
        "replicas",
        f"{placement.replicas:,}",
        f"{asked.qps:g} a second x {placement.shard_ms:.2f} ms / {BUSY:.0%} busy, at least {asked.replicas}",
    )
    yield Line("nodes", f"{placement.nodes:,}", f"{placement.shards:,} shards x {placement.replicas:,} replicas")
    yield Line(
        "p95",
        f"{placement.p95_ms:.1f} ms",
        f"{shard.p95_ms:.3g} ms in a shard{reads} + {HOP_MS:g} ms of hop + {ACTOR_MS:g} ms x {placement.shards:,} shards",
    )
    asking = max(1, math.ceil(asked.qps * (HOP_MS + ACTOR_MS * placement.shards) / 1000 / BUSY))
    yield Line(
        "asking",
        f"{asking:,} processes",
        f"{asked.qps:g} a second x ({HOP_MS:g} + {ACTOR_MS:g} x {placement.shards:,}) ms / {BUSY:.0%} busy",
    )
    yield Line(
        "memory",
        said_bytes(placement.memory_bytes),
        f"{placement.nodes:,} x ({said_bytes(held)} + {said_bytes(PROCESS_BYTES)})",
    )
    yield Line(
        "disk",
        said_bytes(placement.disk_bytes),
        f"{placement.nodes:,} x {shard.rows:,} rows x {shard.disk_bytes:,.0f} bytes, of it the vector {4 * asked.dim:,}",
    )
    yield Line(
        "build",
        said_time(placement.build_s),
        f"all shards at once, each on a node: {shard.build_s:,.0f} s by the point that was measured, growing with "
        f"rows^{model.build_growth:.2f} ({told}), x {nodes.measured_cores} / {nodes.cores} cores",
    )
    if placement.cost_month is not None:
        yield Line(
            "money",
            f"{placement.cost_month:,.0f} a month",
            f"{placement.nodes:,} nodes x {nodes.price:g} an hour x {MONTH_H:g} hours",
        )


def _nearest(every: Sequence[Placement], asked: _Asked) -> str:
    if not every:
        return (
            f"a node with {said_bytes(asked.nodes.memory_bytes)} holds no shard: {USABLE:.0%} of it less "
            f"{said_bytes(PROCESS_BYTES)} of a process leaves {said_bytes(max(0.0, asked.room))}; take larger nodes"
        )
    nearest = min(every, key=lambda each: each.p95_ms)
    return (
        f"no placement answers within {asked.p95_ms:g} ms at p95, the nearest is {nearest.trial.setting} in "
        f"{nearest.shards:,} shards with {nearest.p95_ms:.1f} ms"
    )


def _check(
    rows: int,
    trials: Sequence[Trial],
    nodes: Nodes,
    qps: float,
    dim: int | None,
    recall: float,
    p95_ms: float,
    replicas: int,
) -> None:
    checks = {
        f"rows is {rows}, expected a number from 1": rows >= 1,
        f"dim is {dim}, expected a number from 1": dim is None or dim >= 1,
        f"recall is {recall:g}, expected more than 0 and at most 1": 0 < recall <= 1,
        f"qps is {qps:g}, expected more than 0": qps > 0 and math.isfinite(qps),
        f"p95_ms is {p95_ms:g}, expected more than 0": p95_ms > 0,
        f"replicas is {replicas}, expected a number from 1": replicas >= 1,
        f"a node has {nodes.cores} cores, expected at least one": nodes.cores >= 1,
        "there is no tuning to reckon from, run `raystore index tune COLLECTION` first": bool(trials),
    }
    problems = [problem for problem, good in checks.items() if not good]
    if problems:
        raise InvalidArguments(call=CALL, problems=problems)
