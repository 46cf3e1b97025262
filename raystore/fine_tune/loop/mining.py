"""What the model as it is says of the classes: their middles, and which of them it confuses.

Cost: a forward pass over a sample of train, spread over the workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raystore.fine_tune.batches.mine import confused_classes, hard_negatives
from raystore.fine_tune.loop.evaluate import embed_all, sampled
from raystore.fine_tune.loop.group import Group
from raystore.fine_tune.loop.learns import Embeds
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.examples.types import Examples

_MEAN_ROWS = 8  # of a class


def confused(model: Embeds, data: Examples, recipe: Recipe, micro: Micro, group: Group) -> npt.NDArray[np.int64] | None:
    """(c, m) the classes each class is confused with, worst first, on a sample of train; None where there is nothing to confuse.

    Of pairs each row may be its own class: then it is the rows nearest to each sampled row, by their first parts; -1 for others.
    """
    if len(data.classes) == 1:
        return None
    rows = sampled(len(data), 4 * recipe.evaluate_rows, recipe.seed)
    vectors = embed_all(model, data.views[0].take(rows), micro, group)
    most = max(1, round(recipe.classes_per_batch * recipe.hard_classes))
    if data.classes:
        return confused_classes(vectors, data.labels[rows], most, n_classes=len(data.classes))
    codes = data.labels[rows]
    near = hard_negatives(vectors, codes, most)
    found = np.full((int(data.labels.max(initial=-1)) + 1, most), -1, dtype=np.int64)
    found[codes] = np.where(near >= 0, codes[near], -1)
    return found


def class_means(model: Embeds, data: Examples, recipe: Recipe, micro: Micro, group: Group) -> Tensor:
    """(c, d) float32 sums of a few rows of each class: where class vectors begin. Zeros for a class without rows."""
    import torch

    labels = data.labels
    order = np.random.default_rng(recipe.seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    first = np.searchsorted(labels[order], labels[order], side="left")
    rows = order[(np.arange(len(order)) - first < _MEAN_ROWS) & (labels[order] >= 0)]
    vectors = embed_all(model, data.views[0].take(rows), micro, group)
    n_classes = max(len(data.classes), int(labels.max()) + 1)
    sums = np.zeros((n_classes, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, labels[rows], vectors)
    return torch.from_numpy(sums)
