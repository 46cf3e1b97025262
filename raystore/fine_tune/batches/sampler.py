"""P classes with K rows each, by (seed, step) alone: every worker makes the same batch without asking another.

A class's rows come as shuffled passes, so each is drawn once before any is drawn again. No state is needed to go on after a
kill, but for what `confuse` was told. Memory: a few integers a row and class, never n x n; 100,000 rows of 41 classes give a
batch of 64 in some 0.2 ms. Knows no content, model or worker.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from raystore.errors import InvalidArguments
from raystore.fine_tune.batches.batch import Batch, IntArray
from raystore.fine_tune.batches.order import confused_together, siblings_together
from raystore.fine_tune.batches.rounds import Rounds
from raystore.fine_tune.recipe import Recipe


class Shape(NamedTuple):
    """`classes` P, `per_class` K, and `copies`: how often each drawn row stands in the batch. `notes`: how it differs from what
    the recipe says, and why, as sentences."""

    classes: int
    per_class: int
    copies: int
    notes: tuple[str, ...] = ()


class Sampler:
    """Batches of labelled rows. `batch_rows` long, each; `steps_per_epoch` of them draw about as many rows as there are."""

    def __init__(
        self,
        labels: IntArray,
        shape: Shape,
        *,
        seed: int,
        balanced: bool = True,
        sided: bool = False,
        parents: IntArray | None = None,
        hard_classes: float = 0.0,
    ) -> None:
        known = np.flatnonzero(labels >= 0)
        self._rows = known[np.argsort(labels[known], kind="stable")]  # (n,) rows, class by class
        self._sizes = np.bincount(labels[known])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._shape, self._seed, self._sided = shape, seed, sided
        self._parents, self._hard = parents, hard_classes
        self._told: dict[int, list[list[int]]] = {}  # from which round on -> the neighbours of each class
        self._passes: dict[int, tuple[int, IntArray]] = {}
        classes = np.flatnonzero(self._sizes)
        counts = np.ones(len(classes), np.int64) if balanced else -(-self._sizes[classes] // shape.per_class)
        apart = shape.classes if balanced else 0
        self._rounds = Rounds(classes, counts, apart=apart, seed=seed, arrange=self._arrange)
        self.notes = shape.notes
        self.batch_rows = shape.classes * shape.per_class * shape.copies
        self.steps_per_epoch = -(-len(known) // (shape.classes * shape.per_class))

    def batch(self, step: int) -> Batch:
        """The rows of that step, from 0: class after class, and where each row stands twice, all once and then all again in the
        same order. The same on every worker and in every order of asking."""
        P, K = self._shape.classes, self._shape.per_class
        drawn = self._rounds.at(step * P, P)
        sizes = self._sizes[drawn.classes]
        draws = drawn.turns[:, None] * K + np.arange(K)  # (P, K) how many rows of its class were drawn before
        places = draws % sizes[:, None]
        for i in np.flatnonzero(sizes > 1):
            places[i] = self._pass(int(drawn.classes[i]), int(draws[i, 0]))[places[i]]
        rows = self._rows[self._starts[drawn.classes][:, None] + places].ravel()
        labels = np.repeat(drawn.classes, K)
        copies = self._shape.copies
        sides = np.repeat(np.arange(copies), len(rows)) if self._sided else None
        return Batch(np.tile(rows, copies), np.tile(labels, copies), sides)

    def confuse(self, neighbours: IntArray, step: int = 0) -> None:
        """From the first round of classes that begins at `step` or later, a class brings along those it is confused with: together
        they are the recipe's `hard_classes` of each batch. `neighbours` (c, m): the codes for each class, most confused first.
        """
        begin = -(-step * self._shape.classes // self._rounds.length)
        self._told[begin] = neighbours.tolist()
        self._rounds.forget(begin)

    def state(self) -> dict[str, IntArray]:
        """All that `confuse` was told, for a checkpoint; empty where it never was."""
        return {f"confused_{begin}": np.array(told, dtype=np.int64) for begin, told in self._told.items()}

    def load_state(self, state: dict[str, IntArray]) -> None:
        """Go on as the sampler whose state it was."""
        self._told = {int(name.removeprefix("confused_")): told.tolist() for name, told in state.items()}
        self._rounds.forget(0)

    def _pass(self, code: int, drawn: int) -> IntArray:
        """(n_c,) the order of a class's rows when `drawn` of them were drawn before.

        It stays for as many passes as it takes to end one with a batch: a stretch of K <= n_c over the end of one pass and the
        beginning of the next then still holds no row twice.
        """
        size = int(self._sizes[code])
        number = drawn // math.lcm(size, self._shape.per_class)
        kept = self._passes.get(code)
        if kept is None or kept[0] != number:
            order = np.random.default_rng([self._seed, 1, code, number]).permutation(size)
            self._passes[code] = kept = (number, order)
        return kept[1]

    def _arrange(self, entries: IntArray, number: int, chance: np.random.Generator) -> IntArray:
        if self._parents is not None:
            entries = siblings_together(entries, self._parents, chance)
        told = max((begin for begin in self._told if begin <= number), default=None)
        if told is not None and self._hard:
            entries = confused_together(entries, self._told[told], self._hard)
        return entries


def make_sampler(labels: IntArray, recipe: Recipe, *, parents: IntArray | None = None, n_views: int = 1) -> Sampler:
    """The batches of a recipe over rows labelled `labels`.

    Args:
        labels: (n,) int64 codes; rows labelled -1 are never drawn, unless all are: then `make_unlabelled_sampler` it is.
        parents: (c,) the parent of each class; classes of one parent then stand together for about half of each batch.
        n_views: 2 for pairs: each row stands in the batch as both its parts, first all of side 0, then all of side 1. The
            recipe's `views` is of rows with one part.

    `balanced` draws classes equally often, P different ones a batch; otherwise as often as their rows, and one may come
    twice. A class of fewer than K rows repeats them. Where there are fewer than P classes, each brings more rows, so that a batch
    stays as large; where no class has K rows, K is what the largest has. The sampler's `notes` say so.

    Raises:
        InvalidArguments: there is no row.
    """
    if not (labels >= 0).any():
        return make_unlabelled_sampler(len(labels), recipe, n_views=n_views)
    sizes = np.bincount(labels[labels >= 0])
    shape = _shape(recipe, sizes[sizes > 0], n_views)
    return Sampler(
        labels, shape, seed=recipe.seed, balanced=recipe.balanced, sided=n_views == 2, parents=parents,
        hard_classes=recipe.hard_classes,
    )  # fmt: skip


def make_unlabelled_sampler(n: int, recipe: Recipe, *, n_views: int = 1) -> Sampler:
    """Every row twice in its batch and its own class, so that it finds itself among strangers; each once before any again.

    Raises:
        InvalidArguments: there is no row.
    """
    if not n:
        raise InvalidArguments(call="fine_tune", problems=["there is no row to train on"])
    shape = Shape(min(n, max(2, recipe.batch_rows // 2)), 1, 2)
    return Sampler(np.arange(n, dtype=np.int64), shape, seed=recipe.seed, sided=n_views == 2)


def _shape(recipe: Recipe, sizes: IntArray, n_views: int) -> Shape:
    P, K, copies = recipe.classes_per_batch, recipe.per_class, 2 if n_views == 2 else recipe.views
    rows, notes = P * K, []
    largest = int(sizes.max())
    if largest < K:
        K, P = largest, rows // largest
    if largest == 1 and copies == 1:
        copies = 2
        notes.append("every class has one row, so each row stands twice in its batch")
    elif 1 < largest < recipe.per_class:
        notes.append(f"no class has more than {largest} rows, so a batch holds {K} of each instead of {recipe.per_class}")
    if len(sizes) < P:
        P = len(sizes)
        K = max(K, min(rows // P, int(sizes.sum()) // P))
        notes.append(f"there are {P} classes, so a batch holds {K} rows of each")
    return Shape(P, K, copies, tuple(notes))
