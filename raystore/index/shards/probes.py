"""How many lists to visit and how many rows to refine, chosen on a sample of a shard's own rows.

Recall is by score: a row that scores as high as the tenth counts as found, so that duplicates do not spoil the measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from raystore.index.kinds import TABLE, code_bytes
from raystore.index.shards.exact import Positions, Scores, score_candidates
from raystore.index.shards.hnsw import Graph
from raystore.index.shards.shard import Shard

_SAMPLE = 256
_K = 10
_MARGIN = 0.02  # over the target, so that other queries stay above it
_FEWEST_EF, _MOST_EF = 16, 1_024
_FIRST_PROBES = 32  # at most: of 17,000 lists even a 500th can be enough
_ROUNDING = (
    1e-6  # of float32 scores, by which rows are compared here: with canonical ones the choosing took 1.4 times as long
)
_READ = {
    "disk": 16
}  # bytes of codes that cost what a byte of a refined vector costs, else 1: there a block is read for a row


class Chosen(NamedTuple):
    """The recall is that of the sample."""

    probes: int
    refine: int
    recall: float


def choose_probes(shard: Shard, target_recall: float) -> Chosen:
    """The cheapest probes and refine with which a sample of the shard's rows finds its 10 neighbours often enough; the best
    there are, where none do.

    Each row's first neighbour is itself and free, so it is left out of the count. Cost is counted, not measured: bytes of
    codes in the visited lists, and of the vectors that are read to refine.
    Cost: an exact search of 256 queries, and about twenty approximate ones.
    """
    n, most = shard.rows, shard.nlist or 1
    wanted = min(_K, n - 1)
    if not wanted:
        return Chosen(1, TABLE[shard.kind].refine, 1.0)
    sample = np.unique(np.linspace(0, n - 1, min(_SAMPLE, n)).astype(np.int64))
    queries = shard.vectors_at(sample)
    least = _without_itself(*shard.nearest(queries, wanted + 1), sample)[:, wanted - 1]
    least -= _ROUNDING * np.maximum(1, np.abs(least))
    target = min(1.0, target_recall + _MARGIN)
    refines = _refines(TABLE[shard.kind].refine)
    best: tuple[float, Chosen] | None = None
    reached = Chosen(most, refines[-1], 0.0)
    for probes in _steps(max(1, min(most // 64, _FIRST_PROBES)), most):
        scanned = (code_bytes(shard.kind, shard.dim) or shard.dim) * n * probes / most
        if best is not None and scanned >= best[0]:
            break
        nominated = shard.nominate(queries, (wanted + 1) * refines[-1], probes)
        scores = shard.rough_scores(queries, nominated)
        for refine in refines:
            kept = (wanted + 1) * refine
            hits = _without_itself(nominated[:, :kept], scores[:, :kept], sample)[:, :wanted] >= least[:, None]
            recall = round(float(hits.mean()), 4)
            reached = max(reached, Chosen(probes, refine, recall), key=lambda chosen: chosen.recall)
            cost = scanned + (kept * shard.dim * 4 * _READ.get(shard.kind, 1) if refine > 1 else 0.0)
            if recall >= target and (best is None or cost < best[0]):
                best = (cost, Chosen(probes, refine, recall))
    return reached if best is None else best[1]


def choose_ef(graph: Graph, whole: Shard, target_recall: float) -> Chosen:
    """The least ef with which the rows that the graph does not hold yet find their 10 neighbours among those it does.

    `whole` is the exact shard of all the rows. Cost: an exact search of at most 256 queries, and a few of the graph.
    """
    held = graph.held
    wanted = min(_K, whole.rows - len(held))
    if not len(held):
        return Chosen(_FEWEST_EF, 1, 1.0)
    queries = whole.vectors_at(held)
    least = whole.search(queries, wanted, without=whole.row_ids[held]).scores[:, wanted - 1]
    reached = Chosen(_FEWEST_EF, 1, 0.0)
    for ef in _steps(_FEWEST_EF, min(_MOST_EF, max(_FEWEST_EF, whole.rows))):
        nominated = graph.nominate(queries, wanted, None, ef)
        hits = score_candidates(queries, nominated, whole.vectors_at, whole.metric) >= least[:, None]
        reached = max(reached, Chosen(ef, 1, round(float(hits.mean()), 4)), key=lambda chosen: chosen.recall)
        if reached.recall >= min(1.0, target_recall + _MARGIN):
            break
    return reached


def _steps(probes: int, most: int) -> Iterator[int]:
    """A quarter more each time, up to `most`."""
    while probes < most:
        yield probes
        probes += max(1, probes // 4)
    yield most


def _refines(usual: int) -> list[int]:
    """The kind's own number of rows a neighbour, half and twice and four times as many; 1 where nothing is refined."""
    return [1] if usual == 1 else sorted({max(1, usual // 2), usual, 2 * usual, 4 * usual})


def _without_itself(positions: Positions, scores: Scores, sample: Positions) -> Scores:
    """Scores highest first, without each query's own row."""
    others = np.where(positions == sample[:, None], np.float32(-np.inf), scores)
    return -np.sort(-others, axis=1)
