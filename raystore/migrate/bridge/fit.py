"""Maps between two encoders' spaces, fitted on pairs, measured on pairs held out, the best one chosen. Knows no store.

Of up to 5,000 pairs each is held out once, in five folds; of more, 4,000 are held out. Rows that are searched are always bridged by
a map that did not see them: seen ones lie up to 3 points nearer to the truth. What is kept is then fitted on all pairs. The
fidelity is that of the best of the kinds tried, by the very pairs it was chosen on: with three kinds and hundreds of queries that
flatters it by less than its interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raystore.encoders.bridged import Direction
from raystore.encoders.vector_map import KINDS, MapKind, VectorMap
from raystore.errors import InvalidArguments
from raystore.migrate.bridge.fidelity import Fidelity, Found, look, nearest, summed
from raystore.migrate.bridge.linear import RANKS, RIDGES, Ridge, procrustes
from raystore.migrate.bridge.mlp import Side, residual_mlp
from raystore.vectors import Matrix

LEAST_PAIRS = 100
_FOLDED = 5_000  # pairs up to which all are held out in turn
_FOLDS = 5
_HELD_OUT = 4_000
_VALIDATION = 0.1  # of the pairs that a map is fitted on, to choose ridge, rank and round by
_MOST_VALIDATION = 2_000
_GAIN = 0.002  # a kind must find so much more than a simpler one

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
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Fitted:
    """The best map of one direction.

    Args:
        kinds: of "procrustes", "low-rank" and "mlp"; None tries all.
        held_out: pairs that are asked and never fitted while it is measured; None is by the rule above.
        advance: called after each kind.

    Raises:
        InvalidArguments: an unknown kind, or fewer than 100 pairs.

    Cost: 20,000 pairs of 384 numbers, the linear kinds 5 s and the MLP 2 minutes on two idle cores.
    """
    chosen = check_kinds(kinds, len(pairs))
    folds = _folds(len(pairs), seed, held_out)
    tried = []
    for kind in chosen:
        tried.append(_measured(direction, kind, pairs, folds, seed))
        advance()
    best = tried[0]
    for fidelity in tried[1:]:  # from the simplest to the most able
        best = fidelity if fidelity.recall > best.recall + _GAIN else best
    final = fit_map(direction, best.kind, pairs, seed)
    timed = replace(best, pairs=len(pairs), us=microseconds(final))
    return Fitted(final, timed, tuple(timed if each is best else each for each in tried))


def check_kinds(kinds: Sequence[str] | None, pairs: int) -> list[MapKind]:
    """The kinds, from the simplest to the most able. InvalidArguments names everything that is wrong."""
    asked = list(KINDS) if kinds is None else [kinds] if isinstance(kinds, str) else list(kinds)
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
    """The map of one kind, on these pairs. Ridge, rank and round are chosen on a tenth of them; a linear one is then fitted on all."""
    x, y = (pairs.old, pairs.new) if direction == "forward" else (pairs.new, pairs.old)
    if kind == "procrustes":
        return procrustes(x, y)
    order = np.random.default_rng([seed, 1]).permutation(len(pairs))
    n_val = min(max(int(_VALIDATION * len(pairs)), 20), _MOST_VALIDATION)
    val, fit = np.sort(order[:n_val]), np.sort(order[n_val:])
    part = Ridge(x[fit], y[fit])
    weight, rank = _ridge(direction, part, x[val], y[val])
    if kind == "low-rank":
        return Ridge(x, y).map(weight, rank)
    side: Side = "rows" if direction == "forward" else "queries"
    return residual_mlp(part.map(weight), x[fit], y[fit], x[val], y[val], side=side, seed=seed)


def microseconds(map_: VectorMap) -> float:
    """What one vector takes, the median of 200 one after the other."""
    row = np.full((1, map_.takes), map_.takes**-0.5, dtype=np.float32)
    taken = []
    for _ in range(200):
        began = time.perf_counter()
        map_.apply(row)
        taken.append(time.perf_counter() - began)
    return 1e6 * float(np.median(taken))


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
    for fit, out in folds:
        map_ = fit_map(direction, kind, pairs.take(fit), seed)
        bridged[out] = map_.apply((pairs.old if direction == "forward" else pairs.new)[out])
    held = np.sort(np.concatenate([out for _, out in folds]))
    true = (pairs.new if direction == "forward" else pairs.old)[held]
    labels = None if pairs.labels is None else pairs.labels[held]
    if direction == "forward":
        found = look(direction, bridged[held], true, true, np.arange(len(held)), labels, labels)
    else:
        found = look(direction, bridged[held], true, pairs.old, held, pairs.labels, labels)
    return summed(direction, kind, len(folds[0][0]), len(held) if direction == "forward" else len(pairs), [found])


def _folds(n: int, seed: int, held_out: int | None = None) -> list[tuple[Rows, Rows]]:
    """(fitted on, held out), ascending rows."""
    order = np.random.default_rng([seed, 0]).permutation(n).astype(np.int64)
    folded = held_out is None and n <= _FOLDED
    outs = np.array_split(order, _FOLDS) if folded else [order[: held_out or _HELD_OUT]]
    return [(np.sort(np.setdiff1d(order, out)), np.sort(out)) for out in outs]


__all__ = ["Fitted", "Found", "Pairs", "check_kinds", "fit_direction", "fit_map", "microseconds", "nearest"]
