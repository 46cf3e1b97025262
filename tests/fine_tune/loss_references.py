"""Losses by hand: float64 loops that follow the papers' sums literally. (n,) terms, NaN where a row has none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Rows = list[list[int]]


def mates(labels: Array, i: int) -> list[int]:
    return [j for j in range(len(labels)) if j != i and labels[j] == labels[i] and labels[i] >= 0]


def strangers(labels: Array, i: int) -> list[int]:
    return [j for j in range(len(labels)) if labels[j] != labels[i] and labels[j] >= 0 and labels[i] >= 0]


def per_row(term: Callable[[Array, list[int], list[int]], float], needs_strangers: bool) -> Callable[[Array, Array], Array]:
    """Terms of all rows from `term(cosines of the row, its class-mates, its strangers)`."""

    def terms(rows: Array, labels: Array) -> Array:
        cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
        out = np.full(len(rows), np.nan)
        for i in range(len(rows)):
            near, far = mates(labels, i), strangers(labels, i)
            if near and (far or not needs_strangers):
                out[i] = term(cosines[i], near, far)
        return out

    return terms


def supcon(temperature: float) -> Callable[[Array, Array], Array]:
    def term(s: Array, near: list[int], far: list[int]) -> float:
        total = sum(math.exp(s[a] / temperature) for a in near + far)
        return -sum(math.log(math.exp(s[p] / temperature) / total) for p in near) / len(near)

    return per_row(term, False)


def supcon_in(temperature: float) -> Callable[[Array, Array], Array]:
    def term(s: Array, near: list[int], far: list[int]) -> float:
        total = sum(math.exp(s[a] / temperature) for a in near + far)
        return -math.log(sum(math.exp(s[p] / temperature) / total for p in near) / len(near))

    return per_row(term, False)


def batch_hard(margin: float) -> Callable[[Array, Array], Array]:
    def term(s: Array, near: list[int], far: list[int]) -> float:
        return max(0.0, margin + max(1 - s[p] for p in near) - min(1 - s[a] for a in far))

    return per_row(term, True)


def semi_hard(margin: float) -> Callable[[Array, Array], Array]:
    def term(s: Array, near: list[int], far: list[int]) -> float:
        terms = []
        for p in near:
            farther = [1 - s[a] for a in far if 1 - s[a] > 1 - s[p]]
            negative = min(farther) if farther else max(1 - s[a] for a in far)
            terms.append(max(0.0, (1 - s[p]) - negative + margin))
        return sum(terms) / len(terms)

    return per_row(term, True)


def multi_similarity(s: Array, near: list[int], far: list[int]) -> float:
    kept_near = [p for p in near if s[p] < max(s[a] for a in far) + 0.1]
    kept_far = [a for a in far if s[a] > min(s[p] for p in near) - 0.1]
    pull = math.log(1 + sum(math.exp(-2 * (s[p] - 0.5)) for p in kept_near)) / 2
    return pull + math.log(1 + sum(math.exp(50 * (s[a] - 0.5)) for a in kept_far)) / 50


def pair_softmax(rows: Array, labels: Array, sides: Array, temperature: float) -> Array:
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    out = np.full(len(rows), np.nan)
    for i in range(len(rows)):
        across = [j for j in range(len(rows)) if sides[j] != sides[i]]
        partners = [j for j in across if labels[j] == labels[i]]
        if partners:
            total = sum(math.exp(cosines[i, j] / temperature) for j in across)
            out[i] = -sum(math.log(math.exp(cosines[i, j] / temperature) / total) for j in partners) / len(partners)
    return out


def proxy_anchor(rows: Array, labels: Array, vectors: Array, margin: float, scale: float) -> float:
    s = rows.astype(np.float64) @ vectors.T.astype(np.float64)
    n, c = s.shape
    present = sorted(set(labels.tolist()))
    pull = [math.log(1 + sum(math.exp(-scale * (s[i, k] - margin)) for i in range(n) if labels[i] == k)) for k in present]
    push = [math.log(1 + sum(math.exp(scale * (s[i, k] + margin)) for i in range(n) if labels[i] != k)) for k in range(c)]
    return sum(pull) / len(pull) + sum(push) / c


def arcface(rows: Array, labels: Array, vectors: Array, margin: float, scale: float) -> Array:
    s = np.clip(rows.astype(np.float64) @ vectors.T.astype(np.float64), -1, 1)
    out = np.empty(len(rows))
    for i, own in enumerate(labels):
        angle = math.acos(s[i, own])
        target = math.cos(angle + margin) if angle + margin < math.pi else s[i, own] - margin * math.sin(margin)
        others = sum(math.exp(scale * s[i, k]) for k in range(s.shape[1]) if k != own)
        out[i] = -math.log(math.exp(scale * target) / (math.exp(scale * target) + others))
    return out
