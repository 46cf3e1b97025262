"""What a search and a build cost at a size that was not measured, from trials at sizes that were. Pure arithmetic.

The model, of one kind, in one shard of n rows:

    time of a query    fixed + centroids * t + compared * s      compared = probes * n / lists (exact: n; hnsw: ef * log2 n)
    lists              as the build makes them, 4 or 8 * sqrt(n)
    probes             grow with n to the power `growth`, at equal recall
    build              grows with n to the power `build_growth`

t is what comparing one whole vector takes, told by the exact kind; fixed and s are fitted to the trials of that kind with all
their probes; the two powers come from trials at two sizes, where there are such. Every measured point is kept: what is
foretold is the measured time, scaled by the ratio of the model at the two sizes. Checked by benchmarks/index_plan.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raystore.index.kinds import TABLE, code_bytes
from raystore.index.shards import ivf, lists
from raystore.index.tune.table import Trial

GROWTH = 0.25  # probes are taken to grow as the root of the lists where trials at one size cannot tell
BUILD_GROWTH = 1.25
_FLAT_LISTS = 4_096  # of kind disk: from so many on the centroids are found through a graph, in logarithmically many visits
_GRAPH_VISITS = 512
_BUILD_RANGE = (1.0, 1.5)  # between a pass over the rows and all rows against all of 4 * sqrt(n) centroids


@dataclass(frozen=True)
class Model:
    """What a query of one kind costs, in milliseconds; see the head of the file."""

    fixed_ms: float
    row_ms: float
    centroid_ms: float
    growth: float
    build_growth: float
    sizes: int  # at how many sizes it was measured

    def ms(self, trial: Trial) -> float:
        return self.fixed_ms + self.centroid_ms * centroids(trial) + self.row_ms * compared(trial)


def compared(trial: Trial) -> float:
    """The rows whose codes a query looks at."""
    if trial.nlist is None:
        return float(trial.rows) if trial.probes is None else trial.probes * math.log2(max(2, trial.rows))
    return min(1.0, (trial.probes or 1) / trial.nlist) * trial.rows


def centroids(trial: Trial) -> float:
    """The centroids a query is compared with."""
    if trial.nlist is None:
        return 0.0
    if trial.kind != "disk" or trial.nlist < _FLAT_LISTS:
        return float(trial.nlist)
    return _GRAPH_VISITS * math.log2(trial.nlist) / math.log2(_FLAT_LISTS)


def fit(trials: Sequence[Trial], kind: str, refine: int, recall: float) -> Model:
    """The model of that kind and refinement, from all trials, of which some are of the kind "exact"."""
    mine = [each for each in trials if each.kind == kind and each.refine == refine]
    exact = [each.p50_ms / each.rows for each in trials if each.kind == "exact"]
    growth, build_growth, sizes = _powers(_two_sizes(trials, kind) or mine, recall)
    # What the centroids take is known from the exact kind. It is never all of a search: on a busy machine, where the exact
    # searches were slowed more than the others, it would be.
    visited = [0.9 * each.p50_ms / centroids(each) for each in mine if centroids(each)]
    centroid_ms = min([*exact, *visited]) if exact and visited else 0.0
    y = np.array([each.p50_ms - centroid_ms * centroids(each) for each in mine])
    x = np.array([compared(each) for each in mine])
    fixed_ms, row_ms = _line(x, y)
    return Model(fixed_ms, row_ms, centroid_ms, growth, build_growth, sizes)


def _two_sizes(trials: Sequence[Trial], kind: str) -> list[Trial]:
    """Trials of one setting at two sizes: of the kind itself, or of another with lists, whose probes grow as this one's do."""
    for other in [kind, *(each for each in TABLE if each != kind)]:
        if other != kind and not (TABLE[kind].in_lists and TABLE[other].in_lists):
            continue
        for refine in sorted({each.refine for each in trials if each.kind == other}):
            mine = [each for each in trials if (each.kind, each.refine) == (other, refine)]
            if len({each.rows for each in mine}) > 1:
                return mine
    return []


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """fixed and slope, neither negative, of least relative error, so that the quick settings count as much as the slow."""
    if len(x) > 1 and np.ptp(x) > 0:
        weight = 1 / y
        (fixed, slope), *_ = np.linalg.lstsq(np.stack([weight, x * weight], axis=1), np.ones(len(x)), rcond=None)
        if fixed >= 0 and slope >= 0:
            return float(fixed), float(slope)
        if slope < 0:
            return float(np.median(y)), 0.0
    return 0.0, float(np.median(y / np.maximum(x, 1)))


def _powers(trials: Sequence[Trial], recall: float) -> tuple[float, float, int]:
    """How probes (at equal recall) and build time grow with the rows, from the smallest and the largest size measured."""
    sizes = sorted({each.rows for each in trials})
    if len(sizes) < 2:
        return GROWTH, BUILD_GROWTH, len(sizes)
    few, many = ([each for each in trials if each.rows == size] for size in (sizes[0], sizes[-1]))
    apart = math.log(sizes[-1] / sizes[0])
    growth = GROWTH
    a, b = probes_for(few, recall), probes_for(many, recall)
    if a is not None and b is not None:
        growth = float(np.clip(math.log(b / a) / apart, 0.0, 0.5))
    ratio = math.log(max(many[0].build_s, 1e-3) / max(few[0].build_s, 1e-3)) / apart
    return growth, float(np.clip(ratio, *_BUILD_RANGE)), len(sizes)


def probes_for(trials: Sequence[Trial], recall: float) -> float | None:
    """The probes that would just reach that recall, between the trials of one kind and size; None where none does."""
    ordered = sorted((each for each in trials if each.probes), key=lambda each: each.probes or 0)
    for before, after in zip([None, *ordered], ordered, strict=False):
        if after.recall < recall:
            continue
        if before is None or after.recall == before.recall:
            return float(after.probes or 1)
        share = (recall - before.recall) / (after.recall - before.recall)
        return math.exp((1 - share) * math.log(before.probes or 1) + share * math.log(after.probes or 1))
    return None


def grown(trial: Trial, model: Model, rows: int, dim: int | None = None) -> Trial:
    """The trial as it is foretold for a shard of `rows` rows (of `dim` numbers); itself where nothing differs."""
    dim = dim or trial.dim
    if rows == trial.rows and dim == trial.dim:
        return trial
    times = rows / trial.rows
    nlist = (
        trial.nlist
        if trial.nlist is None
        else max(1, round(trial.nlist * _lists(trial.kind, rows) / _lists(trial.kind, trial.rows)))
    )
    probes = trial.probes
    if probes is not None:
        probes = max(1, round(probes * times**model.growth))
        probes = probes if nlist is None else min(probes, nlist)
    wide = dim / trial.dim
    larger = trial.model_copy(update={"rows": rows, "dim": dim, "nlist": nlist, "probes": probes})
    slower = model.ms(larger) / max(model.ms(trial), 1e-9) * wide
    # A vector's part of the centroids and code books falls as rows come; its code, and the links of a graph, stay.
    vectors = 4.0 * trial.dim * (trial.nlist or 0) / trial.rows
    beside = max(0.0, trial.memory_bytes - code_bytes(trial.kind, trial.dim) - vectors) * wide
    beside /= times if trial.nlist is not None else 1.0
    memory = code_bytes(trial.kind, dim) + beside + 4.0 * dim * (nlist or 0) / rows
    return larger.model_copy(
        update={
            "p50_ms": trial.p50_ms * slower,
            "p95_ms": trial.p95_ms * slower,
            "queries_per_s": trial.queries_per_s / slower,
            "memory_bytes": memory,
            "disk_bytes": trial.disk_bytes * wide,
            "build_s": trial.build_s * times**model.build_growth * wide,
        }
    )


def _lists(kind: str, rows: int) -> int:
    return lists.list_count(rows) if kind == "disk" else ivf.list_count(rows)
