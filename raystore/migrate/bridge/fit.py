"""Maps between two encoders' spaces, fitted on pairs, measured on pairs held out, the best one chosen. Knows no store.

Of up to 5,000 pairs each is held out once, in five folds; of more, 4,000 are held out. Rows that are searched are always bridged by
a map that did not see them: seen ones lie up to 3 points nearer to the truth. What is kept is then fitted on all pairs. The
fidelity is that of the best of the kinds tried, by the very pairs it was chosen on: with three kinds and hundreds of queries that
flatters it by less than its interval. A query is mapped while somebody waits: of the back direction, kinds that take more than
50 us for one are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raystore.encoders.bridged import Bridge, Direction
from raystore.encoders.vector_map import KINDS, MapKind, VectorMap
from raystore.errors import InvalidArguments
from raystore.migrate.bridge.fidelity import Fidelity, halved, look, summed
from raystore.migrate.bridge.linear import RANKS, RIDGES, Ridge, procrustes
from raystore.migrate.bridge.mlp import Side, residual_mlp
from raystore.vectors import Matrix, mark

LEAST_PAIRS = 100
_FOLDED = 5_000  # pairs up to which all are held out in turn
_FOLDS = 5
_HELD_OUT = 4_000
# Of the pairs that a map is fitted on, those that ridge, rank and round are chosen by: of 40, the 10 nearest say little.
_VALIDATION = 0.1
_LEAST_VALIDATION, _MOST_VALIDATION = 150, 2_000
# The MLP is tried by itself from so many: of 500 it found 3 points fewer than the linear ones, in a hundred times the time.
_MLP_PAIRS = 1_000
_GAIN = 0.002  # a kind must find so much more than a simpler one
_REPEATS, _TIMED_S = 1_000, 0.25  # of one query through a bridge, to time it

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """n items with a vector of each encoder: `old` (n, d), `new` (n, m) float32 unit rows; `labels` (n,) codes, -1 where none."""

    old: Matrix
    new: Matrix
    labels: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.old)

    def take(self, rows: Rows) -> Pairs:
        return Pairs(self.old[rows], self.new[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True, eq=False)
class Fitted:
    """The map that was chosen, fitted on all pairs; its fidelity, and that of every kind that was tried."""

    map: VectorMap
    fidelity: Fidelity
    tried: tuple[Fidelity, ...]


def fit_direction(
    direction: Direction,
    pairs: Pairs,
    *,
    kinds: Sequence[str] | None = None,
    held_out: int | None = None,
    rows: int = 0,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Fitted:
    """The best map of one direction.

    Args:
        kinds: of "procrustes", "low-rank" and "mlp"; None tries all, the last from 1,000 pairs.
        held_out: pairs that are asked and never fitted while it is measured; None is by the rule above.
        rows: of the collection that it is for: what is found of them is judged by.
        advance: called after each kind.

    Raises:
        InvalidArguments: an unknown kind, or fewer than 100 pairs.

    Cost: 20,000 pairs of 384 numbers, the linear kinds 5 s and the MLP 2 minutes on two idle cores.
    """
    chosen = check_kinds(kinds, len(pairs))
    folds = _folds(len(pairs), seed, held_out)
    tried = []
    for kind in chosen:
        tried.append(replace(_measured(direction, kind, pairs, folds, seed), rows=rows))
        advance()
    best = choose(tried)
    final = replace(best, pairs=len(pairs))
    map_ = fit_map(direction, best.kind, pairs, seed)
    return Fitted(map_, final, tuple(final if each is best else each for each in tried))


def choose(tried: Sequence[Fidelity]) -> Fidelity:
    """The kind that is taken, of those tried from the simplest to the most able: one that finds more than every simpler one does.

    Kinds that are too slow for a query are left out; where all are, the quickest is taken.
    """
    quick = [each for each in tried if not each.too_slow] or [min(tried, key=lambda each: each.us)]
    best = quick[0]
    for fidelity in quick[1:]:
        best = fidelity if fidelity.recall > best.recall + _GAIN else best
    return best


def check_kinds(kinds: Sequence[str] | None, pairs: int) -> list[MapKind]:
    """The kinds, from the simplest to the most able. InvalidArguments names everything that is wrong."""
    able = [kind for kind in KINDS if kind != "mlp" or pairs >= _MLP_PAIRS]
    asked = able if kinds is None else [kinds] if isinstance(kinds, str) else list(kinds)
    problems = [
        f"kinds= names '{str(kind)[:20]}', expected some of {', '.join(KINDS)}" for kind in asked if kind not in KINDS
    ]
    if not asked:
        problems.append(f"kinds= is empty, expected some of {', '.join(KINDS)}")
    if pairs < LEAST_PAIRS:
        problems.append(
            f"{pairs:,} different rows have a vector of both encoders, and a bridge is fitted on {LEAST_PAIRS} at least: "
            "add the new encoder to the collection, and log or embed some more rows with both"
        )
    if problems:
        raise InvalidArguments(call="build_bridge", problems=problems)
    return [kind for kind in KINDS if kind in asked]


def fit_map(direction: Direction, kind: str, pairs: Pairs, seed: int) -> VectorMap:
    """The map of one kind, on these pairs. Ridge, rank and round are chosen on some of them; a linear one is then fitted on all."""
    x, y = (pairs.old, pairs.new) if direction == "forward" else (pairs.new, pairs.old)
    if kind == "procrustes":
        return procrustes(x, y)
    order = np.random.default_rng([seed, 1]).permutation(len(pairs))
    n_val = min(max(int(_VALIDATION * len(pairs)), _LEAST_VALIDATION), len(pairs) // 3, _MOST_VALIDATION)
    val, fit = np.sort(order[:n_val]), np.sort(order[n_val:])
    part = Ridge(x[fit], y[fit])
    weight, rank = _ridge(direction, part, x[val], y[val])
    if kind == "low-rank":
        return Ridge(x, y).map(weight, rank)
    side: Side = "rows" if direction == "forward" else "queries"
    return residual_mlp(part.map(weight), x[fit], y[fit], x[val], y[val], side=side, seed=seed)


def microseconds(direction: Direction, map_: VectorMap) -> float:
    """What the whole of `Bridge.ask` takes for one query: the least of up to 1,000 calls in a quarter of a second.

    What else the machine does can only add to a call, so it moves the least of many last: the median of a call of 67 us was
    124 ms beside other work.
    """
    bridge = Bridge("bridge", "timed", direction, "source", "target", map_, {})
    query = mark(np.full((1, map_.takes), map_.takes**-0.5, dtype=np.float32), bridge.source)
    least, until = float("inf"), time.perf_counter() + _TIMED_S
    for _ in range(_REPEATS):
        began = time.perf_counter()
        bridge.ask(query)
        ended = time.perf_counter()
        least = min(least, ended - began)
        if ended > until:
            break
    return 1e6 * least


def _ridge(direction: Direction, ridge: Ridge, x: Matrix, y: Matrix) -> tuple[float, float]:
    """The weight and rank that find most of the validation pairs' neighbours among them; the cosine decides between equals."""

    def reached(weight: float, rank: float) -> tuple[float, float]:
        own = np.arange(len(x))
        found = look(direction, ridge.map(weight, rank).apply(x), y, y, own)
        return float(found.recalls.mean()), float(found.cosines.mean())

    weight = max(RIDGES, key=lambda each: reached(each, 1.0))
    return weight, max(RANKS, key=lambda each: reached(weight, each))


def _measured(direction: Direction, kind: str, pairs: Pairs, folds: list[tuple[Rows, Rows]], seed: int) -> Fidelity:
    """The fidelity of one kind, each held-out pair bridged by a map that was fitted without it."""
    bridged = np.empty((pairs.new if direction == "forward" else pairs.old).shape, dtype=np.float32)
    maps = []
    for fit, out in folds:
        maps.append(fit_map(direction, kind, pairs.take(fit), seed))
        bridged[out] = maps[-1].apply((pairs.old if direction == "forward" else pairs.new)[out])
    held = np.sort(np.concatenate([out for _, out in folds]))
    true = (pairs.new if direction == "forward" else pairs.old)[held]
    labels = None if pairs.labels is None else pairs.labels[held]
    if direction == "forward":
        gallery, places, known = true, np.arange(len(held)), labels
    else:
        gallery, places, known = pairs.old, held, pairs.labels
    found = look(direction, bridged[held], true, gallery, places, known, labels)
    falls = halved(direction, bridged[held], true, gallery, places) - float(found.recalls.mean())
    measured = summed(direction, kind, len(folds[0][0]), len(gallery), [found])
    largest = max(maps, key=lambda each: each.outer is not None)  # an MLP that found nothing to add stays a linear map
    return replace(measured, falls=falls, us=microseconds(direction, largest))


def _folds(n: int, seed: int, held_out: int | None = None) -> list[tuple[Rows, Rows]]:
    """(fitted on, held out), ascending rows."""
    order = np.random.default_rng([seed, 0]).permutation(n).astype(np.int64)
    folded = held_out is None and n <= _FOLDED
    outs = np.array_split(order, _FOLDS) if folded else [order[: held_out or _HELD_OUT]]
    return [(np.sort(np.setdiff1d(order, out)), np.sort(out)) for out in outs]
